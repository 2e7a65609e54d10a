"""Paired statistics of two methods on the same cases: tests, interval, effect sizes, ranks.

What the numbers can and cannot say is in docs/explanation/paired-tests.md; how often the tests reject and the interval
covers where nothing differs was measured by `nnunet_attn.benchmark.null_rates`.
"""

import gc
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

FEW_PAIRS = 20
"""Below so many pairs a comparison carries a warning."""

LEAST_RESAMPLES = 100
"""The quantiles of fewer mean nothing."""

SPLITS_DEPEND = (
    "repeated splits share cases, for training and for testing, so their results depend on each other: p-values and "
    "the interval take them as independent and come out too small and too narrow"
)
"""The caveat that belongs to every comparison of means per split."""

# Sign flips are counted one by one up to so many pairs with ties: 2^13 of them; scipy does so too when it chooses.
_MOST_ENUMERATED = 13
# scipy's exact table is used up to here; beyond it the normal approximation errs by less than 1e-4 at p = 0.05.
_MOST_EXACT = 50
# So many digits of the largest value count, of a double's 15 to 16: the same sum in another order still ties.
_DIGITS = 12


@dataclass(frozen=True)
class PairedComparison:
    """Two methods a and b on the same cases; differences are a - b, in the unit of the metric.

    Args:
        n_pairs: Pairs without NaN; wins, ties, losses and Wilcoxon's test count these.
        n_finite: Pairs finite in both; means, median, interval, t-test and `effect_size` count these.
        mean_a: Mean of a.
        mean_b: Mean of b.
        mean_difference: Mean of a - b.
        sd_difference: Standard deviation of a - b, with n - 1.
        median_difference: Median of a - b.
        ci_low: Lower end of the bootstrap interval of the mean difference.
        ci_high: Its upper end.
        t_statistic: Of the paired t-test.
        t_p: Two-sided p of the paired t-test.
        wilcoxon_statistic: The smaller of the two sums of signed ranks.
        wilcoxon_p: Two-sided p of Wilcoxon's signed-rank test.
        wins: Pairs in which a is better, by the direction of the metric.
        ties: Pairs that are equal, infinite in both among them.
        losses: Pairs in which b is better.
        effect_size: Cohen's d_z, mean over standard deviation of the differences; the sign is that of a - b.
        rank_biserial: (sum of positive - sum of negative ranks) / their sum, -1 to 1; the sign is that of a - b.
        n_clusters: What the bootstrap drew from: clusters, or pairs where none were given.
    """

    n_pairs: int
    n_finite: int
    mean_a: float
    mean_b: float
    mean_difference: float
    sd_difference: float
    median_difference: float
    ci_low: float
    ci_high: float
    t_statistic: float
    t_p: float
    wilcoxon_statistic: float
    wilcoxon_p: float
    wins: int
    ties: int
    losses: int
    effect_size: float
    rank_biserial: float
    n_clusters: int


def compare_paired(
    a: ArrayLike,
    b: ArrayLike,
    larger_is_better: bool = True,
    n_bootstrap: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> PairedComparison:
    """Compare two methods that saw the same cases.

    Pairs with a NaN are dropped. An infinite value is worse than any other: Wilcoxon, wins and ranks take it so, and
    two infinite ones as equal; all else counts the pairs that are finite in both. Differences are rounded to 1e-12 of
    the largest value, so that what differs only by the order of a sum ties.

    Rules where a formula has no value: with fewer than 2 finite pairs standard deviation, t-test, interval and
    `effect_size` are NaN, without any finite pair means and median too; without any pair all but the counts is NaN. If
    all differences are 0, both p are 1, statistics and effect sizes 0. If they are all equal but not 0, the t-test and
    `effect_size` are NaN (their formula divides by 0) and the interval is that one value. No warning is raised.

    Args:
        a: One value a case.
        b: The same cases, in the same order.
        larger_is_better: Direction of the metric.
        n_bootstrap: Resamples, at least `LEAST_RESAMPLES`.
        seed: Of the resamples; the same input and seed give the same interval.
        confidence: Of the interval, between 0 and 1.
        clusters: One key a case (patient, split); the bootstrap then draws whole clusters. It changes the interval
            only: to test by cluster, compare the clusters' means (`per_split`).
    Raises:
        ValueError: If lengths differ, a value is infinitely good, or an option is out of its range.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    _check(a, b, larger_is_better, n_bootstrap, confidence, clusters)
    counted = ~(np.isnan(a) | np.isnan(b))
    a, b = a[counted], b[counted]
    finite = np.isfinite(a) & np.isfinite(b)
    differences = _differences(a, b, finite)
    inner = differences[finite]
    groups = np.arange(len(counted)) if clusters is None else _codes(clusters)
    groups = np.unique(groups[counted][finite], return_inverse=True)[1]
    low, high = bootstrap_interval(inner, n_bootstrap, seed, confidence, groups)
    t_statistic, t_p = _t_test(inner)
    wilcoxon_statistic, wilcoxon_p, rank_biserial = _wilcoxon(differences)
    sign = 1 if larger_is_better else -1
    return PairedComparison(
        n_pairs=len(a),
        n_finite=len(inner),
        mean_a=_mean(a[finite]),
        mean_b=_mean(b[finite]),
        mean_difference=_mean(inner),
        sd_difference=_sd(inner),
        median_difference=float(np.median(inner)) if len(inner) else math.nan,
        ci_low=low,
        ci_high=high,
        t_statistic=t_statistic,
        t_p=t_p,
        wilcoxon_statistic=wilcoxon_statistic,
        wilcoxon_p=wilcoxon_p,
        wins=int((sign * differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((sign * differences < 0).sum()),
        effect_size=_effect_size(inner),
        rank_biserial=rank_biserial,
        n_clusters=len(set(groups.tolist())),
    )


def _check(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    larger_is_better: bool,
    n_bootstrap: int,
    confidence: float,
    clusters: Sequence[Hashable] | None,
) -> None:
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f"a and b are lists of one value a case, in the same order; got the shapes {a.shape} {b.shape}"
        )
    if clusters is not None and len(clusters) != len(a):
        raise ValueError(f"{len(clusters)} clusters for {len(a)} cases; give one key a case")
    best = math.inf if larger_is_better else -math.inf
    if (a == best).any() or (b == best).any():
        raise ValueError(f"the value {best} would be infinitely good; only infinitely bad values are understood")
    if n_bootstrap < LEAST_RESAMPLES:
        raise ValueError(f"n_bootstrap is {n_bootstrap}, it must be at least {LEAST_RESAMPLES}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, it must be between 0 and 1")


def _differences(a: NDArray[np.float64], b: NDArray[np.float64], finite: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a - b, rounded; infinite where one is infinite, 0 where both are."""
    found = np.zeros(len(a))
    np.subtract(a, b, out=found, where=finite | (a != b))
    return _rounded(found, like=np.stack([a, b]))


def _rounded(values: NDArray[np.float64], like: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values to the 12th digit of the largest finite one of `like`, so that rounding errors break no tie."""
    largest = np.max(np.abs(like), initial=0.0, where=np.isfinite(like))
    digit = 0 if largest == 0 else math.ceil(math.log10(largest))
    return np.round(values, min(_DIGITS - digit, 300))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _sd(values: NDArray[np.float64]) -> float:
    if len(values) < 2:
        return math.nan
    scaled, exponent = _scaled(values)
    return math.ldexp(float(scaled.std(ddof=1)), exponent)


def _scaled(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return values / 2^exponent, the largest near 1, and the exponent: squares of them are neither 0 nor infinite."""
    exponent = int(np.frexp(np.max(np.abs(values), initial=0.0))[1])
    return np.ldexp(values, -exponent), exponent


def _all_equal(values: NDArray[np.float64]) -> bool:
    return bool((values == values[0]).all())


def _effect_size(differences: NDArray[np.float64]) -> float:
    if len(differences) < 2:
        return math.nan
    if _all_equal(differences):
        return 0.0 if differences[0] == 0 else math.nan
    return _mean(differences) / _sd(differences)


def _t_test(differences: NDArray[np.float64]) -> tuple[float, float]:
    if len(differences) < 2:
        return math.nan, math.nan
    if _all_equal(differences):
        return (0.0, 1.0) if differences[0] == 0 else (math.nan, math.nan)
    found = stats.ttest_1samp(_scaled(differences)[0], 0.0)
    return float(found.statistic), float(found.pvalue)


def _wilcoxon(differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return statistic, p and rank-biserial correlation.

    Zero differences are dropped before ranking, as Wilcoxon did; equal sizes share their mean rank, all infinite ones
    the largest. The p is exact where it can be: from the table without ties, up to 50 pairs, and by all sign flips with
    ties, up to 13; else by the normal approximation with the correction for ties.
    """
    if not len(differences):
        return math.nan, math.nan, math.nan
    kept = differences[differences != 0]
    n = len(kept)
    if n == 0:
        return 0.0, 1.0, 0.0
    ranks = stats.rankdata(np.abs(kept))
    # ranks in place of sizes: the same test, and no infinite number reaches the arithmetic
    signed = np.sign(kept) * ranks
    method: Any = "asymptotic"
    if len(np.unique(ranks)) == n:
        method = "exact" if n <= _MOST_EXACT else method
    elif n <= _MOST_ENUMERATED:
        method = stats.PermutationMethod(n_resamples=2**n)
    found = stats.wilcoxon(signed, zero_method="wilcox", correction=False, method=method)
    return float(found.statistic), float(found.pvalue), float(signed.sum() / ranks.sum())


def _codes(keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """Return 0, 1, ... for the keys in the order in which they first come."""
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(key, len(codes)) for key in keys], dtype=np.int64)


def bootstrap_interval(
    differences: NDArray[np.float64], n_bootstrap: int, seed: int, confidence: float, groups: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the bootstrap interval of the mean difference; clusters are drawn whole.

    Args:
        differences: Finite ones, (n).
        n_bootstrap: Resamples.
        seed: Of the resamples.
        confidence: Of the interval.
        groups: Number of each difference's cluster, (n), from 0 without gaps.
    Source: T. C. Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69 (2015)
        371-386: the percentile interval at a level that makes it as wide as Student's for normal data.
    """
    scaled, exponent = _scaled(differences)
    sums, counts = np.bincount(groups, weights=scaled), np.bincount(groups)
    n = len(sums)
    if n < 2:
        return math.nan, math.nan
    if _all_equal(differences):
        return float(differences[0]), float(differences[0])
    widened = stats.t.ppf((1 + confidence) / 2, n - 1) * math.sqrt(n / (n - 1))
    found = stats.bootstrap(
        (sums, counts),
        lambda sums, counts, axis=-1: sums.sum(axis=axis) / counts.sum(axis=axis),
        n_resamples=n_bootstrap,
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=float(1 - 2 * stats.norm.sf(widened)),
        rng=np.random.default_rng(seed),
    )
    low, high = (math.ldexp(float(end), exponent) for end in found.confidence_interval)
    return low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm for their number; NaN stays NaN and is not counted.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979) 65-70.
    """
    values = np.array(p_values, dtype=float)
    counted = ~np.isnan(values)
    if counted.any():
        # statsmodels collects garbage in each call: with PyTorch loaded that takes 0.1 s and more
        is_ours = gc.get_freeze_count() == 0  # else what the caller has frozen would be unfrozen with it
        if is_ours:
            gc.freeze()
        try:
            values[counted] = multipletests(values[counted], method="holm")[1]
        finally:
            if is_ours:
                gc.unfreeze()
    return values.tolist()


def mean_ranks(values: ArrayLike, larger_is_better: bool = True) -> list[float]:
    """Return each method's mean rank over the cases: 1 is best, equal values share their mean rank.

    Args:
        values: (cases methods); a case with a NaN is dropped, infinite values are worst.
        larger_is_better: Direction of the metric.
    Returns:
        One rank a method; NaN without any case.
    """
    kept = _complete_cases(values)
    if not len(kept):
        return [math.nan] * kept.shape[1]
    return stats.rankdata(-kept if larger_is_better else kept, axis=1).mean(axis=0).tolist()


def friedman_p(values: ArrayLike) -> float:
    """Return the p of Friedman's test that all methods rank alike over the cases, by the chi-squared approximation.

    Args:
        values: (cases methods); a case with a NaN is dropped, infinite values rank as they compare.
    Returns:
        NaN with fewer than 3 methods or 2 cases; 1 if all methods are equal in every case.
    """
    kept = _complete_cases(values)
    if len(kept) < 2 or kept.shape[1] < 3:
        return math.nan
    ranks = stats.rankdata(kept, axis=1)
    if (ranks == ranks[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*ranks.T).pvalue)


def _complete_cases(values: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(values, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"values are a table (cases methods); got the shape {table.shape}")
    kept = table[~np.isnan(table).any(axis=1)]
    return _rounded(kept, like=kept)


def per_split(values: ArrayLike, splits: Sequence[Hashable]) -> dict[Hashable, float]:
    """Return the mean over the cases of each split, in the order in which the splits first come.

    Means of repeated splits depend on each other (`SPLITS_DEPEND`). The same function gives means per patient.

    Args:
        values: One value a case of a split; NaN is dropped, an infinite value makes its split's mean infinite.
        splits: The split of each value.
    Returns:
        Split -> mean; NaN for a split without any value.
    Raises:
        ValueError: If lengths differ.
    """
    found = np.asarray(values, dtype=float)
    if found.shape != (len(splits),):
        raise ValueError(f"{len(splits)} splits for values of shape {found.shape}; give one split a value")
    codes = _codes(splits)
    means = (found[(codes == code) & ~np.isnan(found)] for code in range(len(set(splits))))
    return dict(zip(dict.fromkeys(splits), map(_mean, means), strict=True))


def corrected_resampled_t(differences: ArrayLike, n_train: int, n_test: int) -> tuple[float, float]:
    """Return t and two-sided p of the corrected resampled t-test, for differences per repeated split.

    t = mean / sqrt((1 / splits + n_test / n_train) * variance), with splits - 1 degrees of freedom: the second term
    makes up, roughly, for the cases that the splits share. It was derived for independently drawn splits of one size.

    Args:
        differences: One mean difference a split, finite.
        n_train: Training cases of a split.
        n_test: Its test cases.
    Returns:
        NaN with fewer than 2 splits; by the rules of `compare_paired` if all are equal.
    Raises:
        ValueError: If a size is below 1, or a difference is not finite.
    Source: C. Nadeau, Y. Bengio, Inference for the Generalization Error, Machine Learning 52 (2003) 239-281.
    """
    found = np.asarray(differences, dtype=float)
    if min(n_train, n_test) < 1 or found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError(f"sizes must be at least 1 and differences finite; got {n_train}, {n_test}, {found.tolist()}")
    found = _rounded(found, like=found)
    statistic, p = _t_test(found)
    if math.isnan(statistic) or statistic == 0:
        return statistic, p
    corrected = statistic / math.sqrt(1 + len(found) * n_test / n_train)
    return corrected, float(2 * stats.t.sf(abs(corrected), len(found) - 1))
