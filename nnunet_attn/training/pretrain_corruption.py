"""What a network is to undo in pre-training: noise added to images, cells of images hidden."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SNR_DB = 10.0
"""Signal to noise ratio of noisy images: the noise has a tenth of the image's variance."""

HIDDEN_SHARE = 0.25
"""Share of the cells that are hidden, at least one.

Enough voxels for a step's loss, and yet all face neighbours of a hidden cell are hidden with a probability of
0.25 ** 6 in 3D and 0.25 ** 4 in 2D, so that almost every hidden cell borders on what can be seen.
"""


def with_noise(image: Tensor, generator: torch.Generator, snr_db: float = SNR_DB) -> Tensor:
    """Return images with Gaussian noise, (b c *space) -> (b c *space).

    Args:
        image: Of each sample and channel the variance over its voxels decides the power of the noise. It is the
            variance, not the mean square, so that an offset of the intensities changes nothing.
        generator: Of the image's device.
        snr_db: 10 log10 of the image's variance over the noise's.
    """
    axes = tuple(range(2, image.ndim))
    variance = image.var(dim=axes, correction=0, keepdim=True)
    noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    return image + noise * (variance * 10 ** (-snr_db / 10)).sqrt()


def hidden_cells(
    space: Sequence[int], edges: Sequence[int], samples: int, generator: torch.Generator, share: float = HIDDEN_SHARE
) -> Tensor:
    """Return which voxels are hidden, (b 1 *space), 1 or 0: random cells of a grid, in each sample others.

    Args:
        space: Voxels along each axis.
        edges: Voxels of a cell along each axis; where they do not divide `space`, the last cells are cut.
        samples: Samples b.
        generator: Its device is that of the result.
        share: Share of the cells that are hidden, rounded, at least one.
    """
    grid = [-(-full // edge) for full, edge in zip(space, edges, strict=True)]
    cells = math.prod(grid)
    count = max(1, round(share * cells))
    order = torch.rand(samples, cells, generator=generator, device=generator.device).argsort(dim=1)
    hidden = torch.zeros(samples, cells, device=generator.device).scatter_(1, order[:, :count], 1.0)
    hidden = hidden.view(samples, 1, *grid)
    for axis, (full, edge) in enumerate(zip(space, edges, strict=True), start=2):
        hidden = hidden.repeat_interleave(edge, dim=axis).narrow(axis, 0, full)
    return hidden
