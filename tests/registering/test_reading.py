import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image
from skimage import io

from nnunet_attn.errors import InputError
from nnunet_attn.registering.natural import TURNED
from nnunet_attn.registering.reading import ending_of, read_labels, read_picture
from tests.made.loose import SPACING, cut, label, volume, write

VOLUMES = [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr"]
COLOURS = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)


def _refused(file: Path, *words: str, as_label: bool = False) -> None:
    with pytest.raises(InputError) as error:
        (read_labels if as_label else read_picture)(file)
    for word in (file.name, *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", VOLUMES)
def test_volumes(tmp_path: Path, ending: str) -> None:
    picture = read_picture(write(tmp_path / f"a{ending}", volume(), origin=(1, 2, 3)))
    assert picture.plain and picture.array.dtype == np.int16
    np.testing.assert_array_equal(picture.array, volume()[None])
    assert picture.grid is not None
    assert (picture.grid.size, picture.grid.spacing, picture.grid.origin) == ((7, 6, 5), SPACING, (1.0, 2.0, 3.0))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_volume_that_was_cut_short_is_named(tmp_path: Path, ending: str) -> None:
    _refused(cut(write(tmp_path / f"a{ending}", volume(shape=(20, 30, 40)))), "replace it or leave out the case")


def test_a_header_without_its_data(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mhd", volume())
    (tmp_path / "a.zraw").unlink(missing_ok=True)
    (tmp_path / "a.raw").unlink(missing_ok=True)
    _refused(file, "cut short, or a file that it names is missing")


def test_one_wrong_byte_in_a_gzip_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.nii.gz", volume(shape=(20, 30, 40)))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    _refused(file, "damaged or cut short (gzip")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.nrrd", "a.png", "a.tif", "a.dcm"):
        (tmp_path / name).write_bytes(b"no image")
        _refused(tmp_path / name, "replace it or leave out the case")
    (tmp_path / "a.doc").write_bytes(b"no image")
    _refused(tmp_path / "a.doc", "its format is not known; convert it to one of .nii.gz")
    _refused(tmp_path / "b.png", "does not exist")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_file_that_one_may_not_read(tmp_path: Path) -> None:
    for ending in (".nii.gz", ".mha", ".png"):
        file = tmp_path / f"a{ending}"
        file.write_bytes(b"")
        file.chmod(0)
        if os.access(file, os.R_OK):
            pytest.skip("this user may read everything")
        _refused(file, "cannot be read (Permission denied)")


def test_endings() -> None:
    assert ending_of(Path("a.b.NII.GZ")) == ".nii.gz"
    assert ending_of(Path("a.Png")) == ".png"
    assert ending_of(Path("a.gz")) is None
    assert ending_of(Path(".png")) is None


def test_4d_is_refused_unless_its_axis_is_channels(tmp_path: Path) -> None:
    array = volume(shape=(2, *volume().shape))
    file = write(tmp_path / "a.nii.gz", array)
    _refused(file, "has 4 axes (7 x 6 x 5 x 2)", "split it", "nibabel.four_to_three", "fslsplit")
    picture = read_picture(file, channels_in_file=True)
    np.testing.assert_array_equal(picture.array, array)
    assert picture.grid is not None and picture.grid.spacing == SPACING
    assert not picture.plain
    with pytest.raises(InputError, match="has 3 axes: channels in one file need a 4D image"):
        read_picture(write(tmp_path / "b.nii.gz", volume()), channels_in_file=True)


def test_components_are_channels(tmp_path: Path) -> None:
    array = np.stack([volume(0), volume(1)], axis=-1)
    for ending in (".mha", ".nrrd", ".nii.gz"):
        picture = read_picture(write(tmp_path / f"a{ending}", array, vector=True))
        np.testing.assert_array_equal(picture.array, np.moveaxis(array, -1, 0))
        assert not picture.plain


def test_complex_values_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.complex64), np.eye(4)), tmp_path / "a.nii")
    _refused(tmp_path / "a.nii", "complex values; give their magnitude")


def test_axes_that_are_not_perpendicular(tmp_path: Path) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[0, 1] = 0.01  # of 2 mm, so the cosine is 0.005, half of which each axis turns
    nibabel.save(nibabel.Nifti1Image(volume().T, affine), tmp_path / "a.nii.gz")
    picture = read_picture(tmp_path / "a.nii.gz")
    assert picture.mended and picture.grid is not None
    np.testing.assert_array_equal(picture.array[0], volume())
    axes = np.reshape(picture.grid.direction, (3, 3))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(axes[0], [-1, -0.0025, 0], atol=1e-5)
    affine[0, 1] = 0.5
    nibabel.save(nibabel.Nifti1Image(volume().T, affine), tmp_path / "b.nii.gz")
    _refused(tmp_path / "b.nii.gz", "axes are not perpendicular", "resample it")


def test_a_header_without_a_place_in_space(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(volume().T, np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[280:328] = np.full(12, np.nan, np.float32).tobytes()  # the affine, by rows
    (tmp_path / "a.nii").write_bytes(content)
    _refused(tmp_path / "a.nii", "the place in space in its header is not finite", "write a right one")


def test_natural_images(tmp_path: Path) -> None:
    for ending in (".png", ".bmp", ".tif"):
        file = tmp_path / f"a{ending}"
        Image.fromarray(COLOURS).save(file)
        picture = read_picture(file)
        np.testing.assert_array_equal(picture.array, np.moveaxis(COLOURS, -1, 0))
        assert picture.plain and picture.colour and picture.grid is None
        Image.fromarray(COLOURS[..., 0]).save(file)
        picture = read_picture(file)
        np.testing.assert_array_equal(picture.array, COLOURS[None, ..., 0])
        assert picture.plain and not picture.colour
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg")
    assert read_picture(tmp_path / "a.jpg").shape == (8, 9)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".jpg", ".tif"])
def test_a_natural_image_that_was_cut_short_is_named(tmp_path: Path, ending: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / f"a{ending}")
    _refused(cut(tmp_path / f"a{ending}"), "replace it or leave out the case")


def test_a_stack_of_tiff_that_was_cut_short_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", volume(shape=(12, 40, 50)), compression="zlib")
    _refused(cut(tmp_path / "a.tif"), "damaged or cut short")


def test_16_bits(tmp_path: Path) -> None:
    grey = np.arange(72, dtype=np.uint16).reshape(8, 9) * 900
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png").array, grey[None])
    assert read_picture(tmp_path / "grey.png").array.dtype == np.uint16
    colours = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=-1)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "rgb.png"))
    picture = read_picture(tmp_path / "rgb.png")
    np.testing.assert_array_equal(picture.array, np.moveaxis(colours, -1, 0))
    assert not picture.plain, "nnU-Net would read 8 bits of it"
    tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb")
    assert read_picture(tmp_path / "rgb.tif").plain


def test_alpha_is_left_out(tmp_path: Path) -> None:
    alpha = np.dstack([COLOURS, COLOURS[..., :1]])
    Image.fromarray(alpha).save(tmp_path / "rgba.png")
    Image.fromarray(alpha[..., :2]).save(tmp_path / "la.png")
    tifffile.imwrite(tmp_path / "rgba.tif", alpha, photometric="rgb")
    for name, channels in {"rgba.png": 3, "la.png": 1, "rgba.tif": 3}.items():
        picture = read_picture(tmp_path / name)
        np.testing.assert_array_equal(picture.array, np.moveaxis(COLOURS, -1, 0)[:channels])
        assert picture.notes == ("its alpha channel was left out",)
        assert not picture.plain


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif"])
def test_an_orientation_that_is_not_followed_is_told(tmp_path: Path, ending: str) -> None:
    image, exif = Image.fromarray(COLOURS), Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    image.save(tmp_path / f"a{ending}", exif=exif)
    picture = read_picture(tmp_path / f"a{ending}")
    assert picture.notes == (TURNED,) and picture.shape == (8, 9)
    read = io.imread(tmp_path / f"a{ending}")  # what nnU-Net reads by
    np.testing.assert_array_equal(picture.array, np.moveaxis(read, -1, 0))
    exif[274] = 1
    image.save(tmp_path / f"b{ending}", exif=exif)
    assert read_picture(tmp_path / f"b{ending}").notes == ()


def test_a_palette_is_colours_in_an_image_and_numbers_in_a_label(tmp_path: Path) -> None:
    numbers = np.zeros((8, 9), np.uint8)
    numbers[2:4], numbers[5:] = 1, 2
    image = Image.fromarray(numbers)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png")
    values, picture = read_labels(tmp_path / "a.png")
    np.testing.assert_array_equal(values, numbers)
    assert not picture.plain, "nnU-Net would read colours"
    red = read_picture(tmp_path / "a.png").array[0]
    np.testing.assert_array_equal(red, (numbers == 1) * 255)


def test_one_bit_images(tmp_path: Path) -> None:
    Image.fromarray(label((1,), (8, 9)).astype(bool)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png")[0], label((1,), (8, 9)))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").array[0], label((255,), (8, 9)))


def test_natural_images_that_are_refused(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "cmyk.jpg")
    _refused(tmp_path / "cmyk.jpg", "colours of the kind CMYK; convert it to grey or RGB")
    frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1].copy())]
    frames[0].save(tmp_path / "two.png", save_all=True, append_images=frames[1:])
    _refused(tmp_path / "two.png", "holds 2 images")
    tifffile.imwrite(
        tmp_path / "4d.tif", np.zeros((2, 3, 4, 5), np.uint8), photometric="minisblack", metadata={"axes": "TZYX"}
    )
    _refused(tmp_path / "4d.tif", "a TIFF with the axes TZYX (2 x 3 x 4 x 5)", "one file a channel")
    with tifffile.TiffWriter(tmp_path / "series.tif") as writer:
        writer.write(np.zeros((4, 5), np.uint8))
        writer.write(np.zeros((6, 7), np.uint8))
    _refused(tmp_path / "series.tif", "holds 2 images of different sizes")


def test_planes_of_a_tiff_are_channels(tmp_path: Path) -> None:
    planes = np.ascontiguousarray(np.moveaxis(COLOURS, -1, 0))
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.array, planes)
    assert not picture.plain


def test_colours_of_a_tiff_that_is_jpeg_inside(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    stored = np.asarray(Image.fromarray(flat).convert("YCbCr"))
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="ycbcr", compression="jpeg")
    picture = read_picture(tmp_path / "a.tif")
    assert picture.plain and picture.colour
    np.testing.assert_allclose(picture.array[:, 8, 8], (200, 100, 50), atol=3)


def test_channels_of_a_tiff_that_are_no_colours(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 60000, (4, 8, 9), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(array, 0, -1), photometric="minisblack", planarconfig="contig")
    for name in ("a.tif", "b.tif"):
        picture = read_picture(tmp_path / name)
        np.testing.assert_array_equal(picture.array, array)
        assert not picture.plain and not picture.colour and picture.notes == ()


def test_the_spacing_of_a_stack_lies_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "a_0000.tif"
    tifffile.imwrite(file, volume())
    assert read_picture(file).grid is None
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [3, 1.5, 1]}))
    picture = read_picture(file)
    assert picture.grid is not None
    assert (picture.grid.size, picture.grid.spacing) == ((7, 6, 5), (1.0, 1.5, 3.0))
    shutil.copy(file, tmp_path / "a.tif")
    assert read_picture(tmp_path / "a.tif").grid == picture.grid
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match=r"a\.json: no spacing can be read from it; write"):
        read_picture(file)
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [3, 0, 1]}))
    with pytest.raises(InputError, match="give three numbers above 0, in mm, for z, y, x"):
        read_picture(file)


def test_labels_of_floats(tmp_path: Path) -> None:
    values, picture = read_labels(write(tmp_path / "a.nii.gz", label((1, 3)).astype(np.float32)))
    assert np.issubdtype(values.dtype, np.integer) and np.issubdtype(picture.array.dtype, np.floating)
    np.testing.assert_array_equal(values, label((1, 3)))
    array = label((1, 3)).astype(np.float32)
    array[0, 0, 0] = 0.25
    _refused(write(tmp_path / "b.nii.gz", array), "no integers, such as 0.25", "interpolation", as_label=True)
    array[0, 0, 0] = 1e30
    _refused(write(tmp_path / "d.nii.gz", array), "values as large as 1e+30; it may be an image", as_label=True)
    array[0, 0, 0] = np.nan
    for ending in (".nii.gz", ".nii", ".mha"):
        _refused(write(tmp_path / f"c{ending}", array), "not finite (NaN or infinite)", as_label=True)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_itk_reads_values_of_nifti_that_are_not_finite_as_zeros(tmp_path: Path, ending: str) -> None:
    array = volume().astype(np.float32)
    array[1, 2, 3], array[2, 3, 4] = np.nan, np.inf
    picture = read_picture(write(tmp_path / f"a{ending}", array))
    assert picture.array[0, 1, 2, 3] == picture.array[0, 2, 3, 4] == 0
    assert picture.notes == ("values that are not finite (NaN or infinite) are read as 0, by nnU-Net too",)
    assert read_picture(write(tmp_path / f"b{ending}", volume().astype(np.float32))).notes == ()


def test_labels_of_several_channels(tmp_path: Path) -> None:
    equal = np.repeat(label((255,), (8, 9)).astype(np.uint8)[..., None], 3, axis=-1)
    Image.fromarray(equal).save(tmp_path / "a.png")
    values, picture = read_labels(tmp_path / "a.png")
    np.testing.assert_array_equal(values, equal[..., 0])
    assert not picture.plain
    equal[0, 0, 1] = 7
    Image.fromarray(equal).save(tmp_path / "b.png")
    _refused(tmp_path / "b.png", "3 channels that differ", "one value for each label", as_label=True)
    Image.fromarray(equal).save(tmp_path / "c.jpg")
    _refused(tmp_path / "c.jpg", "JPEG changes the values of labels", as_label=True)
