"""The frame of the networks of axial attention: what they take from the plans, their output layers, their checks."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from nnunet_attn.architectures.blocks.axial_attention import (
    GatePosition,
    Variant,
    adapted_table,
    excluded_from_weight_decay,
)
from nnunet_attn.architectures.blocks.axial_block import CONVOLUTIONS
from nnunet_attn.architectures.blocks.axial_branch import AxialBranch, reduced
from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.feature_maps import feature_map_values
from nnunet_attn.architectures.shapes import AnyMap, Image, Logits, SideLogits

# In 3D, axes at least this long are averaged behind the stem: attention starts at a quarter of their resolution.
LONG_AXIS = 64
_STAGES = 4
_REDUCTIONS = 5


class AxialNetwork(nn.Module):
    """What the networks of the family share; not a network itself.

    (b channels *space) -> (b classes *space), logits; with deep supervision a list of them, full resolution first.
    The position tables are made for `patch_size`; other sizes work, see `GatedAxialAttention`.

    Args:
        input_channels: Channels of the input.
        num_classes: Channels of the logits.
        patch_size: Voxels along each of the 2 or 3 axes.
        strides: Five reductions per axis: of the stem, of the first block of stages 2, 3 and 4, and of the convolution
            below them. None: 2 everywhere, as published. An axis that has come down to one voxel is not reduced more.
        features: Attention channels of the four stages; stages give twice as many.
        depths: Blocks of the four stages.
        num_heads: Attention heads; every number of features must be an even multiple of it.
        stem_channels: Outer and inner channels of the stem.
        stem_pool: Averaging behind the stem of a branch on the whole image, one number per axis; None is none, as
            published. Cells of a grid are not averaged.
        gate_position: See `GatedAxialAttention`; only for networks with gates.
        heads: Output layers: at full resolution, and one more for each next coarser map of the decoder.
        deep_supervision: Return the logits of all output layers; the parameters are the same with and without.
    Raises:
        ValueError: If an argument is out of its range, or an input has other channels or axes.
    Source: Valanarasu et al., arXiv:2102.10662, and its published code; departures: docs/reference/networks/medt.md.
    """

    max_heads: ClassVar[int]
    gated: ClassVar[bool] = False

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        strides: Sequence[Sequence[int]] | None = None,
        features: Sequence[int] = (16, 32, 64, 128),
        depths: Sequence[int] = (1, 2, 4, 1),
        num_heads: int = 8,
        stem_channels: Sequence[int] = (8, 128),
        stem_pool: Sequence[int] | None = None,
        gate_position: GatePosition = "pre_norm",
        heads: int = 1,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        dims = len(patch_size)
        if dims not in (2, 3):
            raise ValueError(f"patch_size must have 2 or 3 numbers, got {tuple(patch_size)}")
        strides = [[2] * dims] * _REDUCTIONS if strides is None else strides
        stem_pool = [1] * dims if stem_pool is None else stem_pool
        if not isinstance(strides, Sequence) or len(strides) != _REDUCTIONS:
            raise ValueError(f"strides must be {_REDUCTIONS} lists of {dims} numbers, got {strides!r}")
        for name, values, length in (
            ("patch_size", patch_size, dims),
            ("features", features, _STAGES),
            ("depths", depths, _STAGES),
            ("stem_channels", stem_channels, 2),
            ("stem_pool", stem_pool, dims),
            *((f"strides[{number}]", stride, dims) for number, stride in enumerate(strides)),
        ):
            values = values if isinstance(values, Sequence) else [values]
            if len(values) != length or any(type(value) is not int or value < 1 for value in values):
                raise ValueError(f"{name} must be {length} integers of at least 1, got {values!r}")
        if type(heads) is not int or not 1 <= heads <= self.max_heads:
            raise ValueError(f"heads of {type(self).__name__} must be from 1 to {self.max_heads}, got {heads!r}")
        if gate_position != "pre_norm" and not self.gated:
            raise ValueError(f"{type(self).__name__} has no gates, so gate_position cannot be {gate_position!r}")
        self.input_channels = input_channels
        self.patch_size = tuple(patch_size)
        self.strides = tuple(tuple(stride) for stride in strides)
        self.features, self.depths = tuple(features), tuple(depths)
        self.num_heads = num_heads
        self.stem_channels, self.stem_pool = tuple(stem_channels), tuple(stem_pool)
        self.gate_position: GatePosition = gate_position
        self.deep_supervision = deep_supervision
        self.output = SegmentationHeads(
            [self.features[0], *(2 * width for width in self.features)][:heads], num_classes, dims
        )
        self.deep_supervision_scales: list[list[float]] = [[1.0] * dims]

    def _branch(self, variant: Variant, stages: int | None = None) -> AxialBranch:
        """Build a branch on the whole image; `stages` leaves out the deeper ones and what lies below them."""
        return self._branch_on(self.patch_size, variant, stages, self.stem_channels, self.stem_pool)

    def _local_branch(self, variant: Variant, grid: Sequence[int], local_stem: int) -> AxialBranch:
        """Build a branch on the cells of a grid, with a stem of its own width and, as published, no averaging in it."""
        if type(local_stem) is not int or local_stem < 1:
            raise ValueError(f"local_stem must be an integer of at least 1, got {local_stem!r}")
        stem = (local_stem, self.stem_channels[1])
        return self._branch_on(reduced(self.patch_size, grid), variant, None, stem, (1,) * len(grid))

    def _branch_on(
        self,
        image_size: Sequence[int],
        variant: Variant,
        stages: int | None,
        stem_channels: Sequence[int],
        stem_pool: Sequence[int],
    ) -> AxialBranch:
        strides, pool = _legal(image_size, self.strides, stem_pool)
        return AxialBranch(
            self.input_channels,
            image_size,
            strides[:stages],
            self.features[:stages],
            self.depths[:stages],
            stem_channels,
            pool,
            self.num_heads,
            variant,
            self.gate_position,
        )

    def _supervise(self, branch: AxialBranch) -> None:
        """Note the sizes of the maps that the output layers behind the first one work on."""
        for size in branch.sizes[: len(self.output.seg_layers) - 1]:
            self.deep_supervision_scales.append([own / full for own, full in zip(size, self.patch_size, strict=True)])

    def features_of(self, x: Image) -> list[AnyMap]:
        """Return the maps that the output layers work on, full resolution first."""
        raise NotImplementedError

    def forward(self, x: Image) -> Logits | list[SideLogits]:
        """Return the logits."""
        if x.shape[1] != self.input_channels or x.ndim != 2 + len(self.patch_size):
            raise ValueError(
                f"expected an input of {self.input_channels} channels and {len(self.patch_size)} axes, "
                f"got (batch, channels, *space) = {tuple(x.shape)}"
            )
        maps = self.features_of(x)
        if self.deep_supervision:
            return [layer(y) for layer, y in zip(self.output.seg_layers, maps, strict=False)]
        return self.output.seg_layers[0](maps[0])

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that get no weight decay: position tables and gates."""
        return excluded_from_weight_decay(self)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Return the number of feature map values per image, by which nnU-Net's planner estimates memory."""
        return feature_map_values(self, self.input_channels, input_size)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Leave a module as its constructor drew it, which is as the published code does."""

    @classmethod
    def plan_arguments(cls, plan: PlannedUNet) -> dict[str, Any]:
        """Return the JSON-able arguments that a plan decides.

        An axis that the planned U-Net does not pool at first, because its voxels are coarse, is left alone by as many
        reductions here.
        """
        dims = len(plan.patch_size)
        delays = [0] * dims
        planned = [
            [step] * dims if isinstance(step, int) else list(step) for step in plan.arch_kwargs.get("strides", ())
        ]
        for axis in range(dims):
            for step in planned[1:]:
                if step[axis] > 1:
                    break
                delays[axis] += 1
        sizes = zip(plan.patch_size, delays, strict=True)
        pools = [2 if dims == 3 and size >= LONG_AXIS and not delay else 1 for size, delay in sizes]
        return {
            "patch_size": list(plan.patch_size),
            "strides": [[1 if number < delay else 2 for delay in delays] for number in range(_REDUCTIONS)],
            "stem_pool": pools,
        }

    @staticmethod
    def adapt_weight(key: str, source: Tensor, target: Tensor) -> Tensor | None:
        """Fit a checkpoint's position table of another length, linearly between offsets; None for anything else.

        Args:
            key: Name of the parameter.
            source: Its value in the checkpoint.
            target: Its value in the network; not changed.
        """
        return adapted_table(key, source, target)


class SegmentationHeads(nn.Module):
    """Output layers, 1x1 convolutions, named so that nnU-Net's `-pretrained_weights` leaves them out."""

    def __init__(self, channels: Sequence[int], num_classes: int, dims: int) -> None:
        super().__init__()
        self.seg_layers = nn.ModuleList(CONVOLUTIONS[dims](width, num_classes, 1) for width in channels)


def _legal(
    size: Sequence[int], strides: Sequence[Sequence[int]], stem_pool: Sequence[int]
) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """Return strides and the averaging behind the stem with 1 where an axis has come down to one voxel before."""
    kept = []
    for stride in (strides[0], stem_pool, *strides[1:]):
        kept.append(tuple(step if voxels > 1 else 1 for step, voxels in zip(stride, size, strict=True)))
        size = reduced(size, kept[-1])
    pool = kept.pop(1)
    return kept, pool
