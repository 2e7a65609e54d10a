"""nnFormer, arXiv:2109.03201, as its code is today and as it first was, with the published names of all tensors.

Maps between the stem and the heads are (b d h w c).
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference.swin import SkipStage, Stage, SwinStage
from tests.reference.window_attention import Size


def channels_last(x: Tensor) -> Tensor:
    """(b c d h w) -> (b d h w c)."""
    return x.permute(0, 2, 3, 4, 1).contiguous()


def channels_first(x: Tensor) -> Tensor:
    """(b d h w c) -> (b c d h w)."""
    return x.permute(0, 4, 1, 2, 3).contiguous()


class Project(nn.Module):
    """Half of the stem: two convolutions of (b c d h w), each with GELU and norm behind, but the very `last`."""

    def __init__(self, input_channels: int, channels: int, stride: Sequence[int], last: bool) -> None:
        super().__init__()
        first, rest = (stride[0], stride[1], stride[2]), (1, 1, 1)
        self.conv1 = nn.Conv3d(input_channels, channels, 3, first, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, rest, padding=1)
        self.norm1 = nn.LayerNorm(channels)
        self.last = last
        if not last:
            self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = channels_first(self.norm1(channels_last(F.gelu(self.conv1(x)))))
        x = self.conv2(x)
        return x if self.last else channels_first(self.norm2(channels_last(F.gelu(x))))


class PatchEmbed(nn.Module):
    """The stem, (b c d h w) -> (b d/e h/e w/e c), whose two halves have strides of 1 or 2 on each axis."""

    def __init__(self, input_channels: int, channels: int, embedding: Sequence[int]) -> None:
        super().__init__()
        first = [2 if e >= 2 else 1 for e in embedding]
        second = [e // s for e, s in zip(embedding, first, strict=True)]
        self.proj1 = Project(input_channels, channels // 2, first, last=False)
        self.proj2 = Project(channels // 2, channels, second, last=True)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(channels_last(self.proj2(self.proj1(x))))


class Downsample(nn.Module):
    """GELU, norm and a strided convolution to twice the channels; its kernel is 3 or, if not `wide`, its stride."""

    def __init__(self, channels: int, stride: Size, wide: bool) -> None:
        super().__init__()
        kernel, padding = ((3, 3, 3), 1) if wide else (stride, 0)
        self.reduction = nn.Conv3d(channels, 2 * channels, kernel, stride, padding)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(self.reduction(channels_first(self.norm(F.gelu(x)))))


class Upsample(nn.Module):
    """Norm and a transposed convolution, whose kernel is its stride, to half the channels."""

    def __init__(self, channels: int, stride: Size) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.up = nn.ConvTranspose3d(channels, channels // 2, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(self.up(channels_first(self.norm(x))))


class Head(nn.Module):
    """Logits of a map: a transposed convolution whose kernel is its stride."""

    def __init__(self, channels: int, num_classes: int, stride: Size) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(channels, num_classes, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(channels_first(x))


class Encoder(nn.Module):
    """Stem and stages; the results of the stages are normed, what goes down is not.

    Args:
        stem: (b c d h w) -> (b d h w c).
        stages: Finest first; each may have `downsample`.
        channels: Of the first stage; they double.
    """

    def __init__(self, stem: nn.Module, stages: Sequence[Stage], channels: int) -> None:
        super().__init__()
        self.patch_embed = stem
        self.layers = nn.ModuleList(stages)
        for number in range(len(stages)):
            self.add_module(f"norm{number}", nn.LayerNorm(channels * 2**number))

    def forward(self, x: Tensor, *where: Tensor) -> list[Tensor]:
        """Return the map of each stage, finest first; `where` is handed to the stages."""
        x, maps = self.patch_embed(x), []
        for number, layer in enumerate(self.layers):
            x = layer(x, *where)
            maps.append(self.get_submodule(f"norm{number}")(x))
            if hasattr(layer, "downsample"):
                x = layer.get_submodule("downsample")(x)
        return maps


class Decoder(nn.Module):
    """Stages, finest first, each with its `Upsample`."""

    adds_skip = True

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(stages)

    def forward(self, maps: Sequence[Tensor], *where: Tensor) -> list[Tensor]:
        """Return the map of each stage, finest first, from those of the encoder."""
        x, decoded = maps[-1], []
        for layer, skip in zip(reversed(self.layers), reversed(maps[:-1]), strict=True):
            x = layer.get_submodule("Upsample")(x)
            x = layer(x + skip, *where) if self.adds_skip else layer(x, skip)
            decoded.insert(0, x)
        return decoded


class SkipDecoder(Decoder):
    """Stages that get the skip beside the map."""

    adds_skip = False


class DirectNNFormer(nn.Module):
    """nnFormer as its code is today; (b input_channels *crop) -> logits, finest first.

    Args:
        input_channels: Channels of the image.
        num_classes: Channels of the logits.
        crop: Voxels of the image along each axis.
        channels: Of the first stage; they double.
        embedding: Voxels of the crop per voxel of the first stage, each 1, 2 or 4.
        num_heads: Heads in each stage of the encoder; the decoder has the same.
        depths: Blocks in each stage of the encoder; the decoder has the same.
        windows: Of each stage of the encoder, see `fitted_window`; the decoder has the same.
        strides: From each stage to the next, and behind the last one; 2 on all axes by default, as published.
        drop_path_rate: Highest rate: rates rise from 0 along the encoder, and again along the decoder.
        quirk: See `relative_position_index`.
        deep_supervision: Whether all heads are returned, as a list; else the finest.
    """

    published_source = "nnformer"  # whose state dict this one's is, for `published.load_published_weights`
    decoder_name, wide_down, down_after_last = "decoder", True, False
    encoder_stage: type[Stage] = SwinStage
    decoder_stage: type[Stage] = SkipStage
    decoder_class: type[Decoder] = SkipDecoder

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        crop: Sequence[int] = (64, 128, 128),
        channels: int = 192,
        embedding: Sequence[int] = (2, 4, 4),
        num_heads: Sequence[int] = (6, 12, 24, 48),
        depths: Sequence[int] = (2, 2, 2, 2),
        windows: Sequence[int | Size] = (4, 4, 8, 4),
        strides: Sequence[Size] | None = None,
        drop_path_rate: float = 0.2,
        quirk: bool = True,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        n_stages, strides = len(depths), strides or [(2, 2, 2)] * len(depths)
        self.deep_supervision = deep_supervision
        sizes = [_divided(crop, embedding)]
        for stride in strides[: n_stages - 1]:
            sizes.append(_divided(sizes[-1], stride))
        encoder, decoder = [], []
        rates = _rising(drop_path_rate, sum(depths))
        for number, depth in enumerate(depths):
            width = channels * 2**number
            has_down = self.down_after_last or number < n_stages - 1
            down = Downsample(width, strides[number], self.wide_down) if has_down else None
            own, rates = rates[:depth], rates[depth:]
            arguments = (width, sizes[number], num_heads[number], windows[number], own, quirk)
            encoder.append(self.encoder_stage(*arguments, downsample=down, **self.stage_options(number, False)))
        rates = _rising(drop_path_rate, sum(depths[:-1]))
        for number in reversed(range(n_stages - 1)):
            width, depth = channels * 2**number, depths[number]
            up = Upsample(2 * width, strides[number])
            own, rates = rates[:depth], rates[depth:]
            arguments = (width, sizes[number], num_heads[number], windows[number], own, quirk)
            decoder.insert(0, self.decoder_stage(*arguments, upsample=up, **self.stage_options(number, True)))
        self.model_down = Encoder(PatchEmbed(input_channels, channels, embedding), encoder, channels)
        self.add_module(self.decoder_name, self.decoder_class(decoder))
        heads = self.head_strides(embedding, n_stages - 1)
        self.final = nn.ModuleList(Head(channels * 2**number, num_classes, up) for number, up in enumerate(heads))

    def stage_options(self, number: int, decoder: bool) -> dict[str, Any]:
        """Return what else a stage gets when it is made."""
        return {}

    def head_strides(self, embedding: Sequence[int], number: int) -> list[Size]:
        """Return the strides of the heads, finest first."""
        d, h, w = embedding
        return [(d, h, w)] * number

    def decode(self, x: Tensor, *where: Tensor) -> list[Tensor]:
        """Return the logits of all heads, finest first."""
        decoded = self.get_submodule(self.decoder_name)(self.model_down(x, *where), *where)
        return [head(level) for head, level in zip(self.final, decoded, strict=True)]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        logits = self.decode(x)
        return logits if self.deep_supervision else logits[0]


class DirectOldNNFormer(DirectNNFormer):
    """nnFormer as FINE builds on it: a shifted-window U-Net whose skips are added.

    What the published network computes and throws away is here, too.

    Args:
        all_heads: Whether the coarsest head is returned, which is not as published.
        arguments: See `DirectNNFormer`; windows are 4 by default.
    """

    published_source = "nnformer_2021"
    decoder_name, wide_down, down_after_last = "encoder", False, True
    decoder_stage, decoder_class = SwinStage, Decoder

    def __init__(self, *arguments: Any, all_heads: bool = False, **keywords: Any) -> None:
        depths = keywords.get("depths", (2, 2, 2, 2))
        super().__init__(*arguments, **{"windows": (4,) * len(depths)} | keywords)
        self.returned = len(self.final) if all_heads else 2

    def head_strides(self, embedding: Sequence[int], number: int) -> list[Size]:
        # Kernels of (4, 4, 4) are published for the embedding (2, 4, 4); for others the two-fold of it, at most 4
        coarse = [min(4, 2 * e) for e in embedding]
        (d, h, w), (d2, h2, w2) = embedding, coarse
        return [(d, h, w), *[(d2, h2, w2)] * (number - 1)]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        logits = self.decode(x)[: self.returned]
        return logits if self.deep_supervision else logits[0]


def fitted_strides(crop: Sequence[int], n_stages: int = 4) -> tuple[Size, list[Size]]:
    """Return the embedding and strides for a crop, which are the published ones for (64, 128, 128).

    Axes as long as the longest are embedded by 4, shorter ones by 2 or 1; strides are 2 on axes of 8 voxels and more.
    """
    parts = [length / max(crop) for length in crop]
    d, h, w = (4 if part > 0.75 else 2 if part > 0.25 else 1 for part in parts)
    size, strides = _divided(crop, (d, h, w)), []
    for _ in range(n_stages):
        a, b, c = (2 if length >= 8 and length % 2 == 0 else 1 for length in size)
        strides.append((a, b, c))
        size = _divided(size, strides[-1])
    return (d, h, w), strides


def _divided(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    if any(length % s for length, s in zip(size, stride, strict=True)):
        raise ValueError(f"{tuple(size)} voxels are not a multiple of the stride {tuple(stride)}")
    return tuple(length // s for length, s in zip(size, stride, strict=True))


def _rising(last: float, number: int) -> list[float]:
    return [last * place / (number - 1) for place in range(number)]
