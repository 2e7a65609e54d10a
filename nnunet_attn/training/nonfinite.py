"""Stops a training at the iteration whose loss is not finite, and says where it began."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed, nn


class NonFiniteLossError(RuntimeError):
    """The loss of an iteration was NaN or infinite; weights and checkpoints are those of before it."""


def has_nonfinite(value: Any) -> bool:
    """Whether a tensor, or any tensor in nested lists, tuples and dicts, holds NaN or infinity."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and not bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return any(has_nonfinite(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(has_nonfinite(item) for item in value)
    return False


def first_nonfinite_module(network: nn.Module, data: torch.Tensor) -> str | None:
    """Return the name of the first module, in the order of execution, whose output is not finite on `data`.

    Runs one more forward pass, without gradients, with a hook on every module; None if all outputs are finite.
    """
    first: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if not first and has_nonfinite(output):
                first.append(f"{name or 'the network'} ({type(module).__name__})")

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in network.named_modules()]
    try:
        with torch.no_grad():
            network(data)
    finally:
        for handle in handles:
            handle.remove()
    return first[0] if first else None


def describe(network: nn.Module, data: torch.Tensor, what: str, epoch: int, iteration: int, keys: Iterable[str]) -> str:
    """Return the error text for a batch.

    Args:
        network: The network as it was for that batch.
        data: The batch's images.
        what: What was not finite, `loss` or `gradient`.
        epoch: Number of the epoch, from 0.
        iteration: Number of the iteration in the epoch, from 0.
        keys: The batch's cases.
    """
    # every rank runs this pass, also one whose data are at fault: synchronised norms wait for all of them
    module = first_nonfinite_module(network, data)
    if has_nonfinite(data):
        origin = "the image data itself is not finite: check these cases' intensities"
    elif module is not None:
        origin = f"first module with a non-finite output: {module}"
    else:
        origin = f"every module's output is finite: the {what} itself is not"
    cases = ", ".join(map(str, keys)) or "unknown"
    return f"the {what} is not finite in epoch {epoch}, iteration {iteration} (cases: {cases}); {origin}"


def describe_ranks(text: str, at_fault: bool) -> str:
    """Return the texts of the ranks at fault, or of all ranks if none is by itself; every rank has to call this."""
    texts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(texts, (text, at_fault))
    chosen = [(rank, told) for rank, (told, guilty) in enumerate(texts) if guilty] or [
        (rank, told) for rank, (told, _) in enumerate(texts)
    ]
    return "; ".join(f"rank {rank}: {told}" for rank, told in chosen)
