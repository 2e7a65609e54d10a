"""Runs a command to its end, with its output in a log file, in a session of its own that gets the signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from nnunet_attn.study.engine.locked_exec import HELD, STALE
from nnunet_attn.study.engine.locks import release

GRACE_SECONDS = 30.0
"""From a forwarded signal to SIGKILL."""

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_SECONDS = 0.1
_GONE_SECONDS = 5.0  # for killed processes to go; where no init collects them they stay as zombies


def run_logged(
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    locks: Sequence[Path] = (),
    stale: str | None = None,
    kept: Sequence[Path] = (),
) -> int:
    """Run a command and return its exit code, minus a signal's number if that ended it.

    SIGINT, SIGTERM and SIGHUP to this process go to all processes of the command, and SIGKILL 30 s later. At the end
    none of them is left, and the signal does what it would have done without this function, for example raises
    KeyboardInterrupt. If this process is killed, the command lives on, with its locks and its log.

    Args:
        words: Program and arguments.
        log: File to which all output is appended; its folder is made.
        environment: What differs from this process's environment.
        locks: Lock files that the command holds as long as it lives. Those that this process holds go over to it.
        stale: `Lock.identity` of a holder that counts as dead though nobody can tell.
        kept: Those of the locks that stay, and tell of a dead process, if the command does not end well.
    Returns:
        `locked_exec.HELD` if another process holds one of the locks; then the command was not started.
    """
    if locks:
        given = [*map(str, locks), *([] if stale is None else [STALE + stale])]
        words = [sys.executable, "-m", "nnunet_attn.study.engine.locked_exec", *given, "--", *words]
    log.parent.mkdir(parents=True, exist_ok=True)
    received: list[int] = []
    with _received(received):
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(words),
                env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        code = 1  # where the wait itself is broken off
        try:
            code = _waited(process, received)
        finally:
            _end_group(process)
            for lock in locks:
                if code in (0, HELD) or lock not in kept:
                    release(lock, process.pid)
    if received:
        signal.raise_signal(received[0])
    return code


def ended_badly(code: int) -> str:
    """Return how a command ended, from an exit code of `run_logged` that is not 0."""
    if code > 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # not all signals have names
        name = f"signal {-code}"
    return f"was ended by {name}" + (", as where memory runs out" if -code == signal.SIGKILL else "")


def note(log: Path, text: str) -> None:
    """Append a line of our own to a log, with the time."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"nnunet-attn, {time.strftime('%Y-%m-%d %H:%M:%S')}: {text}\n")


@contextmanager
def _received(received: list[int]) -> Iterator[None]:
    """Note signals in place of being ended by them; in the main thread, where Python lets signals be handled."""

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = [number for number in _FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup does
    before = {number: signal.signal(number, handle) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _waited(process: subprocess.Popen[bytes], received: list[int]) -> int:
    forwarded = 0
    deadline: float | None = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL_SECONDS)
        while forwarded < len(received):
            _signal_group(process, received[forwarded])
            forwarded += 1
            deadline = deadline or time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            _signal_group(process, signal.SIGKILL)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the command running."""
    deadline = time.monotonic() + _GONE_SECONDS
    while _signal_group(process, signal.SIGKILL) and time.monotonic() < deadline:
        process.poll()  # an ended leader counts as running until it is waited for
        time.sleep(0.01)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Signal all processes of the group; returns whether there were any."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM where only ended processes are left
        return False
    return True
