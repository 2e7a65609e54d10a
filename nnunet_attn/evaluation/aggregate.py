"""Means of an evaluation: over cases, over classes, and what is left out of them."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.results import VOLUME_METRICS, Evaluation


@dataclass(frozen=True)
class MeanOfFinite:
    """A mean over the finite values, and how many others there were.

    Args:
        mean: NaN if no value is finite.
        n_finite: Values in the mean.
        n_infinite: Values left out for they are infinite (one of two masks was empty).
        n_not_counted: Values left out for there was nothing to measure (both masks were empty).
    """

    mean: float
    n_finite: int
    n_infinite: int = 0
    n_not_counted: int = 0


def mean_of_finite(values: Iterable[float]) -> MeanOfFinite:
    """Return the mean over the finite ones of some values, with the number of the others."""
    values = list(values)
    finite = [value for value in values if math.isfinite(value)]
    infinite = sum(map(math.isinf, values))
    mean = math.fsum(finite) / len(finite) if finite else math.nan
    return MeanOfFinite(mean, len(finite), infinite, len(values) - len(finite) - infinite)


def class_means(evaluation: Evaluation) -> dict[str, dict[str, MeanOfFinite]]:
    """Return class -> metric -> mean over all cases (of all folds together, as nnU-Net's); volumes signed."""
    return {
        name: {
            metric: mean_of_finite(case.metrics[name][metric] for case in evaluation.cases)
            for metric in evaluation.settings.metrics
        }
        for name in evaluation.classes
    }


def foreground_means(evaluation: Evaluation) -> dict[str, MeanOfFinite]:
    """Return metric -> mean over cases, then over classes, as nnU-Net's `foreground_mean`; numbers are of values.

    A class without any finite value is left out; nnU-Net's mean is NaN then.
    """
    by_class = class_means(evaluation)
    found = {}
    for metric in evaluation.settings.metrics:
        means = [of_class[metric] for of_class in by_class.values()]
        found[metric] = MeanOfFinite(
            mean_of_finite(each.mean for each in means).mean,
            sum(each.n_finite for each in means),
            sum(each.n_infinite for each in means),
            sum(each.n_not_counted for each in means),
        )
    return found


def case_means(evaluation: Evaluation, metric: str) -> dict[tuple[int | None, str], float]:
    """Return (fold, case) -> mean over the classes that are present in the prediction or the reference.

    NaN if none is; infinite if one of them is. Of volume differences the sizes are averaged: a class too large does not
    make up for another one too small.

    Raises:
        InputError: If the metric was not measured, or a case is twice in one fold.
    """
    if metric not in evaluation.settings.metrics:
        measured = ", ".join(evaluation.settings.metrics)
        raise InputError(f"metric {metric!r} was not measured, only {measured}; evaluate again with it")
    found: dict[tuple[int | None, str], float] = {}
    for case in evaluation.cases:
        if (case.fold, case.case) in found:
            where = "" if case.fold is None else f" in fold {case.fold}"
            raise InputError(f"case {case.case!r} is there twice{where}; evaluate again with --overwrite")
        values = [case.metrics[name][metric] for name in evaluation.classes]
        values = [abs(value) if metric in VOLUME_METRICS else value for value in values if not math.isnan(value)]
        found[case.fold, case.case] = math.fsum(values) / len(values) if values else math.nan
    return found


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return the means for `nnunet_attn.evaluation.results.write_evaluation`, JSON-able but for NaN."""
    return {
        "n_cases": len(evaluation.cases),
        "foreground_mean": {metric: asdict(mean) for metric, mean in foreground_means(evaluation).items()},
        "mean": {
            name: {metric: asdict(mean) for metric, mean in of_class.items()}
            for name, of_class in class_means(evaluation).items()
        },
    }
