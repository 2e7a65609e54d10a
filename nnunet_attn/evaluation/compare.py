"""Compares methods on the same cases: the means of the tables, and paired statistics of the differences."""

import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from nnunet_attn.evaluation.results import LARGER_IS_BETTER, VOLUME_METRICS, Evaluation, Origin, Settings
from nnunet_attn.evaluation.statistics import (
    FEW_PAIRS,
    SPLITS_DEPEND,
    PairedComparison,
    compare_paired,
    friedman_p,
    holm,
    mean_ranks,
    per_split,
)

N_BOOTSTRAP = 10_000

TableMeans = Mapping[tuple[str, str | None], MeanOfFinite]


@dataclass(frozen=True)
class Method:
    """What is compared.

    Args:
        name: In all tables.
        origins: What made the predictions, one entry a seed.
    """

    name: str
    origins: tuple[Origin, ...]


@dataclass(frozen=True)
class MethodResult:
    """One method in one metric.

    Args:
        method: Its name.
        table_mean: For tables, as nnU-Net's: finite values over the cases, then over the classes, then the seeds.
        table_infinite: Infinite values left out of it, over cases, classes and seeds.
        seed_means: `table_mean` of each seed.
        seeds_sd: Their standard deviation, with n - 1; NaN with one seed.
        mean: Mean of the paired values that are finite.
        sd: Their standard deviation, with n - 1.
        median: Their median.
        n_finite: How many they are.
        n_infinite: Paired values that are infinite.
        n_not_counted: Paired values that are missing: nothing there in prediction and reference.
        mean_rank: Among all methods, 1 is best.
    """

    method: str
    table_mean: float
    table_infinite: int
    seed_means: tuple[float, ...]
    seeds_sd: float
    mean: float
    sd: float
    median: float
    n_finite: int
    n_infinite: int
    n_not_counted: int
    mean_rank: float


@dataclass(frozen=True)
class Difference:
    """A method against another one in one metric.

    Args:
        method: a of the differences a - b.
        against: b.
        paired: The statistics.
        t_p_holm: p of the t-test, adjusted for all differences of the same metric and class.
        wilcoxon_p_holm: p of Wilcoxon's test, adjusted likewise.
    """

    method: str
    against: str
    paired: PairedComparison
    t_p_holm: float
    wilcoxon_p_holm: float


@dataclass(frozen=True)
class MetricResult:
    """One metric of all methods.

    Args:
        metric: Its name.
        class_name: The class; None: the mean over the classes that are present in a case.
        methods: One entry a method.
        differences: One entry a compared pair.
        friedman_p: That all methods rank alike; NaN with fewer than three.
        values: Method -> value of each of `Comparison.keys`, the seeds averaged.
        tested: Method -> the values that were paired: `values`, or with repeated splits the mean of each split.
    """

    metric: str
    class_name: str | None
    methods: tuple[MethodResult, ...]
    differences: tuple[Difference, ...]
    friedman_p: float
    values: Mapping[str, tuple[float, ...]]
    tested: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Comparison:
    """Methods compared on the same cases.

    Args:
        methods: The reference first.
        reference: Name of the method that the others are compared with.
        metrics: Compared metrics.
        classes: Class -> its label values.
        settings: What was measured.
        results: For each metric the mean over classes, then each class.
        keys: Fold and case of each value.
        paired_over: "cases", or "splits" where a case is in several folds.
        splits: Those folds; empty where cases are paired.
        confidence: Of the intervals.
        n_bootstrap: Resamples of the intervals.
        seed: Of the resamples.
        warnings: What a reader has to know.
        left_out: Evaluation -> folds and cases that not all others have.
        provenance: Date and versions.
    """

    methods: tuple[Method, ...]
    reference: str
    metrics: tuple[str, ...]
    classes: Mapping[str, tuple[int, ...]]
    settings: Settings
    results: tuple[MetricResult, ...]
    keys: tuple[Key, ...]
    paired_over: str
    splits: tuple[int | None, ...]
    confidence: float
    n_bootstrap: int
    seed: int
    warnings: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[Key, ...]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def result(self, metric: str, class_name: str | None = None) -> MetricResult:
        """Return one metric: of a class, or the mean over the classes."""
        return next(each for each in self.results if (each.metric, each.class_name) == (metric, class_name))


def compare(
    evaluations: Mapping[str, Sequence[Evaluation]],
    *,
    reference: str | None = None,
    all_pairs: bool = False,
    metrics: Sequence[str] | None = None,
    common: bool = False,
    confidence: float = 0.95,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> Comparison:
    """Compare methods, paired over fold and case.

    Seeds are averaged for each fold and case first. Where a case is in several folds (repeated splits), the values of
    each split are averaged and the splits are paired. Tests are on the mean over the classes present in a case, and on
    each class. p-values are adjusted by Holm for the differences of one metric and class.

    Args:
        evaluations: Method -> one evaluation a seed; at least two methods.
        reference: Method that the others are compared with; None: the first.
        all_pairs: Compare every method with every other one.
        metrics: What to compare; None: all that every evaluation has.
        common: Compare the folds and cases that all have, where they differ.
        confidence: Of the bootstrap intervals, between 0 and 1.
        n_bootstrap: Resamples.
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
    if n_bootstrap < 1 or seed < 0:
        raise InputError(f"n_bootstrap is {n_bootstrap} and --seed {seed}; give at least 1 and 0")
    ready = prepared(evaluations, metrics, common)
    names = list(ready.evaluations)
    first = reference or names[0]
    names = [first, *(name for name in names if name != first)]
    pairs = [(b, a) for a, b in combinations(names, 2)] if all_pairs else [(name, first) for name in names[1:]]
    some = ready.evaluations[first][0]
    splits = _repeated_splits(ready.keys)
    options = {"confidence": confidence, "n_bootstrap": n_bootstrap, "seed": seed}
    means = {name: [_table_means(each) for each in own] for name, own in ready.evaluations.items()}
    results = tuple(
        _metric_result(ready, means, names, pairs, metric, class_name, bool(splits), options)
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
        paired_over="splits" if splits else "cases",
        splits=splits,
        **options,
        warnings=(*ready.warnings, *_statistical_warnings(ready, splits), *_missing_classes(results)),
        left_out=ready.left_out,
        provenance=_provenance(),
    )


def _repeated_splits(keys: Sequence[Key]) -> tuple[int | None, ...]:
    counts = Counter(case for _, case in keys)
    return tuple(dict.fromkeys(fold for fold, _ in keys)) if max(counts.values()) > 1 else ()


def _statistical_warnings(ready: Prepared, splits: Sequence[int | None]) -> list[str]:
    found = []
    if splits:
        found.append(f"cases are in several of the {len(splits)} splits: {SPLITS_DEPEND}")
    count = len(splits) or len(ready.keys)
    if count < FEW_PAIRS:
        found.append(
            f"{count} pairs are fewer than {FEW_PAIRS}: only large differences can be seen, and p-values and intervals "
            "rest on little"
        )
    seeds = {name: len(own) for name, own in ready.evaluations.items()}
    if len(set(seeds.values())) > 1:
        counts = ", ".join(f"{name}: {count}" for name, count in seeds.items())
        found.append(
            f"the methods have not the same number of seeds ({counts}), and an average of more seeds varies less"
        )
    return found


def _missing_classes(results: Sequence[MetricResult]) -> list[str]:
    """Where the table means of two methods are means over other classes."""
    found = []
    for result in results:
        missing = [own.method for own in result.methods if any(math.isnan(mean) for mean in own.seed_means)]
        if result.class_name is not None and missing and len(missing) < len(result.methods):
            found.append(
                f"{result.metric}: {', '.join(missing)} has no finite value of {result.class_name}, so its table mean "
                "leaves this class out, and those of the others do not"
            )
    return found


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
    by_split: bool,
    options: Mapping[str, Any],
) -> MetricResult:
    values = {name: _values(ready.evaluations[name], ready.keys, metric, class_name) for name in names}
    folds = [fold for fold, _ in ready.keys]
    tested = {name: np.array(list(per_split(own, folds).values())) if by_split else own for name, own in values.items()}
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
