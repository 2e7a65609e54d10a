"""What trainers share: the base class, the suffixes of trainer names, recipes, precision, and the import of weights."""

from nnunet_attn.training.position import PositionTrainer
from nnunet_attn.training.recipes import AXIAL_RECIPE, MEDT_PAPER_RECIPE, WINDOW_RECIPE, Recipe
from nnunet_attn.training.trainer import AttentionTrainer
from nnunet_attn.training.variants import variants_of

__all__ = [
    "AXIAL_RECIPE",
    "MEDT_PAPER_RECIPE",
    "WINDOW_RECIPE",
    "AttentionTrainer",
    "PositionTrainer",
    "Recipe",
    "variants_of",
]
