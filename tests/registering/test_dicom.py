import locale
import shutil
from pathlib import Path

import numpy as np
import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering.dicom import INVERTED
from nnunet_attn.registering.reading import read_picture
from tests.made.loose import SPACING, cut, dicom_series, half_slope, inverted, volume, without_place


def _refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as error:
        read_picture(path)
    for word in (path.name, *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dicom_series(tmp_path: Path) -> None:
    picture = read_picture(dicom_series(tmp_path / "a", volume()))
    np.testing.assert_array_equal(picture.array[0], volume())
    assert picture.grid is not None
    assert picture.grid.spacing == pytest.approx(SPACING)
    assert picture.modality == "CT"
    assert not picture.plain


def test_reading_leaves_the_locale_alone(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "a", volume())
    before = locale.setlocale(locale.LC_ALL)
    read_picture(folder)
    assert locale.setlocale(locale.LC_ALL) == before


def test_a_dicom_image_of_one_slice_is_2d(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "a", volume(shape=(1, 6, 7)), modality="CR")
    (file,) = folder.iterdir()
    for path in (folder, file):
        picture = read_picture(path)
        np.testing.assert_array_equal(picture.array, volume(shape=(1, 6, 7)))
        assert picture.grid is not None and picture.grid.spacing == pytest.approx(SPACING[:2])
        assert picture.modality == "CR"


def test_two_dicom_series_in_a_folder_are_refused_with_their_uids(tmp_path: Path) -> None:
    dicom_series(tmp_path / "a", volume(), uid="1.2.826.0.1.1")
    dicom_series(tmp_path / "a", volume(), uid="1.2.826.0.1.2")
    _refused(tmp_path / "a", "holds 2 DICOM series", "1.2.826.0.1.1", "1.2.826.0.1.2", "a folder of its own")


def test_a_dicom_series_with_a_slice_missing(tmp_path: Path) -> None:
    _refused(dicom_series(tmp_path / "a", volume(), missing=[2]), "slices are 3 mm apart, but 1 of", "such as 6 mm")


def test_a_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "slice.dcm").write_bytes(b"no DICOM")
    _refused(tmp_path / "a", "holds no DICOM series that can be read")


@pytest.mark.parametrize("ending", [".dcm", ""])
def test_a_damaged_slice_is_not_left_out_in_silence(tmp_path: Path, ending: str) -> None:
    folder = dicom_series(tmp_path / "a", volume())
    last = folder / "1.2.826.0.1.1_4.dcm"
    last.write_bytes(last.read_bytes()[:-30])
    last.rename(last.with_name(f"last{ending}"))
    _refused(folder, f"1 of its 5 DICOM files cannot be read as slices of the series, such as last{ending}; replace")
    for file in folder.glob("1.2*_[123].dcm"):
        cut(file)
    _refused(folder, "4 of its 5 DICOM files cannot be read")


def test_files_that_are_no_dicom_are_told(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "a", volume())
    assert read_picture(folder).notes == ()
    for name in (".hidden", "DICOMDIR"):
        (folder / name).write_bytes(bytes(128) + b"DICM")
    for name in ("readme.txt", "VERSION"):
        (folder / name).write_text("no slice")
    picture = read_picture(folder)
    np.testing.assert_array_equal(picture.array[0], volume())
    assert picture.notes == ("2 files beside its DICOM files are none and were left out",)


def test_what_is_left_of_a_damaged_series_is_no_2d_image(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "a", volume(shape=(1, 6, 7)))
    (folder / "rest").write_bytes(b"garbage")
    _refused(folder, "holds one DICOM file (1.2.826.0.1.1_0.dcm) and others that are none, such as rest; take them out")


def test_gantry_tilt_is_refused(tmp_path: Path) -> None:
    def tilted(step: float) -> Path:
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        return dicom_series(tmp_path / "a", volume(), place=lambda n: (0, step * n, n * SPACING[2]))

    _refused(tilted(0.1), "slices are shifted by up to 0.4 mm over 12 mm", "gantry tilt", "dcm2niix")
    assert read_picture(tilted(0.02)).shape == volume().shape  # 0.08 voxel at the last slice


def test_an_oblique_series_is_not_tilted(tmp_path: Path) -> None:
    angle = np.deg2rad(20)
    c, s = float(np.cos(angle)), float(np.sin(angle))
    folder = dicom_series(
        tmp_path / "a",
        volume(),
        place=lambda n: (0, round(-3 * s * n, 6), round(3 * c * n, 6)),
        directions=lambda _: (1, 0, 0, 0, round(c, 6), round(s, 6)),
    )
    picture = read_picture(folder)
    np.testing.assert_array_equal(picture.array[0], volume())
    assert picture.grid is not None and picture.grid.spacing == pytest.approx(SPACING, rel=1e-5)


def test_time_points_in_one_series_are_refused(tmp_path: Path) -> None:
    still = dicom_series(tmp_path / "a", volume(), place=lambda _: (0, 0, 0))
    _refused(still, "lie at one place, and others too; if these are time points or echoes, put each in a folder of its")
    two = dicom_series(tmp_path / "b", volume(shape=(2, 6, 7)), place=lambda _: (0, 0, 0))
    _refused(two, "1.2.826.0.1.1_0.dcm", "1.2.826.0.1.1_1.dcm", "lie at one place; if these are time points")
    pairs = dicom_series(tmp_path / "c", volume(shape=(6, 6, 7)), place=lambda n: (0, 0, n // 2))
    _refused(pairs, "lie at one place, and others too")
    once = dicom_series(tmp_path / "d", volume(), place=lambda n: (0, 0, min(n, 3)))
    _refused(once, "1.2.826.0.1.1_3.dcm", "1.2.826.0.1.1_4.dcm", "if a slice is there twice, remove one")


def test_directions_that_differ_in_a_series_are_refused(tmp_path: Path) -> None:
    ways = ((1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, 1), (0, 1, 0, 0, 0, 1))
    folder = dicom_series(tmp_path / "a", volume(shape=(3, 6, 7)), directions=lambda n: ways[n])
    _refused(folder, "its slices lie in different directions, such as ", "localizer", "a folder of their own")
    two = dicom_series(tmp_path / "b", volume(shape=(2, 6, 7)), directions=lambda n: ways[n])
    _refused(two, "different directions")


def test_slices_without_a_place_are_refused(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "a", volume())
    without_place(folder / "1.2.826.0.1.1_2.dcm")
    _refused(folder, "1 of its 5 files do not say where their slices lie (no ImagePositionPatient)", "right spacing")
    single = dicom_series(tmp_path / "b", volume(shape=(1, 6, 7)))
    without_place(single / "1.2.826.0.1.1_0.dcm")
    assert read_picture(single).shape == (6, 7)


def test_each_slice_has_its_own_scale(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "a", volume(), modality="PT")
    for file in folder.glob("*_[1234].dcm"):  # the first one stays of integers
        half_slope(file)
    wanted = volume().astype(np.float32)
    wanted[1:] /= 2
    array = read_picture(folder).array
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[0], wanted)


def test_bright_low_values_are_turned_round_and_told(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "a", volume(shape=(1, 6, 7)), modality="CR")
    (file,) = folder.iterdir()
    plain = read_picture(file)
    assert plain.notes == ()
    inverted(file)
    for path in (folder, file):
        picture = read_picture(path)
        assert picture.notes == (INVERTED,)
        sums = picture.array.astype(int) + plain.array
        assert sums.min() == sums.max()


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "a", volume())
    try:
        (folder / "1.2.826.0.1.1_2.dcm").rename(folder / "caf\udce9.dcm")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    _refused(folder, "caf\\udce9.dcm: this name, or that of a folder above, is not UTF-8; rename it")
