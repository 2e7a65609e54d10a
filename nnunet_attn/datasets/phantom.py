"""A made abdomen in nnU-Net's raw format: small, seeded, and with two organs that only their position tells apart.

The two kidneys are one shape, mirrored at the midline and of one intensity, so that a network has to know where it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_attn.datasets.raw import Case, check_new_dataset, write_dataset
from nnunet_attn.errors import InputError

LABELS = {"background": 0, "liver": 1, "lesion": 2, "left kidney": 3, "right kidney": 4}
# The 2D patch is more than 1.5 times as wide as high: nnU-Net then rotates by up to 15 degrees instead of 180.
NOMINAL_SIZE = {2: (64, 112), 3: (16, 32, 48)}
NOMINAL_SPACING_MM = {2: (1.0, 1.0), 3: (2.0, 1.0, 1.0)}
INTENSITY = {"spine": 180, "liver": 160, "lesion": 340, "left kidney": 260, "right kidney": 260}
AIR, BODY = 10, 100
NOISE_STD = 12

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Anatomy:
    """One patient's shapes, in units of half the body's depth; x points to the patient's left, y back, z up.

    Args:
        liver_scale: Factor on the liver's size.
        lesion_centre: x, y, z of the lesion, a sphere in the liver.
        lesion_radius: Its radius.
        kidney_centre: x, y, z of the left kidney; the right one has -x.
        kidney_scale: Factor on the size of both kidneys.
        warp: (3 modes) Amplitudes of a smooth displacement that keeps the midline and the mirror symmetry.
    """

    liver_scale: float
    lesion_centre: tuple[float, float, float]
    lesion_radius: float
    kidney_centre: tuple[float, float, float]
    kidney_scale: float
    warp: tuple[float, float, float]


def draw_anatomy(rng: np.random.Generator, dim: int = 3) -> Anatomy:
    """Return a random patient; in 2D the lesion lies in the slice that is looked at, z = 0."""
    lesion = np.array([-0.5, -0.32, 0.1]) + rng.uniform(-1, 1, 3) * (0.2, 0.08, 0.15)
    return Anatomy(
        liver_scale=rng.uniform(0.95, 1.05),
        lesion_centre=(float(lesion[0]), float(lesion[1]), float(lesion[2]) if dim == 3 else 0.0),
        lesion_radius=rng.uniform(0.25, 0.3),
        kidney_centre=(rng.uniform(0.58, 0.66), rng.uniform(0.45, 0.5), rng.uniform(-0.1, 0.0)),
        kidney_scale=rng.uniform(0.92, 1.08),
        warp=(rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04)),
    )


def signed_distances(anatomy: Anatomy, points: Floats) -> dict[str, Floats]:
    """Return each structure's signed distance (negative inside), in the anatomy's units, at points.

    (3 ...) -> name: (...); the first axis of `points` is x, y, z in the body's own frame.
    """
    x, y, z = _warped(anatomy, points)
    scale = anatomy.liver_scale
    right_lobe = _ellipsoid((x, y, z), (-0.5, -0.32, 0.1), (0.6 * scale, 0.46 * scale, 0.65 * scale))
    left_lobe = _ellipsoid((x, y, z), (0.15, -0.4, 0.1), (0.5 * scale, 0.22 * scale, 0.4 * scale))
    centre_x, centre_y, centre_z = anatomy.kidney_centre
    return {
        "body": 0.92 * np.hypot(x / 1.3, y / 0.92) - 0.92,
        "spine": np.hypot(x, y - 0.5) - 0.16,
        "liver": np.minimum(right_lobe, left_lobe),
        "lesion": _ellipsoid((x, y, z), anatomy.lesion_centre, (anatomy.lesion_radius,) * 3),
        "left kidney": _bean(x - centre_x, y - centre_y, z - centre_z, anatomy.kidney_scale),
        "right kidney": _bean(-x - centre_x, y - centre_y, z - centre_z, anatomy.kidney_scale),
    }


def _warped(anatomy: Anatomy, points: Floats) -> Floats:
    x, y, z = points
    across, back, up = anatomy.warp
    # Even in x along y and z, odd in x along x: the right half stays the mirror image of the left half.
    return np.stack(
        [
            x + across * np.sin(3 * x) * np.cos(2 * y + z),
            y + back * np.cos(3 * x) * np.cos(2 * z),
            z + up * np.cos(2 * x) * np.cos(3 * y),
        ]
    )


def _ellipsoid(points: Sequence[Floats], centre: Sequence[float], radii: Sequence[float]) -> Floats:
    offset = [axis - middle for axis, middle in zip(points, centre, strict=True)]
    norm = np.sqrt(np.sum([(o / r) ** 2 for o, r in zip(offset, radii, strict=True)], axis=0))
    slope = np.sqrt(np.sum([(o / r**2) ** 2 for o, r in zip(offset, radii, strict=True)], axis=0))
    return np.where(norm > 1e-6, norm * (norm - 1) / np.maximum(slope, 1e-9), -min(radii))


def _bean(x: Floats, y: Floats, z: Floats, scale: float) -> Floats:
    # The hilum points forward, not to the midline, where it would tell left from right without any position.
    outline = _ellipsoid((x, y, z), (0, 0, 0), (0.27 * scale, 0.27 * scale, 0.55 * scale))
    hilum = _ellipsoid((x, y, z), (0, -0.28 * scale, 0), (0.12 * scale, 0.16 * scale, 0.18 * scale))
    return np.maximum(outline, -hilum)


def phantom_case(
    dim: int, size: Sequence[int], rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.uint8], tuple[float, ...]]:
    """Return one case as image, labels and spacing; the same generator state gives the same arrays.

    Args:
        dim: 2 or 3.
        size: Voxels along (z,) y, x.
        rng: Source of the anatomy, pose, spacing, bias field and noise.
    Returns:
        image: (d h w) or (h w), with a smooth multiplicative bias field, soft edges and Gaussian noise.
        labels: Same shape, values as in `LABELS`.
        spacing_mm: Along the same axes.
    Raises:
        ValueError: If `dim` is neither 2 nor 3, or `size` has not `dim` entries, or one below 12.
    """
    if dim not in (2, 3):
        raise ValueError(f"dim={dim}: a phantom has 2 or 3 axes")
    if len(size) != dim or min(size) < 12:
        raise ValueError(f"size={tuple(size)}: give {dim} numbers of voxels, each at least 12")
    in_plane_mm = round(rng.uniform(0.95, 1.05), 2)
    spacing_mm = tuple(step * in_plane_mm for step in NOMINAL_SPACING_MM[dim])
    # The patient keeps its size when the voxels change theirs.
    unit_mm = 0.5 * min(n * step for n, step in zip(size, NOMINAL_SPACING_MM[dim], strict=True))
    anatomy = draw_anatomy(rng, dim)
    grid = np.meshgrid(*[_centred(n) * step / unit_mm for n, step in zip(size, spacing_mm, strict=True)], indexing="ij")
    z = grid[0] if dim == 3 else np.zeros(tuple(size))
    points = _posed(np.stack([grid[-1], grid[-2], z]), rng)

    distances = signed_distances(anatomy, points)
    edge = 1.5 * in_plane_mm / unit_mm
    image = AIR + (BODY - AIR) * _occupancy(distances["body"], edge)
    labels = np.zeros(tuple(size), np.uint8)
    for structure, intensity in INTENSITY.items():
        image += (intensity * rng.uniform(0.95, 1.05) - image) * _occupancy(distances[structure], edge)
        if structure in LABELS:
            labels[distances[structure] < 0] = LABELS[structure]
    image *= _bias_field(points, rng)
    image += rng.normal(0, NOISE_STD, tuple(size))
    return np.rint(image).astype(np.int16), labels, spacing_mm


def _centred(length: int) -> Floats:
    return np.arange(length) - (length - 1) / 2


def _posed(points: Floats, rng: np.random.Generator) -> Floats:
    """Turn the patient in the axial plane by up to 6 degrees and shift it by up to 0.06 units; rigid."""
    angle = np.deg2rad(rng.uniform(-6, 6))
    shift = rng.uniform(-0.06, 0.06, 2)
    x, y = points[0] - shift[0], points[1] - shift[1]
    return np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y, points[2]])


def _occupancy(distance: Floats, edge: float) -> Floats:
    """Return the share of a voxel that lies inside: a ramp that is `edge` wide, half way at the surface."""
    return np.clip(0.5 - distance / edge, 0, 1)


def _bias_field(points: Floats, rng: np.random.Generator) -> Floats:
    direction = rng.uniform(-1, 1, 3)
    return np.exp(0.12 * np.sin(np.tensordot(direction, points, axes=1) * 1.5 + rng.uniform(0, 2 * np.pi)))


def write_phantom(
    raw_folder: Path,
    dataset_id: int,
    name: str = "Phantom",
    dim: int = 3,
    n_train: int = 15,
    n_test: int = 4,
    seed: int = 0,
    size: Sequence[int] | None = None,
) -> Path:
    """Write a data set in nnU-Net's raw format, complete or not at all, and return its folder.

    2D images are 2D NIfTI files: nnU-Net reads them, spacing included, with the reader that it uses in 3D.

    Args:
        raw_folder: nnU-Net's raw folder; made if missing.
        dataset_id: 1 to 999.
        name: Part of the folder's name after `DatasetXXX_`.
        dim: 2 or 3.
        n_train: Cases with labels in `imagesTr`, `labelsTr`; nnU-Net splits them into five folds.
        n_test: Cases in `imagesTs`, `labelsTs`.
        seed: The same seed gives the same files; each case has its own stream, whatever the number of cases.
        size: Nominal voxels along (z,) y, x; each case differs from it by up to 2 in plane and 1 along z.
    Raises:
        InputError: If a data set of this number exists, or an argument is out of its range.
    """
    if dim not in (2, 3):
        raise InputError(f"dim={dim}: a phantom has 2 or 3 axes")
    check_new_dataset(raw_folder, dataset_id, n_train, n_test, seed)
    nominal = tuple(NOMINAL_SIZE[dim] if size is None else size)
    if len(nominal) != dim or min(nominal) < 14:
        raise InputError(f"size={nominal}: give {dim} numbers of voxels, each at least 14")

    def make_case(split: int, index: int) -> Case:
        rng = np.random.default_rng([seed, dim, split, index])
        varied = nominal[:-2] + tuple(n + 2 * int(rng.integers(-1, 2)) for n in nominal[-2:])
        if dim == 3:
            varied = (varied[0] + int(rng.integers(-1, 2)), *varied[1:])
        return phantom_case(dim, varied, rng)

    return write_dataset(raw_folder, f"Dataset{dataset_id:03d}_{name}", LABELS, n_train, n_test, make_case)
