"""The gated axial U-Net in plain PyTorch, for `nnunet_attn.benchmark.speed --reference`; run from the root."""

from torch import nn

from nnunet_attn.architectures.build import PlannedUNet
from tests.reference.medt import DirectNetwork


def build(plan: PlannedUNet, input_channels: int, num_classes: int, deep_supervision: bool) -> nn.Module:
    """Build the network for a 2D plan; it has one output, with and without deep supervision."""
    if len(plan.patch_size) != 2:
        raise ValueError(f"the reference is for 2D, got the patch size {plan.patch_size}; choose a 2D topology")
    return DirectNetwork("gatedaxialunet", input_channels, num_classes, plan.patch_size)
