"""What is done already, and what has changed since; nnU-Net's commands are replaced by ones that only leave files."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.pretraining.chain import run_pretraining
from nnunet_attn.pretraining.request import Pretraining
from tests.made.data import CASES, write_preprocessed
from tests.made.plans import KINDS
from tests.made.raw_images import MRI, made, write

TRAINER, PLANS = "nnUNetTrainerPlain", "nnUNetPlansMade"
OWN = Pretraining("901", TRAINER, "3d_fullres", PLANS, device="cpu")
OTHER = replace(OWN, dataset="10", fine_tuned_on="901")


class Chain:
    """nnU-Net's folders, and its commands as the chain needs them."""

    def __init__(self, root: Path) -> None:
        self.root, self.broken_off = root, False
        self.commands: list[str] = []
        self.plans_file = root / "preprocessed" / "Dataset901_Made" / f"{PLANS}.json"

    def run_stock(self, command: str, arguments: Sequence[object], *_: Any) -> str:
        self.commands.append(command.removeprefix("nnUNetv2_"))
        words = [str(word) for word in arguments]
        given = dict(pairwise(words))
        number = given.get("-d") or given.get("-t") or words[0]
        name = next((self.root / "raw").glob(f"Dataset{int(number):03d}_*")).name
        folder = self.root / "preprocessed" / name
        folder.mkdir(exist_ok=True)
        match self.commands[-1]:
            case "extract_fingerprint":
                (folder / "dataset_fingerprint.json").write_text("{}")
            case "plan_experiment":
                (folder / "dataset.json").write_text("{}")
            case "move_plans_between_datasets":
                plans = json.loads(self.plans_file.read_text()) | {"plans_name": given["-tp"]}
                (folder / f"{given['-tp']}.json").write_text(json.dumps(plans))
            case "preprocess":
                data = folder / KINDS["3d"].entry["data_identifier"]
                data.mkdir(exist_ok=True)
                for image in (self.root / "raw" / name / "imagesTr").iterdir():
                    for end in (".pkl", ".b2nd"):
                        (data / image.name.replace("_0000.nii.gz", end)).touch()
            case "train":
                model = f"{given['-tr']}__{given['-p']}__3d_fullres"
                file = "checkpoint_latest.pth" if self.broken_off else "pretrained_weights.pth"
                (self.root / "results" / name / model / "fold_all" / file).touch()
        return ""

    def run(self, request: Pretraining) -> list[str]:
        """Return the commands of a run."""
        self.commands = []
        run_pretraining(request)
        return self.commands


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    for key, value in write_preprocessed(tmp_path, KINDS["3d"]).items():
        monkeypatch.setenv(key, value)
    made(tmp_path / "raw")
    own = tmp_path / "raw" / "Dataset901_Made"
    rng = np.random.default_rng(0)
    for case in CASES:
        write(own / "imagesTr" / f"{case}_0000.nii.gz", rng.normal(size=(4, 5, 6)).astype(np.float32))
        write(own / "labelsTr" / f"{case}.nii.gz", np.ones((4, 5, 6), dtype=np.uint8))
    (own / "dataset.json").write_text(json.dumps({**MRI, "labels": KINDS["3d"].labels}))
    # labelled images, as the moved plans meet them without body masks
    other = tmp_path / "raw" / "Dataset010_Images"
    for case in range(3):
        write(other / "labelsTr" / f"case_{case}.nii.gz", np.ones((4, 10, 12), dtype=np.uint8))
    chain = Chain(tmp_path)
    monkeypatch.setattr("nnunet_attn.pretraining.steps.run_stock", chain.run_stock)
    return chain


def new_case(folder: Path) -> None:
    write(folder / "imagesTr" / "case_9_0000.nii.gz", np.ones((4, 5, 6), dtype=np.float32))
    write(folder / "labelsTr" / "case_9.nii.gz", np.ones((4, 5, 6), dtype=np.uint8))


def other_image(folder: Path) -> None:
    os.utime(folder / "imagesTr" / "case_1_0000.nii.gz", ns=(1, 1))


def gone_case(folder: Path) -> None:
    (folder / "imagesTr" / "case_2_0000.nii.gz").unlink()


IMAGES = [(new_case, "images new: case_9"), (other_image, "written anew: case_1"), (gone_case, "removed: case_2")]


@pytest.mark.parametrize(("change", "reason"), IMAGES)
@pytest.mark.parametrize("request_", [OWN, OTHER], ids=["own", "other"])
def test_weights_of_other_images_are_not_returned(
    chain: Chain, request_: Pretraining, change: Callable[[Path], None], reason: str
) -> None:
    assert chain.run(request_)[-1] == "train"
    assert chain.run(request_) == []
    change(next((chain.root / "raw").glob(f"Dataset{int(request_.dataset):03d}_*")))
    with pytest.raises(InputError, match=rf"{reason}.*have changed since the pre-training in .*remove that folder"):
        chain.run(request_)
    assert chain.commands == []


@pytest.mark.parametrize("request_", [OWN, OTHER], ids=["own", "other"])
def test_weights_of_other_plans_are_not_returned(chain: Chain, request_: Pretraining) -> None:
    chain.run(request_)
    plans = json.loads(chain.plans_file.read_text())
    # another configuration is of no concern
    plans["configurations"]["more"] = {**plans["configurations"]["3d_fullres"], "batch_size": 7}
    chain.plans_file.write_text(json.dumps(plans))
    assert "train" not in chain.run(request_)
    plans["configurations"]["3d_fullres"]["batch_size"] = 9
    chain.plans_file.write_text(json.dumps(plans))
    with pytest.raises(InputError, match=r"plans nnUNetPlansMade: batch_size: these have changed since"):
        chain.run(request_)
    assert chain.commands == []


def test_a_training_is_continued_on_what_it_began_with_alone(chain: Chain) -> None:
    chain.broken_off = True
    with pytest.raises(InputError, match=r"ended without writing"):
        chain.run(OTHER)
    with pytest.raises(InputError, match=r"broken off; continue it with --c"):
        chain.run(OTHER)
    chain.broken_off = False
    other_image(chain.root / "raw" / "Dataset010_Images")
    with pytest.raises(InputError, match=r"images written anew: case_1"):
        chain.run(replace(OTHER, resume=True))
    assert chain.commands == []


def test_changed_images_are_preprocessed_again(chain: Chain) -> None:
    assert chain.run(OTHER) == [
        "extract_fingerprint",
        "plan_experiment",
        "move_plans_between_datasets",
        "preprocess",
        "train",
    ]
    (fold,) = (chain.root / "results").rglob("fold_all")
    for file in fold.iterdir():
        file.unlink()
    assert "preprocess" not in chain.run(OTHER)
    for file in fold.iterdir():
        file.unlink()
    other_image(chain.root / "raw" / "Dataset010_Images")
    assert chain.run(OTHER)[-2:] == ["preprocess", "train"]


def test_weights_of_which_nothing_says_what_they_come_of(chain: Chain) -> None:
    chain.run(OWN)
    (file,) = (chain.root / "results").rglob("learned_from.json")
    file.unlink()
    with pytest.raises(InputError, match=r"has not started, so that nothing says what it learned from"):
        chain.run(OWN)
