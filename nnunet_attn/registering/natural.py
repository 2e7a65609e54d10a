"""Reading PNG, BMP, JPEG and TIFF: 2D images, grey or in colour, and TIFF stacks of slices."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_attn.errors import InputError
from nnunet_attn.registering.geometry import Grid
from nnunet_attn.registering.picture import Picture

TURNED = "it is to be shown turned or mirrored (EXIF orientation), but taken as it is stored, by nnU-Net too"

_ORIENTATION = 274  # number of the tag, in EXIF and in TIFF


def read_natural(path: Path, form: str, as_label: bool) -> Picture:
    """Read a 2D image of PNG, BMP or JPEG; of a palette the colours, or the numbers if it is a label."""
    from PIL import Image

    if form == "PNG":
        with path.open("rb") as opened:
            head = opened.read(26)
        if len(head) == 26 and head[24] == 16 and head[25] in (2, 4, 6):  # Pillow would cut these to 8 bits
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
            return _channels(np.moveaxis(array, -1, 0), plain=False)
    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise InputError(f"{path} holds {getattr(image, 'n_frames', 1)} images; give one file an image")
        image.load()
        mode = image.mode
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        if mode == "P" and not as_label:
            array = np.array(image.convert("RGB"))
            array = array[..., 0] if (array == array[..., :1]).all() else array
        elif mode == "1" and not as_label:
            array = np.array(image.convert("L"))
        elif mode in ("1", "P", "L", "I;16", "I;16B", "I", "RGB", "LA", "RGBA"):
            array = np.array(image)
        else:
            raise InputError(f"{path}: colours of the kind {mode}; convert it to grey or RGB")
    if array.dtype == np.int32:  # how Pillow holds some 16-bit images
        array = array.astype(np.uint16)
    array = np.moveaxis(array, -1, 0) if array.ndim == 3 else array[None]
    return _channels(array, plain=mode in ("L", "I;16", "I", "RGB"), turned=turned)


def _channels(array: NDArray[Any], plain: bool, turned: bool = False) -> Picture:
    """Return a natural image without its alpha channel."""
    notes: tuple[str, ...] = (TURNED,) if turned else ()
    if len(array) in (2, 4):
        array, plain, notes = array[:-1], False, (*notes, "its alpha channel was left out")
    return Picture(np.ascontiguousarray(array), None, plain, colour=len(array) == 3, notes=notes)


def read_tiff(path: Path) -> Picture:
    """Read a 2D image, grey or in colour, or a stack of grey slices, from a TIFF file."""
    import tifffile

    with _errors_raised(path), tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise InputError(
                f"{path} holds {len(file.series)} images of different sizes or kinds; give one file an image"
            )
        series = file.series[0]
        axes, array = series.axes, series.asarray()
        # JPEG inside of TIFF is decoded from luma and chroma to colours
        coloured = series.keyframe.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
        turned = series.keyframe.tags.valueof(_ORIENTATION, 1) != 1
    if axes == "YX":
        return _channels(array[None], plain=True, turned=turned)
    if axes in ("YXS", "SYX", "CYX"):
        channels = np.moveaxis(array, -1, 0) if axes == "YXS" else array
        if coloured:
            return _channels(channels, plain=axes == "YXS", turned=turned)
        return Picture(np.ascontiguousarray(channels), None, plain=False)
    if axes in ("ZYX", "IYX", "QYX"):
        return Picture(array[None], _stack_grid(path, array.shape), plain=True)
    raise InputError(
        f"{path}: a TIFF with the axes {axes} ({' x '.join(map(str, array.shape))}); give one file a channel, with the "
        "axes YX, YX and three colours, or ZYX"
    )


@contextmanager
def _errors_raised(path: Path) -> Iterator[None]:
    """Raise what tifffile only writes to its log: it returns the pages that it finds of a file that was cut short."""
    logger = logging.getLogger("tifffile")
    said: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            said.append(record.getMessage())
        return False

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
    if said:
        raise InputError(f"{path} is damaged or cut short ({said[0]}); replace it or leave out the case")


def _stack_grid(path: Path, shape: tuple[int, ...]) -> Grid | None:
    """Return the grid of a stack of slices from the JSON file beside it, as nnU-Net has it; None without one."""
    stem = path.name[: -len(path.suffix)]
    beside = [path.with_name(f"{name}.json") for name in (stem, re.sub(r"_\d{4}$", "", stem))]
    found = next((file for file in beside if file.is_file()), None)
    if found is None:
        return None
    try:
        spacing = tuple(float(step) for step in json.loads(found.read_text(encoding="utf-8"))["spacing"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f'{found}: no spacing can be read from it; write {{"spacing": [z, y, x]}} in mm') from error
    if len(spacing) != 3 or not all(step > 0 for step in spacing):
        raise InputError(f"{found}: spacing {list(spacing)}; give three numbers above 0, in mm, for z, y, x")
    return Grid(shape[::-1], spacing[::-1], (0.0,) * 3, tuple(np.eye(3).ravel().tolist()))
