"""How well images are reconstructed: the loss of pre-training, and what its log and its report tell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MEASURES = ("mse", "r2", "psnr_db", "psnr_db_given")
"""What the report says of each case."""


def with_region(clean: Tensor, region: Tensor) -> Tensor:
    """Return one tensor of what is to be predicted and where: (b c *space) and (b 1 *space) -> (b c+1 *space)."""
    return torch.cat([clean, region.to(clean.dtype)], dim=1)


class ReconstructionError(nn.Module):
    """Mean squared error over the voxels of a region and all channels.

    Outputs (b c *space) and targets (b c+1 *space), whose last channel is 1 in the region and 0 elsewhere.
    """

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss, in float32 whatever the output's precision is."""
        clean, region = target[:, :-1], target[:, -1:]
        error = (output.float() - clean.float()).square() * region
        return error.sum() / (region.sum() * clean.shape[1]).clamp(min=1)


@dataclass
class Totals:
    """Sums over the voxels of regions, each of one number a channel; they add up over batches and ranks.

    Args:
        voxels: Number of voxels.
        values: Sum of the clean values.
        squares: Sum of their squares.
        errors: Sum of the squared errors.
    """

    voxels: NDArray[np.float64]
    values: NDArray[np.float64]
    squares: NDArray[np.float64]
    errors: NDArray[np.float64]

    @staticmethod
    def of(output: Tensor, target: Tensor) -> "Totals":
        """Return the sums of a batch, of what `ReconstructionError` compares."""
        clean, region = target[:, :-1].float(), target[:, -1:].float()
        axes = (0, *range(2, clean.ndim))

        def total(values: Tensor) -> NDArray[np.float64]:
            return (values * region).sum(dim=axes).double().cpu().numpy()

        error = (output.float() - clean).square()
        return Totals(total(torch.ones_like(clean)), total(clean), total(clean.square()), total(error))

    @staticmethod
    def sum(parts: Sequence["Totals"]) -> "Totals":
        """Return the sums over several batches."""
        names = ("voxels", "values", "squares", "errors")
        return Totals(*(np.sum([getattr(part, name) for part in parts], axis=0) for name in names))

    @property
    def explained(self) -> list[float]:
        """R^2 = 1 - MSE / variance of each channel: 1 is perfect, 0 as good as the mean; 0 where nothing varies."""
        voxels = np.maximum(self.voxels, 1)  # of an empty region all sums are 0
        mse, mean = self.errors / voxels, self.values / voxels
        variance = self.squares / voxels - mean**2
        # of single precision's sums nothing is left where a channel is constant
        varies = variance > 1e-6 * (1 + mean**2)
        return [float(1 - m / v) if can else 0.0 for m, v, can in zip(mse, variance, varies, strict=True)]

    @property
    def mse(self) -> float:
        """Mean squared error over all channels; NaN of an empty region."""
        voxels = self.voxels.sum()
        return float(self.errors.sum() / voxels) if voxels else math.nan


def reconstruction_measures(output: Tensor, given: Tensor, target: Tensor) -> dict[str, Any]:
    """Return what the report says of one case: JSON-able, None where a number is not finite or the region is empty.

    `psnr_db` is 10 log10(range^2 / MSE), with the range from the smallest to the largest clean value in the region;
    `psnr_db_given` is that of the network's input instead of its output.

    Args:
        output: The reconstruction, (b c *space).
        given: What the network was given in place of the clean image, (b c *space).
        target: As `ReconstructionError` takes it.
    """
    clean, region = target[:, :-1].float(), target[:, -1:].bool().expand_as(target[:, :-1])
    if not region.any():
        return dict.fromkeys(MEASURES)
    inside = clean[region]
    spread = float(inside.max() - inside.min())
    totals = Totals.of(output, target)
    measures = {
        "mse": totals.mse,
        "r2": float(np.mean(totals.explained)),
        "psnr_db": _psnr_db(spread, totals.mse),
        "psnr_db_given": _psnr_db(spread, Totals.of(given, target).mse),
    }
    return {name: value if math.isfinite(value) else None for name, value in measures.items()}


def _psnr_db(spread: float, mse: float) -> float:
    return 10 * math.log10(spread**2 / mse) if spread > 0 and mse > 0 else math.inf
