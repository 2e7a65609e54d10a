"""Cells of an image on a grid, and the blocks of neighbouring cells that slide over it."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Image sizes met one after the other in a prediction; a table has one number for each block.
_KEPT = 8


def split_cells(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut an image into cells: (b c *space) -> (b *grid c*voxels), voxels of a cell row-major behind its channel.

    Args:
        x: The image; its axes are multiples of `size`.
        size: Voxels of a cell along each axis.
    """
    dims = len(size)
    cut = [number for full, own in zip(x.shape[2:], size, strict=True) for number in (full // own, own)]
    x = x.reshape(*x.shape[:2], *cut)
    places, voxels = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    return x.permute(0, *places, 1, *voxels).flatten(1 + dims)


def join_cells(cells: Tensor, size: Sequence[int]) -> Tensor:
    """Reverse of `split_cells`: (b *grid c*voxels) -> (b c *space)."""
    dims = len(size)
    grid = cells.shape[1:-1]
    x = cells.reshape(len(cells), *grid, -1, *size)
    places = [number for axis in range(dims) for number in (1 + axis, 2 + dims + axis)]
    space = [count * own for count, own in zip(grid, size, strict=True)]
    return x.permute(0, 1 + dims, *places).reshape(len(cells), -1, *space)


def pad_axes(x: Tensor, before: Sequence[int], after: Sequence[int], trailing: int = 0) -> Tensor:
    """Pad the last axes but `trailing` ones with zeros; (before, after) elements, one number for each axis."""
    if not any(before) and not any(after):
        return x
    pairs = [number for pair in zip(reversed(before), reversed(after), strict=True) for number in pair]
    return F.pad(x, [0, 0] * trailing + pairs)


def missing_voxels(space: Sequence[int], size: Sequence[int]) -> list[int]:
    """Return how many voxels each axis lacks to a multiple of the cell's."""
    return [-full % own for full, own in zip(space, size, strict=True)]


class BlockIndex:
    """Where the cells of each block lie in a flattened grid; what was asked for lately is kept.

    It is no buffer: nothing of it enters a checkpoint, and a table is made on the device that asks for it.

    Args:
        neighbourhood: Cells of a block along each axis.
    """

    def __init__(self, neighbourhood: Sequence[int]) -> None:
        self.neighbourhood = tuple(neighbourhood)
        self._kept: OrderedDict[tuple[tuple[int, ...], torch.device], tuple[Tensor, Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget all tables."""
        self._kept.clear()

    def of(self, grid: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the first cell of each block, (blocks), and the others' distances from it, (cells of a block).

        Args:
            grid: Cells along each axis, at least those of a block; blocks lie wholly inside.
            device: Where the tables are wanted.
        """
        if torch.compiler.is_compiling():
            return self._made(tuple(grid), device)
        key = (tuple(grid), device)
        if key not in self._kept:
            # what inference mode makes cannot be used in training later
            with torch.inference_mode(False):
                self._kept[key] = self._made(*key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _made(self, grid: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        blocks = [cells - own + 1 for cells, own in zip(grid, self.neighbourhood, strict=True)]
        return _places(blocks, grid, device), _places(self.neighbourhood, grid, device)


def _places(counts: Sequence[int], grid: Sequence[int], device: torch.device) -> Tensor:
    """Return the row-major numbers in `grid` of the cells of its first corner that has `counts` cells."""
    places = torch.zeros(1, dtype=torch.long, device=device)
    for axis, count in enumerate(counts):
        step = math.prod(grid[axis + 1 :])
        places = (places[:, None] + step * torch.arange(count, device=device)).flatten()
    return places
