"""KiTS23: CT of kidneys with tumours and cysts, as three regions that lie in each other."""

import re
from pathlib import Path

from nnunet_attn.registering.layouts.contract import LayoutData, LayoutOptions
from nnunet_attn.registering.layouts.trees import (
    PaperSplit,
    checked_folder,
    divided,
    folders,
    levels,
    missing_tree,
    no_choice,
    paired,
)
from nnunet_attn.registering.model import SourceCase

NAME = "kits23"
URL = "https://kits-challenge.org/kits23"

KIDNEY, TUMOUR, CYST = 1, 2, 3
REGIONS = {
    "kidney_and_masses": (KIDNEY, TUMOUR, CYST),
    "masses": (TUMOUR, CYST),
    "tumour": TUMOUR,
}
"""The challenge's hierarchical evaluation classes; a mass is a tumour or a cyst."""

REGIONS_CLASS_ORDER = (KIDNEY, CYST, TUMOUR)
"""Regions are painted over each other in their order: what is a mass and no tumour stays a cyst."""

_CASE = r"case_\d{5}"
_PAPER = PaperSplit("GASA-UNet", 400, 89)


def read(folder: Path, options: LayoutOptions) -> LayoutData:
    """Read `dataset/case_00000/imaging.nii.gz` and `segmentation.nii.gz`.

    Raises:
        InputError: If the folder is another tree, a case lacks its image or label, or an option does not fit.
    """
    no_choice(options, NAME)
    root = _dataset_folder(folder)
    found = [each for each in folders(root) if re.fullmatch(_CASE, each.name)]
    files = {
        name: {case.name: case / name for case in found if (case / name).is_file()}
        for name in ("imaging.nii.gz", "segmentation.nii.gz")
    }
    images, labels = files.values()
    if not images and labels:
        # the repository of the challenge has the labels; its own download command fetches the images
        raise missing_tree(root, "imaging.nii.gz beside each segmentation.nii.gz (run kits23_download_data)", NAME)
    if not images:
        raise missing_tree(root, "case_00000/imaging.nii.gz", NAME)
    for each in found:
        if each.name not in images and each.name not in labels:
            raise missing_tree(each, "imaging.nii.gz and segmentation.nii.gz", NAME)
    pairs = paired(images, labels, f"{root}/{{case}}/segmentation.nii.gz", f"{root}/{{case}}/imaging.nii.gz")
    cases = [SourceCase(name, (image,), label) for name, image, label in pairs]
    kept, notes = divided(cases, options, _PAPER)
    return LayoutData(
        kept,
        ("CT",),
        {"background": 0, **REGIONS},
        {value: value for value in (0, KIDNEY, TUMOUR, CYST)},
        regions_class_order=REGIONS_CLASS_ORDER,
        reference=URL,
        notes=notes,
    )


def _dataset_folder(folder: Path) -> Path:
    """Return the folder that holds the folders of the cases."""
    for level in levels(checked_folder(folder, NAME)):
        for each in level:
            if any(re.fullmatch(_CASE, below.name) for below in folders(each)):
                return each
    raise missing_tree(folder, "dataset/case_00000", NAME)
