"""Positions of the patches of a block: learned, or fixed sines and cosines."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

POSITIONS = ("learned", "fixed", "none")
# Wavelengths from 2 pi to 10000 * 2 pi patches, as in Vaswani et al., arXiv:1706.03762
_LONGEST = 10000.0


def fixed_position(neighbourhood: Sequence[int], embed_dim: int) -> Tensor:
    """Return the fixed positions of the patches of a block, row-major, (patches embed).

    Each axis has embed_dim // (2 axes) frequencies, sines first, then cosines of the patch's number along the axis;
    what is left of `embed_dim` is zero.

    Args:
        neighbourhood: Patches of a block along each axis.
        embed_dim: Width of a token.
    """
    count = embed_dim // (2 * len(neighbourhood))
    frequencies = _LONGEST ** (-torch.arange(count, dtype=torch.float64) / max(count, 1))
    numbers = list(itertools.product(*(range(size) for size in neighbourhood)))
    angles = torch.tensor(numbers, dtype=torch.float64)[:, :, None] * frequencies
    values = torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
    return torch.nn.functional.pad(values, (0, embed_dim - values.shape[1])).float()
