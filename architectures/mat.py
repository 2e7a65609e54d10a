"""The planned U-Net with a block of gated axial attention at its bottleneck."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nnunet_attn.architectures.backbone import (
    PLAIN_UNET,
    backbone_arguments,
    bottleneck_size,
    build_backbone,
    initialize_backbone,
)
from nnunet_attn.architectures.blocks.axial_attention import GatePosition, adapted_table, excluded_from_weight_decay
from nnunet_attn.architectures.blocks.axial_block import AxialBlock
from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.feature_maps import feature_map_values
from nnunet_attn.architectures.shapes import Image, Logits, SideLogits


class MAT(nn.Module):
    """A U-Net whose deepest features pass through gated axial attention along every axis, with a shortcut.

    (b channels *space) -> (b classes *space), logits; with deep supervision a list of them, full resolution first.
    The names of all other parameters are the plain U-Net's, so its checkpoints fit.

    Args:
        input_channels: Channels of the input.
        num_classes: Channels of the logits.
        patch_size: Voxels along each axis; a multiple of the product of the strides. Sets the position tables' length;
            the network takes other multiples too.
        backbone: Dotted path of the U-Net; its `encoder` and `decoder` must be built like those of nnU-Net's.
        num_heads: Attention heads; the channels of the bottleneck must be an even multiple of it.
        gate_position: See `GatedAxialAttention`.
        deep_supervision: Return the logits of all decoder stages; the parameters are the same with and without.
        unet_kwargs: Arguments of the backbone; classes may be given as dotted paths.
    Raises:
        ValueError: If the backbone is not such a U-Net, or an argument is illegal.
    Source: the block of Valanarasu et al., arXiv:2102.10662, in the place where Sun et al., arXiv:2409.13146, compare
        it with theirs. Departs from that 3D version, which has one table for height and width, so that both must be
        equal: here every axis has a table of its own.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        backbone: str = PLAIN_UNET,
        num_heads: int = 8,
        gate_position: GatePosition = "pre_norm",
        deep_supervision: bool = False,
        **unet_kwargs: Any,
    ) -> None:
        super().__init__()
        unet = build_backbone(
            type(self).__name__, backbone, input_channels, num_classes, patch_size, deep_supervision, unet_kwargs
        )
        self.input_channels = input_channels
        self.encoder = unet.encoder
        self.decoder = unet.decoder
        channels = self.encoder.output_channels[-1]
        feature_size = bottleneck_size(patch_size, self.encoder.strides)
        self.bottleneck = AxialBlock(
            channels,
            channels,
            feature_size,
            (1,) * len(patch_size),
            out_channels=channels,
            num_heads=num_heads,
            gate_position=gate_position,
        )

    def forward(self, x: Image) -> Logits | list[SideLogits]:
        """Return the logits."""
        if x.shape[1] != self.input_channels:
            raise ValueError(f"expected an input of {self.input_channels} channels, got {tuple(x.shape)}")
        *skips, deepest = self.encoder(x)
        return self.decoder([*skips, self.bottleneck(deepest)])

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that get no weight decay: position tables and gates."""
        return excluded_from_weight_decay(self)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Return the number of feature map values per image, by which nnU-Net's planner estimates memory."""
        return feature_map_values(self, self.input_channels, input_size)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialise one module as nnU-Net does; the attention layers keep what they have."""
        initialize_backbone(module)

    @staticmethod
    def plan_arguments(plan: PlannedUNet) -> dict[str, Any]:
        """Return the JSON-able arguments that a plan decides.

        Raises:
            ValueError: If the plan names a MAT already, or its network needs classes under names unknown here.
        """
        return backbone_arguments(MAT.__name__, plan)

    @staticmethod
    def adapt_weight(key: str, source: Tensor, target: Tensor) -> Tensor | None:
        """Fit a checkpoint's position table of another length, linearly between offsets; None for anything else."""
        return adapted_table(key, source, target)
