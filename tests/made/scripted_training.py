"""Trainings by short scripts in place of nnU-Net that leave the same files; tests start them as jobs do."""

import json
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnunet_attn.study.engine.devices import Resources
from nnunet_attn.study.engine.locks import holder_lives, read_lock
from nnunet_attn.study.engine.training import train
from nnunet_attn.study.matrix import Run, nnunet_folder
from nnunet_attn.study.state import LOCK_FILE

EPOCHS = 4
CASES = ("case_1", "case_4")

TRAINER = """
import json, os, sys, time, zipfile
from pathlib import Path
fold, pause, *options = sys.argv[1:]
fold = Path(fold)
print("starts", *options, flush=True)
if "fail" in options:
    print("torch.OutOfMemoryError: CUDA out of memory.")
    sys.exit(1)
latest, final = fold / "checkpoint_latest.pth", fold / "checkpoint_final.pth"
def save(file, epoch):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("epoch", str(epoch))
if "--val" not in options:
    first = int(zipfile.ZipFile(latest).read("epoch")) if "--c" in options else 0
    for epoch in range(first, 4):
        print("epoch", epoch, flush=True)
        time.sleep(float(pause))
        save(latest, epoch + 1)
    save(final, 4)
    latest.unlink()
cases = [{"prediction_file": f"{fold}/validation/{case}.nii.gz"} for case in ("case_1", "case_4")]
(fold / "validation").mkdir(exist_ok=True)
summary = {"metric_per_case": cases, "foreground_mean": {"Dice": 1}}
(fold / "validation" / "summary.json").write_text(json.dumps(summary))
"""

EPOCH_LINES = [f"epoch {number}" for number in range(EPOCHS)]

JOB = """
import json, sys
from pathlib import Path
from nnunet_attn.study.engine.devices import Resources
from nnunet_attn.study.engine import training
from nnunet_attn.study.matrix import Run
run, log, script, pause = json.loads(sys.argv[1]), *sys.argv[2:]
training.POLL_SECONDS = 0.05
command = lambda run, options: [sys.executable, "-c", script, str(run.fold_folder), pause, *options]
training.train(Run(**run), Resources("cpu", 1), Path(log), command=command)
"""


def preprocessed_folder(run: Run) -> Path:
    return nnunet_folder("nnUNet_preprocessed") / run.dataset


def write_plans_with_patch(file: Path, patch: list[int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"plans_name": "nnUNetPlans", "configurations": {"3d_fullres": {"patch_size": patch}}}))


def train_by_script(run: Run, log: Path, *more: str, pause: float = 0.0, **options: Any) -> None:
    def command(run: Run, options: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", TRAINER, str(run.fold_folder), str(pause), *options, *more]

    train(run, Resources("cpu", 1), log, command=command, **options)


def printed(log: Path) -> list[str]:
    """What the trainings printed, without the notes beside."""
    return [line for line in log.read_text().splitlines() if not line.startswith("nnunet-attn")]


def save_checkpoint(file: Path, epoch: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("epoch", str(epoch))


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def write_validation(run: Run, cases: Sequence[str]) -> None:
    save_checkpoint(run.fold_folder / "checkpoint_final.pth", EPOCHS)
    file = run.fold_folder / "validation" / "summary.json"
    file.parent.mkdir(exist_ok=True)
    each = [{"prediction_file": f"/elsewhere/{case}.nii.gz"} for case in cases]
    file.write_text(json.dumps({"metric_per_case": each, "foreground_mean": {"Dice": 0.5}}))


def assert_nobody_lives(run: Run) -> None:
    """Check that the lock tells of a process that is dead: the next job need not wait until the log is quiet."""
    lock = read_lock(run.fold_folder / LOCK_FILE)
    assert lock is not None
    assert holder_lives(lock) is False
