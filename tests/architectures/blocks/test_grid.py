from itertools import product
from typing import Any

import pytest
import torch

from nnunet_attn.architectures.blocks.grid import from_cells, legal_grid, to_cells


def grids(size: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(size, grid) for grid in product((4, 2, 1), repeat=len(size))]


@pytest.mark.parametrize(("size", "grid"), [*grids((8, 16)), *grids((9, 14)), *grids((5, 8, 7)), ((1, 2), (4, 4))])
def test_cells_are_put_together_again(size: tuple[int, ...], grid: tuple[int, ...]) -> None:
    image = torch.randn(3, 2, *size)
    cells = to_cells(image, grid)
    cell = [-(-voxels // count) for voxels, count in zip(size, grid, strict=True)]
    assert cells.shape == (3 * torch.tensor(grid).prod(), 2, *cell)
    assert torch.equal(from_cells(cells, grid, size), image)


@pytest.mark.parametrize(("size", "grid"), [((9, 14), (2, 4)), ((5, 8, 7), (2, 1, 4))])
def test_cells_come_in_order_with_the_batch_inside_and_zeros_behind_the_image(
    size: tuple[int, ...], grid: tuple[int, ...]
) -> None:
    image = torch.rand(2, 1, *size) + 1
    cells = to_cells(image, grid)
    cell = cells.shape[2:]
    for number, place in enumerate(product(*map(range, grid))):
        part = image[(..., *(slice(at * length, (at + 1) * length) for at, length in zip(place, cell, strict=True)))]
        own = cells[2 * number : 2 * number + 2]
        inside = own[(..., *(slice(0, length) for length in part.shape[2:]))]
        assert torch.equal(inside, part)
        assert own.count_nonzero() == part.numel(), "all else is zero"


@pytest.mark.parametrize(
    ("patch_size", "expected"),
    [
        ((128, 128), (4, 4)),
        ((127, 64), (2, 2)),
        ((63, 56), (1, 1)),
        ((56, 40), (1, 1)),
        ((512, 20), (4, 1)),
        ((16, 128, 64), (1, 4, 2)),
        ((1, 1), (1, 1)),
    ],
)
def test_grid_has_the_most_cells_of_at_least_32_voxels(patch_size: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert legal_grid(patch_size, None) == expected
    assert all(cells == 1 or size / cells >= 32 for size, cells in zip(patch_size, expected, strict=True))


def test_a_grid_of_ones_own_is_taken() -> None:
    assert legal_grid((16, 16, 16), [4, 2, 1]) == (4, 2, 1)


@pytest.mark.parametrize("grid", [[3, 4], [4], [4, 4, 4], [0, 1], [], [8, 8]])
def test_other_grids_are_refused(grid: Any) -> None:
    with pytest.raises(ValueError) as error:
        legal_grid((128, 128), grid)
    assert str(error.value) == f"grid must be one of (4, 2, 1) for each of 2 axes, got {grid!r}"
