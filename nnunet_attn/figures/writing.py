"""Figures as files."""

import contextlib
import io
import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from nnunet_attn.errors import InputError
from nnunet_attn.figures.figure import drawing_style

FORMATS = (".png", ".svg", ".pdf")


def check_output(file: Path, overwrite: bool = False) -> None:
    """Check that a figure can be written to a file, before it is drawn.

    Raises:
        InputError: If its ending is none of `FORMATS`, its folder is not there, or it is there itself and `overwrite`
            is not given.
    """
    if file.suffix.lower() not in FORMATS:
        raise InputError(f"-o {file}: the name ends in none of {', '.join(FORMATS)}; add the one you want")
    if os.path.isdir(file):  # unlike the methods of Path, these fail nowhere
        raise InputError(f"-o {file} is a folder; give the name of a file in it")
    if os.path.lexists(file) and not overwrite:
        raise InputError(f"-o {file} exists already; add --overwrite, or give another name")
    if not os.path.isdir(file.parent):
        raise InputError(f"-o {file}: the folder {file.parent} does not exist; make it first")


def write_figure(figure: Figure, file: Path, dpi: int = 200, overwrite: bool = False) -> None:
    """Write a figure as PNG, SVG or PDF by the file's ending, under a temporary name first; equal figures, equal files.

    Args:
        figure: From `case_figure` or `cases_figure`.
        file: Where to.
        dpi: Pixels an inch of a PNG.
        overwrite: Replace the file if it is there.
    Raises:
        InputError: As `check_output`, or if it cannot be written.
    """
    check_output(file, overwrite)
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(_bytes(figure, file.suffix.lower().lstrip("."), dpi))
        os.replace(partial, file)
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror}): free or allow it, or choose another -o") from error
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or the reason is told already
            partial.unlink()


def _bytes(figure: Figure, form: str, dpi: int) -> bytes:
    no_date = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    stream = io.BytesIO()
    with matplotlib.rc_context(drawing_style()):
        figure.savefig(stream, format=form, dpi=dpi, metadata=no_date[form])
    return stream.getvalue()
