"""Maps of FINE: what voxels get in their windows, and what its tokens pay attention to."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from nnunet_attn.architectures.attention_map import Reader
from nnunet_attn.architectures.attention_window import WindowReader, named_stages
from nnunet_attn.architectures.blocks.memory_tokens import MemoryBlock, MemoryStage
from nnunet_attn.architectures.fine import FINE

OWN_ONLY = "only a crop's own sub-volumes take part"
UNREAD = "no later block reads what attention among the tokens of all sub-volumes would give here, so there is none"
NEVER = "with carry=False every stage starts anew, and tokens of sub-volumes outside the crop never reach the output"


class MemoryReader(WindowReader):
    """Reads a block of FINE, a stage for each of its attentions.

    - `NAME`: within windows, at the voxels; the rest of the columns is the tokens'.
    - `NAME-token`: the same, at each window's token; spread over the voxels of the window.
    - `NAME-windows`, `NAME-cells`: among the tokens of the windows and of the crop's sub-volumes, at the one and at the
      other. The first is spread over the windows; the second is a grid of sub-volumes of the whole volume, NaN for
      those that the crop does not reach: they take no part. In maps of a voxel they are 0.
    - `NAME-volume`: among the tokens of all sub-volumes, on that grid.

    Maps of a voxel are rows in the same places: of the voxel's place, then of its window's token, and with `-volume`
    the product of the paper's Fig. 4: from the voxel to its window's token, from there to the crop's sub-volumes, and
    by their rows to all sub-volumes, each step's row made to add up to 1 on what the next one starts from. Heads are
    the last attention's; those of the steps before are averaged.

    Args:
        block: The block.
        name: Name of the block.
        cell: Voxels of a place of its map along each axis.
        stage: The stage of the block, whose input tells the crop's sub-volumes.
        network: The network.
    Source: Themyr et al., arXiv:2210.05313, Eq. 1 and Fig. 4.
    """

    def __init__(self, block: MemoryBlock, name: str, cell: Sequence[int], stage: MemoryStage, network: FINE) -> None:
        self.memory, self.stage = block, stage
        self.grid, self.sub_volume = network.grid, network.geometry.patch_size
        more = ["token"]
        if block.global_attn is not None:
            more += ["windows", "cells"] if stage.has_volume_tokens else ["windows"]
        if stage.has_volume_tokens and block.volume_attn is not None:
            more.append("volume")
        reads_all = any(each.volume_attn is not None for each in stage.blocks if isinstance(each, MemoryBlock))
        self.unread = "" if "volume" in more else UNREAD
        if not network.carry and not reads_all:
            self.unread += f"; {NEVER}"
        super().__init__(block, name, cell, *(f"{name}-{each}" for each in more))

    def attach(self, stack: ExitStack) -> None:
        """Put hooks on every attention of the block, and on its stage."""
        super().attach(stack)
        self.before(stack, self.stage, self._stage)
        if self.memory.global_attn is not None:
            self.before(stack, self.memory.global_attn, self._global)
        if f"{self.name}-volume" in self.stages:
            self.before(stack, self.memory.volume_attn, self._volume)

    def _stage(self, x: Tensor, cells: Tensor | None, *others: Any) -> None:
        self.cells = torch.zeros(0, dtype=torch.long) if cells is None else cells[0]

    def _read(self, weights: Tensor) -> None:
        super()._read(weights)
        count, heads, length, _ = weights.shape
        if self.voxel is None:
            tokens = weights[..., 0].sum(-1)
        else:
            window, token = self.place()
            row = weights[window, :, token, 0]
            tokens = weights.new_zeros(count, heads)
            tokens[window] = row * length
            self.to_token = float(row.mean())
        self.keep(f"{self.name}-token", self._on_windows(tokens))

    def _global(self, x: Tensor, unseen: Tensor | None = None) -> None:
        assert self.memory.global_attn is not None
        weights = self.memory.global_attn.attention_weights(x, unseen)[0]
        own = weights.shape[-1] - self.memory.num_windows
        if self.voxel is None:
            values = weights.sum(-2)
        else:
            values = weights[:, own + self.place()[0]]
            self.to_cells = values[:, :own].mean(0)
            values = values * weights.shape[-1]
        self.keep(f"{self.name}-windows", self._on_windows(values[:, own:].t()))
        if own:
            others = float("nan") if self.voxel is None else 0.0
            on_grid = values.new_full((len(values), len(self.stage.volume_tokens)), others)
            on_grid[:, self.cells] = values[:, :own]
            unread = f"; {self.unread}" if self.unread else ""
            self._keep_of_volume("cells", on_grid, OWN_ONLY + unread)

    def _volume(self, x: Tensor, unseen: Tensor | None = None) -> None:
        assert self.memory.volume_attn is not None
        weights = self.memory.volume_attn.attention_weights(x, unseen)[0]
        missed, count = 0 if unseen is None else int(unseen.sum()), weights.shape[-1]
        note = f"no training crop has reached {missed} of the {count} sub-volumes" if missed else ""
        if self.voxel is None:
            self._keep_of_volume("volume", weights.sum(-2), note)
            return
        share = float(self.to_cells.sum())
        start = self.to_cells / share if share else self.to_cells
        values = torch.einsum("c,hcm->hm", start, weights[:, self.cells]) * weights.shape[-1]
        way = f"this way goes a share of {self.to_token * share:.3g} of the voxel's attention (mean of the heads)"
        self._keep_of_volume("volume", values, f"{way}; {note}" if note else way)

    def _keep_of_volume(self, kind: str, values: Tensor, note: str) -> None:
        """(heads sub-volumes)."""
        found = values.unflatten(1, self.grid)
        self.keep(f"{self.name}-{kind}", found, covers="volume", cell=self.sub_volume, note=note)

    def _on_windows(self, values: Tensor) -> Tensor:
        """Spread a value of each window over its voxels, (windows heads) -> (heads d h w)."""
        voxels = len(self.block.attn.index) + self.block.attn.tokens
        return self.on_map(values[:, :, None].expand(-1, -1, voxels))


def fine_readers(network: FINE) -> list[Reader]:
    """Return what reads the blocks of FINE."""
    return [
        MemoryReader(block, f"{name}-{number}", cell, stage, network)
        for name, stage, cell in named_stages(network)
        for number, block in enumerate(stage.blocks)
    ]
