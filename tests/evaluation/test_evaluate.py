"""Evaluation of folders and cross-validations: nnU-Net's own figures, the files, and what is up to date."""

import csv
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation import evaluate, measuring
from nnunet_attn.evaluation.description import plans_digest
from nnunet_attn.evaluation.evaluate import evaluate_cross_validation, evaluate_folder, result_files
from nnunet_attn.evaluation.results import METRICS, Evaluation, read_evaluation
from nnunet_attn.evaluation.settings import chosen_settings
from tests.made.results import DATASET, IGNORE, REGIONS, TRAINER, model_folder, rewrite


def evaluated(**more: Any) -> Evaluation:
    return evaluate_cross_validation("910", TRAINER, folds=(0, 1), **more)


@pytest.mark.parametrize(
    "made", [{}, {"labels": REGIONS}, {"labels": IGNORE}, {"dims": 2}, {"dims": 2, "file_ending": ".png"}], ids=str
)
def test_overlap_equals_nnunets_own_summary(made_results: Callable[..., Path], made: dict[str, Any]) -> None:
    root = made_results(**made)
    configuration = "2d" if "dims" in made else "3d_fullres"
    evaluation = evaluate_cross_validation(DATASET, TRAINER, configuration=configuration, folds=(0, 1))
    ours = {(case.fold, case.case): case for case in evaluation.cases}
    compared = 0
    for fold in (0, 1):
        summary = model_folder(root, configuration=configuration) / f"fold_{fold}" / "validation" / "summary.json"
        for stock in json.loads(summary.read_text())["metric_per_case"]:
            case = ours[fold, Path(stock["prediction_file"]).name.removesuffix(made.get("file_ending", ".nii.gz"))]
            for name, values in evaluation.classes.items():
                expected = stock["metrics"][str(values if len(values) > 1 else next(iter(values)))]
                assert case.metrics[name]["dice"] == pytest.approx(expected["Dice"], abs=1e-12)
                assert case.metrics[name]["iou"] == pytest.approx(expected["IoU"], abs=1e-12)
                if "file_ending" in made:  # a PNG has no spacing: one pixel counts as 1 mm
                    difference = expected["n_pred"] - expected["n_ref"]
                    assert case.metrics[name]["volume_difference_mm3"] == difference
                compared += 1
    assert compared == 6 * 4 and evaluation.ignore == (5 if made.get("labels") is IGNORE else None)


def test_spacing_is_that_of_the_reference(results: Path) -> None:
    case = evaluated().cases[0]
    file = results / "preprocessed" / DATASET / "gt_segmentations" / f"{case.case}.nii.gz"
    reference, spacing = sitk.ReadImage(str(file)), sitk.ReadImage(str(file)).GetSpacing()
    predicted = sitk.ReadImage(str(model_folder(results) / f"fold_{case.fold}" / "validation" / f"{case.case}.nii.gz"))
    liver = [int((sitk.GetArrayFromImage(image) == 1).sum()) for image in (predicted, reference)]
    assert spacing[2] == pytest.approx(2 * spacing[0])
    expected = (liver[0] - liver[1]) * math.prod(spacing)
    assert case.metrics["liver"]["volume_difference_mm3"] == pytest.approx(expected)


@pytest.mark.parametrize("surface", ["area", "erosion"])
@pytest.mark.parametrize("axis", ["x", "y", "z", "x of 2D", "y of 2D"])
def test_distances_are_in_the_files_spacing_and_one_equal_to_the_tolerance_is_within(
    tmp_path: Path, axis: str, surface: str
) -> None:
    steps = {"x": 0.8, "y": 1.3, "z": 2.9}  # a NIfTI file keeps 0.800000012
    dims = 2 if "2D" in axis else 3
    reference = np.zeros((12, 14, 16)[-dims:], np.uint8)
    reference[(slice(3, -3),) * dims] = 1
    prediction = np.roll(reference, 1, axis=dims - 1 - "xyz".index(axis[0]))
    for name, array in (("references", reference), ("predictions", prediction)):
        (tmp_path / name).mkdir()
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(list(steps.values())[:dims])
        sitk.WriteImage(image, str(tmp_path / name / "a.nii.gz"))
    description = tmp_path / "dataset.json"
    description.write_text(json.dumps({"labels": {"background": 0, "block": 1}, "file_ending": ".nii.gz"}))

    def measured(tolerance_mm: float) -> Mapping[str, float]:
        evaluation = evaluate_folder(
            tmp_path / "predictions",
            tmp_path / "references",
            dataset_json=description,
            settings=chosen_settings(["hd95_mm", "nsd"], tolerance_mm, surface),
        )
        return evaluation.cases[0].metrics["block"]

    step = steps[axis[0]]  # two sides are moved by it, and they are more than 5 % of the surface
    assert measured(step) == {"hd95_mm": pytest.approx(step), "nsd": 1.0}
    assert measured(0.999 * step)["nsd"] < 0.95


def test_files_lie_beside_nnunets_own_which_stays_as_it_is(results: Path) -> None:
    stock = sorted(results.rglob("summary.json"))
    before = {file: file.read_bytes() for file in stock}
    evaluation = evaluated()
    folder = model_folder(results) / "evaluation_attn_folds_0_1"
    assert {file.name for file in folder.iterdir()} == {"summary_attn.json", "metrics_attn.csv"}
    assert read_evaluation(folder) == evaluation
    assert {file: file.read_bytes() for file in stock} == before
    content = json.loads((folder / "summary_attn.json").read_text())
    dice = np.mean([case.metrics["liver"]["dice"] for case in evaluation.cases])
    assert content["mean"]["liver"]["dice"]["mean"] == pytest.approx(dice)
    for case in evaluation.cases:
        assert (folder / case.prediction_file).resolve().is_file()
        assert (folder / case.reference_file).resolve().is_file()


def test_table_has_a_row_for_each_class_of_each_case(results: Path) -> None:
    file = model_folder(results) / "fold_0" / "validation"
    image = sitk.ReadImage(str(next(iter(sorted(file.glob("*.nii.gz"))))))
    array = sitk.GetArrayFromImage(image)
    array[array == 2] = 0  # an empty prediction of the lesion
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(sorted(file.glob("*.nii.gz"))[0]))
    evaluation = evaluated()
    with (model_folder(results) / "evaluation_attn_folds_0_1" / "metrics_attn.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["case", "fold", "class", *METRICS] and len(rows) == 6 * 4
    lesion = next(row for row in rows if row["class"] == "lesion")
    assert (lesion["dice"], lesion["hd95_mm"], lesion["fold"]) == ("0.0", "inf", "0")
    assert float(rows[0]["dice"]) == evaluation.cases[0].metrics["liver"]["dice"]


def test_what_both_lack_is_an_empty_cell(results: Path, tmp_path: Path) -> None:
    for folder in (
        results / "preprocessed" / DATASET / "gt_segmentations",
        model_folder(results) / "fold_0" / "validation",
    ):
        for file in folder.glob("*.nii.gz"):
            image = sitk.ReadImage(str(file))
            sitk.WriteImage(sitk.Mask(image, image != 2), str(file))
    evaluate_folder(
        model_folder(results) / "fold_0" / "validation",
        results / "preprocessed" / DATASET / "gt_segmentations",
        dataset_json=model_folder(results) / "dataset.json",
        output=tmp_path / "out",
        chill=True,
    )
    with (tmp_path / "out" / "metrics_attn.csv").open(newline="") as stream:
        lesions = [row for row in csv.DictReader(stream) if row["class"] == "lesion"]
    assert len(lesions) == 3 and {row[metric] for row in lesions for metric in METRICS} == {""}
    assert {row["fold"] for row in lesions} == {""}


def counted(**more: Any) -> tuple[Evaluation, int, int]:
    """The evaluation, and the cases that were up to date and all cases."""
    calls: list[tuple[int, int]] = []
    evaluation = evaluated(progress=lambda done, total: calls.append((done, total)), **more)
    assert calls[-1] == (6, 6) and [done for done, _ in calls] == list(range(calls[0][0], 7))
    return evaluation, calls[0][0], len(calls) - 1


def test_only_what_changed_is_computed_again(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, up_to_date, computed = counted()
    assert (up_to_date, computed) == (0, 6)
    summary, table = result_files(model_folder(results) / "evaluation_attn_folds_0_1")
    written = summary.stat().st_mtime_ns, table.stat().st_mtime_ns
    again, up_to_date, computed = counted()
    assert again == first and (up_to_date, computed) == (6, 0)
    assert (summary.stat().st_mtime_ns, table.stat().st_mtime_ns) == written

    one = first.cases[0]
    file = model_folder(results) / f"fold_{one.fold}" / "validation" / f"{one.case}.nii.gz"
    rewrite(file, lambda array: np.roll(array, 1, axis=2))
    changed, up_to_date, computed = counted()
    assert (up_to_date, computed) == (5, 1)
    assert changed.cases[1:] == first.cases[1:] and changed.cases[0].metrics != one.metrics
    assert read_evaluation(summary) == changed

    assert counted(overwrite=True)[1:] == (0, 6)
    assert counted(settings=chosen_settings(tolerance_mm=2.0))[1:] == (0, 6)
    assert counted()[1:] == (0, 6)
    table.unlink()
    assert counted()[1:] == (6, 0) and table.is_file()
    (model_folder(results) / "fold_0" / "checkpoint_best.pth").touch()
    assert counted(checkpoint="checkpoint_best.pth")[1:] == (6, 0)
    assert read_evaluation(summary).origin.checkpoint == "checkpoint_best.pth"
    summary.write_text("{")
    assert counted()[1:] == (0, 6)
    own = evaluate._version
    monkeypatch.setattr(evaluate, "_version", lambda name: "0" if name == "nnunet_attn" else own(name))
    assert counted()[1:] == (0, 6)


@pytest.mark.parametrize("changed", ["ignore", "classes", "reader"])
def test_what_decides_the_metrics_is_computed_again_with_another(results: Path, changed: str) -> None:
    assert counted()[1:] == (0, 6) and counted()[1:] == (6, 0)
    name = "plans.json" if changed == "reader" else "dataset.json"
    content = json.loads((model_folder(results) / name).read_text())
    if changed == "ignore":
        content["labels"]["ignore"] = 9  # of no voxel, so that the metrics stay
    elif changed == "classes":
        content["labels"] |= {"liver": content["labels"]["lesion"], "lesion": content["labels"]["liver"]}
    else:
        content["image_reader_writer"] = "NibabelIO"
    (model_folder(results) / name).write_text(json.dumps(content))
    assert counted()[1:] == (0, 6)


def test_a_preset_has_files_of_its_own(results: Path) -> None:
    evaluated()
    evaluated(settings=chosen_settings(preset="medt"))
    folder = model_folder(results) / "evaluation_attn_folds_0_1"
    names = {"summary_attn.json", "metrics_attn.csv", "summary_attn_medt.json", "metrics_attn_medt.csv"}
    assert {file.name for file in folder.iterdir()} == names
    assert counted()[1:] == (6, 0)
    content = json.loads((folder / "summary_attn_medt.json").read_text())
    assert content["preset"]["columns"]["foreground"]["dice"]["n_finite"] == 6


def test_folder_reads_what_predict_leaves_there(results: Path, tmp_path: Path) -> None:
    predictions = tmp_path / "predictions"
    shutil.copytree(model_folder(results) / "fold_0" / "validation", predictions)
    for name in ("dataset.json", "plans.json"):
        shutil.copy(model_folder(results) / name, predictions)
    evaluation = evaluate_folder(predictions, results / "raw" / DATASET / "labelsTr", chill=True)
    assert (evaluation.origin.kind, evaluation.origin.dataset) == ("folder", DATASET)
    assert evaluation.origin.plans == "nnUNetPlans" and evaluation.origin.checkpoint is None
    assert len(evaluation.cases) == 3 and evaluation.cases[0].fold is None
    assert len(evaluation.provenance["left_out"]) == 3
    assert read_evaluation(predictions) == evaluation
    whole = evaluated()
    for case in evaluation.cases:
        assert case.metrics == next(each for each in whole.cases if each.case == case.case).metrics


def test_small_differences_of_geometry_are_told(results: Path) -> None:
    files = sorted((model_folder(results) / "fold_0" / "validation").glob("*.nii.gz"))
    spacing = sitk.ReadImage(str(files[0])).GetSpacing()
    before = evaluated()
    rewrite(files[0], spacing=(spacing[0] * 1.005, *spacing[1:]))
    rewrite(files[1], origin=(5.0, 0.0, 0.0))
    rewrite(files[2], spacing=(spacing[0] * 1.0005, *spacing[1:]))
    evaluation = evaluated()
    first, second = (f"fold 0: {file.name.removesuffix('.nii.gz')}" for file in files[:2])
    assert list(evaluation.provenance["warnings"]) == [first, second]
    assert "which was used" in evaluation.provenance["warnings"][first][0]
    assert "voxels from the reference's" in evaluation.provenance["warnings"][second][0]
    # the reference's spacing is used, so nothing else changes
    assert [case.metrics for case in evaluation.cases] == [case.metrics for case in before.cases]
    assert evaluated().provenance["warnings"] == evaluation.provenance["warnings"]


def test_references_may_come_from_the_raw_data_set(results: Path) -> None:
    before = evaluated()
    shutil.rmtree(results / "preprocessed" / DATASET / "gt_segmentations")
    assert [case.metrics for case in evaluated().cases] == [case.metrics for case in before.cases]
    shutil.rmtree(results / "raw" / DATASET / "labelsTr")
    with pytest.raises(InputError, match="there are no references"):
        evaluated()


FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"


def fold(results: Path, number: int) -> Path:
    return model_folder(results) / f"fold_{number}"


def test_checkpoint_is_told_only_where_the_files_tell(results: Path) -> None:
    assert evaluated().origin.checkpoint == FINAL
    (fold(results, 0) / FINAL).unlink()
    assert evaluated(overwrite=True).origin.checkpoint is None
    (fold(results, 0) / FINAL).touch()
    (fold(results, 1) / BEST).touch()
    assert evaluated().origin.checkpoint is None
    assert evaluated(checkpoint=BEST).origin.checkpoint == BEST


def test_a_stated_checkpoint_is_kept_while_the_files_are_the_same(results: Path) -> None:
    (fold(results, 1) / BEST).touch()
    assert evaluated(checkpoint=BEST).origin.checkpoint == BEST
    assert evaluated(settings=chosen_settings(["dice"])).origin.checkpoint == BEST
    assert evaluated(overwrite=True).origin.checkpoint is None
    evaluated(checkpoint=BEST)
    rewrite(sorted((fold(results, 1) / "validation").glob("*.nii.gz"))[0])
    assert evaluated().origin.checkpoint is None


def test_a_trainer_of_this_package_notes_the_checkpoint(results: Path) -> None:
    notes = [fold(results, number) / "validation" / "checkpoint_attn.json" for number in (0, 1)]
    best, final = (json.dumps({"checkpoint": name}) for name in (BEST, FINAL))
    for note in notes:
        (note.parents[1] / BEST).touch()
        note.write_text(best)
    assert evaluated().origin.checkpoint == BEST
    assert evaluated(checkpoint=BEST).origin.checkpoint == BEST
    with pytest.raises(InputError, match=rf"-chk {FINAL}: .* says {BEST} \(fold 0, 1\); leave out -chk"):
        evaluated(checkpoint=FINAL)
    notes[1].write_text(final)
    with pytest.raises(InputError, match=rf"different checkpoints: {BEST} \(fold 0\), {FINAL} \(fold 1\); validate"):
        evaluated()
    with pytest.raises(InputError, match=rf"says {FINAL} \(fold 1\)"):
        evaluated(checkpoint=BEST)
    notes[1].write_text("{")
    with pytest.raises(InputError, match=rf"{BEST} \(fold 0\), unknown \(fold 1\); .* if it was: -chk {BEST}"):
        evaluated()
    assert evaluated(checkpoint=BEST).origin.checkpoint == BEST
    (notes[1].parents[1] / BEST).unlink()  # so fold 1 had the final one
    with pytest.raises(InputError, match="different checkpoints"):
        evaluated()
    (notes[1].parents[1] / BEST).touch()
    notes[0].write_text(final)
    assert evaluated(overwrite=True).origin.checkpoint is None


def test_a_stated_checkpoint_must_be_one(results: Path) -> None:
    for wrong in ("nonsense", BEST, f"x/{FINAL}"):
        with pytest.raises(InputError, match=f"-chk {wrong}: give the name of a checkpoint; the folds have {FINAL}"):
            evaluated(checkpoint=wrong)
    for number in (0, 1):
        (fold(results, number) / FINAL).unlink()
    with pytest.raises(InputError, match="-chk best: give the name of a checkpoint; for example"):
        evaluated(checkpoint="best")
    assert evaluated(checkpoint=BEST).origin.checkpoint == BEST  # the weights may be gone


def test_digest_is_that_of_the_configuration_alone(tmp_path: Path) -> None:
    def digest(configurations: dict[str, Any], name: str = "a") -> str | None:
        file = tmp_path / "plans.json"
        file.write_text(json.dumps({"plans_name": "P", "configurations": configurations}))
        return plans_digest(file, name)

    plain = digest({"a": {"patch_size": [8, 8], "batch_size": 2}})
    assert plain is not None and len(plain) == 64
    assert digest({"a": {"batch_size": 2, "patch_size": [8, 8]}, "b": {}}) == plain
    assert digest({"a": {"patch_size": [8, 8], "batch_size": 3}}) != plain
    inherited = {"a": {"inherits_from": "b", "batch_size": 2}, "b": {"batch_size": 5, "patch_size": [8, 8]}}
    assert digest(inherited) == plain
    assert digest({"b": {}}) is None


@pytest.mark.slow
def test_several_processes_give_the_same(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = evaluated(processes=1)
    monkeypatch.setattr(measuring, "ALONE_SECONDS", 0.0)
    together = evaluated(processes=2, overwrite=True)
    assert together.cases == alone.cases
