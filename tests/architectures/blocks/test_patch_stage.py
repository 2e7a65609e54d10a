"""A stage of the patch transformer, and positions of patches, from their formulas."""

import math

import pytest
import torch

from nnunet_attn.architectures.blocks.patch_position import fixed_position
from nnunet_attn.architectures.blocks.patch_stage import NORMS, SCALES, PatchStage


def stage(norm: str, scale: str) -> PatchStage:
    torch.manual_seed(0)
    made = PatchStage(16, 3, 4, 20, norm, scale).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, parameter.mean().item(), 0.4)
    return made


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", SCALES)
def test_one_token_is_that_of_the_whole_stage(norm: str, scale: str) -> None:
    made, x = stage(norm, scale), torch.randn(5, 9, 16, dtype=torch.float64)
    for place in (0, 4, 8):
        torch.testing.assert_close(made.one_token(x, place), made(x)[:, place], rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_one_token_has_the_gradients_of_the_whole_stage(norm: str) -> None:
    both = []
    for whole in (True, False):
        made, x = stage(norm, "inside"), torch.ones(2, 9, 16, dtype=torch.float64).cumsum(1).sin().requires_grad_()
        (made(x)[:, 4] if whole else made.one_token(x, 4)).square().sum().backward()
        both.append([x.grad, *(parameter.grad for parameter in made.parameters())])
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_scale_of_the_paper_leaves_rows_of_one_over_the_root_of_the_width() -> None:
    made = stage("none", "outside")
    torch.nn.init.zeros_(made.fc2.weight)
    torch.nn.init.zeros_(made.fc2.bias)
    torch.nn.init.eye_(made.proj.weight)
    x = torch.ones(1, 9, 16, dtype=torch.float64)  # equal tokens: attention is uniform, and values are all the same
    value = x[0, 0] @ made.qkv.weight[24:].T
    attended = (made(x) - x)[0, 0, :12]
    torch.testing.assert_close(attended, value / math.sqrt(4), rtol=0, atol=1e-12)
    torch.testing.assert_close(made.attention(x).sum(-1), torch.ones(1, 3, 9, dtype=torch.float64))


def test_attention_is_what_the_stage_computes_with() -> None:
    made, x = stage("pre", "inside"), torch.randn(2, 9, 16, dtype=torch.float64)
    weights = made.attention(x)
    values = (made.norm1(x) @ made.qkv.weight[24:].T).view(2, 9, 3, 4)
    attended = torch.einsum("bhij,bjhe->bihe", weights, values).flatten(2)
    y = x + attended @ made.proj.weight.T
    expected = y + made.fc2(made.fc1(made.norm2(y)).relu())
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("neighbourhood", "width", "count"), [((3, 5, 3), 20, 3), ((3, 3), 16, 4)])
def test_fixed_positions_are_sines_and_cosines_of_the_patch(
    neighbourhood: tuple[int, ...], width: int, count: int
) -> None:
    table = fixed_position(neighbourhood, width)
    assert tuple(table.shape) == (math.prod(neighbourhood), width)
    numbers = torch.unravel_index(torch.arange(len(table)), neighbourhood)
    for patch in range(len(table)):
        for axis, along in enumerate(numbers):
            for k in range(count):
                angle = int(along[patch]) * 10000 ** (-k / count)
                assert math.isclose(table[patch, 2 * count * axis + k], math.sin(angle), abs_tol=1e-6)
                assert math.isclose(table[patch, 2 * count * axis + count + k], math.cos(angle), abs_tol=1e-6)
    assert not table[:, 2 * count * len(neighbourhood) :].any()
    assert len({tuple(row.tolist()) for row in table}) == len(table), "every patch has a position of its own"
