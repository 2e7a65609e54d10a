"""Comparisons against arithmetic done by hand."""

import math
from collections.abc import Mapping, Sequence
from itertools import product

import pytest
from scipy import stats

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare import Comparison, compare
from nnunet_attn.evaluation.compare_tables import markdown
from nnunet_attn.evaluation.results import Evaluation
from nnunet_attn.evaluation.statistics import SPLITS_DEPEND
from tests.made.evaluations import made_evaluation, random_evaluation

NAN, INF = math.nan, math.inf


def dice(*values: float, folds: Sequence[int] | None = None, cases: Sequence[str] | None = None) -> Evaluation:
    return made_evaluation({"organ": {"dice": values}}, folds, cases)


def compared(methods: Mapping[str, Evaluation], **options: object) -> Comparison:
    return compare({name: [evaluation] for name, evaluation in methods.items()}, **options)  # type: ignore[arg-type]


def test_figures_of_four_cases() -> None:
    found = compared({"A": dice(0.5, 0.6, 0.7, 0.8), "B": dice(0.6, 0.8, 0.7, 0.9)})
    result = found.result("dice")
    a, b = result.methods
    assert [a.method, b.method] == ["A", "B"] and found.reference == "A"
    # (0.5 + 0.6 + 0.7 + 0.8) / 4 and (0.6 + 0.8 + 0.7 + 0.9) / 4
    assert (a.table_mean, b.table_mean) == (pytest.approx(0.65), pytest.approx(0.75))
    # deviations of A +-0.15, +-0.05: variance (2 * 0.0225 + 2 * 0.0025) / 3
    assert a.sd == pytest.approx(math.sqrt(0.05 / 3)) and a.median == pytest.approx(0.65)
    # ranks: B first in three cases, equal in one
    assert (a.mean_rank, b.mean_rank) == ((2 + 2 + 1.5 + 2) / 4, (1 + 1 + 1.5 + 1) / 4)
    (difference,) = result.differences
    paired = difference.paired
    assert (difference.method, difference.against) == ("B", "A")
    # differences 0.1, 0.2, 0, 0.1: mean 0.1, median 0.1, variance (0 + 0.01 + 0.01 + 0) / 3
    assert paired.mean_difference == pytest.approx(0.1) and paired.median_difference == pytest.approx(0.1)
    assert paired.sd_difference == pytest.approx(math.sqrt(0.02 / 3))
    assert paired.effect_size == pytest.approx(0.1 / math.sqrt(0.02 / 3))
    t = 0.1 / math.sqrt(0.02 / 3 / 4)
    assert paired.t_p == pytest.approx(2 * stats.t.sf(t, 3))
    # three differences above 0, of the 8 signs two are as extreme
    assert paired.wilcoxon_p == pytest.approx(2 / 8)
    assert (paired.wins, paired.ties, paired.losses) == (3, 1, 0)
    assert (difference.t_p_holm, difference.wilcoxon_p_holm) == (paired.t_p, paired.wilcoxon_p)


def test_table_mean_is_over_cases_then_classes_and_tests_are_on_case_means() -> None:
    # the second class is in one case only
    a = made_evaluation({"big": {"dice": [0.8, 0.8, 0.8]}, "small": {"dice": [NAN, NAN, 0.2]}})
    b = made_evaluation({"big": {"dice": [0.9, 0.9, 0.9]}, "small": {"dice": [NAN, NAN, 0.4]}})
    result = compared({"A": a, "B": b}).result("dice")
    assert result.methods[0].table_mean == pytest.approx((0.8 + 0.2) / 2)
    assert result.values["A"] == pytest.approx((0.8, 0.8, (0.8 + 0.2) / 2))
    assert result.methods[0].mean == pytest.approx((0.8 + 0.8 + 0.5) / 3)
    # 0.1, 0.1 and (0.1 + 0.2) / 2
    assert result.differences[0].paired.mean_difference == pytest.approx(0.35 / 3)


def test_classes_are_compared_one_by_one() -> None:
    a = made_evaluation({"big": {"dice": [0.8, 0.7, 0.6]}, "small": {"dice": [NAN, 0.5, 0.2]}})
    b = made_evaluation({"big": {"dice": [0.8, 0.8, 0.8]}, "small": {"dice": [0.0, 0.4, 0.4]}})
    found = compared({"A": a, "B": b})
    big, small = (found.result("dice", name).differences[0].paired for name in ("big", "small"))
    assert (big.n_pairs, big.mean_difference) == (3, pytest.approx(0.1))
    # the first pair of the small class has only one value
    assert (small.n_pairs, small.mean_difference) == (2, pytest.approx(0.05))
    own = found.result("dice", "small").methods
    assert [(each.n_finite, each.n_not_counted) for each in own] == [(2, 1), (3, 0)]
    assert own[0].table_mean == pytest.approx(0.35)


def test_seeds_are_averaged_first_and_their_spread_is_apart() -> None:
    seeds = [dice(0.6, 0.8), dice(0.8, 0.9)]
    found = compare({"A": [dice(0.5, 0.7)], "B": seeds})
    result = found.result("dice")
    a, b = result.methods
    assert result.values["B"] == pytest.approx((0.7, 0.85))
    # means of the seeds 0.7 and 0.85: mean 0.775, sd 0.15 / sqrt 2
    assert b.seed_means == pytest.approx((0.7, 0.85)) and b.table_mean == pytest.approx(0.775)
    assert b.seeds_sd == pytest.approx(0.15 / math.sqrt(2)) and math.isnan(a.seeds_sd)
    assert result.differences[0].paired.mean_difference == pytest.approx((0.2 + 0.15) / 2)
    assert result.differences[0].paired.n_pairs == 2
    assert any("number of seeds (A: 1, B: 2)" in warning for warning in found.warnings)


def test_an_infinite_distance_is_worst_for_ranks_and_left_out_of_means() -> None:
    a = made_evaluation({"organ": {"hd95_mm": [2.0, 3.0, INF, 5.0]}})
    b = made_evaluation({"organ": {"hd95_mm": [3.0, 3.5, 4.0, INF]}})
    result = compared({"A": a, "B": b}).result("hd95_mm")
    own, other = result.methods
    assert own.table_mean == pytest.approx(10 / 3) and own.table_infinite == 1
    assert (own.n_finite, own.n_infinite, other.n_infinite) == (3, 1, 1)
    paired = result.differences[0].paired
    assert (paired.n_pairs, paired.n_finite) == (4, 2)
    # B is worse by 1 and 0.5; where A is infinite it wins, where B is, it loses
    assert (paired.wins, paired.losses) == (1, 3)
    assert paired.mean_difference == pytest.approx(0.75)
    # ranks of the sizes 1, 0.5 and twice infinite: 2, 1, 3.5, 3.5; positive 2 + 1 + 3.5, negative 3.5. Of the 16 signs
    # those with a smaller sum of at most 3.5: sums 0, 1, 2, 3, 3.5, 3.5 on either side
    assert paired.wilcoxon_statistic == 3.5
    ranks = (2, 1, 3.5, 3.5)
    sums = [sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign) for signs in product((0, 1), repeat=4)]
    assert paired.wilcoxon_p == pytest.approx(sum(min(each, 10 - each) <= 3.5 for each in sums) / 16)
    assert own.mean_rank == (1 + 1 + 2 + 1) / 4


def test_a_seed_that_misses_makes_the_average_infinite() -> None:
    seeds = [made_evaluation({"organ": {"hd95_mm": values}}) for values in ([2.0, NAN], [INF, 4.0])]
    found = compare({"A": [made_evaluation({"organ": {"hd95_mm": [1.0, 2.0]}})], "B": seeds})
    # one of two seeds has nothing to measure in the second case: the other one counts
    assert found.result("hd95_mm").values["B"] == (INF, 4.0)


def test_of_volume_differences_the_size_is_tested_and_the_mean_keeps_the_sign() -> None:
    a = made_evaluation({"organ": {"volume_difference_mm3": [-10.0, 10.0]}})
    b = made_evaluation({"organ": {"volume_difference_mm3": [4.0, 6.0]}})
    for name in (None, "organ"):
        result = compared({"A": a, "B": b}).result("volume_difference_mm3", name)
        assert [each.table_mean for each in result.methods] == [0.0, 5.0]
        assert result.values["A"] == (10.0, 10.0)
        assert result.differences[0].paired.wins == 2


def test_holm_adjusts_over_the_compared_methods_within_a_metric() -> None:
    gains = {"A": 0.0, "B": 0.004, "C": 0.02, "D": 0.008}
    methods = {name: [random_evaluation(gain, seed)] for seed, (name, gain) in enumerate(gains.items())}
    found = compare(methods, metrics=["dice"])
    for class_name in (None, "liver"):
        pairs = found.result("dice", class_name).differences
        assert [(each.method, each.against) for each in pairs] == [("B", "A"), ("C", "A"), ("D", "A")]
        raw = [each.paired.wilcoxon_p for each in pairs]
        # Holm by hand: the smallest times 3, the next times 2, the last as it is, never falling, at most 1
        adjusted, running = dict.fromkeys(raw, 0.0), 0.0
        for rank, p in enumerate(sorted(raw)):
            running = min(1.0, max(running, (3 - rank) * p))
            adjusted[p] = running
        assert [each.wilcoxon_p_holm for each in pairs] == pytest.approx([adjusted[p] for p in raw])


def test_friedman_and_ranks_of_three_methods() -> None:
    found = compared({"A": dice(0.5, 0.5, 0.5, 0.5), "B": dice(0.6, 0.6, 0.6, 0.4), "C": dice(0.7, 0.7, 0.7, 0.3)})
    result = found.result("dice")
    # ranks of A 3 3 3 1, B 2 2 2 2, C 1 1 1 3
    assert [each.mean_rank for each in result.methods] == [2.5, 2.0, 1.5]
    # chi^2 = 12 / (n k (k + 1)) sum R^2 - 3 n (k + 1) = 12 / 48 * (100 + 64 + 36) - 48 = 2, with 2 degrees of freedom
    assert result.friedman_p == pytest.approx(math.exp(-1))
    assert math.isnan(compared({"A": dice(0.5, 0.6), "B": dice(0.6, 0.7)}).result("dice").friedman_p)


def test_reference_and_all_pairs() -> None:
    methods = {name: dice(0.5, 0.6, gain) for name, gain in (("A", 0.1), ("B", 0.2), ("C", 0.3))}
    found = compared(methods, reference="B")
    assert [method.name for method in found.methods] == ["B", "A", "C"]
    assert [(each.method, each.against) for each in found.result("dice").differences] == [("A", "B"), ("C", "B")]
    found = compared(methods, reference="B", all_pairs=True)
    pairs = [(each.method, each.against) for each in found.result("dice").differences]
    assert pairs == [("A", "B"), ("C", "B"), ("C", "A")]
    assert found.result("dice").differences[2].paired.mean_difference == pytest.approx(0.2 / 3)


def test_repeated_splits_are_paired_by_split() -> None:
    folds, cases = [0, 0, 1, 1, 2, 2], ["x", "y", "y", "z", "x", "z"]
    a = dice(0.5, 0.7, 0.6, 0.8, 0.4, 0.6, folds=folds, cases=cases)
    b = dice(0.6, 0.8, 0.6, 0.9, 0.6, 0.8, folds=folds, cases=cases)
    found = compared({"A": a, "B": b})
    result = found.result("dice")
    assert (found.paired_over, found.splits) == ("splits", (0, 1, 2))
    assert result.tested["A"] == pytest.approx((0.6, 0.7, 0.5)) and result.tested["B"] == pytest.approx(
        (0.7, 0.75, 0.7)
    )
    assert len(result.values["A"]) == 6
    paired = result.differences[0].paired
    assert (paired.n_pairs, paired.mean_difference) == (3, pytest.approx((0.1 + 0.05 + 0.2) / 3))
    assert any(SPLITS_DEPEND in warning for warning in found.warnings)
    assert any(warning.startswith("3 pairs are fewer than 20") for warning in found.warnings)
    # the table mean is over all six
    assert result.methods[0].table_mean == pytest.approx(3.6 / 6)


def test_means_of_splits_are_over_the_same_cases_in_all_methods() -> None:
    folds, cases = [0, 0, 1, 1], ["x", "y", "y", "z"]
    methods = {
        # in fold 0 only B has anything to measure in x, and C has it not in y of fold 1
        "A": dice(NAN, 0.5, 0.6, 0.8, folds=folds, cases=cases),
        "B": dice(0.0, 0.5, 0.6, 0.8, folds=folds, cases=cases),
        "C": dice(0.0, 0.5, NAN, 0.9, folds=folds, cases=cases),
    }
    result = compared(methods).result("dice")
    assert result.tested == {"A": (0.5, 0.8), "B": (0.5, 0.8), "C": (0.5, 0.9)}
    assert [each.paired.mean_difference for each in result.differences] == pytest.approx([0.0, 0.05])
    assert [each.n_not_counted for each in result.methods] == [0, 0, 0] and result.values["B"][0] == 0.0


def test_cases_of_a_patient_are_averaged_or_warned_about() -> None:
    methods = {"A": dice(0.5, 0.7, NAN, 0.8, folds=[0, 0, 0, 1]), "B": dice(0.6, 0.8, 0.1, 0.9, folds=[0, 0, 0, 1])}
    patients = dict.fromkeys(("case_000", "case_001", "case_002"), "anna")
    found = compared(methods, patients=patients)
    assert found.result("dice").differences[0].paired.n_pairs == 3
    assert any(text.startswith("1 patient has several cases: p-values") for text in found.warnings)
    found = compared(methods, patients=patients, by_patient=True)
    # case_002 has no value in A, so that it is left out of B's mean too
    assert found.result("dice").tested == {"A": pytest.approx((0.6, 0.8)), "B": pytest.approx((0.7, 0.9))}
    assert found.paired_over == "patients" and not any("several cases" in text for text in found.warnings)
    text = markdown(found)
    assert "paired over the means of 2 patients (4 cases in all)" in text and "patient mean" in text
    assert "averaged over the cases of a patient." in text
    # with repeated splits the patients' means are averaged: (0.6 + 0.8) / 2 in split 0
    folds, cases = [0, 0, 0, 1], ["x", "y", "z", "z"]
    a = dice(0.5, 0.7, 0.8, 0.8, folds=folds, cases=cases)
    found = compared({"A": a, "B": a}, patients={"x": "anna", "y": "anna"}, by_patient=True)
    assert found.paired_over == "splits" and found.result("dice").tested["A"] == pytest.approx((0.7, 0.8))
    assert "averaged over the cases of a patient, then of a split" in markdown(found)


def test_folds_that_are_random_draws_are_paired_by_split_though_they_share_no_case() -> None:
    folds, drawn = [5, 5, 6, 6, 7], {"drawn_folds": (5, 6, 7)}
    values = {"organ": {"dice": [0.5, 0.7, 0.6, 0.8, 0.4]}}
    plain, known = made_evaluation(values, folds), made_evaluation(values, folds, origin=drawn)
    found = compared({"A": plain, "B": known})
    assert found.paired_over == "splits" and found.splits == (5, 6, 7)
    assert found.result("dice").tested["A"] == pytest.approx((0.6, 0.7, 0.4))
    assert any(text.startswith("the 3 folds are random draws") and SPLITS_DEPEND in text for text in found.warnings)
    assert compared({"A": plain, "B": plain}).paired_over == "cases"
    # one draw alone is like any test set
    single = made_evaluation(values, [5] * 5, origin=drawn)
    assert compared({"A": single, "B": single}).paired_over == "cases"


def few(found: Comparison) -> list[str]:
    return [warning for warning in found.warnings if "fewer than 20" in warning]


def test_few_pairs_are_counted_in_each_metric_and_class() -> None:
    many, one = [0.5] * 25, [2.0] * 25
    some = [INF] * 10 + [2.0] * 15
    none = [NAN] * 20 + [0.5] * 5
    values = {"big": {"dice": many, "hd95_mm": one, "assd_mm": one}}
    lost = {"big": {"dice": many, "hd95_mm": some, "assd_mm": one}}
    found = compared({"A": made_evaluation(values), "B": made_evaluation(lost)})
    (text,) = few(found)
    assert text.startswith("hd95_mm: 15 finite pairs of 25 are fewer than 20: mean, t-test and interval")
    # 25 cases, but 5 pairs
    (text,) = few(compared({name: made_evaluation({"big": {"dice": none}}) for name in "AB"}))
    assert text.startswith("5 pairs are fewer than 20: only large differences")
    rare = {"big": {"dice": many, "hd95_mm": one}, "rare": {"dice": none, "hd95_mm": one}}
    found = compared({name: made_evaluation(rare) for name in "AB"})
    (text,) = few(found)
    assert text.startswith("of single classes (rare) there are fewer than 20 pairs")
    lines = [
        line for line in markdown(found).splitlines() if line.startswith(("| rare  ", "| big  ")) and "| B " in line
    ]
    assert ["few" in line for line in lines] == [False, True, False, False]


@pytest.mark.parametrize(("count", "warned"), [(19, True), (20, False)])
def test_few_pairs_are_warned_about(count: int, warned: bool) -> None:
    found = compare({name: [random_evaluation(0, seed, cases=count)] for seed, name in enumerate("AB")})
    assert any("fewer than 20" in warning for warning in found.warnings) is warned


def test_a_class_that_one_method_never_finds_is_warned_about() -> None:
    a = made_evaluation({"big": {"hd95_mm": [1.0, 2.0]}, "small": {"hd95_mm": [3.0, 4.0]}})
    b = made_evaluation({"big": {"hd95_mm": [1.0, 2.0]}, "small": {"hd95_mm": [INF, INF]}})
    found = compared({"A": a, "B": b})
    assert any("hd95_mm: B has no finite value of small" in warning for warning in found.warnings)
    assert found.result("hd95_mm").methods[1].table_mean == 1.5
    assert not any("no finite value" in warning for warning in compared({"A": b, "B": b}).warnings)


def test_two_equal_methods() -> None:
    result = compared({"A": dice(0.5, 0.6, 0.7), "B": dice(0.5, 0.6, 0.7)}).result("dice")
    paired = result.differences[0].paired
    assert (paired.mean_difference, paired.ci_low, paired.ci_high) == (0, 0, 0)
    assert (paired.t_p, paired.wilcoxon_p, paired.ties) == (1, 1, 3)
    assert [each.mean_rank for each in result.methods] == [1.5, 1.5]


def test_interval_follows_confidence_and_seed() -> None:
    methods = {"A": [random_evaluation(0, 1)], "B": [random_evaluation(0.02, 2)]}

    def interval(**options: float) -> tuple[float, float]:
        paired = compare(methods, metrics=["dice"], **options).result("dice").differences[0].paired  # type: ignore
        return paired.ci_low, paired.ci_high

    wide, narrow = interval(confidence=0.99), interval(confidence=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert interval(seed=1) == interval(seed=1) != interval(seed=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "Z"}, "--reference Z is none of the compared methods; choose from A, B"),
        ({"confidence": 1.0}, "--confidence is 1.0; it must be between 0 and 1"),
        ({"seed": -1}, "--seed -1"),
        ({"n_bootstrap": 99}, "n_bootstrap is 99 .*; give at least 100 resamples"),
        ({"metrics": ["dic"]}, "'dic' is no metric; choose from dice"),
        ({"metrics": ["nsd"]}, "A was evaluated without nsd; evaluate it again with --metrics"),
    ],
)
def test_wrong_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compared({"A": dice(0.5, 0.6), "B": dice(0.5, 0.6)}, **options)
