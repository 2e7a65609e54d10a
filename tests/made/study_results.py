"""A study whose trainings seem to be done: results in nnU-Net's folders, with logs and notes of their trainings."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.study.matrix import Run, runs, trainer_of
from nnunet_attn.study.model import Study
from tests.made.results import DATASET, model_folder, write_results, write_stock_summary
from tests.made.training_logs import NOON, MadeTraining

NUMBER = "910"
HAND_LABELS = {"background": 0, "organ": 1}
BANNER = (
    "nnunet-attn 0.1.0: {network}, a title (a source); 1,234 parameters; recipe: {recipe}; loss: dice; "
    "flips only: False; options: none; precision: amp; seed: none"
)
SEED_SHIFT = 0.25
"""So much farther each seed's predictions are displaced than the last one's."""


def study(**fields: Any) -> Study:
    """Return a study of two rows on the made data set, two folds and two seeds unless it is changed."""
    given: dict[str, Any] = {
        "name": "made",
        "datasets": (NUMBER,),
        "rows": ("nnUNetTrainerPlain", {"trainer": "nnUNetTrainerGASA", "name": "GASA"}),
        "folds": (0, 1),
        "seeds": (0, 1),
        "metrics": ("dice", "nsd"),
        "budget": {"epochs": 3, "iterations": 4},
    }
    return Study.model_validate({**given, **fields})


def write_study_results(
    root: Path, described: Study, displacements: Mapping[str, float], cases: int = 6, folds: int = 2
) -> dict[str, str]:
    """Write results of all trainings of a study with one data set, and images; returns nnU-Net's environment.

    Args:
        root: Where nnU-Net's folders will be.
        described: The study; its rows have the data set's own plans.
        displacements: Title of a row -> how far its predictions are displaced, in voxels.
        cases: Of the data set.
        folds: Of its splits.
    """
    trainers = {}
    for row in described.rows:
        for number, seed in enumerate(described.seeds or (None,)):
            trainers[trainer_of(described, row, seed)] = displacements[row.title] + SEED_SHIFT * number
    environment = write_results(root, trainers, folds=folds, cases=cases)
    images = root / "raw" / DATASET / "imagesTr"
    images.mkdir()
    for index in range(cases):
        reference = sitk.ReadImage(str(root / "raw" / DATASET / "labelsTr" / f"case_{index:03d}.nii.gz"))
        image = sitk.GetImageFromArray(sitk.GetArrayFromImage(reference).astype(np.float32))
        image.CopyInformation(reference)
        sitk.WriteImage(image, str(images / f"case_{index:03d}_0000.nii.gz"))
    return environment


def write_whole_study(root: Path, patch: pytest.MonkeyPatch) -> Study:
    """Write a study of two rows, two folds and two seeds, all of it done, and let the environment name its folders."""
    described = study(metrics=("dice",))
    for key, value in write_study_results(root, described, {"nnUNetTrainerPlain": 1.0, "GASA": 2.0}).items():
        patch.setenv(key, value)
    write_trainings(described)
    return described


def write_trainings(described: Study, seconds: Mapping[str, float] | None = None) -> None:
    """Write logs and notes of all trainings of a study whose results are there.

    Args:
        described: The study; nnU-Net's folders are in the environment.
        seconds: Title of a row -> duration of an epoch; 10 s for the others.
    """
    for run in runs(described):
        write_training(run, (seconds or {}).get(run.row, 10.0))


def write_training(run: Run, seconds: float = 10.0, recipe: str = "nnU-Net's, 0.01", **noted: Any) -> MadeTraining:
    """Write the log of a whole training of 3 epochs and what nnU-Net notes of it, beside its results.

    Args:
        run: The training.
        seconds: Duration of an epoch.
        recipe: As the log tells it.
        noted: Entries of debug.json that are otherwise.
    """
    summary = run.fold_folder / "validation" / "summary.json"
    before = summary.read_text(encoding="utf-8")
    made = MadeTraining(run.fold_folder, epochs=3, clock=NOON, seconds=seconds).start(cases=3)
    made.write(BANNER.format(network="PlainUNet", recipe=recipe))
    made.train(0, 3).finish().predict(3, seconds=20.0).validate()
    summary.write_text(before, encoding="utf-8")
    write_notes(run.fold_folder, **noted)
    return made


def write_notes(fold_folder: Path, **noted: Any) -> None:
    """Write a debug.json with the entries that nnU-Net notes of a training, as text."""
    content = {
        "num_epochs": 3,
        "num_iterations_per_epoch": 4,
        "batch_size": 2,
        "initial_lr": 0.01,
        "optimizer": "SGD (\nParameter Group 0\n    lr: 0.01\n)",
        "precision": "amp",
        "is_ddp": False,
        "device": "cuda:0",
        "gpu_name": "Made GPU",
        "torch_version": "2.9.1",
        "cudnn_version": 91002,
        **noted,
    }
    text = json.dumps({key: str(value) for key, value in content.items() if value is not None})
    (fold_folder / "debug.json").write_text(text, encoding="utf-8")


def copy_results(root: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy nnU-Net's folders, with the times of their files, and let the environment name the copies."""
    for name in ("raw", "preprocessed", "results"):
        shutil.copytree(root / name, place / name)
        monkeypatch.setenv(f"nnUNet_{name}", str(place / name))


def write_by_hand(root: Path, described: Study, overlaps: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Write results of a study in two folds with masks whose figures are known; returns nnU-Net's environment.

    References are the first 8 voxels of 4 x 4 x 4 of 1 mm; predictions are 8 voxels, of which so many are shared.

    Args:
        root: Where nnU-Net's folders will be.
        described: The study, without seeds; its rows have the data set's own plans.
        overlaps: Title of a row -> shared voxels of case_0, case_1 and so on, from 0 to 8.
    """
    trainers = {trainer_of(described, row): overlaps[row.title] for row in described.rows}
    cases = len(next(iter(overlaps.values())))
    environment = write_results(root, dict.fromkeys(trainers, 0.0), folds=2, cases=cases, labels=HAND_LABELS)
    raw, preprocessed = root / "raw" / DATASET, root / "preprocessed" / DATASET
    description = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    splits = json.loads((preprocessed / "splits_final.json").read_text(encoding="utf-8"))
    for folder in (raw / "labelsTr", preprocessed / "gt_segmentations"):
        shutil.rmtree(folder)
        folder.mkdir()
        for number in range(cases):
            _write_mask(0, folder / f"case_{number}.nii.gz")
    new = [{side: [f"case_{int(case[-3:])}" for case in split[side]] for side in split} for split in splits]
    (preprocessed / "splits_final.json").write_text(json.dumps(new), encoding="utf-8")
    for trainer, shared in trainers.items():
        for fold, split in enumerate(new):
            validation = model_folder(root, trainer) / f"fold_{fold}" / "validation"
            shutil.rmtree(validation)
            validation.mkdir()
            for case in split["val"]:
                _write_mask(8 - shared[int(case.removeprefix("case_"))], validation / f"{case}.nii.gz")
            write_stock_summary(preprocessed / "gt_segmentations", validation, description)
    return environment


def _write_mask(moved: int, file: Path) -> None:
    mask = np.zeros(64, np.uint8)
    mask[moved : moved + 8] = 1
    sitk.WriteImage(sitk.GetImageFromArray(mask.reshape(4, 4, 4)), str(file))
