"""The note that says which checkpoint made the validation predictions."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from tests.made.data import make_trainer
from tests.made.plans import KINDS


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]) -> Any:
    name = "nnUNetTrainerPlain"
    made: Any = make_trainer(getattr(load_leaf(name), name), KINDS["2d"], tmp_path, monkeypatch)
    made.initialize()

    def predicts(self: Any, save_probabilities: bool = False) -> None:
        (Path(self.output_folder) / "validation").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", predicts)
    return made


def noted(trainer: Any) -> str:
    return json.loads((Path(trainer.output_folder) / "validation" / "checkpoint_attn.json").read_text())["checkpoint"]


def test_the_checkpoint_that_predicts_is_noted(trainer: Any) -> None:
    trainer.perform_actual_validation()
    assert noted(trainer) == "checkpoint_final.pth"
    folder = Path(trainer.output_folder)
    trainer.current_epoch = trainer.num_epochs
    trainer.save_checkpoint(str(folder / "checkpoint_best.pth"))
    trainer.load_checkpoint(str(folder / "checkpoint_best.pth"))
    trainer.perform_actual_validation()
    assert noted(trainer) == "checkpoint_best.pth"
    # a training that goes on from it ends with the final one
    trainer.current_epoch = trainer.num_epochs
    trainer.save_checkpoint = lambda filename: None
    trainer.on_train_end()
    trainer.perform_actual_validation()
    assert noted(trainer) == "checkpoint_final.pth"


def test_a_validation_that_breaks_off_leaves_no_note(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer.perform_actual_validation()

    def breaks(self: Any, save_probabilities: bool = False) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", breaks)
    with pytest.raises(KeyboardInterrupt):
        trainer.perform_actual_validation()
    assert not list((Path(trainer.output_folder) / "validation").iterdir())
