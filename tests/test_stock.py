"""Commands run to their end or are ended with everything that they started."""

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_attn import stock
from nnunet_attn.errors import InputError
from nnunet_attn.stock import StockCommandError, executable, run_stock

posix = pytest.mark.skipif(os.name != "posix", reason="needs process groups")

# starts a grandchild as nnU-Net starts workers: it holds the pipe open, and may be deaf to SIGTERM
PARENT = """
import os, subprocess, sys, time
deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if "deaf" in sys.argv else ""
code = deaf + "import time; print('ready', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> str:
    """A command that is there everywhere, in place of a stock one."""
    monkeypatch.setattr(stock, "executable", lambda command: sys.executable)
    return "python"


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")  # a zombie that nobody waits for has ended all the same
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def raising(error: type[BaseException], seen: list[int]) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        seen.append(int(line))
        raise error

    return on_line


@posix
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_ends_the_command_and_its_grandchildren(
    python: str, tmp_path: Path, error: type[BaseException]
) -> None:
    seen: list[int] = []
    log = tmp_path / "log.txt"
    begin = time.monotonic()
    with pytest.raises(error):
        run_stock(python, ["-c", PARENT], os.environ, log, raising(error, seen))
    assert time.monotonic() - begin < 40, "nothing was waited for to its end"
    assert len(seen) == 1 and ends(seen[0])
    assert log.read_text() == f"{seen[0]}\n"


@posix
def test_a_grandchild_that_is_deaf_to_sigterm_is_killed(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "_GRACE_SECONDS", 0.3)
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_stock(python, ["-c", PARENT, "deaf"], os.environ, on_line=raising(KeyboardInterrupt, seen))
    assert ends(seen[0])


def test_output_goes_to_caller_log_and_display(python: str, tmp_path: Path) -> None:
    shown: list[str] = []
    words = ["-c", "import sys; print('one'); print('two', file=sys.stderr)"]
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    assert run_stock(python, words, os.environ, log, shown.append) == "one\ntwo"
    assert shown == ["one", "two"]
    assert log.read_text() == "before\none\ntwo\n"


def test_a_failure_says_command_code_and_last_lines(python: str) -> None:
    words = ["-c", "print('reason'); raise SystemExit(3)"]
    with pytest.raises(StockCommandError) as caught:
        run_stock(python, words, os.environ)
    assert str(caught.value) == f"{shlex.join(['python', *words])}\nended with exit code 3:\nreason"


def test_a_missing_command_is_named() -> None:
    with pytest.raises(InputError, match="'nnUNetv2_dance' not found; install"):
        executable("nnUNetv2_dance")
