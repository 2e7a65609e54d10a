"""BTCV: 30 abdominal CT with 13 organs, as Synapse hands them out."""

import re
from pathlib import Path

from nnunet_attn.errors import InputError
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

NAME = "btcv"
URL = "https://www.synapse.org/#!Synapse:syn3193805/wiki/217789"
READINGS = ("13", "fine")

ORGANS = (
    *("spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
    *("inferior_vena_cava", "portal_and_splenic_veins", "pancreas", "right_adrenal_gland", "left_adrenal_gland"),
)
"""Values 1 to 13 of the labels."""

FINE_ORGANS = ("spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
"""What FINE's tables are about; they have one column for both kidneys."""

_PAPER = PaperSplit("FINE and GASA-UNet", 18, 12)


def read(folder: Path, options: LayoutOptions) -> LayoutData:
    """Read `RawData`: `Training/img/img0001.nii.gz`, `Training/label/label0001.nii.gz`, and `Testing/img` if there.

    `13` has all organs. `fine` has the eight of FINE's tables, all other organs become background.

    Raises:
        InputError: If the folder is another tree, a case is incomplete, or an option does not fit.
    """
    no_choice(options, NAME, labels=False)
    reading = chosen(options.labels, READINGS, "--labels", NAME)
    root = find_root(folder, ("Training/img", "Training/label"), NAME)
    images = _numbered(root / "Training" / "img", "img")
    labels = _numbered(root / "Training" / "label", "label")
    if not images:
        raise missing_tree(root, "Training/img/img0001.nii.gz", NAME)
    pairs = paired(
        images,
        labels,
        f"{root}/Training/label/label{{case}}.nii.gz",
        f"{root}/Training/img/img{{case}}.nii.gz",
    )
    cases = [SourceCase(f"img{number}", (image,), label) for number, image, label in pairs]
    cases += [
        SourceCase(f"img{number}", (image,), test=True)
        for number, image in _numbered(root / "Testing" / "img", "img").items()
    ]
    kept, notes = divided(cases, options, _PAPER)
    organs = ORGANS if reading == "13" else FINE_ORGANS
    new = {organ: value for value, organ in enumerate(organs, 1)}
    if reading == "fine":
        notes = (
            *notes,
            "FINE's tables have one column for both kidneys and do not say whether they were one label: here each is a "
            "label, and `nnunet-attn evaluate --preset fine` averages them in one column",
        )
    return LayoutData(
        kept,
        ("CT",),
        {"background": 0, **new},
        {0: 0, **{value: new.get(organ, 0) for value, organ in enumerate(ORGANS, 1)}},
        reference=URL,
        notes=notes,
    )


def _numbered(folder: Path, prefix: str) -> dict[str, Path]:
    """Return the files by their numbers, which images and labels share."""
    files = named_files(folder)
    for name, file in files.items():
        if not re.fullmatch(rf"{prefix}\d{{4}}", name):
            raise InputError(f"{file}: layout {NAME} has {prefix}0001.nii.gz and so on here; take this file out")
    return {name.removeprefix(prefix): file for name, file in files.items()}
