"""Shifted-window blocks and stages as nnFormer, arXiv:2109.03201, has them; maps are (b d h w c)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference.window_attention import (
    AttentionWithOffsets,
    DirectSkipAttention,
    DirectWindowAttention,
    Size,
    padded,
    shift_mask,
    window_partition,
    window_reverse,
)


def fitted_window(size: Sequence[int], window: int | Size) -> tuple[Size, Size]:
    """Return the window and the shift of shifted blocks for maps of a size.

    Args:
        size: Voxels along each axis.
        window: One number is treated as published: if the shortest axis is not longer, all axes get its length and no
            shift. Of three numbers, each is treated on its own like that.
    """
    if isinstance(window, int):
        fits = min(size) > window
        w, s = (window, window // 2) if fits else (min(size), 0)
        return (w, w, w), (s, s, s)
    each = [(w, w // 2) if length > w else (length, 0) for length, w in zip(size, window, strict=True)]
    (w0, s0), (w1, s1), (w2, s2) = each
    return (w0, w1, w2), (s0, s1, s2)


class DropPath(nn.Module):
    """Zero whole rows of (n ...) with a probability when training, and scale up the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device, dtype=x.dtype) >= self.rate
        return x * kept / (1 - self.rate)


class Mlp(nn.Module):
    """Two linear layers with GELU between, on the last axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class WindowBlock(nn.Module):
    """What blocks have in common: their parts, and how a map is cut into windows.

    Args:
        channels: Feature channels.
        num_heads: Number of heads.
        window: Voxels of a window.
        shift: Voxels that the windows are shifted by.
        drop_path: Rate at which samples leave out a branch.
        quirk: See `relative_position_index`.
    """

    attention: type[AttentionWithOffsets] = DirectWindowAttention

    def __init__(
        self, channels: int, num_heads: int, window: Size, shift: Size, drop_path: float = 0.0, quirk: bool = True
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = self.attention(channels, num_heads, window, quirk)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def to_windows(self, x: Tensor) -> Tensor:
        """Norm, pad at the ends, shift and cut (b d h w c) into ((b windows) l c)."""
        x = self.norm1(x)
        d, h, w = (new - old for new, old in zip(padded(x.shape[1:4], self.window), x.shape[1:4], strict=True))
        if d or h or w:
            x = F.pad(x, (0, 0, 0, w, 0, h, 0, d))
        if any(self.shift):
            x = torch.roll(x, tuple(-s for s in self.shift), dims=(1, 2, 3))
        return window_partition(x, self.window)

    def from_windows(self, windows: Tensor, size: Sequence[int]) -> Tensor:
        """Put windows back where they were, (b *size c)."""
        x = window_reverse(windows, self.window, padded(size, self.window))
        if any(self.shift):
            x = torch.roll(x, self.shift, dims=(1, 2, 3))
        return x[:, : size[0], : size[1], : size[2]].contiguous()

    def mask_of_shift(self, mask: Tensor) -> Tensor | None:
        """Return the stage's mask if it is for this block."""
        return mask if any(self.shift) else None


class SwinBlock(WindowBlock):
    """Attention in windows, then an MLP, each on a residual branch with its norm; (b d h w c) -> the same."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        attended = self.attn(self.to_windows(x), self.mask_of_shift(mask))
        x = x + self.drop_path(self.from_windows(attended, x.shape[1:4]))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SkipBlock(WindowBlock):
    """The same with attention from an upsampled map to the skip, which is also added."""

    attention = DirectSkipAttention

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        attended = self.attn(self.to_windows(x), self.to_windows(skip))
        x = x + skip + self.drop_path(self.from_windows(attended, x.shape[1:4]))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """What stages have in common: blocks at one resolution, with even numbers without shift, with odd ones shifted.

    Args:
        channels: Feature channels.
        size: Voxels of the map along each axis.
        num_heads: Number of heads.
        window: See `fitted_window`.
        drop_path: Rate of each block.
        quirk: See `relative_position_index`.
        downsample: What leads to the next stage of an encoder.
        upsample: What leads to this stage of a decoder.
        options: None here; what the stages of other networks want to know.
    """

    block: type[WindowBlock] = SwinBlock

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        num_heads: int,
        window: int | Size,
        drop_path: Sequence[float],
        quirk: bool = True,
        downsample: nn.Module | None = None,
        upsample: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.size, (self.window, self.shift) = tuple(size), fitted_window(size, window)
        self.blocks = nn.ModuleList(
            self.make_block(number, channels, num_heads, rate, quirk) for number, rate in enumerate(drop_path)
        )
        if downsample is not None:
            self.downsample = downsample
        if upsample is not None:
            self.Upsample = upsample
        self.make_tokens(channels, **options)

    def make_block(self, number: int, channels: int, num_heads: int, drop_path: float, quirk: bool) -> WindowBlock:
        shift = self.shift if number % 2 else (0, 0, 0)
        return self.block(channels, num_heads, self.window, shift, drop_path, quirk)

    def make_tokens(self, channels: int) -> None:
        """Make what a stage has beside its blocks."""

    def mask(self, x: Tensor) -> Tensor:
        return shift_mask(padded(self.size, self.window), self.window, self.shift, x)


class SwinStage(Stage):
    """Shifted-window blocks, (b d h w c) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask(x)
        for block in self.blocks:
            x = block(x, mask)
        return x


class SkipStage(Stage):
    """The first block attends to the skip, all others are shifted."""

    def make_block(self, number: int, channels: int, num_heads: int, drop_path: float, quirk: bool) -> WindowBlock:
        if number == 0:
            return SkipBlock(channels, num_heads, self.window, (0, 0, 0), drop_path, quirk)
        return SwinBlock(channels, num_heads, self.window, self.shift, drop_path, quirk)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        mask = self.mask(x)
        x = self.blocks[0](x, skip)
        for block in self.blocks[1:]:
            x = block(x, mask)
        return x
