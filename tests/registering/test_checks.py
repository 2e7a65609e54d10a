import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering.faults import check_path
from nnunet_attn.registering.model import Registration, SourceCase
from nnunet_attn.registering.plan import RegistrationPlan, plan_registration
from tests.made.loose import cases, label, volume, write


def _plan(given: Sequence[SourceCase], **options: Any) -> RegistrationPlan:
    return plan_registration(Registration(7, "Made", tuple(given), **options))


def _refused(given: Sequence[SourceCase], *words: str, **options: Any) -> None:
    with pytest.raises(InputError) as error:
        _plan(given, **options)
    for word in words:
        assert word in str(error.value)


def _with(given: Sequence[SourceCase], number: int, **changes: Any) -> list[SourceCase]:
    """Return the cases, one of them changed."""
    return [replace(case, **changes) if index == number else case for index, case in enumerate(given)]


def test_duplicate_images_are_told_and_refused_across_splits(tmp_path: Path) -> None:
    given = cases(tmp_path, 4)
    write(tmp_path / "image_2.nii.gz", volume(0))
    (warning,) = _plan(given).warnings
    assert warning == "case_0, case_2 have the same image; folds may put them on both sides"
    _refused(_with(given, 2, test=True), "case_0, case_2: the same image is in training and in test")
    twice = _with(cases(tmp_path, 2), 1, images=given[1].images * 2)
    twice = _with(twice, 0, images=(*given[0].images, given[3].images[0]))
    assert "case_1: two of its channels are the same image" in _plan(twice).warnings


def test_constant_channels_are_no_duplicates(tmp_path: Path) -> None:
    given = cases(tmp_path, 3, test=[2])
    zeros = [write(tmp_path / f"zeros_{number}.nii.gz", np.zeros_like(volume())) for number in range(3)]
    two = [replace(case, images=(*case.images, zeros[number])) for number, case in enumerate(given)]
    assert _plan(two).warnings == ()


def test_one_label_file_for_two_cases_is_refused(tmp_path: Path) -> None:
    given = cases(tmp_path)
    _refused(_with(given, 2, label=given[0].label), "case_2: ", "label_0.nii.gz is the label of case_0 too; give each")
    (tmp_path / "again.nii.gz").symlink_to(tmp_path / "label_0.nii.gz")
    _refused(_with(given, 2, label=tmp_path / "again.nii.gz"), "again.nii.gz is the label of case_0 too")


def test_an_image_given_as_its_label_is_refused(tmp_path: Path) -> None:
    given = cases(tmp_path)
    _refused(_with(given, 1, label=given[1].images[0]), "case_1: its label ", "is the image of case_1; give its label")
    _refused(_with(given, 1, label=given[0].images[0]), "case_1: its label ", "is the image of case_0; give its label")
    # a copy, of few values, so that it could be a label
    for name in ("image_1", "label_1"):
        write(tmp_path / f"{name}.nii.gz", label((1,)))
    _refused(given, "case_1: ", "label_1.nii.gz is the same image as the case's own; give its label")
    for name in ("image_1", "label_1"):
        write(tmp_path / f"{name}.nii.gz", label(()))
    assert _plan(given).warnings == ("1 label without foreground: case_1",)


def test_the_same_label_content_is_told(tmp_path: Path) -> None:
    given = cases(tmp_path)
    write(tmp_path / "label_2.nii.gz", label().astype(np.uint8))
    assert _plan(given).warnings == ("case_0, case_2 have the same label; look whether each has its own",)
    for name in ("label_0", "label_2"):
        write(tmp_path / f"{name}.nii.gz", label(()))
    assert not [warning for warning in _plan(given).warnings if "same label" in warning]
    for name, array in (("image_0", volume()), ("image_2", volume()), ("label_0", label()), ("label_2", label())):
        write(tmp_path / f"{name}.nii.gz", array)
    (warning,) = _plan(given).warnings
    assert "have the same image" in warning


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    given = cases(tmp_path)
    odd = tmp_path / "caf\udce9.nii.gz"
    try:
        given[1].images[0].rename(odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    _refused(
        _with(given, 1, images=(odd,)), "case_1: ", "caf\\udce9.nii.gz: this name, or that of a folder above, is not"
    )


def test_names_that_the_system_stores_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsencode", lambda path: str(path).encode("latin-1"))
    check_path(Path("plain.png"))
    with pytest.raises(InputError, match="is not UTF-8; rename it"):
        check_path(Path("caf\u00e9.png"))


def test_a_patient_in_both_splits_is_refused(tmp_path: Path) -> None:
    given = [replace(case, patient="p1" if case.case != "case_1" else None) for case in cases(tmp_path, 3, test=[2])]
    _refused(given, "patient p1 is in training (case_0) and in test (case_2)", "belong to one split")
    _plan([replace(case, test=False) for case in given])


def test_mixed_orientations_are_told(tmp_path: Path) -> None:
    given = cases(tmp_path)
    for name, array in (("image_1", volume(1)), ("label_1", label(number=1))):
        write(tmp_path / f"{name}.nii.gz", array, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    (warning,) = _plan(given).warnings
    assert warning.startswith("orientations of the voxel axes differ: LPS in 2 cases, RAS in 1 (case_1)")


def test_what_looks_like_ct_is_told(tmp_path: Path) -> None:
    given = cases(tmp_path, 1)
    write(tmp_path / "image_0.nii.gz", volume() - 1000)
    (warning,) = _plan(given, channel_names=("MRI",)).warnings
    assert "name the channel CT, not MRI" in warning
    assert not _plan(given, channel_names=("CT",)).warnings


def test_wrong_requests(tmp_path: Path) -> None:
    given = cases(tmp_path)
    with pytest.raises(InputError, match="dataset_id=1000: nnU-Net's numbers go from 1 to 999"):
        plan_registration(Registration(1000, "Made", given))
    with pytest.raises(InputError, match="name='a b': a data set's name is made of letters"):
        plan_registration(Registration(7, "a b", given))
    with pytest.raises(InputError, match="processes=0: give 1 or more"):
        plan_registration(Registration(7, "Made", given), processes=0)
    _refused(given, "link='soft': links are hard or symbolic", link="soft")
    _refused(given, 'labels need "background": 0', labels={"organ": 1})
    _refused([], "0 cases are given, none of them for training")
    _refused([replace(case, test=True) for case in given], "3 cases are given, none of them for training")
    _refused(_with(given, 1, case="Case_0"), "case_0: 2 cases have this name", "image_1.nii.gz")
    accent = _with(_with(given, 0, case="caf\u00e9"), 1, case="CAFE\u0301")
    _refused(accent, "2 cases have this name")
    _refused(_with(given, 1, case="a/b"), "'a/b': a case's name is made of letters, digits and _ - .")
    _refused(_with(given, 1, images=()), "case_1: it has a label, but no image")
    _refused(_with(given, 1, images=(tmp_path / "no.nii.gz",)), "case_1: ", "no.nii.gz does not exist")
    _refused(_with(given, 1, label=tmp_path / "no.nii.gz"), "case_1: ", "no.nii.gz does not exist")
    _refused(_with(given, 1, label=tmp_path), "case_1: the label", "is a folder; give a label map in one file")
