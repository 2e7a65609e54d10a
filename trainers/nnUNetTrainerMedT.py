"""MedT (arXiv:2102.10662), its parts, and the U-Nets of axial attention that it is compared with."""

from nnunet_attn.training import AXIAL_RECIPE, MEDT_PAPER_RECIPE, AttentionTrainer, variants_of


class nnUNetTrainerMedT(AttentionTrainer):
    """MedT with the gates where the published code has them, before the batch norms."""

    network_name = "MedT"
    recipe = AXIAL_RECIPE


class nnUNetTrainerMedTPaper(AttentionTrainer):
    """MedT as its paper trains it: Adam at a constant rate, cross-entropy alone, horizontal flips alone."""

    network_name = "MedT"
    recipe = MEDT_PAPER_RECIPE
    loss_terms = "cross_entropy"
    flips_only = True


class nnUNetTrainerMedTPostNorm(AttentionTrainer):
    """MedT with the gates behind the batch norms, where they weigh the positions as the paper means it."""

    network_name = "MedT"
    network_options = {"gate_position": "post_norm"}
    recipe = AXIAL_RECIPE


class nnUNetTrainerMedTGlobal(AttentionTrainer):
    """MedT's global branch alone."""

    network_name = "MedTGlobal"
    recipe = AXIAL_RECIPE


class nnUNetTrainerMedTLocal(AttentionTrainer):
    """MedT's local branch alone."""

    network_name = "MedTLocal"
    recipe = AXIAL_RECIPE


class nnUNetTrainerLoGo(AttentionTrainer):
    """Global and local branch with axial attention without gates."""

    network_name = "LoGo"
    recipe = AXIAL_RECIPE


class nnUNetTrainerGatedAxial(AttentionTrainer):
    """A U-Net of gated axial attention."""

    network_name = "GatedAxialUNet"
    recipe = AXIAL_RECIPE


class nnUNetTrainerAxialUNet(AttentionTrainer):
    """A U-Net of axial attention without gates."""

    network_name = "AxialUNet"
    recipe = AXIAL_RECIPE


__getattr__ = variants_of(globals())
