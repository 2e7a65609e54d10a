"""What is done about a training in each state, with short scripts in place of nnU-Net that leave the same files."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.study.engine import training
from nnunet_attn.study.engine.devices import Resources
from nnunet_attn.study.engine.errors import JobError
from nnunet_attn.study.engine.locks import holder_lives, own_lock, read_lock
from nnunet_attn.study.engine.training import is_trained, train
from nnunet_attn.study.matrix import Run, nnunet_folder
from nnunet_attn.study.state import LOCK_FILE, read_state
from tests.made.training_logs import MadeTraining, seconds_now

EPOCHS = 4
CASES = ("case_1", "case_4")

TRAINER = """
import json, os, sys, time, zipfile
from pathlib import Path
fold, pause, *options = sys.argv[1:]
fold = Path(fold)
print("starts", *options, flush=True)
if "fail" in options:
    print("torch.OutOfMemoryError: CUDA out of memory.")
    sys.exit(1)
latest, final = fold / "checkpoint_latest.pth", fold / "checkpoint_final.pth"
def save(file, epoch):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("epoch", str(epoch))
if "--val" not in options:
    first = int(zipfile.ZipFile(latest).read("epoch")) if "--c" in options else 0
    for epoch in range(first, 4):
        print("epoch", epoch, flush=True)
        time.sleep(float(pause))
        save(latest, epoch + 1)
    save(final, 4)
    latest.unlink()
cases = [{"prediction_file": f"{fold}/validation/{case}.nii.gz"} for case in ("case_1", "case_4")]
(fold / "validation").mkdir(exist_ok=True)
summary = {"metric_per_case": cases, "foreground_mean": {"Dice": 1}}
(fold / "validation" / "summary.json").write_text(json.dumps(summary))
"""

JOB = """
import json, sys
from pathlib import Path
from nnunet_attn.study.engine.devices import Resources
from nnunet_attn.study.engine import training
from nnunet_attn.study.matrix import Run
run, log, script, pause = json.loads(sys.argv[1]), *sys.argv[2:]
training.POLL_SECONDS = 0.05
command = lambda run, options: [sys.executable, "-c", script, str(run.fold_folder), pause, *options]
training.train(Run(**run), Resources("cpu", 1), Path(log), command=command)
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "train.txt"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A training of a data set with plans and splits; nothing is trained."""
    made = Run("Dataset999_Made", "Plain", "nnUNetTrainer", "nnUNetPlans", "3d_fullres", 1)
    preprocessed = tmp_path / "preprocessed" / made.dataset
    preprocessed.mkdir(parents=True)
    splits = [{"train": [], "val": ["case_0"]}, {"train": ["case_0"], "val": list(CASES)}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    _write_plans(preprocessed / "nnUNetPlans.json", [8, 8, 8])
    for name in ("preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setattr(training, "POLL_SECONDS", 0.05)
    return made


def _preprocessed(run: Run) -> Path:
    return nnunet_folder("nnUNet_preprocessed") / run.dataset


def _write_plans(file: Path, patch: list[int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"plans_name": "nnUNetPlans", "configurations": {"3d_fullres": {"patch_size": patch}}}))


def _train(run: Run, log: Path, *more: str, pause: float = 0.0, **options: Any) -> None:
    def command(run: Run, options: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", TRAINER, str(run.fold_folder), str(pause), *options, *more]

    train(run, Resources("cpu", 1), log, command=command, **options)


def _lines(log: Path) -> list[str]:
    """What the trainings printed, without the notes beside."""
    return [line for line in log.read_text().splitlines() if not line.startswith("nnunet-attn")]


def _save(file: Path, epoch: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("epoch", str(epoch))


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def job(run: Run, log: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start jobs that train; what they leave is killed at the end."""
    jobs: list[subprocess.Popen[str]] = []

    def start(pause: float = 0.2) -> "subprocess.Popen[str]":
        words = [sys.executable, "-c", JOB, json.dumps(asdict(run)), str(log), TRAINER, str(pause)]
        jobs.append(subprocess.Popen(words, text=True))
        return jobs[-1]

    yield start
    for process in jobs:
        if process.poll() is None:
            process.kill()
        process.wait()
    held = read_lock(run.fold_folder / LOCK_FILE)
    if held is not None and held.pid != os.getpid() and holder_lives(held):
        os.killpg(held.pid, signal.SIGKILL)


def _assert_nobody_lives(run: Run) -> None:
    """Check that the lock tells of a process that is dead: the next job need not wait until the log is quiet."""
    lock = read_lock(run.fold_folder / LOCK_FILE)
    assert lock is not None
    assert holder_lives(lock) is False


EPOCH_LINES = [f"epoch {number}" for number in range(EPOCHS)]


def test_from_nothing_to_the_end_and_not_again(run: Run, log: Path) -> None:
    assert not is_trained(run)
    _train(run, log)
    assert is_trained(run)
    assert _lines(log) == ["starts", *EPOCH_LINES]
    assert not (run.fold_folder / LOCK_FILE).exists()
    before = log.read_text()
    _train(run, log)
    assert log.read_text() == before


def test_from_a_checkpoint_it_goes_on(run: Run, log: Path) -> None:
    _save(run.fold_folder / "checkpoint_latest.pth", 3)
    _train(run, log)
    assert _lines(log) == ["starts --c", "epoch 3"]


def test_from_the_final_checkpoint_it_validates(run: Run, log: Path) -> None:
    _save(run.fold_folder / "checkpoint_final.pth", EPOCHS)
    assert not is_trained(run)
    _train(run, log)
    assert _lines(log) == ["starts --val"]


def _validated(run: Run, cases: Sequence[str]) -> None:
    _save(run.fold_folder / "checkpoint_final.pth", EPOCHS)
    file = run.fold_folder / "validation" / "summary.json"
    file.parent.mkdir(exist_ok=True)
    each = [{"prediction_file": f"/elsewhere/{case}.nii.gz"} for case in cases]
    file.write_text(json.dumps({"metric_per_case": each, "foreground_mean": {"Dice": 0.5}}))


def test_a_foreign_training_counts_if_its_validation_is_whole(run: Run, log: Path) -> None:
    _validated(run, CASES)
    assert is_trained(run)
    _validated(run, CASES[:1])
    assert not is_trained(run)
    _train(run, log)
    assert _lines(log) == ["starts --val"]


def test_names_of_cases_may_have_points(run: Run) -> None:
    file = _preprocessed(run) / "splits_final.json"
    file.write_text(json.dumps([{}, {"val": ["a.1", "a.2"]}]))
    run.model_folder.mkdir(parents=True)
    (run.model_folder / "dataset.json").write_text('{"file_ending": ".nii.gz"}')
    _validated(run, ("a.1", "a.2"))
    assert is_trained(run)
    _validated(run, ("a.1", "a.3"))
    assert not is_trained(run)


def test_without_splits_what_was_validated_is_whole(run: Run) -> None:
    (_preprocessed(run) / "splits_final.json").unlink()
    _validated(run, ("any",))
    assert is_trained(run)


def test_pre_training_validates_in_its_own_way(run: Run) -> None:
    _save(run.fold_folder / "checkpoint_final.pth", EPOCHS)
    (run.fold_folder / "validation").mkdir()
    (run.fold_folder / "validation" / "reconstruction.json").write_text("{}")
    assert is_trained(run)


def test_other_splits_are_told_and_not_validated_over(run: Run, log: Path) -> None:
    _validated(run, ("case_0", "case_1"))
    with pytest.raises(JobError, match=r"\(case_0\), so it was trained with other splits"):
        _train(run, log)
    assert not log.exists()


def test_results_of_other_plans_are_told(run: Run, log: Path) -> None:
    _write_plans(run.model_folder / "plans.json", [16, 16, 16])
    with pytest.raises(JobError, match="results of other plans: patch_size differ") as caught:
        _train(run, log)
    assert str(run.model_folder) in caught.value.message
    assert str(_preprocessed(run) / "nnUNetPlans.json") in caught.value.message
    assert not log.exists()


def test_missing_plans_are_told(run: Run, log: Path) -> None:
    (_preprocessed(run) / "nnUNetPlans.json").unlink()
    with pytest.raises(InputError, match="plan first"):
        _train(run, log)


def test_a_failure_has_the_last_lines(run: Run, log: Path) -> None:
    with pytest.raises(JobError, match="exit code 1") as caught:
        _train(run, log, "fail")
    assert caught.value.log == log
    assert caught.value.last_lines == ("starts fail", "torch.OutOfMemoryError: CUDA out of memory.")
    _assert_nobody_lives(run)


def test_a_command_that_ends_well_without_results_failed(run: Run, log: Path) -> None:
    with pytest.raises(JobError, match="has no final checkpoint"):
        train(run, Resources("cpu", 1), log, command=lambda run, options: [sys.executable, "-c", "pass"])


def _break(file: Path) -> None:
    _save(file, 2)
    file.write_bytes(file.read_bytes()[:-9])


def test_a_broken_checkpoint_is_put_aside_for_an_older_one(run: Run, log: Path) -> None:
    latest = run.fold_folder / "checkpoint_latest.pth"
    _save(latest, 3)
    _break(run.fold_folder / "checkpoint_final.pth")  # killed while nnU-Net wrote it
    _train(run, log)
    assert _lines(log) == ["starts --c", "epoch 3"]
    assert "checkpoint_final.pth cannot be read, as after a kill" in log.read_text()
    assert (run.fold_folder / "checkpoint_final.pth.broken").is_file()


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_broken_checkpoint_alone_is_begun_anew_only_after_the_first_epoch(run: Run, log: Path, epochs: int) -> None:
    MadeTraining(run.fold_folder, EPOCHS).start().train(0, epochs)
    latest = run.fold_folder / "checkpoint_latest.pth"
    _break(latest)
    if epochs == 1:
        with pytest.raises(JobError, match="has no final checkpoint"):  # the logs say that it did not end
            _train(run, log)
        assert _lines(log) == ["starts", *EPOCH_LINES]
        return
    with pytest.raises(JobError, match="no other checkpoint after 2 epochs; put a copy") as caught:
        _train(run, log)
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


def test_a_living_process_is_waited_for(run: Run, log: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    file = run.fold_folder / LOCK_FILE
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"pid": other.pid, "host": own_lock(file).host}))
    thread = threading.Thread(target=_train, args=(run, log))
    thread.start()
    _until(log.exists)
    time.sleep(0.3)
    assert _lines(log) == []
    other.communicate(b"\n")
    thread.join(30)
    waited, ended = (line for line in log.read_text().splitlines() if line.startswith("nnunet-attn"))
    assert f"waits for process {other.pid} on " in waited
    assert ended.endswith("it has ended")
    assert is_trained(run)


def test_a_training_started_by_hand_is_waited_for_until_it_is_quiet(run: Run, log: Path) -> None:
    made = MadeTraining(run.fold_folder, EPOCHS, clock=seconds_now() - 300).start().train(0, 3)
    _save(run.fold_folder / "checkpoint_latest.pth", 3)
    thread = threading.Thread(target=_train, args=(run, log))
    thread.start()
    _until(log.exists)
    assert "a training that was started otherwise" in log.read_text()
    assert _lines(log) == []
    made.clock += 10.0
    made.epoch(3)
    made.finish().predict(2).validate()
    _validated(run, CASES)
    thread.join(30)
    assert _lines(log) == []
    assert is_trained(run)


def test_a_dead_holders_fresh_log_is_not_waited_for_but_that_of_a_later_start_is(run: Run, log: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    now = seconds_now()
    made = MadeTraining(run.fold_folder, EPOCHS, clock=now - 20, seconds=2).start().train(0, 3)
    file = run.fold_folder / LOCK_FILE
    file.write_text(json.dumps({"pid": dead.pid, "host": own_lock(file).host}))
    os.utime(file, (now - 21, now - 21))
    lock = read_lock(file)
    assert training._training_process(run, lock) is None
    made.start().train(2, 3)  # somebody went on by hand
    text = training._training_process(run, lock)
    assert text is not None
    assert "started otherwise" in text


@pytest.mark.kill
def test_of_two_jobs_at_once_one_trains_and_both_end_well(
    run: Run, log: Path, job: Callable[..., "subprocess.Popen[str]"]
) -> None:
    first, second = job(0.1), job(0.1)
    assert (first.wait(60), second.wait(60)) == (0, 0)
    assert _lines(log) == ["starts", *EPOCH_LINES]
    assert is_trained(run)


@pytest.mark.kill
def test_the_orphan_of_a_killed_job_is_waited_for(
    run: Run, log: Path, job: Callable[..., "subprocess.Popen[str]"]
) -> None:
    killed = job(0.6)
    _until(lambda: log.exists() and "epoch 0" in log.read_text())
    killed.kill()
    killed.wait()
    orphan = read_lock(run.fold_folder / LOCK_FILE)
    assert orphan is not None
    assert holder_lives(orphan)
    assert job().wait(60) == 0
    assert f"waits for {orphan}, which trains in {run.fold_folder}" in log.read_text()
    assert _lines(log) == ["starts", *EPOCH_LINES]
    assert is_trained(run)
    assert not (run.fold_folder / LOCK_FILE).exists()


@pytest.mark.kill
def test_a_killed_training_goes_on_from_its_checkpoint(
    run: Run, log: Path, job: Callable[..., "subprocess.Popen[str]"]
) -> None:
    killed = job(0.3)
    _until(lambda: log.exists() and "epoch 2" in log.read_text())
    killed.kill()
    killed.wait()
    orphan = read_lock(run.fold_folder / LOCK_FILE)
    assert orphan is not None
    os.killpg(orphan.pid, signal.SIGKILL)
    assert job(0.0).wait(60) == 0
    assert _lines(log) == ["starts", *EPOCH_LINES[:3], "starts --c", *EPOCH_LINES[2:]]
    assert is_trained(run)


@pytest.mark.kill
def test_a_terminated_job_ends_its_training_and_the_next_goes_on(
    run: Run, log: Path, job: Callable[..., "subprocess.Popen[str]"]
) -> None:
    ended = job(0.3)
    _until(lambda: log.exists() and "epoch 2" in log.read_text())
    ended.send_signal(signal.SIGTERM)
    assert ended.wait(30) == -signal.SIGTERM
    _assert_nobody_lives(run)
    assert job(0.0).wait(60) == 0
    assert not (run.fold_folder / LOCK_FILE).exists()
    assert _lines(log)[-3:] == ["starts --c", *EPOCH_LINES[2:]]


@pytest.mark.kill
def test_a_terminated_training_is_not_waited_for_though_its_log_is_fresh(
    run: Run, log: Path, job: Callable[..., "subprocess.Popen[str]"]
) -> None:
    ended = job(0.3)
    _until(lambda: log.exists() and "epoch 2" in log.read_text())
    ended.send_signal(signal.SIGTERM)
    ended.wait(30)
    # nnU-Net's own log looks as if it trained now
    now = time.localtime()
    (run.fold_folder / time.strftime("training_log_%Y_%m_%d_%H_%M_%S.txt", now)).write_text(
        time.strftime("%Y-%m-%d %H:%M:%S.000000: Epoch 2\n", now)
    )
    assert read_state(run.fold_folder).kind == "running"
    job(0.0).wait(60)
    assert "waits for" not in log.read_text()
    assert _lines(log)[-3:] == ["starts --c", *EPOCH_LINES[2:]]
