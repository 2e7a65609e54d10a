"""GASA-UNet: the planned U-Net with global axial self-attention on its bottleneck."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.backbone import (
    PLAIN_UNET,
    backbone_arguments,
    bottleneck_size,
    build_backbone,
    initialize_backbone,
)
from nnunet_attn.architectures.blocks.gasa import GASABlock, SliceProjection
from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.shapes import Image, Logits, SideLogits

_FIRST_UP = "decoder.transpconvs.0.weight"


class GASAUNet(nn.Module):
    """A U-Net whose decoder also sees the global axial self-attention of the bottleneck.

    (b channels *space) -> (b classes *space), logits; with deep supervision a list of them, full resolution first.
    Only the first transposed convolution differs from the plain U-Net: it takes k * embed_dim more channels (k axes).
    The names of all other parameters are the plain U-Net's, so its checkpoints fit.

    Args:
        input_channels: Channels of the input.
        num_classes: Channels of the logits.
        patch_size: Voxels along each axis of every input; a multiple of the product of the strides.
        backbone: Dotted path of the U-Net; its `encoder` and `decoder` must be built like those of nnU-Net's.
        embed_dim: Width of a slice token and channels added per axis.
        num_heads: Attention heads; divides `embed_dim`.
        position: "after" (APE), "before" (BPE) or "none"; see `GASABlock`.
        norm: LayerNorm in the attention; see `GASABlock`.
        dropout_rate: Rate of the dropout on the new channels.
        deep_supervision: Return the logits of all decoder stages; the parameters are the same with and without.
        unet_kwargs: Arguments of the backbone; classes may be given as dotted paths.
    Raises:
        ValueError: If the backbone is not such a U-Net, a size or an attention argument is illegal, or an input differs
            from `input_channels` and `patch_size`.
    Source: Sun et al., arXiv:2409.13146. Departures are marked where they are, in `blocks/gasa.py`.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        backbone: str = PLAIN_UNET,
        embed_dim: int = 25,
        num_heads: int = 5,
        position: str = "after",
        norm: bool = False,
        dropout_rate: float = 0.5,
        deep_supervision: bool = False,
        **unet_kwargs: Any,
    ) -> None:
        super().__init__()
        unet = build_backbone(
            type(self).__name__, backbone, input_channels, num_classes, patch_size, deep_supervision, unet_kwargs
        )
        self.input_channels = input_channels
        self.patch_size = tuple(patch_size)
        self.encoder = unet.encoder
        self.decoder = unet.decoder
        channels = self.encoder.output_channels[-1]
        up = self.decoder.transpconvs[0]
        feature_size = bottleneck_size(self.patch_size, self.encoder.strides)
        self.gasa = GASABlock(channels, feature_size, embed_dim, num_heads, position, norm, dropout_rate)
        self.decoder.transpconvs[0] = type(up)(
            channels + self.gasa.added_channels, up.out_channels, up.kernel_size, up.stride, bias=up.bias is not None
        )

    def forward(self, x: Image) -> Logits | list[SideLogits]:
        """Return the logits."""
        expected = (self.input_channels, *self.patch_size)
        if tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"expected an input of (channels, *space) = {expected}, got {tuple(x.shape[1:])}; "
                "GASA works on the patch size only; nnU-Net's tiles have the patch size, so cut or pad the input to it"
            )
        skips = self.encoder(x)
        return self.decoder([*skips[:-1], self.gasa(skips[-1])])

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Return the number of feature map values per image, by which nnU-Net's planner estimates memory.

        Args:
            input_size: Voxels along each axis; the attention counts with its own, which is tied to `patch_size`.
        """
        parts = (self.encoder, self.decoder)
        unet = sum(int(part.compute_conv_feature_map_size(input_size)) for part in parts)
        return unet + self.gasa.compute_conv_feature_map_size()

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialise one module as nnU-Net does; the linear layers and the zero positions keep what they have."""
        initialize_backbone(module)
        if isinstance(module, SliceProjection):
            module.reset_parameters()

    @staticmethod
    def plan_arguments(plan: PlannedUNet) -> dict[str, Any]:
        """Return the JSON-able arguments that a plan decides.

        Raises:
            ValueError: If the plan names a GASAUNet already, or its network needs classes under names unknown here.
        """
        return backbone_arguments(GASAUNet.__name__, plan)

    @staticmethod
    def adapt_weight(key: str, source: Tensor, target: Tensor) -> Tensor | None:
        """Fit a checkpoint's weight to a network in which it has another shape, or return None if impossible.

        The first transposed convolution of a plain U-Net fills the channels of the encoder, the others stay as drawn.
        Slice projections and voxel positions of another patch size are resampled linearly.

        Args:
            key: Name of the parameter.
            source: Its value in the checkpoint.
            target: Its value in the network; not changed.
        """
        if key.endswith(_FIRST_UP) and source.shape[1:] == target.shape[1:] and len(source) < len(target):
            adapted = target.clone()
            adapted[: len(source)] = source
            return adapted
        projection = "gasa.projections." in key and key.endswith(".weight")
        if (projection or key.endswith("gasa.voxel_position")) and source.shape[:2] == target.shape[:2]:
            if source.ndim != target.ndim:
                return None
            return _resampled(source, target.shape[2:], keep_sum=projection).to(target)
        return None


def _resampled(weight: Tensor, size: Sequence[int], keep_sum: bool) -> Tensor:
    """Resample the trailing axes linearly, (a b *old) -> (a b *size), keeping each kernel's mean or sum."""
    axes = tuple(range(2, weight.ndim))
    mode = ("linear", "bilinear", "trilinear")[len(axes) - 1]
    resampled = F.interpolate(weight, size=tuple(size), mode=mode, align_corners=False)
    if not keep_sum:
        return resampled
    # Interpolation keeps the mean only nearly; a constant input must give the same response at any size.
    resampled = resampled + (weight.mean(axes, keepdim=True) - resampled.mean(axes, keepdim=True))
    return resampled * (math.prod(weight.shape[2:]) / math.prod(size))
