"""Layers of axial attention with drawn weights, beside the published layer with the same weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention
from tests.reference.axial_attention import DirectAxialAttention

KINDS = [("gated", "pre_norm"), ("gated", "post_norm"), ("plain", "pre_norm"), ("no_position", "pre_norm")]
GATES = ("f_qr", "f_kr", "f_sv", "f_sve")


def under_own_names(published: Mapping[str, Tensor], variant: str) -> dict[str, Tensor]:
    """Return values of a layer, whatever they are, from the published names and layouts to those of this package."""
    own = {}
    for key, value in published.items():
        if key.startswith("bn_output") and value.ndim and variant != "no_position":
            value = torch.cat([value[0::2], value[1::2]])
        own[key.replace("qkv_transform", "qkv")] = value
    gates = [own.pop(name) for name in GATES if name in own]
    return own | ({"gates": torch.stack(gates)} if gates else {})


def draw(module: nn.Module) -> None:
    """Draw all parameters around 0.5, and running statistics that differ by channel."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5 + 0.5)
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.3)


def pair(
    channels: int,
    axis: int,
    length: int,
    num_heads: int = 8,
    variant: str = "gated",
    gate_position: str = "pre_norm",
    drawn: bool = True,
) -> tuple[GatedAxialAttention, DirectAxialAttention]:
    """Return a layer and the published one, equal in all weights and buffers, in float64."""
    options: Any = (channels, axis, length, num_heads, variant, gate_position)
    layer, direct = GatedAxialAttention(*options).double(), DirectAxialAttention(*options).double()
    if drawn:
        draw(direct)
    layer.load_state_dict(under_own_names(direct.state_dict(), variant))
    return layer, direct
