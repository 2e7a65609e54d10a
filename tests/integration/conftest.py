"""A results folder in which the stock commands have run, on 12 real cases where they are at hand, else on phantoms."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.datasets.phantom import write_phantom
from nnunet_attn.datasets.subset import copy_cases
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.planning.derived import narrowed_plans, write_plans
from nnunet_attn.stock import run_stock
from tests.made.workers import AS_TYPED, one_import

TRAINER = "nnUNetTrainerGASA_1epochs_2its_NoMirroring"
PLANS = "nnUNetPlansSmall"
DATASET = 4
COLOUR_DATASET = 501


@dataclass(frozen=True)
class Workspace:
    """nnU-Net's three folders, and the environment that names them.

    Args:
        root: Folder above `raw`, `preprocessed` and `results`.
        name: Name of the data set.
    """

    root: Path
    name: str

    def environment(self, **more: str) -> Mapping[str, str]:
        """Return the environment of a stock command: two workers that share an import, none for augmentation."""
        # threads that sleep while they wait leave a busy machine's cores to the workers
        chosen = {"nnUNet_def_n_proc": "2", "nnUNet_n_proc_DA": "0", "OMP_WAIT_POLICY": "PASSIVE"}
        return {**nnunet_environment(self.root), **chosen, "PYTHONPATH": one_import(), **more}

    def run(self, command: str, *arguments: object, **more: str) -> str:
        """Run a stock command to its end and return what it printed."""
        return run_stock(command, arguments, self.environment(**more), self.root / "log.txt")

    def train(self, configuration: str, fold: int, *arguments: object, trainer: str = TRAINER, **more: str) -> str:
        """Train one fold with the small plans, on the CPU."""
        words = (DATASET, configuration, fold, "-p", PLANS, "-tr", trainer, "-device", "cpu", *arguments)
        return self.run("nnUNetv2_train", *words, **more)

    def model(self, configuration: str, trainer: str = TRAINER) -> Path:
        """Return the results folder of a trainer and configuration."""
        return self.root / "results" / self.name / f"{trainer}__{PLANS}__{configuration}"

    @property
    def images(self) -> Path:
        """Images of the cases, to predict."""
        return self.root / "raw" / self.name / "imagesTs"

    @property
    def labels(self) -> Path:
        """Reference segmentations of those cases."""
        return self.root / "raw" / self.name / "labelsTs"


def _write_small_plans(folder: Path) -> None:
    """Derive plans of a small width that share the preprocessed data, with a cascade beside 3d_fullres."""
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    options = {row.name: dict(row.small_options) for row in NETWORKS if row.small_options}
    small = narrowed_plans(plans, PLANS, ("2d", "3d_fullres"), 4, batch_size=2, options=options)
    configurations = small["configurations"]
    fullres = configurations["3d_fullres"]
    configurations["3d_lowres"] = {
        **fullres,
        "data_identifier": f"{PLANS}_3d_lowres",
        "spacing": [1.25 * spacing for spacing in fullres["spacing"]],
        "next_stage": "3d_cascade_fullres",
    }
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    write_plans(small, folder)


def _planned(root: Path) -> str:
    """Plan and preprocess by the stock command, and derive small plans; returns the data set's name."""
    (root / "raw").mkdir(parents=True, exist_ok=True)
    if os.environ.get("NNUNET_ATTN_DATA"):
        source = Path(os.environ["NNUNET_ATTN_DATA"]) / "Dataset004_Hippocampus"
        name = copy_cases(source, root / "raw", count=12, held_out=2).name
    else:
        name = write_phantom(root / "raw", DATASET, n_train=12, n_test=2).name
    made = Workspace(root, name)
    words = ("-d", DATASET, "-c", "2d", "3d_fullres", "-npfp", "2", "-np", "2", "2", "--verify_dataset_integrity")
    made.run("nnUNetv2_plan_and_preprocess", *words, nnUNet_n_proc_DA="2")
    _write_small_plans(root / "preprocessed" / name)
    return name


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Workspace:
    """Folders of this process with a planned data set; the first of pytest-xdist's processes makes it for all."""
    root = tmp_path_factory.mktemp("nnunet")
    if not hasattr(request.config, "workerinput"):
        return Workspace(root, _planned(root))
    common = tmp_path_factory.getbasetemp().parent / "planned"
    with FileLock(f"{common}.lock"):
        name_file = common / "name.txt"
        if not name_file.exists():
            shutil.rmtree(common, ignore_errors=True)
            name_file.write_text(_planned(common))
    for part in ("raw", "preprocessed"):
        shutil.copytree(common / part, root / part)
    return Workspace(root, name_file.read_text())


@pytest.fixture(scope="session")
def five_folds(workspace: Workspace) -> Workspace:
    """All five folds of 2d, and folds 0 and 1 of 3d_fullres, trained by the stock command."""
    workspace.train("2d", 0, "--npz", **AS_TYPED)
    for fold in range(1, 5):
        workspace.train("2d", fold, "--npz")
    for fold in range(2):
        workspace.train("3d_fullres", fold, "--npz")
    return workspace


@pytest.fixture(scope="session")
def colour_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Plan and preprocess 20 colour images of glands, 128 x 128 and three channels, by the stock command."""
    source = Path(os.environ.get("NNUNET_ATTN_DATA", "")) / "Dataset501_GlaS128"
    if not os.environ.get("NNUNET_ATTN_DATA") or not source.is_dir():
        pytest.skip("NNUNET_ATTN_DATA does not name a folder that holds Dataset501_GlaS128")
    root = tmp_path_factory.mktemp("colour")
    made = Workspace(root, copy_cases(source, root / "raw", count=20, held_out=2).name)
    words = ("-d", COLOUR_DATASET, "-c", "2d", "-npfp", "2", "-np", "2", "--verify_dataset_integrity")
    made.run("nnUNetv2_plan_and_preprocess", *words, nnUNet_n_proc_DA="2")
    return made
