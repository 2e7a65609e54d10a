"""The real nnU-Net finds every leaf, with every suffix; every row of the registry has a leaf."""

import ast
import sys
from pathlib import Path

import pytest
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.paths import trainers_dir
from nnunet_attn.training import AttentionTrainer

TRAINERS = [trainer for network in NETWORKS for trainer in network.trainers]
LEAVES = sorted(path for path in trainers_dir().glob("*.py") if path.stem != "__init__")


@pytest.fixture(autouse=True)
def variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))


@pytest.mark.parametrize("name", TRAINERS)
def test_nnunet_finds_every_trainer_of_the_registry(name: str) -> None:
    found = recursive_find_trainer_class_by_name(name)
    assert found.__name__ == name
    assert issubclass(found, AttentionTrainer)
    assert found.__doc__


@pytest.mark.parametrize("name", TRAINERS)
def test_nnunet_finds_every_suffix_in_any_order_on_every_leaf(name: str) -> None:
    forward = recursive_find_trainer_class_by_name(f"{name}_7epochs_3its_NoMirroring_NoDA_bf16_seed5")
    backward = recursive_find_trainer_class_by_name(f"{name}_seed5_bf16_NoDA_NoMirroring_3its_7epochs")
    for found in (forward, backward):
        assert issubclass(found, AttentionTrainer)
        values = (found.epochs, found.iterations_per_epoch, found.mirroring, found.augmentation)
        assert (*values, found.precision, found.seed) == (7, 3, False, False, "bf16", 5)
    assert forward.__name__ != backward.__name__


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainerGASA_bf17",
        "nnUNetTrainerGASA_",
        "nnUNetTrainerGASA_0epochs",
        "nnUNetTrainerGASA_bf16_fp32",
        "nnUNetTrainerGASA_5epochs_6epochs",
        "nnUNetTrainerGasa",
        "AttentionTrainer_2epochs",
        "nnUNetTrainer_2its",
    ],
)
def test_a_wrong_name_is_not_found(name: str) -> None:
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer"):
        recursive_find_trainer_class_by_name(name)


def test_registry_and_leaves_name_the_same_trainers() -> None:
    defined = {
        node.name for leaf in LEAVES for node in ast.parse(leaf.read_text()).body if isinstance(node, ast.ClassDef)
    }
    assert defined == set(TRAINERS)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_a_leaf_obeys_the_laws(leaf: Path) -> None:
    body = ast.parse(leaf.read_text()).body
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    assert leaf.stem == classes[0], "the file is named after its first class"
    assert all("__" not in name for name in classes), "nnU-Net splits folder names at __"
    imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert all(isinstance(node, ast.ImportFrom) and node.level == 0 for node in imports), "no relative imports"
    assert {node.module for node in imports if isinstance(node, ast.ImportFrom)} == {"nnunet_attn.training"}
    assert recursive_find_trainer_class_by_name(classes[-1]).__name__ == classes[-1]
    assert leaf.stem not in sys.modules, "the look-up leaves no module behind that would hide the leaf"
