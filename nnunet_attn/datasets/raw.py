"""Writing made cases in nnU-Net's raw format."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_attn.errors import InputError

FILE_ENDING = ".nii.gz"

Case = tuple[NDArray[np.int16], NDArray[np.uint8], tuple[float, ...]]
"""Image, labels and spacing in mm; image and labels have the same shape, the spacing one number an axis."""


def check_new_dataset(raw_folder: Path, dataset_id: int, n_train: int, n_test: int, seed: int) -> None:
    """Check what `write_dataset` is asked for.

    Raises:
        InputError: If a data set of this number exists, or an argument is out of its range.
    """
    if not 1 <= dataset_id <= 999:
        raise InputError(f"dataset_id={dataset_id}: nnU-Net's numbers go from 1 to 999")
    if n_train < 5 or n_test < 0:
        raise InputError(f"n_train={n_train}, n_test={n_test}: nnU-Net's five folds need n_train >= 5, and n_test >= 0")
    if seed < 0:
        raise InputError(f"seed={seed}: a seed is 0 or larger")
    taken = sorted(raw_folder.glob(f"Dataset{dataset_id:03d}_*"))
    if taken:
        raise InputError(f"{taken[0]} exists: choose another number, or remove that folder")


def write_dataset(
    raw_folder: Path,
    folder_name: str,
    labels: Mapping[str, int],
    n_train: int,
    n_test: int,
    make_case: Callable[[int, int], Case],
) -> Path:
    """Write a data set of one channel, complete or not at all, and return its folder.

    Args:
        raw_folder: nnU-Net's raw folder; made if missing.
        folder_name: `DatasetXXX_Name`, new there.
        labels: Name -> value.
        n_train: Cases in `imagesTr`, `labelsTr`.
        n_test: Cases in `imagesTs`, `labelsTs`, numbered on.
        make_case: From the split, 0 for training and 1 for test, and the index in it to the case.
    """
    raw_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".phantom-", dir=raw_folder) as temporary:
        folder = Path(temporary) / folder_name
        for split, (suffix, n_cases) in enumerate({"Tr": n_train, "Ts": n_test}.items()):
            (folder / f"images{suffix}").mkdir(parents=True)
            (folder / f"labels{suffix}").mkdir()
            for index in range(n_cases):
                image, segmentation, spacing_mm = make_case(split, index)
                case = f"case_{split * n_train + index:03d}"
                _write_image(image, spacing_mm, folder / f"images{suffix}" / f"{case}_0000{FILE_ENDING}")
                _write_image(segmentation, spacing_mm, folder / f"labels{suffix}" / f"{case}{FILE_ENDING}")
        _write_dataset_json(folder / "dataset.json", labels, n_train)
        return folder.rename(raw_folder / folder_name)


def _write_image(array: NDArray[np.generic], spacing_mm: Sequence[float], file: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(step) for step in reversed(spacing_mm)])
    # World coordinates start at the middle of the image, as a scanner's do near its isocentre.
    image.SetOrigin([-0.5 * (n - 1) * step for n, step in zip(image.GetSize(), image.GetSpacing(), strict=True)])
    sitk.WriteImage(image, str(file), useCompression=True)


def _write_dataset_json(file: Path, labels: Mapping[str, int], n_train: int) -> None:
    content = {
        "channel_names": {"0": "MRI"},
        "labels": dict(labels),
        "numTraining": n_train,
        "file_ending": FILE_ENDING,
    }
    file.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
