"""The patch transformer by the stock commands and `nnunet-attn predict`, in 3D and 2D."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.stock import StockCommandError
from tests.integration.conftest import PLANS, Workspace
from tests.made.workers import AS_TYPED

pytestmark = pytest.mark.slow

BASE = "nnUNetTrainerPatchTransformer"
TRAINER = f"{BASE}_1epochs_2its"


def predict(
    workspace: Workspace, out: Path, configuration: str, *words: object, trainer: str = TRAINER, **more: str
) -> str:
    """Predict the held-out cases; `words` begin with the command and its first words."""
    command, *rest = words
    model = ("-d", 4, "-c", configuration, "-p", PLANS, "-tr", trainer, "-f", 0)
    paths = ("-i", workspace.images, "-o", out)
    return workspace.run(str(command), *rest, *paths, *model, "-device", "cpu", "-npp", 1, "-nps", 1, **more)


def segmentations(folder: Path) -> dict[str, np.ndarray]:
    return {file.name: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in sorted(folder.glob("*.nii.gz"))}


@pytest.mark.parametrize(
    ("configuration", "phases", "trainer"), [("3d_fullres", 8, f"{TRAINER}_NoMirroring"), ("2d", 4, TRAINER)]
)
def test_trains_validates_resumes_and_predicts(
    workspace: Workspace, configuration: str, phases: int, trainer: str, tmp_path: Path
) -> None:
    workspace.train(configuration, 0, trainer=trainer)
    model = workspace.model(configuration, trainer)
    fold = model / "fold_0"
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert 0 <= summary["foreground_mean"]["Dice"] <= 1
    entry = json.loads((model / "plans.json").read_text())["configurations"][configuration]["nnunet_attn"]
    assert {"train_cells": 4, "batch_size": 4}.items() <= entry["PatchTransformer"].items()
    (fold / "validation" / "summary.json").unlink()
    workspace.train(configuration, 0, "--c", trainer=trainer)
    assert json.loads((fold / "validation" / "summary.json").read_text()) == summary, "the same network predicts again"

    outs = {name: tmp_path / name for name in ("stock", "grid", "phases")}
    predict(workspace, outs["stock"], configuration, "nnUNetv2_predict", trainer=trainer)
    predict(workspace, outs["grid"], configuration, "nnunet-attn", "predict", trainer=trainer)
    predict(workspace, outs["phases"], configuration, "nnunet-attn", "predict", "--phases", phases, trainer=trainer)
    found = {name: segmentations(out) for name, out in outs.items()}
    assert found["stock"].keys() == found["grid"].keys() == found["phases"].keys()
    assert len(found["grid"]) == 2
    for name, grid in found["grid"].items():
        assert grid.shape == found["stock"][name].shape == found["phases"][name].shape
    with pytest.raises(StockCommandError, match="--phases must be 1 or"):
        predict(workspace, tmp_path / "none", configuration, "nnunet-attn", "predict", "--phases", 3, trainer=trainer)


def test_other_networks_are_predicted_bit_for_bit(workspace: Workspace, tmp_path: Path) -> None:
    trainer = "nnUNetTrainerPlain_1epochs_2its"
    workspace.train("2d", 0, trainer=trainer)
    for out, command in (("stock", ["nnUNetv2_predict"]), ("ours", ["nnunet-attn", "predict"])):
        predict(workspace, tmp_path / out, "2d", *command, "--save_probabilities", trainer=trainer, **AS_TYPED)
    for file in sorted((tmp_path / "stock").glob("*.npz")):
        ours, theirs = (np.load(folder / file.name)["probabilities"] for folder in (tmp_path / "ours", file.parent))
        assert np.array_equal(ours, theirs)
    stock, ours = segmentations(tmp_path / "stock"), segmentations(tmp_path / "ours")
    assert len(stock) == 2 and all(np.array_equal(ours[name], stock[name]) for name in stock)


def test_the_papers_trainer(workspace: Workspace) -> None:
    trainer = f"{BASE}Paper_1epochs_2its"
    workspace.train("3d_fullres", 0, trainer=trainer)
    (log,) = (workspace.model("3d_fullres", trainer) / "fold_0").glob("training_log_*.txt")
    text = log.read_text()
    assert "recipe: adam, plateau 0.0001, weight decay 0; loss: dice; flips only: all axes" in text
    assert "1 patches have a whole block around them and count (train_cells: 1); batch of 10" in text
