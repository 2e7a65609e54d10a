"""Cuts an image into the cells of a grid, folded into the batch, and puts them together again."""

import math
from collections.abc import Sequence
from itertools import chain

from torch import Tensor
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.axial_branch import reduced

GRIDS = (4, 2, 1)
# A cell has at least as many voxels along each axis as a cell of the published 4 x 4 grid on 128 x 128.
LEAST_CELL = 32


def legal_grid(patch_size: Sequence[int], grid: Sequence[int] | None) -> tuple[int, ...]:
    """Return the cells along each axis: `grid`, or the most of 4, 2, 1 with cells of at least 32 voxels.

    Raises:
        ValueError: If `grid` has other numbers, or not one for each axis.
    """
    if grid is None:
        return tuple(next((cells for cells in GRIDS if size >= cells * LEAST_CELL), 1) for size in patch_size)
    given = grid if isinstance(grid, Sequence) else ()
    if len(given) != len(patch_size) or any(type(cells) is not int or cells not in GRIDS for cells in given):
        raise ValueError(f"grid must be one of {GRIDS} for each of {len(patch_size)} axes, got {grid!r}")
    return tuple(grid)


def to_cells(x: Tensor, grid: Sequence[int]) -> Tensor:
    """Fold the cells of a grid into the batch, cell by cell: (b c *space) -> (cells*b c *cell).

    Where the grid does not divide the space, zeros are put behind it.
    """
    cell = reduced(x.shape[2:], grid)
    padding = [(0, size * cells - full) for size, cells, full in zip(cell, grid, x.shape[2:], strict=True)]
    x = F.pad(x, tuple(chain.from_iterable(reversed(padding))))
    dims = len(grid)
    split = x.reshape(*x.shape[:2], *chain.from_iterable(zip(grid, cell, strict=True)))
    cells_first = [2 + 2 * axis for axis in range(dims)]
    return split.permute(*cells_first, 0, 1, *(axis + 1 for axis in cells_first)).reshape(-1, x.shape[1], *cell)


def from_cells(cells: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Put the cells of a grid together again, (cells*b c *cell) -> (b c *size); the reverse of `to_cells`."""
    dims = len(grid)
    cell = cells.shape[2:]
    split = cells.view(*grid, len(cells) // math.prod(grid), cells.shape[1], *cell)
    pairs = chain.from_iterable((axis, dims + 2 + axis) for axis in range(dims))
    whole = split.permute(dims, dims + 1, *pairs).reshape(
        split.shape[dims], cells.shape[1], *(a * b for a, b in zip(grid, cell, strict=True))
    )
    return whole[(..., *(slice(0, full) for full in size))]
