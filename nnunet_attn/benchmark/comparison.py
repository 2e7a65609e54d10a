"""Builds networks beside each other, measures them in turn and sets them against the first."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from nnunet_attn.benchmark import measure
from nnunet_attn.benchmark.equality import equalise
from nnunet_attn.benchmark.topologies import Topology
from nnunet_attn.benchmark.variants import Build, Variant, make_variant, sizes, works

WALL_ROUNDS = 3  # for information only, so they need not be many

MEANING = {
    "forward": "eval mode, no gradients, deep supervision off",
    "step": "train mode, deep supervision on: forward, sum over all outputs of mean(logits^2), backward; no optimiser",
    "seconds": "cpu: CPU time (user + system) of the process with one thread; cuda: time between CUDA events",
    "wall_seconds": "cpu only: median time on the wall with 2 threads, for information: no ratio is made of it, "
    "and it says nothing where other work ran beside (compare the load average)",
    "held_bytes": "parameters, buffers and input",
    "allocated_bytes": "cpu: peak of the running sum of the allocator's events; cuda: max_memory_allocated; over held",
    "peak_memory_bytes": "held_bytes + allocated_bytes",
    "forward_flops": "torch.utils.flop_counter: convolutions, matrix products and attention of one forward pass of the "
    "whole batch; a multiplication and an addition count as 2; norms, activations and softmax are not counted",
    "equality": "where a transcription of a published network is measured: the others have its weights; largest "
    "difference of their outputs from its outputs, eval mode, float32; the tolerance is relative to the largest output",
    "ratios": "over the reference network; of times: median and quartiles of the ratio of each round, the variants "
    "measured one right after the other in every round, in the opposite order in every second round",
}


def wall_threads() -> int:
    """Return the threads of the wall measurement: 2 where there are as many cores."""
    return min(2, os.cpu_count() or 1)


def compare(
    builds: Mapping[str, Build],
    topology: Topology,
    rounds: int,
    device: torch.device,
    precision: str = "fp32",
    compiled: bool = False,
    seed: int = 0,
    wall_rounds: int = WALL_ROUNDS,
    on_round: Callable[[], object] = lambda: None,
    seconds: float = math.inf,
) -> dict[str, Any]:
    """Measure networks and return what each gave and its ratios over the first, JSON-able.

    Where one of them is the transcription of a published network, the others get its weights and have to give its
    outputs; see `equalise`.

    Args:
        builds: What builds each network, by name; the first is what ratios are against.
        topology: Sizes of the input.
        rounds: Measured rounds.
        device: CPU or CUDA.
        precision: "fp32", or the autocast type "fp16" or "bf16".
        compiled: Measure `torch.compile` of every network.
        seed: Of the weights and the input.
        wall_rounds: Rounds of time on the wall, on the CPU only; 0 leaves it out.
        on_round: Called after each round.
        seconds: See `measured`.
    Raises:
        InputError: If a network refuses the topology or its options, or is not what it is said to be.
    """
    variants = [make_variant(name, build, device, seed) for name, build in builds.items()]
    torch.manual_seed(seed)
    image = torch.randn(topology.input_shape, device=device)
    equality = equalise(variants, image, seed)
    found = measured(variants, image, rounds, precision, compiled, wall_rounds, on_round, seconds)
    return {"equality": equality, **found}


def measured(
    variants: Sequence[Variant],
    image: Tensor,
    rounds: int,
    precision: str = "fp32",
    compiled: bool = False,
    wall_rounds: int = 0,
    on_round: Callable[[], object] = lambda: None,
    seconds: float = math.inf,
    apart: bool = False,
) -> dict[str, Any]:
    """Measure what has been built, where the image is; see `compare`.

    Args:
        variants: The first is what ratios are against.
        image: The input; if it requires a gradient, a step gives it one.
        rounds: Measured rounds.
        precision: As there.
        compiled: As there.
        wall_rounds: As there.
        on_round: As there.
        seconds: Stop the measured rounds when another one would take longer than this in all, after one at least.
        apart: Measure all rounds of the forward pass before those of the step: a process that predicts never trains,
            and what training leaves of the allocator's memory changes what a large tensor costs.
    """
    on_cuda = image.device.type == "cuda"
    if on_cuda:
        torch.backends.cudnn.benchmark = True  # as nnU-Net trains
    work = {variant.name: works(variant, image, precision, compiled) for variant in variants}
    with nullcontext() if on_cuda else measure.threads(1):
        clock = measure.cuda_seconds if on_cuda else measure.cpu_seconds
        kinds = list(next(iter(work.values())))
        times: dict[str, dict[str, list[float]]] = {name: {} for name in work}
        for together in [[kind] for kind in kinds] if apart else [kinds]:
            some = {name: {kind: own[kind] for kind in together} for name, own in work.items()}
            for name, own in measure.interleaved(some, clock, rounds, on_round, seconds).items():
                times[name] |= own
        networks = {variant.name: sizes(variant, work[variant.name], image) for variant in variants}
    for name, own in times.items():
        networks[name]["seconds"] = {kind: _summary(values) for kind, values in own.items()}
    if wall_rounds and not on_cuda:
        with measure.threads(wall_threads()):
            wall = measure.interleaved(work, measure.wall_seconds, wall_rounds, on_round)
        for name, own in wall.items():
            networks[name]["wall_seconds"] = {kind: _summary(values)["median"] for kind, values in own.items()}
    return {"networks": networks, "ratios": ratios(networks)}


def _summary(values: list[float]) -> dict[str, Any]:
    rounds = [float(f"{value:.6g}") for value in values]
    return {**measure.spread(rounds), "rounds": rounds}


def ratios(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return every network over the first: times round by round, sizes as they are."""
    (_, reference), *others = networks.items()
    return {
        name: {
            "seconds": {
                kind: measure.paired_ratios(own["rounds"], reference["seconds"][kind]["rounds"])
                for kind, own in network["seconds"].items()
            },
            **{
                key: {kind: own / reference[key][kind] for kind, own in network[key].items()}
                for key in ("allocated_bytes", "peak_memory_bytes")
            },
            **{key: network[key] / reference[key] for key in ("parameters", "forward_flops")},
        }
        for name, network in others
    }
