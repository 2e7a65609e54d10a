"""The data of a report: of a study that is done, of one that is half done, and of one that cannot begin."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from nnunet_attn.study.evaluating import compare_group
from nnunet_attn.study.groups import groups
from nnunet_attn.study.memory import StepNeed, StepTask
from nnunet_attn.study.model import Study
from nnunet_attn.study.report.collect import collect
from nnunet_attn.study.report.model import ReportData
from tests.made.results import DATASET
from tests.made.study_results import copy_results, study, write_study_results, write_trainings

PLAIN = "nnUNetTrainerPlain"


def known(tasks: Sequence[StepTask]) -> list[StepNeed]:
    """Stands in for tracing networks, which takes seconds each."""
    return [StepNeed(parameters=7, peak_bytes=10**9, flops=11, input_shape=(1, 1, 12, 12, 12)) for _ in tasks]


@pytest.fixture(scope="module")
def described() -> Study:
    """The study; its name for a case that there is not."""
    return study(metrics=("dice", "hd95_mm"), cases=("case_002", "nobody"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, described: Study) -> Iterator[Path]:
    """nnU-Net's folders in the environment, with all of it done."""
    place = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in write_study_results(place, described, {PLAIN: 1.0, "GASA": 2.0}).items():
            patch.setenv(key, value)
        write_trainings(described, {"GASA": 20.0})
        yield place


@pytest.fixture(scope="module")
def data(root: Path, described: Study) -> ReportData:
    """All of its report."""
    file = root / "study.yaml"
    file.write_text("name: made\n", encoding="utf-8")
    return collect(described, file, root / "made_results", processes=1, examine=known)


def test_the_setup(data: ReportData, described: Study) -> None:
    assert (data.study, data.study_file, data.study_text) == (described, "study.yaml", "name: made\n")
    assert data.versions["nnunetv2"] and data.versions["python"] and data.machine.cores
    (trained,) = data.trained_on
    assert (trained.device, trained.torch, trained.cudnn, trained.nnunet_attn) == (
        "Made GPU",
        "2.9.1",
        "91002",
        "0.1.0",
    )
    assert trained.trainings == 8
    assert [(row.title, row.network, row.epochs, row.iterations, row.is_reference) for row in data.rows] == [
        (PLAIN, "PlainUNet", 3, 4, True),
        ("GASA", "GASAUNet", 3, 4, False),
    ]
    facts = data.runs[0].facts
    assert (facts.recipe, facts.loss, facts.flips_only) == ("nnU-Net's, 0.01", "dice", "False")
    assert data.rows[1].recipe == "nnU-Net's, 0.01" and "arXiv:2409.13146" in (data.rows[1].source or "")


def test_the_data_set_and_its_folds(data: ReportData) -> None:
    (info,) = data.datasets
    assert (info.name, info.channels, info.training_cases) == (DATASET, ("MRI",), 6)
    assert info.classes == {"liver": (1,), "lesion": (2,), "left kidney": (3,), "right kidney": (4,)}
    assert (info.median_shape, info.median_spacing_mm) == ((12, 24, 32), (2, 1, 1))
    assert [(split.fold, split.training, len(split.validation), split.used) for split in info.splits] == [
        (0, 3, 3, True),
        (1, 3, 3, True),
    ]
    assert (info.test_cases, info.test_labels, info.patients) == (0, False, None)


def test_the_tables_are_those_of_the_comparison(data: ReportData, described: Study) -> None:
    (group,) = groups(described)
    comparison = compare_group(described, group, processes=1)
    (report,) = data.groups
    assert report.comparison is not None and report.why_none is None and report.folds == (0, 1)
    assert [(each.metric, each.class_name) for each in report.tables] == [
        (each.metric, each.class_name) for each in comparison.results
    ]
    for table in report.tables:
        result = comparison.result(table.metric, table.class_name)
        assert [repr(row.result) for row in table.rows] == [repr(own) for own in result.methods]
        assert [repr(row.difference) for row in table.rows[1:]] == [repr(each) for each in result.differences]
    dice, far = report.table("dice"), report.table("hd95_mm")
    assert dice is not None and far is not None and report.table("nsd") is None
    first, second = dice.rows
    assert (first.row, first.difference, first.is_significant, first.is_better) == (PLAIN, None, None, None)
    # displaced twice as far in all 6 cases: Wilcoxon's p is 2 / 2^6
    assert second.difference is not None and second.difference.wilcoxon_p_holm == pytest.approx(2 / 64)
    assert (second.is_significant, second.is_better, second.has_few_pairs) == (True, False, True)
    # larger distances are worse
    assert far.rows[1].difference is not None and far.rows[1].difference.paired.mean_difference > 0
    assert far.rows[1].is_better is False and not far.larger_is_better


def test_the_dice_of_each_training_is_nnunets(data: ReportData) -> None:
    assert len(data.runs) == 8
    for each in data.runs:
        summary = json.loads((each.run.fold_folder / "validation" / "summary.json").read_text())
        assert each.state.kind == "done" and each.state.dice == summary["foreground_mean"]["Dice"]
        assert [epoch.number for epoch in each.epochs] == [0, 1, 2]
        assert each.epochs[0].pseudo_dice == (0.5, 0.7) and each.epochs[0].train_loss == -0.5
    (report,) = data.groups
    assert report.comparison is not None
    for own in report.comparison.result("dice").methods:
        of_runs = [each.state.dice for each in data.runs if each.run.row == own.method]
        # folds of one size, and all classes in all cases
        assert own.table_mean == pytest.approx(np.mean([dice for dice in of_runs if dice is not None]))


def test_what_it_cost(data: ReportData) -> None:
    plain, gasa = data.costs
    assert (plain.parameters, plain.flops, plain.input_shape) == (7, 11, (1, 1, 12, 12, 12))
    assert (plain.epoch_seconds, gasa.epoch_seconds, gasa.batch_size, gasa.iterations) == (10, 20, 2, 4)
    # 4 trainings of 3 epochs, and 3 cases whose first begins 50 s before the end (2 x 20 s, and 10 s)
    assert plain.device_hours == pytest.approx(4 * (3 * 10 + 50) / 3600)
    assert (gasa.trainings, gasa.hours_are_complete, gasa.devices, gasa.peak_is_measured) == (
        4,
        True,
        ("Made GPU",),
        False,
    )


def test_cases_to_show(data: ReportData, root: Path) -> None:
    (report,) = data.groups
    assert [pick.kind for pick in report.picks] == ["worst", "median", "best", "named"]
    named = report.picks[-1]
    assert named.case == "case_002" and set(named.values) == {PLAIN, "GASA"}
    assert named.images == (root / "raw" / DATASET / "imagesTr" / "case_002_0000.nii.gz",)
    assert named.reference.is_file() and all(file.is_file() for file in named.predictions.values())
    assert all("seed0" in str(file) for file in named.predictions.values())
    assert data.problems == ("cases: nothing has predicted nobody yet, or no data set has it",)


def test_what_is_unfair(data: ReportData) -> None:
    kinds = [(each.kind, each.is_serious) for each in data.unfair]
    assert kinds == [("budget", True), ("checkpoint", False), ("statistics", False)]
    assert data.unfair[0].text.startswith(f"{PLAIN}, GASA: 3 epochs of 4 iterations are 0.0048 % of nnU-Net's 1000 x")
    assert data.label_curves == ()
    (report,) = data.groups
    assert report.comparison is not None
    for own in report.comparison.result("dice").methods:
        of_seeds = [report.dice[model] for model in report.group.models_of(own.method)]
        assert of_seeds == pytest.approx(own.seed_means, abs=1e-12)


def test_half_of_it_is_there(tmp_path: Path, described: Study, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    copy_results(root, tmp_path, monkeypatch)
    (group,) = groups(described)
    for model in group.models_of("GASA"):
        shutil.rmtree(model.folder)
    validation = group.models[0].fold_folder(1) / "validation"
    shutil.rmtree(validation)
    found = collect(described, tmp_path / "none.yaml", None, processes=1, examine=known)
    assert found.study_text == ""
    (report,) = found.groups
    assert report.comparison is None and report.tables == () and report.left_out == ("GASA",)
    assert report.why_none is not None and "nothing is finished of GASA" in report.why_none
    assert "GASA, seed 0: no fold is finished, so it is left out" in report.missing
    # what one row has is shown all the same
    assert [pick.kind for pick in report.picks] == ["worst", "median", "best", "named"]
    assert set(report.picks[0].predictions) == {PLAIN}
    gasa = found.costs[1]
    assert (gasa.epoch_seconds, gasa.device_hours, gasa.hours_are_complete) == (None, None, False)
    assert {each.state.kind for each in found.runs if each.run.row == "GASA"} == {"waiting"}
    assert any(each.kind == "unfinished" and each.is_serious for each in found.unfair)


def test_nothing_is_there(preprocessed: Path, tmp_path: Path) -> None:
    (preprocessed / "dataset.json").write_text("broken")
    described = study(datasets=("4", "911"), cases=("nobody",))
    found = collect(described, tmp_path / "study.yaml", tmp_path, processes=1, examine=known)
    assert found.problems[0].startswith("data set 911: nnU-Net's folders have none of this number")
    assert [info.classes for info in found.datasets] == [None] and found.datasets[0].splits == ()
    (report,) = found.groups
    assert report.why_none is not None and report.why_none.startswith("no fold is finished yet")
    assert report.picks == () and found.trained_on == () and len(found.runs) == 8
    unknown = "Dataset004_Made is not planned here, and nothing of it is trained"
    assert [(each.unknown, each.device_hours) for each in found.costs] == [(unknown, None)] * 2
    assert all(each.recipe is None and each.epochs == 3 for each in found.rows)
