"""Maps of axial attention: what the places of every line get, layer by layer, or a voxel through a block's layers."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from nnunet_attn.architectures.attention_map import AttentionMap, Reader, places
from nnunet_attn.architectures.axial_network import AxialNetwork
from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention
from nnunet_attn.architectures.blocks.axial_block import AxialBlock
from nnunet_attn.architectures.blocks.axial_branch import AxialBranch, reduced
from nnunet_attn.architectures.blocks.grid import from_cells, to_cells
from nnunet_attn.architectures.mat import MAT

# Similarities held at once, 64 MiB in float32.
_CHUNK_ELEMENTS = 2**24
_AXES = {2: ("height", "width"), 3: ("depth", "height", "width")}
# How a network's branches are called, whether on the whole image or on the cells of a grid.
_BRANCHES = {"branch": "encoder", "global_branch": "global", "local_branch": "local"}


class AxialReader(Reader):
    """Reads a block of axial attention, a stage for each of its layers.

    Maps of a voxel are those of its place through the layers of the block up to the named one, in the order they run:
    of the second of two, A_second(voxel, j) x A_first(j, i), which is a map and no more a line. Heads are the named
    layer's; those of the layers before are averaged, as every head reads all of them.

    Args:
        block: The block.
        name: Name of the block, to which a stage adds its axis.
        cell: Voxels of a place of its map along each axis.
        grid: Cells of the image along each axis where the block works on cells folded into the batch; else None.
    """

    def __init__(self, block: AxialBlock, name: str, cell: Sequence[int], grid: Sequence[int] | None = None) -> None:
        self.layers: list[Any] = list(block.layers)
        self.cell, self.grid = tuple(cell), None if grid is None else tuple(grid)
        self.inputs: list[Tensor] = []
        super().__init__(f"{name}-{_AXES[len(self.cell)][layer.axis]}" for layer in self.layers)

    def attach(self, stack: ExitStack) -> None:
        """Put hooks on the layers, up to the last whose map is wanted."""
        last = max(number for number, stage in enumerate(self.stages) if stage in self.wanted)
        for layer in self.layers[: last + 1]:
            self.before(stack, layer, self._read)

    def _read(self, x: Tensor) -> None:
        """(cells c *space), the input of the next layer."""
        self.inputs.append(x)
        name = self.stages[len(self.inputs) - 1]
        if name not in self.wanted:
            return
        weights = self._columns() if self.voxel is None else self._rows()
        self.found[name] = AttentionMap(name, self._whole(weights), cell=self.cell, block=self._block)

    def _columns(self) -> Tensor:
        """Return what the places get in the newest layer, (cells heads *space)."""
        layer, x = self.layers[len(self.inputs) - 1], self.inputs[-1]
        sums = [layer.attention_weights(chunk).sum(-2) for chunk in _chunks(lines_of(x, layer.axis), layer)]
        return space_of(torch.cat(sums), x, layer.axis)

    def _rows(self) -> Tensor:
        """Return what the voxel's place attends to through the layers so far, (cells heads *space)."""
        newest = self.inputs[-1]
        weights = self._of_voxel(newest)
        for layer, x in reversed(list(zip(self.layers, self.inputs, strict=False))):
            # times the length: uniform attention along a line is 1
            weights = _carried_back(layer, x, weights, x is newest) * x.shape[2 + layer.axis]
        return weights

    def _of_voxel(self, x: Tensor) -> Tensor:
        """Return 1 at the voxel's place and 0 elsewhere, (cells 1 *space)."""
        assert self.voxel is not None
        whole = self._whole(torch.zeros_like(x[:, :1], dtype=torch.promote_types(x.dtype, torch.float32)))
        blocks = self._block or (0,) * len(self.voxel)
        axes = zip(self.voxel, self.tile.shape[2:], self.cell, blocks, strict=True)
        whole[(0, *(int(places(size, cell, block)[step]) for step, size, cell, block in axes))] = 1
        return whole[None] if self.grid is None else to_cells(whole[None], self.grid)

    @property
    def _block(self) -> tuple[int, ...]:
        return () if self.grid is None else reduced(self.tile.shape[2:], self.grid)

    def _whole(self, maps: Tensor) -> Tensor:
        """(cells heads *space) -> (heads *grid), the cells at their place."""
        if self.grid is None:
            return maps[0]
        return from_cells(maps, self.grid, [a * b for a, b in zip(self.grid, maps.shape[2:], strict=True)])[0]


def lines_of(x: Tensor, axis: int) -> Tensor:
    """Return the lines of a map along a spatial axis, (b c *space) -> (lines c length)."""
    return x.movedim((1, 2 + axis), (-2, -1)).flatten(0, -3)


def space_of(lines: Tensor, like: Tensor, axis: int) -> Tensor:
    """Put lines back to a map, (lines heads length) -> (b heads *space); `like` is (b c *space)."""
    others = like.movedim((1, 2 + axis), (-2, -1)).shape[:-2]
    return lines.unflatten(0, others).movedim((-2, -1), (1, 2 + axis))


def _chunks(lines: Tensor, layer: GatedAxialAttention) -> Iterator[Tensor]:
    yield from lines.split(max(1, _CHUNK_ELEMENTS // (layer.num_heads * lines.shape[-1] ** 2)))


def _carried_back(layer: GatedAxialAttention, x: Tensor, weights: Tensor, every_head: bool) -> Tensor:
    """Carry weights of a layer's outputs to its inputs x (b c *space): (b h *space) -> (b heads or h *space)."""
    lines, given = lines_of(x, layer.axis), lines_of(weights, layer.axis)
    used = given.flatten(1).any(1).nonzero()[:, 0]
    found = given.new_zeros(len(given), layer.num_heads if every_head else given.shape[1], given.shape[2])
    start = 0
    for chunk in _chunks(lines[used], layer):
        own = used[start : start + len(chunk)]
        attention = layer.attention_weights(chunk)
        if every_head:
            found[own] = (given[own][:, :, None] @ attention)[:, :, 0]
        else:
            found[own] = given[own] @ attention.mean(1)
        start += len(chunk)
    return space_of(found, x, layer.axis)


def branch_readers(branch: AxialBranch, name: str, grid: Sequence[int] | None = None) -> Iterator[Reader]:
    """Yield what reads the blocks of a branch; `grid` for a branch on the cells of one."""
    cell = [a * b for a, b in zip(_numbers(branch.stem.conv1.stride), branch.stem.pool, strict=True)]
    for stage, blocks in enumerate(branch.stages):
        for number, block in enumerate(blocks.children()):
            assert isinstance(block, AxialBlock)
            yield AxialReader(block, f"{name}-{stage}-{number}", cell, grid)
            cell = [voxels * step for voxels, step in zip(cell, block.stride, strict=True)]


def axial_readers(network: AxialNetwork) -> list[Reader]:
    """Return what reads the attention of a network of branches, the global one's before the local one's."""
    readers: list[Reader] = []
    for attribute, name in _BRANCHES.items():
        branch = getattr(network, attribute, None)
        if branch is not None:
            readers += branch_readers(branch, name, getattr(network, "grid", None) if name == "local" else None)
    return readers


def mat_readers(network: MAT) -> list[Reader]:
    """Return what reads the block at the bottleneck of a U-Net."""
    cell = [1] * (network.bottleneck.down.weight.ndim - 2)
    for stride in network.encoder.strides:
        cell = [voxels * step for voxels, step in zip(cell, _per_axis(stride, len(cell)), strict=True)]
    return [AxialReader(network.bottleneck, "bottleneck", cell)]


def _per_axis(stride: Any, axes: int) -> Sequence[int]:
    return [stride] * axes if isinstance(stride, int) else stride


def _numbers(values: Sequence[Any]) -> list[int]:
    return [int(value) for value in values]
