"""A network that carries its precision.

nnU-Net knows fp16 mixed precision only, and its predictor always enters it on CUDA. A network built for another
precision therefore enters its own autocast inside `forward`: training, validation and `nnUNetv2_predict` agree.
"""

from functools import cache
from typing import Any, Literal

import torch
from torch import nn

Precision = Literal["amp", "bf16", "fp32"]


def carry_precision(network: nn.Module, precision: Precision) -> nn.Module:
    """Make `network` compute in `precision`, whatever autocast surrounds it; returns the same object.

    Parameters, state dict and attributes stay as they are. With `amp` nothing changes: nnU-Net's own fp16 autocast on
    CUDA, none on the CPU. With `bf16` and `fp32` the outputs are float32, so that sums over tiles and mirrored
    predictions are not rounded to bfloat16's 8 bits.

    Args:
        network: Any network that takes one tensor, and options, and returns one, or a list of them.
        precision: `amp`, `bf16` or `fp32`.
    Raises:
        ValueError: If `precision` is none of them.
    """
    if precision not in ("amp", "bf16", "fp32"):
        raise ValueError(f"precision {precision!r} is not one of 'amp', 'bf16', 'fp32'")
    if precision != "amp":
        network.__class__ = _precise_class(type(network), precision == "bf16")
    return network


@cache
def _precise_class(network_class: type[nn.Module], bf16: bool) -> type[nn.Module]:
    def forward(self: nn.Module, x: torch.Tensor, **options: Any) -> Any:
        if not bf16 and x.device.type not in ("cpu", "cuda"):
            # nnU-Net enters autocast on no other device, and MPS does not know a switched-off one
            return network_class.forward(self, x, **options)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
            output = network_class.forward(self, x, **options)
        return [level.float() for level in output] if isinstance(output, (list, tuple)) else output.float()

    return type(network_class.__name__, (network_class,), {"forward": forward, "__module__": network_class.__module__})
