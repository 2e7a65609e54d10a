"""Which files of nnU-Net's folders a figure shows."""

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare_sources import Trained
from nnunet_attn.evaluation.evaluate import evaluate_folder
from nnunet_attn.figures.request import FigureOptions
from nnunet_attn.figures.sources import predicted_test_cases, validation_cases
from tests.figures.conftest import FINE, write_images
from tests.made.results import DATASET, TRAINER, model_folder

TRAINED = Trained("910", (TRAINER, FINE))


def stock_dice(root: Path) -> dict[str, float]:
    """Mean Dice of each case over classes, then over trainers, by nnU-Net's summaries."""
    found: dict[str, list[float]] = {}
    for trainer in (TRAINER, FINE):
        for file in model_folder(root, trainer).glob("fold_*/validation/summary.json"):
            for entry in json.loads(file.read_text())["metric_per_case"]:
                mean = statistics.fmean(each["Dice"] for each in entry["metrics"].values())
                found.setdefault(Path(entry["prediction_file"]).name.split(".")[0], []).append(mean)
    return {case: statistics.fmean(values) for case, values in found.items()}


def test_a_case_comes_with_the_predictions_of_the_fold_that_validated_it(made_results: Callable[..., Path]) -> None:
    root = made_results()
    found = validation_cases(TRAINED, ["case_001", "case_004"], FigureOptions())
    splits = json.loads((root / "preprocessed" / DATASET / "splits_final.json").read_text())
    for case, fold in zip(found.cases, found.folds, strict=True):
        assert fold is not None and case.name in splits[fold]["val"]
        name = f"{case.name}.nii.gz"
        assert case.image == root / "raw" / DATASET / "imagesTr" / f"{case.name}_0000.nii.gz"
        assert case.reference == root / "preprocessed" / DATASET / "gt_segmentations" / name
        assert case.predictions == {
            TRAINER: model_folder(root) / f"fold_{fold}" / "validation" / name,
            "FINE": model_folder(root, FINE) / f"fold_{fold}" / "validation" / name,
        }
    assert found.options.dataset_json == model_folder(root) / "dataset.json"
    named = validation_cases(TRAINED, ["case_001"], FigureOptions(), names=["plain", "tokens"])
    assert list(named.cases[0].predictions) == ["plain", "tokens"]


def test_worst_median_and_best_are_by_nnunets_own_dice(made_results: Callable[..., Path]) -> None:
    dice = stock_dice(made_results())
    ordered = sorted(dice, key=lambda case: dice[case])
    found = validation_cases(TRAINED, ["worst", "median", "best"], FigureOptions())
    assert [case.name for case in found.cases] == [ordered[0], ordered[2], ordered[5]]
    assert [case.note for case in found.cases] == ["worst", "median", "best"]


def test_folds_can_be_chosen(made_results: Callable[..., Path]) -> None:
    root = made_results()
    splits = json.loads((root / "preprocessed" / DATASET / "splits_final.json").read_text())
    other = splits[1]["val"][0]
    found = validation_cases(TRAINED, ["worst"], FigureOptions(), folds=[1])
    assert found.folds == (1,) and found.cases[0].name in splits[1]["val"]
    with pytest.raises(InputError, match=f"--cases {other}: .* has no prediction of it in the folds 0; there are"):
        validation_cases(TRAINED, [other], FigureOptions(), folds=[0])
    with pytest.raises(InputError, match=r"fold_3/validation does not exist; validate the fold: nnUNetv2_train"):
        validation_cases(TRAINED, ["worst"], FigureOptions(), folds=[3])


def test_what_is_missing_is_told(made_results: Callable[..., Path]) -> None:
    root = made_results()
    with pytest.raises(InputError, match=r"--cases case_9: .* there are case_000, .* and 1 more, and the words worst"):
        validation_cases(TRAINED, ["case_9"], FigureOptions())
    fold = next(f for f in (0, 1) if (model_folder(root, FINE) / f"fold_{f}/validation/case_000.nii.gz").exists())
    validation = model_folder(root, FINE) / f"fold_{fold}" / "validation"
    (validation / "case_000.nii.gz").unlink()
    with pytest.raises(InputError, match=f"--cases case_000: .*{FINE}__nnUNetPlans__3d_fullres has no prediction"):
        validation_cases(TRAINED, ["case_000"], FigureOptions())
    (validation / "summary.json").unlink()
    with pytest.raises(InputError, match=r"summary.json does not exist; nnU-Net writes it at the end of a validation"):
        validation_cases(TRAINED, ["best"], FigureOptions())
    with pytest.raises(InputError, match="--names a a: give 2 different names"):
        validation_cases(TRAINED, ["case_001"], FigureOptions(), names=["a", "a"])


def test_each_channel_has_its_file(made_results: Callable[..., Path]) -> None:
    root = made_results()
    write_images(root, DATASET, channels=2)
    found = validation_cases(TRAINED, ["case_001"], FigureOptions(channel=1))
    assert found.cases[0].image.name == "case_001_0001.nii.gz" and found.options.channel is None
    with pytest.raises(InputError, match="--channel 2: case_001 has the channels 0 to 1"):
        validation_cases(TRAINED, ["case_001"], FigureOptions(channel=2))


def test_colour_images_have_all_channels_in_one_file(made_results: Callable[..., Path]) -> None:
    made_results(dims=2, file_ending=".png")
    trained = Trained("910", (TRAINER, FINE), configurations=("2d",))
    found = validation_cases(trained, ["case_001"], FigureOptions(channel=0))
    assert found.cases[0].image.name == "case_001_0000.png" and found.options.channel == 0


def test_files_that_dataset_json_names_are_taken(made_results: Callable[..., Path]) -> None:
    root = made_results()
    raw = root / "raw" / DATASET
    content = json.loads((raw / "dataset.json").read_text())
    entry = {"images": ["elsewhere/scan.nii.gz"], "label": "elsewhere/mask.nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**content, "dataset": {"case_001": entry}}))
    shutil.rmtree(root / "preprocessed" / DATASET / "gt_segmentations")
    (case,) = validation_cases(TRAINED, ["case_001"], FigureOptions()).cases
    assert (case.image, case.reference) == (raw / "elsewhere/scan.nii.gz", raw / "elsewhere/mask.nii.gz")


def test_test_cases_are_those_that_predict_test_predicted(made_results: Callable[..., Path]) -> None:
    root = made_results()
    raw = root / "raw" / DATASET
    for part in ("images", "labels"):
        shutil.copytree(raw / f"{part}Tr", raw / f"{part}Ts")
    trained = Trained("910", (TRAINER, FINE), folds=(0, 1))
    with pytest.raises(
        InputError, match=r"test_attn_folds_0_1 does not exist; predict first: nnunet-attn predict-test"
    ):
        predicted_test_cases(trained, ["worst"], FigureOptions())
    means = {}
    for trainer in (TRAINER, FINE):
        model = model_folder(root, trainer)
        folder = model / "test_attn_folds_0_1"
        folder.mkdir()
        for file in model.glob("fold_*/validation/case_*.nii.gz"):
            shutil.copy(file, folder)
        shutil.copy(model / "dataset.json", folder)
        for case in evaluate_folder(folder, raw / "labelsTs", processes=1).cases:
            values = [each["dice"] for each in case.metrics.values()]
            means.setdefault(case.case, []).append(statistics.fmean(values))
    found = predicted_test_cases(trained, ["worst", "case_002"], FigureOptions())
    worst = min(means, key=lambda case: statistics.fmean(means[case]))
    assert [case.name for case in found.cases] == [worst, "case_002"] and found.folds == (None, None)
    assert found.cases[1].image == raw / "imagesTs" / "case_002_0000.nii.gz"
    assert found.cases[1].reference == raw / "labelsTs" / "case_002.nii.gz"
    assert found.cases[1].predictions["FINE"].parent == model_folder(root, FINE) / "test_attn_folds_0_1"
