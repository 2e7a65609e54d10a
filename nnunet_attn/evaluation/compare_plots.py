"""Pictures of a comparison: the differences of all pairs, and the classes side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from nnunet_attn.evaluation.compare_labels import shared_note, short_names, text_width, widest, wrapped
from nnunet_attn.evaluation.compare_results import Comparison, Difference, MetricResult
from nnunet_attn.evaluation.compare_tables import TESTED_TITLES, percent
from nnunet_attn.evaluation.drawing import FONT_SIZE, SMALL, style_with
from nnunet_attn.evaluation.results import LARGER_IS_BETTER

FORMATS = ("png", "svg")
# Okabe and Ito's colours, told apart by colour-blind readers too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")

# inches: the room of everything is known before it is drawn, so that nothing is cut off
_AXES_WIDTH = 4.8
_NAME_WIDTH = 2.6
_LINE = 0.15  # a line of text
_PAD = 0.1
_TICKS = 0.27  # below the axes: ticks and their numbers
_END = 0.35  # right of the axes: half of the last tick's number


def draw_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Draw each metric's differences and classes to `folder`, as PNG and as SVG; no display is needed.

    Returns:
        The files: `differences_METRIC.png`, `classes_METRIC.png`, and the same as `.svg`.
    """
    files = []
    for metric in comparison.metrics:
        for kind, draw in (("differences", difference_plot), ("classes", class_plot)):
            figure = draw(comparison, metric)
            with matplotlib.rc_context(drawing_style()):
                for ending in FORMATS:
                    file = folder / f"{kind}_{metric}.{ending}"
                    metadata = {"Date": None} if ending == "svg" else {"Software": None}
                    figure.savefig(file, format=ending, dpi=150, metadata=metadata)
                    files.append(file)
    return files


def drawing_style() -> dict[Any, Any]:
    """Return matplotlib's settings for plots."""
    return style_with({"axes.spines.top": False, "axes.spines.right": False})


def difference_plot(comparison: Comparison, metric: str) -> Figure:
    """Return a row for each compared pair: a point for each case (or split), their mean and its interval.

    Differences with an infinite value have no place on the axis; the row's name says how many there are.
    """
    result, over = comparison.result(metric), comparison.paired_over
    names = short_names([method.name for method in comparison.methods])
    rows = [_row_name(each, names, over) for each in result.differences]
    with matplotlib.rc_context(drawing_style()):
        caption = (
            f"Each point: one {over[:-1]}. Diamond and bar: mean and its {percent(comparison.confidence)} % interval. "
            f"n: {over} that are finite in both. {shared_note(list(names))}"
        )
        height = max(0.45, *(_LINE * (1 + row.count("\n")) + _PAD for row in rows))
        figure, axes = _canvas(widest(rows, FONT_SIZE), _END, height * len(rows), _x_label(comparison, metric), caption)
        axes.axvline(0, color="0.6", linewidth=0.8)
        places = range(len(rows) - 1, -1, -1)
        drawn = [_draw_difference(axes, result, *pair) for pair in zip(result.differences, places, strict=True)]
        axes.set_yticks(places, rows)
        axes.set_ylim(-0.5, len(rows) - 0.5)
        if not any(drawn):
            axes.set_xticks([])
    return figure


def _x_label(comparison: Comparison, metric: str) -> str:
    names = short_names([method.name for method in comparison.methods])
    side, other = ("right", "left") if LARGER_IS_BETTER[metric] else ("left", "right")
    against = {each.against for each in comparison.result(metric).differences}
    better = f"better than {names[comparison.reference]}, {other}: worse"
    if against != {comparison.reference}:
        better = "the method named first is better"
    title = TESTED_TITLES[metric].replace("Absolute", "absolute")
    return f"difference in {title}, mean over classes\n{side} of 0: {better}"


def _draw_difference(axes: Axes, result: MetricResult, difference: Difference, height: float) -> bool:
    """Draw a row; return whether it has any value."""
    a, b = (np.array(result.tested[name]) for name in (difference.method, difference.against))
    finite = np.isfinite(a) & np.isfinite(b)
    values = a[finite] - b[finite]
    if not len(values):
        axes.text(0.5, height, "no finite pair", transform=axes.get_yaxis_transform(), ha="center", va="center")
        return False
    # points are spread over the row's height, always alike
    spread = np.random.default_rng(0).uniform(-0.25, 0.25, len(values))
    axes.scatter(values, height + spread, s=10, color=COLOURS[0], alpha=0.5, linewidths=0)
    paired = difference.paired
    if not np.isnan(paired.ci_low):
        axes.plot([paired.ci_low, paired.ci_high], [height, height], color="black", linewidth=2)
    if not np.isnan(paired.mean_difference):
        axes.plot(paired.mean_difference, height, marker="D", color="black", markersize=5)
    return True


def _row_name(difference: Difference, names: Mapping[str, str], over: str) -> str:
    paired = difference.paired
    infinite = paired.n_pairs - paired.n_finite
    count = f"n = {paired.n_finite}" + (f" ({infinite} of {paired.n_pairs} {over} infinite)" if infinite else "")
    lines = (names[difference.method], f"- {names[difference.against]}", count)
    return "\n".join(wrapped(line, _NAME_WIDTH, FONT_SIZE) for line in lines)


def class_plot(comparison: Comparison, metric: str) -> Figure:
    """Return a group of boxes for each class, one box a method: quartiles, median, and the mean as a diamond.

    Whiskers reach to the last value within 1.5 times the quartiles' distance, others are points. Infinite values have
    no place on the axis; beside each box stand the number of its values and how many more are infinite.
    """
    methods = [method.name for method in comparison.methods]
    names = short_names(methods)
    classes = [wrapped(name, _NAME_WIDTH, FONT_SIZE) for name in comparison.classes]
    results = [comparison.result(metric, name) for name in comparison.classes]
    values = {method: [np.array(result.values[method]) for result in results] for method in methods}
    counts = {method: [_count(each) for each in own] for method, own in values.items()}
    aside = widest([text for own in counts.values() for text in own], SMALL) + _PAD
    with matplotlib.rc_context(drawing_style()):
        caption = (
            "Box: quartiles; line: median; diamond: mean; whiskers: last value within 1.5 times the quartiles' "
            f"distance, points: values beyond. n: values drawn; infinite ones cannot be. {shared_note(methods)}"
        )
        group = max(0.15 * len(methods) + 0.15, 0.35, *(_LINE * (1 + name.count("\n")) + _PAD for name in classes))
        left = widest(classes, FONT_SIZE)
        room = left + _AXES_WIDTH + aside
        shown = [wrapped(names[method], room - 0.6, FONT_SIZE) for method in methods]
        columns = max(1, min(len(shown), int(room / (widest(shown, FONT_SIZE) + 0.6))))
        lines = -(-len(shown) // columns) * (1 + max(name.count("\n") for name in shown))
        legend = lines * 1.15 * _LINE + 2 * _PAD
        size = (left, max(aside, _END), group * len(classes))
        figure, axes = _canvas(*size, TESTED_TITLES[metric], caption, above=legend)
        width = (group - 0.12) / group / len(methods)
        for at, method in enumerate(methods):
            shift = ((len(methods) - 1) / 2 - at) * width  # the first on top, as in the legend
            places = [len(classes) - 1 - place + shift for place in range(len(classes))]
            _draw_boxes(axes, values[method], places, width, COLOURS[at % len(COLOURS)])
            for place, text in zip(places, counts[method], strict=True):
                beside = axes.get_yaxis_transform()
                axes.text(1.01, place, text, transform=beside, fontsize=SMALL, va="center")
        axes.set_yticks(range(len(classes) - 1, -1, -1), classes)
        axes.set_ylim(-0.5, len(classes) - 0.5)
        for border in range(len(classes) - 1):
            axes.axhline(border + 0.5, color="0.9", linewidth=0.8)
        if not any(np.isfinite(each).any() for own in values.values() for each in own):
            axes.set_xticks([])
            axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center")
        colours = [COLOURS[at % len(COLOURS)] for at in range(len(methods))]
        handles = [Patch(facecolor=colour, alpha=0.6, label=name) for name, colour in zip(shown, colours, strict=True)]
        figure.legend(handles=handles, loc="upper left", ncols=columns, frameon=False, borderaxespad=0.2)
    return figure


def _count(values: NDArray[np.float64]) -> str:
    infinite = int(np.isinf(values).sum())
    return f"n = {int(np.isfinite(values).sum())}" + (f", {infinite} infinite" if infinite else "")


def _draw_boxes(
    axes: Axes, values: Sequence[NDArray[np.float64]], places: Sequence[float], width: float, colour: str
) -> None:
    drawn = axes.boxplot(
        [each[np.isfinite(each)] for each in values],
        positions=places,
        widths=0.8 * width,
        orientation="horizontal",
        patch_artist=True,
        manage_ticks=False,
        showmeans=True,
        medianprops={"color": "black"},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 3},
        flierprops={"marker": ".", "markersize": 4, "markeredgecolor": colour},
    )
    for box in drawn["boxes"]:
        box.set(facecolor=colour, alpha=0.6)


def _canvas(
    names: float, right: float, height: float, x_label: str, caption: str, above: float = _PAD
) -> tuple[Figure, Axes]:
    """Return a figure, and its axes with their label and a caption below.

    Args:
        names: Width in inches of the names left of the axes.
        right: Room in inches right of them.
        height: Of the axes, in inches.
        x_label: Broken into lines as wide as the axes.
        caption: Broken into lines as wide as the figure.
        above: Room in inches above the axes.
    """
    left = max(names, text_width("0", FONT_SIZE)) + 0.2
    width = left + _AXES_WIDTH + right
    label = wrapped(x_label, _AXES_WIDTH, FONT_SIZE)
    told = wrapped(caption.strip(), width - 2 * _PAD, SMALL)
    footer = _LINE * (1 + told.count("\n")) + _PAD
    below = footer + _LINE * (1 + label.count("\n")) + _TICKS
    total = above + height + below
    figure = Figure(figsize=(width, total))
    axes = figure.add_axes((left / width, below / total, _AXES_WIDTH / width, height / total))
    axes.set_xlabel(label)
    figure.text(_PAD / width, _PAD / 2 / total, told, fontsize=SMALL, color="0.3", va="bottom")
    return figure, axes
