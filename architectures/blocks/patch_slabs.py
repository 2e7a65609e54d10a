"""A whole image, cut into slabs of cells with the context that their blocks need."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_attn.architectures.blocks.patch_grid import missing_voxels, pad_axes

# Cells of a slab; their embeddings take 128 MiB at 1024 values each.
_SLAB_CELLS = 32768


@dataclass(frozen=True)
class Slab:
    """Planes of cells along the first axis.

    Args:
        first: Number of the first plane.
        count: Planes.
        before: Voxel of the image at which its context begins along the first axis; negative in front of the image.
    """

    first: int
    count: int
    before: int


class Slabs:
    """The slabs of an image, which lie on a grid of cells, and where each comes from and goes to.

    Args:
        space: Voxels of the image along each axis.
        size: Voxels of a cell.
        neighbourhood: Cells of a block.
        planes: Planes of cells of a slab; None: as many as have about 32768 cells.
        offset: Voxels by which the grid begins in front of the image; None: none.
    Raises:
        ValueError: If `planes` is below 1, or `offset` is not from 0 to below a cell along each axis.
    """

    def __init__(
        self,
        space: Sequence[int],
        size: Sequence[int],
        neighbourhood: Sequence[int],
        planes: int | None = None,
        offset: Sequence[int] | None = None,
    ) -> None:
        self.space, self.size = tuple(space), tuple(size)
        self.offset = (0,) * len(size) if offset is None else tuple(offset)
        if len(self.offset) != len(size) or any(
            not 0 <= ahead < own for ahead, own in zip(self.offset, size, strict=True)
        ):
            raise ValueError(
                f"offset must be from 0 to below a patch of {self.size} voxels along each axis, got {self.offset}"
            )
        full = [voxels + ahead for voxels, ahead in zip(space, self.offset, strict=True)]
        self._end = missing_voxels(full, size)
        self.grid = tuple((voxels + more) // own for voxels, more, own in zip(full, self._end, self.size, strict=True))
        self._halo = [own * (count // 2) for own, count in zip(size, neighbourhood, strict=True)]
        planes = max(1, _SLAB_CELLS // math.prod(self.grid[1:])) if planes is None else planes
        if type(planes) is not int or planes < 1:
            raise ValueError(f"slab_cells must be an integer of at least 1, got {planes!r}")
        self._planes = planes

    def __iter__(self) -> Iterator[Slab]:
        for first in range(0, self.grid[0], self._planes):
            before = first * self.size[0] - self.offset[0] - self._halo[0]
            yield Slab(first, min(self._planes, self.grid[0] - first), before)

    def cut(self, image: Tensor, slab: Slab, device: torch.device) -> Tensor:
        """Return a slab of an image (b c *space) with its context, zero outside of the image, on a device."""
        behind = slab.before + slab.count * self.size[0] + 2 * self._halo[0]
        low, high = max(slab.before, 0), min(behind, self.space[0])
        before = [ahead + own for ahead, own in zip(self.offset, self._halo, strict=True)]
        after = [more + own for more, own in zip(self._end, self._halo, strict=True)]
        part = image[:, :, low:high].to(device)
        return pad_axes(part, [low - slab.before, *before[1:]], [behind - high, *after[1:]])

    def place(self, labelled: Tensor, slab: Slab, image: Tensor) -> None:
        """Write what a slab's cells have been labelled with, (b c *cells*size), into an image (b c *space)."""
        for axis in range(1, len(self.size)):
            labelled = labelled.narrow(2 + axis, self.offset[axis], self.space[axis])
        start = slab.before + self._halo[0]
        low, high = max(start, 0), min(start + slab.count * self.size[0], self.space[0])
        image[:, :, low:high] = labelled[:, :, low - start : high - start].to(image)
