from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_attn.architectures.blocks.memory_tokens import MemoryBlock, MemoryStage, TokenAttention
from tests.made.parity import parity_case
from tests.reference.fine import DirectFINEStage
from tests.reference.window_attention import DirectAttention

NAMES = {
    "relative_position_bias_table": "relative_bias",
    "gt_attn": "global_attn",
    "vt_attn": "volume_attn",
    "global_token": "window_token",
    "volume_token": "volume_tokens",
    "pe": "position",
}
STATE = ("x", "window_tokens", "volume_tokens")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def own_names(published: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        ".".join(NAMES.get(part, part) for part in key.split(".")): value
        for key, value in published.items()
        if not key.endswith("relative_position_index")
    }


def made_stage(
    channels: int, heads: int, size, window, depth: int, sub_volumes: int, quirk: bool = False, carried: int = 0
) -> MemoryStage:
    shapes = (channels, heads, size, (window,) * 3)
    blocks = [MemoryBlock(*shapes, bool(number % 2), quirk=quirk) for number in range(depth)]
    return MemoryStage(blocks, channels, sub_volumes, carried)


def states(stage: Any, x: Tensor, cells: Tensor, seen: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The map and both kinds of tokens behind every block."""
    found = []
    windows = stage.window_token.expand(len(x), stage.blocks[0].num_windows, -1)
    volume = stage.volume_tokens.expand(len(x), -1, -1)
    for block in stage.blocks:
        x, windows, volume = block.forward_tokens(x, windows, volume, stage.position, cells, seen)
        found.append((x, windows, volume))
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("batch", [1, 2])
def test_stage_equals_the_published_one(batch: int, dtype: torch.dtype) -> None:
    case = parity_case(f"fine_stage_b{batch}")
    told, seen = case.meta["configuration"], case.arrays["seen"].squeeze(1).bool()
    assert 0 < seen.sum() < len(seen)
    depth, size = len(told["shifts"]), told["resolution"]
    stage = made_stage(told["width"], told["heads"], size, told["window"], depth, len(seen), quirk=True)
    stage.load_state_dict(own_names(case.state_dict))
    stage.to(dtype)
    x, cells = case.arrays["input"].to(dtype), case.arrays["cells"]
    compared = 0
    for training in (True, False):
        stage.train(training)
        with torch.set_grad_enabled(training):
            found = states(stage, x, cells, seen)
            last = stage(x, cells, seen)
        assert all(torch.equal(one, other) for one, other in zip(last, found[-1][::2], strict=True))
        for number, state in enumerate(found):
            for name, own in zip(STATE, state, strict=True):
                if f"block{number}/{name}" in case.arrays:
                    case.check(f"block{number}/{name}", own)
                    compared += 1
    assert compared == 2 * {1: 9, 2: 4}[batch]


def test_stage_has_the_gradients_of_the_slow_one() -> None:
    size, depth, sub_volumes = (4, 5, 6), 3, 6
    stage = made_stage(6, 2, size, 3, depth, sub_volumes).double()
    slow = DirectFINEStage(6, size, 2, 3, [0.0] * depth, quirk=False, n_cells=sub_volumes).double()
    names = own_names(dict(slow.named_parameters()))
    with torch.no_grad():
        for name, parameter in stage.named_parameters():
            names[name].copy_(parameter.normal_(std=0.4))
    x = torch.randn(3, *size, 6, dtype=torch.float64, requires_grad=True)
    cells = torch.tensor([[0, 1], [1, 2], [4, 1]])
    seen = torch.tensor([True, True, True, False, True, False])
    got, expected = states(stage, x, cells, seen)[-1], slow.states(x, cells, seen)[-1]
    pull = [torch.randn_like(each) for each in expected]
    for own, other in zip(got, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-10)
    own = torch.autograd.grad(got, [x, *stage.parameters()], pull)
    theirs = torch.autograd.grad(expected, [x, *(names[name] for name, _ in stage.named_parameters())], pull)
    for one, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("of_each", [False, True])
def test_tokens_attend_as_published(of_each: bool) -> None:
    own, slow = TokenAttention(6, 2).double(), DirectAttention(6, 2).double()
    slow.load_state_dict(own.state_dict())
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    unseen = torch.tensor([[False, True, False, False, True], [True, False, False, True, False]])[: 1 + of_each]
    added = torch.where(unseen, -1000.0, 0.0).double()[:, None, None]
    torch.testing.assert_close(own(x, unseen), slow(x, added), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(own(x), slow(x), rtol=1e-12, atol=1e-13)
    changed = torch.where(unseen[..., None], torch.randn_like(x), x)
    seen = ~unseen.expand(2, -1)
    assert torch.equal(own(x, unseen)[seen], own(changed, unseen)[seen]), "to the last bit"
    nothing = own(x, torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(nothing, own(x), rtol=1e-9, atol=1e-10)


def test_what_no_block_reads_is_not_built() -> None:
    shapes = (4, 1, (2, 2, 2), (2, 2, 2))
    plain = MemoryBlock(*shapes, global_attention=False, volume_attention=False)
    names = {name for name, _ in MemoryStage([plain], 4, 5, 8).named_parameters() if not name.startswith("blocks")}
    assert names == {"window_token"}
    names = {name for name, _ in MemoryStage([MemoryBlock(*shapes)], 4, 0, 8).named_parameters()}
    assert "position" in names and not [name for name in names if "volume_tokens" in name or "carry" in name]
    stage = MemoryStage([MemoryBlock(*shapes)], 4, 5, 8)
    assert stage.carry.weight.shape == (4, 8) and stage.volume_tokens.shape == (5, 4)
    assert not stage.carry.bias.any() and 0 < stage.carry.weight.abs().max() <= 2


def test_tokens_start_from_those_of_the_stage_before() -> None:
    stage = made_stage(4, 1, (2, 2, 2), 2, 1, 3, carried=8).double()
    x, before = torch.randn(2, 2, 2, 2, 4, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    cells, seen = torch.tensor([[0], [2]]), torch.ones(3, dtype=torch.bool)
    got = stage(x, cells, seen, before)
    started = stage.volume_tokens + stage.carry(stage.carry_norm(before))
    for sample in range(2):
        alone = made_stage(4, 1, (2, 2, 2), 2, 1, 3).double()
        alone.load_state_dict(stage.state_dict() | {"volume_tokens": started[sample]}, strict=False)
        one = slice(sample, sample + 1)
        for own, other in zip(got, alone(x[one], cells[one], seen), strict=True):
            torch.testing.assert_close(own[one], other, rtol=1e-12, atol=1e-13)


def test_windows_leave_out_their_tokens_by_themselves() -> None:
    # 27 windows of one sample: with one draw for all of them, the tokens would change together
    block = MemoryBlock(4, 1, (6, 6, 6), (2, 2, 2), drop_path=0.5, volume_attention=False).double()
    heard: list[Tensor] = []
    assert block.global_attn is not None
    block.global_attn.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    tokens = torch.randn(1, 1, 4, dtype=torch.float64).expand(1, 27, 4)
    position = torch.zeros(27, 4, dtype=torch.float64)
    block.forward_tokens(torch.randn(1, 6, 6, 6, 4, dtype=torch.float64), tokens, None, position, None, None)
    same = int((heard[0] == tokens).all(-1).sum())
    assert 0 < same < 27


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_runs_under_autocast(dtype: torch.dtype) -> None:
    stage = made_stage(8, 2, (4, 4, 4), 2, 2, 3, carried=4)
    x, before = torch.randn(2, 4, 4, 4, 8), torch.randn(2, 3, 4)
    arguments = (torch.tensor([[0, 1], [1, 2]]), torch.ones(3, dtype=torch.bool), before)
    exact = stage(x, *arguments)
    with torch.autocast("cpu", dtype=dtype):
        half = stage(x, *arguments)
    for one, other in zip(half, exact, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.1, atol=0.1)
    half[0].float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in stage.parameters())
