"""Trainings of the stock trainer that really run, were really killed and really ended, side by side."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.planning.derived import write_plans
from nnunet_attn.stock import executable
from nnunet_attn.study.logs import log_files, merged_epochs, read_log
from nnunet_attn.study.state import RunState, read_state
from nnunet_attn.study.status import find_trainings, next_command, read_states
from tests.integration.conftest import DATASET, PLANS, Workspace
from tests.made.training_logs import age

pytestmark = pytest.mark.slow

TINY = "nnUNetPlansTiny"
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(workspace: Workspace) -> Iterator[Start]:
    """Start stock trainings of 1000 epochs, 250 small iterations each; what still runs at the end is ended."""
    folder = workspace.root / "preprocessed" / workspace.name
    plans: dict[str, Any] = json.loads((folder / f"{PLANS}.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [8, 8, 8]
    arguments = configuration["architecture"]["arch_kwargs"]
    for key in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage"):
        arguments[key] = arguments[key][:3]
    arguments |= {"n_stages": 3, "n_conv_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1]}
    write_plans({**plans, "plans_name": TINY, "configurations": {"3d_fullres": configuration}}, folder)
    started: list[subprocess.Popen[bytes]] = []

    def starter(fold: int, *more: str) -> subprocess.Popen[bytes]:
        words = [executable("nnUNetv2_train"), str(DATASET), "3d_fullres", str(fold), "-p", TINY, "-device", "cpu"]
        with (workspace.root / f"fold_{fold}.txt").open("ab") as output:
            process = subprocess.Popen(
                [*words, *more],
                env=dict(workspace.environment(OMP_NUM_THREADS="1")),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield starter
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until(folder: Path, reached: Callable[[RunState], bool]) -> RunState:
    deadline = time.monotonic() + 300
    while not reached(state := read_state(folder)):
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
    return state


def test_running_killed_interrupted_and_continued(
    workspace: Workspace, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silence of a quarter of an hour is made by the age of files alone."""
    monkeypatch.setenv("nnUNet_results", str(workspace.root / "results"))
    folders = [workspace.root / "results" / workspace.name / f"nnUNetTrainer__{TINY}__3d_fullres" / "fold_0"]
    folders.append(folders[0].with_name("fold_1"))
    running, killed = start(0), start(1)
    for folder in folders:
        _until(folder, lambda state: (state.epoch or 0) >= 1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    now = time.time()
    age(folders[1], 900)

    found = [each for each in find_trainings(workspace.name) if each.plans == TINY]
    alive, dead = read_states(found, now)
    assert (alive.kind, alive.epochs, dead.kind, dead.epochs) == ("running", 1000, "stopped", 1000)
    assert alive.eta_seconds is not None
    assert alive.seconds_per_epoch is not None
    assert alive.epoch is not None
    assert alive.eta_seconds > (1000 - alive.epoch - 2) * alive.seconds_per_epoch  # the one that runs is partly done
    assert alive.dice is not None
    assert 0 <= alive.dice <= 1
    assert dead.epoch is not None
    assert dead.epoch >= 1
    assert dead.message is not None
    assert dead.message.startswith("no line for 15m")
    finish = next_command(found[1], dead)
    assert finish == f"nnUNetv2_train {workspace.name} 3d_fullres 1 -tr nnUNetTrainer -p {TINY} --c"

    command = [sys.executable, "-m", "nnunet_attn.cli", "study", "status", "-d", str(DATASET)]
    environment = dict(workspace.environment(COLUMNS="100"))
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    # and done ones, where other tests trained in the same folders
    assert re.match(r"\d+ trainings: 1 running,(?: \d+ done,)? 1 stopped\n", printed)
    assert f"stopped {dead.epoch}/1000" in printed
    assert str(finish) in printed

    # what was printed continues it: a second log, whose epochs take the place of those after the last checkpoint
    again = start(1, "-tr", "nnUNetTrainer", "--c")
    state = _until(folders[1], lambda state: len(log_files(folders[1])) == 2 and state.message is None)
    assert state.kind == "running"
    first, second = map(read_log, log_files(folders[1]))
    numbers = [epoch.number for epoch in merged_epochs((first, second))]
    assert numbers == list(range(second.epochs[-1].number + 1))
    assert second.epochs[0].number >= 1

    for process in (running, again):  # Ctrl-C: nnU-Net writes nothing of it into the log
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)
        assert process.returncode != 0
    for folder in folders:
        assert "Traceback" not in log_files(folder)[-1].read_text()
        age(folder, 900)
        assert read_state(folder).kind == "stopped"


def test_a_whole_training_is_done(workspace: Workspace) -> None:
    workspace.train("3d_fullres", 0)
    fold = workspace.model("3d_fullres") / "fold_0"
    state = read_state(fold)
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert (state.kind, state.epoch, state.epochs, state.message) == ("done", 1, 1, None)
    assert state.dice == summary["foreground_mean"]["Dice"]
    log = read_log(log_files(fold)[-1])
    assert len(log.predicted) == log.cases
    (epoch,) = log.epochs
    assert len(epoch.pseudo_dice) == len(summary["mean"])
    assert epoch.train_loss is not None
    assert epoch.val_loss is not None
    assert state.seconds_per_epoch == epoch.seconds
