"""Maps of global axial self-attention: what the slices of the bottleneck get, spread over them."""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from nnunet_attn.architectures.attention_map import AttentionMap, Reader
from nnunet_attn.architectures.blocks.gasa import GASABlock
from nnunet_attn.architectures.gasa_unet import GASAUNet

_PLACE = "bottleneck"


class GASAReader(Reader):
    """Reads a GASA block: a map for each axis and the mean of them.

    The slices of all axes attend together, so that the column sums of one axis tell how much attention it gets: they
    add up to its number of slices only over all axes.

    Maps of a voxel are the rows of its slice along an axis. A row is of the slices of all axes; a place of the grid
    gets the mean of what its slices get.
    """

    def __init__(self, block: GASABlock, cell: Sequence[int]) -> None:
        self.block, self.cell = block, tuple(cell)
        axes = [f"axis{axis}" for axis in range(len(block.feature_size))]
        super().__init__(f"{_PLACE}-{name}" for name in [*axes, "mean"])

    def attach(self, stack: ExitStack) -> None:
        """Put a hook on the projection of the tokens."""
        self.before(stack, self.block.qkv, self._keep)

    def _keep(self, tokens: Tensor) -> None:
        self.tokens = tokens

    def finish(self) -> None:
        """Make the maps; the projection is not run in its own hook."""
        weights = self.block.attention_weights(self.tokens)[0]
        if self.voxel is None:
            columns = weights.sum(-2).split(self.block.feature_size, -1)
            maps = [self._spread(sums, axis) for axis, sums in enumerate(columns)]
        else:
            rows, first = [], 0
            for step, cell, size in zip(self.voxel, self.cell, self.block.feature_size, strict=True):
                rows.append(weights[:, first + step // cell] * weights.shape[-1])
                first += size
            split = [row.split(self.block.feature_size, -1) for row in rows]
            maps = [
                torch.stack([self._spread(part, axis) for axis, part in enumerate(parts)]).mean(0) for parts in split
            ]
        for name, found in zip(self.stages, [*maps, torch.stack(maps).mean(0)], strict=True):
            self.found[name] = AttentionMap(name, found, cell=self.cell)

    def _spread(self, sums: Tensor, axis: int) -> Tensor:
        """(heads slices) -> (heads *grid)."""
        shape = [size if other == axis else 1 for other, size in enumerate(self.block.feature_size)]
        return sums.unflatten(1, shape).expand(-1, *self.block.feature_size)


def gasa_readers(network: GASAUNet) -> list[Reader]:
    """Return what reads the attention of a GASA U-Net."""
    sizes = zip(network.patch_size, network.gasa.feature_size, strict=True)
    return [GASAReader(network.gasa, [voxels // size for voxels, size in sizes])]
