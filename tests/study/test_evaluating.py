"""Evaluations and comparisons of a study: they are those of `evaluate` and `compare`, and of what is finished."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.aggregate import foreground_means
from nnunet_attn.evaluation.evaluate import evaluate_cross_validation
from nnunet_attn.evaluation.settings import chosen_settings
from nnunet_attn.inference import predict_test
from nnunet_attn.study.evaluating import (
    compare_group,
    evaluate_model,
    finished_folds,
    gathered,
    predict_model,
    predictions_folder,
)
from nnunet_attn.study.groups import groups, models
from nnunet_attn.study.model import Study
from tests.made.predict_test import Stock, write_test_cases
from tests.made.study_results import (
    copy_results,
    study,
    write_by_hand,
    write_study_results,
    write_whole_study,
)

PLAIN = "nnUNetTrainerPlain"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    """nnU-Net's folders with a study of two rows, two folds and two seeds, all of it done."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        return root, write_whole_study(root, patch)


@pytest.fixture
def made(whole: tuple[Path, Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A copy of it, in the environment."""
    copy_results(whole[0], tmp_path, monkeypatch)
    return whole[1]


def test_a_model_is_evaluated_as_by_the_command(made: Study) -> None:
    model = models(made)[0]
    assert finished_folds(model) == (0, 1)
    told: list[tuple[str, int, int]] = []
    found = evaluate_model(made, model, processes=1, progress=lambda *each: told.append(each))
    assert told[0] == (model.text, 0, 6) and told[-1] == (model.text, 6, 6)
    again = evaluate_cross_validation(
        model.dataset, model.trainer, folds=(0, 1), settings=chosen_settings(("dice",)), processes=1
    )
    assert again == found  # read, not computed anew: dates are the same
    assert (model.folder / "evaluation_attn_folds_0_1" / "summary_attn.json").is_file()


def test_the_figures_are_those_of_nnunets_summaries(made: Study) -> None:
    (group,) = groups(made)
    comparison = compare_group(made, group, processes=1)
    for own in comparison.result("dice").methods:
        of_seeds = []
        for model in group.models_of(own.method):
            values: dict[str, list[float]] = {}
            for fold in model.folds:
                summary = json.loads((model.fold_folder(fold) / "validation" / "summary.json").read_text())
                for case in summary["metric_per_case"]:
                    for label, metrics in case["metrics"].items():
                        values.setdefault(label, []).append(metrics["Dice"])
            of_seeds.append(float(np.mean([np.nanmean(each) for each in values.values()])))
        assert own.seed_means == pytest.approx(of_seeds, abs=1e-12)
        assert own.table_mean == pytest.approx(np.mean(of_seeds), abs=1e-12)
    assert comparison.reference == PLAIN and [each.name for each in comparison.methods] == [PLAIN, "GASA"]
    assert [len(each.origins) for each in comparison.methods] == [2, 2]


def test_figures_of_hand_made_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = study(metrics=("dice",), seeds=())
    overlaps = {PLAIN: [8, 6, 4, 2], "GASA": [8, 8, 5, 2]}
    for key, value in write_by_hand(tmp_path, described, overlaps).items():
        monkeypatch.setenv(key, value)
    (group,) = groups(described)
    comparison = compare_group(described, group, processes=1)
    result = comparison.result("dice", "organ")
    # masks of 8 voxels that share n: Dice = 2 n / 16; the folds hold the cases 0, 3 and 1, 2
    assert comparison.keys == ((0, "case_0"), (0, "case_3"), (1, "case_1"), (1, "case_2"))
    assert result.values == {PLAIN: (1.0, 0.25, 0.75, 0.5), "GASA": (1.0, 0.25, 1.0, 0.625)}
    assert [each.table_mean for each in result.methods] == [2.5 / 4, 2.875 / 4]
    assert result.methods[0].sd == pytest.approx(np.std([1, 0.25, 0.75, 0.5], ddof=1))
    (difference,) = result.differences
    assert difference.paired.mean_difference == pytest.approx(0.375 / 4)
    assert (difference.paired.wins, difference.paired.ties, difference.paired.losses) == (2, 2, 0)
    summaries = [
        json.loads((model.fold_folder(fold) / "validation" / "summary.json").read_text())["foreground_mean"]["Dice"]
        for model in group.models
        for fold in model.folds
    ]
    assert summaries == pytest.approx([0.625, 0.625, 0.625, 0.8125])


def test_folds_that_not_all_have_finished_are_left_out_and_told(made: Study) -> None:
    (group,) = groups(made)
    last = group.models[-1]
    shutil.rmtree(last.fold_folder(1))
    found = gathered(made, group, processes=1)
    assert found.folds == (0,) and found.left_out == ()
    assert found.missing == (
        "GASA, seed 1: fold 1 not finished",
        "compared on fold 0 of 0, 1, which all of them have finished",
    )
    comparison = compare_group(made, group, processes=1)
    assert comparison.warnings[:2] == found.missing
    assert {fold for fold, _ in comparison.keys} == {0}


def test_a_seed_of_which_nothing_is_finished_is_left_out(made: Study) -> None:
    (group,) = groups(made)
    shutil.rmtree(group.models[-1].folder)
    comparison = compare_group(made, group, processes=1)
    assert [len(each.origins) for each in comparison.methods] == [2, 1]
    assert comparison.warnings[0] == "GASA, seed 1: no fold is finished, so it is left out"
    assert any("not the same number of seeds" in text for text in comparison.warnings)
    assert {fold for fold, _ in comparison.keys} == {0, 1}


def test_what_is_not_validated_does_not_count(made: Study) -> None:
    (group,) = groups(made)
    model = group.models[0]
    (model.fold_folder(1) / "checkpoint_final.pth").unlink()
    for name in ("validation", "checkpoint_final.pth"):
        path = model.fold_folder(0) / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    # the other one is validated, whatever became of its weights
    assert finished_folds(model) == (1,)


def test_without_the_reference_another_takes_its_place(made: Study) -> None:
    described = made.model_copy(update={"rows": (*made.rows, made.rows[1].model_copy(update={"name": "again"}))})
    (group,) = groups(described)
    for model in group.models_of(PLAIN):
        shutil.rmtree(model.folder)
    comparison = compare_group(described, group, processes=1)
    assert comparison.reference == "GASA" and [each.name for each in comparison.methods] == ["GASA", "again"]
    assert f"nothing is finished of the reference {PLAIN}; GASA takes its place" in comparison.warnings
    # two rows that share a training are both shown, and do not differ
    (difference,) = comparison.result("dice").differences
    assert difference.paired.ties == difference.paired.n_pairs == 6


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (("GASA",), "nnUNetTrainerPlain has nothing to be compared with: nothing is finished of GASA"),
        ((PLAIN, "GASA"), "no fold is finished yet; run the study"),
    ],
)
def test_nothing_to_compare(made: Study, removed: Sequence[str], message: str) -> None:
    (group,) = groups(made)
    for row in removed:
        for model in group.models_of(row):
            shutil.rmtree(model.folder)
    with pytest.raises(InputError, match=message):
        compare_group(made, group, processes=1)


def test_no_common_fold(made: Study) -> None:
    (group,) = groups(made)
    for number, row in enumerate(group.rows):
        for model in group.models_of(row):
            shutil.rmtree(model.fold_folder(number))
    with pytest.raises(InputError, match=f"no fold is finished by all .{PLAIN}, seed 0: 1; .*GASA, seed 1: 0"):
        compare_group(made, group, processes=1)


def test_results_of_the_stock_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ("nnUNetTrainer", "nnUNetTrainer_5epochs")
    described = study(rows=rows, seeds=(), budget=None, metrics=("dice",))
    environment = write_study_results(tmp_path, described, {rows[0]: 1.0, rows[1]: 0.0})
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    (group,) = groups(described)
    result = compare_group(described, group, processes=1).result("dice")
    assert [each.method for each in result.methods] == list(rows)
    assert result.methods[1].table_mean == 1.0 > result.methods[0].table_mean
    # copied without weights and logs
    for file in (tmp_path / "results").rglob("checkpoint_final.pth"):
        file.unlink()
    assert finished_folds(group.models[0]) == (0, 1)


def test_test_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "nnunet"
    write_test_cases(root)
    for name in ("raw", "results", "preprocessed"):
        monkeypatch.setenv(f"nnUNet_{name}", str(root / name))
    (root / "preprocessed").mkdir(exist_ok=True)
    stock = Stock()
    monkeypatch.setattr(predict_test, "run_stock", stock)
    fields: dict[str, Any] = {
        "datasets": ("7",),
        "rows": ("nnUNetTrainer", "nnUNetTrainer_5epochs"),
        "folds": (0, 1, 2, 3, 4),
        "seeds": (),
        "budget": None,
        "test_set": True,
        "metrics": ("dice", "iou"),
    }
    described = study(**fields)
    group = next(each for each in groups(described) if each.test)
    with pytest.raises(InputError, match="no model has predicted them yet"):
        compare_group(described, group, processes=1)
    first = predict_model(described, group.models[0], "cpu", 1, Console(quiet=True))
    assert first is not None and first.settings.metrics == ("dice", "iou") and len(first.cases) == 3
    assert foreground_means(first)["dice"].mean == 1.0
    assert predictions_folder(described, group.models[0]).name == "test_attn_folds_0_1_2_3_4"
    with pytest.raises(InputError, match="nothing is finished of nnUNetTrainer_5epochs"):
        compare_group(described, group, processes=1)
    predict_model(described, group.models[1], "cpu", 1, Console(quiet=True))
    comparison = compare_group(described, group, processes=1)
    assert [each.name for each in comparison.methods] == ["nnUNetTrainer", "nnUNetTrainer_5epochs"]
    assert comparison.keys == ((None, "a"), (None, "b"), (None, "c"))
    assert comparison.methods[0].origins[0].folds == (0, 1, 2, 3, 4)
    before = list(stock.predicted)
    predict_model(described, group.models[1], "cpu", 1, Console(quiet=True))
    assert stock.predicted == before  # up to date
    shutil.rmtree(root / "raw" / "Dataset007_Made" / "labelsTs")
    assert predict_model(described, group.models[0], "cpu", 1, Console(quiet=True)) is None
    with pytest.raises(InputError, match="no labels of test cases"):
        compare_group(described, group, processes=1)
