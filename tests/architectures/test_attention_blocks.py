"""The explicit matrices of attention are those that the blocks weigh their values with, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention
from nnunet_attn.architectures.blocks.axial_function import expanded_tables
from nnunet_attn.architectures.blocks.gasa import GASABlock
from nnunet_attn.architectures.blocks.memory_tokens import TokenAttention
from nnunet_attn.architectures.blocks.swin_block import SkipAttentionBlock, SwinBlock
from nnunet_attn.architectures.blocks.window_attention import WindowAttention, shift_mask, to_windows
from tests.made.axial_layer import KINDS, draw


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def assert_stochastic(weights: Tensor) -> None:
    assert weights.min() >= 0 and weights.dtype == torch.float64
    assert_equal(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert_equal(weights.sum((-1, -2)), torch.full_like(weights[..., 0, 0], weights.shape[-1]))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("position", ["after", "before", "none"])
def test_gasa(position: str, norm: bool) -> None:
    block = GASABlock(5, (3, 4, 2), embed_dim=8, num_heads=2, position=position, norm=norm).double().eval()
    draw(block)
    tokens = torch.randn(2, 9, 8, dtype=torch.float64)
    weights = block.attention_weights(tokens)
    assert_stochastic(weights)
    value = block.qkv_norm(block.qkv(tokens))[..., 16:].unflatten(-1, (2, 4))
    attended = torch.einsum("bhij,bjhc->bihc", weights, value).flatten(2)
    assert_equal(block.proj_norm(block.proj(attended)), block._attend(tokens))


@pytest.mark.parametrize("length", [6, 5, 7], ids=["as-built", "shorter", "longer"])
@pytest.mark.parametrize(("variant", "gate_position"), KINDS)
@pytest.mark.filterwarnings("ignore:an input is larger than the patch")
def test_axial_attention(variant: str, gate_position: str, length: int) -> None:
    options: Any = (variant, gate_position)
    layer = GatedAxialAttention(16, 1, 6, 4, *options).double()
    draw(layer)
    layer.eval()
    lines = torch.randn(3, 16, length, dtype=torch.float64)
    weights = layer.attention_weights(lines)
    assert_stochastic(weights)

    value = layer.bn_qkv(layer.qkv(lines)).unflatten(1, (4, -1))[:, :, 4:]
    content = torch.einsum("nhij,nhcj->nhci", weights, value).flatten(1, 2)
    if variant == "no_position":
        expected = layer.bn_output(content)
    else:
        table = layer._table(length, None)
        assert table is not None
        of_value = expanded_tables(table)[2]
        relative = torch.einsum("nhij,cij->nhci", weights, of_value).flatten(1, 2)
        gates = layer.gates if variant == "gated" else torch.ones(4, dtype=torch.float64)
        before, behind = (gates, torch.ones_like(gates))[:: 1 if gate_position == "pre_norm" else -1]
        both = layer.bn_output(torch.cat([before[2] * content, before[3] * relative], 1)).chunk(2, 1)
        expected = behind[2] * both[0] + behind[3] * both[1]
    assert_equal(layer(lines[:, :, None]), expected[:, :, None])


def test_axial_attention_in_training_tells_of_evaluation_and_changes_nothing() -> None:
    layer = GatedAxialAttention(16, 0, 6, 4).double().train()
    lines = torch.randn(3, 16, 6, dtype=torch.float64)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    weights = layer.attention_weights(lines)
    assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())
    assert torch.equal(weights, layer.eval().attention_weights(lines))


@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 0, 2)], ids=["plain", "shifted"])
def test_window_attention(shift: tuple[int, ...], tokens: int) -> None:
    window, size = (2, 3, 4), (4, 3, 8)
    attention = WindowAttention(8, 2, window, tokens).double().eval()
    torch.nn.init.normal_(attention.relative_bias)
    mask = shift_mask(size, window, shift, tokens).double() if any(shift) else None
    x = torch.randn(2 * 4, tokens + 24, 8, dtype=torch.float64)  # two samples of four windows
    weights = attention.attention_weights(x, mask)
    assert_stochastic(weights)
    value = attention.qkv(x)[..., 16:].unflatten(-1, (2, 4))
    attended = torch.einsum("nhij,njhc->nihc", weights, value).flatten(2)
    with torch.no_grad():  # the path of prediction
        assert_equal(attention.proj(attended), attention(x, mask))
    assert_equal(attention.proj(attended), attention(x, mask))  # the one of training


def recomputed(block: SwinBlock, x: Tensor, source: Tensor | None = None) -> Tensor:
    """The output of a block from its explicit matrices."""
    windows = to_windows(block.norm1(x), block.window, block.shift)
    attention = block.attn
    if source is None:
        weights, value = attention.attention_weights(windows, block.mask), attention.qkv(windows).chunk(3, -1)[2]
        shortcut = x
    else:
        others = to_windows(block.norm1(source), block.window, block.shift)
        weights = attention.attention_weights(windows, None, others)
        value, shortcut = attention.kv(others).chunk(2, -1)[1], x + source
    heads = value.unflatten(-1, (attention.num_heads, -1))
    attended = attention.proj(torch.einsum("nhij,njhc->nihc", weights, heads).flatten(2))
    return block.add(shortcut, attended)


@pytest.mark.parametrize("quirk", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_blocks_of_windows_with_padding(shifted: bool, quirk: bool) -> None:
    block = SwinBlock(8, 2, (5, 4, 7), (2, 2, 4), shifted, quirk=quirk).double().eval()
    draw(block)
    x = torch.randn(1, 5, 4, 7, 8, dtype=torch.float64)
    assert any(block.shift) == shifted
    assert_equal(recomputed(block, x), block(x))


def test_blocks_that_attend_to_a_skip() -> None:
    block = SkipAttentionBlock(8, 2, (5, 4, 7), (2, 2, 4)).double().eval()
    draw(block)
    x, skip = torch.randn(2, 1, 5, 4, 7, 8, dtype=torch.float64)
    assert_equal(recomputed(block, x, skip), block.forward_pair(x, skip))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_among_tokens(masked: bool) -> None:
    attention = TokenAttention(8, 2).double().eval()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    unseen = torch.tensor([[False, True, False, True, False]]) if masked else None
    weights = attention.attention_weights(x, unseen)
    assert_stochastic(weights)
    if unseen is not None:
        assert weights[..., unseen[0]].max() == 0
    value = attention.qkv(x)[..., 16:].unflatten(-1, (2, 4))
    attended = torch.einsum("bhij,bjhc->bihc", weights, value).flatten(2)
    assert_equal(attention.proj(attended), attention(x, unseen))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_matrices_are_of_full_precision(dtype: torch.dtype) -> None:
    attention, tokens = WindowAttention(8, 2, (2, 2, 2)).eval(), TokenAttention(8, 2)
    layer, gasa = GatedAxialAttention(16, 0, 6, 4).eval(), GASABlock(5, (3, 4), 8, 2, norm=True)
    with torch.autocast("cpu", dtype):
        x = F.linear(torch.randn(1, 8, 8), torch.randn(8, 8))  # of the narrow type
        lines = x.reshape(1, 16, 4)
        found = [
            attention.attention_weights(x),
            tokens.attention_weights(x),
            gasa.attention_weights(x),
            layer.attention_weights(lines),
        ]
    for weights in found:
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
