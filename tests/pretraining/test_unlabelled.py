"""The working data set: whole or not at all, found again, and the user's folder as it was."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_attn.errors import InputError
from nnunet_attn.pretraining.unlabelled import find_working_dataset, image_cases, why_unlabelled, working_dataset
from tests.made.raw_images import COLOUR, MRI, NAME, made, write


def state(folder: Path) -> dict[str, Any]:
    return {
        str(f.relative_to(folder)): (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.rglob("*") if f.is_file()
    }


def make(folder: Path, description: dict[str, Any] = MRI, **more: Any) -> Path:
    return working_dataset(folder, description, image_cases(folder, description), lambda: {10, 999}, **more)


@pytest.mark.parametrize(("description", "channels"), [(MRI, 1), (MRI, 2), (COLOUR, 1)])
def test_nnunet_reads_it_and_the_images_are_links(tmp_path: Path, description: dict[str, Any], channels: int) -> None:
    folder = made(tmp_path, description, channels=channels)
    before, told = state(folder), []
    working = make(folder, description, on_case=told.append)
    assert working == tmp_path / "Dataset998_ImagesBodyMask", "the highest free number"
    assert told == [1, 2, 3] and state(folder) == before
    content = json.loads((working / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "body": 1} and content["numTraining"] == 3
    found = get_filenames_of_train_images_and_targets(str(working))
    assert sorted(found) == ["case_0", "case_1", "case_2"]
    for case, files in found.items():
        assert len(files["images"]) == channels
        image = Path(files["images"][0])
        assert image.resolve() == (folder / "imagesTr" / image.name).resolve()
        mask, original = sitk.ReadImage(files["label"]), sitk.ReadImage(files["images"][0])
        assert mask.GetSize() == original.GetSize()
        labels = sitk.GetArrayFromImage(mask)
        assert set(np.unique(labels)) == {0, 1}, case
        if description is MRI:
            assert mask.GetSpacing() == pytest.approx((1.0, 2.0, 3.0))
            assert labels[:, 2:8, 3:9].all() and labels.mean() < 0.5, "the body and hardly more"


def test_it_is_found_again_and_made_anew_only_by_hand(tmp_path: Path) -> None:
    folder = made(tmp_path)
    working = make(folder)
    stamp = (working / "dataset.json").stat().st_mtime_ns
    assert make(folder) == working == find_working_dataset(folder)
    assert (working / "dataset.json").stat().st_mtime_ns == stamp
    os.utime(folder / "imagesTr" / "case_1_0000.nii.gz", ns=(1, 1))
    with pytest.raises(InputError, match=r"Dataset998_ImagesBodyMask was made from .* whose images have changed"):
        make(folder)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 10, 12), dtype=np.float32), r"case_2_0000.nii.gz: it is constant \(0\).*remove this case"),
        (None, r"case_2_0000.nii.gz cannot be read"),
    ],
)
def test_an_unusable_image_is_named_and_nothing_is_left(tmp_path: Path, array: np.ndarray | None, reason: str) -> None:
    folder = made(tmp_path)
    file = folder / "imagesTr" / "case_2_0000.nii.gz"
    if array is None:
        file.write_bytes(b"no image")
    else:
        write(file, array)
    with pytest.raises(InputError, match=reason):
        make(folder)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_why_labels_are_of_no_use(tmp_path: Path) -> None:
    folder = made(tmp_path)
    cases = image_cases(folder, MRI)
    assert why_unlabelled(folder, MRI, cases) == "it has no labels"
    label = np.zeros((4, 10, 12), dtype=np.uint8)
    for case in range(3):
        if case == 2:
            assert why_unlabelled(folder, MRI, cases) == "1 of its 3 cases have no label"
        write(folder / "labelsTr" / f"case_{case}.nii.gz", label)
    assert why_unlabelled(folder, MRI, cases) == "its labels are zero everywhere"
    label[1, 5, 5] = 1
    write(folder / "labelsTr" / "case_2.nii.gz", label)
    assert why_unlabelled(folder, MRI, cases) is None


def test_images_that_dataset_json_lists_lie_where_it_says(tmp_path: Path) -> None:
    folder = made(tmp_path)
    listed = {f"patient{i}": {"images": [f"imagesTr/case_{i}_0000.nii.gz"]} for i in range(2)}
    description = {**MRI, "dataset": listed}
    assert why_unlabelled(folder, description, image_cases(folder, description)) == "it has no labels"
    working = make(folder, description)
    assert sorted(path.name for path in (working / "imagesTr").iterdir()) == [
        "patient0_0000.nii.gz",
        "patient1_0000.nii.gz",
    ]


def test_missing_images_are_told(tmp_path: Path) -> None:
    folder = made(tmp_path, channels=2)
    (folder / "imagesTr" / "case_1_0001.nii.gz").unlink()
    with pytest.raises(InputError, match="case case_1 has 1 files and others 2"):
        image_cases(folder, MRI)
    with pytest.raises(InputError, match=r"no images to learn from.*CASE_0000\.nii\.gz"):
        image_cases(tmp_path / "none", MRI)


def test_no_number_is_free(tmp_path: Path) -> None:
    folder = made(tmp_path)
    with pytest.raises(InputError, match="all taken"):
        working_dataset(folder, MRI, image_cases(folder, MRI), lambda: set(range(1000)))


@pytest.mark.slow
def test_several_processes_make_the_same_masks(tmp_path: Path) -> None:
    folder = made(tmp_path, cases=16)
    alone, shared = make(folder, workers=1), tmp_path / "kept"
    alone.rename(shared)
    (shared / "dataset.json").unlink()
    together = make(folder, workers=2)
    for file in sorted((shared / "labelsTr").iterdir()):
        masks = [sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (file, together / "labelsTr" / file.name)]
        assert np.array_equal(masks[0], masks[1])
