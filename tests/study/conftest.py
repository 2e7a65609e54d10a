"""nnU-Net's folders in the environment, with a planned data set, and study files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.paths import nnunet_environment
from tests.made.plans import configuration

DATASET = "Dataset004_Made"


def made_plans() -> dict[str, Any]:
    """Plans of three configurations, one of which inherits, and with an option that is there already."""
    entry = configuration([16, 16, 16], [[1, 1, 1], [2, 2, 2]])
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "configurations": {
            "2d": configuration([16, 16], [[1, 1], [2, 2]]),
            "3d_fullres": {**entry, "nnunet_attn": {"GASAUNet": {"norm": True}, "MAT": {"num_heads": 2}}},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }


@pytest.fixture
def preprocessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a planned data set; nnU-Net's three folders are set."""
    for key, value in nnunet_environment(tmp_path / "nnunet", base={}).items():
        monkeypatch.setenv(key, value)
    folder = tmp_path / "nnunet" / "preprocessed" / DATASET
    folder.mkdir()
    (folder / "nnUNetPlans.json").write_text(json.dumps(made_plans()))
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a text as study.yaml; returns the file."""

    def written(text: str) -> Path:
        file = tmp_path / "study.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return written
