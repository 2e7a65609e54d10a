"""FINE's maps of attention, and what its tokens pay attention to, against sums and products by coordinates."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_attn.architectures.attention import attention_maps, attention_stages, voxel_attention
from nnunet_attn.architectures.fine import FINE
from tests.reference.attention_maps import all_places

PATCH, EXTENT = (16, 32, 16), (16, 128, 64)
OWN = [5, 6, 9, 10]  # of 4 x 4 sub-volumes those around the middle


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def fine(**options: Any) -> tuple[Any, Tensor]:
    """A small FINE, whose first and last stages have 8 windows, and a crop in the middle of its volume."""
    network = FINE(1, 2, PATCH, volume_extent=EXTENT, embed_dim=8, num_heads=2, **options).double().eval()
    assert network.grid == (1, 4, 4)
    with torch.no_grad():
        for module in network.modules():
            for name in ("qkv", "kv"):  # attention that is far from uniform
                if hasattr(module, name):
                    getattr(module, name).weight.mul_(4)
    if network.volume_tokens:
        network.seen[:] = True
        network.seen[[0, 7, 9]] = False
    tile = torch.randn(1, 1 + len(network.position_axes), *PATCH, dtype=torch.float64)
    tile[:, 1:] = 0
    return network, tile


def inputs_of(network: Any, tile: Tensor, block: Any) -> dict[str, tuple[Any, ...]]:
    """Return what the attentions of a block get in a run."""
    found: dict[str, tuple[Any, ...]] = {}
    parts = {name: getattr(block, name) for name in ("attn", "global_attn", "volume_attn")}

    def keep(name: str) -> Any:
        return lambda _, inputs: found.update({name: inputs})

    handles = [part.register_forward_pre_hook(keep(name)) for name, part in parts.items() if part is not None]
    with torch.no_grad():
        network(tile)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("number", [0, 1], ids=["plain", "shifted"])
def test_fine_maps_of_its_tokens(number: int) -> None:
    network, tile = fine()
    block, name = network.encoder[0].blocks[number], f"encoder-0-{number}"
    inputs = inputs_of(network, tile, block)
    maps = {each.stage: each for each in attention_maps(network, tile)}
    with torch.no_grad():
        within = block.attn.attention_weights(*inputs["attn"])  # 8 windows, 2 heads, 65 x 65
        among = block.global_attn.attention_weights(*inputs["global_attn"])[0]  # 4 + 8 tokens
        everywhere = block.volume_attn.attention_weights(*inputs["volume_attn"])[0]
    assert everywhere.shape == (2, 16, 16) and among.shape == (2, 12, 12)

    size, shift = (8, 8, 8), block.shift
    assert shift == ((2, 2, 2) if number else (0, 0, 0))
    for place in all_places(size):
        rolled = [(at - moved) % 8 for at, moved in zip(place, shift, strict=True)]
        window = (rolled[0] // 4 * 2 + rolled[1] // 4) * 2 + rolled[2] // 4
        token = 1 + (rolled[0] % 4 * 4 + rolled[1] % 4) * 4 + rolled[2] % 4
        at = (slice(None), *place)
        assert_equal(maps[name].weights[at], within[window, :, :, token].sum(-1))
        assert_equal(maps[f"{name}-token"].weights[at], within[window, :, :, 0].sum(-1))
        assert_equal(maps[f"{name}-windows"].weights[at], among[:, :, 4 + window].sum(-1))
    sums = maps[name].weights.sum((1, 2, 3)) + maps[f"{name}-token"].weights.sum((1, 2, 3)) / 64
    assert_equal(sums, torch.full((2,), 8 * 65.0, dtype=torch.float64))

    cells, volume = maps[f"{name}-cells"], maps[f"{name}-volume"]
    assert cells.covers == volume.covers == "volume" and cells.cell == volume.cell == PATCH
    assert maps[name].covers == "tile" and maps[name].cell == (2, 4, 2)
    expected = torch.full((2, 16), torch.nan, dtype=torch.float64)
    expected[:, OWN] = among[:, :, :4].sum(1)
    torch.testing.assert_close(cells.weights, expected.view(2, 1, 4, 4), rtol=1e-10, atol=1e-10, equal_nan=True)
    assert_equal(volume.weights, everywhere.sum(1).view(2, 1, 4, 4))
    assert_equal(volume.weights.mean((1, 2, 3)), torch.ones(2, dtype=torch.float64))
    assert "no training crop has reached 3 of the 16 sub-volumes" in volume.note
    assert volume.weights.flatten(1)[:, [0, 7, 9]].max() == 0


@pytest.mark.parametrize(("number", "voxel"), [(0, (15, 31, 0)), (1, (15, 31, 0)), (1, (5, 17, 8))])
def test_fine_voxel_is_the_product_of_the_paper(number: int, voxel: tuple[int, ...]) -> None:
    network, tile = fine()
    block, name = network.encoder[0].blocks[number], f"encoder-0-{number}"
    inputs = inputs_of(network, tile, block)
    rolled = [(at // cell - moved) % 8 for at, cell, moved in zip(voxel, (2, 4, 2), block.shift, strict=True)]
    window = (rolled[0] // 4 * 2 + rolled[1] // 4) * 2 + rolled[2] // 4
    token = 1 + (rolled[0] % 4 * 4 + rolled[1] % 4) * 4 + rolled[2] % 4
    with torch.no_grad():
        to_token = block.attn.attention_weights(*inputs["attn"])[window, :, token, 0].mean()
        to_cells = block.global_attn.attention_weights(*inputs["global_attn"])[0, :, 4 + window, :4].mean(0)
        everywhere = block.volume_attn.attention_weights(*inputs["volume_attn"])[0]
    expected = torch.zeros(2, 16, dtype=torch.float64)
    for share, cell in zip(to_cells, OWN, strict=True):
        expected += share / to_cells.sum() * everywhere[:, cell]
    assert_equal(expected.sum(1), torch.ones(2, dtype=torch.float64))

    maps = {each.stage: each for each in voxel_attention(network, tile, voxel)}
    found = maps[f"{name}-volume"]
    assert_equal(found.weights, 16 * expected.view(2, 1, 4, 4))
    assert found.covers == "volume" and found.expanded(EXTENT).shape == (2, *EXTENT)
    assert f"a share of {float(to_token * to_cells.sum()):.3g} of the voxel's attention" in found.note
    token_alone = voxel_attention(network, tile, voxel, [f"{name}-volume"])
    assert torch.equal(token_alone[0].weights, found.weights), "also where nothing else is asked for"
    rows = maps[name].weights.sum((1, 2, 3)) + maps[f"{name}-token"].weights.amax((1, 2, 3))
    assert_equal(rows, torch.full((2,), 65.0, dtype=torch.float64))


def test_fine_says_what_never_reaches_the_output() -> None:
    network, tile = fine(carry=False)
    stages = attention_stages(network)
    assert [stage for stage in stages if stage.startswith("encoder-0")] == [
        "encoder-0-0",
        "encoder-0-0-token",
        "encoder-0-0-windows",
        "encoder-0-0-cells",
        "encoder-0-1",
        "encoder-0-1-token",
    ]
    (cells,) = voxel_attention(network, tile, (0, 0, 0), ["encoder-0-0-cells"])
    assert "tokens of sub-volumes outside the crop never reach the output" in cells.note
    assert (cells.weights.sum(0).flatten() > 0).nonzero()[:, 0].tolist() == [5, 6, 10], "seen ones of the crop"

    carrying, tile = fine()
    notes = {each.stage: each.note for each in voxel_attention(carrying, tile, (0, 0, 0))}
    assert "never reach" not in "".join(notes.values())
    assert "no later block reads" in notes["decoder-2-0-cells"] and "decoder-2-0-volume" not in notes
    assert "no later block reads" not in notes["encoder-0-0-cells"]


def test_fine_that_has_seen_nothing_and_fine_without_volume_tokens() -> None:
    network, tile = fine()
    network.seen[:] = False
    (found,) = voxel_attention(network, tile, (0, 0, 0), ["encoder-0-0-volume"])
    assert "a share of 0 of" in found.note and "reached 16 of the 16" in found.note
    assert found.weights.max() == 0, "nothing goes this way"

    network, tile = fine(volume_tokens=False)
    assert attention_stages(network)[:4] == ["encoder-0-0", "encoder-0-0-token", "encoder-0-0-windows", "encoder-0-1"]
    for each in attention_maps(network, tile):
        if each.stage.endswith("windows"):
            means = each.weights.mean((1, 2, 3))
            assert_equal(means, torch.ones_like(means))
