"""Compares methods on the same cases: the means of the tables, and paired statistics of the differences."""

import math
import platform
from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_attn import __version__
from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.aggregate import MeanOfFinite, case_means, class_means, foreground_means
from nnunet_attn.evaluation.compare_inputs import Key, Prepared, prepared
from nnunet_attn.evaluation.compare_results import Comparison, Difference, Method, MethodResult, MetricResult
from nnunet_attn.evaluation.compare_warnings import (
    few_pairs,
    missing_classes,
    repeated_splits,
    several_cases,
    statistical_warnings,
)
from nnunet_attn.evaluation.results import LARGER_IS_BETTER, VOLUME_METRICS, Evaluation
from nnunet_attn.evaluation.statistics import LEAST_RESAMPLES, compare_paired, friedman_p, holm, mean_ranks, per_split

N_BOOTSTRAP = 10_000

TableMeans = Mapping[tuple[str, str | None], MeanOfFinite]


def compare(
    evaluations: Mapping[str, Sequence[Evaluation]],
    *,
    reference: str | None = None,
    all_pairs: bool = False,
    metrics: Sequence[str] | None = None,
    common: bool = False,
    patients: Mapping[str, str] | None = None,
    by_patient: bool = False,
    confidence: float = 0.95,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> Comparison:
    """Compare methods, paired over fold and case.

    Seeds are averaged for each fold and case first. With repeated splits (a case is in several folds, or the folds are
    known to be random draws) the values of each split are averaged and the splits are paired; a case whose value is
    missing in one method is left out of the split's mean in all. Tests are on the mean over the classes present in a
    case, and on each class. p-values are adjusted by Holm for the differences of one metric and class.

    Args:
        evaluations: Method -> one evaluation a seed; at least two methods.
        reference: Method that the others are compared with; None: the first.
        all_pairs: Compare every method with every other one.
        metrics: What to compare; None: all that every evaluation has.
        common: Compare the folds and cases that all have, where they differ.
        patients: Case -> patient, as far as known; a case without one is a patient of its own.
        by_patient: Average the values over the cases of a patient in a fold before the tests; else there is a warning
            where a patient has several.
        confidence: Of the bootstrap intervals, between 0 and 1.
        n_bootstrap: Resamples, at least `statistics.LEAST_RESAMPLES`.
        seed: Of the resamples.
    Raises:
        InputError: If the evaluations cannot be compared, or an argument is out of its range.
    """
    if reference is not None and reference not in evaluations:
        raise InputError(
            f"--reference {reference} is none of the compared methods; choose from {', '.join(evaluations)}"
        )
    if not 0 < confidence < 1:
        raise InputError(f"--confidence is {confidence}; it must be between 0 and 1, such as 0.95")
    if n_bootstrap < LEAST_RESAMPLES or seed < 0:
        raise InputError(
            f"n_bootstrap is {n_bootstrap} and --seed {seed}; give at least {LEAST_RESAMPLES} resamples, and a seed "
            "from 0"
        )
    ready = prepared(evaluations, metrics, common)
    names = list(ready.evaluations)
    first = reference or names[0]
    names = [first, *(name for name in names if name != first)]
    pairs = [(b, a) for a, b in combinations(names, 2)] if all_pairs else [(name, first) for name in names[1:]]
    some = ready.evaluations[first][0]
    splits = repeated_splits(ready)
    units = [(fold, (patients or {}).get(case, case)) for fold, case in ready.keys] if by_patient else None
    options = {"confidence": confidence, "n_bootstrap": n_bootstrap, "seed": seed}
    means = {name: [_table_means(each) for each in own] for name, own in ready.evaluations.items()}
    results = tuple(
        _metric_result(ready, means, names, pairs, metric, class_name, units, bool(splits), options)
        for metric in ready.metrics
        for class_name in (None, *some.classes)
    )
    return Comparison(
        methods=tuple(Method(name, tuple(each.origin for each in ready.evaluations[name])) for name in names),
        reference=first,
        metrics=ready.metrics,
        classes=some.classes,
        settings=some.settings,
        results=results,
        keys=ready.keys,
        paired_over="splits" if splits else "patients" if by_patient else "cases",
        splits=splits,
        by_patient=by_patient,
        **options,
        warnings=(
            *ready.warnings,
            *statistical_warnings(ready, splits),
            *([] if splits else several_cases(ready.keys, patients or {}, by_patient)),
            *few_pairs(results),
            *missing_classes(results),
        ),
        left_out=ready.left_out,
        provenance=_provenance(),
    )


def _provenance() -> dict[str, Any]:
    packages = ("numpy", "scipy", "statsmodels")
    return {
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "nnunet_attn": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def _table_means(evaluation: Evaluation) -> TableMeans:
    """Return (metric, class) -> mean; None stands for the mean over the classes."""
    found: dict[tuple[str, str | None], MeanOfFinite] = {}
    for metric, mean in foreground_means(evaluation).items():
        found[metric, None] = mean
    for name, own in class_means(evaluation).items():
        found |= {(metric, name): mean for metric, mean in own.items()}
    return found


def _metric_result(
    ready: Prepared,
    means: Mapping[str, Sequence[TableMeans]],
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    metric: str,
    class_name: str | None,
    units: Sequence[Key] | None,
    by_split: bool,
    options: Mapping[str, Any],
) -> MetricResult:
    values = {name: _values(ready.evaluations[name], ready.keys, metric, class_name) for name in names}
    tested = values if units is None else _per_unit(values, units)
    if by_split:
        tested = _per_unit(tested, [fold for fold, _ in (ready.keys if units is None else dict.fromkeys(units))])
    larger = LARGER_IS_BETTER[metric]
    ranks = mean_ranks(np.stack([tested[name] for name in names], axis=1), larger)
    compared = [compare_paired(tested[a], tested[b], larger, **options) for a, b in pairs]
    t_adjusted = _adjusted([each.t_p for each in compared])
    wilcoxon_adjusted = _adjusted([each.wilcoxon_p for each in compared])
    return MetricResult(
        metric,
        class_name,
        tuple(
            _method_result(name, tested[name], [own[metric, class_name] for own in means[name]], rank)
            for name, rank in zip(names, ranks, strict=True)
        ),
        tuple(
            Difference(a, b, found, t, wilcoxon)
            for (a, b), found, t, wilcoxon in zip(pairs, compared, t_adjusted, wilcoxon_adjusted, strict=True)
        ),
        friedman_p(np.stack([tested[name] for name in names], axis=1)),
        {name: tuple(own.tolist()) for name, own in values.items()},
        {name: tuple(own.tolist()) for name, own in tested.items()},
    )


def _per_unit(values: Mapping[str, NDArray[np.float64]], units: Sequence[Hashable]) -> dict[str, NDArray[np.float64]]:
    """Return the mean of each split or patient, over the cases that have a value in all methods."""
    missing = np.any([np.isnan(own) for own in values.values()], axis=0)
    return {
        name: np.array(list(per_split(np.where(missing, math.nan, own), units).values()))
        for name, own in values.items()
    }


def _adjusted(p_values: Sequence[float]) -> list[float]:
    # one p stays as it is; statsmodels collects garbage at each call, which takes longer than all else together
    return list(p_values) if len(p_values) == 1 else holm(p_values)


def _values(
    evaluations: Sequence[Evaluation], keys: Sequence[Key], metric: str, class_name: str | None
) -> NDArray[np.float64]:
    """Return the value of each fold and case, averaged over the seeds that have one; infinite if one of them is."""
    rows = []
    for evaluation in evaluations:
        if class_name is None:
            means = case_means(evaluation, metric)
            rows.append([means[key] for key in keys])
        else:
            rows.append([case.metrics[class_name][metric] for case in evaluation.cases])
    table = np.array(rows, dtype=float)
    if metric in VOLUME_METRICS:  # the size of a difference counts, not its sign
        table = np.abs(table)
    counted = ~np.isnan(table)
    found = np.full(len(keys), math.nan)
    n = counted.sum(axis=0)
    np.divide(np.where(counted, table, 0).sum(axis=0), n, out=found, where=n > 0)
    return found


def _method_result(name: str, tested: NDArray[np.float64], seeds: Sequence[MeanOfFinite], rank: float) -> MethodResult:
    seed_means = [each.mean for each in seeds]
    finite = tested[np.isfinite(tested)]
    return MethodResult(
        method=name,
        table_mean=float(np.mean(seed_means)),
        table_infinite=sum(each.n_infinite for each in seeds),
        seed_means=tuple(seed_means),
        seeds_sd=_sd(np.array(seed_means)),
        mean=float(finite.mean()) if len(finite) else math.nan,
        sd=_sd(finite),
        median=float(np.median(finite)) if len(finite) else math.nan,
        n_finite=len(finite),
        n_infinite=int(np.isinf(tested).sum()),
        n_not_counted=int(np.isnan(tested).sum()),
        mean_rank=rank,
    )


def _sd(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan
