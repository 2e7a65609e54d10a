"""A data set by its file names, for splits: preprocessed, raw, or both."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_attn.datasets.splits_files import SPLITS_FILE
from nnunet_attn.datasets.splits_groups import CASES_FILE

CASES = tuple(f"case_{index:02d}" for index in range(23))
DATASET = "Dataset007_Made"
DESCRIPTION = {
    "channel_names": {"0": "MRI", "1": "CT"},
    "labels": {"background": 0, "organ": 1, "ignore": 2},
    "file_ending": ".nii.gz",
}
IDENTIFIERS = ("nnUNetPlans_2d", "nnUNetPlans_3d_fullres")


def write_preprocessed(root: Path) -> Path:
    """Write the preprocessed data set below `root`, two configurations of empty files; returns its folder."""
    made = root / "preprocessed" / DATASET
    made.mkdir(parents=True)
    plans = {"configurations": {name.split("_", 1)[1]: {"data_identifier": name} for name in IDENTIFIERS}}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres"}  # pyright: ignore[reportArgumentType]
    (made / "nnUNetPlans.json").write_text(json.dumps(plans))
    (made / "dataset.json").write_text(json.dumps(DESCRIPTION))
    (made / "gt_segmentations").mkdir()
    for name in IDENTIFIERS:
        (made / name).mkdir()
        for case in CASES:
            for ending in (".b2nd", "_seg.b2nd", ".pkl"):
                (made / name / f"{case}{ending}").touch()
    return made


def write_raw(root: Path, patients: Mapping[str, str] | None = None, sites: Mapping[str, str] | None = None) -> Path:
    """Write the raw data set, of empty images and without labels, and what was registered with it."""
    made = root / "raw" / DATASET
    (made / "imagesTr").mkdir(parents=True)
    (made / "dataset.json").write_text(json.dumps(DESCRIPTION))
    for case in CASES:
        for channel in range(2):
            (made / "imagesTr" / f"{case}_{channel:04d}.nii.gz").touch()
    if patients is not None or sites is not None:
        entries = {
            case: {"patient": (patients or {}).get(case), "site": (sites or {}).get(case), "test": False}
            for case in CASES
        }
        (made / CASES_FILE).write_text(json.dumps({"cases": entries}))
    return made


def write_labels(folder: Path, voxels: Sequence[int], spacing_mm: Sequence[tuple[float, float, float]]) -> None:
    """Write a label for each case with so many voxels of the organ, and as many to ignore."""
    folder.mkdir(exist_ok=True)
    for case, count, spacing in zip(CASES, voxels, spacing_mm, strict=True):
        array = np.zeros((4, 6, 5), np.uint8)
        array.flat[:count] = 1
        array.flat[count : 2 * count] = 2
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing)
        sitk.WriteImage(image, folder / f"{case}.nii.gz")


def nnunets_split(folder: Path, fold: int) -> Any:
    """Return what nnU-Net's own method gives a trainer of this fold; it makes the file if there is none."""
    trainer: Any = SimpleNamespace(
        dataset_class=None,
        preprocessed_dataset_folder=str(folder / IDENTIFIERS[0]),
        preprocessed_dataset_folder_base=str(folder),
        folder_with_segs_from_previous_stage=None,
        fold=fold,
        print_to_log_file=lambda *_: None,
    )
    return nnUNetTrainer.do_split(trainer)


def contents(folder: Path) -> dict[str, bytes]:
    """Return name -> content of the files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.exists() else {}


def read(folder: Path, name: str = SPLITS_FILE) -> Any:
    """Return the content of a JSON file."""
    return json.loads((folder / name).read_text())
