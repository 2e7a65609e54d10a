"""A training of the stock command that is killed between two checkpoints and taken to its end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from nnunet_attn.study.engine.devices import Resources
from nnunet_attn.study.engine.locks import holder_lives, read_lock
from nnunet_attn.study.engine.training import is_trained, train
from nnunet_attn.study.logs import log_files, merged_epochs, read_log
from nnunet_attn.study.matrix import Run
from nnunet_attn.study.state import LOCK_FILE, read_state
from tests.integration.conftest import PLANS, Workspace

pytestmark = [pytest.mark.slow, pytest.mark.kill]

EPOCHS, SAVED = 7, 3
TRAINER = f"nnUNetTrainerPlain_{EPOCHS}epochs_2its_NoMirroring_save{SAVED}"

JOB = """
import json, sys
from pathlib import Path
from nnunet_attn.study.engine.devices import Resources
from nnunet_attn.study.engine.training import train
from nnunet_attn.study.matrix import Run
train(Run(**json.loads(sys.argv[1])), Resources("cpu", 1), Path(sys.argv[2]))
"""


def _until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_killed_between_checkpoints_it_goes_on_to_its_end(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in workspace.environment().items():
        monkeypatch.setenv(name, value)
    run = Run(workspace.name, "Plain", TRAINER, PLANS, "3d_fullres", 0)
    folder, log = run.fold_folder, tmp_path / "train.txt"
    job = subprocess.Popen([sys.executable, "-c", JOB, json.dumps(asdict(run)), str(log)])
    try:
        # epoch 4 has begun: the last checkpoint that --c reads was written after three epochs
        _until(lambda: (read_state(folder).epoch or 0) > SAVED or job.poll() is not None, "trains")
    finally:
        job.kill()
        job.wait()
        lock = read_lock(folder / LOCK_FILE)
        assert lock is not None
        assert holder_lives(lock)  # the training itself does not care
        os.killpg(lock.pid, signal.SIGKILL)
    _until(lambda: holder_lives(lock) is False, "is dead")
    killed_at = read_state(folder).epoch
    assert killed_at is not None
    assert SAVED < killed_at < EPOCHS
    assert not is_trained(run)

    train(run, Resources("cpu", 1), log)
    assert is_trained(run)
    first, second = (read_log(file) for file in log_files(folder))
    assert first.epochs[0].number == 0
    saved = 2 * SAVED if killed_at >= 2 * SAVED else SAVED
    assert [epoch.number for epoch in second.epochs] == list(range(saved, EPOCHS))
    assert [epoch.number for epoch in merged_epochs((first, second))] == list(range(EPOCHS))
    assert second.validation_complete
    assert not (folder / LOCK_FILE).exists()
    splits = json.loads((workspace.root / "preprocessed" / workspace.name / "splits_final.json").read_text())
    validated = {path.name.removesuffix(".nii.gz") for path in (folder / "validation").glob("*.nii.gz")}
    assert validated == set(splits[0]["val"])

    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    train(run, Resources("cpu", 1), log)  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files

    (folder / "validation" / "summary.json").unlink()
    train(run, Resources("cpu", 1), log)
    assert is_trained(run)
    assert read_log(log_files(folder)[-1]).epochs == ()  # only validated again
    assert len(log_files(folder)) == 3
