"""The phantom of positions: organs that a patch cannot tell apart, and where they lie."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.benchmark.position import PATCH
from nnunet_attn.datasets.positions import LABELS, NOISE_STD, NOMINAL_SIZE, QUARTERS, positions_case, write_positions
from nnunet_attn.errors import InputError

SIZES = [(16, 124, 132), NOMINAL_SIZE, (16, 131, 125)]


@pytest.mark.parametrize("size", SIZES)
def test_the_quarter_of_the_volume_decides_the_label(size: tuple[int, int, int]) -> None:
    _, labels, _ = positions_case(size, np.random.default_rng(1))
    assert labels.shape == size and set(np.unique(labels)) == set(LABELS.values())
    for name, sides in QUARTERS.items():
        for axis, side in enumerate(sides, start=1):
            along = np.nonzero(labels == LABELS[name])[axis] - (size[axis] - 1) / 2
            assert (np.sign(along) == side).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_patch_at_an_organ_shows_no_other_organ_and_no_border(size: tuple[int, int, int]) -> None:
    _, labels, _ = positions_case(size, np.random.default_rng(2))
    for value in LABELS.values():
        for axis in (1, 2):
            if value:
                along = np.nonzero(labels == value)[axis]
                others = np.nonzero((labels > 0) & (labels != value))[axis]
                assert along.min() > PATCH[axis] / 2 and along.max() < size[axis] - PATCH[axis] / 2
                far = np.abs(others[:, None] - along[None, ::50]).min(1)
                assert ((far <= 9) | (far >= PATCH[axis])).all()  # in the next quarter, or beside it along this axis


def test_organs_are_congruent_and_equally_bright() -> None:
    image, labels, _ = positions_case(NOMINAL_SIZE, np.random.default_rng(3))
    counts = [int((labels == value).sum()) for value in LABELS.values() if value]
    assert max(counts) < 1.1 * min(counts)
    means = [image[labels == value].mean() for value in LABELS.values() if value]
    assert max(means) - min(means) < 6 * NOISE_STD / np.sqrt(min(counts))


def test_background_tells_nothing() -> None:
    image, labels, _ = positions_case(NOMINAL_SIZE, np.random.default_rng(4))
    lines = [
        np.where(labels == 0, image, np.nan)[:, :20].ravel(),
        np.where(labels == 0, image, np.nan)[:, 54:74].ravel(),
    ]
    means = [np.nanmean(line) for line in lines]
    assert abs(means[0] - means[1]) < 6 * NOISE_STD / np.sqrt(len(lines[0]))
    assert np.nanstd(lines[0]) == pytest.approx(np.nanstd(lines[1]), rel=0.05)


def test_the_data_set_is_seeded_and_its_cases_do_not_depend_on_their_number(tmp_path: Path) -> None:
    first = write_positions(tmp_path / "a", 7, n_train=5, n_test=2)
    second = write_positions(tmp_path / "b", 7, n_train=5, n_test=1)
    other = write_positions(tmp_path / "c", 7, n_train=5, n_test=0, seed=1)

    def read(folder: Path, name: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name)))

    sizes = set()
    for name in (*(f"imagesTr/case_{n:03d}_0000.nii.gz" for n in range(5)), "imagesTs/case_005_0000.nii.gz"):
        np.testing.assert_array_equal(read(first, name), read(second, name))
        sizes.add(read(first, name).shape)
    assert len(sizes) > 1
    one = "imagesTr/case_000_0000.nii.gz"
    assert not np.array_equal(read(first, one).ravel()[:99], read(other, one).ravel()[:99])
    assert json.loads((first / "dataset.json").read_text())["labels"] == LABELS
    assert len(list((first / "labelsTs").iterdir())) == 2


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"size=\(16, 64, 64\)"):
        positions_case((16, 64, 64), np.random.default_rng(0))
    for wrong in ({"dataset_id": 0}, {"dataset_id": 7, "n_train": 4}, {"dataset_id": 7, "seed": -1}):
        with pytest.raises(InputError):
            write_positions(tmp_path / "raw", **wrong)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "raw").exists()
    write_positions(tmp_path / "raw", 7, n_train=5, n_test=0)
    with pytest.raises(InputError, match="exists"):
        write_positions(tmp_path / "raw", 7)
