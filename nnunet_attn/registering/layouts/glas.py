"""GlaS 2015: glands in H&E-stained colon tissue."""

import csv
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.registering.layouts.contract import LayoutData, LayoutOptions
from nnunet_attn.registering.layouts.masks import ThresholdedMask
from nnunet_attn.registering.layouts.trees import (
    PaperSplit,
    divided,
    find_root,
    named_files,
    no_choice,
    paired,
    shown,
)
from nnunet_attn.registering.model import SourceCase

NAME = "glas"
URL = "https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest"

_ANNOTATION = "_anno"
_PAPER = PaperSplit("MedT", 85, 80)


def read(folder: Path, options: LayoutOptions) -> LayoutData:
    """Read `train_1.bmp`, `train_1_anno.bmp`, `testA_1.bmp`, `testB_1.bmp`, ..., and patients from `Grade.csv`.

    The annotations number the glands; all of them become one label.

    Raises:
        InputError: If the folder is another tree, a case is incomplete, Grade.csv is damaged, or an option does not
            fit.
    """
    no_choice(options, NAME)
    root = find_root(folder, ("train_1.bmp", "train_1_anno.bmp"), NAME)
    files = named_files(root, (".bmp",))
    images = {name: file for name, file in files.items() if not name.endswith(_ANNOTATION)}
    labels = {name.removesuffix(_ANNOTATION): file for name, file in files.items() if name.endswith(_ANNOTATION)}
    for name, file in images.items():
        if not re.fullmatch(r"(train|testA|testB)_\d+", name):
            raise InputError(f"{file}: layout {NAME} has train_1.bmp, testA_1.bmp, testB_1.bmp and so on; take it out")
    pairs = paired(images, labels, f"{root}/{{case}}{_ANNOTATION}.bmp", f"{root}/{{case}}.bmp")
    patients, notes = _patients(root / "Grade.csv")
    found = [
        SourceCase(name, (image,), ThresholdedMask(label, 0), patients.get(name), test=name.startswith("test"))
        for name, image, label in pairs
    ]
    if patients and (unknown := sorted(set(images) - patients.keys())):
        notes = (*notes, f"Grade.csv names no patient of {shown(unknown)}: each is taken as a patient of its own")
    cases, division = divided(found, options, _PAPER)
    if options.test_cases is None:
        cases, shared = _without_shared_patients(cases)
        notes += shared
    return LayoutData(
        cases,
        ("R", "G", "B"),
        {"background": 0, "gland": 1},
        {0: 0, 1: 1},
        reference=URL,
        licence="research purposes only",
        notes=(*division, *notes),
    )


def _patients(file: Path) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Return the patient of each image, and what there is to say if there is no such file."""
    if not file.is_file():
        return {}, (f"{file} is missing: patients are not known, and folds may divide a patient's images",)
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = [
                # a row that is too short has no patient, not one called None
                {str(key).strip(): str(value).strip() for key, value in row.items()}
                for row in csv.DictReader(opened, restval="")
            ]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{file} cannot be read ({error}); unpack it again") from error
    if not rows or not {"name", "patient ID"} <= rows[0].keys():
        raise InputError(f"{file}: it has no columns 'name' and 'patient ID'; unpack it again")
    return {row["name"]: row["patient ID"] for row in rows if row["name"] and row["patient ID"]}, ()


def _without_shared_patients(cases: tuple[SourceCase, ...]) -> tuple[tuple[SourceCase, ...], tuple[str, ...]]:
    """Keep the challenge's own split where a patient is on both sides of it, and say so.

    Elsewhere a patient on both sides is a mistake. Here it is how the data were published: the patients stay known for
    the training images, so that folds can keep them together.
    """
    sides = [{case.patient for case in cases if case.test is test} - {None} for test in (False, True)]
    shared = sides[0] & sides[1]
    if not shared:
        return cases, ()
    count = sum(case.test and case.patient in shared for case in cases)
    note = (
        f"the challenge's own split has images of the patients {shown(map(str, shared))} on both sides: {count} of the "
        "test images are of patients that are trained on"
    )
    kept = tuple(replace(case, patient=None) if case.test and case.patient in shared else case for case in cases)
    return kept, (note,)
