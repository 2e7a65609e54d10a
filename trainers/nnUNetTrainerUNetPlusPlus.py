"""UNet++, nested nodes between encoder and decoder."""

from nnunet_attn.training import AttentionTrainer, variants_of


class nnUNetTrainerUNetPlusPlus(AttentionTrainer):
    """UNet++ of the planned U-Net's sizes, trained by nnU-Net's own recipe; all output layers count alike."""

    network_name = "UNetPlusPlus"


__getattr__ = variants_of(globals())
