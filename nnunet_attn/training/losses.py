"""What a trainer can choose beside nnU-Net's own loss."""

from typing import Literal

import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor, nn
from torch.nn import functional as F

LossTerms = Literal["dice_and_cross_entropy", "cross_entropy", "dice"]


class CrossEntropy(nn.Module):
    """Mean cross-entropy over all voxels that are labelled; binary cross-entropy, over all regions too, for regions.

    Logits (b classes *space) and labels (b 1 *space), or regions (b classes *space), as nnU-Net's loaders give them.
    A batch without any labelled voxel has the loss 0, with gradients.

    Args:
        regions: Whether classes are regions, which may overlap.
        ignore_label: The label of voxels that are not labelled, None if there is none; regions have a channel
            of such voxels behind the others.
    """

    def __init__(self, regions: bool, ignore_label: int | None) -> None:
        super().__init__()
        self.regions = regions
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        if not self.regions:
            if self.ignore_label is None:
                return F.cross_entropy(logits, target[:, 0].long())
            labelled = (target != self.ignore_label).sum()
            # "mean" would be 0 / 0 for a patch without labels
            total = F.cross_entropy(logits, target[:, 0].long(), ignore_index=self.ignore_label, reduction="sum")
            return total / labelled.clamp(min=1)
        if self.ignore_label is None:
            return F.binary_cross_entropy_with_logits(logits, target.float())
        labelled = ~target[:, -1:].bool()
        each = F.binary_cross_entropy_with_logits(logits, target[:, :-1].float(), reduction="none")
        # an infinite logit where nothing is labelled must not reach the sum as infinity * 0
        each = torch.where(labelled, each, torch.zeros_like(each))
        return each.sum() / (labelled.sum() * logits.shape[1]).clamp(min=1)


class Dice(nn.Module):
    """Negative mean soft Dice of foreground classes, or regions, over all labelled voxels of a batch at once.

    Logits (b classes *space) and labels (b 1 *space), or regions (b classes *space), as nnU-Net's loaders give them.
    Over the batch, because a small patch that holds nothing but background has no Dice of its own.

    Args:
        regions: As in `CrossEntropy`.
        ignore_label: As in `CrossEntropy`.
        distributed: Whether the batch is that of all processes.
    """

    def __init__(self, regions: bool, ignore_label: int | None, distributed: bool = False) -> None:
        super().__init__()
        self.regions = regions
        self.ignore_label = ignore_label
        self.dice = MemoryEfficientSoftDiceLoss(
            torch.sigmoid if regions else softmax_helper_dim1,
            batch_dice=True,
            do_bg=regions,
            smooth=1e-5,
            ddp=distributed,
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        if self.ignore_label is None:
            return self.dice(logits, target)
        if self.regions:
            return self.dice(logits, target[:, :-1], loss_mask=~target[:, -1:].bool())
        labelled = target != self.ignore_label
        return self.dice(logits, torch.where(labelled, target, 0), loss_mask=labelled)


def halving_weights(count: int) -> tuple[float, ...]:
    """Return weights 1, 1/2, 1/4, ... of the logits of deep supervision, finest first, which sum to 1."""
    weights = [0.5**level for level in range(count)]
    return tuple(weight / sum(weights) for weight in weights)
