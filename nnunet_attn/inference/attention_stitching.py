"""Attention maps of a whole preprocessed image, from those that a network gives of one tile."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from numpy.typing import NDArray
from torch import Tensor

from nnunet_attn.architectures.attention import AttentionMap, attention_maps, voxel_attention
from nnunet_attn.training.predictor import plain_network, with_positions

STEP = 0.5
"""Between tiles, in tiles: nnU-Net's own."""

SUM_BYTES = 2 * 2**30
"""How much memory the sums over tiles may take; with more stages than that the tiles are run through again."""


@dataclass(frozen=True)
class ImageMap:
    """One stage's attention over a preprocessed image.

    Args:
        stage: Name of the stage.
        values: (heads *space) float32; 1.0 is uniform attention; NaN where a voxel cannot look.
        note: What the network says about the map, or nothing.
    """

    stage: str
    values: NDArray[np.float32]
    note: str = ""


@dataclass(frozen=True)
class Tiling:
    """nnU-Net's tiles of a preprocessed image (c d h w), which is padded where it is smaller than a tile.

    Args:
        shape: Voxels of the image, always three axes.
        patch_size: Voxels of a tile along two or three axes; two: every plane of the first axis has tiles of its own.
    """

    shape: tuple[int, ...]
    patch_size: tuple[int, ...]

    @property
    def _outer(self) -> tuple[int, ...]:
        return self.shape[: len(self.shape) - len(self.patch_size)]

    @property
    def _inner(self) -> tuple[int, ...]:
        return self.shape[len(self._outer) :]

    @cached_property
    def padded_shape(self) -> tuple[int, ...]:
        """Voxels of the padded image."""
        return (*self._outer, *map(max, self._inner, self.patch_size))

    @cached_property
    def inside(self) -> tuple[slice, ...]:
        """Where the image lies in the padded one; where nothing fits evenly, nnU-Net pads one voxel more behind it."""
        before = [(padded - size) // 2 for padded, size in zip(self.padded_shape, self.shape, strict=True)]
        return tuple(slice(at, at + size) for at, size in zip(before, self.shape, strict=True))

    @cached_property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """First voxels of the tiles, of a plane's where there are planes."""
        inner = self.padded_shape[len(self._outer) :]
        return tuple(product(*compute_steps_for_sliding_window(inner, self.patch_size, STEP)))

    def slices(self) -> list[tuple[Any, ...]]:
        """Return where each tile lies in the padded image, in nnU-Net's order."""
        planes = product(*map(range, self._outer))
        return [(*plane, *self._slices_at(start)) for plane in planes for start in self.starts]

    def _slices_at(self, start: Sequence[int]) -> tuple[slice, ...]:
        return tuple(slice(at, at + size) for at, size in zip(start, self.patch_size, strict=True))

    def padded(self, image: Tensor) -> Tensor:
        """Return the image with zeros around it where it is smaller than a tile, as nnU-Net pads it."""
        return pad_nd_image(image, self.patch_size, "constant", {"value": 0})  # pyright: ignore[reportReturnType]

    def tile_of(self, voxel: Sequence[int]) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        """Return the tile whose centre is nearest to a voxel of the image, and the voxel in that tile.

        With two equally near, the first of them. The voxel is always inside: tiles overlap by half.
        """
        outer = len(self._outer)
        at = [index + inside.start for index, inside in zip(voxel[outer:], self.inside[outer:], strict=True)]

        def distance(start: Sequence[int]) -> float:
            middles = (begin + (size - 1) / 2 for begin, size in zip(start, self.patch_size, strict=True))
            return sum((middle - index) ** 2 for middle, index in zip(middles, at, strict=True))

        start = min(self.starts, key=distance)
        within = tuple(index - begin for index, begin in zip(at, start, strict=True))
        return (*voxel[:outer], *self._slices_at(start)), within


def stitched_maps(
    network: Any,
    image: Tensor,
    patch_size: Sequence[int],
    stages: Sequence[str],
    device: torch.device,
    on_tile: Callable[[], object] | None = None,
    sum_bytes: int = SUM_BYTES,
) -> Iterator[ImageMap]:
    """Return each stage's attention over an image: the tiles' maps, averaged with nnU-Net's Gaussian weights.

    A tile's map is what each of its cells receives from all cells of the tile; 1.0 where all cells receive the same. Of
    maps that cover the whole volume, each cell's plain mean over the tiles for which it takes part; NaN where there is
    none.

    Args:
        network: The network, on `device`.
        image: (c d h w) The preprocessed image; channels of position are added if the network reads them.
        patch_size: Voxels of a tile.
        stages: Names of the stages, one map each, in this order.
        device: Where tiles are computed; sums stay in the computer's memory.
        on_tile: Called after each tile.
        sum_bytes: Memory for the sums; stages that do not fit wait for another run over the tiles.
    """
    network = plain_network(network)
    tiling = Tiling(tuple(image.shape[1:]), tuple(patch_size))
    padded = tiling.padded(with_positions(network, image))
    gaussian = compute_gaussian(
        tuple(patch_size), sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=torch.device("cpu")
    )
    total = torch.zeros(tiling.padded_shape)
    for place in tiling.slices():
        total[place] += gaussian
    places = tiling.slices()
    waiting = list(stages)
    while waiting:
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        first: dict[str, AttentionMap] = {}
        for place in places:
            tile = padded[(slice(None), *place)][None].to(device)
            maps = attention_maps(network, tile, list(first) or waiting)
            if not first:
                first = {found.stage: found for found in _that_fit(maps, total.numel(), sum_bytes)}
            for found in maps:
                if found.stage not in first:
                    continue
                if found.covers == "volume":
                    added = found.weights.float().cpu()
                    if found.stage not in sums:
                        sums[found.stage], counts[found.stage] = torch.zeros_like(added), torch.zeros_like(added)
                    sums[found.stage] += added.nan_to_num(0.0)
                    counts[found.stage] += ~added.isnan()
                    continue
                if found.stage not in sums:
                    sums[found.stage] = torch.zeros(len(found.weights), *tiling.padded_shape)
                sums[found.stage][(slice(None), *place)] += found.expanded(patch_size).float().cpu() * gaussian
            if on_tile is not None:
                on_tile()
        for stage, found in first.items():
            summed = sums.pop(stage)
            if found.covers == "volume":
                values = replace(found, weights=summed / counts[stage]).expanded(tiling.shape)
            else:
                values = summed.div_(total)[(slice(None), *tiling.inside)]
            yield ImageMap(stage, values.numpy(), found.note)
            waiting.remove(stage)


def _that_fit(maps: Sequence[AttentionMap], voxels: int, budget: int) -> Sequence[AttentionMap]:
    """Return the first maps whose sums fit into a budget, at least one."""
    count, needed = 0, 0
    for found in maps:
        needed += 4 * (len(found.weights) * voxels if found.covers == "tile" else 2 * found.weights.numel())
        if count and needed > budget:
            break
        count += 1
    return maps[:count]


def voxel_maps(
    network: Any,
    image: Tensor,
    patch_size: Sequence[int],
    voxel: Sequence[int],
    stages: Sequence[str],
    device: torch.device,
) -> Iterator[ImageMap]:
    """Return what one voxel of an image attends to in each stage, as the tile whose centre is nearest sees it.

    NaN outside that tile, except where a map covers the whole volume. A network with `attention_grid` answers for the
    block around the voxel's patch, as it labels that patch: NaN outside the block.

    Args:
        network: As in `stitched_maps`, like what is not named here.
        image: (c d h w) The preprocessed image.
        patch_size: Voxels of a tile.
        voxel: Index of the voxel along the image's three axes.
        stages: Names of the stages.
        device: Where the tile is computed.
    """
    network = plain_network(network)
    if has_grid(network):
        yield from _block_maps(network, image, voxel, stages)
        return
    shape = tuple(image.shape[1:])
    tiling = Tiling(shape, tuple(patch_size))
    place, within = tiling.tile_of(voxel)
    tile = tiling.padded(with_positions(network, image))[(slice(None), *place)][None].to(device)
    for found in voxel_attention(network, tile, within, list(stages)):
        if found.covers == "volume":
            values = found.expanded(shape).float()
        else:
            padded = torch.full((len(found.weights), *tiling.padded_shape), float("nan"))
            padded[(slice(None), *place)] = found.expanded(patch_size).float().cpu()
            values = padded[(slice(None), *tiling.inside)]
        yield ImageMap(found.stage, values.cpu().numpy(), found.note)


def _block_maps(network: Any, image: Tensor, voxel: Sequence[int], stages: Sequence[str]) -> Iterator[ImageMap]:
    """Return what a voxel attends to within the block around its patch, on the grid of the whole image; NaN outside."""
    sizes = tuple(network.patch_embed_size)
    outer = image.ndim - 1 - len(sizes)
    plane = tuple(voxel[:outer])
    whole = image[(slice(None), *plane)]
    block = []
    for at, size, count in zip(voxel[outer:], sizes, network.neighbourhood, strict=True):
        first = at // size - count // 2
        block.append(slice(max(0, first * size), (first + count) * size))
    place = (slice(None), *plane, *block)
    for found in voxel_attention(network, whole[None], tuple(voxel[outer:]), list(stages)):
        values = torch.full((len(found.weights), *image.shape[1:]), float("nan"))
        values[place] = found.expanded(whole.shape[1:]).float().cpu()[(slice(None), *block)]
        yield ImageMap(found.stage, values.numpy(), found.note)


def has_grid(network: Any) -> bool:
    """Whether a network maps a whole image at once, and knows queries and a token's attention to itself."""
    return hasattr(plain_network(network), "attention_grid")


def grid_maps(
    network: Any,
    image: Tensor,
    stages: Sequence[str],
    query: Literal["all", "centre"],
    include_self: bool,
    on_plane: Callable[[], object] | None = None,
) -> Iterator[ImageMap]:
    """Return each stage's attention over an image, of a network that has its own `attention_grid` for whole images.

    Args:
        network: The network.
        image: (c d h w) The preprocessed image; a network of two axes gets it plane by plane.
        stages: Names of the stages, `s1` and so on, one map each.
        query: See `PatchTransformer.attention_grid`.
        include_self: See `PatchTransformer.attention_grid`.
        on_plane: Called after each plane, or the volume.
    """
    network = plain_network(network)
    cell = tuple(network.patch_embed_size)
    planar = len(cell) < image.ndim - 1
    parts = image.unbind(1) if planar else (image,)
    numbers = [int(stage.removeprefix("s")) for stage in stages]
    collected: dict[str, list[Tensor]] = {stage: [] for stage in stages}
    for part in parts:
        found = network.attention_grid(part, numbers, query=query, include_self=include_self)
        for stage, weights in zip(stages, found, strict=True):
            collected[stage].append(weights.cpu())
        if on_plane is not None:
            on_plane()
    for stage in stages:
        planes = [_cells_to_voxels(weights, parts[0].shape[1:], cell) for weights in collected.pop(stage)]
        yield ImageMap(stage, (torch.stack(planes, 1) if planar else planes[0]).numpy())


def _cells_to_voxels(weights: Tensor, shape: Sequence[int], cell: Sequence[int]) -> Tensor:
    for axis, (length, edge) in enumerate(zip(shape, cell, strict=True), start=1):
        weights = weights.repeat_interleave(edge, axis).narrow(axis, 0, length)
    return weights.float()
