"""Results of two trainers with the images that they are shown on, where nnU-Net finds them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from tests.made.results import DATASET, TRAINER, write_results

FINE = "nnUNetTrainerFINE"


@pytest.fixture
def made_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write results with images, set nnU-Net's variables and go to the folder; returns their root."""

    def make(**more: Any) -> Path:
        settings = {"trainers": {TRAINER: 1.0, FINE: 0.5}, "folds": 2, "cases": 6, **more}
        for name, value in write_results(tmp_path, **settings).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        write_images(tmp_path, settings.get("dataset", DATASET))
        return tmp_path

    return make


def write_images(root: Path, dataset: str, channels: int = 1) -> None:
    """Write an image for each label of the raw data set: its values, ten times the channel's number and one more."""
    raw = root / "raw" / dataset
    (raw / "imagesTr").mkdir(exist_ok=True)
    for file in (raw / "labelsTr").iterdir():
        case, ending = file.name.split(".", 1)
        label = sitk.ReadImage(str(file))
        for channel in range(channels):
            array = sitk.GetArrayFromImage(label).astype(np.uint8) * 10 * (channel + 1)
            image = sitk.GetImageFromArray(array)
            image.CopyInformation(label)
            sitk.WriteImage(image, str(raw / "imagesTr" / f"{case}_{channel:04d}.{ending}"))
