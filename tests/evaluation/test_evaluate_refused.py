"""What cannot be evaluated is refused by name, and nothing is written."""

import errno
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare_sources import read_folders
from nnunet_attn.evaluation.description import find_reader, read_description
from nnunet_attn.evaluation.evaluate import evaluate_cross_validation, evaluate_folder
from nnunet_attn.evaluation.results import Evaluation, read_evaluation
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
        (json.dumps({**good, "overwrite_image_reader_writer": 5}), "dataset.json has the reader 5, which is no name"),
        (json.dumps({**good, "file_ending": 5}), "file_ending is 5"),
        (json.dumps({**good, "file_ending": None}), "file_ending is None"),
        (json.dumps({**good, "labels": {"background": 0, "liver": 1.5}}), "a label is 1.5, and labels are whole"),
        (json.dumps({**good, "labels": {"background": 0, "liver": 3e9}}), "a label is 3000000000.0, and labels are"),
        (json.dumps({**good, "labels": {"background": 0, "liver": math.inf}}), "is not nnU-Net's dataset.json"),
        (json.dumps({**good, "labels": {"background": 0, "liver": 1, "ignore": -1}}), "a label is -1, and labels"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=re.escape(message)):
            folder_call(results, dataset_json=file, chill=True)
    plans = tmp_path / "plans.json"
    for content, message in (
        ("[]", "plans.json is no JSON object"),
        ('{"image_reader_writer": 5}', "has the reader 5"),
    ):
        plans.write_text(content)
        with pytest.raises(InputError, match=re.escape(message)):
            folder_call(results, plans_json=plans, chill=True)


def test_a_broken_file_does_not_choose_the_reader_of_the_others(results: Path) -> None:
    description = read_description(model_folder(results) / "dataset.json")
    files = sorted((model_folder(results) / "fold_0" / "validation").glob("*.nii.gz"))
    files[0].write_bytes(b"not an image")
    assert find_reader(description, files) == "SimpleITKIO"
    assert find_reader(description, files[:1]) == "SimpleITKIO"


def test_values_that_itk_would_make_to_zero_are_refused(results: Path) -> None:
    file = sorted((model_folder(results) / "fold_0" / "validation").glob("*.nii.gz"))[0]
    image: Any = nibabel.load(file)
    array = np.asarray(image.dataobj).astype(np.float32)
    for wrong in (np.nan, np.inf):
        array[0, 0, 0] = wrong
        nibabel.save(nibabel.Nifti1Image(array, image.affine), file)
        with pytest.raises(InputError, match=r"no numbers \(NaN or infinity\); write its labels anew"):
            evaluated()
    array[0, 0, 0] = 1e12
    nibabel.save(nibabel.Nifti1Image(array, image.affine), file)
    with pytest.raises(InputError, match=r"holds the value 1e\+12, which is no label"):
        evaluated()
    array[0, 0, 0] = 0
    nibabel.save(nibabel.Nifti1Image(array, image.affine), file)
    assert len(evaluated().cases) == 6


def test_where_a_reader_turns_the_arrays_they_are_compared_as_turned(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "turned"
    shutil.copytree(model_folder(results) / "fold_0" / "validation", folder)
    plans = tmp_path / "plans.json"

    def by(reader: str) -> Evaluation:
        plans.write_text(json.dumps({"image_reader_writer": reader}))
        return evaluate_folder(
            folder,
            results / "raw" / DATASET / "labelsTr",
            dataset_json=model_folder(results) / "dataset.json",
            plans_json=plans,
            chill=True,
        )

    before = by("NibabelIOWithReorient")
    for file in folder.glob("*.nii.gz"):
        image: Any = nibabel.load(file)
        affine = image.affine @ np.diag([-1.0, 1, 1, 1])
        affine[:3, 3] += image.affine[:3, 0] * (image.shape[0] - 1)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1], affine), file)
    after = by("NibabelIOWithReorient")
    assert [case.metrics for case in after.cases] == [case.metrics for case in before.cases]
    assert after.provenance["warnings"] == {}
    with pytest.raises(InputError, match="has other axes"):
        by("NibabelIO")


def test_folders_that_may_not_be_read_are_told(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validation = model_folder(results) / "fold_0" / "validation"
    references = results / "preprocessed" / DATASET / "gt_segmentations"
    summary_folder = model_folder(results) / "evaluation_attn_folds_0_1"
    evaluated()
    shut = tmp_path

    def shutting(method: str) -> Callable[[Path], Any]:
        own = getattr(Path, method)

        def call(path: Path) -> Any:
            below = path.is_relative_to(shut) if method == "iterdir" else shut in path.parents
            if below:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return own(path)

        return call

    for method in ("iterdir", "is_dir", "is_file"):  # as of a folder that may not be entered; root may enter all
        monkeypatch.setattr(Path, method, shutting(method))
    for shut, call in (
        (validation, evaluated),
        (references, evaluated),
        (results / "results", evaluated),
        (validation, lambda: folder_call(results, chill=True)),
        (results / "raw", lambda: folder_call(results, chill=True)),
        (summary_folder, lambda: read_evaluation(summary_folder / "x")),
        (summary_folder, lambda: read_folders([summary_folder / "x"])),
    ):
        with pytest.raises(InputError, match=r"cannot be read \(Permission denied\); allow it") as raised:
            call()
        assert str(shut) in str(raised.value)


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
    with pytest.raises(InputError, match=r"-f 2: .* has the folds 0 to 1; give those that are there: -f 0"):
        evaluate_cross_validation("910", TRAINER, folds=(0, 2))
    with pytest.raises(InputError, match="give each fold once"):
        evaluate_cross_validation("910", TRAINER, folds=(0, 0))
    with pytest.raises(InputError, match=r"there is no model folder .*nnUNetTrainer__nnUNetPlans__3d_fullres"):
        evaluate_cross_validation("910", "nnUNetTrainerMedT", folds=(0, 1))
    with pytest.raises(InputError, match="-d 911"):
        evaluate_cross_validation("911", TRAINER)
    shutil.rmtree(validation)
    (validation.parent / "checkpoint_final.pth").rename(validation.parent / "checkpoint_latest.pth")
    with pytest.raises(InputError, match=r"does not exist; train it to its end: nnUNetv2_train .* --c,"):
        evaluated()
    (validation.parent / "checkpoint_latest.pth").rename(validation.parent / "checkpoint_final.pth")
    with pytest.raises(InputError, match=r"does not exist; validate it: nnUNetv2_train"):
        evaluated()
    splits = results / "preprocessed" / DATASET / "splits_final.json"
    splits.write_text("[]")
    with pytest.raises(InputError, match=r"splits_final\.json has no folds"):
        evaluated()
    splits.unlink()
    with pytest.raises(InputError, match=r"splits_final\.json does not exist"):
        evaluated()


def test_folder_that_may_not_be_written_is_told(results: Path) -> None:
    (results / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder"):
        evaluated(output=results / "file")
