"""What cannot be evaluated is refused by name, and nothing is written."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.evaluate import evaluate_cross_validation, evaluate_folder
from nnunet_attn.evaluation.results import Evaluation
from tests.made.results import DATASET, TRAINER, model_folder, rewrite


def evaluated(**more: Any) -> Evaluation:
    return evaluate_cross_validation("910", TRAINER, folds=(0, 1), **more)


def test_predictions_that_cannot_be_compared_are_all_named(results: Path) -> None:
    folder = model_folder(results) / "fold_0" / "validation"
    files = sorted(folder.glob("*.nii.gz"))
    spacing = sitk.ReadImage(str(files[0])).GetSpacing()
    broken: list[tuple[Callable[[Path], object], str]] = [
        (lambda file: file.write_bytes(file.read_bytes()[:200]), r"cannot be read by nnU-Net's SimpleITKIO \(Compr"),
        (lambda file: file.write_bytes(b"not an image"), r"cannot be read by nnU-Net's SimpleITKIO"),
        (lambda file: rewrite(file, lambda array: array[1:]), r"has the shape 11 x 24 x 32 and its reference .* 12 x"),
        (
            lambda file: rewrite(file, lambda a: np.where(a == 1, 7, a)),
            r"holds the value 7, and dataset\.json has 0, 1,",
        ),
        (lambda file: rewrite(file, lambda a: a.astype(np.float32) + 0.25), r"values that are no integers"),
        (
            lambda file: rewrite(file, spacing=(spacing[0] * 1.02, *spacing[1:])),
            r"has the spacing .* mm, and the",
        ),
        (
            lambda file: rewrite(file, direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)),
            r"has other axes \(direction\)",
        ),
    ]
    kept = files[0].read_bytes()
    for spoil, message in broken:
        spoil(files[0])
        with pytest.raises(InputError, match=rf"case {files[0].name.removesuffix('.nii.gz')}: .*{message}") as raised:
            evaluated()
        assert str(files[0]) in str(raised.value)
        files[0].write_bytes(kept)
    assert not list(results.rglob("*attn*.json")) and not list(results.rglob("metrics_attn*"))
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(InputError) as raised:
        evaluated()
    assert all(str(file) in str(raised.value) for file in files)
    assert not list(results.rglob("*.part"))


def test_colour_images_are_no_labels(made_results: Callable[..., Path]) -> None:
    root = made_results(dims=2, file_ending=".png")
    file = sorted((model_folder(root, configuration="2d") / "fold_0" / "validation").glob("*.png"))[0]
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((32, 48, 3), np.uint8), isVector=True), str(file))
    with pytest.raises(InputError, match="has 3 channels, labels have one"):
        evaluate_cross_validation("910", TRAINER, configuration="2d", folds=(0, 1))


def folder_call(results: Path, **more: Any) -> Evaluation:
    return evaluate_folder(
        model_folder(results) / "fold_0" / "validation",
        **{
            "references": results / "raw" / DATASET / "labelsTr",
            "dataset_json": model_folder(results) / "dataset.json",
            **more,
        },
    )


def test_folders_that_do_not_fit_are_refused(results: Path, tmp_path: Path) -> None:
    predictions = model_folder(results) / "fold_0" / "validation"
    empty = tmp_path / "empty"
    empty.mkdir()
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: folder_call(results), r"has no prediction for case_.*add --chill"),
        (lambda: folder_call(results, references=empty), r"-r .* has no \.nii\.gz file"),
        (lambda: folder_call(results, references=empty / "no"), r"-r .* is no folder"),
        (lambda: folder_call(results, dataset_json=None), r"has no dataset\.json; .*-djfile"),
        (lambda: folder_call(results, dataset_json=empty / "dataset.json"), r"does not exist; give nnU-Net's dataset"),
        (lambda: folder_call(results, plans_json=empty / "plans.json"), r"does not exist; .*-pfile"),
        (lambda: evaluate_folder(empty / "no", predictions), r"-i .* is no folder"),
        (lambda: folder_call(results, processes=0, chill=True), r"-np 0"),
    ]
    for call, message in wrong:
        with pytest.raises(InputError, match=message):
            call()
    sole = tmp_path / "sole"
    sole.mkdir()
    shutil.copy(sorted(predictions.glob("*.nii.gz"))[0], sole)
    with pytest.raises(InputError, match="has no reference for case_"):
        folder_call(results, references=sole)


def test_descriptions_that_are_broken_are_refused(results: Path, tmp_path: Path) -> None:
    good = json.loads((model_folder(results) / "dataset.json").read_text())
    file = tmp_path / "dataset.json"
    for content, message in (
        ("{", "cannot be read as JSON"),
        (json.dumps({"file_ending": ".nii.gz"}), "is not nnU-Net's dataset.json"),
        (json.dumps({**good, "labels": {"background": 1, "liver": 2}}), "background is 1"),
        (json.dumps({**good, "labels": {"background": 0}}), "no label beside the background"),
        (json.dumps({**good, "overwrite_image_reader_writer": "NoSuchIO"}), "nnU-Net has no reader 'NoSuchIO'"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=re.escape(message)):
            folder_call(results, dataset_json=file, chill=True)


def test_folds_that_do_not_fit_their_split_are_refused(results: Path) -> None:
    validation = model_folder(results) / "fold_1" / "validation"
    first = sorted(validation.glob("*.nii.gz"))[0]
    stranger = sorted((model_folder(results) / "fold_0" / "validation").glob("*.nii.gz"))[0]
    kept = first.read_bytes()
    first.unlink()
    with pytest.raises(InputError, match=rf"lacks {first.name[:8]} of the 3 cases .*nnUNetv2_train {DATASET} .* --val"):
        evaluated()
    first.write_bytes(kept)
    shutil.copy(stranger, validation)
    with pytest.raises(InputError, match=rf"has {stranger.name[:8]}, which splits_final.json does not give fold 1"):
        evaluated()
    (validation / stranger.name).unlink()
    with pytest.raises(InputError, match=r"-f 2: .* has the folds 0 to 1"):
        evaluate_cross_validation("910", TRAINER, folds=(0, 2))
    with pytest.raises(InputError, match="give each fold once"):
        evaluate_cross_validation("910", TRAINER, folds=(0, 0))
    with pytest.raises(InputError, match=r"there is no model folder .*nnUNetTrainer__nnUNetPlans__3d_fullres"):
        evaluate_cross_validation("910", "nnUNetTrainerMedT", folds=(0, 1))
    with pytest.raises(InputError, match="-d 911"):
        evaluate_cross_validation("911", TRAINER)
    shutil.rmtree(validation)
    with pytest.raises(InputError, match=r"does not exist; validate it: nnUNetv2_train"):
        evaluated()
    (results / "preprocessed" / DATASET / "splits_final.json").unlink()
    with pytest.raises(InputError, match=r"splits_final\.json does not exist"):
        evaluated()


def test_folder_that_may_not_be_written_is_told(results: Path) -> None:
    (results / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder"):
        evaluated(output=results / "file")
