"""nnFormer (arXiv:2109.03201)."""

from nnunet_attn.training import WINDOW_RECIPE, AttentionTrainer, variants_of


class nnUNetTrainerNNFormer(AttentionTrainer):
    """nnFormer as its public code is today."""

    network_name = "NNFormer"
    recipe = WINDOW_RECIPE


__getattr__ = variants_of(globals())
