"""The residual block of axial attention: 1x1 down, attention along every axis in turn, 1x1 up."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention, GatePosition, Variant
from nnunet_attn.architectures.shapes import FeatureMap, ReducedMap

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
# In 2D height before width as published; in 3D height, width, depth.
AXIS_ORDER = {2: (0, 1), 3: (1, 2, 0)}


def average_pool(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Average over cells of `stride` voxels, (b c *space) -> (b c *ceil(space/stride)); the last may be smaller."""
    if all(step == 1 for step in stride):
        return x
    pool = F.avg_pool2d if len(stride) == 2 else F.avg_pool3d
    # PyTorch takes no axis shorter than its stride
    cell = tuple(min(step, size) for step, size in zip(stride, x.shape[2:], strict=True))
    return pool(x, cell, cell, ceil_mode=True, count_include_pad=False)


class AxialBlock(nn.Module):
    """Bottleneck of a residual network with axial attention along every axis in place of its convolution.

    (b in_channels *space) -> (b out_channels *ceil(space/stride)).

    Args:
        in_channels: Channels of the input.
        width: Channels of the attention.
        feature_size: Voxels along each of the 2 or 3 axes; sets the length of the position tables.
        stride: Averaging behind the last attention layer and stride of the shortcut, one number per axis.
        out_channels: Channels of the output; 0 stands for 2 * width, the published expansion.
        num_heads: Attention heads.
        variant: See `GatedAxialAttention`.
        gate_position: See `GatedAxialAttention`.
    Raises:
        ValueError: If the attention cannot be built, or a batch norm would get a single value in training.
    Source: arXiv:2102.10662, Fig. 2b and its published code: the layers follow one another, and there is no norm
        between them but their own.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        feature_size: Sequence[int],
        stride: Sequence[int],
        out_channels: int = 0,
        num_heads: int = 8,
        variant: Variant = "gated",
        gate_position: GatePosition = "pre_norm",
    ) -> None:
        super().__init__()
        dims = len(feature_size)
        convolution, norm = CONVOLUTIONS[dims], BATCH_NORMS[dims]
        out_channels = out_channels or 2 * width
        self.stride = tuple(stride)
        self.down = convolution(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.layers = nn.ModuleList(
            GatedAxialAttention(width, axis, feature_size[axis], num_heads, variant, gate_position)
            for axis in AXIS_ORDER[dims]
        )
        self.up = convolution(width, out_channels, 1, bias=False)
        self.bn2 = norm(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or any(step != 1 for step in self.stride):
            self.shortcut = nn.Sequential(
                convolution(in_channels, out_channels, 1, self.stride, bias=False), norm(out_channels)
            )

    def forward(self, x: FeatureMap) -> ReducedMap:
        """Return the block's features."""
        # a list: torch.compile takes no generator here
        cells = len(x) * math.prod([-(-size // step) for size, step in zip(x.shape[2:], self.stride, strict=True)])
        if self.training and cells == 1:
            raise ValueError(
                f"a block reduces {tuple(x.shape)} to a single voxel of a batch of one, which batch norm cannot train "
                "on; use a larger batch or patch, or fewer reductions (strides)"
            )
        y = F.relu(self.bn1(self.down(x)))
        for layer in self.layers:
            y = layer(y)
        y = F.relu(average_pool(y, self.stride))
        return F.relu(self.bn2(self.up(y)) + self.shortcut(x))
