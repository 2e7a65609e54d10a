"""Trainers of small networks of axial attention."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.made.axial import axial_kind
from tests.made.data import make_trainer
from tests.made.plans import LABELS


@pytest.fixture
def make_axial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]
) -> Callable[..., Any]:
    """Make a trainer of the MedT family by its name; `attributes` are set on its class, `options` go into the plans."""

    def make(
        name: str,
        labels: dict[str, Any] = LABELS,
        patch_size: tuple[int, ...] = (16, 24),
        attributes: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        trainer_class = getattr(load_leaf("nnUNetTrainerMedT"), name)
        if attributes is not None:
            trainer_class = type(name, (trainer_class,), attributes)
        kind = axial_kind(trainer_class.network_name, labels, list(patch_size), **options)
        return make_trainer(trainer_class, kind, tmp_path / "root", monkeypatch)

    return make
