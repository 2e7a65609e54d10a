"""`nnunet-attn compare`: trainers or evaluations against each other, paired."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from nnunet_attn.errors import InputError

if TYPE_CHECKING:
    from nnunet_attn.evaluation.compare_sources import Progress as Report
    from nnunet_attn.evaluation.results import Evaluation

_OF_TRAINERS = {"d": "-d", "p": "-p", "c": "-c", "f": "-f", "chk": "-chk", "test": "--test", "ensemble": "--ensemble"}


def add_parser(commands: Any) -> None:
    """Add the command to the sub-parsers of `nnunet-attn`."""
    parser = commands.add_parser(
        "compare", help="trainers or evaluations against each other: paired tests, tables, plots"
    )
    add = parser.add_argument
    add("folders", nargs="*", type=Path, metavar="FOLDER", help="folders that nnunet-attn evaluate wrote to")
    add("-d", metavar="ID", help="with -tr: data set name or ID")
    add("-tr", nargs="+", metavar="TRAINER", help="trainers; those that differ by _seedN alone are one method")
    add("-c", nargs="+", metavar="CONFIGURATION", help="with -tr: one for all, or one each. Default: 3d_fullres")
    add("-p", nargs="+", metavar="PLANS", help="with -tr: one for all, or one each. Default: nnUNetPlans")
    add("-f", nargs="+", metavar="FOLD", help="with -tr. Default: 0 1 2 3 4")
    add("-chk", metavar="FILE", help="with -tr: the checkpoint that predicted, where the files do not tell")
    add(
        "--test", action="store_true", default=None, help="with -tr: test cases that nnunet-attn predict-test predicted"
    )
    add("--ensemble", choices=("logits", "softmax"), help="with --test: how folds were joined. Default: logits")
    add("--preset", metavar="NAME", help="evaluations by a paper's reading: karimi, medt, fine or gasa")
    add("--names", nargs="+", metavar="NAME", help="for the tables, one each; the same name for seeds of one method")
    add("--reference", metavar="NAME", help="method that the others are compared with. Default: the first")
    add("--all-pairs", action="store_true", help="compare every method with every other one")
    add("--common", action="store_true", help="compare the cases that all have, where they differ")
    add("--patients", action="store_true", help="test the means over each patient's cases, as told to register")
    add("--metrics", nargs="+", metavar="METRIC", help="Default: all that every evaluation has")
    add("--confidence", type=float, default=0.95, metavar="X", help="of the intervals. Default: 0.95")
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap. Default: 0")
    add("--decimals", type=int, default=4, metavar="N", help="of fractions; mm have two fewer. Default: 4")
    add("-o", type=Path, metavar="DIR", help="write tables, single values and plots there. Default: print only")
    add("-np", type=int, default=4, metavar="N", help="processes that evaluate. Default: 4")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    a = arguments
    _check(a)

    from nnunet_attn.evaluation.compare import compare
    from nnunet_attn.evaluation.compare_inputs import grouped_by_method
    from nnunet_attn.evaluation.compare_screen import screen_text
    from nnunet_attn.evaluation.compare_sources import registered_patients

    if a.o is not None:
        from nnunet_attn.evaluation.compare_files import check_output

        check_output(a.o)
    evaluations, labels, warnings = _evaluations(a)
    patients = registered_patients(evaluations)
    if a.patients and not patients:
        raise InputError(
            "--patients: nothing tells the patients of these cases; register the data set with them, or leave it out"
        )
    comparison = compare(
        grouped_by_method(evaluations, labels, a.names),
        patients=patients,
        by_patient=a.patients,
        reference=a.reference,
        all_pairs=a.all_pairs,
        metrics=a.metrics,
        common=a.common,
        confidence=a.confidence,
        seed=a.seed,
    )
    comparison = replace(comparison, warnings=(*warnings, *comparison.warnings))
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(screen_text(comparison, a.decimals, written=a.o is not None)))
    if a.o is not None:
        from nnunet_attn.evaluation.compare_files import write_comparison

        files = write_comparison(comparison, a.o, a.decimals)
        console.print(Text(f"written: {a.o / 'comparison.md'} and {len(files) - 1} other files beside and below it"))
    return 0


def _check(a: argparse.Namespace) -> None:
    if a.tr is None:
        if wrong := next((flag for name, flag in _OF_TRAINERS.items() if getattr(a, name) is not None), None):
            raise InputError(f"{wrong} goes with -tr: name the trainers, or leave it out and name folders")
        if not a.folders:
            raise InputError("nothing to compare: give trainers (-d ID -tr A B), or folders of evaluations")
    elif a.folders:
        raise InputError(f"{a.folders[0]} and -tr: compare trainers or folders, not both")
    elif a.d is None:
        raise InputError("-tr needs -d: the data set, name or ID")
    elif a.ensemble is not None and not a.test:
        raise InputError("--ensemble goes with --test; leave it out")
    if not 0 <= a.decimals <= 12:
        raise InputError(f"--decimals {a.decimals}: give a number from 0 to 12")


def _evaluations(a: argparse.Namespace) -> tuple[list["Evaluation"], list[str], list[str]]:
    """Return the evaluations, how the user named each, and warnings."""
    from nnunet_attn.evaluation.compare_sources import Trained, cross_validations, predicted_tests, read_folders

    if a.tr is None:
        from nnunet_attn.evaluation.compare_inputs import changed_since, check_different
        from nnunet_attn.evaluation.evaluate import result_files

        labels = [str(folder) for folder in a.folders]
        found = read_folders(a.folders, a.preset)
        files = [result_files(each, a.preset)[0] if each.is_dir() else each for each in a.folders]
        check_different(files, labels)
        warnings = [changed_since(*each) for each in zip(found, files, labels, strict=True)]
        return found, labels, [text for texts in warnings for text in texts]
    plans, configurations = tuple(a.p or ("nnUNetPlans",)), tuple(a.c or ("3d_fullres",))
    trained = Trained(a.d, tuple(a.tr), plans, configurations, _folds(a.f), a.chk, a.preset)
    with _progress() as progress:
        if a.test:
            return predicted_tests(trained, a.ensemble or "logits", a.np, progress), trained.labels(), []
        return cross_validations(trained, a.np, progress), trained.labels(), []


def _folds(words: list[str] | None) -> tuple[int | str, ...]:
    try:
        return tuple(word if word == "all" else int(word) for word in words or "01234")
    except ValueError as error:
        raise InputError(f"-f {' '.join(words or ())}: folds are numbers from 0") from error


@contextmanager
def _progress() -> Iterator["Report"]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    # elsewhere rich would end with an empty line
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def progress(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(f"evaluating {label}", total=total)
            bar.update(tasks[label], completed=done)

        yield progress
