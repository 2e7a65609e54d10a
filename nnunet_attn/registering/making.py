"""Making the files of one planned case; runs in a process of its own."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_attn.errors import InputError
from nnunet_attn.registering.forms import STACK_READER, VOLUME_READER
from nnunet_attn.registering.geometry import Grid, mismatch
from nnunet_attn.registering.inspecting import made_label
from nnunet_attn.registering.labels import remapped
from nnunet_attn.registering.plan import PlannedCase, PlannedImage, PlannedLabel
from nnunet_attn.registering.reading import read_labels, read_picture

Job = tuple[PlannedCase, Path, str, str | None, dict[int, int]]
"""The case, the data set's folder, nnU-Net's reader, the kind of links, and the value map."""


def make_case(job: Job) -> None:
    """Write all files of a case.

    Raises:
        InputError: If a file cannot be written whole; the message says why and names it.
    """
    case, folder, reader, link, value_map = job
    for image in case.images:
        _make_image(image, folder, reader, link, case.source.channels_in_file)
    if case.label is not None:
        _make_label(case.label, folder, reader, link, value_map)
    if reader == STACK_READER:
        _write_spacing(case, folder)


def _make_image(image: PlannedImage, folder: Path, reader: str, link: str | None, channels_in_file: bool) -> None:
    if image.as_is:
        _take_over(image.source, folder / image.targets[0], link)
        return
    picture = read_picture(image.source, channels_in_file=channels_in_file)
    grid = image.grid or picture.grid
    # one file for all channels, or one for each
    parts = [picture.array] if len(image.targets) == 1 else [channel[None] for channel in picture.array]
    for part, target in zip(parts, image.targets, strict=True):
        _write(folder / target, part, grid, reader)


def _make_label(label: PlannedLabel, folder: Path, reader: str, link: str | None, value_map: dict[int, int]) -> None:
    target = folder / label.target
    if isinstance(label.source, Path):
        if label.as_is:
            _take_over(label.source, target, link)
            return
        array, picture = read_labels(label.source)
        grid = label.grid or picture.grid
    else:
        array, grid = made_label(label.source.read(label.shape), label.shape, Path(label.target).name), label.grid
    try:
        mapped = remapped(array, value_map)
    except KeyError as error:
        raise InputError(
            f"{label.source} has got the value {error} since it was looked at; leave the files alone, and run again"
        ) from error
    _write(target, mapped[None], grid, reader)


def _take_over(source: Path, target: Path, link: str | None) -> None:
    real = source.resolve()  # a hard link to a symbolic one would be another symbolic one
    try:
        if link == "hard":
            os.link(real, target)
        elif link == "symbolic":
            target.symlink_to(real)
        else:
            shutil.copyfile(real, target)
    except OSError as error:
        if link is not None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            other = "link symbolically, or copy" if link == "hard" else "copy"
            raise InputError(
                f"{source} cannot be linked into {target.parent} ({error.strerror}); {other} instead"
            ) from error
        raise _unwritten(target, error) from error


def _write(target: Path, array: NDArray[Any], grid: Grid | None, reader: str) -> None:
    """Write (c z y x) or (c y x) to one file, and read it again to see that it is whole."""
    array = _storable(array)
    try:
        if reader == VOLUME_READER:
            image = sitk.GetImageFromArray(array[0])
            if grid is not None:
                grid.put_on(image)
            sitk.WriteImage(image, str(target), useCompression=target.suffix != ".nii")
        elif target.suffix in (".tif", ".tiff"):
            import tifffile

            whole = np.moveaxis(array, 0, -1) if len(array) > 1 else array[0]
            kind = "rgb" if len(array) > 1 else "minisblack"
            tifffile.imwrite(target, whole, photometric=kind, compression="zlib")
        else:
            from PIL import Image

            Image.fromarray(np.moveaxis(array, 0, -1) if len(array) > 1 else array[0]).save(target)
    except (OSError, RuntimeError) as error:
        raise _unwritten(target, error) from error
    try:
        written = read_picture(target)
    except InputError as error:
        raise _unwritten(target, None) from error
    if not np.array_equal(written.array, array):
        raise _unwritten(target, None)
    if reader == VOLUME_READER and grid is not None and (found := mismatch(_grid(written.grid), grid)) is not None:
        raise InputError(
            f"{target.name} cannot hold the image's place in space ({found.text}); choose another file ending"
        )


def _grid(grid: Grid | None) -> Grid:
    assert grid is not None  # every volume has one
    return grid


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array in a type that image files hold."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def _unwritten(target: Path, error: Exception | None) -> InputError:
    """Return the error for a file that could not be written whole, with the reason as far as one can see it."""
    number = error.errno if isinstance(error, OSError) else None
    named = f"{target.parent.name}/{target.name}"
    try:
        full = number in (errno.ENOSPC, errno.EDQUOT) or shutil.disk_usage(target.parent).free < 1 << 20
    except OSError:
        full = False
    if full:
        return InputError(f"the disk is full: {named} could not be written; make room, and run again")
    said = "what was written is not what is read again" if error is None else str(error).strip().splitlines()[-1]
    return InputError(f"{named} could not be written ({said}); check the disk, and run again")


def _write_spacing(case: PlannedCase, folder: Path) -> None:
    """Write the JSON files that nnU-Net reads the spacing of stacks of TIFF from."""
    grid = case.images[0].grid
    spacing = [1.0, 1.0, 1.0] if grid is None else list(reversed(grid.spacing))
    content = json.dumps({"spacing": spacing}) + "\n"
    files = {Path(target).parent for image in case.images for target in image.targets}
    files |= {Path(case.label.target).parent} if case.label is not None else set()
    for parent in files:
        target = folder / parent / f"{case.source.case}.json"
        try:
            target.write_text(content, encoding="utf-8")
        except OSError as error:
            raise _unwritten(target, error) from error
