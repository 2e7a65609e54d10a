"""FINE (arXiv:2210.05313): memory tokens on nnFormer's first publication, and its ablations."""

from nnunet_attn.training import AttentionTrainer, PositionTrainer, variants_of


class nnUNetTrainerFINE(PositionTrainer):
    """FINE as its paper means it: tokens of the whole volume reach the voxels."""

    network_name = "FINE"


class nnUNetTrainerFINEPublished(PositionTrainer):
    """FINE as its published code computes it: every stage's tokens start anew."""

    network_name = "FINE"
    network_options = {"carry": False}


class nnUNetTrainerFINEWindowTokens(PositionTrainer):
    """FINE with tokens of windows alone."""

    network_name = "FINE"
    network_options = {"volume_tokens": False}


class nnUNetTrainerFINENoTokens(AttentionTrainer):
    """FINE without tokens: the plain Swin U-Net below it."""

    network_name = "NNFormer2021"


__getattr__ = variants_of(globals())
