"""Maps come back to where the image has them: transposed, cropped and resampled images, readers that turn them."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_attn.errors import InputError
from nnunet_attn.inference.attention_files import write_map
from nnunet_attn.inference.attention_geometry import Geometry, array_index, file_size
from tests.made.plans import KINDS, LABELS, Kind

TRANSPOSES = [(0, 1, 2), (2, 0, 1), (1, 2, 0)]
MARGIN = (slice(2, 11), slice(1, 15), slice(3, 12))


def preprocessed(
    image: np.ndarray, transpose: tuple[int, ...], spacing: tuple[float, ...], target: list[float]
) -> tuple[np.ndarray, Geometry]:
    """Run nnU-Net's own preprocessing, without normalisation, on an image (z y x)."""
    chosen = {"spacing": target, "normalization_schemes": ["NoNormalization"]}
    kind = KINDS["3d"] if len(target) == 3 else KINDS["2d"]
    kind = Kind(kind.configuration, {**kind.entry, **chosen}, LABELS)
    plans = kind.plans
    plans.update(transpose_forward=list(transpose), transpose_backward=np.argsort(transpose).tolist())
    manager = PlansManager(plans)
    entry = manager.get_configuration(kind.configuration)
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        image[None], None, {"spacing": spacing}, manager, entry, kind.dataset_json
    )
    return data, Geometry(manager, entry, properties, data.shape[1:])


def in_margin(content: np.ndarray, shape: tuple[int, ...] = (13, 16, 14)) -> np.ndarray:
    image = np.zeros(shape, dtype=np.float32)
    image[MARGIN] = content
    return image


def ramp(size: tuple[int, ...]) -> np.ndarray:
    """A linear function of the position: order 1 puts it back exactly, but for what lies at the border."""
    z, y, x = np.meshgrid(*map(np.arange, size), indexing="ij")
    return (10 + 2.0 * z - 0.5 * y + 0.25 * x).astype(np.float32)


SIZE = tuple(part.stop - part.start for part in MARGIN)


@pytest.mark.parametrize("transpose", TRANSPOSES)
def test_what_is_not_resampled_comes_back_exactly(transpose: tuple[int, ...]) -> None:
    image = in_margin(np.random.default_rng(0).uniform(1, 2, SIZE))
    data, geometry = preprocessed(image, transpose, (1.0, 1.0, 1.0), [1.0, 1.0, 1.0])
    found = geometry.to_file(np.concatenate([data, 2 * data]))
    assert np.array_equal(found, np.stack([image, 2 * image]))
    assert np.array_equal(geometry.crop, image > 0)


@pytest.mark.parametrize("transpose", TRANSPOSES)
@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (1.0, 2.0, 1.5), (5.0, 0.7, 0.7)])
def test_resampled_maps_come_back_to_their_place(transpose: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    image = in_margin(ramp(SIZE))
    own = [spacing[axis] for axis in transpose]
    data, geometry = preprocessed(image, transpose, spacing, [0.8 * step for step in own])
    assert data.shape[1:] != tuple(SIZE[axis] for axis in transpose)
    found = geometry.to_file(data)[0]
    assert np.array_equal(found != 0, image != 0)
    # finer by a quarter and back: what the borders lose, and slices that are copied along a coarse axis
    inner = tuple(slice(part.start + 2, part.stop - 2) for part in MARGIN)
    np.testing.assert_allclose(found[inner], image[inner], atol=0.1 if max(spacing) < 3 else 1.1)
    # a map that is one everywhere is one everywhere
    np.testing.assert_allclose(geometry.to_file(np.ones_like(data))[0], (image != 0), atol=1e-6)


def test_planes_of_a_2d_configuration_keep_their_distance() -> None:
    image = in_margin(ramp(SIZE))
    data, geometry = preprocessed(image, (0, 1, 2), (4.0, 1.0, 1.0), [0.8, 0.8])
    assert data.shape[1] == SIZE[0] and data.shape[2] > SIZE[1]
    found = geometry.to_file(data)[0]
    inner = tuple(slice(part.start + 2, part.stop - 2) for part in MARGIN)
    np.testing.assert_allclose(found[inner], image[inner], atol=0.05)


@pytest.mark.parametrize("transpose", TRANSPOSES)
def test_no_value_stays_no_value_and_does_not_spread(transpose: tuple[int, ...]) -> None:
    image = in_margin(np.full(SIZE, 7.0))
    spacing = (1.0, 2.0, 1.5)
    own = [spacing[axis] for axis in transpose]
    data, geometry = preprocessed(image, transpose, spacing, [0.5 * step for step in own])
    # the half of the image's first axis, which is doubled
    axis = 1 + transpose.index(0)
    data[(*(slice(None),) * axis, slice(data.shape[axis] // 2, None))] = np.nan
    found = geometry.to_file(data, np.nan)[0]
    kept = (slice(2, 6), *MARGIN[1:])
    np.testing.assert_allclose(found[kept], 7, atol=1e-5)
    assert np.isfinite(found[MARGIN]).any((1, 2)).tolist() in ([True] * 4 + [False] * 5, [True] * 5 + [False] * 4)
    assert np.isnan(found[geometry.crop == 0]).all()


@pytest.mark.parametrize("transpose", TRANSPOSES)
def test_a_voxel_is_found_in_the_preprocessed_image(transpose: tuple[int, ...]) -> None:
    image = in_margin(np.random.default_rng(0).uniform(1, 2, SIZE))
    data, geometry = preprocessed(image, transpose, (1.0, 1.0, 1.0), [1.0, 1.0, 1.0])
    for voxel in product(*map(range, image.shape)):
        there = geometry.to_preprocessed(voxel)
        assert (there is not None) == bool(image[voxel] > 0)
        assert there is None or data[(0, *there)] == image[voxel]


@pytest.mark.parametrize("factor", [0.4, 0.8, 1.7])
@pytest.mark.parametrize("transpose", TRANSPOSES)
def test_a_voxel_of_a_resampled_image_is_found_and_back(transpose: tuple[int, ...], factor: float) -> None:
    spacing = (3.0, 1.0, 1.0)
    own = np.array([spacing[axis] for axis in transpose])
    image = in_margin(np.ones(SIZE))
    data, geometry = preprocessed(image, transpose, spacing, list(factor * own))
    sizes = np.array([SIZE[axis] for axis in transpose])
    for voxel in product(*(range(part.start, part.stop) for part in MARGIN)):
        there = geometry.to_preprocessed(voxel)
        assert there is not None
        cropped = np.array([voxel[axis] - MARGIN[axis].start for axis in transpose])
        # both centres as a share of the crop's length, at most half a preprocessed voxel apart
        apart = (np.array(there) + 0.5) / data.shape[1:] - (cropped + 0.5) / sizes
        assert (np.abs(apart) <= 0.5 / np.array(data.shape[1:]) + 1e-9).all()
        if factor < 1:  # and back, where voxels did not become fewer
            assert np.array_equal(((np.array(there) + 0.5) / data.shape[1:] * sizes).astype(int), cropped)


OBLIQUE = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
TURNED = {"axial": (1.0, 0, 0, 0, 1, 0, 0, 0, 1), "turned": OBLIQUE, "sagittal": (0.0, 0, 1, 1, 0, 0, 0, -1, 0)}
READERS: Mapping[str, Any] = {
    reader.__name__: reader for reader in (SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient)
}


@pytest.mark.parametrize("direction", TURNED)
@pytest.mark.parametrize("name", READERS)
def test_readers_that_turn_images_are_followed(name: str, direction: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).uniform(1, 2, (5, 6, 7)).astype(np.float32)
    written = sitk.GetImageFromArray(array)
    written.SetSpacing((0.5, 1.5, 2.5))
    written.SetOrigin((3.0, -4.0, 5.0))
    written.SetDirection(TURNED[direction])
    file = tmp_path / "image.nii.gz"
    sitk.WriteImage(written, str(file))
    data, properties = READERS[name]().read_images([str(file)])
    shape = data.shape[1:]
    assert file_size(properties, shape) == (7, 6, 5)
    for voxel in product(range(7), range(6), range(5)):
        assert data[(0, *array_index(voxel, properties, shape))] == array[voxel[::-1]]

    files = write_map(np.stack([data[0], 3 * data[0]]), tmp_path / "case_attn_a", properties, True)
    assert [path.name for path in files] == ["case_attn_a.nii.gz", "case_attn_a_heads.nii.gz"]
    back = sitk.ReadImage(str(files[0]))
    assert back.GetPixelID() == sitk.sitkFloat32 and back.GetSize() == (7, 6, 5)
    np.testing.assert_allclose(sitk.GetArrayFromImage(back), 2 * array, rtol=1e-6)
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(back, get)(), getattr(written, get)(), atol=1e-5)
    heads: Any = nibabel.load(files[1])  # pyright: ignore[reportPrivateImportUsage]
    assert heads.shape == (7, 6, 5, 2) and heads.get_data_dtype() == np.float32
    np.testing.assert_allclose(heads.affine, nibabel.load(file).affine, atol=1e-5)  # pyright: ignore[reportAttributeAccessIssue, reportPrivateImportUsage]
    np.testing.assert_allclose(heads.get_fdata()[..., 1], 3 * array.transpose(), rtol=1e-6)


@pytest.mark.parametrize(
    ("voxel", "said"),
    [((7, 0, 0), "7 x 6 x 5 voxels; the last one is 6,5,4"), ((0, -1, 0), "outside"), ((1, 2), "2 numbers")],
)
def test_a_voxel_outside_is_refused(voxel: tuple[int, ...], said: str) -> None:
    properties = {"sitk_stuff": {"spacing": (1.0, 1.0, 1.0)}, "spacing": [1.0, 1.0, 1.0]}
    with pytest.raises(InputError, match=said):
        array_index(voxel, properties, (5, 6, 7))


def test_a_voxel_of_a_picture_is_column_and_row() -> None:
    properties = {"spacing": (999, 1, 1)}
    assert file_size(properties, (1, 6, 7)) == (7, 6)
    assert array_index((5, 2), properties, (1, 6, 7)) == (0, 2, 5) == array_index((5, 2, 0), properties, (1, 6, 7))
    with pytest.raises(InputError, match="7 x 6"):
        array_index((2, 6), properties, (1, 6, 7))
    with pytest.raises(InputError, match="3 numbers"):
        array_index((2, 2, 1), properties, (1, 6, 7))
