import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering.faults import check_path
from nnunet_attn.registering.model import Registration
from nnunet_attn.registering.plan import plan_registration
from tests.made.loose import cases, label, volume, write
from tests.made.registration import changed, plan_of, refused


def test_duplicate_images_are_told_and_refused_across_splits(tmp_path: Path) -> None:
    given = cases(tmp_path, 4)
    write(tmp_path / "image_2.nii.gz", volume(0))
    (warning,) = plan_of(given).warnings
    assert warning == "case_0, case_2 have the same image; folds may put them on both sides"
    refused(changed(given, 2, test=True), "case_0, case_2: the same image is in training and in test")
    twice = changed(cases(tmp_path, 2), 1, images=given[1].images * 2)
    twice = changed(twice, 0, images=(*given[0].images, given[3].images[0]))
    assert "case_1: two of its channels are the same image" in plan_of(twice).warnings


def test_constant_channels_are_no_duplicates(tmp_path: Path) -> None:
    given = cases(tmp_path, 3, test=[2])
    zeros = [write(tmp_path / f"zeros_{number}.nii.gz", np.zeros_like(volume())) for number in range(3)]
    two = [replace(case, images=(*case.images, zeros[number])) for number, case in enumerate(given)]
    assert plan_of(two).warnings == ()


def test_one_label_file_for_two_cases_is_refused(tmp_path: Path) -> None:
    given = cases(tmp_path)
    refused(changed(given, 2, label=given[0].label), "case_2: ", "label_0.nii.gz is the label of case_0 too; give each")
    (tmp_path / "again.nii.gz").symlink_to(tmp_path / "label_0.nii.gz")
    refused(changed(given, 2, label=tmp_path / "again.nii.gz"), "again.nii.gz is the label of case_0 too")


def test_an_image_given_as_its_label_is_refused(tmp_path: Path) -> None:
    given = cases(tmp_path)
    refused(changed(given, 1, label=given[1].images[0]), "case_1: its label ", "is the image of case_1; give its label")
    refused(changed(given, 1, label=given[0].images[0]), "case_1: its label ", "is the image of case_0; give its label")
    # a copy, of few values, so that it could be a label
    for name in ("image_1", "label_1"):
        write(tmp_path / f"{name}.nii.gz", label((1,)))
    refused(given, "case_1: ", "label_1.nii.gz is the same image as the case's own; give its label")
    for name in ("image_1", "label_1"):
        write(tmp_path / f"{name}.nii.gz", label(()))
    assert plan_of(given).warnings == ("1 label without foreground: case_1",)


def test_the_same_label_content_is_told(tmp_path: Path) -> None:
    given = cases(tmp_path)
    write(tmp_path / "label_2.nii.gz", label().astype(np.uint8))
    assert plan_of(given).warnings == ("case_0, case_2 have the same label; look whether each has its own",)
    for name in ("label_0", "label_2"):
        write(tmp_path / f"{name}.nii.gz", label(()))
    assert not [warning for warning in plan_of(given).warnings if "same label" in warning]
    for name, array in (("image_0", volume()), ("image_2", volume()), ("label_0", label()), ("label_2", label())):
        write(tmp_path / f"{name}.nii.gz", array)
    (warning,) = plan_of(given).warnings
    assert "have the same image" in warning


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    given = cases(tmp_path)
    odd = tmp_path / "caf\udce9.nii.gz"
    try:
        given[1].images[0].rename(odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    refused(
        changed(given, 1, images=(odd,)), "case_1: ", "caf\\udce9.nii.gz: this name, or that of a folder above, is not"
    )


def test_names_that_the_system_stores_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsencode", lambda path: str(path).encode("latin-1"))
    check_path(Path("plain.png"))
    with pytest.raises(InputError, match="is not UTF-8; rename it"):
        check_path(Path("caf\u00e9.png"))


def test_a_patient_in_both_splits_is_refused(tmp_path: Path) -> None:
    given = [replace(case, patient="p1" if case.case != "case_1" else None) for case in cases(tmp_path, 3, test=[2])]
    refused(given, "patient p1 is in training (case_0) and in test (case_2)", "belong to one split")
    plan_of([replace(case, test=False) for case in given])


def test_mixed_orientations_are_told(tmp_path: Path) -> None:
    given = cases(tmp_path)
    for name, array in (("image_1", volume(1)), ("label_1", label(number=1))):
        write(tmp_path / f"{name}.nii.gz", array, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    (warning,) = plan_of(given).warnings
    assert warning.startswith("orientations of the voxel axes differ: LPS in 2 cases, RAS in 1 (case_1)")


def test_what_looks_like_ct_is_told(tmp_path: Path) -> None:
    given = cases(tmp_path, 1)
    write(tmp_path / "image_0.nii.gz", volume() - 1000)
    (warning,) = plan_of(given, channel_names=("MRI",)).warnings
    assert "name the channel CT, not MRI" in warning
    assert not plan_of(given, channel_names=("CT",)).warnings


def test_wrong_requests(tmp_path: Path) -> None:
    given = cases(tmp_path)
    with pytest.raises(InputError, match="dataset_id=1000: nnU-Net's numbers go from 1 to 999"):
        plan_registration(Registration(1000, "Made", given))
    with pytest.raises(InputError, match="name='a b': a data set's name is made of letters"):
        plan_registration(Registration(7, "a b", given))
    with pytest.raises(InputError, match="processes=0: give 1 or more"):
        plan_registration(Registration(7, "Made", given), processes=0)
    refused(given, "link='soft': links are hard or symbolic", link="soft")
    refused(given, 'labels need "background": 0', labels={"organ": 1})
    refused([], "0 cases are given, none of them for training")
    refused([replace(case, test=True) for case in given], "3 cases are given, none of them for training")
    refused(changed(given, 1, case="Case_0"), "case_0: 2 cases have this name", "image_1.nii.gz")
    accent = changed(changed(given, 0, case="caf\u00e9"), 1, case="CAFE\u0301")
    refused(accent, "2 cases have this name")
    refused(changed(given, 1, case="a/b"), "'a/b': a case's name is made of letters, digits and _ - .")
    refused(changed(given, 1, images=()), "case_1: it has a label, but no image")
    refused(changed(given, 1, images=(tmp_path / "no.nii.gz",)), "case_1: ", "no.nii.gz does not exist")
    refused(changed(given, 1, label=tmp_path / "no.nii.gz"), "case_1: ", "no.nii.gz does not exist")
    refused(changed(given, 1, label=tmp_path), "case_1: the label", "is a folder; give a label map in one file")
