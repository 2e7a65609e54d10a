"""The stock commands on images that hold their own coordinates: every crop that a network sees has its true position.

The volumes are anisotropic and nnU-Net transposes them; one is resampled, and some are smaller than the patch.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_attn.planning.derived import narrowed_plans, write_plans
from tests.integration.conftest import PLANS, Workspace
from tests.made.data import make_trainer
from tests.made.plans import KINDS
from tests.made.position import LOG_VARIABLE, OFFSET, nnUNetTrainerPositionProbe
from tests.made.workers import one_import

pytestmark = pytest.mark.slow

NAME = "Dataset902_Coordinates"
TRAINER = nnUNetTrainerPositionProbe.__name__
PATCH = (8, 16, 16)
# voxels and spacing in mm along z, y, x; x, of the largest spacing, becomes the first axis
CASES = [((36, 40, 12), (1.0, 1.0, 3.0))] * 3 + [
    ((41, 37, 13), (1.0, 1.0, 3.0)),
    ((33, 20, 11), (1.0, 2.0, 3.0)),  # resampled to 40 along y
    ((13, 34, 5), (1.0, 1.0, 3.0)),  # smaller than the patch
]
TEST_CASES = [((35, 39, 12), (1.0, 1.0, 3.0)), ((33, 15, 7), (1.0, 1.0, 3.0))]
TRANSPOSED = (2, 0, 1)
EXTENT = [13, 41, 40]

_LEAF = """\
from tests.made.position import nnUNetTrainerPositionProbe, register

register()
"""


def write_case(folder: Path, split: str, index: int, size: Sequence[int], spacing_mm: Sequence[float]) -> None:
    """Write the images of a case, whose channels are coordinates of preprocessed voxels, and its labels."""
    # the target spacing is 1 mm on all axes but the last, along which positions are not read
    along = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(size, spacing_mm, strict=True)]
    grid = np.meshgrid(*along, indexing="ij")
    labels = np.zeros(size, np.uint8)
    # away from the border, so that no crop has its centre there
    labels[5:-5, 5:-5, 2:-2] = 1
    arrays = {f"images{split}/case_{index}_{channel:04d}": grid[axis] for channel, axis in enumerate(TRANSPOSED)}
    arrays = {name: (array + OFFSET).astype(np.float32) for name, array in arrays.items()}
    for name, array in {**arrays, f"labels{split}/case_{index}": labels}.items():
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(tuple(spacing_mm)[::-1])
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, folder / f"{name}.nii.gz")


class CheckedWorkspace(Workspace):
    """A workspace that reads what the probe has found."""

    def environment(self, **more: str) -> dict[str, str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return an environment with the probe's trainer and log."""
        repository = Path(__file__).parents[2]
        path = one_import(repository)
        own = {"nnUNet_extTrainer": str(self.root / "leaves"), LOG_VARIABLE: str(self.log), "PYTHONPATH": path}
        return {**super().environment(), **own, **more}

    @property
    def log(self) -> Path:
        """File that the probe writes."""
        return self.root / "positions.txt"

    def checked(self, command: str, *arguments: object, **more: str) -> dict[str, int]:
        """Run a command and check every position; returns the number of calls of the network by its mode."""
        self.log.write_text("")
        self.run(command, *arguments, **more)
        lines = [line.split() for line in self.log.read_text().splitlines()]
        # nnU-Net's attempt to draw the network, where its package is installed, has no position
        given = [(mode, float(worst)) for mode, channels, worst in lines if channels != "0"]
        assert len(lines) - len(given) <= command.endswith("train")
        # half a voxel would be wrong; splines bend the coordinates of the resampled case a little near its border
        assert all(worst < 0.01 for _, worst in given)  # not a number is none of these
        return {kind: sum(mode == kind for mode, _ in given) for kind in ("train", "eval")}


@pytest.fixture(scope="module")
def coordinates(tmp_path_factory: pytest.TempPathFactory) -> CheckedWorkspace:
    """Images of coordinates, planned and preprocessed by the stock command, and the probe trained on two folds."""
    space = CheckedWorkspace(tmp_path_factory.mktemp("coordinates"), NAME)
    folder = space.root / "raw" / NAME
    for split, cases in {"Tr": CASES, "Ts": TEST_CASES}.items():
        for index, (size, spacing_mm) in enumerate(cases):
            write_case(folder, split, index, size, spacing_mm)
    channels = {str(channel): "noNorm" for channel in range(3)}
    described = {"channel_names": channels, "labels": {"background": 0, "inner": 1}, "numTraining": len(CASES)}
    save_json({**described, "file_ending": ".nii.gz"}, str(folder / "dataset.json"))
    (space.root / "leaves").mkdir()
    (space.root / "leaves" / f"{TRAINER}.py").write_text(_LEAF)
    words = ("-d", 902, "-c", "3d_fullres", "-npfp", "2", "-np", "2")
    space.run("nnUNetv2_plan_and_preprocess", *words, nnUNet_n_proc_DA="2")
    preprocessed = space.root / "preprocessed" / NAME
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    assert tuple(plans["transpose_forward"]) == TRANSPOSED
    assert plans["configurations"]["3d_fullres"]["spacing"] == [3.0, 1.0, 1.0]
    small = narrowed_plans(plans, PLANS, ("3d_fullres",), 4, batch_size=2)
    small["configurations"]["3d_fullres"]["patch_size"] = list(PATCH)
    write_plans(small, preprocessed)
    names = [f"case_{index}" for index in range(len(CASES))]
    splits = [{"train": names[:3], "val": names[3:]}, {"train": names[2:], "val": names[:2]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    for fold in range(2):
        words = (902, "3d_fullres", fold, "-p", PLANS, "-tr", TRAINER, "-device", "cpu")
        calls = space.checked("nnUNetv2_train", *words)
        # 4 training iterations, 1 of validation, and in the final validation 8 flips of every tile
        assert calls["train"] == 4 and calls["eval"] > 100 and calls["eval"] % 8 == 1
    return space


def predict(space: CheckedWorkspace, output: Path, *folds: int, **more: str) -> int:
    words = ("-i", space.images, "-o", output, "-d", 902, "-c", "3d_fullres", "-p", PLANS, "-tr", TRAINER)
    calls = space.checked("nnUNetv2_predict", *words, "-f", *folds, "-device", "cpu", "-npp", 1, "-nps", 1, **more)
    assert calls["train"] == 0 and len(list(output.glob("*.nii.gz"))) == len(TEST_CASES)
    return calls["eval"]


# tiles along the axes after transposition, half a patch apart, and 8 flips:
# (12, 35, 39) has 2 * 4 * 4 tiles, (7, 33, 15) has 1 * 4 * 1
TEST_CALLS = 8 * (2 * 4 * 4 + 4)


def test_the_extent_is_in_the_plans_of_the_results_only(coordinates: CheckedWorkspace) -> None:
    folder = coordinates.model("3d_fullres", TRAINER)
    assert json.loads((folder / "plans.json").read_text())["nnunet_attn"]["fine_extent"]["3d_fullres"] == EXTENT
    preprocessed = coordinates.root / "preprocessed" / NAME
    assert "fine_extent" not in (preprocessed / f"{PLANS}.json").read_text()


def test_validation_alone(coordinates: CheckedWorkspace) -> None:
    words = (902, "3d_fullres", 0, "-p", PLANS, "-tr", TRAINER, "-device", "cpu", "--val")
    calls = coordinates.checked("nnUNetv2_train", *words)
    # (13, 41, 37): 3 * 5 * 4; (11, 33, 40): 2 * 4 * 4; (5, 13, 34): 1 * 1 * 4
    assert calls == {"train": 0, "eval": 8 * (60 + 32 + 4)}


def test_prediction(coordinates: CheckedWorkspace, tmp_path: Path) -> None:
    assert predict(coordinates, tmp_path / "one", 0) == TEST_CALLS
    assert predict(coordinates, tmp_path / "two", 0, 1) == 2 * TEST_CALLS


def test_prediction_from_a_moved_model_folder(coordinates: CheckedWorkspace, tmp_path: Path) -> None:
    model = shutil.copytree(coordinates.model("3d_fullres", TRAINER), tmp_path / "model")
    words = ("-i", coordinates.images, "-o", tmp_path / "out", "-m", model, "-f", 0, "-device", "cpu")
    # as on another machine, without the preprocessed data
    there = {"nnUNet_preprocessed": str(tmp_path / "none"), "nnUNet_results": str(tmp_path / "none")}
    calls = coordinates.checked("nnUNetv2_predict_from_modelfolder", *words, "-npp", 1, "-nps", 1, **there)
    assert calls == {"train": 0, "eval": TEST_CALLS}


@pytest.mark.skipif(
    not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))),
    reason="torch.compile needs a C++ compiler, none of $CXX, c++, g++, clang++ is found",
)
def test_compiled_prediction(coordinates: CheckedWorkspace, tmp_path: Path) -> None:
    assert predict(coordinates, tmp_path / "compiled", 0, nnUNet_compile="1") == TEST_CALLS


def test_a_stock_trainer_predicts_the_same_bits_with_and_without_this_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = KINDS["3d"]
    trainer = make_trainer(nnUNetTrainer, kind, tmp_path / "root", monkeypatch)
    trainer.initialize()
    model = Path(str(trainer.output_folder_base))
    save_json(trainer.plans_manager.plans, str(model / "plans.json"))
    save_json(kind.dataset_json, str(model / "dataset.json"))
    trainer.inference_allowed_mirroring_axes = (0, 1, 2)
    trainer.save_checkpoint(str(model / "fold_0" / "checkpoint_final.pth"))
    assert torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)["trainer_name"] == "nnUNetTrainer"
    (tmp_path / "images").mkdir()
    image = np.random.default_rng(0).normal(size=(16, 18, 16)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(image), tmp_path / "images" / "case_0000.nii.gz")
    command = (
        "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as p; p(); import sys"
    )
    probabilities = []
    for name, before, after in (
        ("without", "", "assert not any(m.startswith('nnunet_attn') for m in sys.modules)"),
        ("with", "import nnunet_attn.training; ", "assert 'nnunet_attn.training.predictor' in sys.modules"),
    ):
        words = ["-i", tmp_path / "images", "-o", tmp_path / name, "-m", model, "-f", 0, "-device", "cpu"]
        words = [
            sys.executable,
            "-c",
            f"{before}{command}; {after}",
            *words,
            "--save_probabilities",
            "-npp",
            1,
            "-nps",
            1,
        ]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        with np.load(tmp_path / name / "case.npz") as file:
            probabilities.append(file["probabilities"])
    assert np.array_equal(*probabilities) and np.ptp(probabilities[0]) > 0
