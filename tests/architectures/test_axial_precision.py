"""Attention along axes and its networks under autocast on a CPU, with inputs as large as intensities in images."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_attn.architectures.axial_network import AxialNetwork
from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention
from nnunet_attn.architectures.medt import GatedAxialUNet, MedT
from tests.made.axial import SMALL
from tests.made.axial_layer import KINDS

RANGE = 1e3
# A layer rounds projection, outputs and gradients a few times, by 2^-9 or 2^-12 each: all within that of float32.
LAYER = {torch.bfloat16: 0.05, torch.float16: 0.008}
# Of logits behind some 20 such layers. Gradients through that many norms and ReLUs are finite, and no more is asked.
NETWORK = {torch.bfloat16: 0.1, torch.float16: 0.015}
dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def distance(value: Tensor, exact: Tensor) -> float:
    return ((value.double() - exact.double()).norm() / exact.double().norm()).item()


def run(module: nn.Module, x: Tensor, pull: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and gradients of the input and of all parameters; under autocast if a type is given."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        output = module(x)
    (output.float() * pull).sum().backward()
    gradients = {name: value.grad for name, value in [("x", x), *module.named_parameters()] if value.grad is not None}
    assert len(gradients) == 1 + len(list(module.parameters()))
    return output.detach(), gradients


def warmed(module: nn.Module, x: Tensor, training: bool) -> nn.Module:
    """The module with the running statistics of such an input."""
    for each in module.modules():
        if hasattr(each, "momentum"):
            setattr(each, "momentum", 1.0)  # noqa: B010
    with torch.no_grad():
        module.train()(x)
    return module.train(training)


@dtypes
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("variant", "gate_position"), KINDS)
def test_a_layer_is_near_float32(variant: str, gate_position: str, training: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    options: Any = (16, 0, 24, 4, variant, gate_position)
    x = (torch.rand(2, 16, 24, 5) * 2 - 1) * RANGE
    layer = warmed(GatedAxialAttention(*options), x, training)
    pull = torch.randn_like(x)
    exact, exact_gradients = run(layer, x, pull, None)
    output, gradients = run(layer, x, pull, dtype)
    assert output.dtype == dtype
    assert distance(output, exact) < LAYER[dtype]
    if not training:
        # in evaluation norms are folded into weights, whose gradients need the scaling of a loss in float16
        gradients = {"x": gradients["x"]}
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        # in training, norms cancel the gates before them, and what is left of their gradient is rounding
        if not (name == "gates" and training and gate_position == "pre_norm"):
            assert distance(gradient, exact_gradients[name]) < LAYER[dtype], name


@dtypes
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [(32, 48), (3, 16, 24)], ids=["2d", "3d"])
@pytest.mark.parametrize("name", ["GatedAxialUNet", "MedT", "MedT-post_norm"])
def test_a_network_is_near_float32(name: str, size: tuple[int, ...], training: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    # depth is not reduced: gradients of 3x3x3 kernels in bfloat16 at a depth of 2 are wrong in PyTorch itself on CPUs
    options: dict[str, Any] = {**SMALL, "strides": [[1, 2, 2][-len(size) :]] * 5}
    network: AxialNetwork
    if name == "GatedAxialUNet":
        network = GatedAxialUNet(1, 2, size, **options)
    else:
        gates = "post_norm" if name.endswith("post_norm") else "pre_norm"
        network = MedT(1, 2, size, grid=[1, 2, 2][-len(size) :], local_stem=4, gate_position=gates, **options)
    x = (torch.rand(2, 1, *size) * 2 - 1) * RANGE
    warmed(network, x, training)
    pull = torch.randn(2, 2, *size)
    exact, _ = run(network, x, pull, None)
    output, gradients = run(network, x, pull, dtype)
    assert output.dtype == dtype
    assert distance(output, exact) < NETWORK[dtype]
    for key, gradient in gradients.items():
        assert gradient.isfinite().all(), key
