"""A network that checks the position it is given against images that hold their own coordinates, and its trainer."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import Tensor, nn

from nnunet_attn.architectures import registry
from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.training import PositionTrainer

OFFSET = 1000.0
"""Of the intensity in the middle of a volume, so that no voxel inside has that of the padding, 0."""

LOG_VARIABLE = "POSITION_PROBE_LOG"


def central(size: int) -> slice:
    """Return the one or two voxels in the middle of an axis."""
    return slice((size - 1) // 2, size // 2 + 1)


def decoded_centre(image: Tensor) -> Tensor:
    """Return the coordinates (3) in the middle of an image (3 d h w) whose channels hold them."""
    return image[(slice(None), *(central(size) for size in image.shape[1:]))].flatten(1).mean(1) - OFFSET


def read_position(channels: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the position (axes) that a tile's channels (axes d h w) tell, as networks read it."""
    found = []
    for channel, axis in zip(channels, axes, strict=True):
        here = [(size - 1) // 2 for size in channel.shape]
        two = [channel[tuple(i if other == axis else at for other, at in enumerate(here))] for i in _two(channel, axis)]
        found.append(torch.stack(two).mean())
    return torch.stack(found)


def _two(channel: Tensor, axis: int) -> tuple[int, int]:
    return (channel.shape[axis] - 1) // 2, channel.shape[axis] // 2


class PositionProbe(nn.Module):
    """One convolution of the image, which writes a line of every call to the file that `LOG_VARIABLE` names.

    A line has: train or eval, the channels of position, and the largest distance in voxels between a position given
    and the one that the image holds.
    """

    # one tensor of logits
    deep_supervision_scales = ((1.0, 1.0, 1.0),)

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = False,
        patch_size: tuple[int, ...] = (8, 16, 16),
        extent: tuple[int, ...] = (8, 32, 32),
    ) -> None:
        super().__init__()
        self.input_channels = input_channels
        self.extent = tuple(extent)
        self.deep_supervision = deep_supervision
        self.position_axes = tuple(
            axis for axis, (whole, patch) in enumerate(zip(extent, patch_size, strict=True)) if whole >= 2 * patch
        )
        self.convolution = nn.Conv3d(input_channels, num_classes, 1)

    @classmethod
    def plan_arguments(cls, plan: PlannedUNet) -> dict[str, Any]:
        """Return what a plan decides."""
        assert plan.volume_extent is not None
        return {"patch_size": list(plan.patch_size), "extent": list(plan.volume_extent)}

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the image channels."""
        self._check(x)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return self.convolution(x[:, : self.input_channels])

    @torch.compiler.disable
    def _check(self, x: Tensor) -> None:
        if LOG_VARIABLE not in os.environ:
            return
        axes, channels = self.position_axes, x.shape[1] - self.input_channels
        worst = float("nan")
        if channels == len(axes) > 0:
            wrong = [
                (read_position(tile[self.input_channels :], axes) - decoded_centre(tile[:3])[list(axes)]).abs().max()
                for tile in x.detach().cpu().float()
            ]
            worst = max(map(float, wrong))
        with Path(os.environ[LOG_VARIABLE]).open("a", encoding="utf-8") as log:
            log.write(f"{'train' if self.training else 'eval'} {channels} {worst:.6f}\n")


ROW = registry.Network(
    name="PositionProbe",
    class_path="tests.made.position.PositionProbe",
    trainers=("nnUNetTrainerPositionProbe",),
    dims=(3,),
    title="made",
    source="made",
    cascade=False,
)


def register() -> None:
    """Add the network to the table, once."""
    if ROW not in registry.NETWORKS:
        registry.NETWORKS = (*registry.NETWORKS, ROW)


@contextmanager
def registered() -> Iterator[None]:
    """Have the network in the table for a while."""
    before = registry.NETWORKS
    register()
    try:
        yield
    finally:
        registry.NETWORKS = before


class nnUNetTrainerPositionProbe(PositionTrainer):
    """Trains the probe for one epoch of four iterations, without augmentation of the intensities."""

    network_name = "PositionProbe"
    epochs = 1
    iterations_per_epoch = 4

    @classmethod
    def get_training_transforms(cls, *arguments: Any, **keywords: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return nnU-Net's augmentation without that of the intensities."""
        stock: Any = super().get_training_transforms(*arguments, **keywords)
        return ComposeTransforms([t for t in stock.transforms if not isinstance(t, RandomTransform)])
