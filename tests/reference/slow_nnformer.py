"""nnFormer in plain PyTorch, for `nnunet_attn.benchmark.speed --reference`; run from the root."""

from torch import nn

from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.swin_network import planned_width
from tests.reference.nnformer import DirectNNFormer, fitted_strides


def build(plan: PlannedUNet, input_channels: int, num_classes: int, deep_supervision: bool) -> nn.Module:
    """Build the network for a 3D plan; windows are fitted to each axis on its own."""
    if len(plan.patch_size) != 3:
        raise ValueError(f"the reference is for 3D, got the patch size {plan.patch_size}; choose a 3D topology")
    embedding, strides = fitted_strides(plan.patch_size)
    width = planned_width(plan.patch_size)
    return DirectNNFormer(
        input_channels,
        num_classes,
        plan.patch_size,
        width,
        embedding=embedding,
        num_heads=[width // 32 * 2**stage for stage in range(4)],
        windows=((4, 4, 4), (4, 4, 4), (8, 8, 8), (4, 4, 4)),
        strides=strides,
        deep_supervision=deep_supervision,
    )
