"""`nnunet-attn figure`: parses, calls, prints."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from nnunet_attn.errors import InputError

if TYPE_CHECKING:
    from nnunet_attn.figures.request import FigureCase, FigureOptions
    from nnunet_attn.figures.sources import Found

_PICKS = ("worst", "median", "best")
_OF_FILES = {"reference": "--reference", "predictions": "--predictions"}
_OF_TRAINERS = {
    "tr": "-tr",
    "c": "-c",
    "p": "-p",
    "f": "-f",
    "chk": "-chk",
    "cases": "--cases",
    "names": "--names",
    "test": "--test",
    "ensemble": "--ensemble",
}


def add_parser(commands: Any) -> None:
    """Add the command to those of `nnunet-attn`."""
    parser = commands.add_parser("figure", help="cases with image, reference and predictions side by side")
    add = parser.add_argument
    add("-o", required=True, type=Path, metavar="FILE", help="file to write: .png, .svg or .pdf")
    add("-d", metavar="ID", help="data set name or ID of trainers; or give files, by --image")
    add("-tr", nargs="+", metavar="TRAINER", help="with -d: trainers, in the order of the columns")
    add("-c", nargs="+", metavar="CONFIGURATION", help="with -d: one for all, or one each. Default: 3d_fullres")
    add("-p", nargs="+", metavar="PLANS", help="with -d: one for all, or one each. Default: nnUNetPlans")
    add("-f", nargs="+", metavar="FOLD", help="with -d. Default: the fold that validated a case; with --test 0 1 2 3 4")
    add("-chk", metavar="FILE", help="with --test. Default: checkpoint_final.pth")
    add(
        "--cases",
        nargs="+",
        metavar="CASE",
        help="with -d: names, or worst, median, best by Dice. Default: worst median best",
    )
    add("--names", nargs="+", metavar="NAME", help="with -d: of the trainers, in the figure")
    add("--test", action="store_true", default=None, help="with -d: test cases that nnunet-attn predict-test predicted")
    add("--ensemble", choices=("logits", "softmax"), help="with --test: how folds were joined. Default: logits")
    add("--image", type=Path, metavar="FILE", help="one case by its files: the image")
    add("--reference", type=Path, metavar="FILE", help="with --image: the label file")
    add("--predictions", nargs="+", metavar="NAME=FILE", help="with --image: methods and their label files")
    add(
        "-djfile", type=Path, metavar="FILE", help="dataset.json with names of classes. Default: the trainer's, or none"
    )
    add("--slice", default="reference", help="number, or where most is: reference (default) or disagreement of methods")
    add("--plane", help="axial, coronal, sagittal, or an axis of the array: 0, 1, 2. Default: axial")
    add("--channel", type=int, metavar="N", help="of the image, from 0. Default: colours, or the first")
    add("--window", type=float, metavar="X", help="width of the range of values. Default: 1st to 99th percentile")
    add("--level", type=float, metavar="X", help="middle of that range")
    add("--zoom", nargs="+", default=["none"], metavar="X", help="X0 Y0 X1 Y1 in pixels, auto or none. Default: none")
    add("--style", default="contour", choices=("contour", "fill"), help="Default: contour")
    add("--opacity", type=float, default=0.5, metavar="X", help="of filled areas. Default: 0.5")
    add("--errors", action="store_true", help="a row with false positives and false negatives")
    add("--dpi", type=int, default=200, metavar="N", help="pixels an inch of a PNG. Default: 200")
    add("--overwrite", action="store_true", help="replace the file if it is there")
    parser.set_defaults(run=_run)


def _run(a: argparse.Namespace) -> int:
    _check(a)
    from nnunet_attn.figures.figure import cases_figure
    from nnunet_attn.figures.request import FigureOptions
    from nnunet_attn.figures.writing import check_output, write_figure

    check_output(a.o, a.overwrite)
    options = FigureOptions(
        _slice(a.slice),
        _plane(a.plane),
        a.channel,
        a.window,
        a.level,
        _zoom(a.zoom),
        a.style,
        a.opacity,
        a.errors,
        a.djfile,
    )
    console = Console(highlight=False, soft_wrap=True)
    if a.image is not None:
        cases, told = (_case(a),), [a.image.name]
    else:
        found = _found(a, options)
        cases, options = found.cases, found.options
        told = [_told(case, fold) for case, fold in zip(cases, found.folds, strict=True)]
    write_figure(cases_figure(cases, options), a.o, a.dpi, a.overwrite)
    console.print(Text(f"written: {a.o}: {'; '.join(told)}"))
    return 0


def _told(case: "FigureCase", fold: int | None) -> str:
    parts = [case.note, "" if fold is None else f"fold {fold}"]
    return case.name + (f" ({', '.join(part for part in parts if part)})" if any(parts) else "")


def _check(a: argparse.Namespace) -> None:
    if (a.image is None) == (a.d is None):
        raise InputError(
            "give either --image, --reference and --predictions, or -d with -tr: files, or a data set of nnU-Net"
        )
    main, needed, others = ("--image", _OF_FILES, _OF_TRAINERS) if a.d is None else ("-d", {"tr": "-tr"}, _OF_FILES)
    if wrong := [flag for name, flag in others.items() if getattr(a, name) is not None]:
        raise InputError(f"{wrong[0]} does not go with {main}; leave it out")
    if missing := [flag for name, flag in needed.items() if getattr(a, name) is None]:
        raise InputError(f"{main} needs {missing[0]}; add it")
    if not a.test and (wrong := [flag for flag, value in (("-chk", a.chk), ("--ensemble", a.ensemble)) if value]):
        raise InputError(f"{wrong[0]} is for test cases; add --test, or leave it out")
    if not 10 <= a.dpi <= 2400:
        raise InputError(f"--dpi {a.dpi}: give 10 to 2400 pixels an inch")


def _case(a: argparse.Namespace) -> "FigureCase":
    from nnunet_attn.figures.request import FigureCase
    from nnunet_attn.registering.reading import ending_of

    predictions = {}
    for word in a.predictions:
        name, equals, file = word.partition("=")
        if not (name and equals and file):
            raise InputError(f"--predictions {word}: give NAME=FILE, for example FINE=fine/case_001.nii.gz")
        if name in predictions:
            raise InputError(f"--predictions {word}: {name} is given twice; give each method a name of its own")
        predictions[name] = Path(file)
    ending = ending_of(a.reference) or ""
    return FigureCase(a.reference.name[: len(a.reference.name) - len(ending)], a.image, a.reference, predictions)


def _found(a: argparse.Namespace, options: "FigureOptions") -> "Found":
    from nnunet_attn.evaluation.compare_sources import Trained
    from nnunet_attn.figures.sources import predicted_test_cases, validation_cases

    folds = _folds(a.f)
    plans, configurations = tuple(a.p or ("nnUNetPlans",)), tuple(a.c or ("3d_fullres",))
    wanted = a.cases or _PICKS
    if a.test:
        ensembled = (0, 1, 2, 3, 4) if folds is None else folds
        trained = Trained(a.d, tuple(a.tr), plans, configurations, ensembled, a.chk)
        return predicted_test_cases(trained, wanted, options, a.ensemble or "logits", a.names)
    if folds is not None and "all" in folds:
        raise InputError("-f all: this fold validates on the cases it was trained on; give other folds, or --test")
    numbers = None if folds is None else [fold for fold in folds if isinstance(fold, int)]
    return validation_cases(Trained(a.d, tuple(a.tr), plans, configurations), wanted, options, numbers, a.names)


def _folds(words: Sequence[str] | None) -> tuple[int | str, ...] | None:
    if words is None:
        return None
    if wrong := [word for word in words if word != "all" and not word.isdecimal()]:
        raise InputError(f"-f {wrong[0]}: a fold is a number from 0, or all")
    return tuple(word if word == "all" else int(word) for word in words)


def _slice(word: str) -> Any:
    return int(word) if word.removeprefix("-").isdecimal() else word


def _plane(word: str | None) -> Any:
    return int(word) if word is not None and word.isdecimal() else word


def _zoom(words: Sequence[str]) -> tuple[int, int, int, int] | Literal["auto"] | None:
    if list(words) == ["none"]:
        return None
    if list(words) == ["auto"]:
        return "auto"
    if len(words) != 4 or not all(word.isdecimal() for word in words):
        raise InputError(f"--zoom {' '.join(words)}: give auto, none or four numbers: X0 Y0 X1 Y1")
    left, top, right, bottom = map(int, words)
    return left, top, right, bottom
