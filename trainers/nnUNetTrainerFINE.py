"""FINE (arXiv:2210.05313): memory tokens on nnFormer's first publication, and its ablations."""

from nnunet_attn.training import WINDOW_RECIPE, AttentionTrainer, PositionTrainer, variants_of


class nnUNetTrainerFINE(PositionTrainer):
    """FINE as its paper means it: tokens of the whole volume reach the voxels."""

    network_name = "FINE"
    recipe = WINDOW_RECIPE


class nnUNetTrainerFINEPublished(PositionTrainer):
    """FINE as its published code computes it: every stage's tokens start anew."""

    network_name = "FINE"
    recipe = WINDOW_RECIPE
    network_options = {"carry": False}


class nnUNetTrainerFINEWindowTokens(PositionTrainer):
    """FINE with tokens of windows alone."""

    network_name = "FINE"
    recipe = WINDOW_RECIPE
    network_options = {"volume_tokens": False}


class nnUNetTrainerFINENoTokens(AttentionTrainer):
    """FINE without tokens: the plain Swin U-Net below it."""

    network_name = "NNFormer2021"
    recipe = WINDOW_RECIPE


__getattr__ = variants_of(globals())
