"""A comparison as it is printed: narrow enough for a terminal, and without what only the files have."""

import math
from collections.abc import Callable, Mapping, Sequence

from nnunet_attn.evaluation.compare_results import Comparison, Difference, MethodResult, MetricResult
from nnunet_attn.evaluation.compare_tables import (
    DECIMALS,
    TITLES,
    interval,
    metric_decimals,
    number,
    p_value,
    percent,
    table,
    what_is_compared,
)
from nnunet_attn.evaluation.results import LARGER_IS_BETTER, VOLUME_METRICS

WIDTH = 118
"""Characters that a table has at most, where names allow it."""

_TITLES = {**TITLES, "volume_difference_mm3": "Vol. diff. (mm³)", "relative_volume_difference": "Rel. vol. diff."}


def screen_text(comparison: Comparison, decimals: int = DECIMALS, written: bool = False) -> str:
    """Return the warnings, the means of all metrics, and for each compared pair the differences of all metrics.

    Args:
        comparison: What to print.
        decimals: Of fractions; mm and mm³ have two fewer.
        written: Whether the files are written as well, which the last line refers to.
    """
    results = [comparison.result(metric) for metric in comparison.metrics]
    blocks = [what_is_compared(comparison), *(f"warning: {warning}" for warning in comparison.warnings)]
    blocks.append(f"Means\n{_directions(comparison.metrics)}")
    blocks.append(_means(comparison, results, decimals))
    if set(comparison.metrics) & set(VOLUME_METRICS):
        blocks.append("Of volume differences the table mean keeps the sign, all else is of absolute values.")
    for at, first in enumerate(results[0].differences):
        blocks.append(f"{first.method} - {first.against}")
        blocks.append(_pair(comparison, [(each.metric, each.differences[at]) for each in results], decimals))
    blocks.append(
        "p t, p W: paired t-test and Wilcoxon's signed-rank test, adjusted by Holm. inf: values left out of a mean.\n"
        "Not printed: classes, single values, sd, median, p before Holm, r, what columns mean, plots; "
        + ("the files have them." if written else "-o DIR writes them.")
    )
    return "\n\n".join(blocks) + "\n"


def _directions(metrics: Sequence[str]) -> str:
    better = {
        word: [_TITLES[metric] for metric in metrics if LARGER_IS_BETTER[metric] is larger]
        for word, larger in (("larger", True), ("smaller", False))
    }
    return "\n".join(f"{word} is better: {', '.join(titles)}" for word, titles in better.items() if titles)


def _means(comparison: Comparison, results: Sequence[MetricResult], decimals: int) -> str:
    def finite(mean: str, infinite: int) -> str:
        return f"{mean} ({infinite} inf)" if infinite else mean

    columns: dict[str, Callable[[MethodResult, int], str]] = {
        "table mean": lambda each, places: finite(number(each.table_mean, places), each.table_infinite),
        "sd of seeds": lambda each, places: number(each.seeds_sd, places),
        f"{comparison.paired_over[:-1]} mean": lambda each, places: finite(number(each.mean, places), each.n_infinite),
        "mean rank": lambda each, _: number(each.mean_rank, 2),
    }
    if all(math.isnan(each.seeds_sd) for result in results for each in result.methods):
        del columns["sd of seeds"]
    rows = []
    for result in results:
        places = metric_decimals(result.metric, decimals)
        for at, each in enumerate(result.methods):
            title = "" if at else _TITLES[result.metric]
            rows.append([title, each.method, *(cell(each, places) for cell in columns.values())])
    dispensable = ("mean rank", f"{comparison.paired_over[:-1]} mean", "sd of seeds")
    return _fitting(["metric", "method", *columns], rows, text=2, dispensable=dispensable)


def _pair(comparison: Comparison, differences: Sequence[tuple[str, Difference]], decimals: int) -> str:
    columns: Mapping[str, Callable[[Difference, int], str]] = {
        "pairs (finite)": lambda each, _: f"{each.paired.n_pairs} ({each.paired.n_finite})",
        "mean": lambda each, places: number(each.paired.mean_difference, places, sign=True),
        f"{percent(comparison.confidence)} % interval": interval,
        "p t, Holm": lambda each, _: p_value(each.t_p_holm),
        "p W, Holm": lambda each, _: p_value(each.wilcoxon_p_holm),
        "better/equal/worse": lambda each, _: f"{each.paired.wins}/{each.paired.ties}/{each.paired.losses}",
        "d_z": lambda each, _: number(each.paired.effect_size, 2, sign=True),
    }
    rows = [
        [_TITLES[metric], *(cell(each, metric_decimals(metric, decimals)) for cell in columns.values())]
        for metric, each in differences
    ]
    return _fitting(["difference in", *columns], rows, text=1, dispensable=("d_z", "better/equal/worse"))


def _fitting(heading: Sequence[str], rows: Sequence[Sequence[str]], text: int, dispensable: Sequence[str]) -> str:
    """Return a table without the dispensable columns that make it wider than `WIDTH`, the first named first."""
    found = table(heading, rows, text)
    kept = list(range(len(heading)))
    for name in dispensable:
        if len(found.splitlines()[0]) <= WIDTH:
            break
        kept = [at for at in kept if heading[at] != name]
        found = table([heading[at] for at in kept], [[row[at] for at in kept] for row in rows], text)
    return found
