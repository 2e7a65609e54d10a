"""What is found in the files of one case; runs in a process of its own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_attn.errors import InputError
from nnunet_attn.registering.geometry import Grid, Mismatch, mismatch
from nnunet_attn.registering.labels import values_of
from nnunet_attn.registering.model import SourceCase
from nnunet_attn.registering.picture import Picture
from nnunet_attn.registering.reading import format_of, read_labels, read_picture


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image file.

    Args:
        format: Such as "NIfTI".
        shape: Voxels along (z y x), or (y x).
        channels: In this file.
        dtype: Name of the values' type.
        minimum: Lowest value.
        maximum: Highest value.
        grid: Where it lies; None if the file does not say.
        plain: Whether nnU-Net reads the same from the file itself.
        colour: Whether its channels are the colours of one natural image.
        sha256: Of shape, type and values.
        repaired: What of its geometry is mended, such as "origin".
        notes: What was left out or taken for granted.
        modality: Of DICOM.
    """

    format: str
    shape: tuple[int, ...]
    channels: int
    dtype: str
    minimum: float
    maximum: float
    grid: Grid | None
    plain: bool
    colour: bool
    sha256: str
    repaired: tuple[str, ...]
    notes: tuple[str, ...]
    modality: str | None


@dataclass(frozen=True)
class LabelFacts:
    """What is known of a label.

    Args:
        format: Such as "NIfTI", or "made" if it is no label map yet.
        values: The different values in it.
        plain: Whether nnU-Net reads the same from the file itself.
        integer: Whether the file's type is an integer's.
        repaired: What of its geometry is mended.
        sha256: Of shape and values; None without foreground.
    """

    format: str
    values: tuple[int, ...]
    plain: bool
    integer: bool
    repaired: tuple[str, ...]
    sha256: str | None = None


@dataclass(frozen=True)
class CaseFacts:
    """What is known of a case; `refusal` says why it cannot be used."""

    case: str
    images: tuple[ImageFacts, ...] = ()
    label: LabelFacts | None = None
    refusal: str | None = None


def inspect_case(job: tuple[SourceCase, bool, bool]) -> CaseFacts:
    """Read all files of a case, one at a time.

    Args:
        job: The case, whether small differences of geometry are mended, and whether its label is looked at.
    """
    source, repair, with_label = job
    try:
        images: list[ImageFacts] = []
        for path in source.images:
            images.append(_image_facts(path, source.channels_in_file, repair, images[0] if images else None))
        label = None
        if with_label and source.label is not None:
            label = _label_facts(source, images, repair)
        return CaseFacts(source.case, tuple(images), label)
    except InputError as error:
        return CaseFacts(source.case, refusal=str(error))
    except MemoryError:
        return CaseFacts(source.case, refusal="its files do not fit into memory; give fewer processes")


def _image_facts(path: Path, channels_in_file: bool, repair: bool, first: ImageFacts | None) -> ImageFacts:
    picture = read_picture(path, channels_in_file=channels_in_file)
    array = picture.array
    if array.size == 0:
        raise InputError(f"{path} has no voxels; replace it or leave out the case")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise InputError(
            f"{path} has {count} values that are not finite (NaN or infinite), which nnU-Net cannot train on; "
            "replace them by the background's value"
        )
    repaired: tuple[str, ...] = ()
    if picture.mended:
        _demand_repair(path, "axes that are not quite perpendicular", repair)
        repaired = ("direction",)
    if first is not None:
        repaired += _compared(path, picture, first, "the first channel", repair, channels=True)
    return ImageFacts(
        format=format_of(path),
        shape=picture.shape,
        channels=len(array),
        dtype=str(array.dtype),
        minimum=float(array.min()),
        maximum=float(array.max()),
        grid=picture.grid,
        plain=picture.plain,
        colour=picture.colour,
        sha256=_hash(array),
        repaired=tuple(dict.fromkeys(repaired)),
        notes=picture.notes,
        modality=picture.modality,
    )


def _label_facts(source: SourceCase, images: Sequence[ImageFacts], repair: bool) -> LabelFacts:
    image = images[0]
    if not isinstance(source.label, Path):
        assert source.label is not None
        array = made_label(source.label.read(image.shape), image.shape, source.case)
        values = values_of(array)
        return LabelFacts("made", values, plain=False, integer=True, repaired=(), sha256=_hash_of(array, values))
    array, picture = read_labels(source.label)
    values = values_of(array)
    if len(values) > 1 and _hash(picture.array) in {each.sha256 for each in images}:
        raise InputError(f"{source.label} is the same image as the case's own; give its label")
    if picture.mended:
        # its axes are the image's own, sheared the same way, once the image was mended
        _demand_repair(source.label, "axes that are not quite perpendicular", repair)
    repaired = _compared(source.label, picture, image, "the image", repair)
    return LabelFacts(
        format=format_of(source.label),
        values=values,
        plain=picture.plain,
        integer=not np.issubdtype(picture.array.dtype, np.floating),
        repaired=tuple(dict.fromkeys((*(("direction",) if picture.mended else ()), *repaired))),
        sha256=_hash_of(array, values),
    )


def made_label(array: NDArray[np.integer], shape: tuple[int, ...], case: str) -> NDArray[np.integer]:
    """Return a made label, checked to fit the image.

    Raises:
        InputError: If its shape is not the image's.
    """
    if array.shape != shape:
        raise InputError(f"the label made for {case} is of shape {array.shape}, its image of {shape}")
    return array


def _compared(
    path: Path, picture: Picture, first: ImageFacts, named: str, repair: bool, channels: bool = False
) -> tuple[str, ...]:
    """Return what of a picture's geometry has to be mended to equal the first image's."""
    if picture.shape != first.shape:
        raise InputError(
            f"{path} is {_sizes(picture.shape)} voxels and {named} {_sizes(first.shape)}; give files of one grid"
        )
    if picture.grid is None or first.grid is None:
        return ()
    found: Mismatch | None = mismatch(picture.grid, first.grid, channels)
    if found is None:
        return ()
    if not found.small:
        raise InputError(
            f"{path} does not lie where {named} does: {found.text}; that is too much to mend, so resample it to the "
            "grid or give the right file"
        )
    _demand_repair(path, f"a place that differs a little from that of {named} ({found.text})", repair)
    return found.parts


def _demand_repair(path: Path, fault: str, repair: bool) -> None:
    if not repair:
        raise InputError(f"{path} has {fault}; if the voxels fit, add --repair")


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, reversed(shape)))


def _hash_of(label: NDArray[np.integer], values: tuple[int, ...]) -> str | None:
    """Return the hash of a label in whatever type it is held; None without foreground."""
    if set(values) <= {0}:
        return None
    smallest = np.result_type(*map(np.min_scalar_type, (min(values), max(values))))
    return _hash(label.astype(smallest, copy=False))


def _hash(array: NDArray[np.generic]) -> str:
    made = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    made.update(np.ascontiguousarray(array).data.cast("B"))
    return made.hexdigest()
