"""An encoder of axial attention blocks with its convolutional decoder: the trunk of every network of the family."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.axial_attention import GatePosition, Variant
from nnunet_attn.architectures.blocks.axial_block import BATCH_NORMS, CONVOLUTIONS, AxialBlock, average_pool
from nnunet_attn.architectures.shapes import AnyMap, Image, ReducedMap

_UPSAMPLING = {2: "bilinear", 3: "trilinear"}


def reduced(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Return the size of a map after a stride, rounded up."""
    return tuple(-(-voxels // step) for voxels, step in zip(size, stride, strict=True))


class AxialStem(nn.Module):
    """Three convolutions ahead of the attention, the first with a stride; each with batch norm and ReLU.

    (b input_channels *space) -> (b channels *ceil(space/stride)), then averaged over cells of `pool` voxels.

    Args:
        input_channels: Channels of the image.
        channels: Channels of the first and of the last convolution.
        inner_channels: Channels of the second convolution.
        stride: Stride of the first convolution, one number per axis.
        pool: Averaging behind the last, one number per axis.
    """

    def __init__(
        self, input_channels: int, channels: int, inner_channels: int, stride: Sequence[int], pool: Sequence[int]
    ) -> None:
        super().__init__()
        convolution, norm = CONVOLUTIONS[len(stride)], BATCH_NORMS[len(stride)]
        # an axis that is not reduced here is a coarse one: a kernel as wide as its neighbours' would reach too far
        kernel = tuple(7 if step > 1 else 3 for step in stride)
        self.conv1 = convolution(
            input_channels, channels, kernel, tuple(stride), tuple(size // 2 for size in kernel), bias=False
        )
        self.bn1 = norm(channels)
        self.conv2 = convolution(channels, inner_channels, 3, padding=1, bias=False)
        self.bn2 = norm(inner_channels)
        self.conv3 = convolution(inner_channels, channels, 3, padding=1, bias=False)
        self.bn3 = norm(channels)
        self.pool = tuple(pool)

    def forward(self, x: Image) -> ReducedMap:
        """Return the features."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return average_pool(F.relu(self.bn3(self.conv3(x))), self.pool)


class AxialBranch(nn.Module):
    """Stem, stages of axial attention blocks, and a decoder that adds the skips and returns to the image's size.

    (b input_channels *space) -> the decoder's maps, finest first: (b features[0] *space), then one map with
    2 * features[i] channels for every stage but the deepest, at that stage's size.

    Args:
        input_channels: Channels of the image.
        image_size: Voxels along each axis that the position tables are made for.
        strides: Reductions per axis: of the stem, of the first block of the 2nd, 3rd .. stage, and last, where there is
            one more, of the convolution below the deepest stage. Without that one the decoder starts at the deepest
            stage.
        features: Attention channels of each stage.
        depths: Blocks of each stage.
        stem_channels: Outer and inner channels of the stem.
        stem_pool: Averaging behind the stem, per axis.
        num_heads: Attention heads.
        variant: See `GatedAxialAttention`.
        gate_position: See `GatedAxialAttention`.
    Source: arXiv:2102.10662, supplement, and its published code: decoder convolutions at the low resolution, then
        linear upsampling, then ReLU, then the skip is added.
    """

    def __init__(
        self,
        input_channels: int,
        image_size: Sequence[int],
        strides: Sequence[Sequence[int]],
        features: Sequence[int],
        depths: Sequence[int],
        stem_channels: Sequence[int],
        stem_pool: Sequence[int],
        num_heads: int,
        variant: Variant,
        gate_position: GatePosition,
    ) -> None:
        super().__init__()
        dims = len(image_size)
        convolution = CONVOLUTIONS[dims]
        self.mode = _UPSAMPLING[dims]
        outer, inner = stem_channels
        self.stem = AxialStem(input_channels, outer, inner, strides[0], stem_pool)
        size = reduced(reduced(image_size, strides[0]), stem_pool)
        self.sizes: list[tuple[int, ...]] = []
        self.stages = nn.ModuleList()
        channels = outer
        for stage, (width, depth) in enumerate(zip(features, depths, strict=True)):
            blocks = []
            for block in range(depth):
                stride = strides[stage] if stage and not block else (1,) * dims
                blocks.append(
                    AxialBlock(
                        channels, width, size, stride, num_heads=num_heads, variant=variant, gate_position=gate_position
                    )
                )
                size, channels = reduced(size, stride), 2 * width
            self.stages.append(nn.Sequential(*blocks))
            self.sizes.append(size)
        below = strides[len(features) :]
        self.decoder = nn.ModuleList(
            convolution(channels, channels, 3, tuple(stride), padding=1) for stride in below[:1]
        )
        self.has_bottom = bool(below)
        for width in reversed(features[:-1]):
            self.decoder.append(convolution(channels, 2 * width, 3, padding=1))
            channels = 2 * width
        self.decoder.append(convolution(channels, features[0], 3, padding=1))

    def forward(self, x: Image) -> list[AnyMap]:
        """Return the decoder's maps, finest first."""
        y = self.stem(x)
        skips: list[Tensor] = []
        for stage in self.stages:
            y = stage(y)
            skips.append(y)
        steps = list(self.decoder)
        if self.has_bottom:
            y = self._up(steps.pop(0)(y), skips[-1]) + skips[-1]
        maps: list[Tensor] = []
        for convolution, skip in zip(steps, reversed(skips[:-1]), strict=False):
            y = self._up(convolution(y), skip) + skip
            maps.insert(0, y)
        return [self._up(steps[-1](y), x), *maps]

    def _up(self, y: Tensor, target: Tensor) -> Tensor:
        return F.relu(F.interpolate(y, size=target.shape[2:], mode=self.mode, align_corners=False))
