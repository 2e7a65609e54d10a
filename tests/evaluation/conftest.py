"""The results of two trainers, where nnU-Net finds them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.made.results import TRAINER, write_results


@pytest.fixture
def made_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write results with `write_results` and set nnU-Net's variables; returns their root."""

    def make(**more: Any) -> Path:
        trainers = {TRAINER: 1.0, "nnUNetTrainerFINE": 0.5}
        for name, value in write_results(tmp_path, **{"trainers": trainers, "folds": 2, "cases": 6, **more}).items():
            monkeypatch.setenv(name, value)
        return tmp_path

    return make


@pytest.fixture
def results(made_results: Callable[..., Path]) -> Path:
    """Root of a data set with the results of two trainers on two folds of three cases."""
    return made_results()
