"""Cells, blocks and slabs of an image, against indexing by hand."""

import itertools

import pytest
import torch

from nnunet_attn.architectures.blocks.patch_grid import BlockIndex, join_cells, missing_voxels, pad_axes, split_cells
from nnunet_attn.architectures.blocks.patch_slabs import Slabs


@pytest.mark.parametrize(("space", "size"), [((6, 4, 10), (3, 4, 2)), ((6, 10), (2, 5))])
def test_cells_are_cut_row_major_behind_their_channel(space: tuple[int, ...], size: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *space)
    cells = split_cells(x, size)
    grid = tuple(full // own for full, own in zip(space, size, strict=True))
    for cell in itertools.product(*map(range, grid)):
        voxels = tuple(slice(place * own, (place + 1) * own) for place, own in zip(cell, size, strict=True))
        assert torch.equal(cells[(slice(None), *cell)], x[(slice(None), slice(None), *voxels)].flatten(1))
    assert torch.equal(join_cells(cells, size), x)


def test_blocks_find_their_cells() -> None:
    grid, neighbourhood = (4, 6, 5), (3, 5, 1)
    first, others = BlockIndex(neighbourhood).of(grid, torch.device("cpu"))
    numbers = torch.arange(4 * 6 * 5).view(grid)
    corners = list(itertools.product(range(2), range(2), range(5)))
    assert len(first) == len(corners) and len(others) == 15
    for own, (a, b, c) in zip(first, corners, strict=True):
        assert torch.equal(own + others, numbers[a : a + 3, b : b + 5, c : c + 1].flatten())


def test_padding_goes_to_the_named_axes() -> None:
    x = torch.ones(2, 2, 3, 1)
    padded = pad_axes(x, (1, 0), (0, 2), trailing=1)
    assert tuple(padded.shape) == (2, 3, 5, 1)
    assert torch.equal(padded[:, 1:, :3], x) and padded.sum() == x.sum()
    assert pad_axes(x, (0, 0), (0, 0)) is x
    assert missing_voxels((9, 8), (4, 4)) == [3, 0]


@pytest.mark.parametrize("planes", [1, 2, 3, 100])
@pytest.mark.parametrize("offset", [None, (1, 0), (2, 3)])
def test_slabs_cut_every_voxel_with_its_context_and_put_it_back(planes: int, offset: tuple[int, ...] | None) -> None:
    size, neighbourhood, x = (3, 4), (3, 5), torch.randn(2, 1, 11, 9)
    ahead = offset or (0, 0)
    slabs = Slabs((11, 9), size, neighbourhood, planes, offset)
    assert slabs.grid == (-(-(11 + ahead[0]) // 3), -(-(9 + ahead[1]) // 4))
    whole = torch.zeros(2, 1, 3 * slabs.grid[0] + 6, 4 * slabs.grid[1] + 16)
    whole[:, :, 3 + ahead[0] : 14 + ahead[0], 8 + ahead[1] : 17 + ahead[1]] = x
    back = torch.full_like(x, torch.nan)
    met = []
    for slab in slabs:
        part = slabs.cut(x, slab, torch.device("cpu"))
        assert torch.equal(part, whole[:, :, 3 * slab.first : 3 * (slab.first + slab.count) + 6])
        slabs.place(part[:, :, 3:-3, 8:-8], slab, back)
        met += range(slab.first, slab.first + slab.count)
    assert met == list(range(slabs.grid[0]))
    assert torch.equal(back, x)
