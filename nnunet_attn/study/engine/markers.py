"""Which jobs are done, told from nnU-Net's own files; markers are small files that say so to Snakemake.

A marker is never more than a note. Before Snakemake starts, all of them are compared with what is really there: work
that somebody else finished gets one, and one whose work is gone is removed.
"""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_attn.errors import InputError
from nnunet_attn.study.engine.jobs import TRAINED, Job, closure, without
from nnunet_attn.study.folder import MARKERS, preparing_folder
from nnunet_attn.study.matrix import Run, nnunet_folder
from nnunet_attn.study.options import derived_plans, resolved
from nnunet_attn.study.state import LOCK_FILE, read_state

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study

_STUDY, _RESULTS = "study", "results"  # what names of files in a marker begin with


@dataclass(frozen=True)
class Open:
    """A job that has to run.

    Args:
        job: The job; it needs only others that have to run.
        reason: Why it has to, in a few words.
    """

    job: Job
    reason: str


def marker_file(folder: Path, name: str) -> Path:
    """Return the marker of a job."""
    return folder / MARKERS / f"{name}.json"


def begun_file(name: str) -> Path:
    """Return the note that a job has begun to write what cannot be told from whole files; gone when it is done.

    All studies share it, as they share what the job writes.
    """
    return preparing_folder() / f"begun-{name}"


def synchronise(study: "Study", jobs: Sequence[Job], folder: Path, keep: bool = False) -> tuple[Open, ...]:
    """Compare all markers with the files they speak of, and return the jobs that have to run, in an order that works.

    What a finished training was made from need not be there any more: only what an open job needs is open itself.

    Args:
        study: The study.
        jobs: All of its jobs, from `jobs`.
        folder: The study's folder; it need not exist.
        keep: Look only, and change no marker.
    """
    known = {job.name: job for job in jobs}
    reasons: dict[str, str] = {}
    for job in jobs:
        reason = why_open(study, job, folder)
        late = [need for need in job.needs if need in reasons]
        if reason is None and late and job.kind not in TRAINED:
            reason = f"after: {known[late[0]].text}"
        if reason is not None:
            reasons[job.name] = reason
    needed = closure([job.name for job in jobs if job.kind == "report"], known, reasons.__contains__)
    if not keep:
        for job in jobs:
            if job.run is not None and job.kind == "train" and job.name not in reasons:
                _clear_lock(job.run)
            file = marker_file(folder, job.name)
            if job.name in reasons:
                file.unlink(missing_ok=True)
            elif not file.exists():
                write_marker(study, job, folder, found=True)
    there = set(known) - needed
    return tuple(Open(without(job, there), reasons[job.name]) for job in jobs if job.name in needed)


def is_done(study: "Study", job: Job, folder: Path) -> bool:
    """Whether nothing is left to do for a job itself; what it needs is not looked at."""
    return why_open(study, job, folder) is None


def why_open(study: "Study", job: Job, folder: Path) -> str | None:
    """Return why a job has to run, in a few words; None if it is done."""
    if job.kind in ("plan", "preprocess", "plans", "train"):
        return _FILES[job.kind](study, job, folder)
    marker = read_marker(folder, job.name)
    if marker is None:
        return "not done yet"
    if marker.get("settings") != job.settings:
        return "the study says something else now"
    lost = [name for name in marker.get("outputs", []) if not _found(name, folder).exists()]
    if lost:
        return f"{Path(lost[0]).name} is gone"
    if marker.get("inputs") != _stamps(inputs(study, job, folder), folder):
        return "what it is made from has changed"
    return None


def inputs(study: "Study", job: Job, folder: Path) -> list[Path]:
    """Return the files whose change makes a job's result out of date; of trainings none."""
    if job.kind == "evaluate" and job.model is not None:
        return [job.model.fold_folder(fold) / "validation" / "summary.json" for fold in job.model.folds]
    if job.kind == "predict" and job.model is not None:
        return [job.model.fold_folder(fold) / "checkpoint_final.pth" for fold in job.model.folds]
    if job.kind in ("compare", "report"):
        return [marker_file(folder, need) for need in job.needs]
    return []


def write_marker(study: "Study", job: Job, folder: Path, outputs: Iterable[Path] = (), found: bool = False) -> Path:
    """Note that a job is done.

    Args:
        study: The study.
        job: The job, as `jobs` gives it.
        folder: The study's folder.
        outputs: Files and folders without which it counts as not done.
        found: Whether the work was there before.
    """
    content = {
        "job": job.name,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "found": found,
        "settings": job.settings,
        "inputs": _stamps(inputs(study, job, folder), folder),
        "outputs": [_named(path, folder) for path in outputs],
    }
    return write_json(content, marker_file(folder, job.name))


def read_marker(folder: Path, name: str) -> dict[str, Any] | None:
    """Return what a job's marker says; None if there is none, or a damaged one."""
    try:
        content = json.loads(marker_file(folder, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def marked_outputs(folder: Path, name: str) -> list[Path]:
    """Return the files and folders that a job's marker names."""
    return [_found(each, folder) for each in (read_marker(folder, name) or {}).get("outputs", [])]


def write_json(content: Any, file: Path) -> Path:
    """Write a small file at once or not at all; the folder is made if it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, file)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return file


def _plan(study: "Study", job: Job, folder: Path) -> str | None:
    there = _preprocessed(job)
    lost = [name for name in ("dataset.json", f"{job.plans}.json") if not (there / name).is_file()]
    return f"{there / lost[0]} is missing" if lost else None


def _plans(study: "Study", job: Job, folder: Path) -> str | None:
    file = _preprocessed(job) / f"{job.plans}.json"
    if not file.is_file():
        return f"{file} is missing"
    try:
        same = json.loads(file.read_text(encoding="utf-8")) == derived_plans(
            study, study.row_named(str(job.row)), str(job.dataset)
        )
    except (InputError, OSError, ValueError) as error:
        return str(error)
    return None if same else f"{file} has another content"


def _preprocess(study: "Study", job: Job, folder: Path) -> str | None:
    if begun_file(job.name).exists():
        return "broken off"
    there = _preprocessed(job)
    try:
        plans = json.loads((there / f"{job.plans}.json").read_text(encoding="utf-8"))
        wanted = json.loads((there / "dataset.json").read_text(encoding="utf-8")).get("numTraining")
        data = there / str(resolved(plans, str(job.configuration)).get("data_identifier"))
    except (OSError, ValueError, InputError, AttributeError):
        return "not planned yet"
    count = sum(1 for _ in data.glob("*.pkl")) if data.is_dir() else 0
    if not count or (isinstance(wanted, int) and count < wanted):
        return f"{data} has {count or 'no'} cases" + (f" of {wanted}" if count else "")
    return None


def _train(study: "Study", job: Job, folder: Path) -> str | None:
    from nnunet_attn.study.engine.training import is_trained

    run = job.run
    assert run is not None
    if is_trained(run):
        return None
    state = read_state(run.fold_folder)
    if state.kind == "waiting":
        return "not trained yet"
    at = "" if state.epoch is None else f" at epoch {state.epoch}" + (f" of {state.epochs}" if state.epochs else "")
    return f"{state.kind}{at}" + (f": {state.message}" if state.message else "")


def _clear_lock(run: Run) -> None:
    """Remove the lock of a training that was killed at its very end, when all was done."""
    from nnunet_attn.study.engine.locks import claimed, holder_lives, read_lock, release

    lock = read_lock(run.fold_folder / LOCK_FILE)
    with suppress(OSError):  # of somebody else, whose folder can be read alone
        if lock is not None and holder_lives(lock) is False and claimed(lock.file):
            release(lock.file)


_FILES = {"plan": _plan, "preprocess": _preprocess, "plans": _plans, "train": _train}


def _preprocessed(job: Job) -> Path:
    return nnunet_folder("nnUNet_preprocessed") / str(job.dataset)


def _stamps(files: Iterable[Path], folder: Path) -> list[list[Any]]:
    """Names, sizes and times of change; of what is missing the name alone."""
    stamps: list[list[Any]] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            stamps.append([_named(file, folder)])
        else:
            stamps.append([_named(file, folder), status.st_size, status.st_mtime_ns])
    return stamps


def _named(path: Path, folder: Path) -> str:
    """A path as any machine that shares the folders can read it."""
    for word, root in ((_STUDY, folder), (_RESULTS, nnunet_folder("nnUNet_results"))):
        with suppress(ValueError):
            return f"{word}/{path.relative_to(root).as_posix()}"
    return str(path)


def _found(name: str, folder: Path) -> Path:
    word, _, rest = name.partition("/")
    roots = {_STUDY: folder, _RESULTS: nnunet_folder("nnUNet_results")}
    return roots[word] / rest if word in roots else Path(name)
