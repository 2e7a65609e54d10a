"""Made scans, masks, pictures and a table, named as users name them."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

CASES = ("anna_1", "anna_2", "bob_1", "cleo_1", "dora_1", "emil_1")
"""Cases by patient and visit."""

SHAPE, SPACING = (6, 10, 12), (0.8, 0.8, 2.0)


def write_volume(file: Path, array: NDArray[np.generic], origin: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
    """Write (z y x) with made spacing, in the format of the file's ending."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(file), useCompression=True)


def write_picture(file: Path, array: NDArray[np.uint8]) -> None:
    """Write (y x), or (y x c) with colours."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=array.ndim == 3), str(file))


def ct(seed: int) -> NDArray[np.int16]:
    """Made values of a scan, from -1000 on."""
    return np.random.default_rng(seed).integers(-1000, 200, SHAPE, dtype=np.int16)


def organ(values: Sequence[int] = (1, 2)) -> NDArray[np.uint8]:
    """A label map with a block of each value, (z y x)."""
    array = np.zeros(SHAPE, np.uint8)
    for number, value in enumerate(values):
        array[1:5, 2:8, 1 + 3 * number : 4 + 3 * number] = value
    return array


def write_scans(folder: Path, cases: Sequence[str] = CASES, values: Sequence[int] = (1, 2)) -> None:
    """Write `scans/CASE.nii.gz`, `masks/CASE_seg.nii.gz`, and `cases.csv` with case, image, label and patient."""
    rows = [["case", "image", "label", "patient"]]
    for number, case in enumerate(cases):
        write_volume(folder / "scans" / f"{case}.nii.gz", ct(number))
        write_volume(folder / "masks" / f"{case}_seg.nii.gz", organ(values))
        rows.append([case, f"scans/{case}.nii.gz", f"masks/{case}_seg.nii.gz", case.split("_")[0]])
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_pictures(folder: Path, values: Sequence[int] = (100, 200, 255), number: int = 6) -> None:
    """Write `xray/N.png` and `xray/N_mask.png` with blocks of these values."""
    for case in range(number):
        write_picture(folder / f"xray/{case}.png", np.random.default_rng(case).integers(0, 256, (16, 20), np.uint8))
        mask = np.zeros((16, 20), np.uint8)
        for block, value in enumerate(values):
            mask[3:9, 1 + 6 * block : 5 + 6 * block] = value
        write_picture(folder / f"xray/{case}_mask.png", mask)
