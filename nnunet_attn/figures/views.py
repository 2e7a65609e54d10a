"""From volumes to pictures: which axis is sliced, how a slice lies in the picture, which slice and which part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_attn.errors import InputError
from nnunet_attn.figures.request import PLANES, Box
from nnunet_attn.registering.geometry import Grid

# Axes of the world, as in DICOM: 0 to the patient's left, 1 to the back, 2 to the head. For each plane: its normal,
# what goes to the right in the picture, what goes down, and whether these are turned; as radiologists hang pictures.
_HUNG = {"axial": (2, 0, 1, False, False), "coronal": (1, 0, 2, False, True), "sagittal": (0, 1, 2, False, True)}
_LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
_LARGEST_ZOOM = 0.85  # a box of nearly all of the picture would enlarge nothing


@dataclass(frozen=True)
class View:
    """How a volume becomes a picture.

    Args:
        axis: Array axis that is sliced; None in 2D.
        rows: Array axis that goes down in the picture.
        columns: Array axis that goes to the right.
        flip_rows: Whether the last row is on top.
        flip_columns: Whether the last column is on the left.
        name: Of the plane; empty in 2D, "axis 0" where directions are not known.
        letters: What is on the left, right, top and bottom, such as "RLAP"; empty where that is not known.
    """

    axis: int | None
    rows: int
    columns: int
    flip_rows: bool = False
    flip_columns: bool = False
    name: str = ""
    letters: str = ""

    def picture(self, array: NDArray[Any], index: int) -> NDArray[Any]:
        """Return a slice as it is shown: (z y x) or (y x) -> (rows columns)."""
        part = array if self.axis is None else array.take(index, self.axis)
        part = part.T if self.rows > self.columns else part
        return np.ascontiguousarray(part[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1])

    def aspect(self, spacing_mm: Sequence[float]) -> float:
        """Return how much higher than wide a pixel is."""
        return float(spacing_mm[self.rows] / spacing_mm[self.columns])


def view_of(shape: Sequence[int], grid: Grid | None, plane: str | int | None) -> View:
    """Return how an image is shown.

    Args:
        shape: (z y x) or (y x).
        grid: Its place in space, where it is known.
        plane: As in `FigureOptions`.
    Raises:
        InputError: If the image is 2D and a plane is given, or its directions are not known and the plane is named.
    """
    if len(shape) == 2:
        if plane is not None:
            raise InputError(f"--plane {plane}: the image is 2D and is shown as it is; leave it out")
        return View(None, 0, 1)
    single = [axis for axis, length in enumerate(shape) if length == 1]
    if plane is None and len(single) == 1:
        plane = single[0]
    if grid is None:
        if isinstance(plane, str):
            raise InputError(
                f"--plane {plane}: the file does not tell directions; give an axis of the array: 0, 1 or 2"
            )
        axis = plane or 0
        rows, columns = (each for each in range(3) if each != axis)
        return View(axis, rows, columns, name=f"axis {axis}")
    directions = np.reshape(grid.direction, (3, 3))
    # the nearest axis of the file for each of the world's, each once
    nearest = max(permutations(range(3)), key=lambda order: sum(abs(directions[w, a]) for w, a in enumerate(order)))
    axes = {w: 2 - a for w, a in enumerate(nearest)}  # files have x first, arrays z
    backward = {w: directions[w, a] < 0 for w, a in enumerate(nearest)}
    if isinstance(plane, int):
        plane = next(name for name in PLANES if axes[_HUNG[name][0]] == plane)
    name = plane or "axial"
    normal, right, down, turn_right, turn_down = _HUNG[name]
    return View(
        axes[normal],
        axes[down],
        axes[right],
        bool(backward[down]) != turn_down,
        bool(backward[right]) != turn_right,
        name,
        _LETTERS[name],
    )


def slice_index(
    choice: int | str, axis: int | None, reference: NDArray[np.integer], predictions: Mapping[str, NDArray[np.integer]]
) -> int:
    """Return the slice to show; 0 in 2D.

    Where no voxel decides, it is the slice with most predicted foreground, else the middle one.

    Args:
        choice: As in `FigureOptions`.
        axis: Array axis that is sliced; None in 2D.
        reference: (z y x) Foreground is above 0.
        predictions: Method -> labels of the same shape.
    Raises:
        InputError: If there is no such slice.
    """
    if axis is None:
        if isinstance(choice, int) and choice != 0:
            raise InputError(f"--slice {choice}: the image is 2D and has no slices; leave it out")
        return 0
    count = reference.shape[axis]
    if isinstance(choice, int):
        if not 0 <= choice < count:
            raise InputError(f"--slice {choice}: the image has the slices 0 to {count - 1} along this axis")
        return choice
    labels = list(predictions.values())
    masks: list[NDArray[np.bool_]] = []
    if choice == "disagreement" and labels:
        first, others = (labels[0], labels[1:]) if len(labels) > 1 else (reference, labels)
        masks.append(np.any([first != other for other in others], axis=0))
    masks.append(reference > 0)
    for mask in masks:
        if (index := _fullest(mask, axis)) is not None:
            return index
    predicted = sum((_counts(each > 0, axis) for each in labels), np.zeros(count, int))
    return int(predicted.argmax()) if predicted.any() else count // 2


def _fullest(mask: NDArray[np.bool_], axis: int) -> int | None:
    counts = _counts(mask, axis)
    return int(counts.argmax()) if counts.any() else None


def _counts(mask: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    return np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1).sum(1)


def checked_box(box: Box, shape: Sequence[int]) -> Box:
    """Return the box, if it lies in a picture of this shape.

    Raises:
        InputError: If it does not.
    """
    rows, columns = shape
    if box[2] > columns or box[3] > rows:
        raise InputError(
            f"--zoom {' '.join(map(str, box))}: the picture is {columns} pixels wide and {rows} high; "
            f"give X1 up to {columns} and Y1 up to {rows}"
        )
    return box


def box_around(mask: NDArray[np.bool_], aspect: float) -> Box | None:
    """Return a box around a mask, with a margin and in the picture's proportions.

    Args:
        mask: (rows columns)
        aspect: How much higher than wide a pixel is.
    Returns:
        None if the mask is empty, or nearly fills the picture.
    """
    if not mask.any():
        return None
    rows, columns = mask.shape
    spans = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    share = max(0.0, *((span[-1] + 1 - span[0]) / length for span, length in zip(spans, mask.shape, strict=True)))
    smallest = min(rows * aspect, columns) * 0.15  # of a few pixels one would not see where they lie
    share = max(share * 1.3, smallest / (rows * aspect), smallest / columns)
    if share > _LARGEST_ZOOM:
        return None
    places = []
    for span, length in zip(spans, mask.shape, strict=True):
        size = max(1, round(share * length))
        start = round((span[0] + span[-1] + 1 - size) / 2)
        start = min(max(0, start), length - size)
        places.append((start, start + size))
    (top, bottom), (left, right) = places
    return left, top, right, bottom
