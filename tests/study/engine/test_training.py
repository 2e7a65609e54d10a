"""What is done about a training in each state of its files, with short scripts in place of nnU-Net."""

import json
import sys
import time
from pathlib import Path

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.study.engine import training
from nnunet_attn.study.engine.devices import Resources
from nnunet_attn.study.engine.errors import JobError
from nnunet_attn.study.engine.training import is_trained, train
from nnunet_attn.study.matrix import Run
from nnunet_attn.study.state import LOCK_FILE
from tests.made.scripted_training import (
    CASES,
    EPOCH_LINES,
    EPOCHS,
    assert_nobody_lives,
    preprocessed_folder,
    printed,
    save_checkpoint,
    train_by_script,
    write_plans_with_patch,
    write_validation,
)
from tests.made.training_logs import MadeTraining


def test_from_nothing_to_the_end_and_not_again(run: Run, log: Path) -> None:
    assert not is_trained(run)
    train_by_script(run, log)
    assert is_trained(run)
    assert printed(log) == ["starts", *EPOCH_LINES]
    assert not (run.fold_folder / LOCK_FILE).exists()
    before = log.read_text()
    train_by_script(run, log)
    assert log.read_text() == before


def test_from_a_checkpoint_it_goes_on(run: Run, log: Path) -> None:
    save_checkpoint(run.fold_folder / "checkpoint_latest.pth", 3)
    train_by_script(run, log)
    assert printed(log) == ["starts --c", "epoch 3"]


def test_from_the_final_checkpoint_it_validates(run: Run, log: Path) -> None:
    save_checkpoint(run.fold_folder / "checkpoint_final.pth", EPOCHS)
    assert not is_trained(run)
    train_by_script(run, log)
    assert printed(log) == ["starts --val"]


def test_a_foreign_training_counts_if_its_validation_is_whole(run: Run, log: Path) -> None:
    write_validation(run, CASES)
    assert is_trained(run)
    write_validation(run, CASES[:1])
    assert not is_trained(run)
    train_by_script(run, log)
    assert printed(log) == ["starts --val"]


def test_names_of_cases_may_have_points(run: Run) -> None:
    file = preprocessed_folder(run) / "splits_final.json"
    file.write_text(json.dumps([{}, {"val": ["a.1", "a.2"]}]))
    run.model_folder.mkdir(parents=True)
    (run.model_folder / "dataset.json").write_text('{"file_ending": ".nii.gz"}')
    write_validation(run, ("a.1", "a.2"))
    assert is_trained(run)
    write_validation(run, ("a.1", "a.3"))
    assert not is_trained(run)


def test_without_splits_what_was_validated_is_whole(run: Run) -> None:
    (preprocessed_folder(run) / "splits_final.json").unlink()
    write_validation(run, ("any",))
    assert is_trained(run)


def test_pre_training_validates_in_its_own_way(run: Run) -> None:
    save_checkpoint(run.fold_folder / "checkpoint_final.pth", EPOCHS)
    (run.fold_folder / "validation").mkdir()
    (run.fold_folder / "validation" / "reconstruction.json").write_text("{}")
    assert is_trained(run)


def test_other_splits_are_told_and_not_validated_over(run: Run, log: Path) -> None:
    write_validation(run, ("case_0", "case_1"))
    with pytest.raises(JobError, match=r"\(case_0\), so it was trained with other splits"):
        train_by_script(run, log)
    assert not log.exists()


@pytest.mark.parametrize("with_log", [True, False])
def test_what_was_validated_is_not_trained_again_where_its_checkpoints_are_gone(
    run: Run, log: Path, with_log: bool
) -> None:
    if with_log:
        MadeTraining(run.fold_folder, EPOCHS).start().train(0, EPOCHS).finish().predict(2).validate()
    write_validation(run, CASES)
    (run.fold_folder / "checkpoint_final.pth").unlink()
    with pytest.raises(JobError, match=r"was trained and validated, but its checkpoint_final\.pth is gone; put"):
        train_by_script(run, log)
    save_checkpoint(run.fold_folder / "checkpoint_best.pth", 2)
    with pytest.raises(JobError, match="move the folder away"):
        train_by_script(run, log)
    assert not log.exists()


def test_results_of_other_plans_are_told(run: Run, log: Path) -> None:
    write_plans_with_patch(run.model_folder / "plans.json", [16, 16, 16])
    with pytest.raises(JobError, match="results of other plans: patch_size differ") as caught:
        train_by_script(run, log)
    assert str(run.model_folder) in caught.value.message
    assert str(preprocessed_folder(run) / "nnUNetPlans.json") in caught.value.message
    assert not log.exists()


def test_plans_that_another_fold_is_just_writing_are_read_again(
    run: Run, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run.model_folder / "plans.json"
    write_plans_with_patch(file, [8, 8, 8])
    whole = file.read_text()
    file.write_text(whole[:20])
    pause = time.sleep

    def written(seconds: float) -> None:
        file.write_text(whole)
        pause(seconds)

    monkeypatch.setattr(training.time, "sleep", written)
    train_by_script(run, log)
    assert is_trained(run)


def test_missing_plans_are_told(run: Run, log: Path) -> None:
    (preprocessed_folder(run) / "nnUNetPlans.json").unlink()
    with pytest.raises(InputError, match="plan first"):
        train_by_script(run, log)


def test_a_failure_has_the_last_lines(run: Run, log: Path) -> None:
    with pytest.raises(JobError, match="exit code 1") as caught:
        train_by_script(run, log, "fail")
    assert caught.value.log == log
    assert caught.value.last_lines == ("starts fail", "torch.OutOfMemoryError: CUDA out of memory.")
    assert_nobody_lives(run)


def test_a_command_that_ends_well_without_results_failed(run: Run, log: Path) -> None:
    with pytest.raises(JobError, match="has no final checkpoint"):
        train(run, Resources("cpu", 1), log, command=lambda run, options: [sys.executable, "-c", "pass"])


def _break(file: Path) -> None:
    save_checkpoint(file, 2)
    file.write_bytes(file.read_bytes()[:-9])


def test_a_broken_checkpoint_is_put_aside_for_an_older_one(run: Run, log: Path) -> None:
    latest = run.fold_folder / "checkpoint_latest.pth"
    save_checkpoint(latest, 3)
    _break(run.fold_folder / "checkpoint_final.pth")  # killed while nnU-Net wrote it
    train_by_script(run, log)
    assert printed(log) == ["starts --c", "epoch 3"]
    assert "checkpoint_final.pth cannot be read, as after a kill" in log.read_text()
    assert (run.fold_folder / "checkpoint_final.pth.broken").is_file()


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_broken_checkpoint_alone_is_begun_anew_only_after_the_first_epoch(run: Run, log: Path, epochs: int) -> None:
    MadeTraining(run.fold_folder, EPOCHS).start().train(0, epochs)
    latest = run.fold_folder / "checkpoint_latest.pth"
    _break(latest)
    if epochs == 1:
        with pytest.raises(JobError, match="has no final checkpoint"):  # the logs say that it did not end
            train_by_script(run, log)
        assert printed(log) == ["starts", *EPOCH_LINES]
        return
    with pytest.raises(JobError, match="no other checkpoint after 2 epochs; put a copy") as caught:
        train_by_script(run, log)
    assert str(latest) in caught.value.message
    assert latest.is_file()
    assert not log.exists()


def test_weights_are_for_the_start_alone(run: Run, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    stock = training._Stock("cpu", weights)
    with pytest.raises(InputError, match="does not exist; pre-train first"):
        stock(run, [])
    weights.touch()
    program, *words = stock(run, [])
    assert Path(program).name == "nnUNetv2_train"
    start = [run.dataset, "3d_fullres", "1", "-tr", "nnUNetTrainer", "-p", "nnUNetPlans", "-device", "cpu"]
    assert words == [*start, "-pretrained_weights", str(weights)]
    assert list(stock(run, ["--c"]))[1:] == [*start, "--c"]
    assert "-device" not in training._Stock(None, None)(run, [])
