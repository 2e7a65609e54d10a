"""Where the patch transformer looks: column sums of its attention, averaged over all blocks of an image."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_attn.architectures.blocks.patch_grid import BlockIndex, split_cells
from nnunet_attn.architectures.blocks.patch_slabs import Slabs

QUERIES = ("all", "centre")
# Blocks at a time: the attention of 256 blocks of 125 patches with 8 heads takes 128 MiB.
_CHUNK = 256


class PatchMaps(nn.Module):
    """What the patch transformer has to show its attention; not a network itself.

    A block's attention matrix has a row for each query and a column for each key, both patches of the block. The sum
    of a column is what all patches of the block pay to that patch; the columns of a matrix add up to its number of
    patches, so that 1.0 is uniform attention. A patch of the image lies in many blocks; their mean is its value.
    With `scale` "outside" the matrices are those of the softmax, before they are divided by sqrt(head_dim).

    Source: Karimi et al., arXiv:2102.13645, section 3.
    """

    embed: nn.Linear
    stages: nn.ModuleList
    patch_embed_size: tuple[int, ...]
    neighbourhood: tuple[int, ...]
    num_heads: int
    depth: int
    chunk_size: int | None
    _centre: int
    _index: BlockIndex

    def attention_grid(
        self,
        image: Tensor,
        stages: Sequence[int] | None = None,
        query: str = "all",
        include_self: bool = True,
        offset: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Return what each patch of an image receives, (heads *grid) on the CPU for each stage; 1.0 is uniform.

        The grid covers the image from its first voxel on (or from `offset` voxels in front of it), in patches of
        `patch_embed_size` voxels; the last ones may reach beyond it. See `attention_sums` for the arguments.
        """
        sums, counts = self.attention_sums(image, stages, query, include_self, offset)
        inner = tuple(
            slice(count // 2, size - count // 2) for count, size in zip(self.neighbourhood, counts.shape, strict=True)
        )
        return [(own / counts)[(slice(None), *inner)] for own in sums]

    @torch.no_grad()
    def attention_sums(
        self,
        image: Tensor,
        stages: Sequence[int] | None = None,
        query: str = "all",
        include_self: bool = True,
        offset: Sequence[int] | None = None,
        slab_cells: int | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the column sums of all blocks, added up on the padded grid, and how many blocks a patch lies in.

        Both have the patches around the image too, half a block at each side: (heads *padded) for each stage, and
        (*padded). Over the whole padded grid the sums divided by the sum of counts are 1, with the patch itself left
        in.

        Args:
            image: One image, (channels *space) or (1 channels *space), on any device.
            stages: Numbers of the stages, from 1 on; None: all.
            query: "all": every patch of a block asks; "centre": only the one that is labelled, times their number.
            include_self: Whether what a patch pays to itself counts; if not, the rest is scaled so that 1.0 is uniform.
            offset: Voxels by which the grid begins in front of the image, see `grid_forward`; None: none.
            slab_cells: Planes of patches at a time; None: by their size.
        Raises:
            ValueError: If an argument is none of these, or the image is not one image of the network's channels.
        """
        wanted = self._stages(stages)
        tokens = math.prod(self.neighbourhood)
        if query not in QUERIES:
            raise ValueError(f"query must be one of {', '.join(QUERIES)}, got {query!r}")
        if not include_self and tokens == 1:
            raise ValueError("a block of 1 patch has attention to itself only; take include_self=True")
        image = self._single(image)
        slabs = Slabs(image.shape[2:], self.patch_embed_size, self.neighbourhood, slab_cells, offset)
        padded = [cells + count - 1 for cells, count in zip(slabs.grid, self.neighbourhood, strict=True)]
        device = self.embed.weight.device
        dtype = torch.promote_types(self.embed.weight.dtype, torch.float32)
        sums = torch.zeros(len(wanted), self.num_heads, *padded, dtype=dtype)
        for slab in slabs:
            cells = self.embed(split_cells(slabs.cut(image, slab, device), self.patch_embed_size))[0]
            first, others = self._index.of(cells.shape[:-1], device)
            received = torch.zeros(len(wanted), self.num_heads, cells[..., 0].numel(), dtype=dtype, device=device)
            for own in first.split(self.chunk_size or _CHUNK):
                places = (own[:, None] + others).flatten()
                for number, attention in self._attention(self._tokens_of(cells.flatten(0, -2), own, others), wanted):
                    if not include_self:
                        attention = attention - torch.diag_embed(attention.diagonal(dim1=-2, dim2=-1))
                        attention = attention * (tokens / (tokens - 1))
                    columns = attention.sum(-2) if query == "all" else attention[..., self._centre, :] * tokens
                    columns = columns.to(dtype).transpose(0, 1).flatten(1)
                    received[wanted.index(number)].index_add_(1, places, columns)
            planes = slice(slab.first, slab.first + cells.shape[0])
            sums[:, :, planes] += received.unflatten(-1, cells.shape[:-1]).cpu()
        return list(sums), _counts(slabs.grid, self.neighbourhood).to(dtype)

    @torch.no_grad()
    def block_attention(self, image: Tensor, cell: Sequence[int], stages: Sequence[int] | None = None) -> list[Tensor]:
        """Return the attention within the block around one patch, (heads query key) on the CPU for each stage.

        Queries and keys are the patches of the block, row-major; rows add up to 1. The patch itself is the middle one.

        Args:
            image: One image, (channels *space) or (1 channels *space), on any device.
            cell: Number of the patch along each axis: a voxel's number // `patch_embed_size`.
            stages: Numbers of the stages, from 1 on; None: all.
        Raises:
            ValueError: If the patch is not one of the image's, or there is no such stage.
        """
        wanted = self._stages(stages)
        image = self._single(image)
        slabs = Slabs(image.shape[2:], self.patch_embed_size, self.neighbourhood, 1)
        inside = len(cell) == len(slabs.grid) and all(0 <= own < n for own, n in zip(cell, slabs.grid, strict=True))
        if not inside:
            raise ValueError(f"the image has patches from 0 to below {slabs.grid} along its axes, got {tuple(cell)}")
        slab = list(slabs)[cell[0]]
        voxels = slabs.cut(image, slab, self.embed.weight.device)
        for axis in range(1, len(cell)):
            size, count = self.patch_embed_size[axis], self.neighbourhood[axis]
            voxels = voxels.narrow(2 + axis, cell[axis] * size, count * size)
        block = self.embed(split_cells(voxels, self.patch_embed_size))[0]
        first, others = self._index.of(block.shape[:-1], block.device)
        found = self._attention(self._tokens_of(block.flatten(0, -2), first, others), wanted)
        attention = {number: weights[0].cpu() for number, weights in found}
        return [attention[number] for number in wanted]

    def _attention(self, tokens: Tensor, wanted: Sequence[int]) -> Any:
        """Give the number of each wanted stage with its attention, (blocks heads query key), in their order."""
        for number, stage in enumerate(self.stages, start=1):
            if number in wanted:
                yield number, stage.attention(tokens)  # pyright: ignore[reportCallIssue]
            if number < max(wanted):
                tokens = stage(tokens)

    def _stages(self, stages: Sequence[int] | None) -> list[int]:
        wanted = list(range(1, self.depth + 1)) if stages is None else list(stages)
        if not wanted or len(set(wanted)) < len(wanted) or any(not 1 <= number <= self.depth for number in wanted):
            raise ValueError(f"stages must be some of 1 to {self.depth}, each once, got {wanted}")
        return wanted

    def _single(self, image: Tensor) -> Tensor:
        image = image[None] if image.ndim == 1 + len(self.patch_embed_size) else image
        self._check(image)
        if len(image) != 1:
            raise ValueError(f"attention is shown of one image at a time, got a batch of {len(image)}")
        return image

    def _tokens_of(self, cells: Tensor, first: Tensor, others: Tensor, blank_centre: bool = False) -> Tensor:
        raise NotImplementedError

    def _check(self, x: Tensor) -> None:
        raise NotImplementedError


def _counts(grid: Sequence[int], neighbourhood: Sequence[int]) -> Tensor:
    """Return in how many blocks each cell of the padded grid lies, (*padded)."""
    counts = torch.ones(())
    for cells, count in zip(grid, neighbourhood, strict=True):
        places = torch.arange(cells + count - 1)
        # blocks begin at 0 to cells - 1 and have `count` cells
        along = places.clamp(max=cells - 1) - (places - count + 1).clamp(min=0) + 1
        counts = counts[..., None] * along
    return counts
