"""Brain ultrasound of MedT: 2D images and grey masks. No public layout is known, so this is a plain one."""

from pathlib import Path

from nnunet_attn.registering.layouts.contract import LayoutData, LayoutOptions
from nnunet_attn.registering.layouts.masks import ThresholdedMask
from nnunet_attn.registering.layouts.trees import (
    PaperSplit,
    checked_folder,
    divided,
    folders,
    missing_tree,
    named_files,
    no_choice,
    paired,
)
from nnunet_attn.registering.model import SourceCase

NAME = "brain-us"
URL = "https://arxiv.org/abs/2102.10662"

THRESHOLD = 127
"""Largest grey value of a mask that is background, as MedT has it."""

_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
_IMAGES = ("images", "image", "img")
_MASKS = ("labels", "label", "masks", "mask")
_PAPER = PaperSplit("MedT", 1300, 329)


def read(folder: Path, options: LayoutOptions) -> LayoutData:
    """Read `images` and `labels` (or `masks`) with files of the same names, or both below `train` and `test`.

    With `train` and `test`, names of cases begin with those of their folders.

    Raises:
        InputError: If the folder is another tree, a case is incomplete, or an option does not fit.
    """
    no_choice(options, NAME)
    checked_folder(folder, NAME)
    below = {each.name.lower(): each for each in folders(folder)}
    parts = [(below[part], f"{part}_", part == "test") for part in ("train", "test") if part in below]
    cases: list[SourceCase] = []
    for part, prefix, test in parts or [(folder, "", False)]:
        images, masks = (_first(part, names) for names in (_IMAGES, _MASKS))
        if images is None or masks is None:
            raise missing_tree(part, f"the folders {_IMAGES[0]} and {_MASKS[0]}", NAME)
        files = named_files(images, _ENDINGS)
        if not files:
            raise missing_tree(images, f"images ({', '.join(_ENDINGS)})", NAME)
        pairs = paired(files, named_files(masks, _ENDINGS), f"{masks}/{{case}}.png", f"{images}/{{case}}.png")
        cases += [
            SourceCase(f"{prefix}{name}", (image,), ThresholdedMask(mask, THRESHOLD), test=test)
            for name, image, mask in pairs
        ]
    if all(case.test for case in cases) and options.test_cases is None:
        raise missing_tree(folder, "train beside test", NAME)
    kept, notes = divided(cases, options, _PAPER)
    return LayoutData(
        kept,
        None,
        {"background": 0, "ventricles_and_septum": 1},
        {0: 0, 1: 1},
        reference=URL,
        notes=(
            *notes,
            "the 1629 images are of 20 infants, and names do not tell whose: to keep each infant's images together, "
            "register by --csv with a column for the patient",
        ),
    )


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    there = {each.name.lower(): each for each in folders(folder)}
    return next((there[name] for name in names if name in there), None)
