"""The planned U-Net as the backbone of a network that changes its bottleneck."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nnunet_attn.architectures.build import PlannedUNet, locate, resolve_classes

PLAIN_UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
_CLASS_ARGUMENTS = ("conv_op", "norm_op", "dropout_op", "nonlin", "block")
_NEEDED = {"encoder": ("output_channels", "strides"), "decoder": ("transpconvs", "stages", "seg_layers")}


def build_backbone(
    owner: str,
    backbone: str,
    input_channels: int,
    num_classes: int,
    patch_size: Sequence[int],
    deep_supervision: bool,
    unet_kwargs: Mapping[str, Any],
) -> Any:
    """Build a U-Net whose `encoder` and `decoder` are like those of nnU-Net's.

    Args:
        owner: Name of the network that it is for, for messages.
        backbone: Dotted path of the U-Net.
        input_channels: Channels of the input.
        num_classes: Channels of the logits.
        patch_size: Voxels along each axis.
        deep_supervision: Return the logits of all decoder stages.
        unet_kwargs: Its other arguments; classes may be given as dotted paths.
    Raises:
        ValueError: If it is not such a U-Net, or works on another number of axes.
    """
    unet = locate(backbone)(
        input_channels=input_channels,
        num_classes=num_classes,
        deep_supervision=deep_supervision,
        **resolve_classes(unet_kwargs, _CLASS_ARGUMENTS),
    )
    for part, names in _NEEDED.items():
        for name in names:
            if not hasattr(getattr(unet, part, None), name):
                raise ValueError(f"backbone {backbone} has no {part}.{name}; {owner} needs a U-Net like nnU-Net's")
    if not len(unet.decoder.transpconvs):
        raise ValueError(f"backbone {backbone} has a single stage; {owner} needs a decoder, so at least 2 stages")
    channels, up = unet.encoder.output_channels[-1], unet.decoder.transpconvs[0]
    if up.in_channels != channels:
        raise ValueError(
            f"backbone {backbone}: its first transposed convolution takes {up.in_channels} channels, "
            f"but its encoder ends with {channels}; {owner} needs them equal"
        )
    if up.weight.ndim != 2 + len(patch_size):
        raise ValueError(f"the backbone works on {up.weight.ndim - 2} axes, got patch_size {tuple(patch_size)}")
    return unet


def bottleneck_size(patch_size: Sequence[int], strides: Sequence[Any]) -> tuple[int, ...]:
    """Return the voxels of the deepest feature map along each axis.

    Raises:
        ValueError: If the patch is not a multiple of the product of the strides.
    """
    per_stage = [[stride] * len(patch_size) if isinstance(stride, int) else stride for stride in strides]
    total = tuple(math.prod(along_axis) for along_axis in zip(*per_stage, strict=True))
    if any(size < 1 or size % step for size, step in zip(patch_size, total, strict=True)):
        raise ValueError(f"patch_size {tuple(patch_size)} must be a multiple of the product of the strides, {total}")
    return tuple(size // step for size, step in zip(patch_size, total, strict=True))


def backbone_arguments(owner: str, plan: PlannedUNet) -> dict[str, Any]:
    """Return the JSON-able arguments of a network around the planned U-Net.

    Raises:
        ValueError: If the plan names the owner already, or its network needs classes under names unknown here.
    """
    if plan.network_class_name.rsplit(".", 1)[-1] == owner:
        raise ValueError(
            f"the plans name {plan.network_class_name} already and would get a second attention; "
            "train them with nnUNetTrainer or nnUNetTrainerPlain"
        )
    if unknown := set(plan.requires_import) - set(_CLASS_ARGUMENTS):
        raise ValueError(
            f"{plan.network_class_name} takes classes as {', '.join(sorted(unknown))}; "
            f"{owner} imports classes for {', '.join(_CLASS_ARGUMENTS)} only"
        )
    return {**plan.arch_kwargs, "patch_size": list(plan.patch_size), "backbone": plan.network_class_name}


def initialize_backbone(module: nn.Module) -> None:
    """Initialise one module of the U-Net as nnU-Net does."""
    from dynamic_network_architectures.initialization.weight_init import InitWeights_He, init_last_bn_before_add_to_0

    InitWeights_He(1e-2)(module)
    init_last_bn_before_add_to_0(module)
