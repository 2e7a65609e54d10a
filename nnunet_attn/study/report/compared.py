"""The tables of a comparison, arranged by metric; every figure is the comparison's own."""

import math

from nnunet_attn.evaluation.compare_results import Comparison, Difference, MetricResult
from nnunet_attn.evaluation.compare_warnings import has_few_pairs
from nnunet_attn.evaluation.results import LARGER_IS_BETTER
from nnunet_attn.study.report.model import MetricTable, TableRow


def tables_of(comparison: Comparison) -> tuple[MetricTable, ...]:
    """Return one table for each metric, of the mean over the classes and of each class, in the comparison's order."""
    return tuple(
        MetricTable(
            result.metric,
            result.class_name,
            LARGER_IS_BETTER[result.metric],
            result.friedman_p,
            _rows(comparison, result),
        )
        for result in comparison.results
    )


def _rows(comparison: Comparison, result: MetricResult) -> tuple[TableRow, ...]:
    against = {each.method: each for each in result.differences if each.against == comparison.reference}
    rows = []
    for own in result.methods:
        difference = against.get(own.method)
        rows.append(
            TableRow(
                own.method,
                own,
                difference,
                None if difference is None else _is_significant(difference, comparison.confidence),
                None if difference is None else _is_better(difference, LARGER_IS_BETTER[result.metric]),
                difference is not None and has_few_pairs(difference.paired),
            )
        )
    return tuple(rows)


def _is_significant(difference: Difference, confidence: float) -> bool | None:
    p = difference.wilcoxon_p_holm
    return None if math.isnan(p) else p < 1 - confidence


def _is_better(difference: Difference, larger_is_better: bool) -> bool | None:
    mean = difference.paired.mean_difference
    if math.isnan(mean) or mean == 0:
        return None
    return (mean > 0) is larger_is_better
