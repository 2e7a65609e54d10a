"""Test images, models by their file names, and a stand-in for the stock commands that predict."""

import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_attn.inference.predict_test_request import PredictTestRequest
from nnunet_attn.stock import StockCommandError

DATASET = "Dataset007_Made"
TRAINERS = ("nnUNetTrainer", "nnUNetTrainer_5epochs")
CASES = ("a", "b", "c")
DESCRIPTION = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "organ": 1},
    "file_ending": ".nii.gz",
    "numTraining": 5,
}
PLANS = {
    "dataset_name": DATASET,
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "configurations": {
        "3d_fullres": {"architecture": {}},
        "3d_lowres": {"architecture": {}, "next_stage": "3d_cascade_fullres"},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
}


def label(case: str) -> np.ndarray:
    """An organ of another size for each case."""
    array = np.zeros((4, 6, 8), np.uint8)
    array[1:3, 1 : 3 + CASES.index(case), 2:6] = 1
    return array


def write_label(array: np.ndarray, file: Path) -> None:
    """Write a label map."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, file)


def write_model(root: Path, trainer: str, configuration: str = "3d_fullres", folds: Sequence[int] = range(5)) -> Path:
    """Write a model folder with checkpoints that no network could load; returns it."""
    model = root / "results" / DATASET / f"{trainer}__nnUNetPlans__{configuration}"
    for fold in folds:
        (model / f"fold_{fold}").mkdir(parents=True)
        (model / f"fold_{fold}" / "checkpoint_final.pth").write_text(f"{trainer} {fold}")
    (model / "dataset.json").write_text(json.dumps(DESCRIPTION))
    (model / "plans.json").write_text(json.dumps(PLANS))
    return model


def write_test_cases(root: Path) -> None:
    """Write three labelled test cases and the models of two trainers into nnU-Net's folders below `root`."""
    raw = root / "raw" / DATASET
    for name in ("imagesTs", "labelsTs"):
        (raw / name).mkdir(parents=True)
    for case in CASES:
        write_label(label(case), raw / "imagesTs" / f"{case}_0000.nii.gz")
        write_label(label(case), raw / "labelsTs" / f"{case}.nii.gz")
    for trainer in TRAINERS:
        write_model(root, trainer)


class Stock:
    """Stands in for nnUNetv2_predict and nnUNetv2_ensemble: writes the files that they write.

    Args:
        die_after: Predictions, over all commands, after which it fails and leaves half a file, as a kill does.
    """

    def __init__(self, die_after: int | None = None) -> None:
        self.commands: list[list[str]] = []
        self.predicted: list[str] = []
        self.die_after = die_after

    def __call__(
        self,
        command: str,
        arguments: Sequence[object],
        environment: Mapping[str, str],
        log_file: Path,
        on_line: Callable[[str], None],
    ) -> str:
        assert environment is os.environ and log_file.parent.is_dir()
        words = [command, *map(str, arguments)]
        self.commands.append(words)
        output = Path(words[words.index("-o") + 1])
        output.mkdir(exist_ok=True)
        (self._ensemble if command == "nnUNetv2_ensemble" else self._predict)(words, output, on_line)
        return ""

    def _predict(self, words: list[str], output: Path, on_line: Callable[[str], None]) -> None:
        for name, content in (("dataset.json", DESCRIPTION), ("plans.json", PLANS)):
            (output / name).write_text(json.dumps(content))
        for image in sorted(Path(words[words.index("-i") + 1]).iterdir()):
            case = image.name.removesuffix("_0000.nii.gz")
            file = output / f"{case}.nii.gz"
            if "--continue_prediction" in words and file.exists():
                continue
            if "--save_probabilities" in words:
                organ = np.float32(0.9) * label(case)
                np.savez_compressed(output / f"{case}.npz", probabilities=np.stack([1 - organ, organ]))
                (output / f"{case}.pkl").write_bytes(pickle.dumps({}))
            write_label(label(case), file)
            if self.die_after is not None and len(self.predicted) == self.die_after:
                file.write_bytes(file.read_bytes()[:-20])
                raise StockCommandError("killed")
            self.predicted.append(case)
            on_line(f"done with {case}")

    def _ensemble(self, words: list[str], output: Path, on_line: Callable[[str], None]) -> None:
        folders = [Path(word) for word in words[words.index("-i") + 1 : words.index("-o")]]
        for file in folders[0].glob("*.npz"):
            mean = np.mean([np.load(folder / file.name)["probabilities"] for folder in folders], axis=0)
            write_label(mean.argmax(0).astype(np.uint8), output / f"{file.stem}.nii.gz")
        (output / "dataset.json").write_text(json.dumps(DESCRIPTION))


def request(**changed: Any) -> PredictTestRequest:
    """Return a request, of one trainer unless it is changed."""
    return PredictTestRequest(**{"dataset": "7", "trainers": TRAINERS[:1], "device": "cpu", **changed})


def model_of(root: Path, trainer: str = TRAINERS[0], configuration: str = "3d_fullres") -> Path:
    """Return a model folder."""
    return root / "results" / DATASET / f"{trainer}__nnUNetPlans__{configuration}"
