"""The convolution-free patch transformer (arXiv:2102.13645)."""

from nnunet_attn.training import PATCH_PAPER_RECIPE, PATCH_RECIPE, PatchTrainer, variants_of


class nnUNetTrainerPatchTransformer(PatchTrainer):
    """The patch transformer with nnU-Net's loss and augmentation, AdamW and a warm-up."""

    network_name = "PatchTransformer"
    recipe = PATCH_RECIPE


class nnUNetTrainerPatchTransformerPaper(PatchTrainer):
    """The patch transformer as its paper trains it: single blocks, Dice alone, Adam halved on plateaus, mirroring."""

    network_name = "PatchTransformer"
    recipe = PATCH_PAPER_RECIPE
    loss_terms = "dice"
    flips_only = "all axes"
    trainer_settings = {"train_cells": 1, "batch_size": 10}


__getattr__ = variants_of(globals())
