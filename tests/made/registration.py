"""Registrations of made cases: planned, written, refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering.model import Registration, SourceCase
from nnunet_attn.registering.plan import RegistrationPlan, plan_registration
from nnunet_attn.registering.writing import write_registration


def plan_of(given: Sequence[SourceCase], **options: Any) -> RegistrationPlan:
    """Plan the data set 7, Made."""
    return plan_registration(Registration(7, "Made", tuple(given), **options))


def written(raw: Path, given: Sequence[SourceCase], **options: Any) -> Path:
    """Write it, without nnU-Net's own check."""
    return write_registration(plan_of(given, **options), raw, verify=False)


def refused(given: Sequence[SourceCase], *words: str, **options: Any) -> None:
    """Check that it cannot be planned, and that the message has the words."""
    with pytest.raises(InputError) as error:
        plan_of(given, **options)
    for word in words:
        assert word in str(error.value)


def changed(given: Sequence[SourceCase], number: int, **changes: Any) -> list[SourceCase]:
    """Return the cases, one of them changed."""
    return [replace(case, **changes) if index == number else case for index, case in enumerate(given)]


def files_in(folder: Path) -> list[str]:
    """Return the names of all files below a folder, sorted."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
