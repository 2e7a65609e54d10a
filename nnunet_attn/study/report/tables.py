"""The tables of a report: each is made once, and written as HTML, Markdown or LaTeX with the same texts."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from nnunet_attn.evaluation.compare_results import Comparison, Difference, MethodResult, MetricResult
from nnunet_attn.evaluation.compare_tables import (
    DECIMALS,
    NONE,
    TESTED_TITLES,
    TITLES,
    escaped,
    interval,
    metric_decimals,
    number,
    p_value,
    percent,
)
from nnunet_attn.evaluation.compare_tables import table as markdown_table
from nnunet_attn.evaluation.results import LARGER_IS_BETTER, SURFACE_METRICS, VOLUME_METRICS
from nnunet_attn.evaluation.statistics import bootstrap_interval


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: As it stands there.
        value: What the column is sorted by; NaN: no number.
        is_best: Whether it is printed bold.
        tag: A word beside it.
    """

    text: str
    value: float = math.nan
    is_best: bool = False
    tag: str = ""


@dataclass(frozen=True)
class Column:
    """A column: its heading, whether it has text, and whether long text is broken there."""

    title: str
    is_text: bool = False
    is_wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        title: In a few words.
        columns: The first one names the row.
        rows: Cells of each row.
        note: What has to be known to read it.
        reference: Numbers of the rows that are of the reference.
        is_sortable: Whether a reader may want another order.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    reference: frozenset[int] = frozenset()
    is_sortable: bool = False

    def markdown(self) -> str:
        """Return it with its title above and its note below."""
        texts = sum(column.is_text for column in self.columns)
        rows = [[f"{cell.text} ({cell.tag})" if cell.tag else cell.text for cell in row] for row in self.rows]
        parts = [f"**{self.title}**", markdown_table([column.title for column in self.columns], rows, texts), self.note]
        return "\n\n".join(part for part in parts if part)

    def latex(self, label: str) -> str:
        r"""Return it for a document that has `\usepackage{booktabs}`."""
        rows = [[escaped(f"{each.text} ({each.tag})" if each.tag else each.text) for each in row] for row in self.rows]
        frame = pd.DataFrame(rows, columns=[escaped(column.title) for column in self.columns])
        return frame.style.hide(axis="index").to_latex(
            column_format="".join("l" if column.is_text else "r" for column in self.columns),
            hrules=True,
            position_float="centering",
            caption=escaped(f"{self.title}. {self.note}".strip()),
            label=label,
        )


def overview_table(comparison: Comparison, decimals: int = DECIMALS) -> Table:
    """Return the means of all metrics, a row a method; the best of each is marked."""
    columns = [Column("method", is_text=True)]
    columns += [Column(f"{TITLES[metric]} {_arrow(metric)}") for metric in comparison.metrics]
    results = [comparison.result(metric) for metric in comparison.metrics]
    rows = []
    for at, method in enumerate(comparison.methods):
        cells = [_method(comparison, method.name)]
        for result in results:
            own = result.methods[at]
            spread = "" if math.isnan(own.seeds_sd) else f" ± {number(own.seeds_sd, _places(result, decimals))}"
            text = number(own.table_mean, _places(result, decimals)) + spread
            cells.append(Cell(text, own.table_mean, own.table_mean == _best(result)))
        rows.append(tuple(cells))
    note = "Means over the cases, then over the classes, as nnU-Net's own summary"
    if any(len(method.origins) > 1 for method in comparison.methods):
        note += ", then over the seeds; ± standard deviation of the seeds"
    note += ". ↑: larger is better, ↓: smaller. Bold: the best mean, whether or not it is told apart from the others."
    if set(comparison.metrics) & set(SURFACE_METRICS[1:]):
        note += " Infinite distances are left out of means."
    if set(comparison.metrics) & set(VOLUME_METRICS):
        note += " Volume differences: the mean with its sign."
    return Table("Means of all metrics", tuple(columns), tuple(rows), note, frozenset({0}))


def verdict_table(comparison: Comparison, metric: str, decimals: int = DECIMALS) -> Table:
    """Return one metric of all methods: mean, spread, interval, rank, and what sets it apart from the reference."""
    result = comparison.result(metric)
    places, level = metric_decimals(metric, decimals), percent(comparison.confidence)
    unit = comparison.paired_over.removesuffix("s")
    seeds = any(len(method.origins) > 1 for method in comparison.methods)
    own: dict[str, Callable[[MethodResult], Cell]] = {
        "mean": lambda each: Cell(number(each.table_mean, places), each.table_mean, each.table_mean == _best(result)),
        **({"sd of seeds": lambda each: Cell(number(each.seeds_sd, places), each.seeds_sd)} if seeds else {}),
        f"{unit} mean": lambda each: Cell(number(each.mean, places), each.mean),
        "sd": lambda each: Cell(number(each.sd, places), each.sd),
        f"{level} % interval": lambda each: _interval_cell(mean_interval(comparison, metric, each.method), places),
        "mean rank": lambda each: Cell(number(each.mean_rank, 2), each.mean_rank),
    }
    if any(each.n_infinite for each in result.methods):
        own["infinite"] = lambda each: Cell(str(each.n_infinite), each.n_infinite)
    other = _difference_columns(level, places)
    rows = []
    for each in result.methods:
        (found,) = [d for d in result.differences if d.method == each.method] or [None]
        compared = [cell(found) for cell in other.values()] if found else [Cell("")] * len(other)
        rows.append((_method(comparison, each.method), *(cell(each) for cell in own.values()), *compared))
    note = (
        f"mean: as nnU-Net's own summary; {unit} mean, sd and interval: of what is tested, the mean over the classes "
        f"of a {unit}, seeds averaged before. Differences are paired over {len(result.tested[comparison.reference])} "
        f"{comparison.paired_over}; p is adjusted by Holm for all methods. {_direction(metric)}"
    )
    columns = (Column("method", is_text=True), *map(Column, own), *map(Column, other))
    return Table(TESTED_TITLES[metric], columns, tuple(rows), note, frozenset({0}), is_sortable=True)


def classes_table(comparison: Comparison, metric: str, decimals: int = DECIMALS) -> Table:
    """Return one metric of each class and method."""
    places = metric_decimals(metric, decimals)
    other = _difference_columns(percent(comparison.confidence), places)
    rows, reference = [], set()
    for name in comparison.classes:
        result = comparison.result(metric, name)
        for each in result.methods:
            (found,) = [d for d in result.differences if d.method == each.method] or [None]
            compared = [cell(found) for cell in other.values()] if found else [Cell("")] * len(other)
            if found is None:
                reference.add(len(rows))
            mean = Cell(number(each.table_mean, places), each.table_mean, each.table_mean == _best(result))
            counts = Cell(
                f"{each.n_finite}" + (f" (+ {each.n_infinite} inf)" if each.n_infinite else ""), each.n_finite
            )
            rows.append(
                (Cell(name), Cell(each.method), mean, Cell(number(each.sd, places), each.sd), counts, *compared)
            )
    own = ("mean", "sd", "values")
    columns = (Column("class", is_text=True), Column("method", is_text=True), *map(Column, own), *map(Column, other))
    note = f"Means as nnU-Net's own summary. {_direction(metric)}"
    return Table(f"{TITLES[metric]} of each class", columns, tuple(rows), note, frozenset(reference), is_sortable=True)


def cases_table(comparison: Comparison, metric: str, decimals: int = DECIMALS) -> Table:
    """Return one metric of each case and method, and the difference to the reference where there is one other."""
    result = comparison.result(metric)
    places = metric_decimals(metric, decimals)
    methods = [method.name for method in comparison.methods]
    has_folds = any(fold is not None for fold, _ in comparison.keys)
    others = [name for name in methods if name != comparison.reference]
    columns = [Column("case", is_text=True)]
    columns += [Column("fold", is_text=True)] if has_folds else []
    columns += [Column(name) for name in methods]
    columns += [Column("difference")] if len(others) == 1 else []
    rows = []
    for at, (fold, case) in enumerate(comparison.keys):
        values = {name: result.values[name][at] for name in methods}
        cells = [Cell(case), *([Cell("" if fold is None else str(fold))] if has_folds else [])]
        cells += [Cell(number(value, places), value) for value in values.values()]
        if len(others) == 1:
            a, b = values[others[0]], values[comparison.reference]
            found = a - b if math.isfinite(a) and math.isfinite(b) else math.nan
            cells.append(Cell(number(found, places, sign=True), found))
        rows.append(tuple(cells))
    note = "Mean over the classes that are there, seeds averaged. All other metrics and classes are in cases.csv."
    return Table(f"{TESTED_TITLES[metric]} of each case", tuple(columns), tuple(rows), note, is_sortable=True)


def case_metrics(comparison: Comparison) -> tuple[str, ...]:
    """Return the metrics whose single cases stand in the report: the first one, and the first of surfaces."""
    surface = [metric for metric in comparison.metrics if metric in SURFACE_METRICS]
    return tuple(dict.fromkeys((comparison.metrics[0], *surface[:1])))


def mean_interval(
    comparison: Comparison, metric: str, method: str, class_name: str | None = None
) -> tuple[float, float]:
    """Return the bootstrap interval of a method's mean over the finite values that are tested, as for differences."""
    values = np.array(comparison.result(metric, class_name).tested[method])
    finite = values[np.isfinite(values)]
    return _interval(tuple(finite.tolist()), comparison.n_bootstrap, comparison.seed, comparison.confidence)


@lru_cache(maxsize=1024)
def _interval(values: tuple[float, ...], n_bootstrap: int, seed: int, confidence: float) -> tuple[float, float]:
    """Table and plots ask for the same ones."""
    return bootstrap_interval(np.array(values), n_bootstrap, seed, confidence, np.arange(len(values)))


def _difference_columns(level: str, places: int) -> dict[str, Callable[[Difference], Cell]]:
    return {
        "difference": lambda each: Cell(
            number(each.paired.mean_difference, places, sign=True), each.paired.mean_difference
        ),
        f"its {level} % interval": lambda each: Cell(interval(each, places), each.paired.ci_low),
        "p Wilcoxon, Holm": lambda each: Cell(p_value(each.wilcoxon_p_holm), each.wilcoxon_p_holm),
        "p t-test, Holm": lambda each: Cell(p_value(each.t_p_holm), each.t_p_holm),
        "better / equal / worse": lambda each: Cell(
            f"{each.paired.wins} / {each.paired.ties} / {each.paired.losses}", each.paired.wins - each.paired.losses
        ),
    }


def _interval_cell(ends: tuple[float, float], places: int) -> Cell:
    low, high = ends
    return Cell(NONE if math.isnan(low) else f"{number(low, places)} to {number(high, places)}", low)


def _method(comparison: Comparison, name: str) -> Cell:
    return Cell(name, tag="reference" if name == comparison.reference else "")


def _best(result: MetricResult) -> float:
    """The best mean of a table; of volume differences that nearest to 0."""
    means = [each.table_mean for each in result.methods if not math.isnan(each.table_mean)]
    if result.metric in VOLUME_METRICS:
        return min(means, key=abs, default=math.nan)
    return (max if LARGER_IS_BETTER[result.metric] else min)(means, default=math.nan)


def _places(result: MetricResult, decimals: int) -> int:
    return metric_decimals(result.metric, decimals)


def _arrow(metric: str) -> str:
    return "" if metric in VOLUME_METRICS else "↑" if LARGER_IS_BETTER[metric] else "↓"


def _direction(metric: str) -> str:
    if metric in VOLUME_METRICS:
        return "Nearer to 0 is better; the mean keeps the sign, all else is of absolute values."
    return f"{'Larger' if LARGER_IS_BETTER[metric] else 'Smaller'} is better."
