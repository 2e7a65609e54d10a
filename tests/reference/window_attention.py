"""Attention in windows with relative positions, as shifted-window transformers are published, for volumes."""

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int, int]


def relative_position_index(window: Size, quirk: bool = True) -> Tensor:
    """Return the row of the table for each query and key of a window, (l l), l row-major over the axes.

    Args:
        window: Voxels of the window along each axis.
        quirk: Whether the rows of an axis lie as far apart as in nnFormer's code, for a window w^3 3w - 1, 2w - 1, 1,
            and not (2w - 1)^2, 2w - 1, 1, so that offsets share rows. For other windows the axes behind stand for w,
            and the first stride is at most the right one: then all rows are in the table.
    """
    w1, w2 = window[1:]
    first = min(3 * w1 - 1, (2 * w1 - 1) * (2 * w2 - 1)) if quirk else (2 * w1 - 1) * (2 * w2 - 1)
    strides = (first, 2 * w2 - 1, 1)
    places = torch.stack(torch.meshgrid(*map(torch.arange, window), indexing="ij")).flatten(1)  # 3 l
    offsets = places[:, :, None] - places[:, None, :]
    rows = [(offset + w - 1) * stride for offset, w, stride in zip(offsets, window, strides, strict=True)]
    return torch.stack(rows).sum(dim=0)


def window_partition(x: Tensor, window: Size) -> Tensor:
    """Cut (b d h w c) into windows ((b windows) l c), both row-major; each axis is a multiple of the window's."""
    b, d, h, w, c = x.shape
    x = x.view(b, d // window[0], window[0], h // window[1], window[1], w // window[2], window[2], c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, window[0] * window[1] * window[2], c)


def window_reverse(windows: Tensor, window: Size, size: Sequence[int]) -> Tensor:
    """Put windows ((b windows) l c) back to (b *size c)."""
    d, h, w = size
    x = windows.view(-1, d // window[0], h // window[1], w // window[2], *window, windows.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, d, h, w, windows.shape[-1])


def padded(size: Sequence[int], window: Size) -> tuple[int, ...]:
    """Return the size with each axis rounded up to a multiple of the window."""
    return tuple(-(-length // w) * w for length, w in zip(size, window, strict=True))


def shift_mask(size: Sequence[int], window: Size, shift: Size, like: Tensor) -> Tensor:
    """Return what is added to the similarities of shifted windows, (windows l l): -100 between regions, else 0.

    Args:
        size: Of the whole map, padded to multiples of the window.
        window: Voxels of a window.
        shift: Voxels that the map was rolled by; an axis without shift is one region.
        like: Tensor on whose device and in whose dtype the mask is made.
    """
    regions = torch.zeros(1, *size, 1, device=like.device, dtype=like.dtype)
    slices = [
        (slice(0, -w), slice(-w, -s), slice(-s, None)) if s else (slice(None),)
        for w, s in zip(window, shift, strict=True)
    ]
    for number, (a, b, c) in enumerate(product(*slices)):
        regions[:, a, b, c, :] = number
    labels = window_partition(regions, window).squeeze(-1)
    other = labels[:, :, None] - labels[:, None, :]
    return torch.zeros_like(other).masked_fill(other != 0, -100.0)


def split_heads(x: Tensor, kinds: int, num_heads: int) -> tuple[Tensor, ...]:
    """Cut packed projections (n l (kinds heads e)) into `kinds` tensors (n heads l e)."""
    n, length, channels = x.shape
    return x.view(n, length, kinds, num_heads, channels // kinds // num_heads).permute(2, 0, 3, 1, 4).unbind(0)


class AttentionWithOffsets(nn.Module):
    """What attention in windows has in common: a table of relative positions, and all but queries, keys and values.

    Args:
        channels: Feature channels c.
        num_heads: Number of heads.
        window: Voxels of a window along each axis, or one number for all.
        quirk: See `relative_position_index`.
    """

    def __init__(self, channels: int, num_heads: int, window: int | Size, quirk: bool = True) -> None:
        super().__init__()
        self.window: Size = (window, window, window) if isinstance(window, int) else window
        self.num_heads, self.scale = num_heads, (channels // num_heads) ** -0.5
        rows = 1
        for w in self.window:
            rows *= 2 * w - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        index = relative_position_index(self.window, quirk)
        self.register_buffer("relative_position_index", index, persistent=False)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, tokens: int = 0) -> Tensor:
        """Attend with (n heads t+l e) and project: (n t+l c)."""
        n, heads, length, width = q.shape
        similarity = (q * self.scale) @ k.transpose(-2, -1)
        voxels = length - tokens
        index = self.get_buffer("relative_position_index").view(-1)
        bias = self.relative_position_bias_table[index].view(voxels, voxels, heads).permute(2, 0, 1).contiguous()
        if tokens:
            bias = F.pad(bias, (tokens, 0, tokens, 0))
        similarity = similarity + bias.unsqueeze(0)
        if mask is not None:
            if tokens:
                mask = F.pad(mask, (tokens, 0, tokens, 0))
            windows = mask.shape[0]
            similarity = similarity.view(n // windows, windows, heads, length, length) + mask.unsqueeze(1).unsqueeze(0)
            similarity = similarity.view(n, heads, length, length)
        attention = similarity.softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(n, length, heads * width))


class DirectWindowAttention(AttentionWithOffsets):
    """Self-attention in windows, ((b windows) t+l c) -> the same; t memory tokens are in front of the l voxels.

    The state dict has the published names.

    Args:
        channels: See `AttentionWithOffsets`, as for what follows.
        num_heads: See there.
        window: See there.
        quirk: See there.
    """

    def __init__(self, channels: int, num_heads: int, window: int | Size, quirk: bool = True) -> None:
        super().__init__(channels, num_heads, window, quirk)
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor, mask: Tensor | None = None, tokens: int = 0) -> Tensor:
        """Attend.

        Args:
            x: Windows, all those of the first sample first.
            mask: Added to the similarities of the voxels, (windows l l).
            tokens: Memory tokens t; they have no relative positions and are never masked.
        """
        q, k, v = split_heads(self.qkv(x), 3, self.num_heads)
        return self.attend(q, k, v, mask, tokens)


class DirectSkipAttention(AttentionWithOffsets):
    """Attention of windows of an upsampled map to those of the skip; queries are not projected.

    Args:
        channels: See `AttentionWithOffsets`, as for what follows.
        num_heads: See there.
        window: See there.
        quirk: See there.
    """

    def __init__(self, channels: int, num_heads: int, window: int | Size, quirk: bool = True) -> None:
        super().__init__(channels, num_heads, window, quirk)
        self.kv = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Attend from x to the skip, both ((b windows) l c)."""
        (q,) = split_heads(x, 1, self.num_heads)
        k, v = split_heads(self.kv(skip), 2, self.num_heads)
        return self.attend(q, k, v)


class DirectAttention(nn.Module):
    """Plain self-attention over (b m c) with an optional addition to the similarities to each key, (m,)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (channels // num_heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = split_heads(self.qkv(x), 3, self.num_heads)
        similarity = (q * self.scale) @ k.transpose(-2, -1)
        if mask is not None:
            similarity = similarity + mask
        return self.proj((similarity.softmax(dim=-1) @ v).transpose(1, 2).reshape(x.shape))
