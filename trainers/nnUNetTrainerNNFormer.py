"""nnFormer (arXiv:2109.03201)."""

from nnunet_attn.training import AttentionTrainer, variants_of


class nnUNetTrainerNNFormer(AttentionTrainer):
    """nnFormer as its public code is today."""

    network_name = "NNFormer"


__getattr__ = variants_of(globals())
