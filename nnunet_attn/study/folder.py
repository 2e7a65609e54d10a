"""Where a study keeps what is not nnU-Net's: markers, logs, comparisons, the report."""

import os
from pathlib import Path

from nnunet_attn.study.matrix import nnunet_folder

MARKERS, LOGS, ENGINE, COMPARISON, REPORT = "markers", "logs", "engine", "comparison", "report"
"""The folders in it. `engine` is Snakemake's working folder; of the others the names say what they hold."""


def study_folder(file: Path, output: Path | None = None) -> Path:
    """Return the folder of a study, with its whole path; it need not exist.

    Args:
        file: The study file; `studies/glas.yaml` has the folder `studies/glas_results`.
        output: Another folder, as given by `-o`.
    """
    chosen = file.with_name(f"{file.stem}_results") if output is None else output
    return Path(os.path.abspath(chosen))


def preparing_folder() -> Path:
    """Return the folder of what says that a data set is being planned or preprocessed, by whichever study.

    Raises:
        InputError: If nnUNet_preprocessed is not set.
    """
    return nnunet_folder("nnUNet_preprocessed") / ".nnunet_attn"


def log_file(folder: Path, job: str) -> Path:
    """Return the log of a job."""
    return folder / LOGS / f"{job}.txt"
