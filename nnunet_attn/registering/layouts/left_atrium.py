"""Left atrium, 2018 challenge: late gadolinium-enhanced MR in NRRD."""

from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.registering.layouts.contract import LayoutData, LayoutOptions
from nnunet_attn.registering.layouts.trees import divided, find_root, folders, missing_tree, no_choice
from nnunet_attn.registering.model import SourceCase

NAME = "left-atrium"
URL = "https://www.cardiacatlas.org/atriaseg2018-challenge/atria-seg-data"

_TRAIN, _TEST = "Training Set", "Testing Set"
_IMAGE, _LABEL = "lgemri.nrrd", "laendo.nrrd"
_INSIDE = 255


def read(folder: Path, options: LayoutOptions) -> LayoutData:
    """Read `Training Set/CASE/lgemri.nrrd` and `laendo.nrrd`, and `Testing Set` if there, with or without labels.

    Raises:
        InputError: If the folder is another tree, a case is incomplete, or an option does not fit.
    """
    no_choice(options, NAME)
    root = find_root(folder, (_TRAIN,), NAME)
    cases = [case for part in (_TRAIN, _TEST) for case in _cases(root / part, part == _TEST)]
    if all(case.test for case in cases):
        raise missing_tree(root / _TRAIN, f"CASE/{_IMAGE}", NAME)
    kept, notes = divided(cases, options)
    return LayoutData(
        kept,
        ("MRI",),
        {"background": 0, "left_atrium": 1},
        {0: 0, _INSIDE: 1},
        reference=URL,
        notes=notes,
    )


def _cases(part: Path, test: bool) -> list[SourceCase]:
    cases = []
    for case in folders(part) if part.is_dir() else []:
        image, label = case / _IMAGE, case / _LABEL
        labelled = label.is_file()
        # the challenge's test images came without labels first
        missing = [file for file in ([image] if test else [image, label]) if not file.is_file()]
        if missing:
            raise InputError(f"{missing[0]} is missing; unpack all of the download, or take the case {case.name} out")
        cases.append(SourceCase(case.name, (image,), label if labelled else None, test=test))
    return cases
