"""Trainings and other jobs that failed or stopped, with the last lines of their logs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_attn.errors import InputError
from nnunet_attn.study.folder import log_file
from nnunet_attn.study.report.model import ReportData
from nnunet_attn.study.report.words import state_text

if TYPE_CHECKING:
    from nnunet_attn.study.engine.jobs import Job

LAST_LINES = 15
_LAST_BYTES = 20_000


@dataclass(frozen=True)
class Trouble:
    """A training, or another job, that needs someone.

    Args:
        title: Which one.
        kind: Its state.
        text: What nnU-Net's files, or the job's note, tell of it.
        log: Name of the log.
        lines: Its last lines; empty without a log.
    """

    title: str
    kind: str
    text: str
    log: str
    lines: str


def troubles(data: ReportData, folder: Path | None = None) -> list[Trouble]:
    """Return the trainings that failed, stopped, or ended before their first epoch, then other jobs that did.

    Args:
        data: The report's.
        folder: The study's, with a log of each job; None: nnU-Net's own logs alone, and no other jobs.
    """
    jobs = _logs(data, folder) if folder is not None else {}
    found: dict[str, Trouble] = {}
    for each in data.runs:
        run, state = each.run, each.state
        own = jobs.get((run.dataset, run.trainer, run.plans, run.configuration, run.fold))
        log = own if own is not None and own.is_file() else state.log
        if state.kind not in ("failed", "stopped") and not (state.kind == "waiting" and log is not None):
            continue
        title = f"{run.row}, {run.dataset}, {run.configuration}, fold {run.fold}"
        title += f", seed {run.seed}" if run.seed is not None else ""
        kind = "not begun" if state.kind == "waiting" else state.kind
        key = f"{run.dataset} {run.trainer} {run.plans} {run.configuration} {run.fold}"
        lines = "" if log is None else last_lines(log)
        found.setdefault(key, Trouble(title, kind, state_text(state), log.name if log else "", lines))
    return [*found.values(), *(_other_jobs(data, folder) if folder is not None else ())]


def _other_jobs(data: ReportData, folder: Path) -> Iterator[Trouble]:
    """Jobs that are no trainings, such as plans or predictions, whose last try failed or was stopped."""
    from nnunet_attn.study.engine.job import read_note
    from nnunet_attn.study.engine.markers import marker_file

    for job in _jobs(data):
        note = read_note(folder, job.name)
        if job.kind in ("train", "report") or note is None or note.stage not in ("failed", "stopped"):
            continue
        if marker_file(folder, job.name).exists():  # done since, by someone else
            continue
        log = log_file(folder, job.name)
        yield Trouble(f"{job.text[:1].upper()}{job.text[1:]}", note.stage, note.message, log.name, last_lines(log))


def _jobs(data: ReportData) -> Sequence["Job"]:
    """All jobs of the study; none where its data sets or folds are not there."""
    from nnunet_attn.study.engine.jobs import jobs

    try:
        return jobs(data.study)
    except InputError:  # the report says so elsewhere
        return ()


def last_lines(file: Path, count: int = LAST_LINES) -> str:
    """Return the last lines of a text file that say something; empty if it cannot be read."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - _LAST_BYTES))
            text = opened.read().decode("utf-8", "replace")
    except OSError:
        return ""
    # a progress bar writes over its line again and again
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join([line for line in lines if line][-count:])


def _logs(data: ReportData, folder: Path) -> Mapping[tuple[object, ...], Path]:
    """Training -> log of its job."""
    return {
        (job.run.dataset, job.run.trainer, job.run.plans, job.run.configuration, job.run.fold): log_file(
            folder, job.name
        )
        for job in _jobs(data)
        if job.kind == "train" and job.run is not None
    }
