"""Measures one piece of work (a callable): its time, its peak memory, its floating-point operations."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from nnunet_attn.architectures.blocks import axial_function as axial_function  # defines the operator counted here

Work = Callable[[], object]
Clock = Callable[[Work], float]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch compute with `count` threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cpu_seconds(work: Work) -> float:
    """CPU time of this process, user and system: blind to what else the machine does, so for one thread only."""
    start = time.process_time()
    work()
    return time.process_time() - start


def wall_seconds(work: Work) -> float:
    """Time on the wall."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cuda_seconds(work: Work) -> float:
    """Time between two events on the current CUDA stream, launch gaps included."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def interleaved(
    works: Mapping[str, Mapping[str, Work]],
    clock: Clock,
    rounds: int,
    on_round: Callable[[], object] = lambda: None,
    seconds: float = math.inf,
) -> dict[str, dict[str, list[float]]]:
    """Measure every kind of work of every variant once a round: A, B, .., then B, A, .. in the next round.

    What drifts (temperature, neighbours) then meets all variants alike, and the times of one round are a pair.

    Args:
        works: Variant to kind of work to the work; the kinds are the same for all.
        clock: Runs a piece of work and returns its seconds.
        rounds: Number of measured rounds; one more before them is thrown away.
        on_round: Called after each round, the thrown-away one too.
        seconds: On the wall: no more rounds if another one like the last would end later; one is always measured.
    """
    kinds = list(next(iter(works.values())))
    times: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in kinds} for name in works}
    begin = last = time.monotonic()
    for number in range(-1, rounds):
        order = list(works)[:: 1 if number % 2 == 0 else -1]
        for kind in kinds:
            for name in order:
                took = clock(works[name][kind])
                if number >= 0:
                    times[name][kind].append(took)
        on_round()
        now = time.monotonic()
        if number >= 0 and now - begin + (now - last) > seconds:
            break
        last = now
    return times


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the quartiles (linear interpolation)."""
    q25, median, q75 = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "q25": float(q25), "q75": float(q75)}


def paired_ratios(values: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles of the ratios of each round; not the ratio of the medians, which drift spoils."""
    return spread([value / other for value, other in zip(values, reference, strict=True)])


def peak_allocated_bytes(work: Work, device: torch.device) -> int:
    """Return the most memory that PyTorch's allocator held during `work`, over what it held before.

    Exact on the CPU: the peak of the running sum of all allocations and releases, in order of time. Scratch memory
    that oneDNN or MKL take for themselves is not seen there.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results: Any = profiler.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(0, int(np.cumsum(sizes).max())) if sizes else 0


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Keep the profiler from writing its start and stop to stderr; a level that the user has set stays."""
    level = "KINETO_LOG_LEVEL"
    if level in os.environ:
        yield
        return
    os.environ[level] = "99"
    try:
        yield
    finally:
        del os.environ[level]


def held_bytes(network: nn.Module, *inputs: torch.Tensor) -> int:
    """Return the bytes of parameters, buffers and inputs: what is there before any work starts."""
    tensors = (*network.parameters(), *network.buffers(), *inputs)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def forward_flops(network: nn.Module, image: torch.Tensor) -> int:
    """Return the operations of one forward pass, a multiplication and an addition counting as 2.

    Covers convolutions, matrix products and attention, scaled dot-product or axial; not normalisation, activation,
    softmax, interpolation or additions.
    """
    own: dict[Any, Any] = {torch.ops.nnunet_attn.relative_attention: _relative_attention_flops}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=own) as counter:
        network(image)
    return counter.get_total_flops()


def _relative_attention_flops(packed: Sequence[int], relative: Sequence[int], *_: Any, **__: Any) -> int:
    """Of the operator in `architectures.blocks.axial_function`, from shapes, as its equations have it."""
    lines, heads, rows, length = packed
    terms = 3 if relative[0] else 1  # similarities with queries or keys, rows / 4 wide; results are rows / 2 wide
    return 2 * lines * heads * length**2 * (terms * rows // 4 + (terms + 1) // 2 * rows // 2)
