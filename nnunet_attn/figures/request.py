"""What a figure of cases is to show."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nnunet_attn.errors import InputError

PLANES = ("axial", "coronal", "sagittal")

Box = tuple[int, int, int, int]
"""x0 y0 x1 y1: first column and row, and those behind the last, in pixels of the panel from its upper left corner."""


@dataclass(frozen=True)
class FigureOptions:
    """How cases are shown.

    Args:
        slice: Index in the file, from 0; "reference": the slice with most foreground of the reference; "disagreement":
            where the predictions differ in most pixels from each other, or a single one from the reference.
        plane: "axial", "coronal" or "sagittal", by the directions in the file; 0, 1 or 2: the array's axis (z y x) that
            is sliced. None: the axis of a single slice, else axial, or the first where the file has no directions.
        channel: Of an image with several in one file. None: the colours of a natural image, else the first.
        window: Width of the range of values that is shown; with `level`. None: 1st to 99th percentile of the slice.
        level: Middle of that range.
        zoom: Box to enlarge below each row, or "auto": around the reference's foreground.
        style: "contour" or "fill".
        opacity: Of filled areas.
        errors: Add a row with false positives and false negatives.
        dataset_json: Names of classes, regions and the ignore label. None: each value is a class.
    Raises:
        InputError: If a value is not what it may be.
    """

    slice: int | Literal["reference", "disagreement"] = "reference"
    plane: Literal["axial", "coronal", "sagittal"] | int | None = None
    channel: int | None = None
    window: float | None = None
    level: float | None = None
    zoom: Box | Literal["auto"] | None = None
    style: Literal["contour", "fill"] = "contour"
    opacity: float = 0.5
    errors: bool = False
    dataset_json: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.slice, str) and self.slice not in ("reference", "disagreement"):
            raise InputError(f"--slice {self.slice}: give a number from 0, reference or disagreement")
        if self.plane is not None and self.plane not in (*PLANES, 0, 1, 2):
            raise InputError(
                f"--plane {self.plane}: it is one of {', '.join(PLANES)}, or an axis of the array: 0, 1, 2"
            )
        if self.channel is not None and self.channel < 0:
            raise InputError(f"--channel {self.channel}: channels are numbered from 0")
        if (self.window is None) != (self.level is None):
            raise InputError("--window and --level go together, for example --window 400 --level 40")
        window, level = self.window or 0.0, self.level or 0.0
        if self.window is not None and not (0 < window < math.inf and math.isfinite(level)):
            raise InputError(
                f"--window {window:g} --level {level:g}: the window is a width above 0, the level a number"
            )
        if isinstance(self.zoom, str) and self.zoom != "auto":
            raise InputError(f"--zoom {self.zoom}: give auto, none or four numbers: X0 Y0 X1 Y1")
        if isinstance(self.zoom, tuple):
            left, top, right, bottom = self.zoom
            if not (0 <= left < right and 0 <= top < bottom):
                raise InputError(
                    f"--zoom {' '.join(map(str, self.zoom))}: X0 Y0 X1 Y1 are the upper left and the lower right "
                    "corner in pixels from 0, so X1 is above X0 and Y1 above Y0"
                )
        if self.style not in ("contour", "fill"):
            raise InputError(f"--style {self.style}: it is contour or fill")
        if not 0 < self.opacity <= 1:
            raise InputError(f"opacity {self.opacity:g}: it is above 0 and at most 1")


@dataclass(frozen=True)
class FigureCase:
    """One row of a figure.

    Args:
        name: Of the case.
        image: Its image.
        reference: Its label file.
        predictions: Method -> label file.
        dice: Method -> class -> Dice, where they are known; else they are computed.
        note: Below the name, for example "worst".
    """

    name: str
    image: Path
    reference: Path
    predictions: Mapping[str, Path]
    dice: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    note: str = ""
