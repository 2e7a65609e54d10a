"""A preprocessed data set of a few random cases, written by nnU-Net's own classes, and trainers on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_attn.paths import nnunet_environment
from tests.made.plans import Kind

CPU = torch.device("cpu")
CASES = ("case_0", "case_1", "case_2", "case_3")


def made_case(kind: Kind, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return image (1 d h w) and labels of a case a little larger than the patch, two blocks on noise."""
    patch = kind.entry["patch_size"]
    space = (3, *(size + 2 for size in patch)) if len(patch) == 2 else tuple(size + 2 for size in patch)
    labels = np.zeros((1, *space), dtype=np.int8)
    half = space[-1] // 2
    labels[..., 2:-2, 2 : half - 1] = 1
    labels[..., 2:-2, half + 1 : -2] = 2
    if "ignore" in kind.labels:
        labels[..., :2, :] = 3
    image = rng.normal(size=labels.shape).astype(np.float32) + labels
    return image, labels


def write_preprocessed(root: Path, kind: Kind) -> dict[str, str]:
    """Write plans, splits and cases below `root`; returns the environment that nnU-Net needs to find them."""
    environment = nnunet_environment(root, base={})
    folder = root / "preprocessed" / kind.plans["dataset_name"]
    data = folder / kind.entry["data_identifier"]
    data.mkdir(parents=True)
    save_json(kind.plans, str(folder / f"{kind.plans['plans_name']}.json"))
    save_json(kind.dataset_json, str(folder / "dataset.json"))
    save_json({}, str(folder / "dataset_fingerprint.json"))
    save_json([{"train": list(CASES[:3]), "val": list(CASES[3:])}], str(folder / "splits_final.json"))
    manager = PlansManager(kind.plans)
    label_manager = manager.get_label_manager(kind.dataset_json)
    wanted: list[Any] = list(
        label_manager.foreground_regions if label_manager.has_regions else label_manager.foreground_labels
    )
    if label_manager.has_ignore_label:
        wanted.append([-1, *label_manager.all_labels])
    rng = np.random.default_rng(0)
    for case in CASES:
        image, labels = made_case(kind, rng)
        locations = DefaultPreprocessor._sample_foreground_locations(labels, wanted)
        properties = {"class_locations": locations, "spacing": [1.0, 1.0, 1.0]}
        shape = image.shape
        nnUNetDatasetBlosc2.save_case(image, labels, properties, str(data / case), shape, shape, shape, shape)
    return environment


def make_trainer(
    trainer_class: type[nnUNetTrainer],
    kind: Kind,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device = CPU,
) -> nnUNetTrainer:
    """Build a trainer on a preprocessed data set below `root`, which is written if it is not there yet."""
    environment = (
        nnunet_environment(root, base={}) if (root / "preprocessed").exists() else write_preprocessed(root, kind)
    )
    for key, value in {**environment, "nnUNet_n_proc_DA": "0"}.items():
        monkeypatch.setenv(key, value)
    trainer = trainer_class(kind.plans, kind.configuration, 0, kind.dataset_json, device)
    if trainer.is_cascaded:
        write_previous_stage(Path(str(trainer.folder_with_segs_from_previous_stage)), kind)
    return trainer


def write_previous_stage(folder: Path, kind: Kind) -> None:
    """Write what the first stage of a cascade would have predicted: here the labels themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for case in CASES:
        if not (folder / f"{case}.b2nd").exists():
            nnUNetDatasetBlosc2.save_seg(made_case(kind, rng)[1][0], str(folder / case))


def train_some(trainer: Any, epochs: int = 1) -> dict[str, torch.Tensor]:
    """Do nnU-Net's own loop for some epochs, without what ends a training; returns the weights."""
    trainer.on_train_start()
    for _ in range(epochs):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        its = range(trainer.num_iterations_per_epoch)
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in its])
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            its = range(trainer.num_val_iterations_per_epoch)
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val)) for _ in its])
        trainer.on_epoch_end()
    return {key: value.clone() for key, value in trainer.network.state_dict().items()}
