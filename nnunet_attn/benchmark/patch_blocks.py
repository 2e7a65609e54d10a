"""Times a block of cells that the patch transformer labels at once against one block after the other."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_attn.architectures.blocks.patch_grid import join_cells, split_cells
from nnunet_attn.architectures.patch_transformer import PatchTransformer
from nnunet_attn.benchmark.measure import (
    Work,
    forward_flops,
    held_bytes,
    interleaved,
    paired_ratios,
    peak_allocated_bytes,
    spread,
)
from nnunet_attn.benchmark.variants import from_file
from nnunet_attn.errors import InputError

DIRECT, ONE, BATCHED, SHARED = "transcription", "one block at a time", "blocks in batches", "PatchTransformer"
NUM_HEADS, NUM_CLASSES = 4, 2
AT_A_TIME = 64
"""Blocks of a batch, as many as the network computes at a time on the CPU."""
TOLERANCE = 2e-5
"""Of the outputs, over the largest one, in float32."""
PREDICT = "forward"

_REPORTED = (DIRECT, ONE, BATCHED)


class Transcription(nn.Module):
    """The equations, block after block, each cut from the crop's voxels: (b c *space) -> (b classes *inner)."""

    def __init__(self, network: PatchTransformer, slow: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        state = {name: value for name, value in network.state_dict().items() if name != "position_embedding"}
        position = network.position_embedding.detach()
        self._slow = slow(state, network.patch_embed_size, network.neighbourhood, NUM_HEADS, position=position)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the cells whose block lies inside of the crop."""
        labelled = [self._slow.block(block[0])[0] for block in cut_blocks(x, self.network)]
        cells = torch.stack(labelled).flatten(1)
        return _joined(cells, x, self.network)


class WholeBlocks(nn.Module):
    """The network's own layers on whole blocks: each embeds all of its patches and runs all stages on all of them.

    (b c *space) -> (b classes *inner), of one image.
    """

    def __init__(self, network: PatchTransformer, at_a_time: int) -> None:
        super().__init__()
        self.network, self.at_a_time = network, at_a_time

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the cells whose block lies inside of the crop."""
        blocks = cut_blocks(x, self.network)
        batches = [blocks[low : low + self.at_a_time] for low in range(0, len(blocks), self.at_a_time)]
        return _joined(torch.cat([self._labelled(torch.cat(batch)) for batch in batches]), x, self.network)

    def _labelled(self, blocks: Tensor) -> Tensor:
        network = self.network
        tokens = network.embed(split_cells(blocks, network.patch_embed_size).flatten(1, -2))
        tokens = tokens + network.position_embedding
        for stage in network.stages:
            tokens = stage(tokens)
        return network.head(network.norm_out(tokens)[:, tokens.shape[1] // 2])


class Shared(nn.Module):
    """The network as it is: patches embedded once, the last stage for the centre patch alone."""

    def __init__(self, network: PatchTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        """Return the logits of the cells whose block lies inside of the crop."""
        return self.network(x, valid=True)


def cut_blocks(x: Tensor, network: PatchTransformer) -> list[Tensor]:
    """Return the blocks of one image, (1 c *block), row-major; they are views."""
    sizes, counts = network.patch_embed_size, network.neighbourhood
    return [
        x[
            (
                ...,
                *(
                    slice(cell * size, (cell + count) * size)
                    for cell, size, count in zip(place, sizes, counts, strict=True)
                ),
            )
        ]
        for place in itertools.product(*map(range, _grid(x, network)))
    ]


def _grid(x: Tensor, network: PatchTransformer) -> list[int]:
    sizes = zip(x.shape[2:], network.patch_embed_size, network.neighbourhood, strict=True)
    return [voxels // size - count + 1 for voxels, size, count in sizes]


def _joined(cells: Tensor, x: Tensor, network: PatchTransformer) -> Tensor:
    return join_cells(cells.unflatten(0, (1, *_grid(x, network))), network.patch_embed_size)


def made_network(width: int, depth: int, size: int, neighbourhood: int, seed: int, device: torch.device) -> Any:
    """Return a network in 3D with weights as drawn, in eval mode.

    Args:
        width: Of tokens, of all heads together and of the hidden layer, as published.
        depth: Stages.
        size: Voxels of a patch along each axis.
        neighbourhood: Patches of a block along each axis.
        seed: Of the weights.
        device: Where it is.
    Raises:
        InputError: If there is no such network.
    """
    torch.manual_seed(seed)
    if width % NUM_HEADS:
        raise InputError(f"a width of {width} cannot be shared by {NUM_HEADS} heads; give a multiple of {NUM_HEADS}")
    options: dict[str, Any] = {"embed_dim": width, "mlp_dim": width, "head_dim": width // NUM_HEADS}
    patch = [size * neighbourhood] * 3
    try:
        network = PatchTransformer(
            1, NUM_CLASSES, patch, size, neighbourhood, depth=depth, num_heads=NUM_HEADS, **options
        )
    except ValueError as error:
        raise InputError(f"the network cannot be built: {error}") from error
    return network.to(device).eval()


def measure_blocks(
    network: PatchTransformer, cells: int, reference: Path, rounds: int, seed: int, clock: Any, on_round: Any
) -> dict[str, Any]:
    """Return times, memory and operations of labelling `cells` cells along each axis, JSON-able.

    Args:
        network: In eval mode, on the device to measure on.
        cells: Cells along each axis.
        reference: Python file with `SlowPatchTransformer`.
        rounds: Measured rounds.
        seed: Of the crop.
        clock: Runs a piece of work and returns its seconds.
        on_round: Called after each round.
    Raises:
        InputError: If the file is missing or broken, or the outputs differ by more than `TOLERANCE`.
    """
    slow = from_file(reference, "SlowPatchTransformer", "(state, size, neighbourhood, num_heads)")
    device = network.embed.weight.device
    torch.manual_seed(seed)
    sizes = zip(network.patch_embed_size, network.neighbourhood, strict=True)
    crop = torch.randn(1, 1, *((cells + count - 1) * size for size, count in sizes)).to(device)
    modules: dict[str, nn.Module] = {
        DIRECT: Transcription(network, slow),
        ONE: WholeBlocks(network, 1),
        BATCHED: WholeBlocks(network, AT_A_TIME),
        SHARED: Shared(network),
    }
    with torch.no_grad():
        equality = differences({name: module(crop) for name, module in modules.items()})

        def work(module: nn.Module) -> Work:
            return lambda: module(crop)

        works = {name: {PREDICT: work(module)} for name, module in modules.items()}
        times = interleaved(works, clock, rounds, on_round)
        networks = {
            name: described(times[name][PREDICT], works[name][PREDICT], device, held_bytes(network, crop))
            | {"forward_flops": forward_flops(module, crop)}
            for name, module in modules.items()
        }
    return {
        "cells": cells**3,
        "crop": list(crop.shape[2:]),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "equality": equality,
        "networks": networks,
        "ratios": {name: over(networks[SHARED], networks[name]) for name in _REPORTED},
    }


def differences(outputs: dict[str, Tensor]) -> dict[str, float]:
    """Return the largest difference of each output from the first, over the first's largest value.

    Raises:
        InputError: If one is more than `TOLERANCE`.
    """
    (_, wanted), *others = outputs.items()
    largest = wanted.abs().max()
    found = {name: float((output - wanted).abs().max() / largest) for name, output in others}
    for name, value in found.items():
        if not value <= TOLERANCE:  # not a number is refused too
            raise InputError(f"{name} gives other logits with the same weights: by {value:.3g}, over {TOLERANCE:g}")
    return found


def described(times: Sequence[float], work: Work, device: torch.device, held: int) -> dict[str, Any]:
    """Return times and memory of a piece of work that has been run before."""
    rounds = [float(f"{value:.6g}") for value in times]
    allocated = peak_allocated_bytes(work, device)
    return {
        "seconds": {**spread(rounds), "rounds": rounds},
        "held_bytes": held,
        "allocated_bytes": allocated,
        "peak_memory_bytes": held + allocated,
    }


def over(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return times, round by round, and sizes of one over another's."""
    sizes = [key for key in ("allocated_bytes", "peak_memory_bytes", "forward_flops") if key in own]
    return {
        "seconds": paired_ratios(own["seconds"]["rounds"], other["seconds"]["rounds"]),
        **{key: own[key] / other[key] if other[key] else math.nan for key in sizes},
    }
