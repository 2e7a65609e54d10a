"""What a map of attention is, and what reads one off a network while it runs."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

Voxel = tuple[int, ...]


@dataclass(frozen=True)
class AttentionMap:
    """How much attention each place of a coarse grid gets, in units of uniform attention.

    Args:
        stage: Name of the stage; see `attention_stages`.
        weights: (heads *grid), at least 0. A map of columns: sums over the queries of an attention matrix, which add
            up to its number of tokens. A map of a voxel: its rows, which add up to 1, times the number of tokens. So
            1.0 is what uniform attention gives; where all tokens are places of the grid, its mean is 1. NaN in a map
            of columns: the place takes no part for this tile.
        covers: What the grid covers: the tile, or the whole volume, whose sub-volumes lie around its middle.
        note: What a reader of the map should know; empty if nothing.
        cell: Voxels of a place of the grid along each axis; the last one may reach beyond the tile. Empty: the grid
            divides the tile evenly.
        block: Voxels along each axis after which the places of the grid begin anew; empty: never.
    """

    stage: str
    weights: Tensor
    covers: Literal["tile", "volume"] = "tile"
    note: str = ""
    cell: tuple[int, ...] = ()
    block: tuple[int, ...] = ()

    def expanded(self, size: Sequence[int]) -> Tensor:
        """Return the weights of the voxels, (heads *size): those of the place of the grid that holds them.

        Args:
            size: Voxels along each axis of the tile, or of the volume if that is what the map covers.
        """
        found = self.weights
        for axis, voxels in enumerate(size):
            found = found.index_select(1 + axis, self._places(axis, voxels).to(found.device))
        return found

    def place(self, voxel: Sequence[int], size: Sequence[int]) -> Voxel:
        """Return the place of the grid that holds a voxel of a tile, or of a volume, of `size`."""
        return tuple(int(self._places(axis, size[axis])[step]) for axis, step in enumerate(voxel))

    def _places(self, axis: int, size: int) -> Tensor:
        count, cell = self.weights.shape[1 + axis], self.cell[axis] if self.cell else 0
        if self.covers == "volume":
            # twice the distance from the middle of the volume, which is the grid's; the outer places go on for ever
            distance = 2 * torch.arange(size) - (size - 1)
            return ((distance + count * cell) // (2 * cell)).clamp(0, count - 1)
        return places(size, cell, self.block[axis] if self.block else 0) if cell else torch.arange(size) * count // size


def places(size: int, cell: int, block: int = 0) -> Tensor:
    """Return which place of a grid holds each of `size` voxels along an axis; see `cell` and `block` there."""
    steps = torch.arange(size)
    return steps // block * -(-block // cell) + steps % block // cell if block else steps // cell


class Reader:
    """Reads the attention of one place in a network: made for one run of it, then thrown away.

    `wanted` stages, the `tile` and a `voxel`, if maps are to be of one, are set before hooks are put on.

    Args:
        stages: Names of the stages that it can read, in the order the network runs them.
    """

    # whether the network has to run for it
    runs: ClassVar[bool] = True

    def __init__(self, stages: Iterable[str]) -> None:
        self.stages = tuple(stages)
        self.wanted: Collection[str] = ()
        self.voxel: Voxel | None = None
        self.tile: Tensor = torch.empty(0)
        self.found: dict[str, AttentionMap] = {}

    def attach(self, stack: ExitStack) -> None:
        """Put hooks on modules, to be removed with `stack`."""
        raise NotImplementedError

    def finish(self) -> None:
        """Do what is left to do behind the run."""

    def before(self, stack: ExitStack, module: Any, act: Any) -> None:
        """Call `act` with the inputs of a module before each of its runs."""

        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            act(*inputs)

        stack.callback(module.register_forward_pre_hook(hook).remove)

    def behind(self, stack: ExitStack, module: Any, act: Any) -> None:
        """Call `act` with the output of a module behind each of its runs."""

        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            act(output)

        stack.callback(module.register_forward_hook(hook).remove)
