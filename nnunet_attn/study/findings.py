"""What a check has found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing checked.

    Args:
        what: What was checked.
        state: `ok`; `warning`: the study can run, but look at it; `problem`: it cannot.
        text: What was found.
        remedy: What to do about it; may be empty.
    """

    what: str
    state: State
    text: str
    remedy: str = ""
