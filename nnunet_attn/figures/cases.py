"""Reads what a row of a figure shows, and checks that it belongs together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.description import Description, read_description
from nnunet_attn.evaluation.metrics import case_metrics
from nnunet_attn.evaluation.reading import DIRECTION_REFUSED, SPACING_REFUSED
from nnunet_attn.figures.request import Box, FigureCase, FigureOptions
from nnunet_attn.figures.views import View, box_around, checked_box, slice_index, view_of
from nnunet_attn.registering.geometry import Grid
from nnunet_attn.registering.picture import Picture
from nnunet_attn.registering.reading import read_labels, read_picture

Classes = Mapping[str, tuple[int, ...]]
_Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Shown:
    """What a row of a figure shows.

    Args:
        case: What was asked for.
        image: (rows columns) Grey values, or (rows columns 3) from 0 to 1.
        limits: Grey values that are black and white; of no meaning for colours.
        reference: (rows columns) Labels.
        predictions: Method -> labels of the same shape.
        view: How the slice lies in the picture.
        index: Of the slice in the file.
        aspect: How much higher than wide a pixel is.
        box: To enlarge.
        dice: Method -> class -> Dice of the whole image; NaN where both masks are empty.
    """

    case: FigureCase
    image: NDArray[Any]
    limits: tuple[float, float]
    reference: _Labels
    predictions: Mapping[str, _Labels]
    view: View
    index: int
    aspect: float
    box: Box | None
    dice: Mapping[str, Mapping[str, float]]

    @property
    def ratio(self) -> float:
        """Height of the picture, as a share of its width."""
        return self.aspect * self.image.shape[0] / self.image.shape[1]


@dataclass(frozen=True)
class Loaded:
    """A case in memory."""

    case: FigureCase
    picture: Picture
    reference: _Labels
    predictions: Mapping[str, _Labels]
    spacing_mm: tuple[float, ...]


def described(options: FigureOptions) -> Description | None:
    """Return what dataset.json says; None without one."""
    return None if options.dataset_json is None else read_description(options.dataset_json)


def load_case(case: FigureCase, description: Description | None) -> Loaded:
    """Read the files of a case.

    Raises:
        InputError: If one is missing or damaged, has four axes or an undeclared label, or does not fit the image.
    """
    if not case.predictions:
        raise InputError(f"{case.name}: there is no prediction to show; give at least one")
    picture = read_picture(_existing(case.image, f"the image of {case.name}"))
    labels = {}
    for what, file in {
        "reference": case.reference,
        **{f"prediction of {k}": v for k, v in case.predictions.items()},
    }.items():
        labels[what] = _labels(file, what, case, picture, description)
    reference, *predicted = labels.values()
    spacing = (1.0,) * reference.ndim if picture.grid is None else tuple(reversed(picture.grid.spacing))
    return Loaded(case, picture, reference, dict(zip(case.predictions, predicted, strict=True)), spacing)


def _existing(file: Path, what: str) -> Path:
    try:
        there = file.exists()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); allow it, or give another") from error
    if not there:
        raise InputError(f"{file}, {what}, does not exist; correct its name, or make it first")
    return file


def _labels(file: Path, what: str, case: FigureCase, picture: Picture, description: Description | None) -> _Labels:
    labels, own = read_labels(_existing(file, f"the {what} for {case.name}"))
    if labels.shape != picture.shape:
        raise InputError(
            f"{file} is {_by(labels.shape)} voxels and the image {case.image} {_by(picture.shape)}; give the file that "
            "belongs to this image"
        )
    if own.grid is not None and picture.grid is not None:
        _check_place(file, own.grid, case.image, picture.grid)
    if description is not None:
        unknown = sorted(set(np.unique(labels).tolist()) - description.known_values)
        if unknown:
            known = ", ".join(map(str, sorted(description.known_values)))
            raise InputError(
                f"{file} holds the value {unknown[0]}, and dataset.json has {known}; give the dataset.json that "
                "belongs to it (-djfile FILE), or mend the file"
            )
    elif (labels < 0).any():
        raise InputError(f"{file} holds the value {labels.min()}; labels are 0 or more: give the file with the labels")
    return labels


def _check_place(file: Path, own: Grid, image: Path, wanted: Grid) -> None:
    """Check spacing and directions; the origin is left aside, as in evaluation: many tools drop it."""
    remedy = "give the file that belongs to this image, or give it the image's geometry"
    if np.abs(np.divide(own.spacing, wanted.spacing) - 1).max() > SPACING_REFUSED:
        raise InputError(
            f"{file} has the spacing {_by(own.spacing)} mm and the image {image} {_by(wanted.spacing)} mm; {remedy}"
        )
    if np.abs(np.subtract(own.direction, wanted.direction)).max() > DIRECTION_REFUSED:
        raise InputError(f"{file} has other axes (direction) than the image {image}; {remedy}")


def classes_of(loaded: list[Loaded], description: Description | None) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Return class -> label values, the largest regions first, and the ignore label.

    Without a description, each value that occurs is a class.
    """
    if description is None:
        arrays = [array for each in loaded for array in (each.reference, *each.predictions.values())]
        values = sorted({int(value) for array in arrays for value in np.unique(array)} - {0})
        return {f"label {value}": (value,) for value in values}, None
    ordered = sorted(description.classes.items(), key=lambda item: -len(item[1]))  # small ones are drawn over them
    return dict(ordered), description.ignore


def show_case(loaded: Loaded, options: FigureOptions, classes: Classes, ignore: int | None) -> Shown:
    """Choose slice, box and grey values of a case.

    Raises:
        InputError: If there is no such slice, plane, channel or box.
    """
    case, picture = loaded.case, loaded.picture
    try:
        view = view_of(picture.shape, picture.grid, options.plane)
        counted = _without_ignored(loaded, ignore)
        index = slice_index(options.slice, view.axis, *counted)
        image, limits = _grey_or_colours(picture, view, index, options)
        reference, predictions = (
            view.picture(loaded.reference, index),
            {name: view.picture(labels, index) for name, labels in loaded.predictions.items()},
        )
        aspect = view.aspect(loaded.spacing_mm)
        box = None
        if options.zoom == "auto":
            marked = [reference, *predictions.values()]
            if (reference > 0).any():
                marked = marked[:1]
            box = box_around(np.any([(each > 0) & (each != (ignore or 0)) for each in marked], axis=0), aspect)
        elif options.zoom is not None:
            box = checked_box(options.zoom, reference.shape)
    except InputError as error:
        raise InputError(f"{case.name}: {error}") from error
    return Shown(case, image, limits, reference, predictions, view, index, aspect, box, _dice(loaded, classes, ignore))


def _without_ignored(loaded: Loaded, ignore: int | None) -> tuple[_Labels, dict[str, _Labels]]:
    if ignore is None:
        return loaded.reference, dict(loaded.predictions)
    ignored = loaded.reference == ignore
    arrays = (np.where(ignored, 0, each) for each in (loaded.reference, *loaded.predictions.values()))
    reference, *predictions = arrays
    return reference, dict(zip(loaded.predictions, predictions, strict=True))


def _dice(loaded: Loaded, classes: Classes, ignore: int | None) -> dict[str, Mapping[str, float]]:
    found: dict[str, Mapping[str, float]] = {}
    for method, labels in loaded.predictions.items():
        if method in loaded.case.dice:
            found[method] = loaded.case.dice[method]
            continue
        metrics = case_metrics(labels, loaded.reference, loaded.spacing_mm, classes, ("dice",), ignore=ignore)
        found[method] = {name: values["dice"] for name, values in metrics.items()}
    return found


def _grey_or_colours(
    picture: Picture, view: View, index: int, options: FigureOptions
) -> tuple[NDArray[Any], tuple[float, float]]:
    array, channel = picture.array, options.channel
    if channel is not None and channel >= len(array):
        there = f"the channels 0 to {len(array) - 1}" if len(array) > 1 else "one channel, 0"
        raise InputError(f"--channel {channel}: the image has {there}")
    if channel is None and picture.colour:
        if options.window is not None:
            raise InputError("--window and --level are for grey values, and this image has colours; add --channel 0")
        top = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else max(1.0, float(array.max()))
        colours = np.stack([view.picture(each, index) for each in array], axis=-1)
        return np.clip(colours / top, 0, 1), (0.0, 1.0)
    grey = view.picture(array[channel or 0], index).astype(float)
    if options.window is not None and options.level is not None:
        return grey, (options.level - options.window / 2, options.level + options.window / 2)
    finite = grey[np.isfinite(grey)]
    low, high = np.percentile(finite, (1, 99)).tolist() if finite.size else (0.0, 1.0)
    if low == high and finite.size:  # a few bright pixels on a background
        low, high = float(finite.min()), float(finite.max())
    return grey, (low, high) if low < high else (low - 0.5, low + 0.5)


def mean_dice(values: Mapping[str, float]) -> float:
    """Return the mean over the classes that count; NaN if none does."""
    counted = [value for value in values.values() if math.isfinite(value)]
    return sum(counted) / len(counted) if counted else math.nan


def _by(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
