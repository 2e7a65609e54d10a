"""nnFormer and FINE by the stock commands, with a patch that is smaller than the images."""

import json
from pathlib import Path

import numpy as np
import pytest
from SimpleITK import GetArrayFromImage, ReadImage

from nnunet_attn.architectures.fine import NO_POSITION
from nnunet_attn.planning.derived import write_plans
from tests.integration.conftest import DATASET, PLANS, Workspace

pytestmark = pytest.mark.slow

CROPS = "nnUNetPlansCrops"
PATCH = [24, 16, 16]
BUDGET = "_1epochs_2its_seed0"


@pytest.fixture(scope="module")
def crops(workspace: Workspace) -> Workspace:
    """Derive plans with a patch of a third of the images' size, on the preprocessed data that are there."""
    folder = workspace.root / "preprocessed" / workspace.name
    plans = json.loads((folder / f"{PLANS}.json").read_text())
    plans["plans_name"] = CROPS
    plans["configurations"] = {"3d_fullres": {**plans["configurations"]["3d_fullres"], "patch_size": PATCH}}
    write_plans(plans, folder)
    return workspace


def train(workspace: Workspace, trainer: str, *more: str) -> Path:
    words = (DATASET, "3d_fullres", 0, "-p", CROPS, "-tr", trainer, "-device", "cpu", *more)
    workspace.run("nnUNetv2_train", *words)
    return workspace.root / "results" / workspace.name / f"{trainer}__{CROPS}__3d_fullres"


def largest_preprocessed(workspace: Workspace) -> list[int]:
    """Return the largest size along each axis of the preprocessed images, from the fingerprint's spacing of 1."""
    folder = workspace.root / "preprocessed" / workspace.name
    fingerprint = json.loads((folder / "dataset_fingerprint.json").read_text())
    plans = json.loads((folder / f"{CROPS}.json").read_text())
    target = np.array(plans["configurations"]["3d_fullres"]["spacing"])
    forward = plans["transpose_forward"]
    pairs = zip(fingerprint["spacings"], fingerprint["shapes_after_crop"], strict=True)
    sizes = [np.round(np.array(shape)[forward] * np.array(spacing)[forward] / target) for spacing, shape in pairs]
    return np.max(sizes, 0).astype(int).tolist()


def test_fine_trains_validates_and_predicts(crops: Workspace, tmp_path: Path) -> None:
    trainer = f"nnUNetTrainerFINE{BUDGET}_NoMirroring"
    model = train(crops, trainer)
    plans = json.loads((model / "plans.json").read_text())
    extent = plans["nnunet_attn"]["fine_extent"]["3d_fullres"]
    assert extent == largest_preprocessed(crops)
    assert max(extent[1] // PATCH[1], extent[2] // PATCH[2]) > 2, "positions matter"
    first = (model / "fold_0" / "validation" / "summary.json").read_text()
    assert 0 <= json.loads(first)["foreground_mean"]["Dice"] <= 1

    train(crops, trainer, "--val")
    again = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    assert again["foreground_mean"]["Dice"] == json.loads(first)["foreground_mean"]["Dice"]

    words = ("-i", crops.images, "-o", tmp_path, "-d", DATASET, "-c", "3d_fullres", "-p", CROPS, "-tr", trainer)
    told = crops.run("nnUNetv2_predict", *words, "-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1)
    assert NO_POSITION not in told + (crops.root / "log.txt").read_text()
    predicted = sorted(tmp_path.glob("*.nii.gz"))
    assert len(predicted) == 2
    for path in predicted:
        image = next(crops.images.glob(f"{path.name.removesuffix('.nii.gz')}_0000*"))
        assert GetArrayFromImage(ReadImage(str(path))).shape == GetArrayFromImage(ReadImage(str(image))).shape


@pytest.mark.parametrize("base", ["nnUNetTrainerNNFormer", "nnUNetTrainerFINENoTokens", "nnUNetTrainerFINEPublished"])
def test_others_train_and_validate(crops: Workspace, base: str) -> None:
    model = train(crops, f"{base}{BUDGET}_NoMirroring")
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    assert 0 <= summary["foreground_mean"]["Dice"] <= 1


def test_fine_refuses_2d_and_cascade_before_anything_is_written(workspace: Workspace) -> None:
    for configuration, told in (("2d", "works on 3D"), ("3d_cascade_fullres", "second stage of a cascade")):
        with pytest.raises(RuntimeError) as error:
            workspace.train(configuration, 0, trainer="nnUNetTrainerFINE" + BUDGET)
        assert told in str(error.value)
        assert not workspace.model(configuration, "nnUNetTrainerFINE" + BUDGET).exists()
