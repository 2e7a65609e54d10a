"""AMOS 2022: abdominal CT and MR with 15 organs."""

import re
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.json_files import read_object
from nnunet_attn.registering.layouts.contract import LayoutData, LayoutOptions
from nnunet_attn.registering.layouts.trees import (
    PaperSplit,
    chosen,
    divided,
    find_root,
    missing_tree,
    named_files,
    no_choice,
    paired,
)
from nnunet_attn.registering.model import SourceCase

NAME = "amos22"
URL = "https://amos22.grand-challenge.org"
MODALITIES = ("all", "ct", "mr")

ORGANS = (
    *("spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "postcava"),
    *("pancreas", "right_adrenal_gland", "left_adrenal_gland", "duodenum", "bladder", "prostate_uterus"),
)
"""Values 1 to 15 of the labels."""

LAST_CT = 500
"""Cases with larger numbers are MR."""

_PAPER = PaperSplit("GASA-UNet", 240, 80)
# nnU-Net's own conversion calls it so: as it is not "CT", each image is normalised by its own mean and deviation
_CHANNELS = {"all": "either_CT_or_MR", "ct": "CT", "mr": "MRI"}


def read(folder: Path, options: LayoutOptions) -> LayoutData:
    """Read `imagesTr/amos_0001.nii.gz`, `labelsTr`, and `imagesVa`, `labelsVa`, `imagesTs` if there.

    Without lists the labelled validation images are held out. With CT and MR together each case's site is its modality,
    so that folds can be stratified by it.

    Raises:
        InputError: If the folder is another tree, a case is incomplete, or an option does not fit.
    """
    no_choice(options, NAME, modality=False)
    modality = chosen(options.modality, MODALITIES, "--modality", NAME)
    root = find_root(folder, ("imagesTr", "labelsTr"), NAME)
    _check_labels(root / "dataset.json")
    found: list[SourceCase] = []
    for part in ("Tr", "Va", "Ts"):
        images, labels = _cases(root / f"images{part}"), _cases(root / f"labels{part}")
        if part == "Tr" and not images:
            raise missing_tree(root, "imagesTr/amos_0001.nii.gz", NAME)
        if part != "Ts" or labels:
            where = [f"{root}/{kind}{part}/{{case}}.nii.gz" for kind in ("labels", "images")]
            pairs = paired(images, labels, *where)
        else:
            pairs = [(name, image, None) for name, image in images.items()]
        found += [SourceCase(name, (image,), label, test=part != "Tr") for name, image, label in pairs]
    cases = [_with_site(case, modality) for case in found if modality in ("all", _modality(case.case))]
    if not cases:
        raise InputError(f"{root} has no {modality.upper()} images; unpack those too, or choose another modality")
    kept, notes = divided(cases, options, _PAPER if modality == "all" else None)
    if modality != "ct" and any(_modality(case.case) == "mr" for case in kept):
        notes = (
            *notes,
            "MR cases are annotated for 13 of the 15 organs: bladder and prostate_uterus are background in them",
        )
    return LayoutData(
        kept,
        (_CHANNELS[modality],),
        {"background": 0, **{organ: value for value, organ in enumerate(ORGANS, 1)}},
        {value: value for value in range(len(ORGANS) + 1)},
        reference=URL,
        notes=notes,
    )


def _cases(folder: Path) -> dict[str, Path]:
    files = named_files(folder)
    for name, file in files.items():
        if not re.fullmatch(r"amos_\d{4}", name):
            raise InputError(f"{file}: layout {NAME} has amos_0001.nii.gz and so on here; take this file out")
    return files


def _modality(case: str) -> str:
    return "ct" if int(case.removeprefix("amos_")) <= LAST_CT else "mr"


def _with_site(case: SourceCase, modality: str) -> SourceCase:
    site = _modality(case.case).upper() if modality == "all" else None
    return SourceCase(case.case, case.images, case.label, site=site, test=case.test)


def _check_labels(file: Path) -> None:
    """Refuse another release, whose values would mean other organs."""
    if not file.is_file():
        return
    labels = read_object(file, "unpack it again").get("labels")
    values = set(labels) if isinstance(labels, dict) else None
    if values != {str(value) for value in range(len(ORGANS) + 1)}:
        raise InputError(
            f"{file}: AMOS 2022 has the labels 0 to {len(ORGANS)}, this file {labels!r}; give the folder of AMOS 2022"
        )
