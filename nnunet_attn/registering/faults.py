"""What is wrong with a file, in words for its user: what readers say of it, and names that they cannot take."""

import os
import re
from pathlib import Path

from nnunet_attn.errors import InputError


def reason(error: Exception) -> str:
    """Return the line of a message that says most: the last; ITK puts its place in the source code before."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[-1].startswith("Reason:"):  # of MetaImage, which takes a short file for a missing one
        return "it is damaged, cut short, or a file that it names is missing"
    said = re.sub(r"^.*ITK ERROR: (\w+\(0x[0-9a-f]+\): )?", "", lines[-1]) if lines else ""
    return (said or type(error).__name__).rstrip(".;: ")


def check_path(path: Path) -> None:
    """Check that the whole name of a file is UTF-8 on disk: ITK ends the process over any other.

    Raises:
        InputError: If it is not.
    """
    whole = path.absolute()
    try:
        same = os.fsencode(whole) == str(whole).encode()
    except UnicodeEncodeError:
        same = False
    if not same:
        readable = str(path).encode("utf-8", "backslashreplace").decode()
        raise InputError(f"{readable}: this name, or that of a folder above, is not UTF-8; rename it")
