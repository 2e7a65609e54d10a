"""Blocks of window attention on a 3D map, and what lies between the stages of such a network."""

from collections.abc import Iterable, Sequence

import torch
from dynamic_network_architectures.building_blocks.regularization import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.window_attention import (
    WindowAttention,
    from_windows,
    padded_size,
    shift_mask,
    to_windows,
)
from nnunet_attn.architectures.shapes import FeatureMap, VoxelMap

_MLP_RATIO = 4


def fitted_window(
    size: Sequence[int], window: Sequence[int], shifted: bool, quirk: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return window and shift for a map: an axis not longer than the window has one window and no shift.

    Args:
        size: Voxels of the map along each axis.
        window: Wanted voxels of a window.
        shifted: Whether windows are shifted by half their size.
        quirk: As the published code does with cubes: where the shortest axis is not longer than the window, the window
            becomes a cube of that length, and no axis is shifted.
    """
    if quirk and len(set(window)) == 1 and min(size) <= window[0]:
        return (min(size),) * 3, (0, 0, 0)
    window = tuple(min(pair) for pair in zip(size, window, strict=True))
    split = zip(size, window, strict=True)
    return window, tuple(step // 2 if shifted and voxels > step else 0 for voxels, step in split)


class MLP(nn.Module):
    """Two linear layers with a GELU between, (... c) -> (... c), `ratio` times as wide inside."""

    def __init__(self, channels: int, ratio: int = _MLP_RATIO) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token by itself."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and an MLP, each behind a layer norm and beside a shortcut: (b d h w c) -> (b d h w c).

    The map is padded at its ends to multiples of the window, behind the first norm; these voxels take part as keys, as
    published.

    Args:
        channels: Feature channels c.
        num_heads: Attention heads.
        size: Voxels of the map along each axis.
        window: Voxels of a window along each axis; see `fitted_window`.
        shifted: Whether windows are shifted by half their size.
        tokens: Memory tokens of a window; see `WindowAttention`.
        drop_path: Probability that a sample's attention, or its MLP, is left out in training.
        quirk: See `WindowAttention` and `fitted_window`.
    Raises:
        ValueError: If a size is illegal.
    Source: Liu et al., arXiv:2103.14030, in 3D as in Zhou et al., arXiv:2109.03201.
    """

    mask: Tensor | None
    projects_query = True

    def __init__(
        self,
        channels: int,
        num_heads: int,
        size: Sequence[int],
        window: Sequence[int],
        shifted: bool = False,
        tokens: int = 0,
        drop_path: float = 0.0,
        quirk: bool = False,
    ) -> None:
        super().__init__()
        self.size = tuple(size)
        self.window, self.shift = fitted_window(self.size, window, shifted, quirk)
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, num_heads, self.window, tokens, self.projects_query, quirk)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        mask = shift_mask(self.size, self.window, self.shift, tokens) if any(self.shift) else None
        self.register_buffer("mask", mask, persistent=False)

    @property
    def num_windows(self) -> int:
        """Windows of the map."""
        count = 1
        for voxels, step in zip(padded_size(self.size, self.window), self.window, strict=True):
            count *= voxels // step
        return count

    def forward(self, x: VoxelMap) -> VoxelMap:
        """Return the map with what its voxels have learnt from those of their window."""
        windows = to_windows(self.norm1(x), self.window, self.shift)
        return self.add(x, self.attn(windows, self.mask))

    def add(self, x: VoxelMap, windows: Tensor) -> VoxelMap:
        """Add attended windows (b*windows voxels c) to the map they come from, then the MLP's share."""
        x = x + self.drop_path(from_windows(windows, self.size, self.window, self.shift))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SkipAttentionBlock(SwinBlock):
    """A block whose queries are a map as it is and whose keys and values come from the encoder's map of the same size.

    Source: Zhou et al., arXiv:2109.03201, and its published code: one norm for both maps, no projection of the queries,
    both maps on the shortcut.
    """

    projects_query = False

    def forward_pair(self, x: VoxelMap, skip: VoxelMap) -> VoxelMap:
        """Return the sum of both maps with what `x` has learnt from `skip`."""
        query, other = (to_windows(self.norm1(each), self.window, self.shift) for each in (x, skip))
        return self.add(x + skip, self.attn.forward_pair(query, other))


class Stage(nn.Module):
    """Blocks of one map size, under the name that stages with tokens give theirs."""

    def __init__(self, blocks: Iterable[SwinBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class ConvNorm(nn.Module):
    """A 3x3x3 convolution, a GELU and a layer norm over the channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3, triple(stride), 1)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: FeatureMap) -> Tensor:
        """(b c d h w) -> (b channels d' h' w')."""
        return channels_first(self.norm(F.gelu(channels_last(self.conv(x)))))


class PatchEmbedding(nn.Module):
    """Convolutions that take an image to the first stage's map: (b channels d h w) -> (b d' h' w' c).

    Args:
        in_channels: Channels of the image.
        channels: Feature channels c, an even number.
        strides: Reduction per axis of the first and of the third convolution.
    Source: Zhou et al., arXiv:2109.03201.
    """

    def __init__(self, in_channels: int, channels: int, strides: Sequence[Sequence[int]]) -> None:
        super().__init__()
        half = channels // 2
        self.convs = nn.ModuleList(
            [
                ConvNorm(in_channels, half, strides[0]),
                ConvNorm(half, half, (1, 1, 1)),
                ConvNorm(half, channels, strides[1]),
                nn.Conv3d(channels, channels, 3, 1, 1),
            ]
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: FeatureMap) -> Tensor:
        """Return the map, channels last."""
        for conv in self.convs:
            x = conv(x)
        return self.norm(channels_last(x))


class Down(nn.Module):
    """A GELU, a layer norm and a convolution with strides: (b d h w c) -> (b d' h' w' 2c).

    Args:
        channels: Channels c.
        stride: Reduction per axis.
        overlaps: Whether the kernel is 3 with a border of 1; else it is as large as the stride.
    """

    def __init__(self, channels: int, stride: Sequence[int], overlaps: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        kernel, border = ((3, 3, 3), 1) if overlaps else (triple(stride), 0)
        self.conv = nn.Conv3d(channels, 2 * channels, kernel, triple(stride), border)

    def forward(self, x: VoxelMap) -> Tensor:
        """Return the smaller map."""
        return channels_last(self.conv(channels_first(self.norm(F.gelu(x)))))


class Up(nn.Module):
    """A layer norm and a transposed convolution as large as its stride: (b d h w 2c) -> (b d' h' w' c)."""

    def __init__(self, channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels)
        self.conv = nn.ConvTranspose3d(2 * channels, channels, triple(stride), triple(stride))

    def forward(self, x: VoxelMap) -> Tensor:
        """Return the larger map."""
        return channels_last(self.conv(channels_first(self.norm(x))))


def triple(values: Sequence[int]) -> tuple[int, int, int]:
    """Return one number per axis as convolutions want them."""
    first, second, third = values
    return first, second, third


def channels_last(x: Tensor) -> Tensor:
    """(b c d h w) -> (b d h w c)."""
    return x.permute(0, 2, 3, 4, 1)


def channels_first(x: Tensor) -> Tensor:
    """(b d h w c) -> (b c d h w)."""
    return x.permute(0, 4, 1, 2, 3)


def drop_path_rates(most: float, count: int) -> list[float]:
    """Return probabilities from 0 to `most` for blocks in their order."""
    return torch.linspace(0, most, count, device="cpu").tolist()
