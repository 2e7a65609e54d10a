"""Resuming after a kill, validation only, imported weights, and the cascade, by the stock commands."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nnunet_attn.cli import main
from nnunet_attn.stock import StockCommandError, executable
from tests.integration.conftest import DATASET, PLANS, TRAINER, Workspace

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("base", ["nnUNetTrainerGASA", "nnUNetTrainerMedT_lr3e-4"])
def test_resumes_after_a_kill_in_the_middle_of_an_epoch(workspace: Workspace, base: str) -> None:
    trainer = f"{base}_3epochs_4its_NoMirroring_seed1"
    folder = workspace.model("2d", trainer) / "fold_0"
    words = [executable("nnUNetv2_train"), str(DATASET), "2d", "0", "-p", PLANS, "-tr", trainer, "-device", "cpu"]
    environment = {**workspace.environment(), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        words, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        log = []
        for line in process.stdout:
            log.append(line)
            if line.rstrip().endswith("Epoch 1"):
                os.killpg(process.pid, signal.SIGKILL)
                break
        else:
            pytest.fail("the training ended before epoch 1:\n" + "".join(log))
    assert not (folder / "checkpoint_final.pth").exists()
    assert (folder / "checkpoint_latest.pth").exists(), "a checkpoint exists from the first finished epoch on"
    output = workspace.train("2d", 0, "--c", trainer=trainer)
    assert "Epoch 1" in output and "Epoch 2" in output
    assert not any(line.endswith("Epoch 0") for line in output.splitlines()), "it does not begin anew"
    checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["current_epoch"] == 3
    assert checkpoint["trainer_name"] == trainer
    assert len(checkpoint["logging"]["train_losses"]) == 3
    if "MedT" in base:
        assert json.loads((folder / "gates.json").read_text())["epochs"] == [0, 1, 2]
        # the last of 3 epochs: one of warm-up, then 3e-4 * (1 - 1 / 2) ** 0.9
        groups = checkpoint["optimizer_state"]["param_groups"]
        assert [group["lr"] for group in groups] == pytest.approx([3e-4 * 0.5**0.9] * 2)
        assert [group["weight_decay"] for group in groups] == [1e-2, 0]


def test_validates_only(workspace: Workspace) -> None:
    trainer = "nnUNetTrainerPlain_1epochs_1its_NoMirroring_bf16"
    workspace.train("2d", 0, trainer=trainer)
    folder = workspace.model("2d", trainer) / "fold_0" / "validation"
    dice = json.loads((folder / "summary.json").read_text())["foreground_mean"]["Dice"]
    shutil.rmtree(folder)
    output = workspace.train("2d", 0, "--val", trainer=trainer)
    assert not any(line.endswith("Epoch 0") for line in output.splitlines())
    assert json.loads((folder / "summary.json").read_text())["foreground_mean"]["Dice"] == dice


def test_trains_from_imported_weights_of_a_plain_network(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = "nnUNetTrainerPlain_1epochs_2its_NoMirroring"
    workspace.train("2d", 1, trainer=plain)
    source = workspace.model("2d", plain) / "fold_1" / "checkpoint_final.pth"
    for key, value in workspace.environment().items():
        monkeypatch.setenv(key, value)
    output = tmp_path / "imported.pth"
    words = ["import-weights", "nnunet", source, "-d", DATASET, "-c", "2d", "-p", PLANS, "-tr", TRAINER, "-o", output]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert "decoder.transpconvs.0.weight" in printed and "gasa.qkv.weight" in printed
    trained = "nnUNetTrainerGASA_1epochs_1its_NoMirroring"
    log = workspace.train("2d", 1, "-pretrained_weights", output, trainer=trained)
    assert "Loading pretrained weights from file" in log


def test_a_cascade_trains_and_predicts(workspace: Workspace, tmp_path: Path) -> None:
    root = tmp_path / "cascade"
    for part in ("raw", "preprocessed"):
        shutil.copytree(workspace.root / part, root / part)
    space = Workspace(root, workspace.name)
    preprocessed = root / "preprocessed" / space.name
    words = ("-d", DATASET, "-plans_name", PLANS, "-c", "3d_lowres", "-np", 2)
    space.run("nnUNetv2_preprocess", *words, nnUNet_n_proc_DA="2")
    cases = sorted(path.stem for path in (preprocessed / "nnUNetPlans_3d_fullres").glob("*.pkl"))
    half = len(cases) // 2
    splits = [{"train": cases[half:], "val": cases[:half]}, {"train": cases[:half], "val": cases[half:]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    # nnU-Net looks for what the first stage predicted, and names that folder
    with pytest.raises(StockCommandError, match=r"FileNotFoundError.*3d_lowres.predicted_next_stage"):
        space.train("3d_cascade_fullres", 0)
    for fold in range(2):
        space.train("3d_lowres", fold)
    space.train("3d_cascade_fullres", 0)
    assert (space.model("3d_cascade_fullres") / "fold_0" / "validation" / "summary.json").exists()

    first, second = tmp_path / "lowres", tmp_path / "fullres"
    common = ("-i", space.images, "-d", DATASET, "-p", PLANS, "-tr", TRAINER, "-device", "cpu", "-npp", 1, "-nps", 1)
    space.run("nnUNetv2_predict", *common, "-c", "3d_lowres", "-f", 0, 1, "-o", first)
    cascade = ("-c", "3d_cascade_fullres", "-f", 0, "-o", second, "-prev_stage_predictions", first)
    space.run("nnUNetv2_predict", *common, *cascade)
    assert len(list(second.glob("*.nii.gz"))) == 2


def test_an_unknown_suffix_is_not_found_and_doctor_says_why(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StockCommandError, match="Could not find requested nnunet trainer"):
        workspace.train("2d", 0, trainer="nnUNetTrainerGASA_fast")
    for key, value in workspace.environment().items():
        monkeypatch.setenv(key, value)
    assert main(["doctor", "nnUNetTrainerGASA_fast"]) == 1
    printed = capsys.readouterr().out
    assert "'_fast'" in printed and "_NoMirroring" in printed


def test_doctor_is_content_with_a_set_up_environment(workspace: Workspace) -> None:
    words = [sys.executable, "-m", "nnunet_attn.cli", "doctor"]
    done = subprocess.run(words, env=dict(workspace.environment()), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "problem" not in done.stdout
