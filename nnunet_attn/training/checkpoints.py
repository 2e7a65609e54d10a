"""Reads checkpoints without running code that they could hold."""

import os
from typing import Any

import numpy as np
import torch


def load_trusted(file: str | os.PathLike[str], mmap: bool = False) -> Any:
    """Return what a checkpoint holds, on the CPU, if that is tensors, plain values and the numbers of nnU-Net's log.

    Args:
        file: The checkpoint.
        mmap: Leave tensors on the disk until they are read.
    Raises:
        Exception: Of any type, as unpickling fails: there is no such file, it is damaged, or it holds other objects.
    """
    with torch.serialization.safe_globals(_numbers_in_nnunet_logs()):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def _numbers_in_nnunet_logs() -> list[Any]:
    """What nnU-Net's own log in a checkpoint needs, under the names that NumPy 1 and NumPy 2 write."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "bool")}
    return [*((scalar, name) for name in names), np.dtype, *kinds]
