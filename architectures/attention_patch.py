"""Maps of the patch transformer: what the cells of a grid get from the blocks that slide over them."""

from contextlib import ExitStack

import torch

from nnunet_attn.architectures.attention_map import AttentionMap, Reader
from nnunet_attn.architectures.patch_transformer import PatchTransformer


class PatchReader(Reader):
    """Reads all stages of a patch transformer, `s1`, `s2` and so on, from its grid forward instead of a run.

    Columns are summed over the queries of a block and averaged over the blocks that a cell is in, as published; their
    mean, each counted as often as there are blocks, is 1 together with cells around the tile, which are left out.

    Maps of a voxel are the row of the centre cell, whose output the voxel's label is, in the block around the voxel's
    cell; 0 outside the block. What goes to cells outside the tile is left out.

    Source: Karimi et al., arXiv:2102.13645, Fig. 5.
    """

    runs = False

    def __init__(self, network: PatchTransformer) -> None:
        self.network = network
        super().__init__(f"s{number + 1}" for number in range(network.depth))

    def attach(self, stack: ExitStack) -> None:
        """Put no hooks: the network makes its maps itself."""

    def finish(self) -> None:
        """Make the maps."""
        numbers = [number + 1 for number, stage in enumerate(self.stages) if stage in self.wanted]
        maps = self._columns(numbers) if self.voxel is None else self._rows(numbers, self.voxel)
        for number, weights in zip(numbers, maps, strict=True):
            name = self.stages[number - 1]
            self.found[name] = AttentionMap(name, weights, cell=self.network.patch_embed_size)

    def _columns(self, numbers: list[int]) -> list[torch.Tensor]:
        return self.network.attention_grid(self.tile, stages=numbers)

    def _rows(self, numbers: list[int], voxel: tuple[int, ...]) -> list[torch.Tensor]:
        network = self.network
        sizes = network.patch_embed_size
        cell = tuple(step // size for step, size in zip(voxel, sizes, strict=True))
        grid = [-(-full // size) for full, size in zip(self.tile.shape[2:], sizes, strict=True)]
        sides = [count // 2 for count in network.neighbourhood]
        maps = []
        for weights in network.block_attention(self.tile, cell, stages=numbers):
            tokens = weights.shape[-1]
            row = (weights[:, tokens // 2] * tokens).unflatten(1, network.neighbourhood)
            around = row.new_zeros(len(row), *(count + 2 * side for count, side in zip(grid, sides, strict=True)))
            block = zip(cell, network.neighbourhood, strict=True)
            around[(slice(None), *(slice(first, first + count) for first, count in block))] = row
            inner = (slice(side, side + count) for side, count in zip(sides, grid, strict=True))
            maps.append(around[(slice(None), *inner)])
        return maps


def patch_readers(network: PatchTransformer) -> list[Reader]:
    """Return what reads a patch transformer."""
    return [PatchReader(network)]
