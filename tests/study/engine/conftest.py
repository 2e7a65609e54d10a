"""Results of two trainers in all folds, in folders that a test may change; and a fold in which nothing is trained."""

import json
import shutil
from pathlib import Path

import pytest

from nnunet_attn.study.engine import training
from nnunet_attn.study.matrix import Run
from tests.made.results import write_results
from tests.made.scripted_training import CASES, write_plans_with_patch

A, B = "nnUNetTrainerPlain", "nnUNetTrainerGASA"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("finished")
    return root, write_results(root, {A: 0, B: 1}, cases=5)


@pytest.fixture
def root(finished: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with `raw`, `preprocessed` and `results`, which nnU-Net's variables name."""
    source, environment = finished
    shutil.copytree(source, tmp_path / "nn")
    for key, value in environment.items():
        monkeypatch.setenv(key, value.replace(str(source), str(tmp_path / "nn")))
    return tmp_path / "nn"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "train.txt"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A training of a data set with plans and splits; nothing is trained."""
    made = Run("Dataset999_Made", "Plain", "nnUNetTrainer", "nnUNetPlans", "3d_fullres", 1)
    preprocessed = tmp_path / "preprocessed" / made.dataset
    preprocessed.mkdir(parents=True)
    splits = [{"train": [], "val": ["case_0"]}, {"train": ["case_0"], "val": list(CASES)}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    write_plans_with_patch(preprocessed / "nnUNetPlans.json", [8, 8, 8])
    for name in ("preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setattr(training, "POLL_SECONDS", 0.05)
    return made
