"""What is one method, what is refused, and what is warned about."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare import compare
from nnunet_attn.evaluation.compare_inputs import (
    changed_since,
    check_different,
    grouped_by_method,
    prepared,
    without_seed,
)
from nnunet_attn.evaluation.results import Evaluation
from nnunet_attn.training.variants import parse_trainer_name
from tests.made.evaluations import made_evaluation

VALUES = {"liver": {"dice": [0.5, 0.6, 0.7], "nsd": [0.1, 0.2, 0.3]}, "lesion": {"dice": [0.4] * 3, "nsd": [0.2] * 3}}


def made(trainer: str = "nnUNetTrainerGASA", **origin: Any) -> Evaluation:
    return made_evaluation(VALUES, [0, 0, 1], origin={"trainer": trainer, **origin})


def names(evaluations: list[Evaluation], labels: list[str], given: list[str] | None = None) -> dict[str, int]:
    return {name: len(own) for name, own in grouped_by_method(evaluations, labels, given).items()}


@pytest.mark.parametrize(
    ("trainer", "stem"),
    [
        ("nnUNetTrainerGASA_seed3", "nnUNetTrainerGASA"),
        ("nnUNetTrainerGASA_seed0_bf16", "nnUNetTrainerGASA_bf16"),
        ("nnUNetTrainerGASA_seed03", "nnUNetTrainerGASA_seed03"),
        ("nnUNetTrainer_seedling", "nnUNetTrainer_seedling"),
        ("nnUNetTrainer", "nnUNetTrainer"),
    ],
)
def test_without_seed(trainer: str, stem: str) -> None:
    assert without_seed(trainer) == stem
    seeded = parse_trainer_name(trainer, ["nnUNetTrainerGASA", "nnUNetTrainer"]).attributes.get("seed")
    assert (seeded is not None) is (trainer != stem)


def test_trainers_that_differ_by_seed_are_one_method() -> None:
    trainers = ["nnUNetTrainerPlain_seed1", "nnUNetTrainerGASA_seed0", "nnUNetTrainerGASA", "nnUNetTrainerGASA_seed1"]
    found = names([made(trainer) for trainer in trainers], trainers)
    # a single seed keeps the name that was typed
    assert found == {"nnUNetTrainerPlain_seed1": 1, "nnUNetTrainerGASA": 3}


def test_other_plans_configurations_and_ensembles_are_other_methods() -> None:
    evaluations = [made(), made(plans="nnUNetResEncUNetMPlans"), made("nnUNetTrainerPlain")]
    assert names(evaluations, ["a/x", "b/x", "c"]) == {
        "nnUNetTrainerGASA__nnUNetPlans__3d_fullres": 1,
        "nnUNetTrainerGASA__nnUNetResEncUNetMPlans__3d_fullres": 1,
        "nnUNetTrainerPlain": 1,
    }
    tests = [made(kind="folder", ensemble=how) for how in ("logits", "softmax")]
    for parent in ("", "r/", "/a/../of/r/"):
        assert names(tests, [f"{parent}test_attn_folds_0", f"{parent}test_attn_folds_0_softmax"]) == {
            "test_attn_folds_0": 1,
            "test_attn_folds_0_softmax": 1,
        }
    assert set(names(tests, ["results/a/test", "results/b/test"])) == {"a/test", "b/test"}
    assert set(names(tests, ["test", "b/test"])) == {"test", "b/test"}


def test_folders_are_called_by_their_last_part() -> None:
    loose = replace(made(), origin=replace(made().origin, trainer=None))
    assert names([loose, loose], ["here/one", "here/two"]) == {"one": 1, "two": 1}
    assert names([loose, loose], ["a/out", "b/out"]) == {"a/out": 1, "b/out": 1}
    # the same trainer twice is no seed: two predictions of one network
    assert names([made(), made()], ["a/final", "b/tta"]) == {"final": 1, "tta": 1}
    with pytest.raises(InputError, match="a/out is given twice"):
        names([loose, loose], ["a/out", "a/out"])


def test_an_evaluation_is_not_compared_with_itself(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    a, b = tmp_path / "a" / "s.json", tmp_path / "b" / "s.json"
    check_different([a, b], ["a", "b"])
    with pytest.raises(InputError, match=r"^a is given twice; give each evaluation once"):
        check_different([a, a], ["a", "a"])
    for other in (tmp_path / "b" / ".." / "a" / "s.json", tmp_path / "link" / "s.json"):
        with pytest.raises(InputError, match=r"^a and b are one evaluation; give each evaluation once"):
            check_different([a, other], ["a", "b"])


def test_predictions_that_changed_since_are_warned_about(tmp_path: Path) -> None:
    evaluation = made()
    (tmp_path / "labelsTr").mkdir()
    cases = []
    for case in evaluation.cases:
        files = [tmp_path / case.prediction_file, tmp_path / case.reference_file]
        for file in files:
            file.write_text("x")
        stats = [file.stat() for file in files]
        cases.append(replace(case, stamp=tuple(n for stat in stats for n in (stat.st_size, stat.st_mtime_ns))))
    evaluation = replace(evaluation, cases=tuple(cases))
    summary = tmp_path / "summary_attn.json"
    assert changed_since(evaluation, summary, "e") == []
    (tmp_path / cases[1].reference_file).write_text("changed")
    (text,) = changed_since(evaluation, summary, "e")
    assert text.startswith("predictions or references have changed since e was evaluated (case_001 in fold 0)")
    (tmp_path / cases[1].reference_file).unlink()  # nothing tells any more
    assert changed_since(evaluation, summary, "e") == changed_since(made(), summary, "e") == []


@pytest.mark.parametrize(
    ("metric", "value"), [("dice", math.inf), ("nsd", -math.inf), ("hd95_mm", -math.inf), ("iou", math.inf)]
)
def test_values_that_no_prediction_can_have_are_refused(metric: str, value: float) -> None:
    a, b = made_evaluation({"liver": {metric: [0.5, 0.6]}}), made_evaluation({"liver": {metric: [value, 0.6]}})
    with pytest.raises(InputError, match=f"^B has {value} as {metric} of liver in case_000, which no prediction"):
        compare({"A": [a], "B": [b]})


def test_infinite_distances_and_volume_differences_are_no_error() -> None:
    for metric, value in (("hd95_mm", math.inf), ("relative_volume_difference", math.inf)):
        made = [made_evaluation({"liver": {metric: [own, 0.6]}}) for own in (0.5, value)]
        assert compare({"A": made[:1], "B": made[1:]}).result(metric).differences[0].paired.losses == 1


def test_given_names() -> None:
    evaluations = [made("nnUNetTrainerGASA_seed0"), made("nnUNetTrainerGASA_seed1"), made("nnUNetTrainerPlain")]
    labels = ["a", "b", "c"]
    assert names(evaluations, labels, ["GASA", "GASA", "plain"]) == {"GASA": 2, "plain": 1}
    # which is how seeds are set against each other
    assert names(evaluations, labels, ["one", "two", "plain"]) == {"one": 1, "two": 1, "plain": 1}
    with pytest.raises(InputError, match="--names has 2 names for 3 evaluations"):
        names(evaluations, labels, ["GASA", "plain"])
    with pytest.raises(InputError, match="--names has the name ' '"):
        names(evaluations, labels, ["GASA", " ", "plain"])


def refused(other: Evaluation, first: Evaluation | None = None) -> str:
    with pytest.raises(InputError) as error:
        compare({"A": [first or made()], "B": [other]})
    return str(error.value)


def test_other_cases_are_refused_by_name() -> None:
    some = made_evaluation(VALUES, [0, 0, 1], ["case_000", "case_001", "case_009"])
    message = refused(some)
    assert "the cases differ: 1 only in A (case_002), 1 only in B (case_009)" in message and "--common" in message


def test_other_splits_are_refused_by_case() -> None:
    message = refused(made_evaluation(VALUES, [0, 2, 1]))
    assert "the splits of A and B differ: 1 cases are in other folds (case_001: fold 0 and fold 2)" in message
    message = refused(made_evaluation(VALUES, [None, None, None]))
    assert "3 cases are in other folds (case_000: fold 0 and no fold" in message
    # a case that is in one more split
    twice = made_evaluation({"liver": {"dice": [0.5] * 4}}, [0, 0, 1, 2], ["a", "b", "c", "a"])
    once = made_evaluation({"liver": {"dice": [0.5] * 3}}, [0, 0, 1], ["a", "b", "c"])
    assert "a: fold 0, 2 and fold 0" in refused(once, twice)


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"checkpoint": "checkpoint_best.pth"}, ["the checkpoint is checkpoint_final.pth for A", "_best.pth for B"]),
        ({"dataset": "Dataset911_Other"}, ["the data set is Dataset910_Made for A and Dataset911_Other for B"]),
    ],
)
def test_other_origins_are_refused(changed: dict[str, str], parts: list[str]) -> None:
    message = refused(made(**changed))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        (
            {"classes": {"liver": (1,), "lesion": (1, 2)}},
            "is liver = 1, lesion = 2 for A and liver = 1, lesion = 1+2 for B",
        ),
        ({"ignore": 3}, "the ignored value is None for A and 3 for B"),
        ({"tolerance_mm": {"liver": 1.0, "lesion": 2.0}}, "the tolerance in mm of lesion is 1.0 for A and 2.0 for B"),
        ({"surface": "erosion"}, "the kind of surface is area for A and erosion for B"),
        ({"preset": "fine"}, "the preset is None for A and fine for B"),
    ],
)
def test_other_measurements_are_refused(changed: dict[str, Any], part: str) -> None:
    assert part in refused(made_evaluation(VALUES, [0, 0, 1], **changed))


def test_settings_of_what_is_not_compared_may_differ() -> None:
    other = made_evaluation(VALUES, [0, 0, 1], surface="erosion", tolerance_mm={"liver": 3.0, "lesion": 3.0})
    assert prepared({"A": [made()], "B": [other]}, ["dice"]).metrics == ("dice",)


def test_all_differences_are_said_at_once() -> None:
    message = refused(made_evaluation(VALUES, [0, 0, 2], origin={"checkpoint": "x.pth"}, surface="erosion", ignore=9))
    assert message.startswith("not comparable: ")
    for part in ("the checkpoint", "the kind of surface", "the ignored value", "the splits"):
        assert part in message


def test_seeds_of_one_method_must_be_comparable_too() -> None:
    seeds = [made("nnUNetTrainerGASA_seed0"), made("nnUNetTrainerGASA_seed1", checkpoint="checkpoint_best.pth")]
    with pytest.raises(InputError, match=re.escape("checkpoint_best.pth for GASA (nnUNetTrainerGASA_seed1)")):
        compare({"plain": [made("nnUNetTrainerPlain")], "GASA": seeds})


def test_common_compares_what_is_shared_and_lists_the_rest() -> None:
    # case_000 alone is in the same fold of both
    other = made_evaluation({"liver": {"dice": [0.9] * 3, "nsd": [0] * 3}, "lesion": VALUES["lesion"]}, [0, 3, 1])
    other = replace(other, cases=tuple(replace(c, case="new" if c.fold == 1 else c.case) for c in other.cases))
    found = compare({"A": [made()], "B": [other]}, common=True)
    assert found.keys == ((0, "case_000"),)
    assert found.left_out == {"A": ((0, "case_001"), (1, "case_002")), "B": ((3, "case_001"), (1, "new"))}
    assert found.result("dice", "liver").methods[0].table_mean == 0.5
    assert any("only the 1 shared cases are compared; left out: 2 of A, 2 of B" in each for each in found.warnings)
    with pytest.raises(InputError, match="--common leaves nothing"):
        compare({"A": [made()], "B": [made_evaluation(VALUES, [4, 4, 4])]}, common=True)


def test_common_is_no_excuse_for_other_differences() -> None:
    with pytest.raises(InputError, match="the checkpoint is"):
        compare({"A": [made()], "B": [made(checkpoint="checkpoint_best.pth")]}, common=True)


def test_the_order_of_cases_does_not_matter() -> None:
    shuffled = replace(made(), cases=made().cases[::-1])
    paired = compare({"A": [made()], "B": [shuffled]}).result("dice").differences[0].paired
    assert (paired.ties, paired.n_pairs) == (3, 3)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"plans": "nnUNetPlansMine"}, "other plans: nnUNetPlans for A, nnUNetPlansMine for B"),
        ({"plans_digest": "1" * 64}, "A and B were trained with other contents of the plans nnUNetPlans"),
        ({"configuration": "2d"}, "other configurations: 3d_fullres for A, 2d for B"),
        ({"checkpoint": None}, "nothing tells which checkpoint predicted B"),
    ],
)
def test_what_is_warned_about(changed: dict[str, Any], part: str) -> None:
    found = compare({"A": [made()], "B": [made(**changed)]})
    assert any(part in warning for warning in found.warnings), found.warnings


def test_other_folds_and_ensembles_of_test_predictions_are_warned_about() -> None:
    a, b = made(kind="folder", folds=(0, 1, 2), ensemble="logits"), made(kind="folder", folds=(0,), ensemble="softmax")
    warnings = " ".join(compare({"A": [a], "B": [b]}).warnings)
    assert "A is predicted by fold 0 1 2, B is predicted by fold 0" in warnings
    assert "the folds of A are joined by logits, those of B by softmax" in warnings


def test_metrics_that_only_some_have_are_left_out_with_a_warning() -> None:
    less = made_evaluation({name: {"dice": own["dice"]} for name, own in VALUES.items()}, [0, 0, 1])
    found = compare({"A": [made()], "B": [less]})
    assert found.metrics == ("dice",)
    assert any("not all evaluations have nsd" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("evaluations", "message"),
    [
        ({"A": 1}, r"one method alone \(A\) cannot be compared"),
        ({"A": 1, "B": 0}, "B has no evaluation"),
        ({"A": 1, "case": 1}, "a method cannot be called 'case'"),
    ],
)
def test_what_is_no_comparison(evaluations: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare({name: [made()] * count for name, count in evaluations.items()})


def test_broken_evaluations() -> None:
    twice = made_evaluation(VALUES, [0, 0, 0], ["a", "b", "b"])
    with pytest.raises(InputError, match="B has b in fold 0 twice"):
        compare({"A": [made()], "B": [twice]})
    with pytest.raises(InputError, match="B has no case"):
        compare({"A": [made()], "B": [replace(made(), cases=())]})
    incomplete = replace(made(), cases=(replace(made().cases[0], metrics={"liver": {"dice": 0.5, "nsd": 0.1}}),))
    with pytest.raises(InputError, match="B has not every metric of every class of case_000"):
        compare({"A": [made()], "B": [incomplete]})
