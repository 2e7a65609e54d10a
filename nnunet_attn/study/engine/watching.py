"""How the jobs of a running study go, from the notes that they write and from what Snakemake prints."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nnunet_attn.study.engine.errors import last_lines
from nnunet_attn.study.engine.job import Note, note_file, read_note
from nnunet_attn.study.engine.jobs import Job
from nnunet_attn.study.engine.markers import marker_file
from nnunet_attn.study.folder import log_file

LAST_LINES = 12

_FAILED = re.compile(r"^Error in rule .*?^\s+output: \S*?/?([^/\s]+)\.json", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Failure:
    """A job that failed.

    Args:
        job: The job.
        message: Why, in one line.
        log: Its log.
        last_lines: Of the log.
    """

    job: Job
    message: str
    log: Path
    last_lines: tuple[str, ...]


@dataclass(frozen=True)
class Event:
    """A job has started, is done, or has failed.

    Args:
        stage: Which of these.
        job: The job.
        seconds: It took; None where it has just started.
        failure: If it failed.
        finished: Jobs that are done by now.
        total: All jobs of this run.
    """

    stage: Literal["started", "done", "failed"]
    job: Job
    seconds: float | None
    failure: Failure | None
    finished: int
    total: int


@dataclass
class _Seen:
    stage: str = ""
    stamp: int = -1
    note: Note | None = None


@dataclass
class Watch:
    """Looks at the jobs of one run.

    Args:
        folder: The study's folder.
        jobs: The jobs of this run.
        show: Called with what has changed.
    """

    folder: Path
    jobs: Sequence[Job]
    show: Callable[[Event], None]
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _engine_log: Path | None = None
    _read: int = 0
    _rest: str = ""

    def __post_init__(self) -> None:
        self._seen = {job.name: _Seen() for job in self.jobs}
        self._by_name = {job.name: job for job in self.jobs}

    def follow(self, log: Path) -> None:
        """Read what Snakemake prints from now on into this file."""
        self._engine_log, self._read, self._rest = log, log.stat().st_size, ""

    def look(self) -> None:
        """Look once, and show what has changed."""
        for name in self._changed():
            note = read_note(self.folder, name)
            if note is not None:
                self._seen[name].note = note
                self._tell(name, note)
        for name in self._killed():
            self._seen[name].stage = "failed"
            self._show("failed", name, None)

    def done(self) -> tuple[Job, ...]:
        """Return the jobs that are done."""
        return tuple(job for job in self.jobs if marker_file(self.folder, job.name).exists())

    def failed(self) -> tuple[Failure, ...]:
        """Return the jobs that started and are not done, once Snakemake has ended."""
        started = (job for job in self.jobs if self._seen[job.name].stage)
        return tuple(self.failure(job) for job in started if not marker_file(self.folder, job.name).exists())

    def left(self) -> tuple[Job, ...]:
        """Return the jobs that did not start."""
        return tuple(
            job
            for job in self.jobs
            if not self._seen[job.name].stage and not marker_file(self.folder, job.name).exists()
        )

    def failure(self, job: Job) -> Failure:
        """Return what is known of a job that failed."""
        log = log_file(self.folder, job.name)
        note = read_note(self.folder, job.name)
        message = "killed" if note is None or note.stage in ("started", "done") else note.message or note.stage
        return Failure(job, message, log, last_lines(log, LAST_LINES))

    def _changed(self) -> list[str]:
        found: list[tuple[int, str]] = []  # in the order in which they were written
        with suppress(FileNotFoundError), os.scandir(note_file(self.folder, "-").parent) as entries:
            for entry in entries:
                name = entry.name.removesuffix(".json")
                seen = self._seen.get(name)
                if seen is None:
                    continue
                with suppress(FileNotFoundError):
                    stamp = entry.stat().st_mtime_ns
                    if stamp != seen.stamp:
                        seen.stamp = stamp
                        found.append((stamp, name))
        return [name for _, name in sorted(found)]

    def _tell(self, name: str, note: Note) -> None:
        seen = self._seen[name]
        if note.stage == "started" or not seen.stage:
            seen.stage = "started"
            self._show("started", name, None)
        if note.stage == "done":
            seen.stage = "done"
            self._show("done", name, note)
        elif note.stage == "failed":
            seen.stage = "failed"
            self._show("failed", name, note)

    def _show(self, stage: Literal["started", "done", "failed"], name: str, note: Note | None) -> None:
        job = self._by_name[name]
        seconds = None if note is None or note.ended is None else note.ended - note.began
        failure = self.failure(job) if stage == "failed" else None
        finished = sum(seen.stage == "done" for seen in self._seen.values())
        self.show(Event(stage, job, seconds, failure, finished, len(self.jobs)))

    def _killed(self) -> list[str]:
        """Jobs that Snakemake calls failed and that could not say so themselves."""
        if self._engine_log is None:
            return []
        with self._engine_log.open("rb") as log:
            log.seek(self._read)
            text = log.read()
            self._read += len(text)
        self._rest += text.decode("utf-8", "replace")
        names = []
        while match := _FAILED.search(self._rest):
            names.append(match[1])
            self._rest = self._rest[match.end() :]
        self._rest = self._rest[-10_000:]
        return [name for name in names if name in self._seen and self._seen[name].stage not in ("failed", "done")]
