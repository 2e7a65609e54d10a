"""Maps of window attention: what the voxels of a map get within their windows."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from nnunet_attn.architectures.attention_map import AttentionMap, Reader
from nnunet_attn.architectures.blocks.swin_block import SkipAttentionBlock, SwinBlock
from nnunet_attn.architectures.blocks.window_attention import from_windows, padded_size, to_windows
from nnunet_attn.architectures.swin_network import SwinNetwork

PADDED = "the map is padded to whole windows; the padding takes part as in the network, and what it gets is left out"


class WindowReader(Reader):
    """Reads a block of window attention: the windows' columns at their voxels, where those were before the shift.

    Voxels that a shift has brought side by side pay no attention to each other. Padding behind the map's ends is a key,
    and also a query, of its window as in the network; its columns are left out, so that the mean of a padded map is not
    quite 1. A block that attends to a skip shows what the voxels of the skip get.

    Maps of a voxel are its place's row, at the voxels of its window; 0 outside.

    Args:
        block: The block.
        name: Name of its stage.
        cell: Voxels of a place of its map along each axis.
    """

    def __init__(self, block: SwinBlock, name: str, cell: Sequence[int], *more: str) -> None:
        self.block, self.name, self.cell = block, name, tuple(cell)
        self.note = PADDED if padded_size(block.size, block.window) != block.size else ""
        self.pair: list[Tensor] = []
        super().__init__([name, *more])

    def attach(self, stack: ExitStack) -> None:
        """Put a hook on the attention; one that reads a pair of maps, on the norm of both."""
        if isinstance(self.block, SkipAttentionBlock):
            self.behind(stack, self.block.norm1, self._pair)
        else:
            self.before(stack, self.block.attn, self._windows)

    def _pair(self, normed: Tensor) -> None:
        self.pair.append(to_windows(normed, self.block.window, self.block.shift))
        if len(self.pair) == 2:
            self._read(self.block.attn.attention_weights(self.pair[0], None, self.pair[1]))
            self.pair.clear()

    def _windows(self, x: Tensor, mask: Tensor | None = None) -> None:
        self._read(self.block.attn.attention_weights(x, mask))

    def _read(self, weights: Tensor) -> None:
        """(windows heads query key)."""
        if self.voxel is None:
            columns = weights.sum(-2)
        else:
            window, token = self.place()
            columns = torch.zeros_like(weights[:, :, 0])
            columns[window] = weights[window, :, token] * weights.shape[-1]
        self.keep(self.name, self.on_map(columns))

    def place(self) -> tuple[int, int]:
        """Return the window of the voxel, and its token in it."""
        assert self.voxel is not None
        block, places = self.block, torch.zeros(1, *self.block.size, 1)
        places[(0, *(step // cell for step, cell in zip(self.voxel, self.cell, strict=True)))] = 1
        window, token = to_windows(places, block.window, block.shift)[..., 0].nonzero()[0].tolist()
        return window, token + block.attn.tokens

    def on_map(self, values: Tensor) -> Tensor:
        """Put values of windows' tokens (windows heads tokens) to the voxels they stand for, (heads d h w)."""
        voxels = values[:, :, self.block.attn.tokens :].transpose(1, 2).contiguous()
        return from_windows(voxels, self.block.size, self.block.window, self.block.shift)[0].movedim(-1, 0)

    def keep(self, name: str, weights: Tensor, **more: Any) -> None:
        """Keep a map under its name, if it is wanted."""
        if name in self.wanted:
            self.found[name] = AttentionMap(name, weights, **{"cell": self.cell, "note": self.note, **more})


def named_stages(network: SwinNetwork) -> list[tuple[str, Any, tuple[int, ...]]]:
    """Return name, module and cell of a network's stages as it runs them: the encoder's, then the decoder's."""
    encoder, decoder = list(network.encoder), list(network.decoder.stages)
    sizes = network.geometry.sizes
    names = [f"encoder-{number}" for number in range(len(encoder))]
    names += [f"decoder-{number}" for number in range(len(decoder))]
    each = zip(names, [*encoder, *decoder], [*sizes, *sizes[-2::-1]], strict=True)
    return [
        (name, stage, tuple(full // own for full, own in zip(network.geometry.padded, size, strict=True)))
        for name, stage, size in each
    ]


def window_readers(network: SwinNetwork) -> list[Reader]:
    """Return what reads the blocks of a network of window attention."""
    return [
        WindowReader(block, f"{name}-{number}", cell)
        for name, stage, cell in named_stages(network)
        for number, block in enumerate(stage.blocks)
    ]
