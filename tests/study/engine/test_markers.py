"""Which jobs are open is told from nnU-Net's files: finished trainings of anybody count, and are never done again."""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.study.engine.jobs import Job, jobs
from nnunet_attn.study.engine.markers import (
    is_done,
    marked_outputs,
    marker_file,
    read_marker,
    synchronise,
    why_open,
    write_marker,
)
from nnunet_attn.study.model import Study
from tests.made.results import DATASET
from tests.study.engine.conftest import A, B


def made(**fields: Any) -> Study:
    given: dict[str, Any] = {"name": "s", "datasets": (910,), "trainers": (A, B), "folds": (0, 1)}
    return Study.model_validate({**given, **fields})


def fold(root: Path, trainer: str = A, number: int = 0) -> Path:
    return root / "results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres" / f"fold_{number}"


def kinds(study: Study, folder: Path, **options: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in synchronise(study, jobs(study), folder, **options):
        found[each.job.kind] = found.get(each.job.kind, 0) + 1
    return found


def finish(study: Study, folder: Path) -> None:
    """Mark all that is open as done, as if it had been done now."""
    for each in synchronise(study, jobs(study), folder):
        job = next(job for job in jobs(study) if job.name == each.job.name)
        write_marker(study, job, folder, [folder])


def the(study: Study, kind: str) -> Job:
    return next(job for job in jobs(study) if job.kind == kind)


def test_trainings_of_others_count_and_what_they_were_made_from_is_not_missed(root: Path, tmp_path: Path) -> None:
    # neither preprocessed cases nor a log of this package are there
    assert kinds(made(), tmp_path / "s") == {"evaluate": 2, "compare": 1, "report": 1}
    marker = read_marker(tmp_path / "s", the(made(), "train").name)
    assert marker is not None and marker["found"] is True


def test_looking_changes_nothing(root: Path, tmp_path: Path) -> None:
    assert kinds(made(), tmp_path / "s", keep=True)
    assert not (tmp_path / "s").exists()


def test_open_jobs_need_only_open_jobs(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(fold(root))
    opened = synchronise(made(), jobs(made()), tmp_path / "s")
    names = [each.job.name for each in opened]
    for index, each in enumerate(opened):
        assert set(each.job.needs) <= set(names[:index])
    assert {each.job.kind for each in opened} == {"preprocess", "train", "evaluate", "compare", "report"}
    assert sum(each.job.kind == "train" for each in opened) == 1


def test_nothing_is_open_when_everything_is_done(root: Path, tmp_path: Path) -> None:
    finish(made(), tmp_path / "s")
    assert kinds(made(), tmp_path / "s") == {}
    assert all(is_done(made(), job, tmp_path / "s") for job in jobs(made()) if job.kind != "preprocess")


def test_a_marker_without_its_work_is_removed(root: Path, tmp_path: Path) -> None:
    study, folder = made(), tmp_path / "s"
    finish(study, folder)
    (fold(root) / "checkpoint_final.pth").unlink()
    assert kinds(study, folder)["train"] == 1
    trained = [job for job in jobs(study) if job.kind == "train"]
    assert [marker_file(folder, job.name).exists() for job in trained].count(False) == 1


def test_a_deleted_marker_of_a_training_is_written_again(root: Path, tmp_path: Path) -> None:
    study, folder = made(), tmp_path / "s"
    finish(study, folder)
    shutil.rmtree(folder / "markers")
    assert "train" not in kinds(study, folder)
    assert marker_file(folder, the(study, "train").name).exists()


@pytest.mark.parametrize("what", ["checkpoint_final.pth", "validation/summary.json", "../plans.json"])
def test_files_that_are_touched_train_nothing_again(root: Path, tmp_path: Path, what: str) -> None:
    study, folder = made(), tmp_path / "s"
    finish(study, folder)
    os.utime(fold(root) / what)
    assert "train" not in kinds(study, folder)


def test_other_validation_results_are_evaluated_again(root: Path, tmp_path: Path) -> None:
    study, folder = made(), tmp_path / "s"
    finish(study, folder)
    os.utime(fold(root) / "validation" / "summary.json")
    assert kinds(study, folder) == {"evaluate": 1, "compare": 1, "report": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tolerance": 2.0}, {"evaluate": 2, "compare": 1, "report": 1}),
        ({"reference": B}, {"compare": 1, "report": 1}),
        ({"cases": ("case_001",)}, {"report": 1}),
        ({"trainers": ({"trainer": A, "name": "U-Net"}, B)}, {"compare": 1, "report": 1}),
        ({"folds": (0, 1, 2)}, {"evaluate": 2, "compare": 1, "report": 1}),
    ],
)
def test_a_changed_study_repeats_what_it_changes_and_no_training(
    root: Path, tmp_path: Path, change: dict[str, Any], expected: dict[str, int]
) -> None:
    finish(made(), tmp_path / "s")
    assert kinds(made(**change), tmp_path / "s") == expected


def test_a_row_that_comes_is_trained_alone(root: Path, tmp_path: Path) -> None:
    finish(made(), tmp_path / "s")
    more = made(trainers=(A, B, "nnUNetTrainerFINE"))
    opened = synchronise(more, jobs(more), tmp_path / "s")
    assert {each.job.row for each in opened if each.job.kind in ("train", "evaluate")} == {"nnUNetTrainerFINE"}
    assert sum(each.job.kind == "train" for each in opened) == 2


def test_a_study_can_lie_elsewhere(root: Path, tmp_path: Path) -> None:
    finish(made(), tmp_path / "s")
    (tmp_path / "s").rename(tmp_path / "t")
    assert kinds(made(), tmp_path / "t") == {}


def test_what_a_marker_names_has_to_be_there(root: Path, tmp_path: Path) -> None:
    study, folder = made(), tmp_path / "s"
    job, file = the(study, "evaluate"), fold(root) / "some.json"
    file.write_text("{}")
    write_marker(study, job, folder, [file])
    assert marked_outputs(folder, job.name) == [file]
    assert is_done(study, job, folder)
    file.unlink()
    assert why_open(study, job, folder) == "some.json is gone"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": 3}'])
def test_a_damaged_marker_counts_as_none(root: Path, tmp_path: Path, content: str) -> None:
    study, folder = made(), tmp_path / "s"
    finish(study, folder)
    marker_file(folder, the(study, "evaluate").name).write_text(content)
    assert kinds(study, folder) == {"evaluate": 1, "compare": 1, "report": 1}


def test_a_training_that_stopped_says_how_far_it_came(root: Path, tmp_path: Path) -> None:
    from tests.made.training_logs import MadeTraining

    shutil.rmtree(fold(root))
    training = MadeTraining(fold(root), epochs=10).start()
    for number in range(3):
        training.epoch(number)
    assert str(why_open(made(), the(made(), "train"), tmp_path / "s")).startswith("stopped at epoch 3 of 10")


def test_the_lock_of_a_finished_training_that_was_killed_is_cleared(root: Path, tmp_path: Path) -> None:
    dead, other = fold(root) / "nnunet_attn_lock.json", fold(root, B) / "nnunet_attn_lock.json"
    dead.write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}))  # more than Linux gives
    other.write_text(json.dumps({"pid": 1, "host": "another-machine"}))
    assert "train" not in kinds(made(), tmp_path / "s", keep=True)
    assert dead.exists()
    assert "train" not in kinds(made(), tmp_path / "s")
    assert not dead.exists() and other.exists()
