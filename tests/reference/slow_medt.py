"""MedT in plain PyTorch, one cell after another, for `nnunet_attn.benchmark.speed --reference`; run from the root."""

from torch import nn

from nnunet_attn.architectures.build import PlannedUNet
from tests.reference.medt import direct_network


def build(plan: PlannedUNet, input_channels: int, num_classes: int, deep_supervision: bool) -> nn.Module:
    """Build the network for a 2D plan; it has one output, with and without deep supervision."""
    return direct_network("medt", plan, input_channels, num_classes)
