"""Trainings that seem to run: nnU-Net's own methods write the log lines of epochs, at times that a test chooses."""

import json
import math
import os
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_attn.replacing import replaced

NOON = datetime(2026, 3, 1, 12).timestamp()


class MadeTraining:
    """Writes to a fold's folder what nnU-Net writes; every line has the time of `clock`, the log files too.

    Args:
        folder: The fold's folder; made if missing.
        epochs: Of the whole training.
        clock: Seconds since 1970 at which it starts.
        seconds: Duration of an epoch; the pause behind it is 1 s.
    """

    def __init__(self, folder: Path, epochs: int = 10, clock: float = NOON, seconds: float = 99.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.epochs, self.clock, self.seconds = folder, epochs, clock, seconds
        self.log = folder / "none"
        self._trainer: Any = SimpleNamespace(
            local_rank=0,
            log_file="",
            logger=SimpleNamespace(get_value=self._value, plot_progress_png=lambda _: None, log=lambda *_: None),
            network=SimpleNamespace(train=lambda: None),
            lr_scheduler=SimpleNamespace(step=lambda _: None),
            optimizer=SimpleNamespace(param_groups=[{"lr": 0.01}]),
            output_folder=str(folder),
            current_epoch=0,
            num_epochs=epochs,
            save_every=50,
            _best_ema=None,
            print_to_log_file=self.write,
            save_checkpoint=lambda name: Path(name).write_bytes(b"no weights"),
        )
        self._logged: dict[str, Any] = {}

    def start(self, cases: int = 4, debug: bool = True) -> "MadeTraining":
        """Begin a log, as each start of `nnUNetv2_train` does."""
        begun = datetime.fromtimestamp(self.clock)
        self.log = self.folder / f"training_log_{begun.year}_{begun.month}_{begun.day}_{begun:%H_%M_%S}.txt"
        self._trainer.log_file = str(self.log)
        self.write("\n#####\nPlease cite the following paper when using nnU-Net:\n#####\n", add_timestamp=False)
        self.write(f"This split has 16 training and {cases} validation cases.")
        if debug:
            (self.folder / "debug.json").write_text(json.dumps({"num_epochs": str(self.epochs)}), encoding="utf-8")
        return self

    def write(self, *words: Any, **options: Any) -> None:
        """Write a line by nnU-Net's own method."""
        with replaced(stock, "time", lambda: self.clock):
            nnUNetTrainer.print_to_log_file(self._trainer, *words, also_print_to_console=False, **options)
        os.utime(self.log, (self.clock, self.clock))

    def begin_epoch(self, number: int) -> None:
        """Write the lines of an epoch's start."""
        self._trainer.current_epoch = number
        nnUNetTrainer.on_train_epoch_start(self._trainer)

    def epoch(self, number: int, dice: tuple[float, ...] = (0.5, 0.7), loss: float = -0.5) -> None:
        """Write the lines of a whole epoch."""
        self.begin_epoch(number)
        begun, self.clock = self.clock, self.clock + self.seconds
        with np.errstate(all="ignore"):
            average = math.nan if all(map(math.isnan, dice)) else float(np.nanmean(dice))
        self._logged = {
            "train_losses": np.float32(loss),
            "val_losses": np.float64(loss),
            "dice_per_class_or_region": [np.float32(value) for value in dice],
            "epoch_start_timestamps": begun,
            "epoch_end_timestamps": self.clock,
            "ema_fg_dice": average,
        }
        nnUNetTrainer.on_epoch_end(self._trainer)
        self.clock += 1.0

    def train(self, first: int, stop: int) -> "MadeTraining":
        """Write the epochs from `first` up to and without `stop`."""
        for number in range(first, stop):
            self.epoch(number)
        return self

    def finish(self) -> "MadeTraining":
        """End the training."""
        (self.folder / "checkpoint_final.pth").write_bytes(b"no weights")
        self.write("Training done.")
        return self

    def predict(self, cases: int, seconds: float = 30.0) -> "MadeTraining":
        """Begin the prediction of validation cases."""
        validation = self.folder / "validation"
        validation.mkdir(exist_ok=True)
        for number in range(cases):
            self.clock += seconds
            self.write(f"predicting case_{number:03d}")
            self.write(f"case_{number:03d}, shape torch.Size([1, 17, 32, 50]), rank 0")
        os.utime(validation, (self.clock, self.clock))
        return self

    def validate(self, dice: float = 0.875) -> "MadeTraining":
        """End the validation."""
        summary = self.folder / "validation" / "summary.json"
        summary.parent.mkdir(exist_ok=True)
        summary.write_text(json.dumps({"foreground_mean": {"Dice": dice}}), encoding="utf-8")
        self.clock += 10.0
        self.write("Validation complete")
        self.write("Mean Validation Dice: ", dice)
        for path in (summary, summary.parent):
            os.utime(path, (self.clock, self.clock))
        return self

    def whole(self) -> "MadeTraining":
        """Write a whole training with its validation."""
        return self.start().train(0, self.epochs).finish().predict(4).validate()

    def _value(self, key: str, step: int) -> Any:
        assert step == -1
        return self._logged[key]


def age(folder: Path, seconds: float) -> None:
    """Let the files in a fold's folder be so much older, as if nobody had written to them since."""
    for path in [folder, *folder.rglob("*")]:
        written = path.stat().st_mtime - seconds
        os.utime(path, (written, written))


def seconds_now() -> float:
    """Return the clock, in whole seconds as in the names of logs."""
    return float(int(time.time()))
