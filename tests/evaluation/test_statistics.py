"""Paired statistics against published examples, scipy, and arithmetic done by hand."""

import gc
import math
import subprocess
import sys
import time
from dataclasses import asdict, fields
from itertools import product

import numpy as np
import pytest
from scipy import stats

from nnunet_attn.evaluation.statistics import (
    LEAST_RESAMPLES,
    PairedComparison,
    compare_paired,
    corrected_resampled_t,
    friedman_p,
    holm,
    mean_ranks,
    per_split,
)

INF, NAN = math.inf, math.nan

# Extra hours of sleep by two drugs, ten patients: Student, The Probable Error of a Mean, Biometrika 6 (1908), p. 20;
# `sleep` in R, whose t.test(paired = TRUE) prints t = -4.0621, df = 9, p-value = 0.002833
SLEEP_A = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_B = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# Crossed minus self-fertilised maize of Darwin, in eighths of an inch: Fisher, The Design of Experiments (1935),
# section 17, which finds the mean 20.93 and t = 2.148
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]

# Area under the curve of four learners on 14 data sets: Demsar, Statistical Comparisons of Classifiers over Multiple
# Data Sets, JMLR 7 (2006), table 6, whose last line has the mean ranks 3.143, 2.000, 2.893, 1.964. The last but one
# data set has 0.975 twice there, but the ranks 2 and 3: told apart before rounding, so a digit is added here.
LEARNERS = [
    [0.763, 0.768, 0.771, 0.798],
    [0.599, 0.591, 0.590, 0.569],
    [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898],
    [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685],
    [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000],
    [0.940, 0.962, 0.965, 0.962],
    [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975],
    [0.957, 0.978, 0.946, 0.970],
]


def same(first: PairedComparison, second: PairedComparison, *but: str) -> bool:
    names = [field.name for field in fields(first) if field.name not in but]
    return all(np.array_equal(getattr(first, name), getattr(second, name), equal_nan=True) for name in names)


def test_students_sleep_data() -> None:
    found = compare_paired(SLEEP_A, SLEEP_B)
    assert (found.n_pairs, found.n_finite, found.n_clusters) == (10, 10, 10)
    assert found.mean_a == pytest.approx(0.75) and found.mean_b == pytest.approx(2.33)
    assert found.mean_difference == pytest.approx(-1.58) and found.median_difference == pytest.approx(-1.3)
    assert found.t_statistic == pytest.approx(-4.0621, abs=5e-5) and found.t_p == pytest.approx(0.002833, abs=5e-7)
    # t = mean / (sd / sqrt(10)), so d_z = mean / sd = t / sqrt(10)
    assert found.effect_size == pytest.approx(-4.0621 / math.sqrt(10), abs=2e-5)
    # of nine differences that are not 0 all have one sign: 2 of 2^9 sign flips are so extreme
    assert (found.wilcoxon_statistic, found.wilcoxon_p, found.rank_biserial) == (0.0, pytest.approx(2 / 512), -1.0)
    assert (found.wins, found.ties, found.losses) == (0, 1, 9)
    fewer_hours = compare_paired(SLEEP_A, SLEEP_B, larger_is_better=False)
    assert (fewer_hours.wins, fewer_hours.ties, fewer_hours.losses) == (9, 1, 0)
    assert same(found, fewer_hours, "wins", "losses"), "all but wins and losses is of a - b, whatever is better"
    assert found.ci_low < found.mean_difference < found.ci_high < 0


def test_darwins_maize() -> None:
    found = compare_paired(np.array(MAIZE) / 8, np.zeros(15))
    assert found.mean_difference == pytest.approx(314 / 15 / 8)
    assert found.t_statistic == pytest.approx(2.148, abs=5e-4)
    assert found.t_p == pytest.approx(0.0497, abs=5e-5)
    # Sizes in order: 6 8 14 16 23 24 28 29 41 48 49 56 60 67 75; 48 and 67 are negative: ranks 10 and 14 of 120 in all
    assert found.wilcoxon_statistic == 24 and found.rank_biserial == pytest.approx((96 - 24) / 120)
    # scipy's own page of `wilcoxon` has this example and 0.041259765625
    assert found.wilcoxon_p == pytest.approx(1352 / 2**15)
    assert (found.wins, found.ties, found.losses) == (13, 0, 2)


def test_holm() -> None:
    # times 4, 3, 2, 1 from the smallest on, never below the one before: 0.02 0.03 0.06 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    # NaN is no test: the two others are two
    assert holm([0.04, NAN, 0.03]) == pytest.approx([0.06, NAN, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == [] and math.isnan(holm([NAN])[0])


def test_ranks_of_demsars_learners() -> None:
    assert mean_ranks(LEARNERS) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert sum(mean_ranks(LEARNERS, larger_is_better=False)) == pytest.approx(1 + 2 + 3 + 4)
    # 12 n / (k (k + 1)) (sum of squared mean ranks - k (k + 1)^2 / 4) = 9.28 in the paper; ties divide it by
    # 1 - (t^3 - t over the ties: 60 of four equal, 6 of each of three pairs) / (n k (k^2 - 1))
    assert friedman_p(LEARNERS) == pytest.approx(stats.chi2.sf(9.28 / (1 - (60 + 3 * 6) / (14 * 4 * 15)), 3), rel=0.01)
    assert friedman_p(LEARNERS) == pytest.approx(stats.friedmanchisquare(*np.transpose(LEARNERS)).pvalue)


def test_ranks_leave_out_nan_and_take_infinite_as_worst() -> None:
    assert mean_ranks([[1.0, 2.0, INF], [NAN, 1.0, 2.0], [INF, 2.0, INF]], False) == [(1 + 2.5) / 2, 1.5, 2.75]
    assert all(map(math.isnan, mean_ranks([[NAN, 1.0]])))
    assert math.isnan(friedman_p([[1, 2], [2, 3]])) and math.isnan(friedman_p([[1, 2, 3]]))
    assert friedman_p([[1, 1, 1], [2, 2, 2]]) == 1.0
    with pytest.raises(ValueError, match="table"):
        mean_ranks([1.0, 2.0])


@pytest.mark.parametrize("n", [3, 9, 20, 44, 100])
def test_as_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.beta(8, 2, (2, n))
    found = compare_paired(a, b)
    t = stats.ttest_rel(a, b)
    w = stats.wilcoxon(a, b, correction=False)
    assert (found.t_statistic, found.t_p) == pytest.approx((t.statistic, t.pvalue), rel=1e-9)
    assert (found.wilcoxon_statistic, found.wilcoxon_p) == pytest.approx((w.statistic, w.pvalue))
    assert found.sd_difference == pytest.approx(np.std(a - b, ddof=1))
    # with ties and zeros
    a, b = rng.integers(0, 6, (2, n)).astype(float)
    w = stats.wilcoxon(a, b, zero_method="wilcox", correction=False, method="asymptotic")
    found = compare_paired(a, b)
    assert found.wilcoxon_statistic == w.statistic
    if (a != b).sum() > 13:
        assert found.wilcoxon_p == pytest.approx(w.pvalue)


@pytest.mark.parametrize("unit", [1e-300, 1e-290, 1e-200, 1e200, 1e300])
def test_the_unit_changes_no_test_even_where_squares_have_no_double(unit: float) -> None:
    a, b = np.array([1.0, 3.0, 2.0, 0.0]), np.array([0.0, 1.0, 5.0, 7.0])
    found, plain = compare_paired(a * unit, b * unit), compare_paired(a, b)
    for name in ("t_statistic", "t_p", "wilcoxon_p", "effect_size", "rank_biserial", "wins", "losses"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name)), name
    for name in ("mean_difference", "sd_difference", "ci_low", "ci_high"):
        assert getattr(found, name) / unit == pytest.approx(getattr(plain, name)), name
    assert compare_paired([5e-324, 0.0], [0.0, 0.0]).ties == 2, "below 1e-300 nothing differs"


def test_holm_leaves_what_the_caller_froze() -> None:
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        assert before > 0
        holm([0.01, 0.02])
        assert gc.get_freeze_count() >= before
    finally:
        gc.unfreeze()
    holm([0.01, 0.02])
    assert gc.get_freeze_count() == 0


def test_wilcoxon_with_ties_is_exact_for_few_pairs() -> None:
    differences = [1, 1, -1, 2, 3, 3, -4, 5, 5, 5, 0]
    sizes = np.array([1, 1, 1, 2, 3, 3, 4, 5, 5, 5])
    ranks = np.array([2, 2, 2, 4, 5.5, 5.5, 7, 9, 9, 9])
    assert (ranks == stats.rankdata(sizes)).all()
    observed = 2 + 7
    flips = [ranks[np.array(signs)].sum() for signs in product([False, True], repeat=10)]
    expected = 2 * sum(flip <= observed for flip in flips) / 2**10
    found = compare_paired(differences, np.zeros(11))
    assert (found.wilcoxon_statistic, found.ties) == (observed, 1)
    assert found.wilcoxon_p == pytest.approx(expected)
    assert found.rank_biserial == pytest.approx((55 - 2 * observed) / 55)


def test_infinite_values_are_worst_by_rank_and_left_out_of_means() -> None:
    # distances: pair 1 only a infinite, pair 2 both, pairs 3 and 4 only b, pair 5 missing
    a, b = [INF, INF, 3.0, 4.0, NAN, 5.0, 1.0], [2.0, INF, INF, INF, 1.0, 4.0, 3.0]
    found = compare_paired(a, b, larger_is_better=False)
    assert (found.n_pairs, found.n_finite) == (6, 2)
    assert (found.wins, found.ties, found.losses) == (3, 1, 2)
    assert (found.mean_a, found.mean_b, found.mean_difference) == (3.0, 3.5, -0.5)
    # differences +inf 0 -inf -inf +1 -2: ranks of 1, 2 and three infinite ones: 1 2 4 4 4
    assert found.wilcoxon_statistic == 4 + 1 and found.rank_biserial == pytest.approx((5 - 10) / 15)
    # the same test as with any numbers larger than all others
    finite = compare_paired([9, 9, 3, 4, 5, 1], [2, 9, 10, 11, 4, 3], larger_is_better=False)
    assert finite.wilcoxon_p == pytest.approx(found.wilcoxon_p)
    for arguments in ([1.0, INF], [1.0, 2.0], True), ([1.0, 2.0], [1.0, -INF], False):
        with pytest.raises(ValueError, match="infinitely good"):
            compare_paired(*arguments)


def test_what_differs_by_rounding_only_is_equal() -> None:
    a, b = [(0.1 + 0.2) + 0.3, 0.3, 0.5], [0.1 + (0.2 + 0.3), 0.1 + 0.2, 0.5]
    assert a[0] != b[0] and a[1] != b[1]
    found = compare_paired(a, b)
    assert (found.wins, found.ties, found.losses) == (0, 3, 0)
    assert (found.t_p, found.wilcoxon_p, found.effect_size) == (1.0, 1.0, 0.0)
    # equal sizes: 0.3 - 0.2 and 0.2 - 0.1 are not the same double
    tied = compare_paired([0.3, 0.2, 0.1], [0.2, 0.1, 0.4])
    assert tied.wilcoxon_statistic == 3 and tied.rank_biserial == 0
    assert mean_ranks([a, b]) == pytest.approx(mean_ranks([b, a]))
    # whatever the unit
    for unit in 1e-12, 1e12:
        assert compare_paired(np.array(a) * unit, np.array(b) * unit).ties == 3


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([], [], {"n_pairs": 0, "n_finite": 0, "wins": 0, "ties": 0, "losses": 0, "n_clusters": 0}),
        ([NAN], [1.0], {"n_pairs": 0, "n_finite": 0, "wins": 0, "ties": 0, "losses": 0, "n_clusters": 0}),
        (
            [1.0],
            [2.0],
            {"n_pairs": 1, "n_finite": 1, "wins": 1, "ties": 0, "losses": 0, "n_clusters": 1, "mean_a": 1.0}
            | {"mean_b": 2.0, "mean_difference": -1.0, "median_difference": -1.0}
            | {"wilcoxon_statistic": 0.0, "wilcoxon_p": 1.0, "rank_biserial": -1.0},
        ),
        (
            [INF, INF],
            [INF, 2.0],
            {"n_pairs": 2, "n_finite": 0, "wins": 0, "ties": 1, "losses": 1, "n_clusters": 0}
            | {"wilcoxon_statistic": 0.0, "wilcoxon_p": 1.0, "rank_biserial": 1.0},
        ),
        (
            [2.0, 3.0, 4.0],
            [2.0, 3.0, 4.0],
            {"n_pairs": 3, "n_finite": 3, "wins": 0, "ties": 3, "losses": 0, "n_clusters": 3, "mean_a": 3.0}
            | {"mean_b": 3.0, "mean_difference": 0.0, "median_difference": 0.0, "sd_difference": 0.0}
            | {"ci_low": 0.0, "ci_high": 0.0, "t_statistic": 0.0, "t_p": 1.0, "effect_size": 0.0}
            | {"wilcoxon_statistic": 0.0, "wilcoxon_p": 1.0, "rank_biserial": 0.0},
        ),
        (
            # 2 of the 2^3 sign flips are so extreme
            [2.0, 3.0, 4.0],
            [1.5, 2.5, 3.5],
            {"n_pairs": 3, "n_finite": 3, "wins": 0, "ties": 0, "losses": 3, "n_clusters": 3, "mean_a": 3.0}
            | {"mean_b": 2.5, "mean_difference": 0.5, "median_difference": 0.5, "sd_difference": 0.0}
            | {"ci_low": 0.5, "ci_high": 0.5, "wilcoxon_statistic": 0.0, "wilcoxon_p": 0.25, "rank_biserial": 1.0},
        ),
    ],
)
def test_where_a_formula_has_no_value(a: list[float], b: list[float], expected: dict[str, float]) -> None:
    found = asdict(compare_paired(a, b, larger_is_better=False))
    assert found == pytest.approx({name: expected.get(name, NAN) for name in found}, nan_ok=True)


def test_the_interval_is_widened_as_students_is() -> None:
    # Two pairs: t of 1 degree of freedom is 12.7, times sqrt(2 / 1): all resamples but none beyond the data
    found = compare_paired([0.0, 1.0], [0.0, 0.0])
    assert (found.ci_low, found.ci_high) == (0.0, 1.0)
    rng = np.random.default_rng(5)
    values = rng.normal(size=12)
    found = compare_paired(values, np.zeros(12), confidence=0.9)
    # the level whose normal quantile is t(11 degrees) sqrt(12 / 11)
    tail = stats.norm.sf(stats.t.ppf(0.95, 11) * math.sqrt(12 / 11))
    resamples = rng.choice(values, (100_000, 12)).mean(axis=1)
    assert (found.ci_low, found.ci_high) == pytest.approx(np.quantile(resamples, [tail, 1 - tail]), abs=0.03)
    student = stats.t.interval(0.9, 11, values.mean(), values.std(ddof=1) / math.sqrt(12))
    assert found.ci_high - found.ci_low == pytest.approx(student[1] - student[0], rel=0.1)


def test_the_interval_is_seeded() -> None:
    a, b = np.random.default_rng(0).beta(8, 2, (2, 30))
    assert compare_paired(a, b) == compare_paired(a, b)
    assert compare_paired(a, b).ci_low != compare_paired(a, b, seed=1).ci_low
    wide = compare_paired(a, b, confidence=0.99)
    assert wide.ci_low < compare_paired(a, b).ci_low and compare_paired(a, b).ci_high < wide.ci_high


def test_clusters_are_drawn_whole() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=10)
    twins, patients = np.repeat(values, 3), [f"patient {i}" for i in range(10) for _ in range(3)]
    found = compare_paired(twins, np.zeros(30), clusters=patients)
    once = compare_paired(values, np.zeros(10))
    # three equal cases a patient tell no more than one
    assert (found.ci_low, found.ci_high) == pytest.approx((once.ci_low, once.ci_high))
    assert found.n_clusters == 10 and found.n_pairs == 30
    blind = compare_paired(twins, np.zeros(30))
    assert blind.ci_high - blind.ci_low < 0.7 * (found.ci_high - found.ci_low)
    assert same(found, blind, "ci_low", "ci_high", "n_clusters"), "only the interval knows of clusters"
    # of unequal sizes: the mean is over cases; two clusters (0 0 0) and (1): 0, 1/4 or 1
    unequal = compare_paired([0.0, 0.0, 0.0, 1.0], np.zeros(4), clusters=["a", "a", "a", "b"])
    assert (unequal.mean_difference, unequal.ci_low, unequal.ci_high) == (0.25, 0.0, 1.0)
    # one that is all missing is not drawn
    missing = compare_paired([0.0, NAN, 1.0, 2.0], np.zeros(4), clusters=[0, 1, 2, 2])
    assert missing.n_clusters == 2
    assert math.isnan(compare_paired([0.0, 1.0], [0.0, 0.0], clusters=[7, 7]).ci_low), "of one cluster nothing is known"


def test_means_per_split() -> None:
    values = [0.5, 0.7, NAN, 0.9, INF, 1.0, NAN]
    found = per_split(values, ["b", "b", "b", "a", "c", "c", "d"])
    assert list(found) == ["b", "a", "c", "d"]
    assert list(found.values()) == pytest.approx([0.6, 0.9, INF, NAN], nan_ok=True)
    with pytest.raises(ValueError, match="2 splits"):
        per_split([1.0], [0, 1])


def test_the_corrected_resampled_t_test() -> None:
    # mean 0.02, variance (0.01^2 + 0 + 0.01^2 + 0.02^2 + 0.02^2) / 4 = 2.5e-4, five splits of 18 and 12:
    # t = 0.02 / sqrt((1/5 + 12/18) 2.5e-4) = 1.3587, 4 degrees of freedom
    statistic, p = corrected_resampled_t([0.01, 0.02, 0.03, 0.04, 0.0], 18, 12)
    assert statistic == pytest.approx(1.3587, abs=5e-5)
    assert p == pytest.approx(2 * stats.t.sf(1.3587, 4), abs=1e-4)
    uncorrected = stats.ttest_1samp([0.01, 0.02, 0.03, 0.04, 0.0], 0)
    assert p > uncorrected.pvalue
    assert corrected_resampled_t([0.0, 0.0], 18, 12) == (0.0, 1.0)
    assert all(map(math.isnan, corrected_resampled_t([0.1, 0.1], 18, 12)))
    assert all(map(math.isnan, corrected_resampled_t([0.1], 18, 12)))
    for wrong in ([0.1, INF], 18, 12), ([0.1, 0.2], 0, 12):
        with pytest.raises(ValueError, match="finite"):
            corrected_resampled_t(*wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [1.0]), "same order"),
        (([[1.0]], [[1.0]]), "same order"),
        (([1.0], [1.0], True, LEAST_RESAMPLES - 1), "n_bootstrap"),
        (([1.0], [1.0], True, 1000, 0, 1.0), "confidence"),
        (([1.0], [1.0], True, 1000, 0, 0.95, ["a", "b"]), "2 clusters for 1 cases"),
    ],
)
def test_wrong_input_is_told(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_paired(*arguments)


@pytest.mark.parametrize("n", [20, 100])
def test_five_percent_of_normal_nulls_are_rejected(n: int) -> None:
    a, b = np.random.default_rng(2024).normal(size=(2, 1000, n))
    found = [compare_paired(first, second, n_bootstrap=200) for first, second in zip(a, b, strict=True)]
    assert 0.03 <= np.mean([each.t_p < 0.05 for each in found]) <= 0.07
    assert 0.03 <= np.mean([each.wilcoxon_p < 0.05 for each in found]) <= 0.07
    assert 0.03 <= np.mean([not each.ci_low <= 0 <= each.ci_high for each in found]) <= 0.07


def test_a_comparison_is_fast_and_needs_neither_torch_nor_nnunet() -> None:
    a, b = np.random.default_rng(0).beta(8, 2, (2, 44))
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        compare_paired(a, b, n_bootstrap=10_000)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.1, "ten classes take less than a second"
    code = "import sys, nnunet_attn.evaluation.statistics; print({'torch', 'nnunetv2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
