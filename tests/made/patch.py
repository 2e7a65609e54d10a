"""Configurations on which a small patch transformer is trained: patches of 4 voxels, blocks of 3 along each axis."""

from dataclasses import replace
from typing import Any

from nnunet_attn.architectures.patch_transformer import PatchTransformer
from nnunet_attn.training.network import PLANS_KEY
from tests.made.plans import KINDS, Kind

OPTIONS: dict[str, Any] = {
    "patch_embed_size": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "head_dim": 8,
    "mlp_dim": 32,
}


def patch_kind(name: str = "3d", **options: Any) -> Kind:
    """Return a configuration whose plans make the network small, and set `options` of network and trainer."""
    kind = KINDS[name]
    return replace(kind, entry={**kind.entry, PLANS_KEY: {"PatchTransformer": {**OPTIONS, **options}}})


def small_network(dims: int = 3, input_channels: int = 1, num_classes: int = 3, **options: Any) -> PatchTransformer:
    """Return a small network."""
    return PatchTransformer(input_channels, num_classes, (16,) * dims, **{**OPTIONS, **options})
