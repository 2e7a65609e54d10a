"""One picture of all attention maps of a case: a row for each stage, its mean and its heads beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

MOST_STAGES = 16
MOST_HEADS = 8
HIGHEST = 2.0
"""Attention of the last colour; 1.0, uniform attention, is in the middle."""

CONTOURS = ("#00a000", "#ffd000", "#c000c0", "#00c8d8", "black", "#ff8000")
"""Colours of the labels' contours, none of them one of the attention's."""


def fullest_slice(labels: NDArray[np.integer], axis: int) -> int:
    """Return the index of the slice with the most foreground along an axis; the middle one if there is none."""
    counts = np.moveaxis(labels > 0, axis, 0).reshape(labels.shape[axis], -1).sum(1)
    return int(counts.argmax()) if counts.any() else labels.shape[axis] // 2


def shown_stages(stages: Sequence[str]) -> list[str]:
    """Return the stages that are drawn: all, or 16 of them at equal distances, the first and the last among them."""
    if len(stages) <= MOST_STAGES:
        return list(stages)
    return [stages[round(float(place))] for place in np.linspace(0, len(stages) - 1, MOST_STAGES)]


@dataclass
class Montage:
    """Slices of an image, its segmentation and its maps, collected stage by stage and then drawn.

    Args:
        title: Above the picture.
        image: (*array) Grey values.
        labels: (*array) The predicted segmentation.
        axis: Axis that slices are taken along.
        spacing_mm: Millimetres a voxel along each axis.
        voxel: Index of a voxel in the array, whose slice is shown and which is marked; None: the slice with the most
            foreground.
    """

    title: str
    image: NDArray[np.floating]
    labels: NDArray[np.integer]
    axis: int
    spacing_mm: Sequence[float]
    voxel: Sequence[int] | None = None
    rows: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.index = fullest_slice(self.labels, self.axis) if self.voxel is None else self.voxel[self.axis]
        down, across = (step for axis, step in enumerate(self.spacing_mm) if axis != self.axis)
        self.aspect = float(down) / float(across)
        self.image, self.labels = self._slice(self.image), self._slice(self.labels)

    def _slice(self, array: NDArray) -> NDArray:
        return np.ascontiguousarray(array.take(self.index, self.axis))

    def add(self, stage: str, values: NDArray[np.float32]) -> None:
        """Keep the slice of a stage's maps (heads *array): their mean, then the heads if there are several."""
        heads = [self._slice(head) for head in values]
        self.rows[stage] = [np.mean(heads, 0), *(heads[:MOST_HEADS] if len(heads) > 1 else ())]

    def draw(self, file: Path, contours: Mapping[str, Sequence[int]]) -> None:
        """Draw everything to a PNG file.

        Args:
            file: The file.
            contours: From a label's name to its values in the segmentation; each gets a contour.
        """
        columns = max(map(len, self.rows.values()))
        height = min(3.0, max(0.6, 1.6 * self.aspect * self.image.shape[0] / self.image.shape[1]))
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            size = (1.6 * columns + 2.0, height * len(self.rows) + 1.2)
            figure = Figure(figsize=size, dpi=100, layout="constrained")
            figure.suptitle(self.title, fontsize=9)
            panels = figure.subplots(len(self.rows), columns, squeeze=False)
            drawn = None
            for row, (stage, maps) in zip(panels, self.rows.items(), strict=True):
                row[0].set_ylabel(stage, fontsize=7)
                for place, panel in enumerate(row):
                    panel.set_xticks([])
                    panel.set_yticks([])
                    if place >= len(maps):
                        panel.set_visible(False)
                        continue
                    panel.set_title("mean" if place == 0 else f"head {place}", fontsize=7)
                    drawn = self._draw_panel(panel, maps[place], contours)
            if drawn is not None:
                bar = figure.colorbar(drawn, ax=panels, shrink=0.8, extend="max")
                bar.set_label("attention; 1 is uniform", fontsize=7)
                bar.ax.tick_params(labelsize=7)
            handles = [
                Line2D([], [], color=colour, label=name)
                for name, colour in zip(contours, cycle(CONTOURS), strict=False)
            ]
            figure.legend(handles=handles, loc="outside lower left", ncols=2 * columns, fontsize=7, frameon=False)
            figure.savefig(file, format="png")

    def _draw_panel(self, panel: Any, values: NDArray[np.float32], contours: Mapping[str, Sequence[int]]) -> Any:
        low, high = np.percentile(self.image, (0.5, 99.5))
        panel.imshow(self.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=self.aspect)
        drawn = panel.imshow(values, cmap="coolwarm", vmin=0, vmax=HIGHEST, alpha=0.5, aspect=self.aspect)
        for numbers, colour in zip(contours.values(), cycle(CONTOURS), strict=False):
            mask = np.isin(self.labels, list(numbers))
            if mask.any() and not mask.all() and min(mask.shape) > 1:
                panel.contour(mask, levels=[0.5], colors=[colour], linewidths=0.8)
        if self.voxel is not None:
            row, column = (at for axis, at in enumerate(self.voxel) if axis != self.axis)
            panel.plot(column, row, marker="+", color="black", markersize=8)
        return drawn
