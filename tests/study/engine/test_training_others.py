"""Trainings that others do, or that are killed, with short scripts in place of nnU-Net."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from nnunet_attn.study.engine import training
from nnunet_attn.study.engine.locks import holder_lives, own_lock, read_lock
from nnunet_attn.study.engine.training import is_trained
from nnunet_attn.study.matrix import Run
from nnunet_attn.study.state import LOCK_FILE, read_state
from tests.made.scripted_training import (
    CASES,
    EPOCH_LINES,
    EPOCHS,
    JOB,
    TRAINER,
    assert_nobody_lives,
    printed,
    save_checkpoint,
    train_by_script,
    wait_until,
    write_validation,
)
from tests.made.training_logs import MadeTraining, seconds_now


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


def test_a_living_process_is_waited_for(run: Run, log: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    file = run.fold_folder / LOCK_FILE
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"pid": other.pid, "host": own_lock(file).host}))
    thread = threading.Thread(target=train_by_script, args=(run, log))
    thread.start()
    wait_until(log.exists)
    time.sleep(0.3)
    assert printed(log) == []
    other.communicate(b"\n")
    thread.join(30)
    waited, ended = (line for line in log.read_text().splitlines() if line.startswith("nnunet-attn"))
    assert f"waits for process {other.pid} on " in waited
    assert ended.endswith("it has ended")
    assert is_trained(run)


def test_a_training_started_by_hand_is_waited_for_until_it_is_quiet(run: Run, log: Path) -> None:
    made = MadeTraining(run.fold_folder, EPOCHS, clock=seconds_now() - 300).start().train(0, 3)
    save_checkpoint(run.fold_folder / "checkpoint_latest.pth", 3)
    thread = threading.Thread(target=train_by_script, args=(run, log))
    thread.start()
    wait_until(log.exists)
    assert "a training that was started otherwise" in log.read_text()
    assert printed(log) == []
    made.clock += 10.0
    made.epoch(3)
    made.finish().predict(2).validate()
    write_validation(run, CASES)
    thread.join(30)
    assert printed(log) == []
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
    assert printed(log) == ["starts", *EPOCH_LINES]
    assert is_trained(run)


@pytest.mark.kill
def test_the_orphan_of_a_killed_job_is_waited_for(
    run: Run, log: Path, job: Callable[..., "subprocess.Popen[str]"]
) -> None:
    killed = job(0.6)
    wait_until(lambda: log.exists() and "epoch 0" in log.read_text())
    killed.kill()
    killed.wait()
    orphan = read_lock(run.fold_folder / LOCK_FILE)
    assert orphan is not None
    assert holder_lives(orphan)
    assert job().wait(60) == 0
    assert f"waits for {orphan}, which trains in {run.fold_folder}" in log.read_text()
    assert printed(log) == ["starts", *EPOCH_LINES]
    assert is_trained(run)
    assert not (run.fold_folder / LOCK_FILE).exists()


@pytest.mark.kill
def test_a_killed_training_goes_on_from_its_checkpoint(
    run: Run, log: Path, job: Callable[..., "subprocess.Popen[str]"]
) -> None:
    killed = job(0.3)
    wait_until(lambda: log.exists() and "epoch 2" in log.read_text())
    killed.kill()
    killed.wait()
    orphan = read_lock(run.fold_folder / LOCK_FILE)
    assert orphan is not None
    os.killpg(orphan.pid, signal.SIGKILL)
    assert job(0.0).wait(60) == 0
    assert printed(log) == ["starts", *EPOCH_LINES[:3], "starts --c", *EPOCH_LINES[2:]]
    assert is_trained(run)


@pytest.mark.kill
def test_a_terminated_job_ends_its_training_and_the_next_goes_on(
    run: Run, log: Path, job: Callable[..., "subprocess.Popen[str]"]
) -> None:
    ended = job(0.3)
    wait_until(lambda: log.exists() and "epoch 2" in log.read_text())
    ended.send_signal(signal.SIGTERM)
    assert ended.wait(30) == -signal.SIGTERM
    assert_nobody_lives(run)
    assert job(0.0).wait(60) == 0
    assert not (run.fold_folder / LOCK_FILE).exists()
    assert printed(log)[-3:] == ["starts --c", *EPOCH_LINES[2:]]


@pytest.mark.kill
def test_a_terminated_training_is_not_waited_for_though_its_log_is_fresh(
    run: Run, log: Path, job: Callable[..., "subprocess.Popen[str]"]
) -> None:
    ended = job(0.3)
    wait_until(lambda: log.exists() and "epoch 2" in log.read_text())
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
    assert printed(log)[-3:] == ["starts --c", *EPOCH_LINES[2:]]
