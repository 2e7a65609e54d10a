"""The planned U-Net with a block of gated axial attention at its bottleneck."""

from nnunet_attn.training import AttentionTrainer, variants_of


class nnUNetTrainerMAT(AttentionTrainer):
    """Gated axial attention at the bottleneck of the planned U-Net, trained by nnU-Net's own recipe."""

    network_name = "MAT"


__getattr__ = variants_of(globals())
