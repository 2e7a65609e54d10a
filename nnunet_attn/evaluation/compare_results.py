"""What a comparison found: methods, metrics, differences."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnunet_attn.evaluation.compare_inputs import Key
from nnunet_attn.evaluation.results import Origin, Settings
from nnunet_attn.evaluation.statistics import PairedComparison


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
        tested: Method -> the values that were paired: `values`, or with repeated splits the mean of each split over the
            cases in which no method's value is missing.
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
        paired_over: "cases", "patients" where their cases are averaged, or "splits" where a case is in several folds,
            or folds are random draws.
        splits: Those folds; empty where cases are paired.
        confidence: Of the intervals.
        n_bootstrap: Resamples of the intervals.
        seed: Of the resamples.
        warnings: What a reader has to know.
        left_out: Evaluation -> folds and cases that not all others have.
        provenance: Date and versions.
        by_patient: Whether values are averaged over the cases of a patient in a fold before they are tested.
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
    by_patient: bool = False

    def result(self, metric: str, class_name: str | None = None) -> MetricResult:
        """Return one metric: of a class, or the mean over the classes."""
        return next(each for each in self.results if (each.metric, each.class_name) == (metric, class_name))
