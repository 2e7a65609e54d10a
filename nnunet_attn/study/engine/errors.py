"""What is raised when a job of a study fails."""

from pathlib import Path

_LAST_LINES = 25
_TAIL_BYTES = 16384


class JobError(Exception):
    """A job failed; the message says how, in a line or two, and what to do about it.

    Args:
        message: For the user.
        log: File with what the job printed; None if there is none.
    """

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.log = log

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines of the log that are not empty, as it is now; none without a log."""
        return () if self.log is None else last_lines(self.log)


def last_lines(log: Path, count: int = _LAST_LINES) -> tuple[str, ...]:
    """Return the last lines of a text file that are not empty; none if it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    lines = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]
    return tuple(line for line in lines if line)[-count:]
