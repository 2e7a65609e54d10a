"""A made volume whose organs differ by nothing but where they lie: four equal balls in stationary noise.

Each ball lies in one quarter of axes 1 and 2, about the volume's middle, and its label is the quarter. A crop that
holds one ball and no more says nothing about the quarter: there is no body, no other organ within reach and no
gradient, and all four balls have one size, intensity and noise. They are their own mirror images.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_attn.datasets.raw import Case, check_new_dataset, write_dataset

QUARTERS = {"front right": (-1, -1), "front left": (-1, 1), "back right": (1, -1), "back left": (1, 1)}
"""Name of an organ -> side along axes 1 and 2, which point to the patient's back and left."""

LABELS = {"background": 0, **{name: value for value, name in enumerate(QUARTERS, start=1)}}
NOMINAL_SIZE = (16, 128, 128)
SPACING_MM = (1.0, 1.0, 1.0)
RADIUS = (5.5, 6.5)
"""In voxels, drawn once for all organs of a case."""
SHIFT = 3
"""Largest distance, along an axis, of an organ from the middle of its quarter, in voxels."""
BACKGROUND, ORGAN, NOISE_STD = 100, 200, 20
_LARGEST_CHANGE = 4


def positions_case(size: Sequence[int], rng: np.random.Generator) -> Case:
    """Return one case as image (d h w), labels (d h w) and spacing; the same generator state gives the same arrays.

    Args:
        size: Voxels along the three axes.
        rng: Source of the radius, the shifts of the organs and the noise.
    Raises:
        ValueError: If `size` has not 3 entries, or the balls do not fit into it.
    """
    if len(size) != 3 or size[0] < 16 or min(size[1:]) < 96:
        raise ValueError(f"size={tuple(size)}: give 3 numbers of voxels, at least 16, 96 and 96")
    radius = rng.uniform(*RADIUS)
    grid = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in size], indexing="ij", sparse=True)
    image = np.full(tuple(size), BACKGROUND, np.float64)
    labels = np.zeros(tuple(size), np.uint8)
    for name, sides in QUARTERS.items():
        middle = [0, *(side * NOMINAL_SIZE[axis] / 4 for axis, side in enumerate(sides, start=1))]
        centre = middle + rng.uniform(-1, 1, 3) * (1, SHIFT, SHIFT)
        distance = np.sqrt(sum((line - place) ** 2 for line, place in zip(grid, centre, strict=True))) - radius
        image += (ORGAN - BACKGROUND) * np.clip(0.5 - distance, 0, 1)
        labels[distance < 0] = LABELS[name]
    image += rng.normal(0, NOISE_STD, tuple(size))
    return np.rint(image).astype(np.int16), labels, SPACING_MM


def write_positions(
    raw_folder: Path, dataset_id: int, name: str = "Positions", n_train: int = 10, n_test: int = 6, seed: int = 0
) -> Path:
    """Write a data set in nnU-Net's raw format, complete or not at all, and return its folder.

    Volumes differ by up to 4 voxels from `NOMINAL_SIZE` along axes 1 and 2; organs keep their place about the middle.

    Args:
        raw_folder: nnU-Net's raw folder; made if missing.
        dataset_id: 1 to 999.
        name: Part of the folder's name after `DatasetXXX_`.
        n_train: Cases with labels in `imagesTr`, `labelsTr`; nnU-Net splits them into five folds.
        n_test: Cases in `imagesTs`, `labelsTs`.
        seed: The same seed gives the same files; each case has its own stream, whatever the number of cases.
    Raises:
        InputError: If a data set of this number exists, or an argument is out of its range.
    """
    check_new_dataset(raw_folder, dataset_id, n_train, n_test, seed)

    def make_case(split: int, index: int) -> Case:
        rng = np.random.default_rng([seed, split, index])
        change = rng.integers(-_LARGEST_CHANGE, _LARGEST_CHANGE + 1, 2)
        return positions_case((NOMINAL_SIZE[0], *(int(n) for n in NOMINAL_SIZE[1:] + change)), rng)

    return write_dataset(raw_folder, f"Dataset{dataset_id:03d}_{name}", LABELS, n_train, n_test, make_case)
