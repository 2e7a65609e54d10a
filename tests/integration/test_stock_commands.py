"""The stock nnU-Net commands, from planning to sharing a model, with a trainer of this package."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.integration.conftest import DATASET, PLANS, TRAINER, Workspace
from tests.made.workers import AS_TYPED

pytestmark = pytest.mark.slow


def segmentations(folder: Path) -> dict[str, np.ndarray]:
    found = {path.name: sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in sorted(folder.glob("*.nii.gz"))}
    assert found, f"nothing predicted in {folder}"
    return found


def predict(workspace: Workspace, output: Path, configuration: str, *folds: int, **more: str) -> Path:
    words = ("-i", workspace.images, "-o", output, "-d", DATASET, "-c", configuration, "-p", PLANS, "-tr", TRAINER)
    workspace.run("nnUNetv2_predict", *words, "-f", *folds, "-device", "cpu", "-npp", 1, "-nps", 1, **more)
    return output


def test_every_fold_is_trained_and_validated(five_folds: Workspace) -> None:
    for configuration, folds in (("2d", range(5)), ("3d_fullres", range(2))):
        for fold in folds:
            folder = five_folds.model(configuration) / f"fold_{fold}"
            assert (folder / "checkpoint_final.pth").exists()
            summary = json.loads((folder / "validation" / "summary.json").read_text())
            assert 0 <= summary["foreground_mean"]["Dice"] <= 1
            assert list((folder / "validation").glob("*.npz")), "--npz keeps the probabilities"


def test_finds_the_best_configuration_and_ensembles(five_folds: Workspace) -> None:
    words = (DATASET, "-c", "2d", "3d_fullres", "-p", PLANS, "-tr", TRAINER, "-f", 0, 1, "-np", 2)
    five_folds.run("nnUNetv2_find_best_configuration", *words)
    found = five_folds.root / "results" / five_folds.name / "inference_instructions.txt"
    assert TRAINER in found.read_text()
    assert any((five_folds.root / "results" / five_folds.name / "ensembles").iterdir())


def test_predicts_with_five_folds_and_evaluates(five_folds: Workspace, tmp_path: Path) -> None:
    output = predict(five_folds, tmp_path / "five", "2d", 0, 1, 2, 3, 4, **AS_TYPED)
    model = five_folds.model("2d")
    words = ("-djfile", model / "dataset.json", "-pfile", model / "plans.json", "-np", 1)
    five_folds.run("nnUNetv2_evaluate_folder", five_folds.labels, output, *words)
    summary = json.loads((output / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == len(list(five_folds.labels.iterdir())) == 2


def test_a_model_moves_to_another_results_folder_by_zip(five_folds: Workspace, tmp_path: Path) -> None:
    archive = tmp_path / "model.zip"
    words = ("-d", DATASET, "-o", archive, "-c", "3d_fullres", "-tr", TRAINER, "-p", PLANS, "-f", 0)
    five_folds.run("nnUNetv2_export_model_to_zip", *words)
    there = Workspace(tmp_path / "elsewhere", five_folds.name)
    there.run("nnUNetv2_install_pretrained_model_from_zip", archive)
    assert (there.model("3d_fullres") / "fold_0" / "checkpoint_final.pth").exists()
    shutil.copytree(five_folds.images, there.images)
    # the model was trained with --npz and mirroring off: what is predicted here must be the same, voxel by voxel
    here, moved = (
        segmentations(predict(space, tmp_path / name, "3d_fullres", 0))
        for name, space in (("here", five_folds), ("there", there))
    )
    assert here.keys() == moved.keys()
    assert all(np.array_equal(here[case], moved[case]) for case in here)


@pytest.mark.skipif(
    not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))),
    reason="torch.compile needs a C++ compiler, none of $CXX, c++, g++, clang++ is found",
)
def test_compiled_prediction_agrees(five_folds: Workspace, tmp_path: Path) -> None:
    plain = segmentations(predict(five_folds, tmp_path / "plain", "2d", 0))
    compiled = segmentations(predict(five_folds, tmp_path / "compiled", "2d", 0, nnUNet_compile="1"))
    assert "Using torch.compile" in (five_folds.root / "log.txt").read_text()
    agreeing = [np.mean(plain[case] == compiled[case]) for case in plain]
    assert min(agreeing) > 0.999
