"""Results of two trainers in all folds, without any training, in folders that a test may change."""

import shutil
from pathlib import Path

import pytest

from tests.made.results import write_results

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
