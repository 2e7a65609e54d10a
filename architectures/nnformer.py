"""nnFormer as published today, and the plain Swin U-Net of its first publication, on which FINE was built."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from nnunet_attn.architectures.blocks.swin_block import SkipAttentionBlock, Stage, SwinBlock, drop_path_rates
from nnunet_attn.architectures.swin_geometry import Size
from nnunet_attn.architectures.swin_network import SwinNetwork, block_arguments

# Reduction of a deeper output layer in the first publication, at most.
_MOST_DEEP = 4


class NNFormer(SwinNetwork):
    """nnFormer: window attention in four stages, global in the two deepest; the decoder attends to the skips.

    Its arguments are those of `SwinNetwork`.

    Source: Zhou et al., arXiv:2109.03201, and its published code; departures: docs/reference/networks/nnformer.md.
    """

    default_windows = (4, 4, 8, 4)
    default_decoder_windows = (8, 4, 4)
    overlapping_down = True

    attends_to_skips: ClassVar[bool] = True

    def _encoder(self, widths: Sequence[int]) -> nn.ModuleList:
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        stages = zip(widths, self.geometry.sizes, self.windows, self.depths, strict=True)
        return nn.ModuleList(
            Stage(
                SwinBlock(**block_arguments(self, width, size, window, bool(number % 2), next(rates)))
                for number in range(depth)
            )
            for width, size, window, depth in stages
        )

    def _decoder(self, widths: Sequence[int]) -> nn.ModuleList:
        rates = iter(drop_path_rates(self.drop_path, sum(self.decoder_depths)))
        sizes = self.geometry.sizes[-2::-1]
        stages = zip(widths[-2::-1], sizes, self.decoder_windows, self.decoder_depths, strict=True)
        return nn.ModuleList(
            Stage(
                self._decoder_block(number, block_arguments(self, width, size, window, False, next(rates)))
                for number in range(depth)
            )
            for width, size, window, depth in stages
        )

    def _decoder_block(self, number: int, arguments: dict[str, Any]) -> SwinBlock:
        if not self.attends_to_skips:
            return SwinBlock(**{**arguments, "shifted": bool(number % 2)})
        return SwinBlock(**{**arguments, "shifted": True}) if number else SkipAttentionBlock(**arguments)

    def _kernels(self) -> list[Size]:
        return [self.geometry.embedding] * len(self.decoder_depths)

    def decode(self, x: Tensor) -> list[Tensor]:
        """Return the decoder's maps of an embedded image (b d h w c), finest first, channels last."""
        *skips, x = self._encoded(x)
        maps = []
        for up, stage in zip(self.up, self.decoder.stages, strict=True):
            blocks: list[Any] = list(stage.get_submodule("blocks").children())
            x = blocks.pop(0).forward_pair(up(x), skips.pop()) if self.attends_to_skips else up(x) + skips.pop()
            for block in blocks:
                x = block(x)
            maps.insert(0, x)
        return maps

    def _encoded(self, x: Tensor) -> list[Tensor]:
        """Return the normed maps of the encoder's stages, finest first."""
        found = []
        for number, (stage, norm) in enumerate(zip(self.encoder, self.norms, strict=True)):
            for block in stage.get_submodule("blocks").children():
                x = block(x)
            found.append(norm(x))
            if number < len(self.down):
                x = self.down[number](x)
        return found


class NNFormer2021(NNFormer):
    """The plain Swin U-Net of nnFormer's first publication: windows of 4 everywhere, skips are added.

    Its arguments are those of `SwinNetwork`. Departs from the published code in that all three output layers are used;
    there the third is built and never returned.

    Source: arXiv:2109.03201, version 1, in the form in which Themyr et al., arXiv:2210.05313, build on it.
    """

    default_windows = (4, 4, 4, 4)
    default_decoder_windows = (4, 4, 4)
    overlapping_down = False
    attends_to_skips = False

    def _kernels(self) -> list[Size]:
        kernels = [self.geometry.embedding]
        for size in self.geometry.sizes[1 : len(self.decoder_depths)]:
            axes = zip(self.geometry.embedding, self.geometry.padded, size, strict=True)
            # no more than the reduction so far: axes that are not halved would come out longer than the patch
            kernels.append(tuple(min(_MOST_DEEP, 2 * step, full // own) for step, full, own in axes))
        return kernels
