import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.datasets import phantom, raw
from nnunet_attn.datasets.phantom import (
    LABELS,
    NOMINAL_SIZE,
    draw_anatomy,
    phantom_case,
    signed_distances,
    write_phantom,
)
from nnunet_attn.errors import InputError

LEFT, RIGHT = LABELS["left kidney"], LABELS["right kidney"]


def case(dim: int, seed: int):
    return phantom_case(dim, NOMINAL_SIZE[dim], np.random.default_rng(seed))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("dim", [2, 3])
def test_a_case_is_reproducible_and_varies_with_the_seed(dim):
    image, labels, spacing_mm = case(dim, 0)
    again, labels_again, spacing_again_mm = case(dim, 0)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert spacing_mm == spacing_again_mm
    assert image.shape == labels.shape == NOMINAL_SIZE[dim]
    assert not np.array_equal(labels, case(dim, 1)[1])


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_every_case_shows_every_label_inside_the_image(dim, seed):
    labels = case(dim, seed)[1]
    assert set(np.unique(labels)) == set(LABELS.values()) == set(range(5))
    assert min(np.count_nonzero(labels == value) for value in LABELS.values()) > 100
    assert not labels[..., 0].any() and not labels[..., -1].any()


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_the_right_kidney_is_the_left_one_mirrored(dim, seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (3, 2000))
    anatomy = draw_anatomy(rng, dim)
    distances, mirrored = signed_distances(anatomy, points), signed_distances(anatomy, points * [[-1], [1], [1]])
    np.testing.assert_allclose(distances["left kidney"], mirrored["right kidney"], rtol=0, atol=1e-12)
    assert not np.allclose(distances["liver"], mirrored["liver"])


@pytest.mark.parametrize("dim", [2, 3])
def test_the_kidneys_differ_in_nothing_but_position(dim):
    sizes, means = [], []
    for seed in range(40):
        image, labels, _ = case(dim, seed)
        left, right = labels == LEFT, labels == RIGHT
        sizes.append(left.sum() / right.sum())
        means.append(image[left].mean() / image[right].mean())
        assert np.argwhere(right)[:, -1].max() < np.argwhere(left)[:, -1].min()
    # 40 cases: intensities are drawn within 5 percent per kidney and the bias field adds up to 12; neither has a side
    assert np.mean(sizes) == pytest.approx(1, abs=0.02)
    assert np.std(sizes) < 0.06
    assert np.mean(means) == pytest.approx(1, abs=0.05)


def test_the_kidneys_do_not_touch_the_other_organs():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        points = rng.uniform(-1.2, 1.2, (3, 20000))
        inside = {name: d < 0 for name, d in signed_distances(draw_anatomy(rng), points).items()}
        kidneys = inside["left kidney"] | inside["right kidney"]
        assert not (kidneys & (inside["liver"] | inside["lesion"] | inside["spine"])).any()
        assert not (inside["left kidney"] & inside["right kidney"]).any()


def test_spacing_is_anisotropic_and_the_edges_are_soft():
    image, labels, spacing_mm = case(3, 0)
    assert spacing_mm[0] == pytest.approx(2 * spacing_mm[1]) and spacing_mm[1] == spacing_mm[2]
    lesion, organ = phantom.INTENSITY["lesion"], phantom.INTENSITY["liver"]
    # 12 is the noise: well between the two means is where only partial volumes are
    between = np.isin(labels, [LABELS["lesion"], LABELS["liver"]]) & (image > organ + 60) & (image < lesion - 80)
    assert between.any()


@pytest.mark.parametrize(("dim", "size"), [(4, (16,) * 4), (3, (32, 32)), (2, (32, 8))])
def test_a_wrong_shape_is_refused_with_its_numbers(dim, size):
    with pytest.raises(ValueError, match=rf"{dim}|{size[0]}"):
        phantom_case(dim, size, np.random.default_rng(0))


@pytest.mark.parametrize("dim", [2, 3])
def test_the_data_set_is_in_nnunets_raw_format(tmp_path, dim):
    folder = write_phantom(tmp_path, 7, dim=dim, n_train=5, n_test=2)
    assert folder == tmp_path / "Dataset007_Phantom"
    content = json.loads((folder / "dataset.json").read_text())
    assert content["numTraining"] == 5 and content["labels"] == LABELS and content["file_ending"] == ".nii.gz"
    sizes = set()
    for suffix, expected in {"Tr": 5, "Ts": 2}.items():
        label_files = sorted((folder / f"labels{suffix}").iterdir())
        assert len(label_files) == len(list((folder / f"images{suffix}").iterdir())) == expected
        for file in label_files:
            labels = sitk.ReadImage(str(file))
            image = sitk.ReadImage(str(folder / f"images{suffix}" / file.name.replace(".nii", "_0000.nii")))
            assert labels.GetSize() == image.GetSize() and labels.GetDimension() == dim
            assert labels.GetSpacing() == image.GetSpacing() and labels.GetOrigin() == image.GetOrigin()
            assert set(np.unique(sitk.GetArrayFromImage(labels))) == set(range(5))
            sizes.add(image.GetSize())
    assert len(sizes) > 1
    assert list(tmp_path.iterdir()) == [folder]


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    first = write_phantom(tmp_path / "a", 1, n_train=5, n_test=1)
    second = write_phantom(tmp_path / "b", 1, n_train=5, n_test=1)
    other = write_phantom(tmp_path / "c", 1, n_train=5, n_test=1, seed=1)
    assert contents(first) == contents(second)
    assert contents(first).keys() == contents(other).keys()
    assert contents(first) != contents(other)


def test_a_size_may_be_given(tmp_path):
    folder = write_phantom(tmp_path, 1, dim=2, n_train=5, n_test=0, size=(32, 40))
    image = sitk.ReadImage(str(folder / "imagesTr" / "case_000_0000.nii.gz"))
    assert abs(image.GetSize()[0] - 40) <= 2 and abs(image.GetSize()[1] - 32) <= 2


def test_an_existing_data_set_is_left_alone(tmp_path):
    other = tmp_path / "Dataset003_Mine"
    other.mkdir()
    with pytest.raises(InputError, match="Dataset003_Mine exists"):
        write_phantom(tmp_path, 3)
    assert list(tmp_path.rglob("*")) == [other]


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(raw, "_write_dataset_json", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_phantom(tmp_path, 3, n_train=5, n_test=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset_id": 0}, "dataset_id=0"),
        ({"dataset_id": 1000}, "dataset_id=1000"),
        ({"dataset_id": 1, "dim": 4}, "dim=4"),
        ({"dataset_id": 1, "n_train": 4}, "n_train=4"),
        ({"dataset_id": 1, "seed": -1}, "seed=-1"),
        ({"dataset_id": 1, "size": (16, 16)}, r"size=\(16, 16\)"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        write_phantom(tmp_path, **arguments)
