"""What `nnunet-attn pretrain` refuses, before anything is written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.cli import main
from nnunet_attn.errors import InputError
from nnunet_attn.paths import TRAINER_VARIABLE, trainers_dir
from nnunet_attn.pretraining.chain import run_pretraining
from nnunet_attn.pretraining.request import Pretraining, check
from nnunet_attn.pretraining.steps import chain_environment
from tests.made.data import write_preprocessed
from tests.made.plans import KINDS, Kind, configuration
from tests.made.raw_images import MRI, made, write

REQUEST = Pretraining("10", "nnUNetTrainerGASA_20epochs", "3d_fullres", "nnUNetPlansMade", "901", "inpaint")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return folders(tmp_path, monkeypatch, KINDS["3d"])


def folders(root: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> Path:
    """Images alone as data set 10, and the planned data set 901; nnU-Net does not know our trainers yet."""
    environment = write_preprocessed(root, kind)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv(TRAINER_VARIABLE)
    made(root / "raw")
    return root


def test_what_a_legal_request_means(root: Path) -> None:
    checked = check(REQUEST)
    assert checked.source == root / "raw" / "Dataset010_Images" and list(checked.cases) == [
        "case_0",
        "case_1",
        "case_2",
    ]
    assert checked.unlabelled == "it has no labels" and not checked.is_own
    assert (checked.target, checked.trainer, checked.epochs) == (
        "Dataset901_Made",
        "nnUNetTrainerGASA_20epochs_PretrainInpaint",
        20,
    )
    assert check(replace(REQUEST, trainer="nnUNetTrainerGASA")).epochs == 250
    assert check(replace(REQUEST, dataset="Dataset010_Images", fine_tuned_on="Dataset901_Made")) == checked
    assert {path.name for path in (root / "raw").iterdir()} == {"Dataset010_Images"}


def test_positions_are_of_the_volumes_to_fine_tune_on(root: Path) -> None:
    fingerprint = {"shapes_after_crop": [[30, 40, 50]], "spacings": [[1.0, 1.0, 1.0]]}
    file = root / "preprocessed" / "Dataset901_Made" / "dataset_fingerprint.json"
    file.write_text(json.dumps(fingerprint))
    checked = check(replace(REQUEST, trainer="nnUNetTrainerFINE"))
    assert checked.reads_positions
    assert checked.plans["nnunet_attn"] == {"fine_extent": {"3d_fullres": [30, 40, 50]}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fine_tuned_on": None}, r"Dataset010_Images cannot be fine-tuned on, because it has no labels.*--for"),
        ({"dataset": "11"}, r"-d 11: nnU-Net's folders have no data set of this number or name"),
        ({"dataset": "Images"}, r"-d Images: nnU-Net's folders have no data set of this number or name"),
        ({"fine_tuned_on": "12"}, r"--for 12: nnU-Net's folders have no data set of this number or name"),
        ({"plans": "nnUNetPlans"}, r"Dataset901_Made has no plans nnUNetPlans .*nnUNetv2_plan_and_preprocess -d 901"),
        ({"configuration": "2d"}, r"nnUNetPlansMade of Dataset901_Made has no configuration 2d; there are 3d_fullres"),
        ({"trainer": "nnUNetTrainerGASA_fast"}, r"-tr nnUNetTrainerGASA_fast: nnU-Net finds no trainer .*doctor"),
        ({"trainer": "nnUNetTrainer"}, r"-tr nnUNetTrainer: nnU-Net finds no trainer nnUNetTrainer_PretrainInpaint"),
        ({"trainer": "nnUNetTrainerGASA_PretrainDenoise"}, r"give the trainer to fine-tune with.*--task"),
        ({"trainer": "nnUNetTrainerGASA_bf16_PretrainBoth"}, r"give the trainer to fine-tune with.*--task"),
        ({"workers": 0}, r"--npp 0, --num-gpus 1: both must be at least 1"),
    ],
)
def test_illegal_requests(root: Path, changes: dict[str, Any], reason: str) -> None:
    before = sorted(root.rglob("*"))
    with pytest.raises(InputError, match=reason):
        run_pretraining(replace(REQUEST, **changes))
    assert sorted(root.rglob("*")) == before, "nothing is written"


def test_body_masks_are_nothing_to_fine_tune_on(root: Path) -> None:
    file = root / "preprocessed" / "Dataset901_Made" / "dataset.json"
    masked = {**KINDS["3d"].dataset_json, "nnunet_attn": {"pseudo_labels_of": "Dataset010_Images"}}
    file.write_text(json.dumps(masked))
    with pytest.raises(InputError, match=r"Dataset901_Made cannot be fine-tuned on, because its labels are body masks"):
        check(REQUEST)


def test_another_number_of_channels(root: Path) -> None:
    file = root / "raw" / "Dataset010_Images" / "dataset.json"
    file.write_text(json.dumps({**MRI, "channel_names": {"0": "T1", "1": "T2"}}))
    with pytest.raises(
        InputError, match=r"Dataset010_Images has 2 \(T1, T2\) channels and Dataset901_Made has 1 \(MRI\)"
    ):
        check(REQUEST)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"file_ending": ".png"}', '{"channel_names": {"0": "MRI"}}'])
def test_a_dataset_json_that_does_not_say_what_images_are(root: Path, content: str | None) -> None:
    file = root / "raw" / "Dataset010_Images" / "dataset.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(InputError, match=r"dataset\.json"):
        check(REQUEST)


def test_networks_that_cannot_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = configuration([16, 24], [[1, 1], [2, 2], [2, 2]], nnunet_attn={"GASAUNet": {"num_heads": 4}})
    folders(tmp_path, monkeypatch, Kind("2d", entry, KINDS["2d"].labels))
    request = replace(REQUEST, configuration="2d")
    with pytest.raises(InputError, match=r"nnUNetTrainerGASA_20epochs cannot be built .*num_heads"):
        check(request)
    with pytest.raises(InputError, match=r"nnUNetTrainerFINE cannot be built .*3D"):
        check(replace(request, trainer="nnUNetTrainerFINE"))


@pytest.mark.parametrize(
    ("setting", "trainer", "gpus", "reason"),
    [
        ({"train_cells": 0}, "", 1, r"train_cells must be an integer of at least 1, or 'auto', got 0"),
        ({"batch_size": "big"}, "", 1, r"batch_size must be an integer of at least 1, or 'auto', got 'big'"),
        ({"batch_size": 3}, "Paper", 1, r"batch_size is 3, but this trainer stands for"),
        ({"batch_size": 2}, "", 3, r"--num-gpus 3: GPUs share a batch, and batch_size is 2 .*give at most 2"),
    ],
)
def test_sizes_of_a_training_are_looked_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any], trainer: str, gpus: int, reason: str
) -> None:
    small = next(dict(row.small_options) for row in NETWORKS if row.name == "PatchTransformer")
    if trainer:
        small = {key: small[key] for key in small if key in setting}
    options = {"PatchTransformer": {**small, **setting}}
    kind = Kind("2d", configuration([16, 24], [[1, 1], [2, 2], [2, 2]], nnunet_attn=options), KINDS["2d"].labels)
    folders(tmp_path, monkeypatch, kind)
    name = f"nnUNetTrainerPatchTransformer{trainer}"
    with pytest.raises(InputError, match=reason):
        check(replace(REQUEST, trainer=name, configuration="2d", num_gpus=gpus))


def test_as_many_gpus_as_there_are_and_as_a_batch_has_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--num-gpus 3: GPUs share a batch, and batch_size is 2 .*give at most 2"):
        check(replace(REQUEST, num_gpus=3))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InputError, match=r"--num-gpus 2, -device not given: there are 1 CUDA devices"):
        check(replace(REQUEST, num_gpus=2))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert check(replace(REQUEST, num_gpus=2)).epochs == 20
    with pytest.raises(InputError, match=r"-device cpu: there are 0 CUDA devices"):
        check(replace(REQUEST, num_gpus=2, device="cpu"))


def test_a_second_stage_has_nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path, monkeypatch, KINDS["cascade"])
    with pytest.raises(InputError, match=r"reads what 3d_lowres has segmented.*pre-train for 3d_lowres"):
        check(replace(REQUEST, configuration="3d_cascade_fullres"))


def test_a_folder_that_is_not_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(InputError, match="nnUNet_results is not set"):
        check(REQUEST)


def test_an_image_of_zeros_is_one_line_and_leaves_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root / "raw" / "Dataset010_Images" / "imagesTr" / "case_1_0000.nii.gz", np.zeros((4, 5, 6), dtype=np.float32))
    words = ["-d", "10", "-tr", "nnUNetTrainerGASA", "-c", "3d_fullres", "-p", "nnUNetPlansMade", "--for", "901"]
    assert main(["pretrain", *words, "--task", "both"]) == 2
    error = capsys.readouterr().err
    assert "case_1_0000.nii.gz: it is constant (0)" in error and len(error.strip().splitlines()) == 1
    assert [path.name for path in (root / "raw").iterdir()] == ["Dataset010_Images"]


def test_the_commands_find_our_trainers_and_the_users() -> None:
    own = str(trainers_dir())
    assert chain_environment({})[TRAINER_VARIABLE] == own
    assert chain_environment({TRAINER_VARIABLE: "/mine"})[TRAINER_VARIABLE] == f"{own}:/mine"
    assert chain_environment({TRAINER_VARIABLE: f"/mine:{own}"})[TRAINER_VARIABLE] == f"/mine:{own}"
