"""Runs stock nnU-Net commands as child processes, as a user would type them."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nnunet_attn.errors import InputError

_GRACE_SECONDS = 5.0  # nnU-Net's workers need well below a second to end


class StockCommandError(RuntimeError):
    """A stock nnU-Net command failed; the message holds the command and the last lines it printed."""


def executable(command: str) -> str:
    """Return the path of a console script of this Python's environment.

    Raises:
        InputError: If the script is neither beside this Python nor on the PATH.
    """
    beside = Path(sys.executable).parent / command
    found = str(beside) if beside.exists() else shutil.which(command)
    if found is None:
        raise InputError(f"command {command!r} not found; install nnU-Net in this environment: pip install nnunetv2")
    return found


def run_stock(
    command: str,
    arguments: Sequence[object],
    environment: Mapping[str, str],
    log_file: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a stock command to its end and return what it printed.

    Whatever interrupts this function, Ctrl-C too, ends the command with all processes that it started.

    Args:
        command: For example `nnUNetv2_train`.
        arguments: Its arguments; each is turned into text.
        environment: The child's whole environment, for example from `nnunet_environment`.
        log_file: File to which the output is appended, line by line.
        on_line: Called with each line as it comes, without its line break; for progress display.
    Raises:
        StockCommandError: If the exit code is not 0.
    """
    words = [executable(command), *map(str, arguments)]
    lines: list[str] = []
    tail: deque[str] = deque(maxlen=25)
    log = log_file.open("a", encoding="utf-8") if log_file is not None else None
    try:
        process = subprocess.Popen(
            words,
            env=dict(environment, PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=os.name == "posix",
        )
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                line = raw.rstrip("\n")
                lines.append(line)
                tail.append(line)
                if log is not None:
                    log.write(raw)
                    log.flush()
                if on_line is not None:
                    on_line(line)
            process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            process.stdout.close()
    finally:
        if log is not None:
            log.close()
    if process.returncode != 0:
        typed = shlex.join([command, *words[1:]])
        raise StockCommandError(f"{typed}\nended with exit code {process.returncode}:\n" + "\n".join(tail))
    return "\n".join(lines)


def _end(process: subprocess.Popen[str]) -> None:
    """End a command and, where there are process groups, its workers: kindly first, by force after the grace period."""
    if os.name != "posix":
        process.terminate()
        process.wait()
        return
    deadline = time.monotonic() + _GRACE_SECONDS
    try:
        running = _signal_group(process, signal.SIGTERM)
        while running and time.monotonic() < deadline:
            time.sleep(0.02)
            process.poll()  # an ended leader counts as running until it is waited for
            running = _signal_group(process, 0)
    finally:  # a second Ctrl-C while waiting must not leave anything behind
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[str], number: int) -> bool:
    """Signal all processes of the session's first group; returns whether there were any."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM where only ended processes are left
        return False
    return True
