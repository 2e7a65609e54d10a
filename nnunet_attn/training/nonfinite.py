"""Stops a training at the iteration whose loss is not finite, and says where it began."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


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


def describe(network: nn.Module, data: torch.Tensor, epoch: int, iteration: int, keys: Iterable[str]) -> str:
    """Return the error text for a batch whose loss was not finite."""
    # every rank runs this pass, also one whose data are at fault: synchronised norms wait for all of them
    module = first_nonfinite_module(network, data)
    if has_nonfinite(data):
        origin = "the image data itself is not finite: check these cases' intensities"
    elif module is not None:
        origin = f"first module with a non-finite output: {module}"
    else:
        origin = "every module's output is finite: the loss itself or its gradient is not"
    cases = ", ".join(map(str, keys)) or "none of this rank"
    return (
        f"the loss or its gradient is not finite in epoch {epoch}, iteration {iteration} (cases: {cases}); {origin}. "
        "The last checkpoint is kept. Try the suffix _bf16 or _fp32, or a lower learning rate."
    )
