"""Axial attention on CUDA: equal to the CPU, and more lines than a launch grid has room for."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_attn.architectures.blocks import axial_attention, axial_function
from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention
from tests.made.axial_layer import KINDS, draw

pytestmark = pytest.mark.gpu


def run(layer: GatedAxialAttention, x: Tensor, pull: Tensor, device: str) -> list[Tensor]:
    """Output, gradients of input and parameters, and buffers, of a copy on a device, all on the CPU."""
    copy = deepcopy(layer).to(device)
    x = x.to(device, copy=True).requires_grad_()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        output = copy(x)
        gradients = torch.autograd.grad((output * pull.to(device)).sum(), [x, *copy.parameters()])
    return [value.detach().cpu() for value in (output, *gradients, *copy.buffers())]


def compare(layer: GatedAxialAttention, x: Tensor) -> None:
    for training in (False, True):
        layer.train(training)
        pull = torch.randn_like(x)
        for ours, exact in zip(run(layer, x, pull, "cuda"), run(layer, x, pull, "cpu"), strict=True):
            torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-4 * max(1.0, float(exact.abs().max())))


@pytest.mark.parametrize("chunk_elements", [2**26, 3000])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("variant", "gate_position"), KINDS)
def test_equals_the_cpu(
    variant: str, gate_position: str, axis: int, chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(axial_function, "GPU_CHUNK_ELEMENTS", chunk_elements)
    torch.manual_seed(0)
    options: Any = (24, axis, 21, 4, variant, gate_position)
    layer = GatedAxialAttention(*options)
    draw(layer)
    compare(layer, torch.randn(2, 24, 7, 19, 21))


@pytest.mark.parametrize("most", [None, 9])
def test_more_lines_than_a_launch_has_room_for(most: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if most is not None:
        monkeypatch.setattr(axial_attention, "_MOST_SEQUENCES", most)
    torch.manual_seed(0)
    lines = 9000 if most is None else 40
    layer = GatedAxialAttention(16, 0, 4, 8, "no_position")
    draw(layer)
    assert most is not None or lines * layer.num_heads > 65535
    compare(layer, torch.randn(1, 16, 4, lines))
