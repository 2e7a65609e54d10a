"""Gated axial attention networks (MedT): axial U-Net, gated axial U-Net, LoGo, MedT and its two branches, in 2D and 3D.

All of them take the arguments of `AxialNetwork`, here as `shared`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch.nn import functional as F

from nnunet_attn.architectures.axial_network import AxialNetwork
from nnunet_attn.architectures.blocks.axial_attention import Variant
from nnunet_attn.architectures.blocks.axial_block import CONVOLUTIONS
from nnunet_attn.architectures.blocks.grid import from_cells, legal_grid, to_cells
from nnunet_attn.architectures.shapes import AnyMap, Image


class AxialUNet(AxialNetwork):
    """Axial attention U-Net: four stages of blocks with positions and without gates.

    Source: arXiv:2102.10662, the baseline "Axial Attention U-Net".
    """

    max_heads = 4
    variant: ClassVar[Variant] = "plain"

    def __init__(self, input_channels: int, num_classes: int, patch_size: Sequence[int], **shared: Any) -> None:
        super().__init__(input_channels, num_classes, patch_size, **shared)
        self.branch = self._branch(self.variant)
        self._supervise(self.branch)

    def features_of(self, x: Image) -> list[AnyMap]:
        """Return the decoder's maps, full resolution first."""
        return self.branch(x)


class GatedAxialUNet(AxialUNet):
    """Gated axial attention U-Net: the axial attention U-Net with gates in every layer.

    Source: arXiv:2102.10662, "Gated Axial Attn.".
    """

    variant = "gated"
    gated = True


class MedTGlobal(AxialNetwork):
    """The global branch of MedT alone: two gated stages on the whole image.

    Departs from the published ablation, whose code is not public: without the 3x3 convolution that fuses two branches.
    Source: arXiv:2102.10662, ablation "global only".
    """

    max_heads = 2
    gated = True

    def __init__(self, input_channels: int, num_classes: int, patch_size: Sequence[int], **shared: Any) -> None:
        super().__init__(input_channels, num_classes, patch_size, **shared)
        self.global_branch = self._branch("gated", stages=2)
        self._supervise(self.global_branch)

    def features_of(self, x: Image) -> list[AnyMap]:
        """Return the decoder's maps, full resolution first."""
        return self.global_branch(x)


class MedTLocal(AxialNetwork):
    """The local branch of MedT alone: four stages without positions on the cells of a grid.

    Args:
        input_channels: See `AxialNetwork`, like all that follow but the next two.
        grid: Cells along each axis, 4, 2 or 1; None takes the most with cells of at least 32 voxels.
        local_stem: Outer channels of the stem: 64 as in the published code, or 8 as in its global branch.

    Departs from the published ablation, whose code is not public: without the 3x3 convolution that fuses two branches.
    Source: arXiv:2102.10662, ablation "local only".
    """

    max_heads = 1

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        grid: Sequence[int] | None = None,
        local_stem: int = 64,
        **shared: Any,
    ) -> None:
        super().__init__(input_channels, num_classes, patch_size, **shared)
        self.grid = legal_grid(self.patch_size, grid)
        self.local_branch = self._local_branch("no_position", self.grid, local_stem)

    def features_of(self, x: Image) -> list[AnyMap]:
        """Return the cells' map at full resolution, put together."""
        return [from_cells(self.local_branch(to_cells(x, self.grid))[0], self.grid, x.shape[2:])]


class LoGo(AxialNetwork):
    """Local and global branch without gates: two stages on the whole image, four on the cells of a grid.

    The maps of both are added; a 3x3 convolution fuses them. The cells are folded into the batch, so that their batch
    norms see all cells at once.

    Args:
        input_channels: See `AxialNetwork`, like all that follow but the next two.
        grid: Cells along each axis, 4, 2 or 1; None takes the most with cells of at least 32 voxels.
        local_stem: Outer channels of the local branch's stem: 64 as in the published code, or 8 as in its global one.

    Source: arXiv:2102.10662, "LoGo".
    """

    max_heads = 2
    global_variant: ClassVar[Variant] = "plain"
    local_variant: ClassVar[Variant] = "plain"

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        grid: Sequence[int] | None = None,
        local_stem: int = 64,
        **shared: Any,
    ) -> None:
        super().__init__(input_channels, num_classes, patch_size, **shared)
        self.grid = legal_grid(self.patch_size, grid)
        self.global_branch = self._branch(self.global_variant, stages=2)
        self.local_branch = self._local_branch(self.local_variant, self.grid, local_stem)
        width = self.features[0]
        self.fusion = CONVOLUTIONS[len(self.patch_size)](width, width, 3, padding=1)
        self._supervise(self.global_branch)

    def features_of(self, x: Image) -> list[AnyMap]:
        """Return the fused map and the global branch's coarser one, full resolution first."""
        whole, *coarser = self.global_branch(x)
        # Departs from the published code, which runs the cells one by one, so that their norms see one place each.
        local = from_cells(self.local_branch(to_cells(x, self.grid))[0], self.grid, x.shape[2:])
        return [F.relu(self.fusion(whole + local)), *coarser]


class MedT(LoGo):
    """Medical Transformer: LoGo with gates in the global branch and no positions in the local one.

    Source: arXiv:2102.10662, Fig. 2a.
    """

    global_variant = "gated"
    local_variant = "no_position"
    gated = True
