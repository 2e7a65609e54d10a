"""Loose images and labels as they lie on people's disks, tiny."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_attn.registering.locales import kept_locale
from nnunet_attn.registering.model import SourceCase

SHAPE = (5, 6, 7)
SPACING = (1.0, 1.5, 3.0)


def volume(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return an image of noise, (z y x) or (y x)."""
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def label(values: Sequence[int] = (1,), shape: tuple[int, ...] = SHAPE, number: int = 0) -> np.ndarray:
    """Return a label map with one row of voxels for each value; its number stands in the first row, in bits."""
    array = np.zeros(shape, np.int16)
    for row, value in enumerate(values):
        array[..., 1 + row, 2:5] = value
    if number and values:
        array[..., 0, :] = [values[0] * (number >> bit & 1) for bit in range(shape[-1])]
    return array


def write(
    file: Path,
    array: np.ndarray,
    spacing: Sequence[float] | None = None,
    origin: Sequence[float] | None = None,
    direction: Sequence[float] | None = None,
    vector: bool = False,
) -> Path:
    """Write an array by ITK, in any of its formats; spacing and place in the order x y z."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=vector)
    dims = image.GetDimension()
    image.SetSpacing((SPACING[:dims] if dims < 4 else (*SPACING, 1.0)) if spacing is None else spacing)
    if origin is not None:
        image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(file))
    return file


def cases(
    folder: Path,
    count: int = 3,
    ending: str = ".nii.gz",
    values: Sequence[int] = (1,),
    test: Sequence[int] = (),
    shape: tuple[int, ...] = SHAPE,
) -> tuple[SourceCase, ...]:
    """Write cases of one channel and return them."""
    return tuple(
        SourceCase(
            f"case_{number}",
            (write(folder / f"image_{number}{ending}", volume(number, shape)),),
            write(folder / f"label_{number}{ending}", label(values, shape, number)),
            test=number in test,
        )
        for number in range(count)
    )


@kept_locale()
def dicom_series(
    folder: Path,
    array: np.ndarray,
    uid: str = "1.2.826.0.1.1",
    modality: str = "CT",
    missing: Sequence[int] = (),
    place: Callable[[int], Sequence[float]] = lambda number: (0, 0, number * SPACING[2]),
    directions: Callable[[int], Sequence[float]] = lambda _: (1, 0, 0, 0, 1, 0),
) -> Path:
    """Write (z y x) as a DICOM series of one file a slice, without the slices that are missing.

    Slices lie at `place` (x y z), and their rows and columns go to `directions`, by their numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, plane in enumerate(array):
        if number in missing:
            continue
        image = sitk.GetImageFromArray(plane)
        image.SetSpacing(SPACING[:2])
        tags = {
            "0008|0060": modality,
            "0008|0018": f"{uid}.{number}",
            "0020|000d": f"{uid}.9",
            "0020|000e": uid,
            "0020|0013": str(number),
            "0020|0032": "\\".join(map(str, place(number))),
            "0020|0037": "\\".join(map(str, directions(number))),
            "0018|0050": str(SPACING[2]),
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}_{number}.dcm"))
        writer.Execute(image)
    return folder


def half_slope(file: Path) -> None:
    """Let a file of `dicom_series` say that the values are half of what is stored, as scans of PET do."""
    tag = b"\x28\x00\x53\x10\x02\x00\x00\x00"
    _swap(file, tag + b"1 ", tag + b".5")


def without_place(file: Path) -> None:
    """Take the position from a file of `dicom_series`, by giving it a tag of no meaning."""
    _swap(file, b"\x20\x00\x32\x00", b"\x20\x00\x33\x00")


def inverted(file: Path) -> None:
    """Let a file of `dicom_series` say that low values are bright."""
    _swap(file, b"MONOCHROME2", b"MONOCHROME1")


def _swap(file: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    file.write_bytes(content.replace(old, new))


def cut(file: Path, share: float = 0.6) -> Path:
    """Keep only the first part of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    return file
