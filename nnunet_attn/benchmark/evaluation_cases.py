"""Made label maps to measure the evaluation with: organ-like blobs, and predictions that nearly meet them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

_KNOTS = 7  # of the noise along each axis of an organ: bumps of about a third of its radius


@dataclass(frozen=True)
class Size:
    """A kind of case.

    Args:
        name: What it is called in results.
        shape: Voxels, (z y x) or (y x).
        spacing_mm: In the same order.
        organs: Half the axes of each organ, in voxels; label k + 1 is the k-th.
        error: Standard deviation of the prediction's surface from the reference's, in radii.
    """

    name: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    organs: tuple[tuple[float, ...], ...]
    error: float


HIPPOCAMPUS = Size("hippocampus", (35, 50, 35), (1.0, 1.0, 1.0), ((8, 9, 8), (7, 12, 7)), 0.12)

# Liver, spleen, two kidneys, stomach, pancreas, gallbladder, aorta, vena cava, oesophagus, duodenum, two adrenal
# glands, bladder: roughly as large as in adults at this spacing
CT = Size(
    "ct",
    (200, 512, 512),
    (2.5, 0.8, 0.8),
    (
        *((32, 95, 110), (22, 55, 42), (21, 38, 33), (21, 37, 33), (25, 55, 65), (14, 28, 70), (10, 20, 24)),
        *((70, 15, 15), (55, 15, 17), (28, 12, 13), (18, 28, 35), (7, 13, 17), (7, 12, 17), (15, 45, 50)),
    ),
    0.06,
)
SIZES = {size.name: size for size in (HIPPOCAMPUS, CT)}


def scaled_down(size: Size, factor: int) -> Size:
    """Return a size with voxels `factor` times as large along each axis, for tries."""
    if factor == 1:
        return size
    return Size(
        f"{size.name}/{factor}",
        tuple(max(8, length // factor) for length in size.shape),
        tuple(step * factor for step in size.spacing_mm),
        tuple(tuple(max(1.5, half / factor) for half in organ) for organ in size.organs),
        size.error,
    )


def made_case(size: Size, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a prediction and its reference."""
    rng = np.random.default_rng(seed)
    prediction, reference = np.zeros(size.shape, np.uint8), np.zeros(size.shape, np.uint8)
    for label, organ in enumerate(size.organs, 1):
        halves = zip(organ, size.shape, strict=True)
        reach = [min(math.ceil(1.3 * half) + 1, (length - 1) // 2) for half, length in halves]
        centre = [int(rng.integers(far, length - far)) for far, length in zip(reach, size.shape, strict=True)]
        box = tuple(slice(at - far, at + far + 1) for at, far in zip(centre, reach, strict=True))
        shape = noise(rng, [2 * far + 1 for far in reach], 0.12)
        radius = _radius(organ, reach)
        reference[box][radius + shape < 1] = label
        prediction[box][radius + shape + noise(rng, shape.shape, size.error) < 1] = label
    return prediction, reference


def noise(rng: np.random.Generator, shape: Sequence[int], deviation: float) -> NDArray[np.float32]:
    """Return smooth noise: normal values at a few knots, interpolated between them."""
    knots = rng.normal(0, deviation, [_KNOTS] * len(shape)).astype(np.float32)
    return np.asarray(zoom(knots, [length / _KNOTS for length in shape], order=1))


def _radius(organ: Sequence[float], reach: Sequence[int]) -> NDArray[np.float32]:
    axes = [np.arange(-far, far + 1, dtype=np.float32) / half for far, half in zip(reach, organ, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    squares = np.add.reduce(np.broadcast_arrays(*(axis**2 for axis in grid)))
    return np.sqrt(squares).astype(np.float32)
