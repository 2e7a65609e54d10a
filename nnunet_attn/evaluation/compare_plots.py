"""Pictures of a comparison: the differences of all pairs, and the classes side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunet_attn.evaluation.compare import Comparison, Difference, MetricResult
from nnunet_attn.evaluation.compare_tables import TITLES
from nnunet_attn.evaluation.results import LARGER_IS_BETTER

FORMATS = ("png", "svg")
# Okabe and Ito's colours, told apart by colour-blind readers too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "nnunet-attn",  # the same picture is the same file
    "svg.fonttype": "none",  # names can be searched and edited
    "text.parse_math": False,  # names may have a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 8,
}


def draw_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Draw each metric's differences and classes to `folder`, as PNG and as SVG; no display is needed.

    Returns:
        The files: `differences_METRIC.png`, `classes_METRIC.png`, and the same as `.svg`.
    """
    files = []
    for metric in comparison.metrics:
        for kind, draw in (("differences", difference_plot), ("classes", class_plot)):
            with matplotlib.rc_context():
                matplotlib.rcdefaults()
                for name, value in _STYLE.items():
                    matplotlib.rcParams[name] = value
                figure = draw(comparison, metric)
                for ending in FORMATS:
                    file = folder / f"{kind}_{metric}.{ending}"
                    metadata = {"Date": None} if ending == "svg" else {"Software": None}
                    figure.savefig(file, format=ending, dpi=150, metadata=metadata)
                    files.append(file)
    return files


def difference_plot(comparison: Comparison, metric: str) -> Figure:
    """Return a row for each compared pair: a point for each case (or split), their mean and its interval.

    Differences with an infinite value have no place on the axis; the row's name says how many there are.
    """
    result = comparison.result(metric)
    rows = len(result.differences)
    figure = Figure(figsize=(7.0, 1.2 + 0.7 * rows), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=0.8)
    names = []
    for row, difference in enumerate(result.differences):
        _draw_difference(axes, result, difference, rows - 1 - row)
        names.append(_row_name(difference, comparison.paired_over))
    axes.set_yticks(range(rows - 1, -1, -1), names)
    axes.set_ylim(-0.6, rows - 0.4)
    better = "right" if LARGER_IS_BETTER[metric] else "left"
    axes.set_xlabel(f"difference in {TITLES[metric]}, mean over classes ({better} of 0: better than the other)")
    percent = f"{100 * comparison.confidence:g} %"
    axes.set_title(f"each point one {comparison.paired_over[:-1]}; bar: mean and {percent} interval", fontsize=8)
    return figure


def _draw_difference(axes: Axes, result: MetricResult, difference: Difference, height: float) -> None:
    a, b = (np.array(result.tested[name]) for name in (difference.method, difference.against))
    finite = np.isfinite(a) & np.isfinite(b)
    values = a[finite] - b[finite]
    # points are spread over the row's height, always alike
    spread = np.random.default_rng(0).uniform(-0.25, 0.25, len(values))
    axes.scatter(values, height + spread, s=10, color=COLOURS[0], alpha=0.5, linewidths=0)
    paired = difference.paired
    if not np.isnan(paired.ci_low):
        axes.plot([paired.ci_low, paired.ci_high], [height, height], color="black", linewidth=2)
    if not np.isnan(paired.mean_difference):
        axes.plot(paired.mean_difference, height, marker="D", color="black", markersize=5)


def _row_name(difference: Difference, paired_over: str) -> str:
    paired = difference.paired
    infinite = paired.n_pairs - paired.n_finite
    more = f"\n({infinite} of {paired.n_pairs} {paired_over} infinite)" if infinite else ""
    return f"{difference.method}\n- {difference.against}{more}"


def class_plot(comparison: Comparison, metric: str) -> Figure:
    """Return a group of boxes for each class, one box a method: quartiles, median, and the mean as a diamond.

    Whiskers reach to the last value within 1.5 times the quartiles' distance, others are points. Infinite values have
    no place on the axis; the class's name says how many there are of all methods.
    """
    names, methods = list(comparison.classes), [method.name for method in comparison.methods]
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(methods))]
    width = 0.8 / len(methods)
    figure = Figure(figsize=(max(5.0, 1.5 + 0.35 * len(names) * (len(methods) + 1)), 3.6), layout="constrained")
    axes = figure.subplots()
    results = [comparison.result(metric, name) for name in names]
    for at, (method, colour) in enumerate(zip(methods, colours, strict=True)):
        shift = (at - (len(methods) - 1) / 2) * width
        _draw_boxes(axes, [result.values[method] for result in results], shift, width, colour)
    labels = []
    for result in results:
        infinite = sum(int(np.isinf(values).sum()) for values in result.values.values())
        labels.append(f"{result.class_name}" + (f"\n({infinite} infinite)" if infinite else ""))
    axes.set_xticks(range(len(names)), labels, rotation=45 if len(names) > 6 else 0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel(TITLES[metric])
    handles = [Patch(facecolor=colour, alpha=0.6, label=name) for name, colour in zip(methods, colours, strict=True)]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False)
    return figure


def _draw_boxes(axes: Axes, values: Sequence[Sequence[float]], shift: float, width: float, colour: str) -> None:
    finite = [np.array(each)[np.isfinite(each)] for each in values]
    drawn = axes.boxplot(
        finite,
        positions=[place + shift for place in range(len(values))],
        widths=0.85 * width,
        patch_artist=True,
        manage_ticks=False,
        showmeans=True,
        medianprops={"color": "black"},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 3},
        flierprops={"marker": ".", "markersize": 4, "markeredgecolor": colour},
    )
    for box in drawn["boxes"]:
        box.set(facecolor=colour, alpha=0.6)
