"""FINE: nnFormer with memory tokens that know where a crop lies in the whole volume."""

import math
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_attn.architectures.blocks.memory_tokens import MemoryBlock, MemoryStage
from nnunet_attn.architectures.blocks.swin_block import drop_path_rates
from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.nnformer import NNFormer2021
from nnunet_attn.architectures.shapes import Image, Logits, SideLogits
from nnunet_attn.architectures.swin_geometry import check_triple
from nnunet_attn.architectures.swin_network import block_arguments, check_flags

NO_POSITION = (
    "FINE got an image without position channels, so the crop is taken to lie in the middle of its volume; "
    "train and predict with a trainer of FINE, whose data and predictor carry the positions"
)


class FINE(NNFormer2021):
    """nnFormer's first publication with a token for each window and for each sub-volume of the whole volume.

    (b channels d h w) -> (b classes d h w), logits; with deep supervision a list of three, full resolution first. Takes
    crops of `patch_size` only. Behind the image's channels it takes one more for each of `position_axes`: coordinates
    of the voxels relative to the middle of their volume, as ramps or constants. The crop's position is the mean of its
    two central ones, so that flips do not change it. No image content crosses crops: the tokens are parameters.

    Args:
        input_channels: Channels of the image, without positions.
        num_classes: See `SwinNetwork`, like what is not named here.
        patch_size: Voxels along each of the 3 axes; also those of a sub-volume along `grid_axes`.
        volume_extent: Largest size of a volume in the data set, in voxels of the resampled image; None: one sub-volume.
        grid_axes: Axes along which the volume is divided; the published code leaves out the first.
        volume_tokens: Whether sub-volumes have tokens; without them only windows do.
        carry: Whether a stage's sub-volumes start from the stage before, so that far ones reach the voxels; False is
            the published function, where they never do.
        shared: Other arguments of `SwinNetwork`.
    Raises:
        ValueError: If an argument is out of its range, or an input has another size.
    Source: Themyr et al., arXiv:2210.05313; departures: docs/reference/networks/fine.md.
    """

    seen: Tensor

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        volume_extent: Sequence[int] | None = None,
        grid_axes: Sequence[int] = (1, 2),
        volume_tokens: bool = True,
        carry: bool = True,
        **shared: Any,
    ) -> None:
        check_flags(volume_tokens=volume_tokens, carry=carry)
        axes = list(grid_axes) if isinstance(grid_axes, Sequence) else [grid_axes]
        if len(set(axes)) != len(axes) or any(axis not in (0, 1, 2) for axis in axes):
            raise ValueError(f"grid_axes must be a list of some of 0, 1 and 2, got {grid_axes!r}")
        check_triple("patch_size", patch_size)
        volume_extent = patch_size if volume_extent is None else volume_extent
        check_triple("volume_extent", volume_extent)
        sizes = zip(volume_extent, patch_size, strict=True)
        self._grid = tuple(
            max(1, extent // size) if axis in grid_axes else 1 for axis, (extent, size) in enumerate(sizes)
        )
        self.grid_axes = tuple(sorted(axes))
        self._has_volume_tokens = volume_tokens
        self._carry = carry and volume_tokens
        super().__init__(input_channels, num_classes, patch_size, **shared)
        # Along two cells or fewer every crop has them all, wherever it lies.
        self.position_axes = tuple(axis for axis in range(3) if self.grid[axis] > 2) if volume_tokens else ()
        if volume_tokens:
            self.register_buffer("seen", torch.zeros(math.prod(self.grid), dtype=torch.bool))

    @property
    def grid(self) -> tuple[int, int, int]:
        """Sub-volumes along each axis."""
        return self._grid  # pyright: ignore[reportReturnType]

    @property
    def volume_tokens(self) -> bool:
        """Whether sub-volumes have tokens."""
        return self._has_volume_tokens

    @property
    def carry(self) -> bool:
        """Whether a stage's sub-volumes start from the stage before."""
        return self._carry

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that get no weight decay: relative biases, tokens and window positions."""
        tokens = ("window_token", "volume_tokens", "position")
        named = (name for name, _ in self.named_parameters())
        return super().no_weight_decay() | {name for name in named if name.rpartition(".")[2] in tokens}

    def _encoder(self, widths: Sequence[int]) -> nn.ModuleList:
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        return nn.ModuleList(
            self._stage(stage, width, self.windows[stage], self.depths[stage], [next(rates) for _ in range(depth)])
            for stage, (width, depth) in enumerate(zip(widths, self.depths, strict=True))
        )

    def _decoder(self, widths: Sequence[int]) -> nn.ModuleList:
        rates = iter(drop_path_rates(self.drop_path, sum(self.decoder_depths)))
        stages = range(len(self.decoder_depths))
        return nn.ModuleList(
            self._stage(
                len(widths) + number,
                widths[-2 - number],
                self.decoder_windows[number],
                self.decoder_depths[number],
                [next(rates) for _ in range(self.decoder_depths[number])],
            )
            for number in stages
        )

    def _stage(
        self, number: int, width: int, window: tuple[int, ...], depth: int, rates: Sequence[float]
    ) -> MemoryStage:
        """Build a stage, the encoder's from 0 on, then the decoder's; what no voxel would read is left out."""
        encoder, depths = len(self.depths), self.depths + self.decoder_depths
        size = self.geometry.sizes[number if number < encoder else 2 * encoder - 2 - number]
        # tokens of the last blocks are read only if a stage behind, which starts from them, has blocks that read them
        handed_on = self._carry and any(blocks > 1 for blocks in depths[number + 1 :])
        blocks = []
        for place in range(depth):
            arguments = block_arguments(self, width, size, window, bool(place % 2), rates[place])
            read = handed_on or place < depth - 1
            among_all = self._has_volume_tokens and (handed_on or place < depth - 2)
            blocks.append(MemoryBlock(**arguments, global_attention=read, volume_attention=among_all))
        carried = 0
        if self._carry and number > 0:
            carried = 2 * width if number >= encoder else width // 2
        return MemoryStage(blocks, width, math.prod(self.grid) if self._has_volume_tokens else 0, carried)

    def forward(self, x: Image) -> Logits | list[SideLogits]:
        """Return the logits."""
        image, cells = x[:, : self.input_channels], None
        wanted = self.input_channels + len(self.position_axes)
        size = self.geometry.patch_size
        if tuple(x.shape[2:]) != size or x.shape[1] not in (self.input_channels, wanted):
            raise ValueError(
                f"expected an input of (batch, channels, *space) = (b, {wanted}, {size}), {len(self.position_axes)} of "
                f"the channels for positions, got {tuple(x.shape)}"
            )
        if self._has_volume_tokens:
            if x.shape[1] == wanted:
                position = crop_position(x[:, self.input_channels :], self.position_axes)
            else:
                position = x.new_zeros(len(x), 3)
                if not torch.compiler.is_compiling() and x.device.type != "meta":
                    _warn_of_no_position()
            cells = crop_cells(position, size, self.grid)
            if self.training:
                with torch.no_grad():
                    reached = torch.zeros_like(self.seen).scatter(0, cells.flatten(), True)
                    self.seen.logical_or_(reached)
        return self._logits(self.decode(self._embedded(image), cells))

    def decode(self, x: Tensor, cells: Tensor | None = None) -> list[Tensor]:
        """Return the decoder's maps of an embedded image (b d h w c), finest first, channels last.

        Args:
            x: The embedded image.
            cells: Sub-volumes of each crop, (b cells); None: those of a crop in the middle of its volume.
        """
        if cells is None and self._has_volume_tokens:
            cells = crop_cells(x.new_zeros(len(x), 3), self.geometry.patch_size, self.grid)
        seen = self.seen if self._has_volume_tokens else None
        skips, maps, tokens = [], [], None
        for number, (stage, norm) in enumerate(zip(self.encoder, self.norms, strict=True)):
            x, tokens = stage(x, cells, seen, tokens)
            skips.append(norm(x))
            if number < len(self.down):
                x = self.down[number](x)
        x = skips.pop()
        for up, stage in zip(self.up, self.decoder.stages, strict=True):
            x, tokens = stage(up(x) + skips.pop(), cells, seen, tokens)
            maps.insert(0, x)
        return maps

    @classmethod
    def plan_arguments(cls, plan: PlannedUNet) -> dict[str, Any]:
        """Return the JSON-able arguments that a plan decides."""
        decided = super().plan_arguments(plan)
        if plan.volume_extent is not None:
            decided["volume_extent"] = list(plan.volume_extent)
        return decided


def crop_position(coordinates: Tensor, axes: Sequence[int]) -> Tensor:
    """Return where crops lie: voxels from the middle of their volumes, (b 3), from coordinates (b axes d h w).

    Coordinates are ramps or constants; the mean of the two central voxels along an axis is exact for both.
    """
    position = coordinates.new_zeros(len(coordinates), 3)
    middle = coordinates
    for dim, size in enumerate(coordinates.shape[2:], start=2):
        middle = middle.narrow(dim, (size - 1) // 2, 2 - size % 2)
    for channel, axis in enumerate(axes):
        values = middle[:, channel].mean(1 + axis).flatten(1)
        # of a volume one voxel thin, one of the two central planes may be padding, where coordinates are 0
        position[:, axis] = values.gather(1, values.abs().argmax(1, keepdim=True))[:, 0]
    return position


def crop_cells(position: Tensor, patch_size: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Return the sub-volumes of crops, (b cells): along each axis two next to each other, or the only one.

    Sub-volumes are as large as crops and lie around the middle of the volume; the outer ones reach to infinity.

    Args:
        position: Voxels from the middle of the volume, (b 3).
        patch_size: Voxels of a crop.
        grid: Sub-volumes along each axis; they are numbered row-major.
    Source: Themyr et al., arXiv:2210.05313, and its published code.
    """
    cells = torch.zeros(len(position), 1, dtype=torch.long, device=position.device)
    for axis, (size, count) in enumerate(zip(patch_size, grid, strict=True)):
        # floor(p / size + (count - 1) / 2), of whole numbers: positions are multiples of 1/2
        lower = torch.floor((2 * position[:, axis] + size * (count - 1)) / (2 * size))
        lower = lower.clamp(0, max(count - 2, 0)).long()
        own = lower[:, None] + torch.arange(min(2, count), device=position.device)
        cells = (cells[:, :, None] * count + own[:, None]).flatten(1)
    return cells


@cache
def _warn_of_no_position() -> None:
    warnings.warn(NO_POSITION, stacklevel=2)
