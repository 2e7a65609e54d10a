"""Where the trainers lie, and the environment in which stock nnU-Net commands find them."""

import errno
import importlib.util
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nnunet_attn.errors import InputError

NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINER_VARIABLE = "nnUNet_extTrainer"
_LONGEST_PART = 255  # bytes of a name, on all usual file systems


def trainers_dir() -> Path:
    """Return the folder that `nnUNet_extTrainer` has to name: it holds trainer leaves and nothing else."""
    spec = importlib.util.find_spec("nnunet_attn.trainers")
    if spec is None or spec.origin is None:
        raise InputError("the trainers are not installed; run: pip install --force-reinstall nnunet-attn")
    return Path(spec.origin).resolve().parent


def with_trainers(base: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which nnU-Net finds this package's trainers, beside those that it found before."""
    environment = dict(base)
    folders = [folder for folder in environment.get(TRAINER_VARIABLE, "").split(os.pathsep) if folder]
    own = str(trainers_dir())
    if own not in [os.path.realpath(folder) for folder in folders]:
        environment[TRAINER_VARIABLE] = os.pathsep.join([own, *folders])
    return environment


def check_writable(folder: Path) -> None:
    """Check that files can be written to a folder, by making one that is gone at once.

    Raises:
        InputError: If not, with the system's reason.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        named = "the current folder" if folder == Path() else f"the folder {folder}"
        raise InputError(f"cannot write to {named} ({error.strerror}): choose another one") from error


def make_folder(folder: Path) -> None:
    """Make a folder with those above it, or check that one may write to what is there.

    Raises:
        InputError: If it cannot be made or written to, with the system's reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder} ({error.strerror}): choose another one") from error
    check_writable(folder)


def check_possible(folder: Path) -> None:
    """Check that a folder is there or could be made, and written to; nothing is made.

    Raises:
        InputError: If not, with the system's reason.
    """
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    fault = None
    if not os.path.isdir(there):
        fault = errno.EEXIST if there == folder else errno.ENOTDIR
    elif any(len(os.fsencode(part)) > _LONGEST_PART for part in folder.parts):
        fault = errno.ENAMETOOLONG
    if fault is not None:
        raise InputError(f"cannot make the folder {folder} ({os.strerror(fault)}): choose another one")
    check_writable(there)


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
