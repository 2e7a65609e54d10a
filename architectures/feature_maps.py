"""Counts feature map values, by which nnU-Net's planner estimates memory."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention

# An attention layer keeps queries, keys and values (2 c channels) and both outputs (2 c) beside its result.
_KEPT_BY_ATTENTION = 5


def feature_map_values(network: nn.Module, input_channels: int, input_size: Sequence[int]) -> int:
    """Return the values of all convolutions' and attention layers' outputs for one image, computed without data."""
    values = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal values
        values += output.numel() * (_KEPT_BY_ATTENTION if isinstance(module, GatedAxialAttention) else 1)

    ghost = deepcopy(network).to("meta").eval()
    counted = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, GatedAxialAttention)
    for module in ghost.modules():
        if isinstance(module, counted):
            module.register_forward_hook(count)
    with torch.no_grad():
        ghost(torch.empty(1, input_channels, *input_size, device="meta"))
    return values
