"""Commands with a log and locks: what reaches them, what is left of them, and what outlives a killed parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nnunet_attn.study.engine import processes
from nnunet_attn.study.engine.locked_exec import HELD
from nnunet_attn.study.engine.locks import claimed, holder_lives, own_lock, read_lock
from nnunet_attn.study.engine.processes import ended_badly, note, run_logged

PYTHON = (sys.executable, "-c")

RUN = """
import signal, sys
from pathlib import Path
from nnunet_attn.study.engine.processes import run_logged
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run under nohup or in the background
signal.signal(signal.SIGINT, signal.default_int_handler)
log, lock, *words = sys.argv[1:]
sys.exit(run_logged(words, Path(log), {}, [Path(lock)]))
"""
"""A job that runs a command with a lock."""

FAMILY = """
import os, signal, sys, time
if os.fork() == 0:
    time.sleep(600)
print(os.getpid(), flush=True)
for number in range(6000):
    time.sleep(0.1)
    print("step", number, flush=True)
"""
"""A training with a worker, whose log grows."""


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _group_lives(number: int) -> bool:
    """Whether any process of a group is left that is no zombie."""
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                words = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[2]) == number and words[0] not in "ZX":
                return True
    return False


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (3, "ended with exit code 3"),
        (-signal.SIGTERM, "was ended by SIGTERM"),
        (-signal.SIGKILL, "was ended by SIGKILL, as where memory runs out"),
        (-63, "was ended by signal 63"),
    ],
)
def test_how_a_command_ended(code: int, told: str) -> None:
    assert ended_badly(code) == told


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "job.txt"


@pytest.fixture
def job(tmp_path: Path, log: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start jobs; what they leave is killed at the end."""
    lock = tmp_path / "fold_0" / "lock.json"
    jobs: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> "subprocess.Popen[bytes]":
        jobs.append(subprocess.Popen([*PYTHON, RUN, str(log), str(lock), *words], start_new_session=True))
        _until(lambda: log.exists() and b"\n" in log.read_bytes())
        return jobs[-1]

    yield start
    for process in jobs:
        if process.poll() is None:
            process.kill()
        process.wait()
    held = read_lock(lock)
    if held is not None and held.pid != os.getpid() and holder_lives(held):
        os.killpg(held.pid, signal.SIGKILL)


def test_output_environment_and_code(log: Path) -> None:
    note(log, "begins")
    code = "import os, sys; print(os.environ['MADE']); sys.stderr.write('wrong\\n'); sys.exit(7)"
    assert run_logged([*PYTHON, code], log, {"MADE": "here"}) == 7
    assert run_logged([*PYTHON, "print('again')"], log, {}) == 0
    first, *lines = log.read_text().splitlines()
    assert first.startswith("nnunet-attn, ")
    assert first.endswith(": begins")
    assert lines == ["here", "wrong", "again"]


def test_a_command_that_is_killed_has_the_signals_number(log: Path) -> None:
    assert run_logged([*PYTHON, "import os; os.kill(os.getpid(), 9)"], log, {}) == -signal.SIGKILL


def test_the_command_holds_the_locks_under_its_own_number(tmp_path: Path, log: Path) -> None:
    files = [tmp_path / "fold_0" / "lock.json", tmp_path / "device.json"]
    code = "import os, sys; from nnunet_attn.study.engine.locks import *; from pathlib import Path\n"
    code += "for file in map(Path, sys.argv[1:]): print(read_lock(file) == own_lock(file), os.getsid(0) == os.getpid())"
    assert run_logged([*PYTHON, code, *map(str, files)], log, {}, files) == 0
    assert log.read_text().split() == ["True"] * 4
    assert not any(file.exists() for file in files)


def test_nothing_starts_without_all_locks(tmp_path: Path, log: Path, job: Callable[..., object]) -> None:
    job(*PYTHON, FAMILY)
    free, held = tmp_path / "free.json", tmp_path / "fold_0" / "lock.json"
    other = tmp_path / "other.txt"
    assert run_logged([*PYTHON, "print('started')"], other, {}, [free, held]) == HELD
    assert "started" not in other.read_text()
    assert f"holds {held}" in other.read_text()
    assert not free.exists()


def test_what_this_process_holds_goes_over_and_is_free_at_the_end(tmp_path: Path, log: Path) -> None:
    file = tmp_path / "device.json"
    assert claimed(file)
    assert run_logged([*PYTHON, "print('started')"], log, {}, [file]) == 0
    assert log.read_text() == "started\n"
    assert not file.exists()


def test_a_missing_command_is_a_line_in_the_log(tmp_path: Path, log: Path) -> None:
    assert run_logged(["no-such-command"], log, {}, [tmp_path / "lock.json"]) == 1
    assert "No such file or directory" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_nothing_is_left_of_a_command(log: Path) -> None:
    code = "import os, time\nif os.fork() == 0: time.sleep(600)\nelse: print(os.getpid())"
    assert run_logged([*PYTHON, code], log, {}) == 0
    assert not _group_lives(int(log.read_text()))


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_the_command_and_its_workers(
    tmp_path: Path, log: Path, job: Callable[..., "subprocess.Popen[bytes]"], number: signal.Signals
) -> None:
    process = job(*PYTHON, FAMILY)
    group = int(log.read_text().split()[0])
    assert _group_lives(group)
    process.send_signal(number)
    # the signal does afterwards what it does to any Python process
    assert process.wait(20) == -number
    assert not _group_lives(group)
    assert not (tmp_path / "fold_0" / "lock.json").exists()


@pytest.mark.kill
def test_a_command_that_does_not_obey_is_killed(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    code = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += "os.kill(os.getppid(), signal.SIGTERM)\nprint('ignored', flush=True)\ntime.sleep(600)"
    try:
        assert run_logged([*PYTHON, code], log, {}) == -signal.SIGKILL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    assert log.read_text() == "ignored\n"


def test_a_hang_up_that_is_ignored_stays_ignored(log: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        code = "import os, signal; os.kill(os.getppid(), signal.SIGHUP); print('goes on')"
        assert run_logged([*PYTHON, code], log, {}) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert log.read_text() == "goes on\n"


@pytest.mark.kill
def test_a_command_outlives_its_killed_parent_and_holds_its_lock(
    tmp_path: Path, log: Path, job: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    process, file = job(*PYTHON, FAMILY), tmp_path / "fold_0" / "lock.json"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    lock = read_lock(file)
    assert lock is not None
    assert holder_lives(lock)
    size = log.stat().st_size
    _until(lambda: log.stat().st_size > size)
    assert not claimed(file)
    os.kill(lock.pid, signal.SIGKILL)  # its worker lives on
    _until(lambda: holder_lives(lock) is False)
    assert _group_lives(lock.pid)
    assert claimed(file)
    assert read_lock(file) == own_lock(file)
    _until(lambda: not _group_lives(lock.pid))


def test_a_command_heeds_the_interrupt_that_a_shell_in_the_background_lets_be_ignored() -> None:
    exec_it = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    told = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    command = [sys.executable, "-m", "nnunet_attn.study.engine.locked_exec", "--", *PYTHON, told]
    assert subprocess.check_output([*PYTHON, exec_it, *command], text=True) == "True\n"
    assert subprocess.check_output([*PYTHON, exec_it, *PYTHON, told], text=True) == "False\n"
