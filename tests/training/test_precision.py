"""A network that carries its precision computes in it, whatever autocast surrounds it."""

import pytest
import torch
from torch import nn

from nnunet_attn.training.precision import carry_precision


class Recorder(nn.Module):
    def __init__(self, as_list: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.as_list = as_list
        self.seen: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        y = self.conv(x)
        self.seen.append(y.dtype)
        return [y, y] if self.as_list else y


IMAGE = torch.ones(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("precision", "surrounding", "expected"),
    [
        ("amp", None, torch.float32),
        ("amp", torch.bfloat16, torch.bfloat16),
        ("bf16", None, torch.bfloat16),
        ("bf16", torch.float16, torch.bfloat16),
        ("fp32", None, torch.float32),
        ("fp32", torch.bfloat16, torch.float32),
    ],
)
def test_dtype_inside(precision, surrounding: torch.dtype | None, expected: torch.dtype) -> None:
    network = carry_precision(Recorder(), precision)
    with torch.autocast("cpu", dtype=surrounding, enabled=surrounding is not None):
        output = network(IMAGE)
    assert network.seen == [expected]
    assert precision == "amp" or output.dtype == torch.float32


def test_state_dict_class_and_lists_stay() -> None:
    network = carry_precision(Recorder(as_list=True), "bf16")
    assert isinstance(network, Recorder)
    assert type(network).__name__ == "Recorder"
    assert list(network.state_dict()) == ["conv.weight", "conv.bias"]
    assert [level.dtype for level in network(IMAGE)] == [torch.float32] * 2


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="'fp64' is not one of"):
        carry_precision(Recorder(), "fp64")  # pyright: ignore[reportArgumentType]
