"""The plain nnU-Net of comparisons."""

from nnunet_attn.training import AttentionTrainer, variants_of


class nnUNetTrainerPlain(AttentionTrainer):
    """The plans' own network, trained as stock nnUNetTrainer does, with every suffix of this package."""

    network_name = "PlainUNet"


__getattr__ = variants_of(globals())
