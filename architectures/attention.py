"""Where a network looks: maps of the attention of any network of this package, computed when asked for.

Nothing here runs while a network trains or predicts: maps are read by hooks that exist for one run, and matrices of
attention, which the networks never form, are computed from the inputs of their blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_attn.architectures.attention_axial import axial_readers, mat_readers
from nnunet_attn.architectures.attention_fine import fine_readers
from nnunet_attn.architectures.attention_gasa import gasa_readers
from nnunet_attn.architectures.attention_map import AttentionMap, Reader
from nnunet_attn.architectures.attention_patch import patch_readers
from nnunet_attn.architectures.attention_window import window_readers
from nnunet_attn.architectures.axial_network import AxialNetwork
from nnunet_attn.architectures.fine import FINE
from nnunet_attn.architectures.gasa_unet import GASAUNet
from nnunet_attn.architectures.mat import MAT
from nnunet_attn.architectures.patch_transformer import PatchTransformer
from nnunet_attn.architectures.swin_network import SwinNetwork

__all__ = ["AttentionMap", "attention_maps", "attention_stages", "voxel_attention"]

# What reads the networks of a class; the first that fits counts.
_READERS: tuple[tuple[type[nn.Module], Callable[[Any], list[Reader]]], ...] = (
    (GASAUNet, gasa_readers),
    (AxialNetwork, axial_readers),
    (MAT, mat_readers),
    (FINE, fine_readers),  # ahead of what it derives from
    (SwinNetwork, window_readers),
    (PatchTransformer, patch_readers),
)


def attention_stages(network: nn.Module) -> list[str]:
    """Return the names of a network's stages of attention, in the order it runs them; none if it has no attention.

    They are fit for file names. Wrappers of DistributedDataParallel and `torch.compile` are looked through.
    """
    return [stage for reader in _readers(unwrapped(network)) for stage in reader.stages]


def attention_maps(network: nn.Module, tile: Tensor, stages: Sequence[str] | None = None) -> list[AttentionMap]:
    """Return how much attention each place of a tile gets: column sums of the attention matrices, on the CPU.

    Args:
        network: The network. It runs once in evaluation mode without gradients; its mode is put back.
        tile: Input of the network, (1 channels *space).
        stages: Names from `attention_stages`; None for all.
    Raises:
        ValueError: If the network has no attention, a stage does not exist, or the tile is not a batch of one.
    """
    return _read(network, tile, stages, None)


def voxel_attention(
    network: nn.Module, tile: Tensor, voxel: Sequence[int], stages: Sequence[str] | None = None
) -> list[AttentionMap]:
    """Return what a voxel attends to: rows of the attention matrices, times their number of tokens, on the CPU.

    Args:
        network: See `attention_maps`.
        tile: See `attention_maps`.
        voxel: Its index in the tile along each axis.
        stages: See `attention_maps`.
    Raises:
        ValueError: As `attention_maps`, and if the voxel lies outside the tile.
    """
    index = tuple(voxel)
    size = tuple(tile.shape[2:])
    if len(index) != len(size) or any(not 0 <= step < voxels for step, voxels in zip(index, size, strict=False)):
        raise ValueError(f"the voxel must lie in the tile of {size} voxels, counted from 0, got {index}")
    return _read(network, tile, stages, index)


def unwrapped(network: nn.Module) -> nn.Module:
    """Return a network without the wrappers of DistributedDataParallel, DataParallel and `torch.compile`."""
    parallel = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while True:
        inner = network.module if isinstance(network, parallel) else getattr(network, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return network
        network = inner


def _readers(network: nn.Module) -> list[Reader]:
    return next((make(network) for kind, make in _READERS if isinstance(network, kind)), [])


def _read(
    network: nn.Module, tile: Tensor, stages: Sequence[str] | None, voxel: tuple[int, ...] | None
) -> list[AttentionMap]:
    network = unwrapped(network)
    readers = _readers(network)
    exist = [stage for reader in readers for stage in reader.stages]
    if not exist:
        raise ValueError(
            f"{type(network).__name__} has no attention, so there are no maps of it; "
            "take a checkpoint of a network with attention"
        )
    unknown = [] if stages is None else [stage for stage in stages if stage not in exist]
    if unknown:
        raise ValueError(f"{type(network).__name__} has no stage {unknown[0]!r}; there are {', '.join(exist)}")
    if tile.ndim < 3 or len(tile) != 1:
        raise ValueError(f"expected a tile of (1, channels, *space), got {tuple(tile.shape)}")
    wanted = exist if stages is None else [stage for stage in exist if stage in stages]
    active = [reader for reader in readers if any(stage in wanted for stage in reader.stages)]
    tile = tile.to(next((parameter.device for parameter in network.parameters()), tile.device))
    with torch.no_grad(), _evaluating(network), ExitStack() as stack:
        for reader in active:
            reader.wanted, reader.voxel, reader.tile = wanted, voxel, tile
            reader.attach(stack)
        if any(reader.runs for reader in active):
            network(tile)
        stack.close()
        for reader in active:
            reader.finish()
    found = {stage: each for reader in active for stage, each in reader.found.items()}
    return [replace(found[stage], weights=found[stage].weights.cpu()) for stage in wanted]


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and then each module's own mode again."""
    modes = {module: module.training for module in network.modules()}
    if not any(modes.values()):
        yield
        return
    network.eval()
    try:
        yield
    finally:
        network.train()
        for module, mode in modes.items():
            module.training = mode
