"""`nnunet-attn predict`: nnU-Net's own command, with networks on a grid predicted as such."""

import argparse
import contextlib
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference import predict_from_raw_data as stock
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_attn.dataset_names import full_dataset_name
from nnunet_attn.errors import InputError
from nnunet_attn.inference.grid_predictor import GridPredictor
from nnunet_attn.paths import TRAINER_VARIABLE
from nnunet_attn.replacing import replaced

PROGRAM = "nnunet-attn predict"
PHASES_HELP = (
    "Networks on a grid of patches (PatchTransformer) only: how many positions of the grid are averaged, 1 or 2 along "
    "each axis: 8 in 3D, 4 in 2D. Default: 1"
)


def predict(words: Sequence[str]) -> None:
    """Run `nnUNetv2_predict` with these arguments, and `--phases`; other networks' predictions are the same files.

    Args:
        words: The arguments, as typed.
    Raises:
        InputError: If model, folds, trainer, input or device are missing, or the network cannot have so many phases.
        SystemExit: As argparse, if the arguments are wrong or help is asked for.
    """
    given = argparse.Namespace(phases=1)

    class Predictor(GridPredictor):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, phases=given.phases, **keywords)

    with contextlib.ExitStack() as swap:

        def parser_with_phases(*arguments: Any, **keywords: Any) -> argparse.ArgumentParser:
            # nnU-Net's entry point makes its parser itself: that one, with all its flags, gets ours
            swap.close()
            parser = argparse.ArgumentParser(*arguments, **keywords)
            parser.add_argument("--phases", type=int, default=1, help=PHASES_HELP)
            parse = parser.parse_args

            def parse_args() -> argparse.Namespace:
                parsed = parse()
                check_arguments(parsed)
                given.phases = parsed.phases
                return parsed

            vars(parser)["parse_args"] = parse_args
            return parser

        swap.enter_context(replaced(argparse, "ArgumentParser", parser_with_phases))
        with replaced(stock, "nnUNetPredictor", Predictor), replaced(sys, "argv", [PROGRAM, *words]):
            stock.predict_entry_point()


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what `nnUNetv2_predict` would fail at with a traceback.

    Raises:
        InputError: With the value got and the remedy.
    """
    if arguments.phases < 1:
        raise InputError(f"--phases must be 1, or 2 along each axis (8 in 3D, 4 in 2D), got {arguments.phases}")
    if not Path(arguments.i).is_dir():
        raise InputError(f"-i {arguments.i} is no folder; give the folder that holds the images")
    if not nnUNet_results.is_set():
        raise InputError("nnUNet_results is not set; set nnU-Net's three folders (see: nnunet-attn doctor)")
    check_trainer(arguments.tr)
    name = full_dataset_name(arguments.d)
    folder = Path(get_output_folder(name, arguments.tr, arguments.p, arguments.c))
    if not folder.is_dir():
        raise InputError(
            f"there is no model folder {folder}; correct -d, -tr, -p or -c, or train it: nnUNetv2_train "
            f"{arguments.d} {arguments.c} FOLD -p {arguments.p} -tr {arguments.tr}"
        )
    missing = [str(fold) for fold in arguments.f if not (folder / f"fold_{fold}" / arguments.chk).is_file()]
    if missing:
        there = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{arguments.chk}"))
        raise InputError(
            f"{folder} has no {arguments.chk} of fold {', '.join(missing)}; "
            + (f"give those that are there: -f {' '.join(there)}" if there else "train it, or give another -chk")
        )
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("-device is cuda, but there is no CUDA here; add: -device cpu")
    _check_images(Path(arguments.i), folder)


def _check_images(images: Path, model: Path) -> None:
    try:
        ending = json.loads((model / "dataset.json").read_text(encoding="utf-8"))["file_ending"]
    except (OSError, ValueError, TypeError, KeyError):  # the predictor says what is wrong with it
        return
    if not isinstance(ending, str) or not ending:
        raise InputError(
            f"{model / 'dataset.json'}: file_ending is {ending!r}, not a text such as .nii.gz; copy the model folder "
            "again"
        )
    names = sorted(path.name for path in images.iterdir() if path.name.endswith(ending))
    wrong = [name for name in names if not re.fullmatch(r".+_\d{4}", name.removesuffix(ending))]
    if wrong or not names:
        found = f"{images / wrong[0]} is not" if wrong else f"no image in {images} is"
        raise InputError(f"{found} named as nnU-Net names images, CASE_0000{ending} for the first channel; rename it")


def check_trainer(name: str) -> None:
    """Refuse a trainer that nnU-Net does not find.

    Raises:
        InputError: With the name and where it was looked for.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recursive_find_trainer_class_by_name(name)
    except Exception as error:  # a foreign trainer folder can fail with anything at import
        folders = os.environ.get(TRAINER_VARIABLE) or "not set"
        raise InputError(
            f"nnU-Net does not find the trainer {name!r} ({TRAINER_VARIABLE}: {folders}); "
            f"see: nnunet-attn doctor {name}"
        ) from error
