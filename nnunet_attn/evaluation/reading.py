"""Reads a prediction and its reference by nnU-Net's reader, and checks that they can be compared."""

import contextlib
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.description import LARGEST_LABEL, reader_class

SPACING_WARNED, SPACING_REFUSED = 1e-3, 1e-2
"""Relative differences of spacing that are warned about, and refused."""
DIRECTION_WARNED, DIRECTION_REFUSED = 1e-3, 0.1
"""Differences of a direction cosine."""
ORIGIN_WARNED = 0.1
"""Distance of origins in voxels; never refused, since many tools drop the origin and leave the array as it is."""

_NO_SPACING = 999  # what nnU-Net's readers put, as a factor, where a 2D image has no third axis


@dataclass(frozen=True)
class LabelImage:
    """A label file.

    Args:
        labels: (z y x), or (y x) of a 2D image.
        spacing_mm: Along these axes.
        origin: In the world, None where the format has none.
        direction: (dims dims), columns are the axes x, y, (z) in the world, None where the format has none.
    """

    labels: NDArray[np.integer[Any]]
    spacing_mm: tuple[float, ...]
    origin: NDArray[np.float64] | None
    direction: NDArray[np.float64] | None


def read_labels(file: Path, reader: str, known_values: frozenset[int]) -> LabelImage:
    """Read a label file.

    Args:
        file: The file.
        reader: Name of nnU-Net's reader class.
        known_values: Values that dataset.json declares.
    Raises:
        InputError: If it cannot be read, has several channels, or holds other values.
    """
    printed = io.StringIO()
    try:
        if file.name.endswith(".gz"):
            _check_gzip(file)
        if file.name.endswith((".nii", ".nii.gz")):
            _check_finite(file)
        with contextlib.redirect_stdout(printed):
            array, properties = reader_class(reader)().read_seg(str(file))
    except InputError:
        raise
    except Exception as error:  # readers raise whatever their libraries do
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"{file} cannot be read by nnU-Net's {reader} ({lines[-1] if lines else type(error).__name__}); "
            "make or copy it anew"
        ) from error
    if array.ndim != 4 or array.shape[0] != 1:
        raise InputError(f"{file} has {array.shape[0]} channels, labels have one; give the file with the labels")
    labels = _as_integers(array[0], file)
    spacing = tuple(float(step) for step in properties["spacing"])
    if labels.shape[0] == 1 and spacing[0] >= (_NO_SPACING - 1) * max(spacing[1:]):
        labels, spacing = labels[0], spacing[1:]
    unknown = sorted(set(_values(labels)) - known_values)
    if unknown:
        raise InputError(
            f"{file} holds the value {unknown[0]}, and dataset.json has {', '.join(map(str, sorted(known_values)))}; "
            "give the dataset.json that belongs to it (-djfile FILE), or mend the file"
        )
    return LabelImage(labels, spacing, *_geometry(properties))


def read_pair(
    prediction: Path, reference: Path, reader: str, known_values: frozenset[int]
) -> tuple[LabelImage, LabelImage, tuple[str, ...]]:
    """Read a prediction and its reference, and compare their grids.

    Returns:
        prediction, reference, and warnings about small differences of their geometry.
    Raises:
        InputError: If one cannot be read, or shape, spacing (by over 1 %) or direction (a cosine by over 0.1) differ.
    """
    predicted, wanted = (read_labels(file, reader, known_values) for file in (prediction, reference))
    if predicted.labels.shape != wanted.labels.shape:
        raise InputError(
            f"{prediction} has the shape {_by(predicted.labels.shape)} and its reference {reference} "
            f"{_by(wanted.labels.shape)}; predict the image that belongs to the reference"
        )
    remedy = "the arrays are compared voxel by voxel: give the prediction the reference's geometry, or predict anew"
    warnings = []
    differing = max(abs(a - b) / b for a, b in zip(predicted.spacing_mm, wanted.spacing_mm, strict=True))
    text = f"spacing {_by(predicted.spacing_mm)} mm, and the reference's is {_by(wanted.spacing_mm)}"
    if differing > SPACING_REFUSED:
        raise InputError(f"{prediction} has the {text}; {remedy}")
    if differing > SPACING_WARNED:
        warnings.append(f"{text}, which was used")
    if predicted.direction is not None and wanted.direction is not None:
        turned = float(np.abs(predicted.direction - wanted.direction).max())
        if turned > DIRECTION_REFUSED:
            raise InputError(f"{prediction} has other axes (direction) than its reference {reference}; {remedy}")
        if turned > DIRECTION_WARNED:
            warnings.append("the direction of the axes is slightly other than the reference's")
    if predicted.origin is not None and wanted.origin is not None:
        shift = float(np.linalg.norm(predicted.origin - wanted.origin)) / min(wanted.spacing_mm)
        if shift > ORIGIN_WARNED:
            warnings.append(f"the origin is {shift:.3g} voxels from the reference's; the arrays were compared as is")
    return predicted, wanted, tuple(warnings)


def _check_gzip(file: Path) -> None:
    """Read a compressed file to its end, where its length and checksum are: ITK takes what a truncated one still has.

    Raises:
        EOFError, OSError, zlib.error: If it is truncated or damaged.
    """
    with gzip.open(file) as stream:
        while stream.read(2**20):
            pass


def _check_finite(file: Path) -> None:
    """Look for NaN and infinity in a NIfTI file of floating-point numbers: ITK reads them as 0.

    Raises:
        InputError: If there is one.
    """
    import nibabel

    try:
        image: Any = nibabel.load(file)
        finite = image.get_data_dtype().kind != "f" or bool(np.isfinite(np.asanyarray(image.dataobj)).all())
    except Exception:  # nnU-Net's reader tells what is wrong with it
        return
    if not finite:
        raise InputError(f"{file} holds values that are no numbers (NaN or infinity); write its labels anew")


def _as_integers(array: NDArray[Any], file: Path) -> NDArray[np.integer[Any]]:
    low, high = float(array.min()), float(array.max())  # NaN passes through min and max
    if np.isfinite(low) and np.isfinite(high):
        if low < -LARGEST_LABEL or high > LARGEST_LABEL:
            wrong = low if low < -LARGEST_LABEL else high
            raise InputError(f"{file} holds the value {wrong:g}, which is no label; give the file with the labels")
        integers = array.astype(np.uint8 if low >= 0 and high < 256 else np.int32)
        if (integers == array).all():
            return integers
    raise InputError(f"{file} holds values that are no integers; labels are integers: give the file with the labels")


def _values(labels: NDArray[np.integer[Any]]) -> list[int]:
    if labels.dtype == np.uint8:  # counting is several times faster than sorting a whole volume
        return np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()
    return np.unique(labels).tolist()


def _geometry(properties: dict[str, Any]) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    if "sitk_stuff" in properties:
        origin = np.asarray(properties["sitk_stuff"]["origin"], dtype=float)
        return origin, np.asarray(properties["sitk_stuff"]["direction"], dtype=float).reshape(len(origin), -1)
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]  # a reader that turned the array says where it lies since
        affine = np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), dtype=float)
        return affine[:3, 3], affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return None, None


def _by(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
