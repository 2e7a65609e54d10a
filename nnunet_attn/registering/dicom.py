"""Reading DICOM: a series of slices in a folder of its own, or one file.

ITK joins whatever slices it finds. Here a series is refused whose slices are not one even, straight stack.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_attn.errors import InputError
from nnunet_attn.registering.faults import check_path, reason
from nnunet_attn.registering.geometry import EQUAL_DIRECTION, EQUAL_ORIGIN_VOXELS, Grid
from nnunet_attn.registering.picture import Picture

INVERTED = "its values were inverted, since DICOM has it as MONOCHROME1, where low values are bright"

_MODALITY, _PHOTOMETRIC, _POSITION = "0008|0060", "0028|0004", "0020|0032"
# A step between slices that is so much longer or shorter than the others is a missing or a doubled slice.
_UNEVEN_STEP = 0.1
# Positions in mm that are no further apart are one position.
_ONE_PLACE = 1e-3


@dataclass(frozen=True)
class _Slice:
    """The header of one file of a series.

    Args:
        file: Its name.
        pixel: SimpleITK's number of its type of values, after their rescaling.
        grid: Where it lies.
        positioned: Whether it says so itself.
        modality: Such as "CT".
        inverted: Whether low values are bright; ITK turns them round.
    """

    file: str
    pixel: int
    grid: Grid
    positioned: bool
    modality: str | None
    inverted: bool


def read_dicom(file: Path) -> Picture:
    """Read one DICOM file; one slice, such as a radiograph, is a 2D image.

    Raises:
        InputError: If it is damaged.
    """
    head = _head(str(file))
    return _flat(_picture(sitk.ReadImage(str(file)), head, ()))


def read_series(folder: Path) -> Picture:
    """Read the one DICOM series of a folder; one slice, such as a radiograph, is a 2D image.

    Files that are no DICOM are left out, which the notes tell.

    Raises:
        InputError: If the folder holds no series, or several, a DICOM file is damaged, or the slices are not one
            even stack that stands upright on its slices.
    """
    entries = sorted(folder.iterdir())
    for entry in entries:
        check_path(entry)
    uids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not uids:
        raise InputError(f"{folder} holds no DICOM series that can be read; name the folder its files lie in")
    if len(uids) > 1:
        raise InputError(
            f"{folder} holds {len(uids)} DICOM series ({', '.join(uids)}); put each in a folder of its own"
        )
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uids[0])
    others = _others(folder, entries, files)
    if others and len(files) == 1:  # one that is left of a damaged series, as it seems, must not become a 2D image
        raise InputError(
            f"{folder} holds one DICOM file ({Path(files[0]).name}) and others that are none, such as {others[0]}; "
            "take them out, or replace them if they are damaged"
        )
    slices = [_head(file) for file in files]
    _check_stack(folder, slices)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    if len({each.pixel for each in slices}) > 1:  # ITK would cut all to the type of the first one
        reader.SetOutputPixelType(sitk.sitkFloat32)
    image = reader.Execute()
    if image.GetDimension() != 3:
        raise InputError(
            f"{folder}: a DICOM series of {image.GetDimension()} axes; convert it to NIfTI, one 3D image each"
        )
    left = f"{len(others)} files beside its DICOM files are none and were left out"
    picture = _picture(image, slices[0], (left,) if others else ())
    return _flat(picture) if len(files) == 1 else picture


def _others(folder: Path, entries: Sequence[Path], files: Sequence[str]) -> list[str]:
    """Return the visible files that are no DICOM; GDCM leaves out in silence what it cannot read."""
    used = {Path(file).name for file in files}
    # a DICOMDIR is a list of files, and no image
    unused = [
        entry
        for entry in entries
        if entry.name not in used
        and not entry.name.startswith(".")
        and entry.name.casefold() != "dicomdir"
        and entry.is_file()
    ]
    damaged = [entry.name for entry in unused if entry.name.lower().endswith(".dcm") or _begins_as_dicom(entry)]
    if damaged:
        raise InputError(
            f"{folder}: {len(damaged)} of its {len(files) + len(damaged)} DICOM files cannot be read as slices of the "
            f"series, such as {damaged[0]}; replace what is damaged, take out what is no slice, or leave out the case"
        )
    return [entry.name for entry in unused]


def _begins_as_dicom(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def _head(file: str) -> _Slice:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(
            f"{file} cannot be read as DICOM ({reason(error)}); replace it or leave out the case"
        ) from error

    def said(tag: str) -> str:
        return reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""

    return _Slice(
        file,
        reader.GetPixelIDValue(),
        Grid.of(reader),
        bool(said(_POSITION)) and reader.GetDimension() == 3,
        said(_MODALITY) or None,
        said(_PHOTOMETRIC) == "MONOCHROME1",
    )


def _check_stack(folder: Path, slices: Sequence[_Slice]) -> None:
    """Check that slices are one stack: parallel, one at each position, evenly, and straight above each other."""
    if len(slices) < 2 or any(len(each.grid.size) > 2 and each.grid.size[2] > 1 for each in slices):
        return
    bare = [each for each in slices if not each.positioned]
    if bare:
        raise InputError(
            f"{folder}: {len(bare)} of its {len(slices)} files do not say where their slices lie (no "
            "ImagePositionPatient), so their order and distance are not known; convert it to NIfTI with the right "
            "spacing"
        )
    axes = np.reshape(slices[0].grid.direction, (3, 3))
    turned = [each for each in slices if np.abs(np.reshape(each.grid.direction, (3, 3)) - axes).max() > EQUAL_DIRECTION]
    if turned:
        raise InputError(
            f"{folder}: its slices lie in different directions, such as {_name(slices[0])} and {_name(turned[0])}, as "
            "those of a localizer do; put the slices of one direction in a folder of their own"
        )
    normal = axes[:, 2]
    origins = np.array([each.grid.origin for each in slices])
    order = np.argsort(origins @ normal, kind="stable")
    steps = np.diff((origins @ normal)[order])
    _check_steps(folder, [slices[number] for number in order], steps)
    _check_upright(folder, slices, origins - origins[order[0]], normal)


def _check_steps(folder: Path, ordered: Sequence[_Slice], steps: NDArray[np.floating]) -> None:
    same = np.flatnonzero(steps <= _ONE_PLACE)
    if len(same):
        twice = [_name(each) for each in ordered[same[0] : same[0] + 2]]
        more = ", and others too" if len(same) > 1 else ""
        raise InputError(
            f"{folder}: {twice[0]} and {twice[1]} lie at one place{more}; if these are time points or echoes, put each "
            "in a folder of its own; if a slice is there twice, remove one"
        )
    middle = float(np.median(steps))
    uneven = np.abs(steps - middle) > _UNEVEN_STEP * middle
    if uneven.any():
        raise InputError(
            f"{folder}: slices are {middle:.4g} mm apart, but {int(uneven.sum())} of the steps are not, such as "
            f"{steps[uneven][0]:.4g} mm; add the missing slices, or remove those that are there twice"
        )


def _check_upright(
    folder: Path, slices: Sequence[_Slice], places: NDArray[np.floating], normal: NDArray[np.floating]
) -> None:
    """Check that slices are not shifted against each other, which no image with perpendicular axes can hold."""
    heights = places @ normal
    shifts = np.linalg.norm(places - np.outer(heights, normal), axis=1)
    furthest = int(shifts.argmax())
    shift, height = float(shifts[furthest]), float(heights.max())
    # over a long stack, rounded direction cosines alone make some shift
    allowed = max(EQUAL_ORIGIN_VOXELS * min(slices[0].grid.spacing[:2]), EQUAL_DIRECTION * height)
    if shift > allowed:
        raise InputError(
            f"{folder}: its slices are shifted by up to {shift:.3g} mm over {height:.4g} mm, by gantry tilt as it "
            "seems; correct it, for example by dcm2niix, which writes NIfTI"
        )


def _name(each: _Slice) -> str:
    return Path(each.file).name


def _picture(image: sitk.Image, head: _Slice, notes: tuple[str, ...]) -> Picture:
    array = sitk.GetArrayFromImage(image)
    array = np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[None]
    notes += (INVERTED,) if head.inverted else ()
    return Picture(array, Grid.of(image), plain=False, notes=notes, modality=head.modality)


def _flat(picture: Picture) -> Picture:
    """Return a DICOM image of one slice as 2D; any other as it is."""
    grid = picture.grid
    if grid is None or len(grid.size) != 3 or grid.size[2] != 1:
        return picture
    flat = Grid(grid.size[:2], grid.spacing[:2], (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    return replace(picture, array=picture.array[:, 0], grid=flat)
