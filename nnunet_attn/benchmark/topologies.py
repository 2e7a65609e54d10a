"""The U-Nets that measurements are made on: named sizes as nnU-Net's planner gives them, and scaled-down patches."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.errors import InputError


@dataclass(frozen=True)
class Topology:
    """A planned U-Net with what else has to be known to run it: input channels, classes with background, batch."""

    plan: PlannedUNet
    input_channels: int
    num_classes: int
    batch_size: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a batch, (b, c, *space)."""
        return (self.batch_size, self.input_channels, *self.plan.patch_size)

    @property
    def total_strides(self) -> tuple[int, ...]:
        """Product of the strides along each axis: a patch has to be a multiple of it."""
        return tuple(math.prod(axis) for axis in zip(*self.plan.arch_kwargs["strides"], strict=True))


def _planned(
    patch_size: Sequence[int],
    features_per_stage: Sequence[int],
    strides: Sequence[Sequence[int]],
    kernel_sizes: Sequence[Sequence[int]] | None = None,
) -> PlannedUNet:
    """The architecture entry that nnU-Net 2.8 plans for a PlainConvUNet: two convolutions a stage, InstanceNorm."""
    dims, n_stages = len(patch_size), len(features_per_stage)
    return PlannedUNet(
        patch_size=tuple(patch_size),
        network_class_name="dynamic_network_architectures.architectures.unet.PlainConvUNet",
        arch_kwargs={
            "n_stages": n_stages,
            "features_per_stage": list(features_per_stage),
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [list(k) for k in kernel_sizes or [[3] * dims] * n_stages],
            "strides": [list(s) for s in strides],
            "n_conv_per_stage": [2] * n_stages,
            "n_conv_per_stage_decoder": [2] * (n_stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
    )


_FEATURES_3D = (32, 64, 128, 256, 320, 320)
_FEATURES_2D = (32, 64, 128, 256, 512, 512, 512)

TOPOLOGIES: dict[str, Topology] = {
    # The only one of 15 combinations that gives the parameters and FLOPs of Table 4 of arXiv:2409.13146.
    "gasa-paper": Topology(
        plan=_planned(
            (48, 192, 192),
            _FEATURES_3D,
            strides=[[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
            kernel_sizes=[[1, 3, 3]] * 2 + [[3, 3, 3]] * 4,
        ),
        input_channels=1,
        num_classes=14,
        batch_size=2,
    ),
    "3d": Topology(
        plan=_planned((64, 128, 128), _FEATURES_3D, strides=[[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]]),
        input_channels=1,
        num_classes=3,
        batch_size=2,
    ),
    "2d-256": Topology(
        plan=_planned((256, 256), _FEATURES_2D, strides=[[1, 1], *[[2, 2]] * 6]),
        input_channels=1,
        num_classes=3,
        batch_size=8,
    ),
    "2d-512": Topology(
        plan=_planned((512, 512), (*_FEATURES_2D, 512), strides=[[1, 1], *[[2, 2]] * 7]),
        input_channels=1,
        num_classes=3,
        batch_size=12,
    ),
    # The patch of arXiv:2102.10662 where it is 256 x 256, with colours. One pooling fewer than nnU-Net plans at this
    # size and as many as at 128 x 128, so that patches from 32 x 64 on are legal.
    "axial-2d": Topology(
        plan=_planned((256, 256), _FEATURES_2D[:6], strides=[[1, 1], *[[2, 2]] * 5]),
        input_channels=3,
        num_classes=2,
        batch_size=1,
    ),
    # Not a size of any study: seconds on one core, to try the command.
    "tiny": Topology(
        plan=_planned((16, 32, 32), (8, 16, 32), strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]]),
        input_channels=1,
        num_classes=2,
        batch_size=2,
    ),
}

# Networks that were published in 2D are measured so, unless another topology is asked for.
_IN_2D = {"AxialUNet", "GatedAxialUNet", "LoGo", "MedT", "MedTGlobal", "MedTLocal"}
# These were published at a patch of 64 x 128 x 128.
_IN_WINDOWS = {"FINE", "NNFormer", "NNFormer2021"}


def default_topology(networks: Iterable[str]) -> str:
    """Return the name of the topology for networks of the registry, where none is asked for."""
    names = set(networks)
    return "axial-2d" if names <= _IN_2D else "3d" if names <= _IN_WINDOWS else "gasa-paper"


def topology_named(name: str) -> Topology:
    """Return a topology.

    Raises:
        InputError: If there is none of this name, with those that exist.
    """
    if name not in TOPOLOGIES:
        raise InputError(f"no topology {name!r}; there are {', '.join(TOPOLOGIES)}")
    return TOPOLOGIES[name]


def with_patch(topology: Topology, patch_size: Sequence[int]) -> Topology:
    """Return the topology with another patch; stages, strides and kernels stay.

    Raises:
        InputError: If the number of axes differs, an axis is not a multiple of its strides, or the bottleneck would
            hold a single voxel, which InstanceNorm cannot be trained on.
    """
    old, strides = topology.plan.patch_size, topology.total_strides
    if len(patch_size) != len(old):
        raise InputError(f"patch {list(patch_size)} has {len(patch_size)} axes; this topology has {len(old)}")
    if any(size < 1 or size % stride for size, stride in zip(patch_size, strides, strict=True)):
        raise InputError(f"patch {list(patch_size)}: each axis has to be a multiple of the strides {list(strides)}")
    bottleneck = [size // stride for size, stride in zip(patch_size, strides, strict=True)]
    if math.prod(bottleneck) < 2:
        raise InputError(
            f"patch {list(patch_size)} leaves the bottleneck a single voxel {bottleneck}; at least 2 are needed, "
            f"so make one axis larger by its strides {list(strides)}"
        )
    return replace(topology, plan=replace(topology.plan, patch_size=tuple(patch_size)))


def scaled_down(topology: Topology, factors: Sequence[int]) -> Topology:
    """Return the topology with each axis of its patch divided by a whole factor.

    Args:
        factors: One number for all axes, or one an axis.
    Raises:
        InputError: If a factor does not divide its axis, or the smaller patch is illegal.
    """
    old = topology.plan.patch_size
    each = tuple(factors) * len(old) if len(factors) == 1 else tuple(factors)
    if len(each) != len(old):
        raise InputError(f"{len(each)} scale factors {list(each)}; give 1 or {len(old)} for the patch {list(old)}")
    if any(factor < 1 or size % factor for size, factor in zip(old, each, strict=True)):
        raise InputError(f"scale factors {list(each)} do not divide the patch {list(old)}")
    return with_patch(topology, [size // factor for size, factor in zip(old, each, strict=True)])
