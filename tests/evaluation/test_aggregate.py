"""Means over cases and classes, with what is left out of them."""

import math
from pathlib import Path

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.aggregate import (
    MeanOfFinite,
    case_means,
    class_means,
    foreground_means,
    mean_of_finite,
    summary,
)
from nnunet_attn.evaluation.results import CaseResult, Evaluation, Origin, Settings, read_evaluation, write_evaluation

METRICS = ("dice", "hd95_mm", "volume_difference_mm3")
NAN = (math.nan, math.nan, math.nan)


def evaluation(cases: dict[tuple[int | None, str], tuple[tuple[float, float, float], ...]]) -> Evaluation:
    """Cases by fold and name, each with the three metrics of the classes a and b."""
    entries = tuple(
        CaseResult(
            name,
            fold,
            {label: dict(zip(METRICS, values, strict=True)) for label, values in zip("ab", classes, strict=True)},
            f"{name}.nii.gz",
            f"labels/{name}.nii.gz",
        )
        for (fold, name), classes in cases.items()
    )
    settings = Settings(METRICS, {"a": 1.0, "b": 1.0})
    return Evaluation(Origin("folder"), settings, {"a": (1,), "b": (2,)}, None, entries)


MADE = evaluation(
    {
        (0, "x"): ((0.9, 2.0, 30.0), (0.5, 4.0, -10.0)),
        (0, "y"): ((0.7, 3.0, -50.0), NAN),
        (1, "x"): ((0.0, math.inf, -20.0), (0.3, 6.0, 10.0)),
        (1, "z"): (NAN, NAN),
    }
)


def about(mean: float, n_finite: int, n_infinite: int, n_not_counted: int) -> MeanOfFinite:
    return MeanOfFinite(pytest.approx(mean), n_finite, n_infinite, n_not_counted)  # type: ignore[arg-type]


def test_a_mean_is_over_finite_values_and_counts_the_others() -> None:
    assert mean_of_finite([1.0, 2.0, math.inf, math.nan, -math.inf]) == MeanOfFinite(1.5, 2, 2, 1)
    for nothing in ([], [math.nan], [math.inf, math.nan]):
        found = mean_of_finite(nothing)
        assert math.isnan(found.mean) and found.n_finite == 0


def test_means_over_cases() -> None:
    found = class_means(MADE)
    assert found["a"]["dice"] == about((0.9 + 0.7 + 0.0) / 3, 3, 0, 1)
    assert found["a"]["hd95_mm"] == MeanOfFinite((2 + 3) / 2, 2, 1, 1)
    assert found["b"]["dice"] == MeanOfFinite((0.5 + 0.3) / 2, 2, 0, 2)
    assert found["a"]["volume_difference_mm3"].mean == pytest.approx((30 - 50 - 20) / 3)  # signed: the bias


def test_foreground_is_the_mean_over_classes_of_means_over_cases() -> None:
    found = foreground_means(MADE)
    assert found["dice"] == about(((0.9 + 0.7 + 0.0) / 3 + (0.5 + 0.3) / 2) / 2, 5, 0, 3)
    assert found["hd95_mm"] == MeanOfFinite(((2 + 3) / 2 + (4 + 6) / 2) / 2, 4, 1, 3)


def test_a_class_that_is_nowhere_is_left_out_of_the_foreground() -> None:
    found = foreground_means(evaluation({(None, "x"): ((0.5, 1.0, 0.0), NAN), (None, "y"): ((0.7, 1.0, 0.0), NAN)}))
    assert found["dice"] == about(0.6, 2, 0, 2)
    assert math.isnan(foreground_means(evaluation({}))["dice"].mean)


def test_means_over_the_classes_of_a_case() -> None:
    dice = case_means(MADE, "dice")
    assert list(dice) == [(0, "x"), (0, "y"), (1, "x"), (1, "z")]
    assert dice[0, "x"] == pytest.approx((0.9 + 0.5) / 2) and dice[0, "y"] == 0.7  # b is not there
    assert dice[1, "x"] == pytest.approx(0.3 / 2) and math.isnan(dice[1, "z"])
    distance = case_means(MADE, "hd95_mm")
    assert distance[0, "x"] == 3 and distance[1, "x"] == math.inf and math.isnan(distance[1, "z"])
    # 30 too much and 10 too little are 20 on average, not 10
    assert case_means(MADE, "volume_difference_mm3")[0, "x"] == 20


def test_what_has_no_means_is_refused() -> None:
    with pytest.raises(InputError, match="'nsd' was not measured, only dice, hd95_mm"):
        case_means(MADE, "nsd")
    (case,) = evaluation({(2, "x"): (NAN, NAN)}).cases
    twice = Evaluation(MADE.origin, MADE.settings, MADE.classes, None, (case, case))
    with pytest.raises(InputError, match="case 'x' is there twice in fold 2"):
        case_means(twice, "dice")


def test_the_summary_goes_into_the_file_beside_the_evaluation(tmp_path: Path) -> None:
    found = summary(MADE)
    assert found["n_cases"] == 4
    assert found["foreground_mean"]["hd95_mm"] == {"mean": 3.75, "n_finite": 4, "n_infinite": 1, "n_not_counted": 3}
    assert found["mean"]["b"]["hd95_mm"]["mean"] == 5
    write_evaluation(MADE, tmp_path / "summary_attn.json", found)
    assert class_means(read_evaluation(tmp_path)) == class_means(MADE)
