"""Reads the training logs of nnU-Net v2: epochs, losses, pseudo Dice, how far the validation is."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path

_NAME = re.compile(r"training_log_(\d+)_(\d+)_(\d+)_(\d+)_(\d+)_(\d+)\.txt")
_STAMPED = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?): ?(.*?) *")
_NUMBER = re.compile(r"nan|-?\d+(?:\.\d*)?(?:e[-+]?\d+)?")
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Epoch:
    """One epoch as the log tells it; what is not in the log yet is None.

    Args:
        number: From 0.
        started: By the clock and in the time zone of the machine that trained.
        train_loss: Mean of the epoch; may be NaN.
        val_loss: Mean over the patches of the epoch's validation.
        pseudo_dice: Of each foreground class or region over those patches; NaN where the class is in none of them.
        seconds: Duration, without the checkpoint and the plot behind it; None until the epoch is finished.
    """

    number: int
    started: datetime
    train_loss: float | None = None
    val_loss: float | None = None
    pseudo_dice: tuple[float, ...] = ()
    seconds: float | None = None

    @property
    def dice(self) -> float:
        """The mean pseudo Dice of the classes that were there; NaN if none was."""
        known = [value for value in self.pseudo_dice if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class TrainingLog:
    """One log file. Each start of `nnUNetv2_train`, also with `--c` and `--val`, begins a new one.

    Args:
        file: The file.
        epochs: In their order; the last one may be unfinished.
        last: When the last line was written, by the clock of the machine that trained.
        training_done: Whether all epochs are behind it.
        predicted: When the prediction of each validation case began.
        cases: Validation cases of the fold; None where the log does not tell.
        validation_complete: Whether nnU-Net says so.
        error: The last line of a traceback that the log ends with. nnU-Net itself writes none there.
    """

    file: Path
    epochs: tuple[Epoch, ...] = ()
    last: datetime | None = None
    training_done: bool = False
    predicted: tuple[datetime, ...] = ()
    cases: int | None = None
    validation_complete: bool = False
    error: str | None = None

    @property
    def has_progress(self) -> bool:
        """Whether it came as far as an epoch or a validation."""
        return bool(self.epochs or self.training_done or self.predicted or self.validation_complete)


def log_files(fold_folder: Path) -> tuple[Path, ...]:
    """Return the training logs of a fold, oldest first by the time in their names."""
    dated = []
    for file in fold_folder.glob("training_log_*.txt"):
        if match := _NAME.fullmatch(file.name):
            dated.append((tuple(map(int, match.groups())), file))
    return tuple(file for _, file in sorted(dated))


def read_log(file: Path) -> TrainingLog:
    """Read a training log, also one that is being written to; an unchanged file is read once.

    Raises:
        OSError: If it cannot be read.
    """
    status = file.stat()
    return _read_log(file, status.st_mtime_ns, status.st_size)


def merged_epochs(logs: Iterable[TrainingLog]) -> tuple[Epoch, ...]:
    """Return the epochs of a training that was continued: those of a later log replace all from its first one on.

    Args:
        logs: Oldest first.
    """
    merged: list[Epoch] = []
    for log in logs:
        if log.epochs:
            first = log.epochs[0].number
            merged = [epoch for epoch in merged if epoch.number < first and epoch.seconds is not None]
            merged += log.epochs
    return tuple(merged)


def moving_dice(epochs: Iterable[Epoch]) -> float | None:
    """Return nnU-Net's moving average of the pseudo Dice; epochs without any are left out, None if none has one."""
    average: float | None = None
    for dice in (epoch.dice for epoch in epochs):
        if not math.isnan(dice):
            average = dice if average is None else 0.9 * average + 0.1 * dice
    return average


@lru_cache(maxsize=4096)
def _read_log(file: Path, _changed_ns: int, _size: int) -> TrainingLog:
    text = file.read_text(encoding="utf-8", errors="replace")
    return parsed_log(file, text)


def parsed_log(file: Path, text: str) -> TrainingLog:
    """Take the text of a training log apart; a last line without its line break is still being written, and left."""
    epochs: list[Epoch] = []
    predicted: list[datetime] = []
    log = TrainingLog(file)
    trace: list[str] | None = None
    for line in text.split("\n")[:-1]:
        match = _STAMPED.fullmatch(line)
        if match is None or (stamp := _moment(match[1])) is None:
            if _TRACEBACK in line:
                trace = []
            if trace is not None and line.strip():
                trace.append(line.strip())
            continue
        told = match[2]
        trace = [] if _TRACEBACK in told else None
        log = replace(log, last=stamp)
        if epoch := re.fullmatch(r"Epoch (\d+)", told):
            epochs.append(Epoch(int(epoch[1]), stamp))
        elif epochs and not log.training_done and (known := _measured(told)):
            epochs[-1] = replace(epochs[-1], **known)
        elif told == "Training done.":
            log = replace(log, training_done=True)
        elif split := re.fullmatch(r"This (?:random 80:20 )?split has \d+ training and (\d+) validation cases\.", told):
            log = replace(log, cases=int(split[1]))
        elif told.startswith("predicting "):
            predicted.append(stamp)
        elif told.startswith("Validation complete"):
            log = replace(log, validation_complete=True)
    return replace(log, epochs=tuple(epochs), predicted=tuple(predicted), error=trace[-1] if trace else None)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _measured(told: str) -> dict[str, float | tuple[float, ...]]:
    """What a line says about the epoch it stands in."""
    if loss := re.fullmatch(rf"(train_loss|val_loss) ({_NUMBER.pattern}|-?inf)", told):
        return {loss[1]: float(loss[2])}
    if told.startswith("Pseudo dice ["):
        # "np.float32(0.5)" since NumPy 2, "0.5" before
        listed = re.sub(r"[a-z.]*float\d*", "", told.removeprefix("Pseudo dice "))
        return {"pseudo_dice": tuple(map(float, _NUMBER.findall(listed)))}
    if took := re.fullmatch(rf"Epoch time: ({_NUMBER.pattern}) s", told):
        return {"seconds": float(took[1])}
    return {}
