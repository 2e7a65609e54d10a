"""The jobs of a study: what depends on what, and names that stay when the study changes."""

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.study.engine.jobs import KINDS, Job, job_name, jobs, pretrained_trainer
from nnunet_attn.study.matrix import runs
from nnunet_attn.study.model import Study

DATASET = "Dataset004_Made"
PLAIN, GASA = "nnUNetTrainerPlain", "nnUNetTrainerGASA"


def made(**fields: Any) -> Study:
    given: dict[str, Any] = {"name": "s", "datasets": (4,), "trainers": (PLAIN, GASA), "folds": (0, 1)}
    return Study.model_validate({**given, **fields})


def by_name(study: Study) -> dict[str, Job]:
    return {job.name: job for job in jobs(study)}


def of_kind(study: Study, kind: str) -> list[Job]:
    return [job for job in jobs(study) if job.kind == kind]


def before(job: Job, known: dict[str, Job]) -> set[str]:
    """All that a job needs, directly or not."""
    return set(job.needs).union(*(before(known[need], known) for need in job.needs))


def test_each_step_is_a_job_once_and_needs_only_what_comes_before_it(preprocessed: Path) -> None:
    found = jobs(made(seeds=(0, 1)))
    names = [job.name for job in found]
    assert len(set(names)) == len(names)
    counts = {kind: sum(job.kind == kind for job in found) for kind in KINDS}
    # 2 rows x 2 seeds x 2 folds, evaluated by row and seed
    assert counts == {
        "plan": 1,
        "preprocess": 1,
        "plans": 0,
        "pretrain": 0,
        "train": 8,
        "predict": 0,
        "evaluate": 4,
        "compare": 1,
        "report": 1,
    }
    for index, job in enumerate(found):
        assert set(job.needs) <= set(names[:index]), job.name


def test_the_report_needs_everything(preprocessed: Path) -> None:
    known = by_name(made(seeds=(0, 1)))
    assert before(known["report"], known) == set(known) - {"report"}


def test_names_are_safe_as_file_names(preprocessed: Path) -> None:
    options = {"name": "GASA wide", "trainer": GASA, "options": {"embed_dim": 50}}
    for job in jobs(made(trainers=(PLAIN, options))):
        assert job_name(job.name) == job.name
        assert set(job.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")


def test_long_and_odd_names_are_shortened_and_stay_different() -> None:
    long = [job_name("train", "x" * 400, f"fold_{fold}") for fold in (0, 1)]
    odd = [job_name("plan", name) for name in ("Dataset001_a b", "Dataset001_a/b", "Dataset001_a-b")]
    assert len({*long, *odd}) == 5
    assert all(len(name) < 200 and "/" not in name and " " not in name for name in (*long, *odd))


def test_rows_seeds_and_folds_that_come_change_no_other_training(preprocessed: Path) -> None:
    few, many = made(), made(trainers=(GASA, PLAIN, "nnUNetTrainerFINE"), folds=(0, 1, 2))
    trained = {job.name: job.needs for job in of_kind(few, "train")}
    assert trained.items() <= {job.name: job.needs for job in of_kind(many, "train")}.items()


def test_a_row_that_is_called_otherwise_has_the_same_jobs(preprocessed: Path) -> None:
    named = made(trainers=({"trainer": PLAIN, "name": "U-Net"}, GASA))
    kinds = [kind for kind in KINDS if kind not in ("compare", "report")]
    for kind in kinds:
        assert [job.name for job in of_kind(named, kind)] == [job.name for job in of_kind(made(), kind)]


def test_rows_that_predict_differently_share_their_trainings(preprocessed: Path) -> None:
    row = {"trainer": GASA, "name": "by softmax", "ensemble": "softmax"}
    study = made(trainers=(GASA, row), test_set=True)
    assert len(runs(study)) == 4
    assert len(of_kind(study, "train")) == 2
    assert len(of_kind(study, "evaluate")) == 1
    assert len(of_kind(study, "predict")) == 2
    (compared,) = of_kind(study, "compare")  # without labels of test cases nothing is compared there
    assert compared.group is not None and not compared.group.test


def test_test_cases_are_compared_where_they_have_labels(preprocessed: Path) -> None:
    labels = preprocessed.parents[1] / "raw" / DATASET / "labelsTs"
    labels.mkdir(parents=True)
    (labels / "case.nii.gz").touch()
    study = made(test_set=True)
    known = by_name(study)
    (tested,) = [job for job in of_kind(study, "compare") if job.group is not None and job.group.test]
    assert {known[need].kind for need in tested.needs} == {"predict"}


def test_one_row_is_compared_with_nothing(preprocessed: Path) -> None:
    study = made(trainers=(PLAIN,))
    assert not of_kind(study, "compare")
    assert len(of_kind(study, "evaluate")) == 1


def test_options_are_trained_with_derived_plans_and_the_same_data(preprocessed: Path) -> None:
    study = made(trainers=(GASA, {"trainer": GASA, "name": "wide", "options": {"embed_dim": 50}}))
    (derived,), (data,) = of_kind(study, "plans"), of_kind(study, "preprocess")
    wide = [job for job in of_kind(study, "train") if job.row == "wide"]
    assert len(wide) == 2
    assert all(set(job.needs) == {derived.name, data.name} for job in wide)
    assert all(derived.name not in job.needs for job in of_kind(study, "train") if job.row == GASA)


def test_a_model_is_pretrained_once_for_all_its_folds(preprocessed: Path) -> None:
    study = made(trainers=(PLAIN, {"trainer": GASA, "pretrain": "inpaint"}), seeds=(0, 1))
    pretrainings = of_kind(study, "pretrain")
    assert len(pretrainings) == 2
    users = [job for job in of_kind(study, "train") if job.row == GASA]
    assert len(users) == 4
    for job in users:
        (used,) = [each for each in pretrainings if each.name in job.needs]
        assert used.run is not None and job.run is not None
        assert used.run.seed == job.run.seed


def test_the_pretraining_can_have_epochs_of_its_own(preprocessed: Path) -> None:
    (run,) = runs(made(trainers=(f"{GASA}_bf16",), folds=(0,), seeds=(3,), budget={"epochs": 5}))
    assert run.trainer == "nnUNetTrainerGASA_bf16_5epochs_seed3"
    assert pretrained_trainer(run, None) == run.trainer
    assert pretrained_trainer(run, 20) == "nnUNetTrainerGASA_20epochs_bf16_seed3"


def test_a_cascade_waits_for_all_folds_of_its_first_stage(preprocessed: Path) -> None:
    file = preprocessed / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_lowres"] = plans["configurations"]["3d_fullres"]
    file.write_text(json.dumps(plans))
    study = made(configurations=("3d_cascade_fullres", "3d_lowres"), trainers=(PLAIN,))
    names = [job.name for job in jobs(study)]
    first = {job.name for job in of_kind(study, "train") if job.configuration == "3d_lowres"}
    second = [job for job in of_kind(study, "train") if job.configuration != "3d_lowres"]
    assert len(first) == len(second) == 2
    for job in second:
        assert first <= set(job.needs)
        assert all(names.index(need) < names.index(job.name) for need in job.needs)


@pytest.mark.parametrize("change", [{"metrics": ("dice",)}, {"tolerance": 2.0}, {"surface": "erosion"}])
def test_what_is_measured_decides_evaluations_and_no_training(preprocessed: Path, change: dict[str, Any]) -> None:
    old, new = by_name(made()), by_name(made(**change))
    assert old.keys() == new.keys()
    differing = {job.kind for name, job in old.items() if job.settings != new[name].settings}
    assert differing == {"evaluate", "report"}
