"""Reading what loose data sets are made of: NIfTI, MetaImage, NRRD, DICOM, and 2D or stacked natural images.

Arrays have their channels first: (c z y x), or (c y x) in 2D. Every failure is an `InputError` that names the file.
"""

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_attn.errors import InputError
from nnunet_attn.registering.dicom import read_dicom, read_series
from nnunet_attn.registering.faults import check_path, reason
from nnunet_attn.registering.geometry import SMALL_DIRECTION, Grid
from nnunet_attn.registering.locales import kept_locale
from nnunet_attn.registering.metaimage import check_metaimage
from nnunet_attn.registering.natural import read_natural, read_tiff
from nnunet_attn.registering.picture import Picture

VOLUME_FORMATS = {
    ".nii.gz": "NIfTI",
    ".nii": "NIfTI",
    ".mha": "MetaImage",
    ".mhd": "MetaImage",
    ".nrrd": "NRRD",
    ".nhdr": "NRRD",
    ".dcm": "DICOM",
}
NATURAL_FORMATS = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}
FORMATS = {**VOLUME_FORMATS, **NATURAL_FORMATS}
"""Ending of a file in small letters -> name of its format."""

_BLOCK = 1 << 20
NOT_FINITE = "values that are not finite (NaN or infinite) are read as 0, by nnU-Net too"


def ending_of(path: Path) -> str | None:
    """Return the ending of a file that can be read, in small letters; None for all others and for folders."""
    name = path.name.lower()
    return next((ending for ending in FORMATS if name.endswith(ending) and name != ending), None)


def format_of(path: Path) -> str:
    """Return the name of the format of a file, or of a folder, which is DICOM.

    Raises:
        InputError: If there is no such file, or it is of a format that cannot be read.
    """
    if os.path.isdir(path):  # unlike the method of Path, it fails nowhere
        return "DICOM"
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist; correct the path or leave out the case")
    ending = ending_of(path)
    if ending is None:
        raise InputError(f"{path}: its format is not known; convert it to one of {' '.join(FORMATS)} or DICOM folders")
    return FORMATS[ending]


@kept_locale()
def read_picture(path: Path, as_label: bool = False, channels_in_file: bool = False) -> Picture:
    """Read an image.

    Args:
        path: A file, or a folder that holds one DICOM series.
        as_label: A palette's numbers are read, not its colours.
        channels_in_file: The last axis of a 4D file are channels.
    Raises:
        InputError: If it cannot be read, or is not one image of two or three axes.
    """
    check_path(path)
    form = format_of(path)
    try:
        with _quiet():
            if not path.is_dir():
                path.open("rb").close()  # where one may not read, not every library says so
            if form == "TIFF":
                picture = read_tiff(path)
            elif form in NATURAL_FORMATS.values():
                picture = read_natural(path, form, as_label)
            elif path.is_dir():
                picture = read_series(path)
            elif ending_of(path) == ".dcm" and not channels_in_file:
                picture = read_dicom(path)
            else:
                picture = _read_volume(path, channels_in_file)
    except InputError:
        raise
    except Exception as error:  # damaged files make readers raise anything
        raise InputError(f"{path} cannot be read ({reason(error)}); replace it or leave out the case") from error
    grid = picture.grid
    if grid is not None and not np.isfinite([*grid.spacing, *grid.origin, *grid.direction]).all():
        raise InputError(f"{path}: the place in space in its header is not finite (NaN or infinite); write a right one")
    return picture


def read_labels(path: Path) -> tuple[NDArray[np.integer], Picture]:
    """Read a label map, and return it as integers (z y x, or y x) with the picture that it was read from.

    Raises:
        InputError: If it cannot be read, has colours, or values that are no integers.
    """
    if ending_of(path) in (".jpg", ".jpeg"):
        raise InputError(f"{path}: JPEG changes the values of labels; give them as PNG")
    picture = read_picture(path, as_label=True)
    array = picture.array
    if len(array) > 1 and not (array == array[:1]).all():
        raise InputError(
            f"{path}: a label of {len(array)} channels that differ, so its colours stand for values; convert it to a "
            "grey image with one value for each label"
        )
    if NOT_FINITE in picture.notes:
        raise InputError(f"{path}: the label has values that are not finite (NaN or infinite); set them to a label")
    return _integers(array[0], path), replace(picture, plain=picture.plain and len(array) == 1)


def _integers(array: NDArray[Any], path: Path) -> NDArray[np.integer]:
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        return array
    if not np.isfinite(array).all():
        raise InputError(f"{path}: the label has values that are not finite (NaN or infinite); set them to a label")
    rounded = np.rint(array)
    odd = array != rounded
    if odd.any():
        raise InputError(
            f"{path}: the label has values that are no integers, such as {array[odd][0]:g}; it may be a probability "
            "map, or was resampled by interpolation: give integers"
        )
    largest = float(np.abs(rounded).max(initial=0))
    if largest > np.iinfo(np.int32).max:
        raise InputError(f"{path}: the label has values as large as {largest:g}; it may be an image, so give the label")
    return rounded.astype(np.int32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the warnings of ITK off the screen; what matters of them is checked."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _read_volume(path: Path, channels_in_file: bool) -> Picture:
    notes: tuple[str, ...] = ()
    if FORMATS[ending_of(path) or ""] == "NIfTI" and not _check_nifti(path):
        notes = (NOT_FINITE,)
    if FORMATS[ending_of(path) or ""] == "MetaImage":
        check_metaimage(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if "orthonormal" not in str(error):
            raise
        return _read_sheared(path)
    dims, size = reader.GetDimension(), reader.GetSize()
    if channels_in_file and dims != 4:
        raise InputError(f"{path} has {dims} axes: channels in one file need a 4D image; give one file a channel")
    if dims not in (2, 3) and not channels_in_file:
        raise InputError(
            f"{path} has {dims} axes ({' x '.join(map(str, size))}); nnU-Net wants one 3D image a channel: split it, "
            "for example by nibabel.four_to_three, or by fslsplit"
        )
    image = reader.Execute()
    if dims == 4:
        array = sitk.GetArrayFromImage(image)
        return Picture(_real(array, path), Grid.of(image[:, :, :, 0]), plain=False, notes=notes)
    grid, components = Grid.of(image), image.GetNumberOfComponentsPerPixel()
    array = sitk.GetArrayViewFromImage(image)
    array = np.moveaxis(array, -1, 0) if components > 1 else array[None]
    array = _real(np.array(array), path)  # a copy, since a view does not keep its image
    return Picture(array, grid, plain=components == 1, notes=notes)


def _check_nifti(path: Path) -> bool:
    """Check that a NIfTI file is whole, and return whether all its values are finite.

    ITK fills what is missing with zeros, takes NaN and infinite values for zeros, and says nothing of either.
    """
    import nibabel
    from nibabel.imageglobals import LoggingOutputSuppressor

    with LoggingOutputSuppressor():  # it tells of pixel sizes that are 0, which ITK takes for 1
        image: Any = nibabel.load(path)  # pyright: ignore[reportPrivateImportUsage]
    dtype, offset = image.header.get_data_dtype(), image.dataobj.offset
    finite = True
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            length = len(file.read(offset))
            while block := file.read(_BLOCK):
                length += len(block)
                if dtype.kind == "f":
                    numbers = np.frombuffer(block, dtype, len(block) // dtype.itemsize)
                    finite = finite and bool(np.isfinite(numbers).all())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} is damaged or cut short (gzip: {reason(error)}); replace it or leave out the case"
        ) from error
    wanted = offset + math.prod(image.shape) * dtype.itemsize
    if length < wanted:
        raise InputError(
            f"{path} is cut short: {length} bytes of the {wanted} in its header; replace it or leave out the case"
        )
    return finite


def _real(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if np.iscomplexobj(array):
        raise InputError(f"{path} has complex values; give their magnitude")
    return array


def _read_sheared(path: Path) -> Picture:
    """Read a NIfTI file whose axes are not perpendicular, which ITK refuses, with the nearest axes that are."""
    import nibabel

    image: Any = nibabel.load(path)  # pyright: ignore[reportPrivateImportUsage]
    if image.ndim != 3:
        raise InputError(f"{path} has {image.ndim} axes; nnU-Net wants one 3D image a channel: split it")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # from nibabel's RAS to ITK's LPS
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and (spacing > 0).all()):
        raise InputError(f"{path}: its header says no place in space (affine with zeros or NaN); write a right one")
    axes = affine[:3, :3] / spacing
    left, _, right = np.linalg.svd(axes)
    nearest = left @ right
    distance = np.abs(axes - nearest).max()
    if distance > SMALL_DIRECTION:
        raise InputError(
            f"{path}: its axes are not perpendicular (direction cosines {distance:.2g} off), which ITK cannot hold; "
            "resample it to perpendicular axes"
        )
    numbers = [tuple(float(number) for number in row) for row in (spacing, affine[:3, 3], nearest.ravel())]
    array = np.asanyarray(image.dataobj).transpose(2, 1, 0)[None]
    grid = Grid(tuple(int(n) for n in image.shape), numbers[0], numbers[1], numbers[2])
    return Picture(np.ascontiguousarray(array), grid, plain=False, mended=True)
