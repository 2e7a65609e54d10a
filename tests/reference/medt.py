"""MedT, LoGo and the axial U-Nets of arXiv:2102.10662 in plain PyTorch, with the published names of all tensors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from nnunet_attn.architectures.build import PlannedUNet
from tests.reference.axial_attention import DirectAxialAttention

# Variants of the attention in the global branch and, where there is one, in the local branch
KINDS = {
    "axialunet": ("plain", None),
    "gatedaxialunet": ("gated", None),
    "logo": ("plain", "plain"),
    "medt": ("gated", "no_position"),
}
_DECODERS = {4: (1, 2, 3, 4, 5), 2: (4, 5)}  # number of stages: numbers of the decoder convolutions


class AxialBlock(nn.Module):
    """Bottleneck with attention along the height, then the width; (b c h w) -> (b 2*width h/stride w/stride)."""

    def __init__(
        self,
        input_channels: int,
        width: int,
        size: Sequence[int],
        stride: int,
        num_heads: int,
        variant: str,
        gate_position: str,
    ) -> None:
        super().__init__()
        self.conv_down = nn.Conv2d(input_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.hight_block = DirectAxialAttention(width, 0, size[0], num_heads, variant, gate_position)
        self.width_block = DirectAxialAttention(width, 1, size[1], num_heads, variant, gate_position, stride)
        self.conv_up = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.downsample: nn.Module | None = None
        if stride != 1 or input_channels != 2 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(input_channels, 2 * width, 1, stride, bias=False), nn.BatchNorm2d(2 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv_down(x)))
        y = F.relu(self.width_block(self.hight_block(y)))
        y = self.bn2(self.conv_up(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class DirectNetwork(nn.Module):
    """One of the four networks; (b input_channels h w) -> logits (b num_classes h w).

    Sizes that do not halve evenly are rounded up; the image of the local branch is padded with zeros, at its end, to a
    multiple of the grid, and its result is cropped.

    Args:
        kind: "axialunet", "gatedaxialunet", "logo" or "medt".
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        image_size: Height and width.
        features: Widths of the blocks of each stage; they put out twice as many channels.
        depths: Blocks of each stage.
        num_heads: Heads of every attention.
        stem_channels: Channels of the stem, outside and inside.
        local_stem: Outer channels of the local branch's stem.
        gate_position: Where the gates are, "pre_norm" or "post_norm".
        grid: Patches of the local branch along each axis; by default as many of 4, 2 or 1 as leave 32 voxels each.
        patch_by_patch: Run the local branch for one position of the grid after another, as published, so that each
            normalises on its own when training and updates the running statistics.
    """

    def __init__(
        self,
        kind: str,
        input_channels: int,
        num_classes: int,
        image_size: Sequence[int],
        features: Sequence[int] = (16, 32, 64, 128),
        depths: Sequence[int] = (1, 2, 4, 1),
        num_heads: int = 8,
        stem_channels: Sequence[int] = (8, 128),
        local_stem: int = 64,
        gate_position: str = "pre_norm",
        grid: Sequence[int] | None = None,
        patch_by_patch: bool = False,
    ) -> None:
        super().__init__()
        assert len(image_size) == 2, f"these networks are for images, got the size {tuple(image_size)}"
        variant, local_variant = KINDS[kind]
        self.published_source = kind  # whose state dict this one's is, for `published.load_published_weights`
        self.depths, self.features, self.patch_by_patch = tuple(depths), tuple(features), patch_by_patch
        self.num_heads, self.gate_position = num_heads, gate_position
        self.has_local = local_variant is not None
        n_stages = 2 if self.has_local else 4
        self._add_branch("", n_stages, variant, image_size, input_channels, stem_channels)
        self.adjust = nn.Conv2d(features[0], num_classes, 1)
        if local_variant is not None:
            self.grid = tuple(grid or (next(n for n in (4, 2, 1) if size >= 32 * n or n == 1) for size in image_size))
            patch = [-(-size // n) for size, n in zip(image_size, self.grid, strict=True)]
            self._add_branch("_p", 4, local_variant, patch, input_channels, (local_stem, stem_channels[1]))
            self.decoderf = nn.Conv2d(features[0], features[0], 3, padding=1)

    def _add_branch(
        self, suffix: str, n_stages: int, variant: str, size: Sequence[int], channels: int, stem: Sequence[int]
    ) -> None:
        outer, inner = stem
        self.add_module(f"conv1{suffix}", nn.Conv2d(channels, outer, 7, 2, padding=3, bias=False))
        self.add_module(f"conv2{suffix}", nn.Conv2d(outer, inner, 3, padding=1, bias=False))
        self.add_module(f"conv3{suffix}", nn.Conv2d(inner, outer, 3, padding=1, bias=False))
        for number, width in enumerate((outer, inner, outer), start=1):
            self.add_module(f"bn{number}{suffix}", nn.BatchNorm2d(width))
        channels, size = outer, _half(size)
        for stage in range(n_stages):
            width, blocks = self.features[stage], []
            for block in range(self.depths[stage]):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(AxialBlock(channels, width, size, stride, self.num_heads, variant, self.gate_position))
                channels, size = 2 * width, size if stride == 1 else _half(size)
            self.add_module(f"layer{stage + 1}{suffix}", nn.Sequential(*blocks))
        f = self.features
        widths = {1: (2 * f[3], 2 * f[3]), 2: (2 * f[3], 2 * f[2]), 3: (2 * f[2], 2 * f[1])}
        widths |= {4: (2 * f[1], 2 * f[0]), 5: (2 * f[0], f[0])}
        for number in _DECODERS[n_stages]:
            convolution = nn.Conv2d(*widths[number], 3, 2 if number == 1 else 1, padding=1)
            self.add_module(f"decoder{number}{suffix}", convolution)

    def _branch(self, image: Tensor, suffix: str, n_stages: int) -> Tensor:
        x = image
        for number in (1, 2, 3):
            convolution, norm = getattr(self, f"conv{number}{suffix}"), getattr(self, f"bn{number}{suffix}")
            x = F.relu(norm(convolution(x)))
        encoded = []
        for stage in range(n_stages):
            x = getattr(self, f"layer{stage + 1}{suffix}")(x)
            encoded.append(x)
        added = [*encoded[::-1], None] if n_stages == 4 else [encoded[0], None]
        for number, skip in zip(_DECODERS[n_stages], added, strict=True):
            x = getattr(self, f"decoder{number}{suffix}")(x)
            size = (image if skip is None else skip).shape[2:]
            x = F.relu(F.interpolate(x, size, mode="bilinear", align_corners=False))
            x = x if skip is None else x + skip
        return x

    def _local(self, image: Tensor) -> Tensor:
        (height, width), (rows, columns) = image.shape[2:], self.grid
        image = F.pad(image, (0, -width % columns, 0, -height % rows))
        patches = rearrange(image, "b c (i h) (j w) -> (i j b) c h w", i=rows, j=columns)
        if self.patch_by_patch:
            x = torch.cat([self._branch(patch, "_p", 4) for patch in patches.chunk(rows * columns)])
        else:
            x = self._branch(patches, "_p", 4)
        return rearrange(x, "(i j b) c h w -> b c (i h) (j w)", i=rows, j=columns)[:, :, :height, :width]

    def forward(self, image: Tensor) -> Tensor:
        if self.has_local:
            x = self._branch(image, "", 2) + self._local(image)
            x = F.relu(self.decoderf(x))
        else:
            x = self._branch(image, "", 4)
        return self.adjust(F.relu(x))


def direct_network(
    kind: str, plan: PlannedUNet, input_channels: int, num_classes: int, patch_by_patch: bool = True
) -> DirectNetwork:
    """Build a network for a 2D plan: what a file for `nnunet_attn.benchmark.speed --reference` has to build.

    Args:
        kind: See `DirectNetwork`, like what follows.
        plan: Its patch is the image.
        input_channels: See there.
        num_classes: See there.
        patch_by_patch: See there.
    Raises:
        ValueError: If the plan is not for 2D.
    """
    if len(plan.patch_size) != 2:
        raise ValueError(f"the reference is for 2D, got the patch size {plan.patch_size}; choose a 2D topology")
    return DirectNetwork(kind, input_channels, num_classes, plan.patch_size, patch_by_patch=patch_by_patch)


def _half(size: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-length // 2) for length in size)
