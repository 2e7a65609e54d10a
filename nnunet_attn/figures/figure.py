"""Cases as papers show them: a row each, with image, reference and the methods' predictions beside each other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare_labels import text_width, wrapped
from nnunet_attn.evaluation.drawing import FONT_SIZE, SMALL, style_with
from nnunet_attn.figures.cases import Shown, classes_of, described, load_case, mean_dice, show_case
from nnunet_attn.figures.panels import (
    ERRORS,
    IGNORED,
    ON_COLOURS,
    ON_GREY,
    Marks,
    draw_box,
    draw_errors,
    draw_labels,
    draw_picture,
    errors_of,
)
from nnunet_attn.figures.request import FigureCase, FigureOptions

_OTHERS = 2  # columns that are no method's: image and reference
_SEVERAL = 4  # classes whose Dice stands below a panel, beside their mean

# inches: the room of everything is known before it is drawn, so that nothing is cut off
_LINE, _SMALL_LINE = 0.15, 0.13
_GAP = 0.05  # between panels
_PAD = 0.08
_WIDEST_PANEL, _NARROWEST_PANEL, _WIDEST_FIGURE = 2.0, 1.0, 10.0
_HIGHEST_RATIO = 1.5  # of a panel's room; higher pictures get narrower


def case_figure(
    image: Path,
    reference: Path,
    predictions: Mapping[str, Path],
    options: FigureOptions | None = None,
    *,
    name: str = "",
    note: str = "",
    dice: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Return a figure of one case: image, reference and predictions side by side.

    Args:
        image: Its file, in any format that `nnunet-attn register` reads.
        reference: Label file of the same grid.
        predictions: Method -> label file of the same grid.
        options: How it is shown.
        name: Beside the row.
        note: Below the name.
        dice: Method -> class -> Dice, where they are known; else they are computed.
    Raises:
        InputError: If a file is missing or does not fit, or an option is not possible with it.
    """
    return cases_figure([FigureCase(name, image, reference, predictions, dice or {}, note)], options)


def cases_figure(cases: Sequence[FigureCase], options: FigureOptions | None = None) -> Figure:
    """Return a figure of several cases, a row each; all have the same methods, in the order of the first.

    Raises:
        InputError: As `case_figure`, and if there is no case, or one lacks a method.
    """
    options = options or FigureOptions()
    if not cases:
        raise InputError("there is no case to show; give at least one")
    methods = list(cases[0].predictions)
    for case in cases:
        if odd := set(case.predictions) ^ set(methods):
            raise InputError(
                f"{case.name}: the prediction of {sorted(odd)[0]} is not there for all cases; give it for all"
            )
    description = described(options)
    loaded = [load_case(case, description) for case in cases]
    classes, ignore = classes_of(loaded, description)
    shown = [show_case(each, options, classes, ignore) for each in loaded]
    has_colours = any(each.image.ndim == 3 for each in shown)
    marks = Marks(classes, ignore, options.style, options.opacity, ON_COLOURS if has_colours else ON_GREY)
    with matplotlib.rc_context(drawing_style()):
        return _Layout(shown, methods, marks, options.errors).draw()


def drawing_style() -> dict[Any, Any]:
    """Return matplotlib's settings for these figures."""
    return style_with({"contour.negative_linestyle": "solid"})


@dataclass(frozen=True)
class _Row:
    """A row of panels: its kind ("whole", "zoom" or "errors") and its height in inches."""

    shown: Shown
    kind: str
    height: float


class _Layout:
    """Places and draws all panels, names and the legend; lengths are in inches."""

    def __init__(self, shown: Sequence[Shown], methods: Sequence[str], marks: Marks, errors: bool) -> None:
        self.shown, self.methods, self.marks = shown, methods, marks
        self.columns = ["image", "reference", *methods]
        tallest = max(each.ratio for each in shown)
        room = min(_WIDEST_PANEL, max(_NARROWEST_PANEL, _WIDEST_FIGURE / len(self.columns)))
        self.width = max(_NARROWEST_PANEL, room * min(1.0, _HIGHEST_RATIO / tallest))
        self.blocks = [self._rows(each, errors) for each in shown]
        self.has_errors = errors
        self.titles = [wrapped(name, self.width, FONT_SIZE) for name in self.columns]
        self.captions = [self._captions(each) for each in shown]
        self.names = [self._name(each, rows) for each, rows in zip(shown, self.blocks, strict=True)]
        self.left = _PAD + max((_LINE * (1 + name.count("\n")) + _PAD for name in self.names if name), default=0.0)
        self.total_width = self.left + len(self.columns) * (self.width + _GAP) - _GAP + _PAD
        self.handles = self._handles()
        self.note = wrapped(self._note(), self.total_width - 2 * _PAD, SMALL)
        self.legend_columns, self.legend_height = self._legend_size()

    def _rows(self, shown: Shown, errors: bool) -> list[_Row]:
        height = self.width * min(shown.ratio, _HIGHEST_RATIO * max(1.0, _WIDEST_PANEL / self.width))
        rows = [_Row(shown, "whole", height)]
        if shown.box is not None:
            left, top, right, bottom = shown.box
            ratio = shown.aspect * (bottom - top) / (right - left)
            rows.append(_Row(shown, "zoom", self.width * min(ratio, 2.0)))
        if errors:
            rows.append(_Row(shown, "errors", rows[-1].height))
        return rows

    def _name(self, shown: Shown, rows: Sequence[_Row]) -> str:
        length = sum(row.height + _GAP for row in rows)
        parts = [wrapped(part, length, FONT_SIZE) for part in (shown.case.name, shown.case.note) if part]
        return "\n".join(parts)

    def _captions(self, shown: Shown) -> list[str]:
        place = "" if shown.view.axis is None else f"{shown.view.name}, slice {shown.index}"
        lines = [wrapped(place, self.width, SMALL), ""]
        for method in self.methods:
            values = shown.dice[method]
            text = f"Dice {_number(mean_dice(values))}"
            if 1 < len(values) <= _SEVERAL:
                text += "".join(f"\n{name} {_number(value)}" for name, value in values.items())
            lines.append("\n".join(wrapped(line, self.width, SMALL) for line in text.split("\n")))
        return lines

    def _note(self) -> str:
        parts = []
        if any(each.view.axis is not None for each in self.shown):
            parts.append("Dice of the whole 3D image")
        if len(self.marks.classes) > 1:
            parts.append("mean over classes" if parts else "Dice: mean over classes")
        return ", ".join(parts)

    def _handles(self) -> list[Any]:
        labels = [array for each in self.shown for array in (each.reference, *each.predictions.values())]
        names = [name for name, values in self.marks.classes.items() if any(np.isin(a, values).any() for a in labels)]
        handles = self.marks.handles(names)
        ignore = self.marks.ignore
        if ignore is not None and any((each.reference == ignore).any() for each in self.shown):
            handles.append(Patch(facecolor="none", edgecolor=IGNORED, hatch="////", linewidth=0, label="ignored"))
        if self.has_errors:
            handles += [Patch(facecolor=colour, label=name) for name, colour in ERRORS.items() if self._happens(name)]
        return handles

    def _happens(self, error: str) -> bool:
        return any(
            errors_of(labels, each.reference, self.marks)[error].any()
            for each in self.shown
            for labels in each.predictions.values()
        )

    def _legend_size(self) -> tuple[int, float]:
        if not self.handles:
            return 1, 0.0
        widest = max(text_width(str(handle.get_label()), FONT_SIZE) for handle in self.handles) + 0.55
        columns = max(1, min(len(self.handles), int((self.total_width - 2 * _PAD) / widest)))
        return columns, -(-len(self.handles) // columns) * 1.2 * _LINE + _PAD

    def draw(self) -> Figure:
        above = max(1 + title.count("\n") for title in self.titles) * _LINE + _PAD
        below = [_SMALL_LINE * max(1 + text.count("\n") for text in texts) + 1.5 * _PAD for texts in self.captions]
        heights = [sum(row.height + _GAP for row in rows) for rows in self.blocks]
        note = _SMALL_LINE * (1 + self.note.count("\n")) if self.note else 0.0
        total = above + sum(heights) + sum(below) + self.legend_height + note + _PAD
        self.figure = Figure(figsize=(self.total_width, total))
        self.size = (self.total_width, total)
        for column, title in enumerate(self.titles):
            self._text(self._left_of(column) + self.width / 2, above - _PAD / 2, title, va="bottom")
        top = above
        for rows, name, texts, room in zip(self.blocks, self.names, self.captions, below, strict=True):
            block = pictures = top
            for row in rows:
                self._draw_row(row, top)
                top += row.height + _GAP
                pictures = pictures if row.kind == "errors" else top
            if name:
                self._text(
                    self.left - _PAD, (block + top - _GAP) / 2, name, rotation=90, ha="right", va="center", ma="center"
                )
            for column, text in enumerate(texts):
                centre = self._left_of(column) + self.width / 2
                self._text(
                    centre,
                    pictures if column < _OTHERS else top,
                    text,
                    va="top",
                    fontsize=SMALL,
                    color="0.3",
                    linespacing=1.15,
                )
            top += room
        self._draw_legend(top)
        if self.note:
            self._text(self.left, total - _PAD, self.note, ha="left", va="bottom", fontsize=SMALL, color="0.3")
        return self.figure

    def _draw_legend(self, top: float) -> None:
        if self.handles:
            place = (self.left / self.size[0], 1 - top / self.size[1])
            self.figure.legend(
                handles=self.handles,
                loc="upper left",
                bbox_to_anchor=place,
                ncols=self.legend_columns,
                frameon=False,
                borderpad=0,
                borderaxespad=0,
                handlelength=1.6,
                columnspacing=1.2,
            )

    def _left_of(self, column: int) -> float:
        return self.left + column * (self.width + _GAP)

    def _text(self, x: float, y: float, text: str, **more: Any) -> None:
        self.figure.text(x / self.size[0], 1 - y / self.size[1], text, **{"ha": "center", **more})

    def _draw_row(self, row: _Row, top: float) -> None:
        shown = row.shown
        ignored = None if self.marks.ignore is None else shown.reference == self.marks.ignore
        arrays = [None, shown.reference, *(shown.predictions[method] for method in self.methods)]
        rows, columns = shown.reference.shape
        part = (0, 0, columns, rows) if row.kind == "whole" or shown.box is None else shown.box
        for column, labels in enumerate(arrays):
            if row.kind == "errors" and column < _OTHERS:
                continue
            panel = self._panel(column, top, row)
            letters = row.kind == "whole" and column == 0
            draw_picture(panel, shown, part, letters, pale=row.kind == "errors")
            if row.kind == "errors" and labels is not None:
                draw_errors(panel, errors_of(labels, shown.reference, self.marks), part)
            elif labels is not None:
                draw_labels(panel, labels, self.marks, ignored, part)
            if shown.box is not None and row.kind == "whole":
                draw_box(panel, shown.box)
        if row.kind == "errors":
            self._text(self._left_of(_OTHERS) - 2 * _GAP, top + row.height / 2, "errors", ha="right", va="center")

    def _panel(self, column: int, top: float, row: _Row) -> Axes:
        width, height = self.size
        place = (
            self._left_of(column) / width,
            1 - (top + row.height) / height,
            self.width / width,
            row.height / height,
        )
        panel = self.figure.add_axes(place)
        panel.set_label(f"{row.kind}: {self.columns[column]}")
        return panel


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
