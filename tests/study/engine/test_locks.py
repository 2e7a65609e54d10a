"""Lock files, held by this process, by others that really live and die, and by some that never were."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_attn.study.engine import locks
from nnunet_attn.study.engine.locks import Lock, claimed, end_remains, holder_lives, own_lock, read_lock, release

Script = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def script() -> Iterator[Script]:
    """Start Python scripts in sessions of their own; those that still run at the end are killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
        words = [sys.executable, "-c", code, *map(str, arguments)]
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


CLAIM = """
import sys
from pathlib import Path
from nnunet_attn.study.engine.locks import claimed
sys.stdin.readline()
for file in sys.argv[1:]:
    print(int(claimed(Path(file))), flush=True)
sys.stdin.readline()
"""


def _write(file: Path, **content: object) -> Lock:
    file.write_text(json.dumps(content))
    lock = read_lock(file)
    assert lock is not None
    return lock


def _ended(script: Script) -> int:
    """The number of a process that is gone."""
    process = script("")
    process.communicate()
    return process.pid


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "lock.json"
    assert read_lock(file) is None
    assert claimed(file)
    assert read_lock(file) == own_lock(file)
    content = json.loads(file.read_text())
    assert (content["pid"], content["host"]) == (os.getpid(), socket.gethostname())
    assert holder_lives(own_lock(file)) is True
    assert claimed(file)  # it is held already
    assert [path.name for path in tmp_path.iterdir()] == ["lock.json"]
    release(file)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_the_start_is_counted_from_the_boot_which_no_clock_changes(tmp_path: Path) -> None:
    lock = own_lock(tmp_path / "lock.json")
    assert lock.boot is not None
    assert lock.started is not None
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 < uptime - lock.started < uptime


@pytest.mark.parametrize("changed", [{"started": 1.0}, {"boot": "another"}])
def test_a_process_of_the_same_number_is_another_one(tmp_path: Path, changed: dict[str, object]) -> None:
    lock = own_lock(tmp_path / "lock.json")
    if lock.boot is None:
        pytest.skip("needs Linux's /proc")
    assert holder_lives(replace(lock, **changed)) is False


def test_a_lock_with_a_number_alone_goes_by_the_number(tmp_path: Path, script: Script) -> None:
    host = socket.gethostname()
    assert holder_lives(_write(tmp_path / "lock.json", pid=os.getpid(), host=host)) is True
    assert holder_lives(_write(tmp_path / "lock.json", pid=_ended(script), host=host)) is False
    assert holder_lives(_write(tmp_path / "lock.json", pid=0, host=host)) is False


def test_start_times_by_the_clock_may_differ_a_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")
    monkeypatch.setattr(locks, "_PROC", tmp_path)  # as where there is no /proc
    lock = own_lock(tmp_path / "lock.json")
    assert lock.boot is None
    assert lock.started is not None
    assert lock.started == psutil.Process().create_time()
    assert holder_lives(replace(lock, started=lock.started + 1)) is True
    assert holder_lives(replace(lock, started=lock.started - 60)) is False


def test_a_zombie_is_dead(tmp_path: Path, script: Script) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs Linux's /proc")
    process = script("")
    lock = _write(tmp_path / "lock.json", pid=process.pid, host=socket.gethostname())
    stat = Path(f"/proc/{process.pid}/stat")
    deadline = time.monotonic() + 20
    while ") Z " not in stat.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert holder_lives(lock) is False


def _squeue(folder: Path, code: str) -> None:
    file = folder / "squeue"
    file.write_text(f"#!/bin/sh\n{code}\n")
    file.chmod(0o755)


def test_another_host_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert holder_lives(_write(tmp_path / "lock.json", pid=1, host="far")) is None
    assert holder_lives(_write(tmp_path / "lock.json", pid=1, host="far", slurm_job="77")) is None


@pytest.mark.parametrize(
    ("code", "lives"),
    [
        ("echo RUNNING 1", True),
        ("echo COMPLETING 1", True),
        ("echo PENDING 1", False),
        ("echo COMPLETED 1", False),
        ("echo RUNNING 2", False),
        ("true", False),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", None),
        ("exec /bin/sleep 30", None),
    ],
)
def test_slurm_knows_a_job_on_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, lives: bool | None
) -> None:
    _squeue(tmp_path, code)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(locks, "_SQUEUE_SECONDS", 1.0)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    lock = _write(tmp_path / "lock.json", pid=1, host="far", slurm_job="77", slurm_restart=1)
    assert holder_lives(lock) is lives
    assert holder_lives(lock, ask_slurm=False) is None


def test_this_job_before_it_was_requeued_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = _write(tmp_path / "lock.json", pid=1, host="far", slurm_job="77", slurm_restart=0)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert holder_lives(lock) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert holder_lives(lock) is False
    assert own_lock(tmp_path / "lock.json").slurm_restart == 1


def test_only_the_dead_lose_a_lock(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    file, host = tmp_path / "lock.json", socket.gethostname()
    living = script("input()")
    _write(file, pid=living.pid, host=host)
    assert not claimed(file)
    far = _write(file, pid=1, host="far")
    assert not claimed(file)
    assert not claimed(file, stale=own_lock(file).identity)
    assert claimed(file, stale=far.identity)
    _write(file, pid=_ended(script), host=host)
    assert claimed(file)
    assert read_lock(file) == own_lock(file)


def test_of_many_that_claim_dead_locks_at_once_each_has_one_holder(tmp_path: Path, script: Script) -> None:
    dead, files = _ended(script), [tmp_path / f"{number}.json" for number in range(40)]
    for file in files[::2]:  # the others are not held at all
        _write(file, pid=dead, host=socket.gethostname())
    processes = [script(CLAIM, *files) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    won: list[list[int]] = []
    for process in processes:  # all live until all have tried
        assert process.stdout is not None
        won.append([int(process.stdout.readline()) for _ in files])
    assert [sum(each) for each in zip(*won, strict=True)] == [1] * len(files)
    for index, file in enumerate(files):
        (winner,) = [process.pid for process, each in zip(processes, won, strict=True) if each[index]]
        lock = read_lock(file)
        assert lock is not None
        assert lock.pid == winner


def test_without_guarded_files_the_last_one_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    monkeypatch.setattr(locks.os, "link", refuse)
    file = tmp_path / "lock.json"
    stale = _write(file, pid=1, host="far").identity

    def replaced_by_another(_: float) -> None:
        _write(file, pid=2, host="far")

    monkeypatch.setattr(locks.time, "sleep", replaced_by_another)
    assert not claimed(file, stale)
    file.unlink()
    assert claimed(file)
    assert read_lock(file) == own_lock(file)


def test_half_a_lock_is_left_alone_for_a_minute(tmp_path: Path) -> None:
    file = tmp_path / "lock.json"
    for content in ("", "[1]", '{"pid": "x"}', '{"host": "far"}'):
        file.write_text(content)
        assert read_lock(file) is None
        assert not claimed(file)
    os.utime(file, (1e9, 1e9))
    assert claimed(file)


def test_a_lock_goes_over_from_parent_to_child(tmp_path: Path, script: Script) -> None:
    file = tmp_path / "lock.json"
    assert claimed(file)
    code = "import sys; from pathlib import Path; from nnunet_attn.study.engine.locks import claimed\n"
    code += "file = Path(sys.argv[1]); print(claimed(file), claimed(file, from_parent=True), flush=True); input()"
    child = script(code, file)
    assert child.stdout is not None
    assert child.stdout.readline().split() == ["False", "True"]
    release(file)
    release(file, child.pid)  # it lives
    held = read_lock(file)
    assert held is not None
    assert held.pid == child.pid
    child.communicate("\n")
    release(file, child.pid)
    assert not file.exists()


FAMILY = """
import os, sys, time
from pathlib import Path
from nnunet_attn.study.engine.locks import claimed
assert claimed(Path(sys.argv[1]))
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("changed", [{}, {"own_session": False}, {"started": 1e12}, {"boot": "another"}])
def test_remains_of_a_killed_training_are_ended_if_they_are_surely_its_own(
    tmp_path: Path, script: Script, changed: dict[str, object]
) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs Linux's /proc")
    file = tmp_path / "lock.json"
    leader = script(FAMILY, file)
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    lock = read_lock(file)
    assert lock is not None
    assert lock.own_session
    os.kill(leader.pid, signal.SIGKILL)
    leader.wait()
    assert holder_lives(lock) is False
    try:
        is_own = not changed
        assert end_remains(replace(lock, **changed)) == int(is_own)
        deadline = time.monotonic() + 5
        while is_own and locks._stat(child) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (locks._stat(child) is None) == is_own
        assert claimed(file)
        deadline = time.monotonic() + 5
        while locks._stat(child) is not None:  # who clears the lock ends them, too
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        if locks._stat(child) is not None:
            os.kill(child, signal.SIGKILL)
