"""All that makes a comparison unfair is said, once, and nothing else is."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.evaluation.compare_warnings import missing_classes
from nnunet_attn.study.groups import Group, groups
from nnunet_attn.study.matrix import runs
from nnunet_attn.study.memory import StepNeed
from nnunet_attn.study.model import Study
from nnunet_attn.study.report.collect import group_report, run_info
from nnunet_attn.study.report.costs import Needs
from nnunet_attn.study.report.fairness import unfair
from nnunet_attn.study.report.model import GroupReport, RunInfo, TrainingFacts, Unfair
from nnunet_attn.study.report.setup import DatasetInfo, FoldSplit
from nnunet_attn.study.report.splits import dataset_info
from nnunet_attn.study.rows import Budget, Missing
from tests.made.results import DATASET
from tests.made.study_results import (
    copy_results,
    write_notes,
    write_training,
    write_whole_study,
)

PLAIN = "nnUNetTrainerPlain"
WHERE = f"{DATASET}, 3d_fullres, cross-validation"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    """nnU-Net's folders with a study of two rows, two folds and two seeds, all of it done as nnU-Net would."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        described = write_whole_study(root, patch)
        for run in runs(described):
            write_notes(run.fold_folder, num_epochs=1000, num_iterations_per_epoch=250)
            note = run.fold_folder / "validation" / "checkpoint_attn.json"
            note.write_text(json.dumps({"checkpoint": "checkpoint_final.pth"}))
        found(described)  # evaluates it
    return root, described


@pytest.fixture
def made(whole: tuple[Path, Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A copy of it, in the environment."""
    copy_results(whole[0], tmp_path, monkeypatch)
    return whole[1]


def found(
    described: Study, change: Callable[[RunInfo], TrainingFacts] | None = None, **fields: Any
) -> dict[str, list[Unfair]]:
    """Return what is unfair by kind, without what there is for few pairs."""
    described = described.model_copy(update=fields)
    told = [run_info(run) for run in runs(described)]
    if change is not None:
        told = [dataclasses.replace(each, facts=change(each)) for each in told]
    info, _ = dataset_info(described, DATASET, described.folds)
    reports = [group_report(described, group, info, processes=1) for group in groups(described)]
    kinds: dict[str, list[Unfair]] = {}
    for each in unfair(described, told, reports, [info]):
        if "fewer than 20" not in each.text:
            kinds.setdefault(each.kind, []).append(each)
    return kinds


def test_a_fair_comparison_has_nothing_to_be_told(made: Study) -> None:
    assert found(made) == {}


@pytest.mark.parametrize(
    ("facts", "kind", "is_serious", "text"),
    [
        ({"epochs": 900}, "epochs", True, f"other numbers of epochs: 1000: {PLAIN}; 900: GASA"),
        ({"iterations": 300}, "iterations", True, f"other numbers of iterations an epoch: 250: {PLAIN}; 300: GASA"),
        ({"batch_size": 4}, "batch size", True, f"other batch sizes: 2: {PLAIN}; 4: GASA"),
        ({"patch_size": (8, 8, 8)}, "patch", True, f"other patches: 12 x 12 x 12: {PLAIN}; 8 x 8 x 8: GASA"),
        (
            {"recipe": "adamw, poly 0.001"},
            "optimiser",
            False,
            f"recipe: nnU-Net's, 0.01: {PLAIN}; adamw, poly 0.001: G",
        ),
        ({"loss": "cross_entropy"}, "loss", True, f"other losses: dice: {PLAIN}; cross_entropy: GASA"),
        (
            {"flips_only": "all axes"},
            "augmentation",
            True,
            f"other augmentation: nnU-Net's: {PLAIN}; flips along all axes alone: GASA",
        ),
        ({"precision": "fp32"}, "precision", False, f"other precisions: amp: {PLAIN}; fp32: GASA"),
        ({"device": "cpu"}, "hardware", False, f"other device between trainings: Made GPU: {PLAIN}; cpu: GASA"),
        ({"torch": "2.4"}, "versions", False, f"other PyTorch between trainings: 2.9.1: {PLAIN}; 2.4: GASA"),
        ({"distributed": True}, "hardware", False, "GASA: several GPUs shared a training"),
        (
            {"checkpoint": None},
            "checkpoint",
            False,
            "nothing tells which checkpoint predicted the validation cases of G",
        ),
    ],
)
def test_trainings_that_differ(made: Study, facts: dict[str, Any], kind: str, is_serious: bool, text: str) -> None:
    def change(each: RunInfo) -> TrainingFacts:
        return dataclasses.replace(each.facts, **facts) if each.run.row == "GASA" else each.facts

    kinds = found(made, change)
    (told,) = kinds.pop(kind)
    assert told.is_serious is is_serious and text in told.text
    assert set(kinds) == ({"budget"} if kind == "epochs" else set())


def test_short_trainings_are_said_to_be_so(made: Study) -> None:
    for run in runs(made):
        write_notes(run.fold_folder, num_epochs=250)
    (told,) = found(made)["budget"]
    assert (
        told.text
        == f"{PLAIN}, GASA: 250 epochs of 4 iterations are 0.4 % of nnU-Net's 1000 x 250; what is ahead after a "
        "short training need not be after a full one"
    )
    assert told.where == WHERE and told.is_serious


def test_the_best_checkpoint_was_chosen_by_the_validation_cases(made: Study) -> None:
    for run in runs(made):
        (run.fold_folder / "validation" / "checkpoint_attn.json").write_text('{"checkpoint": "checkpoint_best.pth"}')
        (run.fold_folder / "checkpoint_best.pth").touch()
    (told,) = found(made)["checkpoint"]
    assert told.is_serious and f"{PLAIN}, GASA: checkpoint_best.pth predicted, which was chosen by" in told.text
    final = [run for run in runs(made) if run.row == PLAIN]
    for run in final:
        (run.fold_folder / "validation" / "checkpoint_attn.json").write_text('{"checkpoint": "checkpoint_final.pth"}')
    kinds = found(made)
    assert any("other checkpoints predicted: checkpoint_final.pth" in each.text for each in kinds["checkpoint"])
    assert any("not comparable: the checkpoint is" in each.text for each in kinds["unfinished"])


def test_unfinished_trainings_are_told_once(made: Study) -> None:
    run = runs(made)[-1]
    shutil.rmtree(run.fold_folder)
    kinds = found(made)
    assert [each.text for each in kinds.pop("unfinished")] == [
        "GASA, seed 1: fold 1 not finished",
        "compared on fold 0 of 0, 1, which all of them have finished",
    ]
    assert kinds == {}


def test_plans_of_another_content(made: Study) -> None:
    for run in runs(made):
        if run.row == "GASA":
            file = run.model_folder / "plans.json"
            plans = json.loads(file.read_text())
            entry = plans["configurations"]["3d_fullres"]
            entry["nnunet_attn"] = {"GASAUNet": {"num_heads": 2}}  # what a network is told is no other plan
            file.write_text(json.dumps(plans))
    assert found(made) == {}
    for run in runs(made):
        if run.row == "GASA":
            file = run.model_folder / "plans.json"
            plans = json.loads(file.read_text())
            plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 2.0, 2.0]
            plans["configurations"]["3d_fullres"]["batch_size"] = 9
            file.write_text(json.dumps(plans))
    (told,) = found(made).pop("plans")
    assert told.text == f"nnUNetPlans of GASA and nnUNetPlans of {PLAIN} differ in spacing" and told.is_serious


def test_a_budget_changes_the_plans_of_all_alike(made: Study) -> None:
    plain, gasa = made.rows
    wide = gasa.model_copy(update={"options": {"num_heads": 2}, "name": "wide"})
    assert "plans" not in found(made, rows=(plain, wide), budget=Budget(width=0.5, batch_size=4))


def test_rows_with_what_others_have_not(made: Study) -> None:
    plain, gasa = made.rows
    rows = (plain, *(gasa.model_copy(update=each) for each in ({"options": {"num_heads": 2}, "name": "wide"},)))
    kinds = found(made, rows=rows)
    assert [each.text for each in kinds["options"]] == [f"wide has network options of its own, {PLAIN} not"]
    pretrained = gasa.model_validate({"trainer": gasa.trainer, "pretrain": "both"})
    kinds = found(made, rows=(plain, pretrained))
    told, seen = kinds["pre-training"]
    assert told.text == f"nnUNetTrainerGASA is pre-trained, {PLAIN} not" and told.is_serious
    assert "nnUNetTrainerGASA: pre-trained on all images of the data set" in seen.text and seen.is_serious
    elsewhere = gasa.model_validate({"trainer": gasa.trainer, "pretrain": {"task": "both", "dataset": "5"}})
    assert len(found(made, rows=(plain, elsewhere))["pre-training"]) == 1
    still = gasa.model_validate({"trainer": "nnUNetTrainerGASA_NoMirroring"})
    (told,) = found(made, rows=(plain, still))["training"]
    assert told.text.endswith(f"is trained otherwise than {PLAIN}: mirroring False, not as usual") and told.is_serious
    (told,) = found(made, rows=(plain, gasa.model_validate({"trainer": "nnUNetTrainerGASA_AdamW"})))["training"]
    assert not told.is_serious


def test_what_the_study_leaves_out(made: Study) -> None:
    gasa = made.rows[1]
    again = gasa.model_copy(update={"name": "again"})
    kinds = found(made, rows=(gasa, again), reference="GASA", seeds=(0,), folds=(0,))
    (told,) = kinds["reference"]
    assert told.text.endswith("cannot be said; add nnUNetTrainerPlain to trainers") and told.is_serious
    (told,) = kinds["seeds"]
    assert told.text.startswith("each row is trained once") and told.is_serious
    assert [each.text for each in kinds["folds"]] == ["3 of 6 cases are validated, those of fold 0"]
    (told,) = kinds["shared"]
    assert told.text == "GASA, again are the same trainings; they differ in how they predict"
    listed = made.model_copy(update={"missing": (Missing(what="Other", why="not here"),)})
    (told,) = found(listed)["missing"]
    assert told.text == "Other belongs to this comparison and is not in it: not here"


def test_other_configurations(made: Study) -> None:
    root = Path(next(iter(runs(made))).model_folder).parent
    for folder in list(root.glob("nnUNetTrainerGASA*")):
        folder.rename(folder.with_name(folder.name.replace("3d_fullres", "2d")))
    flat = made.rows[1].model_copy(update={"configuration": "2d"})
    kinds = found(made, rows=(made.rows[0], flat))
    (told,) = kinds.pop("configuration")
    assert told.text == f"other configurations: 3d_fullres: {PLAIN}; 2d: GASA"
    assert kinds == {}


def test_patients_on_both_sides(made: Study) -> None:
    split = FoldSplit(0, None, 3, ("a", "b"), 2, 2, ("p1", "p2"))
    told = unfair(made, [], [], [DatasetInfo("Dataset004_Made", splits=(split,))])
    assert told[0] == Unfair(
        "splits", True, "fold 0 trains and validates with cases of the same 2 patients", "Dataset004_Made"
    )


def test_a_network_that_is_much_larger(made: Study) -> None:
    def sizes(parameters: int, flops: int | None) -> list[str]:
        known = {PLAIN: StepNeed(parameters=100, flops=1000), "GASA": StepNeed(parameters=parameters, flops=flops)}
        needs = Needs({(DATASET, row, "3d_fullres"): need for row, need in known.items()}, {}, {})
        own = [each for each in unfair(made, [], [], [], needs) if each.kind == "size"]
        assert not any(each.is_serious for each in own)
        return [each.text for each in own]

    assert sizes(149, 1400) == [] and sizes(149, None) == []
    assert sizes(150, 3210) == [
        f"GASA has 1.5 times the parameters and 3.2 times the operations of {PLAIN}: a gain may be that of a larger "
        "network"
    ]


def test_means_over_other_classes_are_serious(made: Study) -> None:
    report = group_report(made, groups(made)[0], None, processes=1)
    assert report.comparison is not None
    result = report.comparison.result("dice", next(iter(report.comparison.classes)))
    lost = dataclasses.replace(result.methods[1], seed_means=(math.nan,))
    (warning,) = missing_classes([dataclasses.replace(result, methods=(result.methods[0], lost))])
    warned = dataclasses.replace(report.comparison, warnings=(warning, "another"))
    told = unfair(made, [], [dataclasses.replace(report, comparison=warned)], [])
    assert [(each.text, each.is_serious) for each in told] == [(warning, True), ("another", False)]


def test_few_labels_need_the_same_cases_to_be_measured_on(made: Study) -> None:
    splits = (FoldSplit(5, "reduced", 4, ("a",), labels=5), FoldSplit(6, "reduced", 8, ("a", "b"), labels=10))
    info = DatasetInfo("Dataset004_Made", splits=splits, test_labels=True)
    (told,) = [each for each in unfair(made, [], [], [info]) if each.kind == "labels"]
    assert told.is_serious and "(5 labels: 1; 10 labels: 2)" in told.text
    tested = made.model_copy(update={"test_set": True})
    assert not [each for each in unfair(tested, [], [], [info]) if each.kind == "labels"]


def test_how_folds_predict_test_cases_together(made: Study) -> None:
    rows = (made.rows[0], made.rows[1].model_copy(update={"ensemble": "softmax"}))
    described = made.model_copy(update={"rows": rows, "test_set": True})
    (group,) = [each for each in groups(described) if each.test]

    def told(group: Group) -> list[Unfair]:
        own = unfair(described, [], [GroupReport(group, None, None)], [])
        return [each for each in own if each.where == group.title]

    (joined,) = told(group)
    assert joined.text == f"the mean of other outputs predicts: logits: {PLAIN}; softmax: GASA"
    alone = dataclasses.replace(group, models=tuple(dataclasses.replace(m, folds=(0,)) for m in group.models))
    assert told(alone) == []


def test_a_loss_that_was_not_finite(made: Study) -> None:
    run = runs(made)[0]
    summary = (run.fold_folder / "validation" / "summary.json").read_text()
    training = write_training(run, num_epochs=1000, num_iterations_per_epoch=250)
    for file in run.fold_folder.glob("training_log*"):
        file.unlink()
    training.start().epoch(0, loss=float("nan"))
    training.finish().predict(3).validate()
    (run.fold_folder / "validation" / "summary.json").write_text(summary)
    write_notes(run.fold_folder, num_epochs=1000, num_iterations_per_epoch=250)
    texts = [each.text for each in found(made)["training"]]
    assert texts == [f"{PLAIN}, fold 0: the loss is not finite since epoch 0"]
