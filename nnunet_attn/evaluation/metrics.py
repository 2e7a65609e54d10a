"""The metrics of one case; docs/reference/metrics.md says what each means and what empty masks do."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.results import METRICS, SURFACE_METRICS
from nnunet_attn.evaluation.surfaces import SURFACES, surface_distances

_Box = tuple[slice, ...]
_LARGEST_LABEL = 2**24 - 1  # the table of labels has a place for each value up to the largest
_SLAB_VOXELS = 2**22  # voxels looked at together, so that a whole CT needs no temporary of its size


@dataclass(frozen=True)
class _LabelMaps:
    """Two label maps whose labels are numbered from 1 in the order of `values`; 0 is all else.

    Args:
        prediction: (y x) or (z y x).
        reference: Of the same shape.
        values: Label values that belong to a class, ascending.
        counts: Voxels by number in the prediction and number in the reference.
    """

    prediction: NDArray[np.unsignedinteger]
    reference: NDArray[np.unsignedinteger]
    values: tuple[int, ...]
    counts: NDArray[np.int64]


def case_metrics(
    prediction: NDArray,
    reference: NDArray,
    spacing_mm: Sequence[float],
    classes: Mapping[str, tuple[int, ...]],
    metrics: Sequence[str] = METRICS,
    tolerance_mm: Mapping[str, float] | float = 1.0,
    surface: str = "area",
    ignore: int | None = None,
) -> dict[str, dict[str, float]]:
    """Compare a prediction with its reference.

    NaN where both masks of a class are empty; where one is, overlap and NSD are 0, distances infinite, and the relative
    volume difference is infinite if it is the reference's.

    Args:
        prediction: Label map, (y x) or (z y x); floats have to be whole numbers.
        reference: Label map of the same shape.
        spacing_mm: One for each axis, in the arrays' order.
        classes: Class -> its label values; several for a region.
        metrics: Which of `METRICS`; without one of surfaces none is looked for.
        tolerance_mm: Of the normalised surface distance, for all classes or by class.
        surface: "area" or "erosion"; see `nnunet_attn.evaluation.surfaces`.
        ignore: Value of the reference whose voxels are background in both masks.
    Returns:
        Class -> metric -> value.
    Raises:
        InputError: If shapes or numbers of axes differ or are not supported, spacing or tolerance is not positive, a
            label is not a whole number, or a class, metric or surface is not what it may be.
    """
    prediction, reference = _checked_maps(prediction, reference)
    spacing = _checked_spacing(spacing_mm, prediction.ndim)
    tolerances = _checked_settings(classes, metrics, tolerance_mm, surface, ignore)
    maps = _numbered(prediction, reference, classes, ignore)
    wants_surfaces = any(metric in SURFACE_METRICS for metric in metrics)
    boxes = _joint_boxes(maps) if wants_surfaces else {}
    found = {}
    for name, labels in classes.items():
        member = np.zeros(len(maps.values) + 1, dtype=bool)
        member[[maps.values.index(label) + 1 for label in labels]] = True
        values = _voxel_metrics(maps.counts, member, math.prod(spacing))
        if wants_surfaces:
            values |= _surface_metrics(maps, member, boxes, spacing, tolerances[name], surface)
        found[name] = {metric: values[metric] for metric in metrics}
    return found


def _voxel_metrics(counts: NDArray[np.int64], member: NDArray[np.bool_], voxel_size: float) -> dict[str, float]:
    """Overlap and volumes from the counts of all pairs of labels.

    Args:
        counts: By number in the prediction and in the reference.
        member: Which numbers belong to the class.
        voxel_size: In mm^3, in 2D mm^2.
    """
    both = int(counts[np.ix_(member, member)].sum())
    predicted, present = int(counts[member].sum()), int(counts[:, member].sum())
    if not predicted and not present:
        return dict.fromkeys(METRICS, math.nan)
    return {
        "dice": 2 * both / (predicted + present),
        "iou": both / (predicted + present - both),
        # Of an empty mask 0, not undefined: else a mean would get better by predicting nothing in a hard case.
        "precision": both / predicted if predicted else 0.0,
        "recall": both / present if present else 0.0,
        "volume_difference_mm3": (predicted - present) * voxel_size,
        "relative_volume_difference": (predicted - present) / present if present else math.inf,
    }


def _surface_metrics(
    maps: _LabelMaps,
    member: NDArray[np.bool_],
    boxes: Mapping[int, _Box],
    spacing_mm: tuple[float, ...],
    tolerance_mm: float,
    surface: str,
) -> dict[str, float]:
    voxels = maps.counts[member].sum(), maps.counts[:, member].sum()
    if not any(voxels):
        return dict.fromkeys(SURFACE_METRICS, math.nan)
    if not all(voxels):
        return {"nsd": 0.0, "hd95_mm": math.inf, "assd_mm": math.inf}
    # background outside the box: a surface there is the same as that of the whole arrays, also at their borders
    box = _union([boxes[number] for number in np.flatnonzero(member).tolist() if number in boxes])
    predicted, present = (_mask(labels[box], member) for labels in (maps.prediction, maps.reference))
    distances = surface_distances(predicted, present, spacing_mm, surface)
    return {
        "nsd": distances.nsd(tolerance_mm),
        "hd95_mm": distances.hd95_mm(),
        "assd_mm": distances.assd_mm(),
    }


def _mask(labels: NDArray[np.unsignedinteger], member: NDArray[np.bool_]) -> NDArray[np.bool_]:
    numbers = np.flatnonzero(member)
    return labels == numbers[0] if len(numbers) == 1 else member[labels]


def _numbered(
    prediction: NDArray, reference: NDArray, classes: Mapping[str, tuple[int, ...]], ignore: int | None
) -> _LabelMaps:
    """Number the labels that belong to a class, and count all pairs, in one pass over the slabs of both maps."""
    values = tuple(sorted({label for labels in classes.values() for label in labels}))
    number = np.zeros(max(values, default=0) + 2, dtype=np.min_scalar_type(len(values)))
    number[list(values)] = np.arange(1, len(values) + 1)
    size = len(values) + 1
    counts = np.zeros(size * size, dtype=np.int64)
    ours, theirs = np.empty(prediction.shape, number.dtype), np.empty(prediction.shape, number.dtype)
    rows = max(1, _SLAB_VOXELS // max(1, math.prod(prediction.shape[1:])))
    for start in range(0, len(prediction), rows):
        slab = slice(start, start + rows)
        # values beyond the table are cut to its two ends, which belong to no class
        ours[slab] = number.take(_places(prediction[slab]), mode="clip")
        theirs[slab] = number.take(_places(reference[slab]), mode="clip")
        if ignore is not None:
            ours[slab][reference[slab] == ignore] = 0
        pairs = ours[slab].astype(np.intp)
        pairs *= size
        pairs += theirs[slab]
        counts += np.bincount(pairs.ravel(), minlength=size * size)
    return _LabelMaps(ours, theirs, values, counts.reshape(size, size))


def _places(labels: NDArray) -> NDArray[np.intp]:
    """Whole numbers of a slab as indices.

    Raises:
        InputError: If one is not whole.
    """
    with np.errstate(invalid="ignore"):  # NaN and infinity are told below
        places = labels.astype(np.intp)
    if labels.dtype.kind == "f" and not np.array_equal(places, labels):
        wrong = labels[places != labels].flat[0]
        raise InputError(f"a label map holds {wrong:g}; labels are whole numbers: write it without interpolation")
    return places


def _joint_boxes(maps: _LabelMaps) -> dict[int, _Box]:
    """Box of each number over both maps, by one pass over each of them; none for a number that is in neither."""
    found: dict[int, _Box] = {}
    for labels in (maps.prediction, maps.reference):
        for number, box in enumerate(find_objects(labels, max_label=len(maps.values)), 1):
            if box is not None:
                found[number] = _union([box, *([found[number]] if number in found else [])])
    return found


def _union(boxes: Sequence[_Box]) -> _Box:
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts)) for parts in zip(*boxes, strict=True)
    )


def _checked_maps(prediction: NDArray, reference: NDArray) -> tuple[NDArray, NDArray]:
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.shape != reference.shape:
        raise InputError(
            f"the prediction is {prediction.shape}, the reference {reference.shape}; they have to be of one "
            "shape: resample the prediction to the reference"
        )
    if prediction.ndim not in (2, 3):
        raise InputError(f"label maps of the shape {prediction.shape}; they have to be (y x) or (z y x)")
    for labels in (prediction, reference):
        if labels.dtype.kind not in "buif":
            raise InputError(f"a label map holds {labels.dtype}; labels are whole numbers")
    return prediction, reference


def _checked_spacing(spacing_mm: Sequence[float], axes: int) -> tuple[float, ...]:
    spacing = tuple(map(float, spacing_mm))
    if len(spacing) != axes or not all(0 < step < math.inf for step in spacing):
        raise InputError(f"spacing {spacing}; {axes} positive lengths in mm are needed, in the order of the axes")
    return spacing


def _checked_settings(
    classes: Mapping[str, tuple[int, ...]],
    metrics: Sequence[str],
    tolerance_mm: Mapping[str, float] | float,
    surface: str,
    ignore: int | None,
) -> dict[str, float]:
    """Return the tolerance of each class."""
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise InputError(f"unknown metric {unknown[0]!r}; there are {', '.join(METRICS)}")
    if surface not in SURFACES:
        raise InputError(f"unknown surface {surface!r}; there are {', '.join(SURFACES)}")
    for name, labels in classes.items():
        if not labels or any(not 1 <= label <= _LARGEST_LABEL or label == ignore for label in labels):
            raise InputError(
                f"class {name!r} has the labels {tuple(labels)}; one or more above 0 (the background), up to "
                f"{_LARGEST_LABEL}, are needed" + ("" if ignore is None else f", without {ignore}, which is ignored")
            )
    if not isinstance(tolerance_mm, Mapping):
        tolerance_mm = dict.fromkeys(classes, float(tolerance_mm))
    if missing := [name for name in classes if name not in tolerance_mm]:
        raise InputError(f"no tolerance in mm for the class {missing[0]!r}; each class needs one")
    for name in classes:
        if not 0 <= tolerance_mm[name] < math.inf:
            raise InputError(f"tolerance {tolerance_mm[name]:g} mm of the class {name!r}; it has to be 0 or more")
    return {name: float(tolerance_mm[name]) for name in classes}
