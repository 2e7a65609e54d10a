"""GASA-UNet (arXiv:2409.13146) and its ablations of the positional embedding."""

from nnunet_attn.training import AttentionTrainer, variants_of


class nnUNetTrainerGASA(AttentionTrainer):
    """GASA-UNet with 25 dimensions, 5 heads and the positional embedding after attention, as the paper's default."""

    network_name = "GASAUNet"


class nnUNetTrainerGASANoPE(AttentionTrainer):
    """GASA-UNet without positional embedding."""

    network_name = "GASAUNet"
    network_options = {"position": "none"}


class nnUNetTrainerGASABPE(AttentionTrainer):
    """GASA-UNet with the positional embedding before attention, one vector a token."""

    network_name = "GASAUNet"
    network_options = {"position": "before"}


__getattr__ = variants_of(globals())
