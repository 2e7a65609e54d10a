"""Cross-entropy and Dice alone, the weights of deep supervision, and MedT's published augmentation."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nnunet_attn.training.losses import CrossEntropy, Dice, halving_weights
from tests.made.data import make_trainer, train_some
from tests.made.patch import patch_kind
from tests.made.plans import IGNORE, LABELS, REGIONS

LOGITS = torch.tensor([[[[0.0, 2.0]], [[1.0, 0.0]], [[0.0, 0.0]]]])


def test_labels() -> None:
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 1, 4, 5)).short()
    assert torch.equal(CrossEntropy(False, None)(logits, labels), F.cross_entropy(logits, labels[:, 0].long()))


def test_ignored_voxels_do_not_count() -> None:
    # of (0, 1, 0) label 1: log(2 + e) - 1; (2, 0, 0) is ignored
    target = torch.tensor([[[[1, 3]]]])
    expected = np.log(2 + np.e) - 1
    assert float(CrossEntropy(False, 3)(LOGITS, target)) == pytest.approx(expected, rel=1e-6)
    # and (2, 0, 0) label 0: log(2 + e^2) - 2; the mean of both
    target = torch.tensor([[[[1, 0]]]])
    expected = (expected + np.log(2 + np.e**2) - 2) / 2
    assert float(CrossEntropy(False, 3)(LOGITS, target)) == pytest.approx(expected, rel=1e-6)


def test_regions() -> None:
    logits, regions = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) > 0.5
    expected = F.binary_cross_entropy_with_logits(logits, regions.float())
    assert torch.equal(CrossEntropy(True, None)(logits, regions), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16])
def test_ignored_voxels_of_regions_do_not_count(dtype: torch.dtype) -> None:
    regions = torch.tensor([[[[1, 1]], [[1, 0]], [[0, 0]], [[0, 1]]]]).to(dtype)
    # logits 0, 1, 0 for regions 1, 1, 0: twice log(2), and log(1 + 1 / e)
    expected = (2 * np.log(2) + np.log(1 + 1 / np.e)) / 3
    assert float(CrossEntropy(True, 3)(LOGITS, regions)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("regions", [False, True])
def test_a_batch_without_labels_has_no_loss_but_gradients(regions: bool) -> None:
    logits = torch.full((1, 3, 1, 2), 5.0, requires_grad=True)
    target = torch.ones(1, 4, 1, 2) if regions else torch.full((1, 1, 1, 2), 3)
    loss = CrossEntropy(regions, 3)(logits, target)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("labels", [LABELS, REGIONS, IGNORE], ids=["labels", "regions", "ignore"])
def test_the_papers_trainer_has_cross_entropy_alone(make_axial: Callable[..., Any], labels: dict[str, Any]) -> None:
    trainer = make_axial("nnUNetTrainerMedTPaper_1epochs_2its", labels)
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    assert torch.is_tensor(batch["target"]), "one output, no deep supervision"
    logits = trainer.network(batch["data"]).detach()
    loss = float(trainer.loss(logits, batch["target"]))
    if labels is REGIONS:
        expected = F.binary_cross_entropy_with_logits(logits, batch["target"].float())
    else:
        expected = F.cross_entropy(logits, batch["target"][:, 0].long(), ignore_index=3)
    assert loss == pytest.approx(float(expected), rel=1e-6)
    train_some(trainer)
    assert np.isfinite(trainer.logger.get_value("val_losses", -1))


def soft_dice(predicted: torch.Tensor, true: torch.Tensor) -> float:
    """Return -2 |a b| / (|a| + |b|) over a whole batch, each with nnU-Net's 1e-5, as the mean of channels."""
    both, each = (predicted * true).transpose(0, 1).flatten(1).sum(1), (predicted + true).transpose(0, 1).flatten(1)
    return -float(((2 * both + 1e-5) / (each.sum(1) + 1e-5)).mean())


def test_dice_of_foreground_over_the_batch() -> None:
    # of three classes with the probabilities (1/2, 1/4, 1/4) in both samples; the second has nothing but background
    logits = torch.tensor([2.0, 1.0, 1.0]).log().view(1, 3, 1, 1).repeat(2, 1, 1, 2)
    labels = torch.tensor([[[[1, 2]]], [[[0, 0]]]])
    # of class 1, as of class 2: 2 * 1/4 over 4 * 1/4 + 1
    assert float(Dice(False, None)(logits, labels)) == pytest.approx(-0.25, rel=1e-4)
    made, drawn = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 1, 4, 5))
    expected = soft_dice(made.softmax(1)[:, 1:], F.one_hot(drawn[:, 0], 3).movedim(-1, 1)[:, 1:].float())
    assert float(Dice(False, None)(made, drawn.short())) == pytest.approx(expected, rel=1e-5)


def test_dice_of_regions() -> None:
    logits, regions = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) > 0.5
    expected = soft_dice(logits.sigmoid(), regions.float())
    assert float(Dice(True, None)(logits, regions)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("regions", [False, True])
def test_dice_leaves_out_what_is_ignored(regions: bool) -> None:
    logits = torch.randn(2, 3, 4, 6)
    if regions:
        target = torch.rand(2, 4, 4, 6) > 0.5
        target[:, 3] = torch.arange(6) > 3
    else:
        target = torch.randint(0, 3, (2, 1, 4, 6)).short()
        target[..., 4:] = 3
    kept = target[:, :3, :, :4] if regions else target[..., :4]
    expected = Dice(regions, None)(logits[..., :4], kept)
    assert float(Dice(regions, 3)(logits, target)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["3d", "regions", "ignore"])
def test_the_patch_transformers_paper_has_dice_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType], name: str
) -> None:
    leaf = load_leaf("nnUNetTrainerPatchTransformer")
    trainer: Any = make_trainer(
        leaf.nnUNetTrainerPatchTransformerPaper_1epochs_1its, patch_kind(name), tmp_path / "root", monkeypatch
    )
    train_some(trainer)
    assert isinstance(trainer.loss, Dice)
    regions = name == "regions"
    assert (trainer.loss.regions, trainer.loss.ignore_label) == (regions, 3 if name == "ignore" else None)
    assert -1 <= trainer.logger.get_value("train_losses", -1) < 0


def test_halving_weights() -> None:
    assert halving_weights(1) == (1,)
    assert halving_weights(3) == pytest.approx((4 / 7, 2 / 7, 1 / 7))


def test_one_output_is_trained_without_deep_supervision(make_axial: Callable[..., Any]) -> None:
    trainer = make_axial("nnUNetTrainerMedT_1epochs_1its")
    assert trainer.enable_deep_supervision is False
    assert trainer._get_deep_supervision_scales() is None
    train_some(trainer)
    # nnU-Net does this after its validation
    trainer.set_deep_supervision_enabled(True)
    assert torch.is_tensor(trainer.network(next(trainer.dataloader_val)["data"]))


@pytest.mark.parametrize("trainer_name", ["nnUNetTrainerGatedAxial", "nnUNetTrainerMedT"])
@pytest.mark.parametrize("patch_size", [(16, 24), (18, 25), (23, 37), (12, 10, 22)])
def test_several_outputs_are_trained_at_their_own_sizes(
    make_axial: Callable[..., Any], trainer_name: str, patch_size: tuple[int, ...]
) -> None:
    heads = 4 if "Gated" in trainer_name else 2
    trainer = make_axial(f"{trainer_name}_1epochs_1its", patch_size=patch_size, heads=heads)
    assert trainer.enable_deep_supervision is True
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    logits = [level.detach() for level in trainer.network(batch["data"])]
    assert [level.shape[2:] for level in logits] == [level.shape[2:] for level in batch["target"]]
    assert len(logits) == heads and len({level.shape for level in logits}) == heads
    weights = {2: [2 / 3, 1 / 3], 4: [8 / 15, 4 / 15, 2 / 15, 1 / 15]}[heads]
    each = [trainer.loss.loss(*pair) for pair in zip(logits, batch["target"], strict=True)]
    expected = sum(float(weight * loss) for weight, loss in zip(weights, each, strict=True))
    assert float(trainer.loss(logits, batch["target"])) == pytest.approx(expected, rel=1e-5)
    trainer.set_deep_supervision_enabled(False)
    assert trainer.network(batch["data"]).shape[2:] == patch_size
    trainer.set_deep_supervision_enabled(True)
    train_some(trainer)
    assert all(layer.weight.grad.any() for layer in trainer.network.output.seg_layers)


def test_cross_entropy_of_several_outputs(make_axial: Callable[..., Any]) -> None:
    trainer = make_axial("nnUNetTrainerMedTPaper", heads=2)
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    logits = [level.detach() for level in trainer.network(batch["data"])]
    fine, coarse = (
        float(F.cross_entropy(level, target[:, 0].long()))
        for level, target in zip(logits, batch["target"], strict=True)
    )
    assert float(trainer.loss(logits, batch["target"])) == pytest.approx(fine * 2 / 3 + coarse / 3, rel=1e-5)


@pytest.mark.parametrize("patch_size", [(16, 24), (8, 16, 12)])
@pytest.mark.parametrize(("suffix", "flips"), [("", True), ("_NoMirroring", False), ("_NoDA", False)])
def test_the_papers_augmentation_is_the_horizontal_flip_alone(
    make_axial: Callable[..., Any], suffix: str, flips: bool, patch_size: tuple[int, ...]
) -> None:
    trainer = make_axial(f"nnUNetTrainerMedTPaper{suffix}", patch_size=patch_size)
    rotation, dummy_2d, initial, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert list(initial) == list(patch_size), "no border to rotate in"
    assert trainer.inference_allowed_mirroring_axes == ((len(patch_size) - 1,) if flips else None)
    transforms = trainer.get_training_transforms(patch_size, rotation, None, axes, dummy_2d)
    image = torch.arange(float(np.prod(patch_size))).view(1, *patch_size)
    labels = (image % 3).short()
    torch.manual_seed(0)
    flipped = 0
    for _ in range(60):
        made = transforms(image=image.clone(), segmentation=labels.clone())
        is_flipped = not torch.equal(made["image"], image)
        assert torch.equal(made["image"], image.flip(-1) if is_flipped else image)
        assert torch.equal(made["segmentation"], labels.flip(-1) if is_flipped else labels)
        flipped += is_flipped
    # 30 of 60 with a standard deviation of 3.9
    assert 15 < flipped < 45 if flips else flipped == 0


def test_the_papers_augmentation_reaches_the_loader(make_axial: Callable[..., Any]) -> None:
    trainer = make_axial("nnUNetTrainerMedTPaper")
    trainer.initialize()
    train, _ = trainer.get_dataloaders()
    names = [type(transform).__name__ for transform in train.data_loader.transforms.transforms]
    assert names[0] == "MirrorTransform" and len(names) == 2
    assert not any("Spatial" in name or "Noise" in name for name in names)
