"""Where the trainers lie, and the environment in which stock nnU-Net commands find them."""

import os
from collections.abc import Mapping
from pathlib import Path

NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINER_VARIABLE = "nnUNet_extTrainer"


def trainers_dir() -> Path:
    """Return the folder that `nnUNet_extTrainer` has to name: it holds trainer leaves and nothing else."""
    return (Path(__file__).parent / "trainers").resolve() if _in_checkout() else Path(__file__).parent / "trainers"


def _in_checkout() -> bool:
    return (Path(__file__).parent / "trainers").is_symlink()


def nnunet_environment(root: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a child process's environment in which all of nnU-Net's folders lie below `root`.

    Creates the three folders; the environment of the caller and the folders it names stay as they are.

    Args:
        root: Folder that gets `raw`, `preprocessed` and `results`.
        base: Environment to start from; the caller's own by default.
    """
    environment = dict(os.environ if base is None else base)
    for variable in NNUNET_FOLDERS:
        folder = root / variable.removeprefix("nnUNet_")
        folder.mkdir(parents=True, exist_ok=True)
        environment[variable] = str(folder)
    environment[TRAINER_VARIABLE] = str(trainers_dir())
    return environment
