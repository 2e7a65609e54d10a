"""Networks of window attention with the published names, in any size and with weights that show mistakes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nnunet_attn.architectures.build import locate
from nnunet_attn.architectures.published_keys import SOURCES
from nnunet_attn.architectures.registry import network_named
from tests.reference.fine import DirectFINE
from tests.reference.nnformer import DirectNNFormer, DirectOldNNFormer

WINDOWS = ("nnformer", "nnformer_2021", "fine")
CROP, EXTENT = (16, 32, 32), (30, 100, 100)
_DIRECT = {"nnformer": DirectNNFormer, "nnformer_2021": DirectOldNNFormer, "fine": DirectFINE}
_TABLES = ("relative_position_bias_table", ".pe", "_token")


def direct(
    source: str,
    crop: Sequence[int] = CROP,
    width: int = 8,
    heads: int = 2,
    channels: int = 1,
    classes: int = 2,
    embedding: Sequence[int] = (2, 4, 4),
    extent: Sequence[int] = EXTENT,
    seed: int = 0,
    **more: Any,
) -> nn.Module:
    """Return the direct transcription of a source's network, in float64, with all outputs.

    Args:
        source: A key of `SOURCES`, one of `WINDOWS`.
        crop: Voxels of the image along each axis.
        width: Channels of the first stage.
        heads: Heads of the first stage.
        channels: Channels of the image.
        classes: Channels of the logits.
        embedding: Reduction of the patch embedding.
        extent: Voxels of the volume along each axis, for FINE.
        seed: Of the weights.
        more: Further arguments of the transcription.
    """
    # the deepest map of small crops has nothing left to halve, as the first publication does in vain
    strides = [*[(2, 2, 2)] * 3, (1, 1, 1)]
    num_heads = [heads * 2**stage for stage in range(4)]
    arguments = {"embedding": embedding, "num_heads": num_heads, "strides": strides, **more}
    if source != "nnformer":
        arguments["all_heads"] = True
    if source == "fine":
        arguments["extent"] = extent
    torch.manual_seed(seed)
    network = _DIRECT[source](channels, classes, crop, width, **arguments).double().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name == "vt_check":
                parameter.copy_(torch.randint(0, 3, parameter.shape))
            else:
                parameter.add_(torch.randn_like(parameter) * (1.0 if name.endswith(_TABLES) else 0.1))
    return network


def ours(
    source: str,
    crop: Sequence[int] = CROP,
    width: int = 8,
    heads: int = 2,
    channels: int = 1,
    classes: int = 2,
    embedding: Sequence[int] = (2, 4, 4),
    extent: Sequence[int] = EXTENT,
    **more: Any,
) -> nn.Module:
    """Return this package's network of a source in the same sizes, with the options that make it the published one."""
    options: dict[str, Any] = {"quirk": True, "strides": [(2, 2, 2)] * 3, "embedding": embedding}
    if source == "fine":
        options |= {"carry": False, "volume_extent": list(extent)}
    return locate(network_named(SOURCES[source].network).class_path or "")(
        channels, classes, crop, embed_dim=width, num_heads=heads, deep_supervision=True, **{**options, **more}
    ).eval()
