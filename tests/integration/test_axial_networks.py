"""The axial networks by the stock commands: colour images at published width, and a volume."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from tests.integration.conftest import COLOUR_DATASET, PLANS, Workspace

pytestmark = pytest.mark.slow

BUDGET = "_3epochs_6its_seed0"


def train_colour(workspace: Workspace, trainer: str, *arguments: object) -> Path:
    words = (COLOUR_DATASET, "2d", 0, "-tr", trainer, "-device", "cpu", *arguments)
    workspace.run("nnUNetv2_train", *words)
    return workspace.root / "results" / workspace.name / f"{trainer}__nnUNetPlans__2d" / "fold_0"


@pytest.mark.parametrize("base", ["nnUNetTrainerMedT", "nnUNetTrainerPlain"])
def test_colour_images_under_an_equal_budget(colour_workspace: Workspace, base: str, tmp_path: Path) -> None:
    folder = train_colour(colour_workspace, base + BUDGET)
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 4
    # of pixels drawn at random, 0.5 would be gland
    assert summary["foreground_mean"]["Dice"] > 0.3
    losses = torch.load(folder / "checkpoint_final.pth", weights_only=False)["logging"]["train_losses"]
    assert losses[-1] < losses[0]

    images = colour_workspace.images
    words = ("-i", images, "-o", tmp_path, "-d", COLOUR_DATASET, "-c", "2d", "-tr", base + BUDGET, "-f", 0)
    colour_workspace.run("nnUNetv2_predict", *words, "-device", "cpu", "-npp", 1, "-nps", 1)
    predicted = sorted(tmp_path.glob("*.png"))
    assert len(predicted) == 2
    assert all(imread(path).shape == (128, 128) for path in predicted)


def test_gates_are_kept(colour_workspace: Workspace) -> None:
    folder = train_colour(colour_workspace, "nnUNetTrainerMedTGlobal_2epochs_2its_seed0")
    history = json.loads((folder / "gates.json").read_text())
    assert history["epochs"] == [0, 1]
    assert len(history["layers"]) == 6  # two layers in each of three blocks
    # frozen, as they are for ten epochs
    assert all(np.allclose(values, [[0.1, 0.1, 1, 0.1]] * 2) for values in history["layers"].values())
    assert (folder / "gates.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("base", ["nnUNetTrainerGatedAxial", "nnUNetTrainerMAT"])
def test_volumes(workspace: Workspace, base: str, tmp_path: Path) -> None:
    trainer = f"{base}_1epochs_2its_NoMirroring"
    workspace.train("3d_fullres", 0, trainer=trainer)
    folder = workspace.model("3d_fullres", trainer)
    summary = json.loads((folder / "fold_0" / "validation" / "summary.json").read_text())
    assert 0 <= summary["foreground_mean"]["Dice"] <= 1
    words = ("-i", workspace.images, "-o", tmp_path, "-d", 4, "-c", "3d_fullres", "-p", PLANS, "-tr", trainer, "-f", 0)
    workspace.run("nnUNetv2_predict", *words, "-device", "cpu", "-npp", 1, "-nps", 1)
    assert len(list(tmp_path.glob("*.nii.gz"))) == 2
