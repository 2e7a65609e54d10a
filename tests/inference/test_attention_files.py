"""The files of attention maps, and the numbers of their JSON."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread
from skimage.io import imread as read_picture

from nnunet_attn.inference.attention_files import grey, label_means, label_names, write_map
from nnunet_attn.inference.attention_montage import MOST_HEADS, Montage, fullest_slice, shown_stages

PICTURE: dict[str, Any] = {"spacing": (999, 1, 1)}


def test_pictures_hold_thousandths(tmp_path: Path) -> None:
    values = np.array([[[[0, 1, 2.5]]], [[[1, 1, np.nan]]]], dtype=np.float32)
    files = write_map(values, tmp_path / "case_attn_s1", PICTURE, True)
    assert [path.name for path in files] == ["case_attn_s1.png", "case_attn_s1_head1.png", "case_attn_s1_head2.png"]
    read = [read_picture(path) for path in files]
    assert all(each.dtype == np.uint16 for each in read)
    assert [each.tolist() for each in read] == [[[500, 1000, 65535]], [[0, 1000, 2500]], [[1000, 1000, 65535]]]
    assert grey(np.array([70.0, 65.534, 0.0004], dtype=np.float32)).tolist() == [65534, 65534, 0]
    assert [path.name for path in write_map(values, tmp_path / "b", PICTURE, False)] == ["b.png"]


def test_flat_and_plain_images_are_nifti(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 2, (2, 1, 4, 5)).astype(np.float32)
    stuff = {"spacing": (0.5, 2.0), "origin": (3.0, 4.0), "direction": (1.0, 0.0, 0.0, 1.0)}
    files = write_map(values, tmp_path / "flat", {"sitk_stuff": stuff, "spacing": [999, 2, 0.5]}, True)
    mean, heads = (sitk.ReadImage(str(path)) for path in files)
    assert mean.GetSize() == (5, 4) and mean.GetSpacing() == (0.5, 2.0)
    np.testing.assert_allclose(sitk.GetArrayFromImage(mean), values.mean(0)[0], rtol=1e-6)
    assert heads.GetSize() == (5, 4, 2)
    assert np.array_equal(sitk.GetArrayFromImage(heads), values[:, 0])

    # stacks of TIFF, whose reader knows the spacing alone
    volume = np.random.default_rng(0).uniform(0, 2, (1, 3, 4, 5)).astype(np.float32)
    (file,) = write_map(volume, tmp_path / "stack", {"spacing": [3.0, 2.0, 1.0]}, False)
    read = sitk.ReadImage(str(file))
    assert read.GetSize() == (5, 4, 3) and read.GetSpacing() == (1.0, 2.0, 3.0)
    assert np.array_equal(sitk.GetArrayFromImage(read), volume[0])


def test_means_inside_and_outside_of_labels() -> None:
    values = np.array([[[[1, 2, 3, 4, 100]]], [[[3, 4, np.nan, 8, 100]]]], dtype=np.float32)
    labels = np.array([[[1, 1, 1, 2, 2]]])
    crop = np.array([[[True, True, True, True, False]]])
    names = {"one": [1], "two": [2], "both": [1, 2], "none": [3]}
    found = label_means(values, labels, names, crop)
    # the third voxel has no value in one head, the fifth was not seen
    assert found["one"] == {
        "voxels": 3,
        "inside": ((1 + 2) / 2 + (3 + 4) / 2) / 2,
        "inside_heads": [1.5, 3.5],
        "outside": 6.0,
        "outside_heads": [4.0, 8.0],
    }
    assert found["two"]["inside_heads"] == [4.0, 8.0] and found["two"]["voxels"] == 2
    assert found["both"]["inside_heads"] == [7 / 3, 5.0] and found["both"]["outside"] is None
    assert found["none"]["inside"] is None and found["none"]["outside_heads"] == [7 / 3, 5.0]


def test_labels_and_regions_have_names() -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    assert label_names({"labels": labels}) == {"whole": [1, 2], "core": [2]}


def test_the_slice_with_the_most_foreground() -> None:
    labels = np.zeros((4, 5, 6), dtype=np.uint8)
    assert [fullest_slice(labels, axis) for axis in range(3)] == [2, 2, 3]
    labels[1, :2, 2:4] = 2
    labels[3, 4, 5] = 1
    assert [fullest_slice(labels, axis) for axis in range(3)] == [1, 0, 2]


def test_many_stages_are_thinned_out() -> None:
    assert shown_stages(["b", "a"]) == ["b", "a"]
    names = [str(number) for number in range(40)]
    shown = shown_stages(names)
    assert len(shown) == len(set(shown)) == 16 and shown[0] == "0" and shown[-1] == "39"
    assert shown == sorted(shown, key=names.index)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_montage_shows_mean_and_heads(axis: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((6, 8, 10), dtype=np.uint8)
    labels[2:4, 2:6, 3:7] = 1
    montage = Montage("case", rng.normal(size=labels.shape), labels, axis, (4.0, 1.0, 2.0))
    values = rng.uniform(0, 3, (MOST_HEADS + 3, *labels.shape)).astype(np.float32)
    montage.add("one", values[:1])
    montage.add("many", values)
    at = fullest_slice(labels, axis)
    assert len(montage.rows["one"]) == 1 and len(montage.rows["many"]) == 1 + MOST_HEADS
    np.testing.assert_allclose(montage.rows["many"][0], values.mean(0).take(at, axis), rtol=1e-5)
    assert np.array_equal(montage.rows["many"][3], values[2].take(at, axis))
    assert montage.aspect == {0: 0.5, 1: 2.0, 2: 4.0}[axis]
    montage.draw(tmp_path / "case.png", {"organ": [1]})
    picture = imread(tmp_path / "case.png")
    assert picture.ndim == 3 and np.ptp(picture[..., 0]) > 0.5


def test_the_montage_of_a_voxel_shows_its_slice(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(6, 8, 10))
    labels = np.zeros(image.shape, dtype=np.uint8)
    labels[2] = 1
    montage = Montage("case", image, labels, 0, (1.0, 1.0, 1.0), (5, 0, 9))
    assert np.array_equal(montage.image, image[5]) and not montage.labels.any()
    montage.add("one", np.full((1, *image.shape), np.nan, dtype=np.float32))
    montage.draw(tmp_path / "case.png", {"organ": [1]})
    assert imread(tmp_path / "case.png").ndim == 3
