"""The plots of a report, in the page's colours: paired differences, training curves, Dice against labels."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_attn.evaluation.compare_plots import difference_plot, drawing_style
from nnunet_attn.evaluation.compare_results import Comparison
from nnunet_attn.evaluation.compare_tables import TESTED_TITLES, metric_decimals, number, place
from nnunet_attn.study.logs import Epoch
from nnunet_attn.study.report.curves import thinned
from nnunet_attn.study.report.model import LabelCurve, RunInfo
from nnunet_attn.study.report.svg import GRID, SERIES, inline_svg

_WIDTH, _LEFT = 6.6, 0.62  # inches; left of the axes stand numbers and what they are
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
_MOST_POINTS = 400  # of a curve: more cannot be told apart at its width


@dataclass(frozen=True)
class Look:
    """How a method is drawn: colour and dashes are its own, whatever the plot.

    Args:
        at: Its number among the methods.
    """

    at: int

    @property
    def colour(self) -> str:
        """The stand-in for the page's colour."""
        return SERIES[self.at % len(SERIES)]

    @property
    def variable(self) -> str:
        """The page's colour, as CSS names it."""
        return f"var(--c{self.at % len(SERIES)})"

    @property
    def dashes(self) -> str | tuple[int, tuple[float, ...]]:
        """matplotlib's style of its lines."""
        return _DASHES[self.at // len(SERIES) % len(_DASHES)]

    @property
    def dash_array(self) -> str:
        """The same as an attribute of SVG."""
        return "none" if isinstance(self.dashes, str) else " ".join(str(2 * length) for length in self.dashes[1])


def differences_svg(comparison: Comparison, metric: str, looks: Mapping[str, Look], name: str) -> Markup:
    """Return the paired differences of one metric, in the methods' colours; resting on a point shows its case."""
    figure = difference_plot(comparison, metric)
    result = comparison.result(metric)
    units = _units(comparison)
    drawn = []
    for difference in result.differences:
        a, b = (np.array(result.tested[each]) for each in (difference.method, difference.against))
        finite = np.isfinite(a) & np.isfinite(b)
        texts = [
            f"{units[at]}: {number(float(a[at] - b[at]), metric_decimals(metric, 4), sign=True)}"
            for at in np.flatnonzero(finite)
        ]
        drawn += [(difference.method, texts)] if texts else []
    titles: dict[str, list[str]] = {}
    for at, (points, (method, texts)) in enumerate(zip(figure.axes[0].collections, drawn, strict=True)):
        points.set(facecolor=looks[method].colour, alpha=0.7)
        points.set_gid(f"points{at}")
        titles[f"points{at}"] = texts
    label = f"Paired differences in {TESTED_TITLES[metric]}; the figures are in the table"
    return inline_svg(figure, name, label, titles)


def _units(comparison: Comparison) -> list[str]:
    """What each tested value is of."""
    count = len(next(iter(comparison.results[0].tested.values())))
    if comparison.splits:
        return [f"split {fold}" for fold in comparison.splits]
    if comparison.paired_over == "cases":
        return [place(key) for key in comparison.keys]
    return [f"patient {at + 1}" for at in range(count)]


def curves_svg(runs: Sequence[RunInfo], looks: Mapping[str, Look], name: str) -> Markup | None:
    """Return losses and pseudo Dice of all trainings that have begun, in the colours of their methods."""
    known = [each for each in runs if each.epochs]
    if not known:
        return None
    panels: list[tuple[str, Callable[[Epoch], float | None]]] = [
        ("training loss", lambda each: each.train_loss),
        ("validation loss", lambda each: each.val_loss),
        ("pseudo Dice", lambda each: each.dice if each.pseudo_dice else None),
    ]
    titles = {}
    with matplotlib.rc_context(drawing_style()):
        figure = Figure(figsize=(_WIDTH, 5.4))
        figure.subplots_adjust(left=_LEFT / _WIDTH, right=0.99, bottom=0.08, top=0.99, hspace=0.08)
        several: list[Axes] = list(figure.subplots(len(panels), 1, sharex=True))
        for axes, (title, value) in zip(several, panels, strict=True):
            for at, each in enumerate(known):
                epochs = thinned(each.epochs, _MOST_POINTS)
                numbers = [epoch.number for epoch in epochs]
                values = [math.nan if (own := value(epoch)) is None else own for epoch in epochs]
                gid = f"{title.replace(' ', '')}{at}"
                look = looks[each.run.row]
                mark = "o" if len(numbers) == 1 else ""
                axes.plot(
                    numbers,
                    values,
                    color=look.colour,
                    linestyle=look.dashes,
                    linewidth=1,
                    alpha=0.8,
                    marker=mark,
                    markersize=3,
                    gid=gid,
                )
                titles[gid] = _run_text(each)
            axes.set_ylabel(title)
            axes.yaxis.set_label_coords(-0.075, 0.5)
            axes.grid(color=GRID, linewidth=0.6)
            axes.set_axisbelow(True)
        several[-1].set_ylim(top=1.0 if several[-1].get_ylim()[1] > 0.8 else None)
        several[-1].set_xlabel("epoch")
        several[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return inline_svg(figure, name, f"Training curves of {len(known)} trainings: losses and pseudo Dice", titles)


def _run_text(each: RunInfo) -> str:
    run = each.run
    parts = [run.row, f"fold {run.fold}"]
    parts += [f"{run.labels} labels"] if run.labels is not None else []
    parts += [f"seed {run.seed}"] if run.seed is not None else []
    return ", ".join(parts)


def labels_svg(curves: Sequence[LabelCurve], looks: Mapping[str, Look], name: str) -> Markup | None:
    """Return Dice against the number of labelled cases: mean and standard deviation over folds and seeds.

    Of the test cases, which all folds predict together, over seeds.
    """
    drawn = [curve for curve in curves if curve.points]
    if not drawn:
        return None
    titles = {}
    with matplotlib.rc_context(drawing_style()):
        figure = Figure(figsize=(_WIDTH, 3.4))
        figure.subplots_adjust(left=_LEFT / _WIDTH, right=0.99, bottom=0.13, top=0.98)
        axes = figure.subplots()
        places = sorted({point.labels for curve in drawn for point in curve.points})
        for at, curve in enumerate(drawn):
            look = looks[curve.row]
            # beside each other, so that bars of the same number do not hide each other
            shift = 1 + 0.035 * (at - (len(drawn) - 1) / 2)
            x = [point.labels * shift for point in curve.points]
            sd = [0.0 if math.isnan(point.sd) else point.sd for point in curve.points]
            means = [point.mean for point in curve.points]
            (line, *_) = axes.errorbar(
                x,
                means,
                yerr=sd,
                color=look.colour,
                linestyle=look.dashes,
                linewidth=1.3,
                capsize=3,
                marker="o",
                markersize=4.5,
                elinewidth=1,
            )
            line.set_gid(f"labels{at}")
            titles[f"labels{at}"] = curve.row
            for place_at, point in zip(x, curve.points, strict=True):
                axes.plot(
                    [place_at] * len(point.values), point.values, ".", color=look.colour, markersize=2.5, alpha=0.6
                )
        axes.set_xscale("log")
        axes.set_xticks(places, [str(each) for each in places])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("labelled cases")
        axes.set_ylabel(f"Dice of the {'test' if drawn[0].test else 'validation'} cases")
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
    return inline_svg(figure, name, "Dice against the number of labelled cases", titles)
