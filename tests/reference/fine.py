"""FINE, arXiv:2210.05313, as released: what does not reach the output is here too, with the published names."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.reference.nnformer import DirectOldNNFormer
from tests.reference.swin import Stage, WindowBlock
from tests.reference.window_attention import DirectAttention, padded


def cell_grid(extent: Sequence[int], crop: Sequence[int]) -> tuple[int, int]:
    """Return the cells along the last two axes: as many crops as fit; along the first there is one."""
    return extent[1] // crop[1], extent[2] // crop[2]


def cells_of_crop(position: Sequence[float], extent: Sequence[int], crop: Sequence[int]) -> list[int]:
    """Return the numbers of the 2 x 2 cells that a crop is said to lie in, in the published order.

    Beyond the upper end of the grid, where the published network takes the first cell, these are the last two.

    Args:
        position: Centre of the crop minus centre of the volume, in voxels.
        extent: Voxels of the volume along each axis.
        crop: Voxels of the crop along each axis.
    """
    pairs, grid = [], cell_grid(extent, crop)
    for axis, n in zip((1, 2), grid, strict=True):
        p, length, size = position[axis], extent[axis], crop[axis]
        assert n >= 2, f"axis {axis}: the volume of {length} voxels has to hold two crops of {size}"
        rest = length - n * size
        pad = rest // 2 + rest % 2
        first = int((p + length // 2 - pad - size // 2) // size)
        first = min(max(first, 0), n - 1)
        pairs.append((first, first + 1 if first + 1 < n else first - 1))
    rows, columns = pairs
    return [row * grid[1] + column for column in columns for row in rows]


class FINEBlock(WindowBlock):
    """A Swin block whose windows have a token each, which meet each other and tokens of the volume.

    Args:
        arguments: See `WindowBlock`.
    """

    def __init__(self, channels: int, num_heads: int, *arguments: Any) -> None:
        super().__init__(channels, num_heads, *arguments)
        self.gt_attn = DirectAttention(channels, num_heads)
        self.vt_attn = DirectAttention(channels, num_heads)

    def forward(
        self, x: Tensor, mask: Tensor, v: Tensor, w: Tensor, pe: Tensor, cells: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the map and both kinds of tokens.

        Args:
            x: Map, (b d h w c).
            mask: Of shifted windows.
            v: Window tokens, (b n c).
            w: Volume tokens, (b m c).
            pe: What is added to window tokens that meet, (n c).
            cells: Volume tokens of each crop, (b 4).
            seen: Volume tokens that may be attended to, (m,).
        """
        b, n, c = v.shape
        tokens = v.reshape(b * n, 1, c)
        attended = self.attn(torch.cat([tokens, self.to_windows(x)], dim=1), self.mask_of_shift(mask), tokens=1)
        x = x + self.drop_path(self.from_windows(attended[:, 1:], x.shape[1:4]))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        tokens = tokens + self.drop_path(attended[:, :1])
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        v = tokens.view(b, n, c)

        index = cells.unsqueeze(-1).expand(-1, -1, c)
        met = self.gt_attn(torch.cat([w.gather(1, index), v + pe], dim=1))
        near, v = met[:, : cells.shape[1]], met[:, cells.shape[1] :]
        w = w.scatter_add(1, index, near.to(w.dtype))

        unseen = torch.zeros(len(seen), device=w.device, dtype=w.dtype).masked_fill(~seen, -1000.0)
        return x, v, self.vt_attn(w, unseen)


class DirectFINEStage(Stage):
    """Blocks at one resolution with tokens that start from parameters here.

    Args:
        arguments: See `Stage`; its options are `n_cells`, the number m of volume tokens, and `pe_rows`, those of
            the table of window positions if it has more rows than there are windows: then the middle is used.
    """

    block = FINEBlock

    def make_tokens(self, channels: int, n_cells: int = 25, pe_rows: int | None = None) -> None:
        self.n_windows = 1
        for length, w in zip(padded(self.size, self.window), self.window, strict=True):
            self.n_windows *= length // w
        self.global_token = nn.Parameter(torch.randn(1, channels))
        self.volume_token = nn.Parameter(torch.randn(n_cells, channels))
        self.pe = nn.Parameter(torch.zeros(pe_rows or self.n_windows, channels))
        nn.init.trunc_normal_(self.pe, std=0.02)

    def states(self, x: Tensor, cells: Tensor, seen: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return map (b d h w c), window tokens (b n c) and volume tokens (b m c) after each block.

        Args:
            x: Map.
            cells: See `FINEBlock`.
            seen: See `FINEBlock`.
        """
        mask, states = self.mask(x), []
        v = self.global_token.expand(len(x), self.n_windows, -1)
        w = self.volume_token.expand(len(x), -1, -1)
        start = len(self.pe) // 2 - self.n_windows // 2
        pe = self.pe[start : start + self.n_windows]
        for block in self.blocks:
            x, v, w = block(x, mask, v, w, pe, cells, seen)
            states.append((x, v, w))
        return states

    def forward(self, x: Tensor, cells: Tensor, seen: Tensor) -> Tensor:
        return self.states(x, cells, seen)[-1][0]


class DirectFINE(DirectOldNNFormer):
    """FINE; (b input_channels *crop) and positions (b 3) -> logits of the two finest heads.

    Args:
        extent: Voxels of the volume that the cells divide.
        pe_rows: Rows of the tables of window positions in the decoder's stages, finest first; by default as many as
            there are windows.
        arguments: See `DirectOldNNFormer`.
    """

    published_source = "fine"
    encoder_stage = decoder_stage = DirectFINEStage

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        crop: Sequence[int] = (64, 128, 128),
        *arguments: Any,
        extent: Sequence[int] = (218, 660, 660),
        pe_rows: Sequence[int] | None = None,
        **keywords: Any,
    ) -> None:
        self.crop, self.extent, self.pe_rows = crop, extent, pe_rows
        rows, columns = cell_grid(extent, crop)
        self.n_cells = rows * columns
        super().__init__(input_channels, num_classes, crop, *arguments, **keywords)
        self.vt_check = nn.Parameter(torch.zeros(self.n_cells, 1), requires_grad=False)

    def stage_options(self, number: int, decoder: bool) -> dict[str, Any]:
        return {"n_cells": self.n_cells, "pe_rows": self.pe_rows[number] if decoder and self.pe_rows else None}

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor | list[Tensor]:
        """Return the logits; the counter of each crop's cells goes up by one, in prediction as well.

        Args:
            x: Crops.
            position: Their centres minus the centre of the volume, in voxels; by default 0.
        """
        centres = [[0.0] * 3] * len(x) if position is None else position.tolist()
        cells = torch.tensor([cells_of_crop(p, self.extent, self.crop) for p in centres], device=x.device)
        with torch.no_grad():
            self.vt_check[cells.flatten().unique()] += 1
        logits = self.decode(x, cells, self.vt_check.squeeze(1) >= 1)[: self.returned]
        return logits if self.deep_supervision else logits[0]
