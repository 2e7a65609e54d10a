"""Draws one panel: the picture, and classes or errors over it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from nnunet_attn.figures.cases import Shown
from nnunet_attn.figures.request import Box

# Okabe and Ito's colours, told apart by colour-blind readers too; the light ones first, which show on dark images
ON_GREY = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
ON_COLOURS = ("#f0e442", "#56b4e9", "#009e73", "#e69f00", "#0072b2", "#d55e00", "#cc79a7")
"""The same colours, first those that stained tissue does not have."""
DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1.2, 1.2)))
ERRORS = {"false positive": "#dc267f", "false negative": "#648fff", "other class": "#ffb000"}
"""IBM's colours, which colour-blind readers tell apart; they are on no class."""
IGNORED = "#b0b0b0"

_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_LINE = 1.3
_TEXT_HALO: list[Any] = [withStroke(linewidth=1.6, foreground="black")]


@dataclass(frozen=True)
class Marks:
    """How classes look.

    Args:
        classes: Class -> label values, in the order in which they are drawn.
        ignore: Value that is ignored.
        style: "contour" or "fill".
        opacity: Of filled areas.
        palette: Colours of the classes, in their order.
    """

    classes: Mapping[str, tuple[int, ...]]
    ignore: int | None
    style: str
    opacity: float
    palette: tuple[str, ...] = ON_GREY

    def colour(self, name: str) -> tuple[float, float, float]:
        """Return the colour of a class; beyond the palette lighter, then darker."""
        turn, place = divmod(list(self.classes).index(name), len(self.palette))
        colour = np.array(to_rgb(self.palette[place]))
        toward, share = ((1.0, 0.0), (1.0, 0.5), (0.0, 0.45))[turn % 3]
        return tuple((colour * (1 - share) + toward * share).tolist())

    def dash(self, name: str) -> Any:
        """Return the line style of a class; one of its own each time the palette begins anew."""
        return DASHES[list(self.classes).index(name) // len(self.palette) % len(DASHES)]

    def width(self, name: str) -> float:
        """Return the line width of a class: wide for a region, since the classes in it may have the same border."""
        values = set(self.classes[name])
        return _LINE * (2 if any(set(others) < values for others in self.classes.values()) else 1)

    def handles(self, shown: Sequence[str]) -> list[Any]:
        """Return the entries of the legend for some classes."""
        if self.style == "fill":
            return [Patch(facecolor=self.colour(name), alpha=max(self.opacity, 0.6), label=name) for name in shown]
        return [
            Line2D([], [], color=self.colour(name), linestyle=self.dash(name), lw=self.width(name), label=name)
            for name in shown
        ]


def draw_picture(panel: Axes, shown: Shown, part: Box, letters: bool = False, pale: bool = False) -> None:
    """Draw a part of the image; letters at the borders are the patient's directions, and a pale one has no colours."""
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
    image, (low, high) = shown.image, shown.limits
    if pale:
        image, low = image @ _LUMINANCE if image.ndim == 3 else image, low - (high - low)
    _lay(panel, image, part, shown.aspect, cmap="gray", vmin=low, vmax=high)
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"))
    places += ((0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))
    for letter, (x, y, across, along) in zip(shown.view.letters if letters else "", places, strict=False):
        panel.text(
            x,
            y,
            letter,
            transform=panel.transAxes,
            ha=across,
            va=along,
            color="white",
            fontsize=6,
            path_effects=_TEXT_HALO,
        )


def _lay(panel: Axes, array: NDArray[Any], part: Box, aspect: Any, **more: Any) -> None:
    """Put a part of an array into a panel, where pixels have the places that they have in the whole."""
    left, top, right, bottom = part
    extent = (left - 0.5, right - 0.5, bottom - 0.5, top - 0.5)
    panel.imshow(array[top:bottom, left:right], extent=extent, aspect=aspect, interpolation="none", **more)


def draw_labels(
    panel: Axes, labels: NDArray[np.integer], marks: Marks, ignored: NDArray[np.bool_] | None, part: Box
) -> None:
    """Draw all classes of a label map over the picture, and hatch what is ignored."""
    masks = {name: np.isin(labels, values) for name, values in marks.classes.items()}
    if marks.style == "fill":
        layer = np.zeros((*labels.shape, 4))
        for name, mask in masks.items():
            layer[mask] = (*marks.colour(name), marks.opacity)
        _lay(panel, layer, part, panel.get_aspect())
    else:
        for name, mask in masks.items():
            _contour(panel, mask, name, marks)
    if ignored is not None and ignored.any():
        _hatch(panel, ignored)
    _show(panel, part)


def _contour(panel: Axes, mask: NDArray[np.bool_], name: str, marks: Marks) -> None:
    if not mask.any():
        return
    rows, columns = mask.shape
    framed = np.pad(mask, 1).astype(float)  # so that lines close at the border of the picture
    drawn = panel.contour(
        np.arange(-1, columns + 1),
        np.arange(-1, rows + 1),
        framed,
        levels=[0.5],
        colors=[marks.colour(name)],
        linewidths=marks.width(name),
        linestyles=[marks.dash(name)],
    )
    drawn.set_label(name)
    drawn.set_path_effects([withStroke(linewidth=marks.width(name) + 0.8, foreground="black", alpha=0.6)])


def _hatch(panel: Axes, mask: NDArray[np.bool_]) -> None:
    rows, columns = mask.shape
    drawn = panel.contourf(
        np.arange(-1, columns + 1),
        np.arange(-1, rows + 1),
        np.pad(mask, 1).astype(float),
        levels=[0.5, 1.5],
        colors="none",
        hatches=["////"],
    )
    drawn.set_edgecolor(IGNORED)
    drawn.set_linewidth(0)


def _show(panel: Axes, part: Box) -> None:
    """Show this part and no more: lines along the borders have widened the panel."""
    left, top, right, bottom = part
    panel.set_xlim(left - 0.5, right - 0.5)
    panel.set_ylim(bottom - 0.5, top - 0.5)


def errors_of(
    prediction: NDArray[np.integer], reference: NDArray[np.integer], marks: Marks
) -> dict[str, NDArray[np.bool_]]:
    """Return where a prediction is wrong: kind of error -> mask.

    A false positive is foreground in the prediction alone, a false negative in the reference alone; where both are
    foreground, but not of the same classes, it is "other class". What is ignored is never wrong.
    """
    ours, theirs = (
        np.stack([np.isin(labels, values) for values in marks.classes.values()] or [labels > 0])
        for labels in (prediction, reference)
    )
    counts = np.ones(reference.shape, bool) if marks.ignore is None else reference != marks.ignore
    predicted, present = ours.any(0) & counts, theirs.any(0) & counts
    return {
        "false positive": predicted & ~present,
        "false negative": present & ~predicted,
        "other class": predicted & present & (ours != theirs).any(0),
    }


def draw_errors(panel: Axes, errors: Mapping[str, NDArray[np.bool_]], part: Box) -> None:
    """Draw masks of errors over the picture."""
    shape = next(iter(errors.values())).shape
    layer = np.zeros((*shape, 4))
    for name, mask in errors.items():
        layer[mask] = (*to_rgb(ERRORS[name]), 0.85)
    _lay(panel, layer, part, panel.get_aspect())


def draw_box(panel: Axes, box: Box) -> None:
    """Draw the rectangle that is enlarged."""
    left, top, right, bottom = box
    panel.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5),
            right - left,
            bottom - top,
            fill=False,
            edgecolor="white",
            linewidth=0.9,
            path_effects=[withStroke(linewidth=1.8, foreground="black")],
        )
    )
