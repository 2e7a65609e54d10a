"""Kinds of wrong input: each is a row of `docs/reference/errors.md`, and a test that sees what the row says."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_attn.cli import main

START = "nnunet-attn: error: "

Make = Callable[[Path], Sequence[object]]
"""Makes a wrong input in the current folder, which is also its argument, and returns the command's words."""

Ran = tuple[int, str]
"""Exit code, and what was printed on the standard error output."""


def in_process(words: Sequence[object]) -> int:
    """Run the command in this process and return its exit code."""
    return main([str(word) for word in words])


@dataclass(frozen=True)
class Wrong:
    """One kind of wrong input.

    Args:
        given: What is wrong, as the page has it.
        message: First part of what the command prints; `...` stands for anything.
        remedy: The rest of it: what to do.
        make: Makes the input.
        run: Runs the words elsewhere than in this process; returns what is seen there.
    """

    given: str
    message: str
    remedy: str
    make: Make
    run: Callable[[Path, Sequence[object]], Ran] | None = None

    def fits(self, printed: str) -> bool:
        """Tell whether a whole output is this message: one line, the message, then the remedy."""
        parts = (".*?".join(map(re.escape, part.split("..."))) for part in (self.message, self.remedy))
        return re.fullmatch(re.escape(START) + "[;:,]? ?".join(parts) + r"\n", printed) is not None

    @property
    def row(self) -> str:
        """The row of the page."""
        message, remedy = (part.replace("|", r"\|") for part in (self.message, self.remedy))
        return f"| {self.given} | `{message}` | {remedy} |"


def after(change: Callable[[Path], object], *words: object) -> Make:
    """Change something in the folder, then run the words."""

    def make(folder: Path) -> Sequence[object]:
        change(folder)
        return words

    return make


def tree(folder: Path) -> dict[str, str]:
    """Return all that lies below a folder: name -> what it is, a file by its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            kind = f"link to {os.readlink(path)}"
        elif path.is_dir():
            kind = "folder"
        else:
            kind = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = kind
    return found
