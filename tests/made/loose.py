"""Loose images and labels as they lie on people's disks, tiny."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_attn.registering.model import SourceCase

SHAPE = (5, 6, 7)
SPACING = (1.0, 1.5, 3.0)


def volume(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return an image of noise, (z y x) or (y x)."""
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def label(values: Sequence[int] = (1,), shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return a label map with one row of voxels for each value."""
    array = np.zeros(shape, np.int16)
    for row, value in enumerate(values):
        array[..., 1 + row, 2:5] = value
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
            write(folder / f"label_{number}{ending}", label(values, shape)),
            test=number in test,
        )
        for number in range(count)
    )


def dicom_series(
    folder: Path, array: np.ndarray, uid: str = "1.2.826.0.1.1", modality: str = "CT", missing: Sequence[int] = ()
) -> Path:
    """Write (z y x) as a DICOM series of one file a slice, without the slices that are missing."""
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
            "0020|0032": f"0\\0\\{number * SPACING[2]}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": str(SPACING[2]),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}_{number}.dcm"))
        writer.Execute(image)
    return folder


def cut(file: Path, share: float = 0.6) -> Path:
    """Keep only the first part of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    return file
