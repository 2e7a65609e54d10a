"""What is wrong with a trained model that nnU-Net cannot load, said in one line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nnunet_attn.errors import InputError

_KEYS = ("trainer_name", "init_args", "network_weights")
_NO_TRAINER = "Could not find requested nnunet trainer"


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line of at most 300 characters."""
    return " ".join((str(error) or type(error).__name__).split())[:300]


def not_of_the_network(file: Path, error: Exception) -> InputError:
    """Return the error for weights that do not fit the network."""
    return InputError(
        f"{file} is not of the network that its trainer builds for the plans beside it; put the fold's own checkpoint "
        f"back, or copy the whole results folder again ({one_line(error)})"
    )


def wrong_files(error: Exception, folder: Path, files: Sequence[Path]) -> InputError | None:
    """Return what to say of a model that could not be loaded because of its files; None if they are not the reason.

    Args:
        error: What nnU-Net failed with.
        folder: The results folder.
        files: The checkpoints, which are read again.
    """
    if isinstance(error, InputError | MemoryError):
        return None
    if isinstance(error, FileNotFoundError) and Path(error.filename or "").is_relative_to(folder):
        return InputError(f"{error.filename} does not exist; copy the whole results folder of the model")
    for name in ("plans.json", "dataset.json"):
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as damage:
            return InputError(f"{folder / name} is damaged; copy the results folder again ({one_line(damage)})")
    trainers = []
    for file in files:
        try:
            checkpoint: Any = torch.load(file, map_location="cpu", weights_only=False)
        except Exception as damage:  # a damaged file can fail with anything
            return InputError(
                f"{file} is damaged; copy the results folder again, or give another -chk ({one_line(damage)})"
            )
        missing = [key for key in _KEYS if not isinstance(checkpoint, dict) or key not in checkpoint]
        if missing:
            return InputError(f"{file} has no {missing[0]!r}: it is no checkpoint of a training; give another -chk")
        trainers.append(checkpoint["trainer_name"])
    if _NO_TRAINER in str(error):
        return InputError(
            f"nnU-Net does not find {trainers[0]}, the trainer of {files[0]}; see: nnunet-attn doctor {trainers[0]}"
        )
    return None
