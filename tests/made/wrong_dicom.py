"""Wrong DICOM series for `nnunet-attn register`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.made.loose import cut, dicom_series, label, volume, without_place, write
from tests.made.wrong import Make, Wrong, after
from tests.made.wrong_files import FOLDERS, REGISTER

_ROWS = ((1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, 1))


def _dicom(change: Callable[[], object] = lambda: None, **wrong: Any) -> Make:
    """Write two series with labels, the second of them wrong, as `dicom_series` has it, and change something."""

    def make(_: Path) -> Sequence[object]:
        for number in range(2):
            options = wrong if number == 1 else {}
            dicom_series(Path(f"images/case_{number}"), volume(number), f"1.2.3.{number}", **options)
            write(Path(f"labels/case_{number}.nii.gz"), label(number=number))
        change()
        return FOLDERS

    return make


def _foreign_dicom() -> None:
    for file in Path("images/case_1").iterdir():
        file.write_bytes(b"not a DICOM file")


DICOM = (
    Wrong(
        "DICOM files that cannot be read",
        "case_1: images/case_1 holds no DICOM series that can be read",
        "name the folder its files lie in",
        _dicom(_foreign_dicom),
    ),
    Wrong(
        "two DICOM series in a folder",
        "case_1: images/case_1 holds 2 DICOM series (1.2.3.1, 1.2.4)",
        "put each in a folder of its own",
        _dicom(lambda: dicom_series(Path("images/case_1"), volume(9), "1.2.4")),
    ),
    Wrong(
        "a DICOM series without one of its slices",
        "case_1: images/case_1: slices are 3 mm apart, but 1 of the steps are not, such as 6 mm",
        "add the missing slices, or remove those that are there twice",
        _dicom(missing=(2,)),
    ),
    Wrong(
        "loose DICOM files",
        "images holds slices of one DICOM series (...)",
        "give each series a folder of its own, and name the folder above",
        after(lambda _: dicom_series(Path("images"), volume()), *REGISTER, "--images", "images", "--unlabeled"),
    ),
    Wrong(
        "a DICOM series with a damaged slice",
        "case_1: images/case_1: 1 of its 5 DICOM files cannot be read as slices of the series, such as 1.2.3.1_4.dcm",
        "replace what is damaged, take out what is no slice, or leave out the case",
        _dicom(lambda: cut(Path("images/case_1/1.2.3.1_4.dcm"))),
    ),
    Wrong(
        "one DICOM file among others that are none",
        "case_1: images/case_1 holds one DICOM file (1.2.3.1_0.dcm) and others that are none, such as rest",
        "take them out, or replace them if they are damaged",
        _dicom(lambda: Path("images/case_1/rest").write_bytes(b"garbage"), missing=(1, 2, 3, 4)),
    ),
    Wrong(
        "a DICOM series with gantry tilt",
        "case_1: images/case_1: its slices are shifted by up to 4 mm over 12 mm, by gantry tilt as it seems",
        "correct it, for example by dcm2niix, which writes NIfTI",
        _dicom(place=lambda number: (0, number, 3 * number)),
    ),
    Wrong(
        "time points in one DICOM series",
        "case_1: images/case_1: 1.2.3.1_0.dcm and 1.2.3.1_1.dcm lie at one place, and others too",
        "if these are time points or echoes, put each in a folder of its own; if a slice is there twice, remove one",
        _dicom(place=lambda _: (0, 0, 0)),
    ),
    Wrong(
        "a localizer in place of a stack of slices",
        "case_1: images/case_1: its slices lie in different directions, such as 1.2.3.1_... and 1.2.3.1_..., as those "
        "of a localizer do",
        "put the slices of one direction in a folder of their own",
        _dicom(directions=lambda number: _ROWS[number % 2]),
    ),
    Wrong(
        "a DICOM series that does not say where its slices lie",
        "case_1: images/case_1: 5 of its 5 files do not say where their slices lie (no ImagePositionPatient), so their "
        "order and distance are not known",
        "convert it to NIfTI with the right spacing",
        _dicom(lambda: [without_place(file) for file in Path("images/case_1").iterdir()]),
    ),
)
