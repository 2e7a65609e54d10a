"""FINE in plain PyTorch, for `nnunet_attn.benchmark.speed --reference`; run from the root."""

from torch import nn

from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.swin_network import planned_width
from tests.reference.fine import DirectFINE
from tests.reference.nnformer import fitted_strides


def build(plan: PlannedUNet, input_channels: int, num_classes: int, deep_supervision: bool) -> nn.Module:
    """Build the network for a 3D plan, with three outputs; windows are fitted to each axis on its own.

    There are 5 x 5 cells, as published, all of which training has reached, and without positions crops are at the
    centre. What does not reach the output is computed, too.
    """
    if len(plan.patch_size) != 3:
        raise ValueError(f"the reference is for 3D, got the patch size {plan.patch_size}; choose a 3D topology")
    embedding, strides = fitted_strides(plan.patch_size)
    width = planned_width(plan.patch_size)
    network = DirectFINE(
        input_channels,
        num_classes,
        plan.patch_size,
        width,
        embedding=embedding,
        num_heads=[width // 32 * 2**stage for stage in range(4)],
        windows=((4, 4, 4),) * 4,
        strides=strides,
        deep_supervision=deep_supervision,
        all_heads=True,
        extent=[5 * length for length in plan.patch_size],
    )
    # many times, so that a moved state dict says so too
    network.vt_check.data.fill_(100)
    return network
