"""How many blocks of a patch transformer a training step can hold, and what to make of it."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

DEFAULT_CELLS = 4
DEFAULT_BATCH_SIZE = 4
# More blocks from one place teach little that is new; more memory goes into a larger batch instead.
_MOST_CELLS = 4
_MOST_ON_GPU = 16
# Less would leave no two places in a step.
_LEAST_BATCH_SIZE = 2
# What is left is for gradients of activations, for what CUDA's libraries hold, and for fragments.
_USABLE = 0.7
# Weights, gradients and Adam's two averages, in float32.
_BYTES_PER_PARAMETER = 16

# Where a system says nothing of its memory.
_ASSUMED_BYTES = 4 * 2**30

MEMORY_FILE = Path("/proc/meminfo")


def saved_bytes_per_block(network: Any, mixed: bool = False) -> int:
    """Return about how many bytes autograd keeps of one block of a patch transformer in a training step.

    Of a stage with n tokens: its two inputs to layer norm and their outputs (4 n embed), queries, keys, values and what
    is attended (4 n heads*e), and the hidden layer (n mlp). Of the last stage, which computes one token: its input and
    norm, and per head what that token attends to. With checkpointing the inputs of all stages, and one stage computed
    anew. Dropout's masks are not counted.

    Args:
        network: A `PatchTransformer`.
        mixed: Whether in fp16 mixed precision, in which shortcuts stay float32.
    """
    tokens, heads = math.prod(network.neighbourhood), network.num_heads
    embed, width, mlp = network.embed_dim, network.num_heads * network.head_dim, network.mlp_dim
    wide, narrow = 4, 2 if mixed else 4
    shortcuts = 2 * wide + (2 * narrow if network.norm != "none" else 0)
    stage = tokens * (shortcuts * embed + narrow * (4 * width + mlp))
    one_token = heads * (2 * embed + 2 * tokens) + 2 * width + 3 * embed + mlp
    last = tokens * embed * (wide + (narrow if network.norm == "pre" else 0)) + narrow * one_token
    if network.output == "flatten":
        last = stage + 2 * wide * tokens * embed
    if network.checkpointing:
        return wide * tokens * embed * network.depth + max(stage, last)
    return (network.depth - 1) * stage + last


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU, or the memory available to this machine's processes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        (line,) = [line for line in MEMORY_FILE.read_text().splitlines() if line.startswith("MemAvailable:")]
        return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    # not Linux: no figure of what is available
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else _ASSUMED_BYTES


def blocks_that_fit(network: nn.Module, free: int, mixed: bool) -> int:
    """Return how many blocks of a training step fit into `free` bytes, beside weights and optimiser."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    usable = _USABLE * free - _BYTES_PER_PARAMETER * parameters
    return max(0, int(usable // saved_bytes_per_block(network, mixed)))


def chosen_sizes(
    cells: int | None, batch_size: int | None, blocks: int, dims: int, on_gpu: bool, processes: int = 1
) -> tuple[int, int]:
    """Return cells of a crop along each axis and crops of a batch, so that a step has no more than `blocks` a process.

    What is given stays. Of the cells, the most up to 4 with which the batch, or one of 2, fits. Of the batch, the
    largest that fits, up to 16 on a GPU and 4 elsewhere, where a step takes long before memory ends; a multiple of the
    processes. If nothing fits, the smallest.

    Args:
        cells: Cells along each axis; None to choose.
        batch_size: Crops of a batch, of all processes together; None to choose.
        blocks: Blocks that fit into the memory of one process.
        dims: Axes of a crop.
        on_gpu: Whether training runs on a GPU.
        processes: Processes that share a batch.
    """
    if cells is None:
        each = math.ceil((batch_size or max(_LEAST_BATCH_SIZE, processes)) / processes)
        cells = max((m for m in range(1, _MOST_CELLS + 1) if each * m**dims <= blocks), default=1)
    if batch_size is None:
        most = _MOST_ON_GPU if on_gpu else DEFAULT_BATCH_SIZE
        each = max(1, min(blocks // cells**dims, most // processes))
        batch_size = each * processes
    return cells, batch_size
