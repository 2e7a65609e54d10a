"""The patch transformer's hippocampus task by the stock commands: one label, held-out test cases."""

import json
import os
from pathlib import Path

import pytest

from nnunet_attn.architectures.registry import network_named
from nnunet_attn.datasets.binary import merged_labels
from nnunet_attn.datasets.subset import copy_cases
from nnunet_attn.planning.derived import narrowed_plans, write_plans
from tests.integration.conftest import PLANS, Workspace

pytestmark = pytest.mark.slow

ID = 104
TRAINERS = tuple(f"nnUNetTrainer{name}_1epochs_2its_NoMirroring" for name in ("PatchTransformer", "UNetPlusPlus"))


def test_a_binary_data_set_is_trained_on_and_its_held_out_cases_are_evaluated(tmp_path: Path) -> None:
    source = Path(os.environ.get("NNUNET_ATTN_DATA", "")) / "Dataset004_Hippocampus"
    if not os.environ.get("NNUNET_ATTN_DATA") or not source.is_dir():
        pytest.skip("NNUNET_ATTN_DATA does not name a folder that holds Dataset004_Hippocampus")
    few = copy_cases(source, tmp_path / "few", count=10)
    made = merged_labels(few, tmp_path / "raw", ID, "HippocampusBinary", held_out=3, label="hippocampus")
    workspace = Workspace(tmp_path, made.name)
    words = ("-d", ID, "-c", "3d_fullres", "-npfp", 2, "-np", 2, "--verify_dataset_integrity")
    workspace.run("nnUNetv2_plan_and_preprocess", *words, nnUNet_n_proc_DA="2")
    preprocessed = tmp_path / "preprocessed" / made.name
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    options = {"PatchTransformer": dict(network_named("PatchTransformer").small_options)}
    write_plans(narrowed_plans(plans, PLANS, ["3d_fullres"], 4, batch_size=2, options=options), preprocessed)
    held_out = {file.name for file in workspace.labels.iterdir()}
    assert len(held_out) == 3
    for trainer in TRAINERS:
        model = ("-d", ID, "-c", "3d_fullres", "-p", PLANS, "-tr", trainer)
        workspace.run("nnUNetv2_train", ID, "3d_fullres", 0, "-p", PLANS, "-tr", trainer, "-device", "cpu")
        out = tmp_path / trainer
        words = ("predict", "-i", workspace.images, "-o", out, *model, "-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1)
        workspace.run("nnunet-attn", *words)
        files = ("-djfile", made / "dataset.json", "-pfile", preprocessed / f"{PLANS}.json")
        workspace.run("nnUNetv2_evaluate_folder", workspace.labels, out, *files)
        summary = json.loads((out / "summary.json").read_text())
        assert list(summary["mean"]) == ["1"] and 0 <= summary["mean"]["1"]["Dice"] <= 1
        assert {Path(case["prediction_file"]).name for case in summary["metric_per_case"]} == held_out
