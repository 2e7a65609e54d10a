"""What trainers share: the base class, the suffixes of trainer names, recipes, precision, and the import of weights."""

from nnunet_attn.training import pretrain_weights
from nnunet_attn.training.patch_training import PatchTrainer
from nnunet_attn.training.position import PositionTrainer
from nnunet_attn.training.recipes import (
    AXIAL_RECIPE,
    MEDT_PAPER_RECIPE,
    PATCH_PAPER_RECIPE,
    PATCH_RECIPE,
    WINDOW_RECIPE,
    Recipe,
)
from nnunet_attn.training.trainer import AttentionTrainer
from nnunet_attn.training.variants import variants_of

__all__ = [
    "AXIAL_RECIPE",
    "MEDT_PAPER_RECIPE",
    "PATCH_PAPER_RECIPE",
    "PATCH_RECIPE",
    "WINDOW_RECIPE",
    "AttentionTrainer",
    "PatchTrainer",
    "PositionTrainer",
    "Recipe",
    "variants_of",
]

pretrain_weights.install()
