"""The voxels of a patch for a plan."""

import math
from collections.abc import Sequence

# The paper's 8 voxels in 3D; in 2D 16, since a patch of 8 x 8 has so few values that 9 of them cost 5 times as much.
_TARGET = {2: 16.0, 3: 8.0}
_LEAST = 2
_MOST = {2: 48, 3: 24}


def planned_patch_embed_size(patch_size: Sequence[int], spacing: Sequence[float] | None) -> list[int]:
    """Return voxels of a patch along each axis: of about equal length in mm, and dividing the plan's crop.

    The target along an axis is 8 voxels (16 in 2D) times the geometric mean of the spacings, divided by the axis' own.
    Of the divisors of the crop from 2 to 24 (48 in 2D) the one with the closest ratio to the target is taken, the
    smaller of two equally close ones. A crop that has none gets the target, rounded; the network then pads it.

    Args:
        patch_size: Voxels of the crop.
        spacing: Spacing of the resampled images in mm; None: the same along all axes.
    """
    dims = len(patch_size)
    spacing = [1.0] * dims if spacing is None else list(spacing)[-dims:]
    mean = math.prod(spacing) ** (1 / dims)
    sizes = []
    for voxels, step in zip(patch_size, spacing, strict=True):
        target = _TARGET[dims] * mean / step
        legal = [size for size in range(_LEAST, _MOST[dims] + 1) if voxels % size == 0]
        if not legal:
            legal = [min(max(round(target), _LEAST), _MOST[dims])]
        sizes.append(min(legal, key=lambda size: round(abs(math.log(size / target)), 9)))
    return sizes
