"""How the stock commands of a test start their workers."""

import os
from pathlib import Path


def one_import(*folders: Path) -> str:
    """Return a PYTHONPATH with which all workers of a stock command share one import of PyTorch and nnU-Net.

    See `one_import/sitecustomize.py`. The user's own PYTHONPATH, which the commands get without, comes last.

    Args:
        folders: More folders, for what a command is to import.
    """
    own = (Path(__file__).with_name("one_import"), *folders, os.environ.get("PYTHONPATH"))
    return os.pathsep.join(dict.fromkeys(str(folder) for folder in own if folder))


AS_TYPED = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
"""Environment of a command whose workers start as a user's do: each by itself, with imports of its own."""
