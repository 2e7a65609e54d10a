"""A raw data set of images alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

NAME = "Dataset010_Images"
MRI = {"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}
COLOUR = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png"}


def write(file: Path, array: np.ndarray, spacing: tuple[float, ...] | None = None) -> None:
    """Write an image, of three colours if its last axis has 3."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=array.shape[-1] == 3)
    if spacing is not None:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))


def made(raw: Path, description: dict[str, Any] = MRI, cases: int = 3, channels: int = 1) -> Path:
    """Write a data set without labels, with a bright body in each image."""
    folder = raw / NAME
    rng = np.random.default_rng(0)
    for case in range(cases):
        for channel in range(channels):
            if description is COLOUR:
                array = rng.integers(0, 256, size=(10, 12, 3), dtype=np.uint8)
            else:
                array = rng.normal(size=(4, 10, 12)).astype(np.float32)
                array[:, 2:8, 3:9] += 20
            file = folder / "imagesTr" / f"case_{case}_{channel:04d}{description['file_ending']}"
            write(file, array, None if description is COLOUR else (1.0, 2.0, 3.0))
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder
