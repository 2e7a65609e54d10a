"""A made case for figures: an anisotropic volume in which every direction can be told, and displaced predictions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_attn.figures.request import FigureCase
from tests.made.loose import write

SHAPE = (6, 20, 30)  # z y x
SPACING = (1.0, 2.0, 4.0)  # x y z
LABELS: dict[str, Any] = {"background": 0, "organ": 1, "lesion": 2}


def reference() -> np.ndarray:
    """An organ with a lesion; slice 3 along z, 8 along y and 10 along x have most of it."""
    array = np.zeros(SHAPE, np.uint8)
    array[2:5, 6:12, 8:16] = 1
    array[3, 5:14, 8:17] = 1
    array[:, 8, 8:17] = np.maximum(array[:, 8, 8:17], 1)
    array[1:6, 6:12, 10] = 1
    array[3, 8:10, 10:13] = 2
    return array


def ramp() -> np.ndarray:
    """Values that rise along each axis: 10000 z + 100 y + x."""
    z, y, x = np.indices(SHAPE)
    return (10000 * z + 100 * y + x).astype(np.int32)


def write_case(
    folder: Path, direction: Sequence[float] | None = None, methods: Sequence[str] = ("A", "B")
) -> FigureCase:
    """Write image, reference and predictions: each method's is one voxel further along x than the one before."""
    labels = reference()
    predictions = {
        name: write(folder / name / "case.nii.gz", np.roll(labels, at, axis=2), SPACING, direction=direction)
        for at, name in enumerate(methods)
    }
    return FigureCase(
        "case",
        write(folder / "image.nii.gz", ramp(), SPACING, direction=direction),
        write(folder / "label.nii.gz", labels, SPACING, direction=direction),
        predictions,
    )


def write_description(folder: Path, labels: dict[str, Any] | None = None) -> Path:
    """Write a dataset.json; returns it."""
    file = folder / "dataset.json"
    content = {"channel_names": {"0": "CT"}, "labels": labels or LABELS, "numTraining": 1, "file_ending": ".nii.gz"}
    file.write_text(json.dumps(content), encoding="utf-8")
    return file
