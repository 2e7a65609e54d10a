"""Trainer leaves: the folder that `nnUNet_extTrainer` names. Bases and helpers live in `nnunet_attn.training`."""
