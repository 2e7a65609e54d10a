"""The papers' readings, each against arithmetic done by hand, and the settings they come with."""

import json
import math
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

from nnunet_attn.commands.evaluate import show
from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.evaluate import evaluate_cross_validation, evaluate_folder
from nnunet_attn.evaluation.presets import PRESETS, find_preset, preset_report
from nnunet_attn.evaluation.results import METRICS, CaseResult, Evaluation, Origin, Settings
from nnunet_attn.evaluation.settings import (
    ALL_CLASSES,
    KITS23_TOLERANCE_MM,
    chosen_settings,
    parsed_tolerance,
    settings_for,
)
from tests.made.results import DATASET, write_results

ROOT = Path(__file__).resolve().parents[2]
BTCV = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic veins",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)


def evaluation(
    preset: str,
    classes: Mapping[str, tuple[int, ...]],
    cases: Sequence[Mapping[str, Mapping[str, float]]],
    folds: Sequence[int] | None = None,
) -> Evaluation:
    chosen = find_preset(preset)
    return Evaluation(
        Origin("folder"),
        Settings(chosen.metrics, dict.fromkeys(classes, 1.0), chosen.surface, preset),
        classes,
        None,
        tuple(
            CaseResult(f"case_{index}", None if folds is None else folds[index], metrics, "", "")
            for index, metrics in enumerate(cases)
        ),
    )


def test_karimi_merges_all_classes_and_gives_mean_and_sd_over_cases() -> None:
    preset = find_preset("karimi")
    assert preset.select({"anterior": (1,), "posterior": (2,)}).classes == {"foreground": (1, 2)}
    assert preset.select({"whole": (1, 2), "core": (2,)}).classes == {"foreground": (1, 2)}
    assert (preset.metrics, preset.surface) == (("dice", "hd95_mm", "assd_mm"), "erosion")
    values = [(0.8, 1.0, 0.2), (0.9, math.inf, math.inf), (0.85, 4.0, 0.6), (math.nan, math.nan, math.nan)]
    cases = [{"foreground": dict(zip(preset.metrics, each, strict=True))} for each in values]
    report = preset_report(evaluation("karimi", {"foreground": (1, 2)}, cases))
    assert report is not None
    found = report.columns["foreground"]
    assert found["dice"].mean == pytest.approx((0.8 + 0.9 + 0.85) / 3)
    assert found["dice"].sd == pytest.approx(0.05)  # 0.8, 0.85, 0.9
    assert found["hd95_mm"].mean == 2.5 and found["hd95_mm"].sd == pytest.approx(math.sqrt(2 * 1.5**2))
    assert (found["hd95_mm"].n_finite, found["hd95_mm"].n_infinite, found["hd95_mm"].n_not_counted) == (2, 1, 1)
    assert report.over_folds == {} and report.as_the_script == {}


def test_medt_is_a_mean_over_images_and_not_pooled() -> None:
    # two images: 10 of 10 pixels found of 10, and 10 of 20 pixels right of 50: F1 1 and 20/70, IoU 1 and 10/60
    values = [(1.0, 1.0), (20 / 70, 10 / 60)]
    cases: list[dict[str, dict[str, float]]] = [
        {"foreground": dict(zip(("dice", "iou"), each, strict=True))} for each in values
    ]
    report = preset_report(evaluation("medt", {"foreground": (1,)}, cases))
    assert report is not None
    f1, iou = (report.columns["foreground"][metric].mean for metric in ("dice", "iou"))
    assert (f1, iou) == (pytest.approx(45 / 70), pytest.approx(35 / 60))
    assert iou > f1 / (2 - f1)  # pooled ones are equal: 20 of 90 pixels in all, F1 40/90, IoU 20/70
    assert report.as_the_script == {"dice": pytest.approx(f1), "iou": pytest.approx(iou)}


def test_medts_script_gives_the_full_score_where_nothing_overlaps() -> None:
    values = [0.5, 0.0, math.nan]  # a hit, a miss, nothing to find
    cases: list[dict[str, dict[str, float]]] = [{"foreground": dict.fromkeys(("dice", "iou"), v)} for v in values]
    report = preset_report(evaluation("medt", {"foreground": (1,)}, cases))
    assert report is not None
    assert report.columns["foreground"]["dice"].mean == 0.25
    assert report.as_the_script["dice"] == pytest.approx((0.5 + 1 + 1) / 3)


def test_fine_averages_two_kidneys_in_one_of_seven_columns() -> None:
    labels = {name: (index + 1,) for index, name in enumerate(BTCV)}
    selection = find_preset("fine").select(labels)
    assert len(selection.classes) == 8 and selection.classes["pancreas"] == (11,)
    assert selection.columns["kidneys"] == ("left kidney", "right kidney")
    dice = {"spleen": 0.9, "right kidney": 0.7, "left kidney": 0.8, "gallbladder": 0.6}
    case = {name: {"dice": dice.get(name, 0.5), "hd95_mm": 2.0} for name in selection.classes}
    report = preset_report(evaluation("fine", selection.classes, [case]))
    assert report is not None and report.averaging == "cases, then classes"
    assert list(report.columns) == ["spleen", "kidneys", "gallbladder", "liver", "stomach", "aorta", "pancreas"]
    assert report.columns["kidneys"]["dice"].mean == pytest.approx(0.75)
    assert report.average["dice"] == pytest.approx((0.9 + 0.75 + 0.6 + 4 * 0.5) / 7)
    assert report.average["hd95_mm"] == 2.0 and report.over_folds == {}


def test_fine_gives_mean_and_sd_over_splits() -> None:
    names = ("Spleen", "Kidneys", "gall bladder", "liver", "stomach", "aorta", "pancreas")
    labels = {name: (index + 1,) for index, name in enumerate(names)}
    assert find_preset("fine").select(labels).columns["gallbladder"] == ("gall bladder",)
    values = [0.8, 0.9, 0.6, 0.8]  # split 0: 0.85, split 1: 0.7
    cases = [{name: {"dice": value, "hd95_mm": 10 * value} for name in names} for value in values]
    report = preset_report(evaluation("fine", labels, cases, folds=(0, 0, 1, 1)))
    assert report is not None
    assert report.over_folds["liver"]["dice"] == (pytest.approx(0.775), pytest.approx(0.15 / math.sqrt(2)))
    assert report.average["dice"] == pytest.approx(0.775)
    assert math.isnan(report.columns["liver"]["dice"].sd)  # over images, which the paper does not give


def test_fines_average_has_the_mean_of_the_columns_sds() -> None:
    names = ("spleen", "left kidney", "right kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
    labels = {name: (index + 1,) for index, name in enumerate(names)}
    # fold 1 has two cases. The spleen rises by 0.1 and the liver falls by as much; the others stay
    dice = [dict.fromkeys(names, 0.5) | {"spleen": 0.6, "liver": 0.8, "left kidney": 0.7}]
    dice += [dict.fromkeys(names, 0.5) | {"spleen": 0.7 + d, "liver": 0.7, "left kidney": 0.7} for d in (-0.1, 0.1)]
    cases = [{name: {"dice": value, "hd95_mm": 1.0} for name, value in each.items()} for each in dice]
    cases[0]["aorta"]["hd95_mm"] = math.inf
    report = preset_report(evaluation("fine", labels, cases, folds=(0, 1, 1)))
    assert report is not None
    of_one = 0.1 / math.sqrt(2)
    assert report.over_folds["spleen"]["dice"] == (pytest.approx(0.65), pytest.approx(of_one))
    assert report.over_folds["liver"]["dice"] == (pytest.approx(0.75), pytest.approx(of_one))
    assert report.over_folds["kidneys"]["dice"] == (pytest.approx(0.6), pytest.approx(0))
    mean = (0.65 + 0.75 + 0.6 + 4 * 0.5) / 7
    assert report.average_over_folds["dice"] == (pytest.approx(mean), pytest.approx(2 * of_one / 7))  # not 0
    assert report.over_folds["aorta"]["hd95_mm"] == (1.0, pytest.approx(math.nan, nan_ok=True))
    assert report.average_over_folds["hd95_mm"] == (1.0, 0.0)
    written = StringIO()
    show(evaluation("fine", labels, cases, folds=(0, 1, 1)), Console(file=written, width=200))
    printed = written.getvalue()
    assert f"spleen: dice 0.65, sd {of_one:.4g}" in printed
    assert f"average: dice {mean:.4g}, sd {2 * of_one / 7:.4g}" in printed


def test_the_papers_averages_have_the_mean_of_the_columns_sds() -> None:
    # Table 2 of arXiv:2210.05313: sd beside the average, and beside spleen, kidneys, ..., pancreas
    for average, columns in (
        (3.7, (5.0, 3.4, 10.0, 1.4, 1.3, 1.8, 3.2)),
        (3.6, (6.1, 3.3, 8.1, 1.7, 0.8, 2.0, 3.5)),
        (3.0, (1.9, 4.3, 7.8, 1.1, 1.2, 1.7, 2.8)),
    ):
        mean = sum(columns) / 7
        assert round(mean, 1) == average and f"{mean:.2f}" in find_preset("fine").reading


def test_fine_refuses_another_data_set() -> None:
    with pytest.raises(InputError, match="no class for spleen, kidneys, gallbladder, stomach, aorta, pancreas among"):
        find_preset("fine").select({"liver": (1,), "right kidney": (2,)})


@pytest.mark.parametrize("names", [("kidney", "tumor", "cyst"), ("Kidney", "Tumour", "Cyst")])
def test_gasa_builds_the_hierarchical_classes_of_kits(names: tuple[str, str, str]) -> None:
    selection = find_preset("gasa").select(dict(zip(names, ((1,), (2,), (3,)), strict=True)))
    expected = {"kidney_and_masses": {1, 2, 3}, "masses": {2, 3}, "tumour": {2}}
    assert {name: set(values) for name, values in selection.classes.items()} == expected
    assert selection.tolerance_mm == KITS23_TOLERANCE_MM
    assert find_preset("gasa").select(selection.classes) == selection


@pytest.mark.parametrize(
    "labels",
    [
        {"kidney": 1, "tumor": 2, "cyst": 3},
        {"kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2},  # nnU-Net's own conversion
        {"kidney_and_masses": [1, 2, 3], "masses": [2, 3], "tumor": 2},
        {"Kidney and masses": [1, 3, 2], "Masses": [3, 2], "Tumour": 2},
    ],
    ids=str,
)
def test_gasa_measures_kits_with_the_challenges_tolerances(tmp_path: Path, labels: dict[str, Any]) -> None:
    reference = np.zeros((14, 14, 14), np.uint8)
    reference[2:11, 2:11, 2:11] = 1
    reference[4:8, 4:8, 4:8] = 2
    reference[8:10, 4:8, 4:8] = 3
    for name, array in (("references", reference), ("predictions", np.roll(reference, 1, axis=2))):
        (tmp_path / name).mkdir()
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.1, 1.1, 1.1))
        sitk.WriteImage(image, str(tmp_path / name / "a.nii.gz"))
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"labels": {"background": 0, **labels}, "file_ending": ".nii.gz"}))

    def measured(*words: str) -> Evaluation:
        return evaluate_folder(
            tmp_path / "predictions",
            tmp_path / "references",
            dataset_json=file,
            settings=chosen_settings(tolerance_mm=parsed_tolerance(words), preset="gasa"),
        )

    found = measured()
    assert list(found.settings.tolerance_mm.values()) == [1.0331, 1.1329, 1.1498]
    assert [sorted(values) for values in found.classes.values()] == [[1, 2, 3], [2, 3], [2]]
    # moved by 1.1 mm: beyond the first, within the other two
    whole, masses, tumour = (values["nsd"] for values in found.cases[0].metrics.values())
    assert whole < 0.95 and masses == tumour == 1
    assert list(measured("tumor=3").settings.tolerance_mm.values()) == [1.0331, 1.1329, 3.0]
    assert list(measured("1").settings.tolerance_mm.values()) == [1.0, 1.0, 1.0]


def test_gasa_takes_classes_that_only_sound_like_kits_as_they_are() -> None:
    for classes in (
        {"kidney": (1,), "masses": (2,), "tumor": (3,)},
        {"kidney": (1, 2), "masses": (1, 2), "tumor": (2,)},
        {"kidney": (1, 2), "tumor": (2,)},
        {"kidney": (1, 2), "tumor": (2,), "cyst": (3,)},
    ):
        selection = find_preset("gasa").select(classes)
        assert selection.classes == classes and selection.tolerance_mm == {}


def test_gasa_takes_other_classes_as_they_are_and_averages_like_nnunet() -> None:
    labels = {name: (index + 1,) for index, name in enumerate(BTCV)}
    selection = find_preset("gasa").select(labels)
    assert selection.classes == labels and selection.tolerance_mm == {} and len(selection.columns) == 13
    cases = [
        {"a": {"dice": 0.8, "nsd": 0.9}, "b": {"dice": math.nan, "nsd": math.nan}},
        {"a": {"dice": 0.6, "nsd": 0.7}, "b": {"dice": 0.4, "nsd": 0.5}},
    ]
    report = preset_report(evaluation("gasa", {"a": (1,), "b": (2,)}, cases))
    assert report is not None
    assert report.average["dice"] == pytest.approx((0.7 + 0.4) / 2)  # not 1.8 / 3
    assert report.columns["b"]["dice"].n_not_counted == 1


@pytest.mark.parametrize("name", PRESETS)
def test_selecting_twice_changes_nothing_and_metrics_exist(name: str) -> None:
    preset = PRESETS[name]
    selection = preset.select({label: (index + 1,) for index, label in enumerate(BTCV)})
    assert preset.select(selection.classes).classes == selection.classes
    assert set(preset.metrics) <= set(METRICS) and preset.leaves_open
    page = (ROOT / "docs/reference/presets.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    assert preset.surface in row or not {"hd95_mm", "assd_mm", "nsd"} & set(preset.metrics)
    assert all(f"`{metric}`" in row for metric in preset.metrics) and preset.averaging in row
    assert preset.source.split("arXiv:")[1].split(",")[0] in page


def test_a_merged_class_is_measured_and_not_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in write_results(tmp_path, {"nnUNetTrainer": 1.0}, folds=2, cases=4).items():
        monkeypatch.setenv(name, value)
    settings = chosen_settings(preset="karimi")
    found = evaluate_cross_validation(DATASET, "nnUNetTrainer", folds=(0, 1), settings=settings)
    model = tmp_path / "results" / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert dict(found.settings.tolerance_mm) == {"foreground": 1.0} and found.settings.surface == "erosion"
    for case in found.cases:
        files = (
            model / f"fold_{case.fold}" / "validation" / f"{case.case}.nii.gz",
            tmp_path / "raw" / DATASET / "labelsTr" / f"{case.case}.nii.gz",
        )
        a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(file))) > 0 for file in files)
        assert case.metrics["foreground"]["dice"] == pytest.approx(2 * np.sum(a & b) / (a.sum() + b.sum()))


def test_settings_are_checked_and_completed() -> None:
    classes = {"liver": (1,), "tumor": (2,)}
    assert settings_for(chosen_settings(), classes).tolerance_mm == {"liver": 1.0, "tumor": 1.0}
    assert settings_for(chosen_settings(tolerance_mm=2.5), classes).tolerance_mm == {"liver": 2.5, "tumor": 2.5}
    named = chosen_settings(tolerance_mm={"Tumour": 3.0, ALL_CLASSES: 0.5})
    assert settings_for(named, classes).tolerance_mm == {"liver": 0.5, "tumor": 3.0}
    assert chosen_settings().metrics == METRICS and chosen_settings().surface == "area"
    refused: list[tuple[dict[str, Any], str]] = [
        ({"metrics": ["dice", "dice"]}, "give each metric once"),
        ({"metrics": []}, "at least one"),
        ({"surface": "marching"}, "--surface marching"),
        ({"tolerance_mm": -1.0}, "0 or larger"),
        ({"tolerance_mm": math.nan}, "0 or larger"),
        ({"preset": "swin"}, "--preset swin"),
        ({"preset": "gasa", "surface": "area"}, "says metrics and surface itself"),
    ]
    for wrong, message in refused:
        with pytest.raises(InputError, match=message):
            chosen_settings(**wrong)
    for tolerance in ({"spleen": 1.0}, {"liver": 1.0, "Liver": 2.0}):
        with pytest.raises(InputError, match="name each at most once"):
            settings_for(chosen_settings(tolerance_mm=tolerance), classes)


def test_tolerances_of_kits_find_their_classes() -> None:
    tolerance = parsed_tolerance(["kits23"])
    assert tolerance == {"kidney_and_masses": 1.0331, "masses": 1.1329, "tumour": 1.1498}
    nnunets_own = {"kidney": (1, 3, 2), "masses": (3, 2), "tumor": (2,)}
    completed = settings_for(chosen_settings(tolerance_mm=tolerance), nnunets_own)
    assert completed.tolerance_mm == {"kidney": 1.0331, "masses": 1.1329, "tumor": 1.1498}
    with pytest.raises(InputError, match="the classes are liver"):
        settings_for(chosen_settings(tolerance_mm=tolerance), {"liver": (1,)})
    assert parsed_tolerance(["masses=2", "kits23"]) == {**KITS23_TOLERANCE_MM, "masses": 2.0}
    assert parsed_tolerance(["2", "liver=3", "a=b=4"]) == {ALL_CLASSES: 2.0, "liver": 3.0, "a=b": 4.0}
    assert parsed_tolerance(None) == 1.0
