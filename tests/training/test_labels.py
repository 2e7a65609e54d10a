"""Cases in which there is nothing to segment: refused when a training starts, and good enough for a pre-training."""

import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.made.data import CASES, make_trainer, train_some
from tests.made.plans import KINDS, Kind

PLAIN = "nnUNetTrainerPlain_1epochs_1its"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]) -> Callable[..., Any]:
    def make(name: str, kind: Kind) -> Any:
        return make_trainer(getattr(load_leaf("nnUNetTrainerPlain"), name), kind, tmp_path / "root", monkeypatch)

    return make


def without_foreground(trainer: Any, kept: tuple[str, ...] = ()) -> None:
    """Take the places of all classes out of what nnU-Net wrote down of the cases; those of sparse labels stay."""
    for case in set(CASES) - set(kept):
        file = Path(trainer.preprocessed_dataset_folder, f"{case}.pkl")
        properties = pickle.loads(file.read_bytes())
        locations = properties["class_locations"]
        annotated = tuple([-1, *trainer.label_manager.all_labels])
        properties["class_locations"] = {key: places if key == annotated else [] for key, places in locations.items()}
        file.write_bytes(pickle.dumps(properties))


@pytest.mark.parametrize("kind", ["2d", "regions", "ignore"])
def test_no_foreground_in_any_case_is_refused(make: Callable[..., Any], kind: str) -> None:
    trainer = make(PLAIN, KINDS[kind])
    without_foreground(trainer)
    with pytest.raises(ValueError, match=r"Dataset901_Made: none of the 3 training cases .*nnunet-attn pretrain"):
        trainer.on_train_start()
    assert not list(Path(trainer.output_folder).glob("*.pth"))


@pytest.mark.parametrize("kind", ["regions", "ignore"])
def test_one_case_with_foreground_is_enough(make: Callable[..., Any], kind: str) -> None:
    trainer = make(PLAIN, KINDS[kind])
    without_foreground(trainer, kept=("case_2",))
    assert sorted(trainer.get_tr_and_val_datasets()[0].identifiers) == ["case_0", "case_1", "case_2"]


def test_a_pretraining_needs_none(make: Callable[..., Any]) -> None:
    trainer = make(f"{PLAIN}_PretrainDenoise", KINDS["2d"])
    without_foreground(trainer)
    train_some(trainer)
    assert trainer.current_epoch == 1
