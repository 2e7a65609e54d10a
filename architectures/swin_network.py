"""The frame of the networks of window attention: patch embedding, stages, output layers, what the plans decide."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.swin_block import Down, PatchEmbedding, Up, channels_first, triple
from nnunet_attn.architectures.blocks.window_attention import WindowAttention
from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.feature_maps import feature_map_values
from nnunet_attn.architectures.shapes import Image, Logits, SideLogits
from nnunet_attn.architectures.swin_geometry import STAGES, Size, checked_geometry, checked_windows

# Patches at least so long get the wide network.
LONG_PATCH = 96
_HEAD_WIDTH = 32


class SwinNetwork(nn.Module):
    """What the networks of the family share; not a network itself.

    (b channels d h w) -> (b classes d h w), logits; with deep supervision a list of three, full resolution first. Takes
    crops of `patch_size` only.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        patch_size: Voxels along each of the 3 axes.
        embed_dim: Channels of the first stage, an even number; every stage has twice as many as the one before. None
            is 192 where the longest axis has at least 96 voxels, as published, else 96.
        num_heads: Attention heads of the first stage, doubled with the channels; None makes heads 32 wide.
        depths: Blocks of the four stages.
        decoder_depths: Blocks of the decoder's three stages, deepest first.
        windows: Windows of the four stages, a number or one per axis each.
        decoder_windows: Windows of the decoder's three stages, deepest first.
        embedding: Reduction of the patch embedding per axis, 1, 2 or 4; None: 4 for axes longer than 3/4 of the
            longest, 2 for axes longer than 1/4.
        strides: Reductions between the stages, 1 or 2 per axis; None halves an axis while it is even and has 8 voxels.
        drop_path: Probability of leaving out a sample's attention or MLP in the last block of encoder and decoder,
            growing linearly from 0 in the first.
        quirk: See `WindowAttention`.
        deep_supervision: Return the logits of all output layers; the parameters are the same with and without.
    Raises:
        ValueError: If an argument is out of its range, or an input has another size.
    """

    default_windows: ClassVar[tuple[int, ...]]
    default_decoder_windows: ClassVar[tuple[int, ...]]
    overlapping_down: ClassVar[bool]

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        embed_dim: int | None = None,
        num_heads: int | None = None,
        depths: Sequence[int] = (2, 2, 2, 2),
        decoder_depths: Sequence[int] = (2, 2, 2),
        windows: Sequence[int | Sequence[int]] | None = None,
        decoder_windows: Sequence[int | Sequence[int]] | None = None,
        embedding: Sequence[int] | None = None,
        strides: Sequence[Sequence[int]] | None = None,
        drop_path: float = 0.2,
        quirk: bool = False,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.geometry = checked_geometry(patch_size, embedding, strides)
        self.embed_dim = planned_width(patch_size) if embed_dim is None else embed_dim
        self.num_heads = max(1, self.embed_dim // _HEAD_WIDTH) if num_heads is None else num_heads
        for name, value in {"embed_dim": self.embed_dim, "num_heads": self.num_heads}.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.embed_dim % 2 or self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim must be even and a multiple of num_heads, got {self.embed_dim} for {self.num_heads} heads"
            )
        for name, values, count in (("depths", depths, STAGES), ("decoder_depths", decoder_depths, STAGES - 1)):
            if (
                not isinstance(values, Sequence)
                or len(values) != count
                or any(type(value) is not int or value < 1 for value in values)
            ):
                raise ValueError(f"{name} must be {count} integers of at least 1, got {values!r}")
        check_flags(quirk=quirk)
        if not isinstance(drop_path, int | float) or not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1, got {drop_path!r}")
        self.input_channels = input_channels
        self.depths, self.decoder_depths = tuple(depths), tuple(decoder_depths)
        self.drop_path, self.quirk = drop_path, quirk
        self.windows = checked_windows("windows", self.default_windows if windows is None else windows, STAGES)
        decoder_windows = self.default_decoder_windows if decoder_windows is None else decoder_windows
        self.decoder_windows = checked_windows("decoder_windows", decoder_windows, STAGES - 1)
        widths = [self.embed_dim * 2**stage for stage in range(STAGES)]
        self.stem = PatchEmbedding(input_channels, self.embed_dim, self.geometry.stem_strides)
        strided = zip(widths[:-1], self.geometry.strides, strict=True)
        self.encoder = self._encoder(widths)
        self.down = nn.ModuleList(Down(width, stride, self.overlapping_down) for width, stride in strided)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        strided = zip(widths[:-1], self.geometry.strides, strict=True)
        self.up = nn.ModuleList(Up(width, stride) for width, stride in reversed(list(strided)))
        self.decoder = Decoder(self._decoder(widths), widths[:-1], self._kernels(), num_classes)
        self.decoder.deep_supervision = deep_supervision
        outputs = [self.geometry.output_size(*each) for each in enumerate(self._kernels())]
        self.deep_supervision_scales = [
            [own / full for own, full in zip(size, self.geometry.patch_size, strict=True)] for size in outputs
        ]

    def _encoder(self, widths: Sequence[int]) -> nn.ModuleList:
        raise NotImplementedError

    def _decoder(self, widths: Sequence[int]) -> nn.ModuleList:
        """Build the decoder's stages, deepest first."""
        raise NotImplementedError

    def _kernels(self) -> list[Size]:
        """Return the output layers' kernels, full resolution first."""
        raise NotImplementedError

    def decode(self, x: Tensor) -> list[Tensor]:
        """Return the decoder's maps of an embedded image (b d h w c), finest first, channels last."""
        raise NotImplementedError

    def forward(self, x: Image) -> Logits | list[SideLogits]:
        """Return the logits."""
        wanted = (self.input_channels, *self.geometry.patch_size)
        if tuple(x.shape[1:]) != wanted:
            raise ValueError(f"expected an input of (batch, channels, *space) = (b, {wanted}), got {tuple(x.shape)}")
        return self._logits(self.decode(self._embedded(x)))

    def _embedded(self, x: Tensor) -> Tensor:
        ends = [(0, full - size) for full, size in zip(self.geometry.padded, self.geometry.patch_size, strict=True)]
        if self.geometry.padded != self.geometry.patch_size:
            x = F.pad(x, [number for pair in reversed(ends) for number in pair])
        return self.stem(x)

    def _logits(self, maps: list[Tensor]) -> Tensor | list[Tensor]:
        found = []
        for stage, (layer, kernel) in enumerate(zip(self.decoder.seg_layers, self._kernels(), strict=True)):
            first, second, third = self.geometry.output_size(stage, kernel)
            found.append(layer(channels_first(maps[stage]))[:, :, :first, :second, :third])
            if not self.decoder.deep_supervision:
                return found[0]
        return found

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that get no weight decay: the relative biases."""
        return {f"{name}.relative_bias" for name, module in self.named_modules() if isinstance(module, WindowAttention)}

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Return the number of feature map values per image, by which nnU-Net's planner estimates memory."""
        return feature_map_values(self, self.input_channels, input_size)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Leave a module as its constructor drew it, which is as the published code does."""

    @classmethod
    def plan_arguments(cls, plan: PlannedUNet) -> dict[str, Any]:
        """Return the JSON-able arguments that a plan decides."""
        return {"patch_size": list(plan.patch_size), "embed_dim": planned_width(plan.patch_size)}


class Decoder(nn.Module):
    """The decoder's stages and the output layers, named so that nnU-Net's `-pretrained_weights` leaves them out."""

    deep_supervision: bool = False

    def __init__(self, stages: nn.ModuleList, widths: Sequence[int], kernels: Sequence[Size], num_classes: int) -> None:
        super().__init__()
        self.stages = stages
        layers = zip(widths, kernels, strict=True)
        self.seg_layers = nn.ModuleList(
            nn.ConvTranspose3d(width, num_classes, triple(step), triple(step)) for width, step in layers
        )


def check_flags(**flags: Any) -> None:
    """Check that arguments are True or False: text would count as True.

    Raises:
        ValueError: If one is not.
    """
    for name, value in flags.items():
        if type(value) is not bool:
            raise ValueError(f"{name} must be true or false, got {value!r}")


def planned_width(patch_size: Sequence[int]) -> int:
    """Return the channels of the first stage for a patch."""
    return 192 if max(patch_size) >= LONG_PATCH else 96


def block_arguments(
    network: SwinNetwork, width: int, size: Size, window: Size, shifted: bool, rate: float
) -> dict[str, Any]:
    """Return the arguments of a block of `width` channels."""
    return {
        "channels": width,
        "num_heads": network.num_heads * width // network.embed_dim,
        "size": size,
        "window": window,
        "shifted": shifted,
        "drop_path": rate,
        "quirk": network.quirk,
    }
