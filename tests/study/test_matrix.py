"""All trainings of a study, with the names that nnU-Net gives to their folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.datasets.splits import add_reduced_splits
from nnunet_attn.errors import InputError
from nnunet_attn.study.matrix import Run, dataset_name, runs, trainer_of
from nnunet_attn.study.model import Row, Study
from tests.study.conftest import DATASET

PLAIN, GASA = Row(trainer="nnUNetTrainerPlain"), Row(trainer="nnUNetTrainerGASA_bf16")


def study(*rows: Row, **more: Any) -> Study:
    return Study(name="x", **{"datasets": ("4",), "rows": rows or (PLAIN, GASA), **more})


def test_runs_are_all_combinations(preprocessed: Path) -> None:
    made = study(folds=(0, 3), seeds=(1, 2), budget={"epochs": 5}, configurations=("2d", "3d_fullres"))
    found = runs(made)
    assert len(found) == len(set(found)) == 2 * 2 * 2 * 2
    assert found[0] == Run(DATASET, PLAIN.title, "nnUNetTrainerPlain_5epochs_seed1", "nnUNetPlans", "2d", 0, 1)
    assert found[-1] == Run(
        DATASET, GASA.title, "nnUNetTrainerGASA_bf16_5epochs_seed2", "nnUNetPlans", "3d_fullres", 3, 2
    )
    results = preprocessed.parents[1] / "results"
    assert found[0].fold_folder == results / DATASET / "nnUNetTrainerPlain_5epochs_seed1__nnUNetPlans__2d" / "fold_0"
    assert found[0].fold_folder.parent == found[0].model_folder


@pytest.mark.parametrize(
    ("trainer", "budget", "seed", "name"),
    [
        ("nnUNetTrainerGASA", None, None, "nnUNetTrainerGASA"),
        ("nnUNetTrainerGASA", {"epochs": 5, "iterations": 2}, 0, "nnUNetTrainerGASA_5epochs_2its_seed0"),
        (
            "nnUNetTrainerGASA_9epochs_bf16",
            {"epochs": 5, "iterations": 2},
            1,
            "nnUNetTrainerGASA_9epochs_bf16_2its_seed1",
        ),
        (
            "nnUNetTrainerGASA",
            {"epochs": 5, "iterations": 2, "save": 1},
            0,
            "nnUNetTrainerGASA_5epochs_2its_save1_seed0",
        ),
        ("nnUNetTrainerGASA_save9", {"epochs": 5, "save": 1}, None, "nnUNetTrainerGASA_save9_5epochs"),
        ("nnUNetTrainerGASA", {"width": 0.5, "batch_size": 2}, None, "nnUNetTrainerGASA"),
        ("nnUNetTrainerGASA_3its", {"epochs": 5, "iterations": 2}, None, "nnUNetTrainerGASA_3its_5epochs"),
        ("nnUNetTrainer", None, None, "nnUNetTrainer"),
    ],
)
def test_names_get_the_budget_and_the_seed(trainer: str, budget: Any, seed: int | None, name: str) -> None:
    row = Row(trainer=trainer)
    made = study(row, budget=budget)
    assert trainer_of(made, row, seed) == name
    assert Row(trainer=name)  # a trainer that exists


@pytest.mark.usefixtures("preprocessed")
def test_a_seed_in_the_name_is_the_seed() -> None:
    (run,) = runs(study(Row(trainer="nnUNetTrainerGASA_seed3"), folds=(0,)))
    assert (run.seed, run.trainer) == (3, "nnUNetTrainerGASA_seed3")


def test_rows_with_labels_use_the_folds_made_for_them(preprocessed: Path) -> None:
    cases = [f"case_{index:02d}" for index in range(12)]
    (preprocessed / "gt_segmentations").mkdir()
    for name in ("nnUNetPlans_made_2d", "nnUNetPlans_made_3d"):
        (preprocessed / name).mkdir()
        for case in cases:
            for ending in (".b2nd", "_seg.b2nd", ".pkl"):
                (preprocessed / name / f"{case}{ending}").touch()
    row = Row(trainer="nnUNetTrainerGASA", name="few", labels=(8, 4))
    made = study(PLAIN, row, folds=(0,))
    with pytest.raises(
        InputError, match=f"{DATASET} has no fold with 8, 4 labels; make it: nnunet-attn splits -d 4 --l"
    ):
        runs(made)
    folds = {seed: [fold.fold for fold in add_reduced_splits("4", [4, 8], seed).folds] for seed in (0, 1)}
    assert folds == {0: [5, 6], 1: [7, 8]}
    found = [(run.row, run.fold, run.labels) for run in runs(made)]
    assert found == [(PLAIN.title, 0, None), ("few", 6, 8), ("few", 8, 8), ("few", 5, 4), ("few", 7, 4)]
    # what the file no longer has is not what was recorded
    splits = json.loads((preprocessed / "splits_final.json").read_text())
    (preprocessed / "splits_final.json").write_text(json.dumps(splits[:6]))
    with pytest.raises(InputError, match="no fold with 8 labels"):
        runs(made)


@pytest.mark.usefixtures("preprocessed")
def test_all_that_is_missing_is_told() -> None:
    row = Row(trainer="nnUNetTrainerGASA", labels=(5,))
    with pytest.raises(InputError) as caught:
        runs(study(row, datasets=("7", "4", "Dataset008_None")))
    seven, four, eight = str(caught.value).split("\n")
    assert seven.startswith("data set 7: nnU-Net's folders have none of this number; correct it, or register it")
    assert four.startswith(f"{DATASET} has no fold with 5 labels")
    assert eight.startswith("data set Dataset008_None: nnU-Net's folders have none of this name")


def test_data_sets_are_found_in_any_folder(preprocessed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = preprocessed.parents[1]
    (root / "results" / "Dataset009_Trained").mkdir()
    (root / "raw" / "Dataset004_Other").mkdir()
    assert dataset_name("009") == dataset_name("Dataset009_Trained") == "Dataset009_Trained"
    with pytest.raises(InputError, match="Dataset004_Made and Dataset004_Other have this number; give the name"):
        dataset_name("4")
    for text in ("Dataset*", "Dataset009_Trained/..", "..", ""):
        with pytest.raises(InputError, match="none of this name"):
            dataset_name(text)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable)
    with pytest.raises(InputError, match="folders are not set; see: nnunet-attn doctor"):
        dataset_name("4")
    with pytest.raises(InputError, match="nnUNet_results is not set"):
        _ = Run(DATASET, "x", "x", "p", "c", 0).fold_folder
