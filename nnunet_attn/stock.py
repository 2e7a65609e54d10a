"""Runs stock nnU-Net commands as child processes, as a user would type them."""

import shlex
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nnunet_attn.errors import InputError


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
        with subprocess.Popen(
            words,
            env=dict(environment, PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
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
            except BaseException:
                process.kill()
                raise
    finally:
        if log is not None:
            log.close()
    if process.returncode != 0:
        typed = shlex.join([command, *words[1:]])
        raise StockCommandError(f"{typed}\nended with exit code {process.returncode}:\n" + "\n".join(tail))
    return "\n".join(lines)
