"""Jobs that run nnU-Net's commands: where these fail, and what keeps them apart."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.pretraining import chain
from nnunet_attn.pretraining.request import Pretraining
from nnunet_attn.study.engine import work
from nnunet_attn.study.engine.devices import Resources
from nnunet_attn.study.engine.errors import JobError
from nnunet_attn.study.engine.jobs import jobs
from nnunet_attn.study.engine.locks import own_lock, read_lock
from nnunet_attn.study.folder import log_file, preparing_folder
from nnunet_attn.study.model import Study
from tests.made.results import DATASET
from tests.study.engine.conftest import A


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("import os; os.kill(os.getpid(), 9)", "nnUNetv2_preprocess was ended by SIGKILL, as where memory runs out"),
        ("import sys; sys.exit(3)", "nnUNetv2_preprocess ended with exit code 3"),
    ],
)
def test_a_command_that_is_killed_is_a_job_that_failed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    study = Study.model_validate({"name": "s", "datasets": (910,), "trainers": (A,), "folds": (0,)})
    job = next(job for job in jobs(study) if job.kind == "preprocess")
    place = work.Place(study, tmp_path / "s.yaml", tmp_path / "s_results", Resources("cpu", 1))
    monkeypatch.setattr(work, "executable", lambda name: sys.executable)
    monkeypatch.setattr(work, "preprocessing", lambda *_: ["nnUNetv2_preprocess", "-c", script])
    with pytest.raises(JobError) as caught:
        work.work(job, place)
    assert caught.value.message == told
    assert caught.value.log == log_file(place.folder, job.name)


def test_what_pre_trainings_share_is_prepared_by_one_at_a_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ({"trainer": A, "pretrain": {"task": "inpaint", "dataset": "910"}},)
    study = Study.model_validate({"name": "s", "datasets": (910,), "trainers": rows, "folds": (0,)})
    job = next(job for job in jobs(study) if job.kind == "pretrain")
    place = work.Place(study, tmp_path / "s.yaml", tmp_path / "s_results", Resources("cpu", 1))
    lock = preparing_folder() / f"{DATASET}.json"  # that of planning and preprocessing, of all studies
    held: list[bool] = []

    def pretrained(request: Pretraining, console: Any, preparing: AbstractContextManager[None]) -> Path:
        with preparing:
            held.append(read_lock(lock) == own_lock(lock))
        held.append(lock.exists())
        return tmp_path / "weights.pth"

    monkeypatch.setattr(chain, "run_pretraining", pretrained)
    monkeypatch.setattr(work.os, "environ", dict(work.os.environ))
    assert work.work(job, place) == (tmp_path / "weights.pth",)
    assert held == [True, False]
