"""Training of the patch transformer: which voxels count, at the image's border too, and how large a step is."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from nnunet_attn.inference.grid_predictor import GridPredictor
from nnunet_attn.training import PATCH_PAPER_RECIPE, patch_training
from tests.made import data
from tests.made.data import CPU, make_trainer, train_some
from tests.made.patch import patch_kind
from tests.made.plans import Kind

DEFAULT, PAPER = "nnUNetTrainerPatchTransformer", "nnUNetTrainerPatchTransformerPaper"


@pytest.fixture
def trainer_class(load_leaf: Callable[[str], ModuleType]) -> Callable[[str], Any]:
    return lambda name: getattr(load_leaf(DEFAULT), name)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer_class: Callable[[str], Any]) -> Callable[..., Any]:
    def make(name: str = f"{DEFAULT}_2epochs_1its", kind: Kind | None = None) -> Any:
        return make_trainer(trainer_class(name), kind or patch_kind(), tmp_path / "root", monkeypatch)

    return make


class Echo(nn.Module):
    """Labels each block's centre patch with what the image holds there."""

    def __init__(self, size: int, dims: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.patch_embed_size, self.neighbourhood, self.halo = (size,) * dims, (3,) * dims, (size,) * dims

    def forward(self, x: Tensor, valid: bool = False) -> Tensor:
        """Return logits of three classes."""
        assert valid
        inner = x[(slice(None), 0, *(slice(own, -own) for own in self.halo))]
        return self.gain * F.one_hot(inner.round().long(), 3).movedim(-1, 1).float()


def labels_as_image(kind: Kind, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a case whose image is its labels, which are drawn at random for every voxel."""
    patch = kind.entry["patch_size"]
    space = (3, *(size + 5 for size in patch)) if len(patch) == 2 else tuple(size + 5 for size in patch)
    labels = rng.integers(0, 3, (1, *space)).astype(np.int8)
    return labels.astype(np.float32), labels


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_each_target_voxel_is_that_of_its_own_block(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(data, "made_case", labels_as_image)
    dims = int(kind[0])
    trainer = make(f"{DEFAULT}_2epochs_1its_NoDA_seed0", patch_kind(kind, train_cells=2))
    trainer.initialize()
    trainer.network = Echo(4, dims)
    trainer.optimizer = torch.optim.SGD(trainer.network.parameters(), 1e-3)
    stock_loss, seen = trainer.loss, []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        assert torch.equal(logits.argmax(1), target[:, 0].long())
        seen.append(tuple(target.shape))
        return stock_loss(logits, target)

    trainer.loss = loss
    train, val = trainer.get_dataloaders()
    batch = next(train)
    assert batch["data"].shape[2:] == batch["target"].shape[2:] == (16,) * dims == trainer.train_patch_size
    assert np.isfinite(trainer.train_step(batch)["loss"])
    step = trainer.validation_step(next(val))
    # two cells of four voxels, without the cell of context at each side
    assert seen == [(4, 1, *(8,) * dims)] * 2
    assert not step["fp_hard"].any() and not step["fn_hard"].any()
    assert step["tp_hard"].sum() > 0
    assert isinstance(trainer.network, Echo), "the network is itself again"


@pytest.mark.parametrize("suffix", ["_NoDA", ""])
@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_the_border_of_an_image_is_labelled_in_training_too(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str, suffix: str
) -> None:
    trainer = make(f"{DEFAULT}_2epochs_1its{suffix}", patch_kind(kind, train_cells=2))
    trainer.initialize()
    for loader in trainer.get_dataloaders():
        loader = loader.data_loader
        shape = np.array([1, 60, 70] if kind == "2d" else [50, 60, 70])
        drawn, crop = np.array(loader.patch_size), np.array(loader.final_patch_size)
        halo = np.array([0, 4, 4] if kind == "2d" else [4, 4, 4])
        # where the augmentation's centre crop, and in it the labelled part, begins
        ahead = (drawn - crop) // 2 + halo
        monkeypatch.setattr(np.random, "randint", lambda low, high: low)
        begins, _ = loader.get_bbox(shape, False, None)
        monkeypatch.setattr(np.random, "randint", lambda low, high: high - 1)
        _, ends = loader.get_bbox(shape, False, None)
        monkeypatch.undo()
        assert (np.array(begins) + ahead <= 0).all() and (np.array(begins) + ahead >= -1).all()
        behind = np.array(ends) - (drawn - crop - (drawn - crop) // 2) - halo
        assert (behind >= shape).all() and (behind <= shape + 1).all()
        assert tuple(crop[-2:]) == (16, 16)


def test_the_configuration_of_the_plans_is_back_behind_the_loaders(make: Callable[..., Any]) -> None:
    trainer = make()
    trainer.initialize()
    loader = stock.nnUNetDataLoader
    trainer.get_dataloaders()
    assert trainer.configuration_manager.patch_size == [16, 16, 16]
    assert stock.nnUNetDataLoader is loader


def test_numbers_of_the_plans_are_used_and_written_down(make: Callable[..., Any]) -> None:
    trainer = make(kind=patch_kind(train_cells=3, batch_size=5))
    train_some(trainer)
    assert trainer.train_patch_size == (20, 20, 20)
    assert next(trainer.dataloader_train)["data"].shape == (5, 1, 20, 20, 20)
    written = json.loads(Path(trainer.output_folder_base, "plans.json").read_text())["configurations"]["3d_fullres"]
    assert {"train_cells": 3, "batch_size": 5}.items() <= written["nnunet_attn"]["PatchTransformer"].items()
    assert (written["patch_size"], written["batch_size"]) == ([16, 16, 16], 2), "those for nnU-Net's tiles stay"
    log = Path(trainer.log_file).read_text()
    counts = "training crops of 20 x 20 x 20 voxels, in which 27 patches have a whole block around them and count"
    assert f"Patches of 4 x 4 x 4 voxels; {counts} (train_cells: 3); batch of 5; sizes as the trainer" in log


@pytest.mark.parametrize(("name", "cells", "batch"), [(DEFAULT, 4, 4), (PAPER, 1, 10)])
def test_defaults(make: Callable[..., Any], name: str, cells: int, batch: int) -> None:
    trainer = make(name)
    trainer.initialize()
    assert (trainer.train_cells, trainer.batch_size) == (cells, batch)
    assert (trainer.oversample_foreground_percent, trainer.enable_deep_supervision) == (0.33, False)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            DEFAULT,
            {"train_cells": 0},
            "PatchTransformer.train_cells must be an integer of at least 1, or 'auto', got 0",
        ),
        (DEFAULT, {"batch_size": "many"}, "PatchTransformer.batch_size must be .*'auto', got 'many'"),
        (DEFAULT, {"batch_size": True}, "PatchTransformer.batch_size must be .*'auto', got True"),
        (PAPER, {"train_cells": "auto"}, "train_cells is 'auto', but this trainer stands for 1; remove the entry"),
        (DEFAULT, {"depth": 0}, "depth must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    make: Callable[..., Any], tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, patch_kind(**options))
    assert not any((tmp_path / "root" / "results").iterdir())


def test_the_automatic_choice_is_kept_and_taken_over(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kind = patch_kind(train_cells="auto", batch_size="auto")
    blocks = {"fit": 3 * 27}
    monkeypatch.setattr(patch_training, "free_bytes", lambda device: 2**30)
    monkeypatch.setattr(patch_training, "blocks_that_fit", lambda *_, **__: blocks["fit"])
    first = make(kind=kind)
    train_some(first)
    # two crops of 4 x 4 x 4 blocks do not fit, three of 3 x 3 x 3 do
    assert (first.train_cells, first.batch_size) == (3, 3)
    assert "chosen for 1.0 GiB of free memory, which hold about 81 blocks" in Path(first.log_file).read_text()
    written = json.loads(Path(first.output_folder_base, "plans.json").read_text())["configurations"]["3d_fullres"]
    assert {"train_cells": 3, "batch_size": 3}.items() <= written["nnunet_attn"]["PatchTransformer"].items()
    planned = patch_kind(train_cells="auto", batch_size="auto").entry["nnunet_attn"]["PatchTransformer"]
    assert kind.entry["nnunet_attn"]["PatchTransformer"] == planned, "the plans of the data set stay as they are"

    blocks["fit"] = 10**6
    again = make(kind=kind)
    assert (again.train_cells, again.configuration_manager.batch_size) == (3, 3)
    again.load_checkpoint(str(Path(again.output_folder, "checkpoint_latest.pth")))
    train_some(again)
    assert "as in earlier results" in Path(again.log_file).read_text()
    other = make(f"{DEFAULT}_2epochs_1its_seed1", kind)
    assert (other.train_cells, other.configuration_manager.batch_size) == (4, 4), "another trainer chooses anew"
    asked = make(kind=patch_kind(train_cells="auto", batch_size=2))
    assert (asked.train_cells, asked.configuration_manager.batch_size) == (3, 2)


def test_processes_choose_alike(monkeypatch: pytest.MonkeyPatch, trainer_class: Callable[[str], Any]) -> None:
    kind = patch_kind(train_cells="auto", batch_size="auto")
    seen: list[int] = []

    def gather(gathered: list[Any], own: Any) -> None:
        gathered[:] = [(own[0], {}), (own[0] - 100, {"train_cells": 1}), own]

    def fitting(_: Any, free: int, mixed: bool) -> int:
        assert not mixed
        seen.append(free)
        return 64

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed, "all_gather_object", gather)
    monkeypatch.setattr(patch_training, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(patch_training, "blocks_that_fit", fitting)
    cls = trainer_class(DEFAULT)
    plans, _ = cls._plans_with_sizes(kind.plans, kind.configuration, kind.dataset_json, CPU)
    assert seen == [900], "that of the process with the least free memory"
    entry = plans["configurations"]["3d_fullres"]["nnunet_attn"]["PatchTransformer"]
    # one crop for each process
    assert (entry["train_cells"], entry["batch_size"]) == (4, 3)
    few = patch_kind(batch_size=2)
    with pytest.raises(ValueError, match=r"batch_size is 2, but 3 processes share a batch: set it to 3 or more"):
        cls._plans_with_sizes(few.plans, few.configuration, few.dataset_json, CPU)


def test_a_configuration_that_inherits_keeps_what_it_inherits(trainer_class: Callable[[str], Any]) -> None:
    kind = patch_kind(train_cells=2)
    plans = kind.plans
    plans["configurations"]["3d_other"] = {"inherits_from": "3d_fullres"}
    chosen, _ = trainer_class(DEFAULT)._plans_with_sizes(plans, "3d_other", kind.dataset_json, CPU)
    own = chosen["configurations"]["3d_other"]["nnunet_attn"]["PatchTransformer"]
    assert own == {**plans["configurations"]["3d_fullres"]["nnunet_attn"]["PatchTransformer"], "batch_size": 4}


def test_the_papers_learning_rate_survives_resuming(make: Callable[..., Any], tmp_path: Path) -> None:
    first = make(f"{PAPER}_100epochs_1its")
    first.initialize()
    assert type(first.optimizer) is torch.optim.Adam and first._recipe is PATCH_PAPER_RECIPE
    # the loss is that of the first epoch for 21 more: a plateau
    first.logger.local_logger.my_fantastic_logging["val_losses"] = [0.25] * 22
    first.current_epoch = 22
    first.lr_scheduler.step(21)
    assert first.optimizer.param_groups[0]["lr"] == 1e-4
    first.lr_scheduler.step(22)
    assert first.optimizer.param_groups[0]["lr"] == 5e-5
    first.save_checkpoint(str(tmp_path / "kept.pth"))
    second = make(f"{PAPER}_100epochs_1its")
    second.load_checkpoint(str(tmp_path / "kept.pth"))
    second.lr_scheduler.step(second.current_epoch)
    assert {group["lr"] for group in second.optimizer.param_groups} == {5e-5}


def test_the_papers_augmentation_is_mirroring_along_all_axes(make: Callable[..., Any]) -> None:
    trainer = make(PAPER)
    trainer.initialize()
    train, _ = trainer.get_dataloaders()
    names = [type(transform).__name__ for transform in train.data_loader.transforms.transforms]
    assert names[0] == "MirrorTransform" and len(names) == 2
    assert train.data_loader.transforms.transforms[0].allowed_axes == (0, 1, 2)
    assert trainer.inference_allowed_mirroring_axes == (0, 1, 2)
    assert list(train.data_loader.patch_size) == [12, 12, 12], "one block, no border to rotate in"
    train_some(make(f"{PAPER}_1epochs_1its"))


def test_a_network_is_trained_behind_a_prediction(make: Callable[..., Any]) -> None:
    trainer = make()
    trainer.on_train_start()
    predictor = GridPredictor(device=CPU, allow_tqdm=False)
    managers = (trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json)
    predictor.manual_initialization(trainer.network, *managers, "any", (0, 1, 2))
    # with its context as large as a training crop, so that both use one table of blocks
    predictor.predict_sliding_window_return_logits(torch.zeros(1, 16, 16, 16))
    assert trainer.train_patch_size == (24, 24, 24)
    trainer.on_train_epoch_start()
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


def test_a_distributed_network_is_trained_and_predicts_alike(make: Callable[..., Any], tmp_path: Path) -> None:
    trainer = make(f"{DEFAULT}_2epochs_1its_seed0")
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    plain, batch = trainer.network, next(trainer.dataloader_train)
    managers = (trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json)
    image, steps, logits = torch.randn(1, 9, 10, 11), [], []
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for network in (plain, DistributedDataParallel(plain)):
            trainer.network = network
            steps.append(trainer.validation_step(batch))
            predictor = GridPredictor(device=CPU, allow_tqdm=False)
            predictor.manual_initialization(network, *managers, "any", (0, 1, 2))
            logits.append(predictor.predict_sliding_window_return_logits(image))
        before = plain.embed.weight.clone()
        network.train()
        assert np.isfinite(trainer.train_step(batch)["loss"])
        assert not torch.equal(plain.embed.weight, before)
    finally:
        distributed.destroy_process_group()
    assert steps[0]["loss"] == steps[1]["loss"] and torch.equal(*logits)


def test_the_final_validation_predicts_on_the_grid(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def validate(self: Any, save_probabilities: bool) -> None:
        seen.append((stock.nnUNetPredictor, save_probabilities))
        raise KeyboardInterrupt

    monkeypatch.setattr(stock.nnUNetTrainer, "perform_actual_validation", validate)
    with pytest.raises(KeyboardInterrupt):
        make().perform_actual_validation(True)
    assert seen == [(GridPredictor, True)]
    assert stock.nnUNetPredictor is nnUNetPredictor
