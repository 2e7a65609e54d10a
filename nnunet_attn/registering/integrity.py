"""nnU-Net's own check of a raw data set, in a process of its own: `python -m nnunet_attn.registering.integrity DIR N`.

It prints much even where all is well, from processes of its own too, so its output is caught.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.stock import StockCommandError, run_stock

# What nnU-Net prints about a file before it raises; each goes on to the next blank line or the next of its kind.
_COMPLAINT = re.compile(r"^(Error: |Images contain|Segmentation contains|ERROR! )")


def check_integrity(folder: Path, processes: int) -> None:
    """Run nnU-Net's `verify_dataset_integrity` on a data set.

    Args:
        folder: The data set.
        processes: That nnU-Net starts.
    Raises:
        InputError: If nnU-Net refuses it, with what it says and the names of the files.
    """
    lines: list[str] = []
    try:
        run_stock(
            sys.executable,
            ["-m", "nnunet_attn.registering.integrity", folder, processes],
            dict(os.environ, OMP_NUM_THREADS="1"),
            on_line=lines.append,
        )
    except StockCommandError as error:
        said = _complaints(lines).replace(f"{folder}{os.sep}", "")
        raise InputError(f"nnU-Net's check refuses the data set, so it was not made: {said}") from error


def _complaints(lines: Sequence[str]) -> str:
    """Return what nnU-Net complains of, in one line; all it raises if it prints nothing that is known."""
    blocks: list[list[str]] = []
    taking = False
    for line in lines:
        if _COMPLAINT.match(line):
            blocks.append([])
            taking = True
        elif not line.strip():
            taking = False
        if taking:
            blocks[-1].append(line.strip())
    told = [" ".join(block) for block in blocks[:5]]
    if not told:
        told = [line.strip() for line in lines if line.strip()][-1:]
    return "; ".join(told) or "it ended without a word"


def main(folder: str, processes: str) -> None:
    """Run the check in this process."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(folder, int(processes))


if __name__ == "__main__":
    main(*sys.argv[1:])
