"""Attention of the patch transformer, folded over an image, against all blocks accumulated voxel by voxel."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_attn.architectures.patch_transformer import PatchTransformer
from tests.made.patch_network import NEIGHBOURHOOD, SIZE, image, slow, small

SPACE = (12, 8, 8)  # 3, 4 and 2 patches
TOKENS = math.prod(NEIGHBOURHOOD)


def expanded(maps: Tensor) -> Tensor:
    """Nearest voxels of a grid, (heads *grid) -> (heads *space)."""
    for axis, size in enumerate(SIZE, start=1):
        maps = maps.repeat_interleave(size, axis)
    return maps


@pytest.mark.parametrize("scale", ["inside", "outside"])
@pytest.mark.parametrize(
    ("query", "include_self"), [("all", True), ("all", False), ("centre", True), ("centre", False)]
)
def test_folding_equals_accumulating_all_blocks_voxel_by_voxel(query: str, include_self: bool, scale: str) -> None:
    network, x = small(scale=scale), image(*SPACE)[0]
    with torch.no_grad():
        expected = slow(network).received(x, query == "centre", include_self)
    maps = network.attention_grid(x, query=query, include_self=include_self)
    assert [tuple(own.shape) for own in maps] == [(2, 3, 4, 2)] * 2
    for ours, theirs in zip(maps, expected, strict=True):
        assert ours.std() > 0.01
        torch.testing.assert_close(expanded(ours), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
@pytest.mark.parametrize("query", ["all", "centre"])
def test_the_mean_weighted_by_counts_is_one(query: str, norm: str) -> None:
    network = small(norm=norm, scale="outside")
    sums, counts = network.attention_sums(image(10, 7, 8)[0], query=query)
    assert tuple(counts.shape) == (5, 8, 4)
    assert counts.sum() == 3 * 4 * 2 * TOKENS
    for own in sums:
        assert (own.flatten(1).sum(1) / counts.sum() - 1).abs().max() < 1e-12


def test_counts_are_the_blocks_that_a_patch_lies_in() -> None:
    _, counts = small(neighbourhood=3).attention_sums(image(16, 2, 4)[0])
    along = torch.tensor([1.0, 2, 3, 3, 2, 1])  # 4 patches and one more at each side, blocks of 3
    ones = torch.ones(3)
    assert torch.equal(counts, (along[:, None, None] * ones[:, None] * ones).double())


@pytest.mark.parametrize("stage", [1, 2])
def test_columns_of_a_block_add_up_to_its_patches_and_rows_to_one(stage: int) -> None:
    network, x = small(), image(*SPACE)[0]
    (weights,) = network.block_attention(x, (1, 2, 0), [stage])
    assert tuple(weights.shape) == (2, TOKENS, TOKENS) and weights.min() >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum((1, 2)), torch.full_like(weights[:, 0, 0], TOKENS), rtol=0, atol=1e-10)
    expected = dict(slow(network).blocks(x))[(1, 2, 0)]
    with torch.no_grad():
        torch.testing.assert_close(weights, slow(network).block(expected)[1][stage - 1], rtol=0, atol=1e-12)


def test_every_block_can_be_asked() -> None:
    network, x = small(), image(10, 7, 8)[:1]
    reference = slow(network)
    with torch.no_grad():
        for cell, block in reference.blocks(x[0]):
            for ours, theirs in zip(network.block_attention(x, cell), reference.block(block)[1], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_slabs_chunks_and_the_choice_of_stages_change_nothing() -> None:
    network, x = small(depth=3), image(10, 7, 8)[0]
    expected, counts = network.attention_sums(x)
    for planes, chunk in itertools.product((1, 2, None), (1, 7, None)):
        network.chunk_size = chunk
        sums, own = network.attention_sums(x, [3, 1], slab_cells=planes)
        assert torch.equal(own, counts)
        torch.testing.assert_close(sums, [expected[2], expected[0]], rtol=0, atol=1e-12)


def test_uniform_attention_is_one_everywhere() -> None:
    network = small()
    for stage in network.stages:
        torch.nn.init.zeros_(stage.qkv.weight)  # pyright: ignore[reportArgumentType]
    for query, include_self in itertools.product(("all", "centre"), (True, False)):
        sums, counts = network.attention_sums(image(*SPACE)[0], query=query, include_self=include_self)
        total = sums[0].flatten(1).sum(1) / counts.sum()
        torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    for own in network.attention_grid(image(*SPACE)[0]):
        torch.testing.assert_close(own, torch.ones_like(own), rtol=0, atol=1e-12)


def test_a_shifted_grid_covers_the_image_from_in_front() -> None:
    network, x = small(), image(*SPACE)[0]
    shifted = network.attention_grid(x, offset=(2, 1, 0))
    padded = torch.nn.functional.pad(x, (0, 0, 1, 0, 2, 0))
    assert tuple(shifted[0].shape) == (2, 4, 5, 2)
    torch.testing.assert_close(shifted, network.attention_grid(padded), rtol=0, atol=1e-12)


def test_showing_changes_no_prediction() -> None:
    network, x = small(), image(*SPACE)
    with torch.no_grad():
        before: Any = network(x)
        network.attention_grid(x[0])
        assert torch.equal(network(x), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": [0]}, r"stages must be some of 1 to 2, each once, got \[0\]"),
        ({"stages": []}, r"stages must be some of 1 to 2, each once, got \[\]"),
        ({"query": "mean"}, r"query must be one of all, centre, got 'mean'"),
    ],
)
def test_illegal_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().attention_grid(image(*SPACE)[0], **arguments)


def test_illegal_images_and_patches_are_named() -> None:
    network: PatchTransformer = small()
    with pytest.raises(ValueError, match=r"one image at a time, got a batch of 2"):
        network.attention_grid(image(*SPACE))
    with pytest.raises(ValueError, match=r"below \(3, 4, 2\) along its axes, got \(3, 0, 0\)"):
        network.block_attention(image(*SPACE)[0], (3, 0, 0))
    with pytest.raises(ValueError, match="a block of 1 patch"):
        small(neighbourhood=1).attention_grid(image(*SPACE)[0], include_self=False)
