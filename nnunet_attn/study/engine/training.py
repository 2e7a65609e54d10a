"""Takes one training of a study to its end by nnU-Net's own commands, whatever was there before."""

import json
import time
import zipfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError
from nnunet_attn.study.check_data import check_results
from nnunet_attn.study.engine.devices import Resources, device_environment, device_locks, worker_environment
from nnunet_attn.study.engine.errors import JobError
from nnunet_attn.study.engine.locked_exec import HELD
from nnunet_attn.study.engine.locks import Lock, claimed, end_remains, holder_lives, read_lock, release
from nnunet_attn.study.engine.processes import ended_badly, note, run_logged
from nnunet_attn.study.logs import log_files
from nnunet_attn.study.matrix import Run, nnunet_folder
from nnunet_attn.study.state import LOCK_FILE, read_state

FINAL, LATEST, BEST = (f"checkpoint_{name}.pth" for name in ("final", "latest", "best"))
BROKEN = ".broken"
"""Behind the name of a checkpoint that cannot be read and was put aside."""

POLL_SECONDS = 5.0
_MOST_TRIES = 5  # if others take the lock each time just before

Command = Callable[[Run, Sequence[str]], Sequence[str]]


def is_trained(run: Run) -> bool:
    """Return whether nnU-Net's own files say that a training is done: the final checkpoint, and a whole validation.

    Whoever trained it. Whole: it has all cases of the fold in splits_final.json, if that can be told.
    """
    folder = run.fold_folder
    if not (folder / FINAL).is_file() or read_state(folder).kind != "done":
        return False
    if not (folder / "validation" / "summary.json").is_file():
        return True  # of pre-training, which validates in its own way
    there, wanted = _validated_cases(folder), _fold_cases(run)
    return there is not None and (wanted is None or wanted <= there)


def train(
    run: Run,
    resources: Resources,
    log: Path,
    pretrained: Path | None = None,
    command: Command | None = None,
) -> None:
    """Train and validate, go on from the last checkpoint, or only validate; nothing if all of that is done.

    A process that trains there already is waited for, also one that lost its parent or that was started by hand.

    Args:
        run: One training.
        resources: For the command; a device is waited for.
        log: File to which its output is appended.
        pretrained: Weights to start from, for nnU-Net's `-pretrained_weights`.
        command: Gives the words to run from the training and its options `--c` or `--val`; nnUNetv2_train by default.
    Raises:
        JobError: If it fails, or what is there cannot be gone on from; with the remedy.
        InputError: If something is missing before anything starts.
    """
    lock_file = run.fold_folder / LOCK_FILE
    words_of = command or _Stock(resources.device, pretrained)
    tries = 0
    while True:
        stale = _wait_for_others(run, log)
        if is_trained(run):
            _clear(lock_file)
            return
        if tries >= _MOST_TRIES:
            raise JobError(f"{lock_file} was taken {tries} times by others; see who trains there", log)
        _check_plans(run, log)
        with device_environment(resources, log) as device:
            if _is_held(run) or is_trained(run):  # in the time that it took
                continue
            words = words_of(run, _options(run, log))
            locks = (lock_file, *device_locks(resources, device))
            environment = {**worker_environment(resources), **device}
            # a lock of a dead process tells the next job at once that nothing trains here, however fresh the log is
            code = run_logged(
                words, log, environment, locks, None if stale is None else stale.identity, kept=(lock_file,)
            )
        if code == HELD:
            tries += 1
            continue
        _check_outcome(run, log, code)
        return


class _Stock:
    """The stock command."""

    def __init__(self, device: str | None, pretrained: Path | None) -> None:
        self._device, self._pretrained = device, pretrained

    def __call__(self, run: Run, options: Sequence[str]) -> Sequence[str]:
        from nnunet_attn.stock import executable

        words = [executable("nnUNetv2_train"), run.dataset, run.configuration, str(run.fold), "-tr", run.trainer]
        words += ["-p", run.plans, *([] if self._device is None else ["-device", self._device])]
        if self._pretrained is not None and not options:
            if not self._pretrained.is_file():
                raise InputError(f"{self._pretrained} does not exist; pre-train first, or correct pretrain")
            words += ["-pretrained_weights", str(self._pretrained)]
        return [*words, *options]


def _wait_for_others(run: Run, log: Path) -> Lock | None:
    """Wait until nobody trains; the lock of one on another host of whom nothing was heard for long, if there is one."""
    told = ""
    while True:
        lock = read_lock(run.fold_folder / LOCK_FILE)
        who = _training_process(run, lock)
        if who is None:
            if told:
                note(log, "it has ended")
            return lock if lock is not None and holder_lives(lock) is None else None
        if who != told:
            note(log, f"waits for {who}")
            told = who
        time.sleep(POLL_SECONDS)


def _is_held(run: Run) -> bool:
    return _training_process(run, read_lock(run.fold_folder / LOCK_FILE)) is not None


def _training_process(run: Run, lock: Lock | None) -> str | None:
    """Who trains there now, as text; None: nobody."""
    lives = None if lock is None else holder_lives(lock)
    if lives:
        return f"{lock}, which trains in {run.fold_folder}"
    if lives is False and lock is not None and not _begun_since(lock):
        return None
    state = read_state(run.fold_folder)
    if state.kind not in ("running", "validating"):
        return None
    by = "a training that was started otherwise" if lock is None or lives is False else str(lock)
    return f"{by}: {state.log} was written to lately; if nothing runs there any more, that is noticed when it is quiet"


def _begun_since(lock: Lock) -> bool:
    """Whether another start of nnU-Net followed the one that wrote the lock, which has one log as any other."""
    try:
        locked = int(lock.file.stat().st_mtime)
    except OSError:
        return False
    count = 0
    for file in log_files(lock.file.parent):
        year, month, day, hour, minute, second = map(int, file.stem.split("_")[2:])
        count += datetime(year, month, day, hour, minute, second).timestamp() >= locked
    return count > 1


def _options(run: Run, log: Path) -> list[str]:
    """What nnU-Net has to be told to go on from what is there."""
    folder = run.fold_folder
    state = read_state(folder)
    finished = state.epoch or 0
    is_validated = state.kind == "done" and (folder / "validation" / "summary.json").is_file()
    if is_validated and not (folder / FINAL).is_file():
        raise JobError(
            f"{folder} was trained and validated, but its {FINAL} is gone; put it back, or, to train again, move the "
            "folder away",
            log,
        )
    broken: list[Path] = []
    for name in (FINAL, LATEST, BEST):  # the order in which nnU-Net looks for one
        file = folder / name
        if not file.is_file():
            continue
        if not _is_readable(file):
            broken.append(file)
            continue
        _put_aside(broken, log)
        if name != FINAL:
            return ["--c"]
        _check_split(run, log)
        return ["--val"]
    if broken and finished > 1:
        names = " and ".join(str(file) for file in broken)
        raise JobError(
            f"{names} cannot be read, and there is no other checkpoint after {finished} epochs; put a copy of it "
            f"there, or begin anew: move {folder} away",
            log,
        )
    _put_aside(broken, log)
    return []


def _is_readable(checkpoint: Path) -> bool:
    """Whether a checkpoint is a whole file: PyTorch's are archives with checksums, whose contents are at the end."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _put_aside(broken: Sequence[Path], log: Path) -> None:
    for file in broken:
        file.replace(file.with_name(file.name + BROKEN))
        note(log, f"{file} cannot be read, as after a kill while it was written; it is now called {file.name}{BROKEN}")


def _check_plans(run: Run, log: Path) -> None:
    file = nnunet_folder("nnUNet_preprocessed") / run.dataset / f"{run.plans}.json"
    plans = _json(file)
    if not isinstance(plans, dict):
        raise InputError(f"{file} is missing or damaged; plan first: nnUNetv2_plan_and_preprocess")
    finding = check_results(run, plans)
    if finding is not None:
        time.sleep(POLL_SECONDS)  # each fold's training writes the plans of the results again, and may just do so
        finding = check_results(run, plans)
    if finding is not None:
        raise JobError(f"{finding.text} (from {file}); {finding.remedy}", log)


def _check_split(run: Run, log: Path) -> None:
    """Check that what was validated so far are cases of the fold: else it was trained with other splits."""
    there, wanted = _validated_cases(run.fold_folder), _fold_cases(run)
    if there and wanted is not None and not there <= wanted:
        others = ", ".join(sorted(there - wanted)[:3])
        raise JobError(
            f"{run.fold_folder} was validated on cases that fold {run.fold} of splits_final.json does not have "
            f"({others}), so it was trained with other splits; put those back, or move the folder away",
            log,
        )


def _check_outcome(run: Run, log: Path, code: int) -> None:
    if code != 0:
        raise JobError(f"nnUNetv2_train {ended_badly(code)}", log)
    if not is_trained(run):
        raise JobError(
            f"nnUNetv2_train ended, but {run.fold_folder} has no final checkpoint with a whole validation", log
        )


def _clear(lock_file: Path) -> None:
    """Remove a lock that a killed training has left behind, with what else it has left."""
    lock = read_lock(lock_file)
    if lock is not None and holder_lives(lock) is False:
        end_remains(lock)
        if claimed(lock_file):
            release(lock_file)


def _fold_cases(run: Run) -> set[str] | None:
    """Validation cases of the fold; None if that cannot be told, as where nnU-Net makes up a fold by itself."""
    content = _json(nnunet_folder("nnUNet_preprocessed") / run.dataset / "splits_final.json")
    try:
        return set(map(str, content[run.fold]["val"]))
    except (TypeError, KeyError, IndexError):
        return None


def _validated_cases(folder: Path) -> set[str] | None:
    """Cases in the validation's summary; None if it cannot be read."""
    content = _json(folder / "validation" / "summary.json")
    try:
        names = [Path(each["prediction_file"]).name for each in content["metric_per_case"]]
        ending = str((_json(folder.parent / "dataset.json") or {}).get("file_ending") or "")
        return {name.removesuffix(ending) if ending else name.partition(".")[0] for name in names}
    except (TypeError, KeyError, AttributeError):
        return None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
