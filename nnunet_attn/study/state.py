"""What a training is doing, told from nnU-Net's own files: no checkpoint is opened, no process is asked for."""

import json
import math
import os
import re
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from nnunet_attn.study.logs import Epoch, TrainingLog, log_files, merged_epochs, moving_dice, read_log

Kind = Literal["waiting", "running", "stopped", "validating", "done", "failed", "foreign"]

LOCK_FILE = "nnunet_attn_lock.json"
"""In a fold's folder: the process that trains there, see `nnunet_attn.study.engine.locks`; nnU-Net writes none."""

QUIET_SECONDS = 600.0  # five times the duration of an epoch or a validation case, but at least this
UNKNOWN_SECONDS = 3600.0  # before the first epoch or case: compiling, or a large patch on a CPU, writes no line
GONE_SECONDS = (
    60.0  # twice an epoch, but at least this, where the lock file's process is gone: another may have taken over
)
STARTING = "starting"
"""The message of a training that runs, but has no epoch in its newest log yet."""

_RECENT = 20  # epochs whose time counts: other jobs come and go
_DAY = 86400.0


@dataclass(frozen=True)
class RunState:
    """The state of one training.

    Args:
        kind: `waiting`: nothing is there; `running`: the log was written to lately; `validating`: likewise, with all
            epochs done; `stopped`: no sign of life, by Ctrl-C, a crash or a kill, which look alike in nnU-Net's files;
            `failed`: the log ends with an error; `done`: trained and validated; `foreign`: files, but neither a log nor
            a validation.
        epoch: Finished epochs.
        epochs: Epochs of the whole training; None where no file tells.
        seconds_per_epoch: From one epoch's start to the next one's, the median of the last ones.
        eta_seconds: Until the last epoch's end, without the validation; None unless running.
        dice: Where `done`, the mean foreground Dice of the validation; else nnU-Net's moving average of the pseudo
            Dice, which is measured on patches and not on whole cases.
        message: What to know beside it, in a few words.
        log: The training log that was written last.
    """

    kind: Kind
    epoch: int | None = None
    epochs: int | None = None
    seconds_per_epoch: float | None = None
    eta_seconds: float | None = None
    dice: float | None = None
    message: str | None = None
    log: Path | None = None


def read_state(fold_folder: Path, now: float | None = None, quiet_seconds: float = QUIET_SECONDS) -> RunState:
    """Return the state of the training in a fold's folder, of any trainer, also one that was copied from elsewhere.

    Args:
        fold_folder: `nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION/fold_0`; need not exist.
        now: Seconds since 1970; the clock by default.
        quiet_seconds: No line for so long, and for five epochs (or cases, at the validation), means stopped.
    """
    logs = tuple(_read_logs(fold_folder))
    if not logs:
        return _without_log(fold_folder)
    told = [log for log in logs if log.has_progress]
    newest, current = logs[-1], told[-1] if told else logs[-1]
    epochs = merged_epochs(logs)
    finished = [epoch for epoch in epochs if epoch.seconds is not None]
    pace = _seconds_per_epoch(told)
    count = finished[-1].number + 1 if finished else 0
    shared: dict[str, Any] = {
        "epoch": count,
        "epochs": count if count and current.training_done else _planned_epochs(fold_folder, count),
        "seconds_per_epoch": pace,
        "log": newest.file,
    }
    silence = _silence(fold_folder, newest, time.time() if now is None else now)
    locked = _lock_alive(fold_folder)
    limit = max(quiet_seconds, _longest_pause(fold_folder, newest, current, pace))
    if locked is False:
        limit = max(min(quiet_seconds, GONE_SECONDS), 2 * (pace or 0.0))
    alive = locked is True or silence <= limit
    is_over = current.validation_complete and (newest is current or not alive)
    if is_over and (dice := _validation_dice(fold_folder)) is not None:
        message = _nonfinite(finished)
        if not (fold_folder / "checkpoint_final.pth").is_file():
            message = "there is no final checkpoint"
        return RunState("done", dice=None if math.isnan(dice) else dice, message=message, **shared)
    shared["dice"] = moving_dice(epochs)
    if newest.error is not None:
        return RunState("failed", message=newest.error, **shared)
    if is_over:
        return RunState("stopped", message="validated, but validation/summary.json is missing", **shared)
    validates = current.training_done or bool(current.predicted)
    if not alive:
        reason = "its process is gone" if locked is False else f"no line for {duration(silence)}"
        if validates:
            reason = f"trained; validation broken off{_cases(current)}, {reason}"
        return RunState("stopped", message=reason, **shared)
    if validates and newest is current:
        return RunState("validating", message=_cases(current).strip() or None, **shared)
    left = None if pace is None or shared["epochs"] is None else (shared["epochs"] - count) * pace
    if left is not None and newest.epochs and newest.epochs[-1].seconds is None:
        left = max(0.0, left - min(silence, pace or 0.0))
    warning = _nonfinite(finished)
    if warning is None and silence > quiet_seconds:
        warning = f"no line for {duration(silence)}"
    elif warning is None and not newest.has_progress:
        warning = STARTING
    return RunState("running", eta_seconds=left, message=warning, **shared)


def duration(seconds: float) -> str:
    """Return a duration as text without spaces, such as `45s`, `12m`, `3h05m` or `2d03h`."""
    if seconds < 59.5:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 24 else f"{hours // 24}d{hours % 24:02d}h"


def _read_logs(fold_folder: Path) -> list[TrainingLog]:
    logs = []
    for file in log_files(fold_folder):
        with suppress(OSError):  # removed between listing and reading
            logs.append(read_log(file))
    return logs


def _without_log(fold_folder: Path) -> RunState:
    try:
        there = {path.name for path in fold_folder.iterdir() if not path.name.startswith(LOCK_FILE)}
    except OSError:
        there = set()
    if not there:
        return RunState("running" if _lock_alive(fold_folder) else "waiting")
    dice = _validation_dice(fold_folder)
    if dice is not None:
        lacks = "a training log" if "checkpoint_final.pth" in there else "a training log and the final checkpoint"
        return RunState("done", dice=None if math.isnan(dice) else dice, message=f"without {lacks}")
    return RunState("foreign", message="files, but neither a training log of nnU-Net v2 nor a validation")


def _planned_epochs(fold_folder: Path, at_least: int) -> int | None:
    """Epochs of the whole training: as nnU-Net noted at its start, else as the trainer's name says."""
    found: int | None = None
    with suppress(OSError, ValueError, TypeError):  # nnU-Net may be writing it
        noted = json.loads((fold_folder / "debug.json").read_text(encoding="utf-8"))
        found = int(noted["num_epochs"]) if isinstance(noted, dict) and "num_epochs" in noted else None
    if found is None:
        trainer = fold_folder.parent.name.partition("__")[0]
        named = re.search(r"_(\d+)epochs?(?=_|$)", trainer)
        found = int(named[1]) if named else (1000 if trainer == "nnUNetTrainer" else None)
    return None if found is None else max(found, at_least)


def _seconds_per_epoch(logs: Sequence[TrainingLog]) -> float | None:
    """Median time from an epoch's start to the next one's in the last log that tells; never over a break."""
    for log in reversed(logs):
        starts = [epoch.started for epoch in log.epochs]
        steps = [(after - before).total_seconds() for before, after in pairwise(starts)]
        known = [step for step in steps[-_RECENT:] if step > 0] or [e.seconds for e in log.epochs if e.seconds]
        if known:
            return statistics.median(known)
    return None


def _longest_pause(fold_folder: Path, newest: TrainingLog, current: TrainingLog, pace: float | None) -> float:
    """Seconds without a line that a living training may have; the first epoch's from those of the other folds."""
    if newest is current and current.predicted:
        steps = [(b - a).total_seconds() for a, b in pairwise(current.predicted)]
        return 5 * max(steps) if steps else UNKNOWN_SECONDS
    if pace is None:
        others = (_seconds_per_epoch(_read_logs(path)) for path in sorted(fold_folder.parent.glob("fold_*")))
        pace = max((other for other in others if other is not None), default=None)
    return UNKNOWN_SECONDS if pace is None else 5 * pace


def _silence(fold_folder: Path, log: TrainingLog, now: float) -> float:
    """Seconds since the last sign of life; 0 where the clock of another machine is ahead."""
    try:
        written = log.file.stat().st_mtime
    except OSError:  # removed a moment ago
        return 0.0
    if log.last is not None:
        stamp = log.last.timestamp()
        if written - stamp > _DAY:  # more than time zones explain: the file was copied or touched long after
            return max(0.0, now - stamp)
    if log.predicted:
        with suppress(OSError):
            written = max([written, *(entry.stat().st_mtime for entry in os.scandir(fold_folder / "validation"))])
    return max(0.0, now - written)


def _lock_alive(fold_folder: Path) -> bool | None:
    """Whether the process in the lock file lives; None where that cannot be told without asking other machines."""
    if os.name != "posix":
        return None
    from nnunet_attn.study.engine.locks import holder_lives, read_lock

    lock = read_lock(fold_folder / LOCK_FILE)
    return None if lock is None else holder_lives(lock, ask_slurm=False)


def _validation_dice(fold_folder: Path) -> float | None:
    """Mean foreground Dice of the validation, NaN if it has none; None without a result.

    Pre-training writes how well it reconstructs, in a file of another name and without a Dice.
    """
    validation = fold_folder / "validation"
    try:
        summary = json.loads((validation / "summary.json").read_text(encoding="utf-8"))
        return float(summary["foreground_mean"]["Dice"])
    except FileNotFoundError:
        return math.nan if (validation / "reconstruction.json").is_file() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _cases(log: TrainingLog) -> str:
    if not log.predicted:
        return ""
    return f" at case {len(log.predicted)}" + (f" of {log.cases}" if log.cases else "")


def _nonfinite(finished: Sequence[Epoch]) -> str | None:
    """Say since when the loss is NaN or infinite, if it still is."""
    since: int | None = None
    for epoch in reversed(finished):
        if epoch.train_loss is None or math.isfinite(epoch.train_loss):
            break
        since = epoch.number
    return None if since is None else f"the loss is not finite since epoch {since}"
