"""`nnunet-attn splits`: parses, calls, prints."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from nnunet_attn.errors import InputError

if TYPE_CHECKING:
    from nnunet_attn.datasets.splits_files import Fold, Split, SplitsReport

_REGISTERED = "registered"
_SHOWN = 5  # cases of a part that a dry run names


def add_parser(commands: Any) -> None:
    """Add the command to those of `nnunet-attn`."""
    parser = commands.add_parser(
        "splits",
        help="folds by patient or stratified, repeated splits, splits with few labels, in splits_final.json",
        description="Without --repeated or --labels: the folds of a cross-validation, by default nnU-Net's own five.",
    )
    parser.add_argument("-d", required=True, metavar="ID", help="data set name or ID, raw or preprocessed")
    parser.add_argument("--folds", type=int, metavar="K", help="folds of the cross-validation. Default: 5")
    parser.add_argument(
        "--groups",
        nargs="?",
        const=_REGISTERED,
        metavar="FILE",
        help="keep each patient on one side: CSV with case,patient. Without FILE: as told to nnunet-attn register",
    )
    parser.add_argument(
        "--stratify",
        metavar="site|size|FILE",
        help="give each fold its share of: sites as told to nnunet-attn register, sizes of the labels, or the "
        "strata of a CSV with case,stratum",
    )
    parser.add_argument("--repeated", type=int, metavar="N", help="N random splits into --train and --test cases")
    parser.add_argument("--train", type=int, metavar="N", help="with --repeated: cases to train on")
    parser.add_argument("--test", type=int, metavar="N", help="with --repeated: cases to test on")
    parser.add_argument(
        "--labels",
        type=int,
        nargs="+",
        metavar="N",
        help="nested splits with so many labelled cases, a fifth of them (at least one) for validation",
    )
    parser.add_argument("--seed", type=int, help="seed of the choice. Default: nnU-Net's for folds, else 0")
    parser.add_argument("--replace", action="store_true", help="replace the folds that are there, if untrained")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, write nothing")
    parser.add_argument("-np", type=int, default=4, metavar="N", help="processes for --stratify size. Default: 4")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    report = _report(arguments)
    console = Console(highlight=False, soft_wrap=True)
    for line in _lines(report, arguments):
        console.print(Text(line))
    return 0


def _report(a: argparse.Namespace) -> "SplitsReport":
    _check_together(a)
    from nnunet_attn.datasets.splits import add_cross_validation, add_reduced_splits, add_repeated_splits

    shared = {"groups": a.groups, "dry_run": a.dry_run}
    if a.labels is not None:
        return add_reduced_splits(a.d, a.labels, a.seed or 0, **shared)
    shared["replace"] = a.replace
    if a.repeated is not None:
        return add_repeated_splits(a.d, a.repeated, a.train, a.test, a.seed or 0, **shared)
    given = {key: value for key, value in (("folds", a.folds), ("seed", a.seed)) if value is not None}
    return add_cross_validation(a.d, **given, stratify=a.stratify, processes=a.np, **shared)


def _check_together(a: argparse.Namespace) -> None:
    kinds = {"--folds": a.folds, "--repeated": a.repeated, "--labels": a.labels}
    chosen = [name for name, value in kinds.items() if value is not None]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)} are different kinds of splits; give one of them, then the other")
    if a.stratify is not None and chosen not in ([], ["--folds"]):
        raise InputError(f"--stratify is for the folds of a cross-validation, not for {chosen[0]}; leave one out")
    if (a.repeated is None) != (a.train is None) or (a.repeated is None) != (a.test is None):
        raise InputError("--repeated, --train and --test go together, for example --repeated 5 --train 18 --test 12")
    if a.labels is not None and a.replace:
        raise InputError("--labels are added behind the folds that they are chosen from; leave out --replace")


def _lines(report: "SplitsReport", a: argparse.Namespace) -> list[str]:
    """What is printed."""
    changes = bool(report.added or report.removed)
    lines = []
    if report.made and report.folds[0].kind == "reduced":
        lines.append(f"{report.file} is new; its first five folds are nnU-Net's own")
    elif report.made:
        lines.append(f"{report.file} is new")
    for fold, split in zip(report.folds, report.splits, strict=True):
        lines.append(_line(fold, fold.fold in report.added, a.groups is not None) + _patients(split, report.patients))
        if a.dry_run:
            used = "test" if fold.kind == "repeated" else "validation"
            lines += [f"  training: {_shortened(split['train'])}", f"  {used}: {_shortened(split['val'])}"]
    lines.append(f"chosen from {report.cases} cases with seed {report.folds[0].seed}")
    if report.removed:
        lines.append(f"no more there: fold{'s' * (len(report.removed) > 1)} {', '.join(map(str, report.removed))}")
    if not changes:
        lines.append(f"{report.file} is as it was")
    elif report.backup is not None and not a.dry_run:
        lines.append(f"as it was before: {report.backup}")
    first = report.folds[0].fold
    if first and first in report.added and report.folds[0].kind != "reduced":
        lines.append(f"folds 0 to {first - 1} stay as they are; to have these in their place, add --replace")
    lines += [f"note: {note}" for note in report.notes]
    if a.dry_run:
        lines.append("Nothing was written (--dry-run).")
    elif (report.file.parent / "dataset.json").exists():  # nnU-Net's planning leaves it there
        lines.append(f"Train with: nnUNetv2_train {a.d} CONFIGURATION {first} -tr TRAINER")
    else:
        lines.append(f"Plan with: nnUNetv2_plan_and_preprocess -d {a.d}")
    return lines


def _patients(split: "Split", patients: Mapping[str, str] | None) -> str:
    """How many patients are on each side, where they were kept together."""
    if patients is None:
        return ""
    training, validation = (len({patients[case] for case in split[part]}) for part in ("train", "val"))
    return f" (patients: {training} and {validation})"


def _shortened(cases: Sequence[str]) -> str:
    return ", ".join(cases[:_SHOWN]) + (f" and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else "")


def _line(fold: "Fold", is_new: bool, counts_patients: bool) -> str:
    there = "" if is_new else ", there already"
    if fold.kind == "reduced":
        what = "patients" if counts_patients else "labels"
        sizes = f"{fold.training} for training, {fold.validation} for validation"
        return f"{fold.settings['labels']} {what} ({sizes}) -> fold {fold.fold}{there}"
    verb = "test on" if fold.kind == "repeated" else "validate on"
    return f"fold {fold.fold}: {fold.training} cases to train on, {fold.validation} to {verb}{there}"
