"""Everything that a check finds before a study starts."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.cli import main
from nnunet_attn.commands.study_check import summary
from nnunet_attn.study import check as checking
from nnunet_attn.study.check import CheckReport, check
from nnunet_attn.study.cost import Cost
from nnunet_attn.study.findings import Finding
from nnunet_attn.study.matrix import runs
from nnunet_attn.study.memory import StepNeed, StepTask
from nnunet_attn.study.model import Study, read_study
from tests.study.conftest import DATASET

NEED = StepNeed(peak_bytes=10**6, parameters=1000, checkpoint_bytes=8000, epochs=1000)
ROWS = ("nnUNetTrainerPlain", "nnUNetTrainerGASA")


@pytest.fixture
def ready(preprocessed: Path) -> Path:
    """The preprocessed folder of a data set with which everything is right."""
    root = preprocessed.parents[1]
    description = {"file_ending": ".nii.gz", "numTraining": 5, "labels": {"background": 0, "a": 1}}
    raw = root / "raw" / DATASET
    raw.mkdir()
    for folder in (raw, preprocessed):
        (folder / "dataset.json").write_text(json.dumps(description))
    cases = [f"case_{index}" for index in range(5)]
    for folder, ending in (("nnUNetPlans_made_3d", ".pkl"), ("gt_segmentations", ".nii.gz")):
        (preprocessed / folder).mkdir()
        for case in cases:
            (preprocessed / folder / f"{case}{ending}").write_bytes(b"made")
    splits = [{"train": cases[1:], "val": cases[:1]}, {"train": cases[:-1], "val": cases[-1:]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    return preprocessed


def study_of(**more: Any) -> Study:
    return Study(**{"name": "made", "datasets": [4], "trainers": ROWS, "folds": [0, 1], "device": "cpu", **more})


def checked(study: Study, need: StepNeed | Callable[[StepTask], StepNeed] = NEED) -> CheckReport:
    def examine(tasks: Sequence[StepTask]) -> list[StepNeed]:
        return [need(task) if callable(need) else need for task in tasks]

    return check(study, examine)


def only(report: CheckReport, state: str = "problem") -> Finding:
    """The one finding of a state; the other kind may not be there."""
    (found,) = (*report.problems, *report.warnings)
    assert found.state == state
    return found


def test_a_study_that_can_run_has_no_findings(ready: Path) -> None:
    report = checked(study_of())
    assert not report.problems and not report.warnings
    assert report.cost is not None and report.cost.trainings == 4
    assert report.cost.hours is None and report.cost.unknown == ROWS
    texts = {each.what: each.text for each in report.findings}
    assert texts[f"{DATASET}, 3d_fullres"] == "5 cases preprocessed"
    text = "1,000 parameters; a training step needs 1.0 MB (estimate)"
    assert texts[f"nnUNetTrainerGASA on {DATASET}, 3d_fullres"] == text
    # 4 x 2 checkpoints, one more while it is written, and four predictions of one case
    assert report.cost.disk_bytes == 9 * 8000 + 4 * 4


def test_nothing_is_written(ready: Path) -> None:
    root = ready.parents[1]
    before = sorted(path for path in root.rglob("*"))
    checked(study_of(trainers=[ROWS[0], {"trainer": ROWS[1], "options": {"embed_dim": 50}}]))
    assert sorted(path for path in root.rglob("*")) == before


def _lose(ready: Path, what: str) -> None:
    path = ready / what
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("lost", "text", "remedy"),
    [
        ("dataset.json", "not planned yet", "nnUNetv2_plan_and_preprocess -d 4, then check again"),
        ("nnUNetPlans.json", "not planned yet", "nnUNetv2_plan_and_preprocess -d 4, then check again"),
        ("nnUNetPlans_made_3d/case_3.pkl", "has 4 of 5 cases", "wait, if it is being preprocessed; else nnUNetv2_prep"),
    ],
)
def test_what_the_run_makes_first_is_warned_about_where_it_keeps_something_from_being_checked(
    ready: Path, lost: str, text: str, remedy: str
) -> None:
    _lose(ready, lost)
    found = only(checked(study_of()), "warning")
    assert text in found.text and found.remedy.startswith(remedy)


def test_data_that_are_not_preprocessed_yet_are_no_problem(ready: Path) -> None:
    _lose(ready, "nnUNetPlans_made_3d")
    report = checked(study_of())
    assert not report.problems and not report.warnings
    assert any(each.text == "not preprocessed yet: study run does it" for each in report.findings)


def test_a_data_set_that_is_registered_only_can_be_checked(ready: Path) -> None:
    labels = ready.parents[1] / "raw" / DATASET / "labelsTr"
    labels.mkdir()
    (labels / "case_1.nii.gz").touch()
    shutil.rmtree(ready)
    report = checked(study_of(cases=["case_1"]))
    assert only(report, "warning").what == f"{DATASET}, nnUNetPlans"
    assert report.cost is not None and report.cost.trainings == 4
    assert "has no images" in checked(study_of(test_set=True)).problems[0].text


def test_plans_that_only_their_user_can_make_are_a_problem(ready: Path) -> None:
    found = checked(study_of(plans="nnUNetMinePlans")).problems
    assert found and all("-overwrite_plans_name nnUNetMinePlans" in each.text for each in found)
    found = only(checked(study_of(plans="nnUNetResEncUNetLPlans")), "warning")
    assert found.remedy.startswith("nnUNetv2_plan_and_preprocess -d 4 -pl nnUNetPlannerResEncL")


def test_a_data_set_that_is_nowhere_registered_is_a_problem(ready: Path) -> None:
    for folder in (ready, ready.parents[1] / "raw" / DATASET):
        (folder / "dataset.json").unlink()
    assert any("not registered" in each.text for each in checked(study_of()).problems)


def test_an_unknown_data_set_is_a_problem(ready: Path) -> None:
    assert "data set 77" in only(checked(study_of(datasets=[4, 77]))).text


def test_a_folder_that_is_not_set_is_a_problem(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_results")
    report = checked(study_of())
    assert only(report).what == "nnUNet_results" and report.cost is None


def test_a_configuration_that_the_plans_have_not_is_a_problem(ready: Path) -> None:
    report = checked(study_of(configurations=["3d_lowres"]))
    assert all("has no configuration 3d_lowres" in each.text for each in report.problems) and report.problems


def test_a_cascade_without_its_first_stage_is_warned_about(ready: Path) -> None:
    report = checked(study_of(configurations=["3d_cascade_fullres"]))
    assert not report.problems
    assert {each.remedy for each in report.warnings} == {"add 3d_lowres to configurations, before 3d_cascade_fullres"}


def test_folds_that_the_splits_have_not_are_a_problem(ready: Path) -> None:
    found = only(checked(study_of(folds=[0, 2, 4])))
    assert "2 folds, 0 to 1, but not 2, 4" in found.text
    _lose(ready, "splits_final.json")
    assert not checked(study_of(folds=[0, 4])).problems  # nnU-Net makes five
    assert "but not 5" in only(checked(study_of(folds=[5]))).text


def test_folds_with_few_labels_that_nobody_has_made_are_a_problem(ready: Path) -> None:
    report = checked(study_of(trainers=[ROWS[0], {"trainer": ROWS[1], "labels": [3]}]))
    assert "nnunet-attn splits -d 4 --labels 3" in only(report).text and report.cost is None


def test_a_test_set_without_images_is_a_problem_and_without_labels_a_warning(ready: Path) -> None:
    assert "has no images" in only(checked(study_of(test_set=True))).text
    images = ready.parents[1] / "raw" / DATASET / "imagesTs"
    images.mkdir()
    (images / "x_0000.nii.gz").touch()
    assert "has no labels" in only(checked(study_of(test_set=True)), "warning").text


def test_a_network_that_cannot_be_built_is_a_problem_of_its_row(ready: Path) -> None:
    def need(task: StepTask) -> StepNeed:
        return StepNeed(problem="num_heads must divide embed_dim") if "GASA" in task.trainer else NEED

    found = only(checked(study_of(), need))
    assert found.what == f"nnUNetTrainerGASA on {DATASET}, 3d_fullres" and "num_heads" in found.text


def test_tasks_have_the_budget_and_the_options_of_their_row(ready: Path) -> None:
    tasks: list[StepTask] = []

    def need(task: StepTask) -> StepNeed:
        tasks.append(task)
        return NEED

    rows = [ROWS[0], {"trainer": f"{ROWS[1]}_bf16", "options": {"embed_dim": 50}}]
    checked(study_of(trainers=rows, budget={"epochs": 3}, seeds=[1, 2]), need)
    assert [task.trainer for task in tasks] == ["nnUNetTrainerPlain_3epochs", "nnUNetTrainerGASA_bf16_3epochs"]
    assert tasks[1].plans["configurations"]["3d_fullres"]["nnunet_attn"]["GASAUNet"]["embed_dim"] == 50
    assert {task.device for task in tasks} == {"cpu"}


def test_what_a_budget_of_sizes_changes_is_said(ready: Path) -> None:
    budget = {"width": 0.5, "batch_size": 2}
    report = checked(study_of(trainers=[*ROWS, "nnUNetTrainerMAT"], budget=budget))
    (told,) = (each for each in report.findings if each.what == "budget")
    assert told.state == "ok"
    assert told.text.startswith(
        "all rows train with 0.5 times the planned features, in multiples of 8 and batches of 2"
    )
    assert not report.warnings and not report.problems
    assert not [each for each in checked(study_of(budget={"epochs": 3})).findings if each.what == "budget"]


def test_rows_whose_sizes_the_budget_does_not_change_are_warned_about(ready: Path) -> None:
    def warned(row: Any) -> list[str]:
        budget = {"width": 0.5, "batch_size": 2}
        return [each.remedy for each in checked(study_of(trainers=[ROWS[0], row], budget=budget)).warnings]

    (remedy,) = warned("nnUNetTrainerMedT")
    assert remedy.startswith("give the row options, such as {features: [8, 8, 16, 16]")
    assert not warned({"trainer": "nnUNetTrainerMedT", "options": {"num_heads": 4}})
    assert any("options: {batch_size: 2}" in each for each in warned("nnUNetTrainerPatchTransformer"))
    options = {"embed_dim": 64, "batch_size": 4}
    assert warned({"trainer": "nnUNetTrainerPatchTransformer", "options": options})
    assert not warned({"trainer": "nnUNetTrainerPatchTransformer", "options": {**options, "batch_size": 2}})


def test_what_is_listed_as_missing_is_warned_about(ready: Path) -> None:
    found = only(checked(study_of(missing={"what": "nnUNetTrainerSoon", "why": "nobody has written it"})), "warning")
    assert found.text == "is missing from the comparison: nobody has written it"
    come = only(checked(study_of(missing=[{"what": "nnUNetTrainerMAT", "why": "x"}])), "warning")
    assert come.remedy == "add it to trainers, and take it out of missing"


@pytest.mark.parametrize(
    ("need", "state", "text"),
    [
        (StepNeed(unknown="it took longer than 9 s"), "warning", "unknown: it took longer than 9 s"),
        (StepNeed(measured=True, free_bytes=10**9, total_bytes=2 * 10**9), "problem", "1.0 GB of 2.0 GB free"),
        (StepNeed(peak_bytes=3 * 10**9, free_bytes=10**9), "warning", "about 3.0 GB (estimate), 1.0 GB are free"),
    ],
)
def test_memory_that_does_not_suffice(ready: Path, need: StepNeed, state: str, text: str) -> None:
    report = checked(study_of(trainers=[ROWS[0]]), need)
    assert text in only(report, state).text


def test_a_study_for_a_gpu_that_is_not_here_is_warned_about(ready: Path) -> None:
    assert only(checked(study_of(device="cuda")), "warning").what == "device"
    gpu = StepNeed(peak_bytes=10**6, measured=True, free_bytes=10**9, total_bytes=10**9)
    assert not checked(study_of(device="cuda"), gpu).warnings


def test_a_full_disk_is_a_problem(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_attn.study.cost.free_disk_bytes", lambda _: 70_000)
    assert "need about 0.1 MB, 0.1 MB are free" in only(checked(study_of())).text
    monkeypatch.setattr("nnunet_attn.study.cost.free_disk_bytes", lambda _: 75_000)
    assert only(checked(study_of()), "warning").what == "disk"


def test_results_of_other_plans_are_in_the_way(ready: Path) -> None:
    study = study_of(trainers=[ROWS[0]])
    model = runs(study)[0].model_folder
    model.mkdir(parents=True)
    plans = json.loads((ready / "nnUNetPlans.json").read_text())
    (model / "plans.json").write_text(json.dumps(plans))
    assert not checked(study).problems
    plans["configurations"]["3d_fullres"].update(batch_size=3, patch_size=[8, 8, 8])
    (model / "plans.json").write_text(json.dumps(plans))
    found = only(checked(study))
    assert "batch_size, patch_size differ in 3d_fullres" in found.text and str(model) in found.remedy
    (model / "plans.json").write_text("{")
    assert "results in the way" in only(checked(study)).text


def test_what_a_trainer_notes_in_the_plans_of_its_results_is_not_in_the_way(ready: Path) -> None:
    rows = [ROWS[0], {"trainer": "nnUNetTrainerPatchTransformer", "options": {"train_cells": "auto"}}]
    study = study_of(trainers=rows)
    model = runs(study)[-1].model_folder
    model.mkdir(parents=True)
    from nnunet_attn.study.options import derived_plans

    plans = derived_plans(study, study.rows[1], DATASET)
    plans["nnunet_attn"] = {"fine_extent": {"3d_fullres": [16, 16, 16]}}
    entry = plans["configurations"]["3d_fullres"]["nnunet_attn"]
    entry["PatchTransformer"] = {"train_cells": 2, "batch_size": 4}
    (model / "plans.json").write_text(json.dumps(plans))
    assert not checked(study).problems
    entry["PatchTransformer"]["depth"] = 3
    (model / "plans.json").write_text(json.dumps(plans))
    assert "nnunet_attn differ in" in only(checked(study)).text


def test_attention_without_the_plain_network_is_warned_about(ready: Path) -> None:
    found = only(checked(study_of(trainers=[ROWS[1]])), "warning")
    assert found.what == "reference" and "nnUNetTrainerPlain" in found.remedy
    assert not checked(study_of(trainers=[ROWS[1], "nnUNetTrainer"])).warnings
    assert not checked(study_of(trainers=[ROWS[0]])).warnings  # nothing to compare it with


def test_from_16_gb_the_preset_nearest_in_memory_is_asked_for(ready: Path) -> None:
    def need(gb: float) -> Callable[[StepTask], StepNeed]:
        large = StepNeed(peak_bytes=int(gb * 1e9), measured=True, free_bytes=10**11, total_bytes=10**11)
        return lambda task: large if "GASA" in task.trainer else NEED

    assert not checked(study_of(), need(15.9)).warnings
    for gb, preset in ((16, "ResEncL"), (35, "ResEncXL")):
        found = only(checked(study_of(), need(gb)), "warning")
        assert (
            f"nnUNetPlanner{preset}" in found.text and f"nnUNet{preset.replace('Enc', 'EncUNet')}Plans" in found.remedy
        )
    plans = json.loads((ready / "nnUNetPlans.json").read_text())
    (ready / "nnUNetResEncUNetLPlans.json").write_text(json.dumps(plans | {"plans_name": "nnUNetResEncUNetLPlans"}))
    row = {"trainer": ROWS[0], "plans": "nnUNetResEncUNetLPlans", "name": "ResEncL"}
    assert not checked(study_of(trainers=[*ROWS, row]), need(20)).warnings


def test_cases_for_figures_that_are_nowhere_are_warned_about(ready: Path) -> None:
    found = only(checked(study_of(cases=["case_1", "case_9"])), "warning")
    assert found.text.startswith("case_9: ")


def test_the_command_prints_findings_jobs_and_hours(
    ready: Path, write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write("datasets: [4]\nfolds: [0]\ntrainers: [nnUNetTrainerGASA]\n")
    monkeypatch.setattr("nnunet_attn.commands.study_check.examine_steps", lambda tasks, **_: [NEED for _ in tasks])
    assert main(["study", "check", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "warning  reference: no row trains" in printed
    assert "jobs: 1 training, 0 of them done" in printed
    assert "training time: unknown for nnUNetTrainerGASA: nothing like it was trained here" in printed
    assert printed.endswith("no problems, 1 warning\n")
    file = write("datasets: [4]\nfolds: [7]\ntrainers: [nnUNetTrainerGASA]\n")
    assert main(["study", "check", str(file)]) == 2
    assert "1 problem, 1 warning: the study cannot run like this" in capsys.readouterr().out


def test_the_time_that_is_known_is_printed() -> None:
    cost = Cost(4, 1, 1, 2, seconds=7200.0, unknown=("mat",), disk_bytes=0, free_bytes=1)
    told = "2h00m, by the time of earlier epochs, on one device, without validation"
    assert summary(CheckReport((), {}, cost)) == [
        "jobs: 4 trainings, 1 of them done; 1 pre-training; 2 models to predict a test set",
        f"training time: {told}; unknown for mat: nothing like it was trained here",
        "the time of pre-training does not count here",
        "no problems, no warnings",
    ]
    assert summary(CheckReport((), {}, replace(cost, unknown=())))[1] == f"training time: {told}"


def test_a_trainer_that_does_not_exist_is_refused_by_name(ready: Path, write: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="nnUNetTrainerCoTr"):
        check(read_study(write("datasets: [4]\ntrainers: [nnUNetTrainerPlain, nnUNetTrainerCoTr]\n")))


def test_the_thresholds_are_those_of_the_presets() -> None:
    assert checking.PRESET_BYTES == (8 + 24) / 2 * 1e9
