"""What trainers share: the base class, the suffixes of trainer names, precision, and the import of weights."""

from nnunet_attn.training.trainer import AttentionTrainer
from nnunet_attn.training.variants import variants_of

__all__ = ["AttentionTrainer", "variants_of"]
