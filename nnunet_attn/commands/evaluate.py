"""`nnunet-attn evaluate`: predictions against references, beside nnU-Net's own summary."""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nnunet_attn.errors import InputError

if TYPE_CHECKING:
    from nnunet_attn.evaluation.results import Evaluation, Settings

_SHOWN_WARNINGS = 10
_OF_FOLDERS = ("r", "djfile", "pfile", "chill")
_OF_FOLDS = ("tr", "p", "c", "f", "chk")


def add_parser(commands: Any) -> None:
    """Add the command to the sub-parsers of `nnunet-attn`."""
    parser = commands.add_parser("evaluate", help="overlap and surface metrics of predictions or a cross-validation")
    add = parser.add_argument
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("-i", type=Path, metavar="PREDICTIONS", help="folder of predictions")
    given.add_argument("-d", metavar="ID", help="data set name or ID: evaluate its cross-validation")
    add("-r", type=Path, metavar="REFERENCES", help="with -i: folder of references")
    add("-djfile", type=Path, metavar="FILE", help="with -i. Default: dataset.json beside the predictions")
    add("-pfile", type=Path, metavar="FILE", help="with -i. Default: plans.json beside the predictions, if there")
    add("--chill", action="store_true", default=None, help="with -i: accept references without a prediction")
    add("-tr", nargs="+", metavar="TRAINER", help="with -d: one or several trainers")
    add("-p", metavar="PLANS", help="with -d. Default: nnUNetPlans")
    add("-c", metavar="CONFIGURATION", help="with -d. Default: 3d_fullres")
    add("-f", nargs="+", metavar="FOLD", help="with -d. Default: 0 1 2 3 4")
    add("-chk", metavar="FILE", help="with -d: the checkpoint that predicted, where the files do not tell")
    add("--metrics", nargs="+", metavar="NAME", help="Default: all")
    add("--tolerance", nargs="+", metavar="MM", help="of NSD: a number, CLASS=MM ..., or kits23. Default: 1")
    add("--surface", choices=("area", "erosion"), help="how surfaces are found. Default: area")
    add("--preset", metavar="NAME", help="a paper's reading: karimi, medt, fine or gasa")
    add("-o", type=Path, metavar="DIR", help="folder to write to. Default: beside the predictions")
    add("-np", type=int, default=4, metavar="N", help="processes. Default: 4")
    add("--overwrite", action="store_true", help="compute also what is up to date")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from nnunet_attn.evaluation.evaluate import (
        evaluate_cross_validation,
        evaluate_folder,
        result_files,
        settings_before,
    )
    from nnunet_attn.evaluation.settings import chosen_settings, parsed_tolerance

    a = arguments
    _check(a)
    settings = chosen_settings(a.metrics, parsed_tolerance(a.tolerance), a.surface, a.preset)
    console = Console(highlight=False, soft_wrap=True)
    common: dict[str, Any] = {"settings": settings, "processes": a.np, "overwrite": a.overwrite}
    if a.i is not None:
        before = settings_before(a.o or a.i, a.preset)
        with _progress(str(a.i)) as (progress, counts):
            evaluation = evaluate_folder(
                a.i,
                a.r,
                dataset_json=a.djfile,
                plans_json=a.pfile,
                output=a.o,
                chill=bool(a.chill),
                progress=progress,
                **common,
            )
        show(evaluation, console, counts["up to date"])
        _show_replaced(before, evaluation, console)
        console.print(Text(f"written: {' and '.join(map(str, result_files(a.o or a.i, a.preset)))}"))
        return 0

    from nnunet_attn.evaluation.pairs import find_model

    plans, configuration, folds = a.p or "nnUNetPlans", a.c or "3d_fullres", _folds(a.f)
    for trainer in a.tr:  # a name that is not there is told before the first is computed
        find_model(a.d, trainer, plans, configuration)
    for trainer in a.tr:
        model = find_model(a.d, trainer, plans, configuration).folder
        folder = a.o or model / f"evaluation_attn_folds_{'_'.join(map(str, sorted(folds)))}"
        before = settings_before(folder, a.preset)
        with _progress(trainer) as (progress, counts):
            evaluation = evaluate_cross_validation(
                a.d,
                trainer,
                plans,
                configuration,
                folds,
                checkpoint=a.chk,
                output=a.o,
                progress=progress,
                **common,
            )
        show(evaluation, console, counts["up to date"])
        _show_replaced(before, evaluation, console)
        console.print(Text(f"written: {' and '.join(map(str, result_files(folder, a.preset)))}"))
    return 0


def _show_replaced(before: "Settings | None", evaluation: "Evaluation", console: Console) -> None:
    """Tell that an earlier evaluation with other settings is no more."""
    after = evaluation.settings
    if before is None or before == after:
        return
    had = []
    if before.metrics != after.metrics:
        had.append(f"--metrics {' '.join(before.metrics)}")
    if before.surface != after.surface:
        had.append(f"--surface {before.surface}")
    if before.tolerance_mm != after.tolerance_mm:
        had.append("--tolerance " + " ".join(f"'{name}={value:g}'" for name, value in before.tolerance_mm.items()))
    console.print(Text(f"replaced: an earlier evaluation there with {', '.join(had)}; to keep both, give another -o"))


def _check(a: argparse.Namespace) -> None:
    main, own, others = ("-i", _OF_FOLDERS, _OF_FOLDS) if a.i is not None else ("-d", _OF_FOLDS, _OF_FOLDERS)
    if wrong := [name for name in others if getattr(a, name) is not None]:
        flag = f"--{wrong[0]}" if wrong[0] == "chill" else f"-{wrong[0]}"
        raise InputError(f"{flag} does not go with {main}; leave it out")
    if getattr(a, own[0]) is None:
        raise InputError(
            f"{main} needs -{own[0]}: " + ("the references" if a.i is not None else "one or more trainers")
        )
    if a.i is None and a.o is not None and len(a.tr) > 1:
        raise InputError("-o takes the evaluation of one trainer; leave it out: each has its folder in nnUNet_results")


def _folds(words: list[str] | None) -> tuple[int, ...]:
    if words is None:
        return 0, 1, 2, 3, 4
    if "all" in words:
        raise InputError("-f all: this fold validates on the cases it was trained on; give other folds, or test cases")
    try:
        return tuple(int(word) for word in words)
    except ValueError as error:
        raise InputError(f"-f {' '.join(words)}: folds are numbers from 0") from error


def show(evaluation: "Evaluation", console: Console, up_to_date: int = 0) -> None:
    """Print the means of an evaluation, a preset's own means, and what was left out or warned about."""
    from nnunet_attn.evaluation.results import VOLUME_METRICS

    origin, metrics = evaluation.origin, evaluation.settings.metrics
    if title := " ".join(str(part) for part in (origin.dataset, origin.trainer, origin.configuration) if part):
        console.print(Text(title))
    for shown in ([name for name in metrics if (name in VOLUME_METRICS) is volumes] for volumes in (False, True)):
        if shown:
            table = _table(evaluation, shown)
            Console(highlight=False, width=None if console.is_terminal else 40 + 15 * len(shown)).print(table)
    count = f"{len(evaluation.cases)} cases, {up_to_date} of them up to date"
    console.print(Text(f"{count}; mean: over cases, then over classes, of finite values"))
    _show_preset(evaluation, console)
    if origin.kind == "cross_validation" and origin.checkpoint is None:
        console.print(Text("nothing tells which checkpoint predicted (--val_best leaves no trace): state it with -chk"))
    if left_out := evaluation.provenance.get("left_out"):
        console.print(Text(f"without a prediction, left out: {', '.join(left_out)}"))
    warned = [f"{case}: {text}" for case, texts in evaluation.provenance.get("warnings", {}).items() for text in texts]
    for line in warned[:_SHOWN_WARNINGS]:
        console.print(Text(f"warning: {line}"))
    if len(warned) > _SHOWN_WARNINGS:
        console.print(Text(f"... and {len(warned) - _SHOWN_WARNINGS} more warnings, in the summary"))


def _table(evaluation: "Evaluation", metrics: Sequence[str]) -> Table:
    from nnunet_attn.evaluation.aggregate import class_means, foreground_means

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class", overflow="fold")
    for metric in metrics:  # spaces, so that a narrow terminal breaks the heading and not the number
        table.add_column(metric.replace("_", " "), justify="right")
    for name, means in class_means(evaluation).items():
        table.add_row(Text(name), *(_cell(means[metric]) for metric in metrics))
    table.add_section()
    overall = foreground_means(evaluation)
    table.add_row("mean", *(_cell(overall[metric]) for metric in metrics))
    return table


def _show_preset(evaluation: "Evaluation", console: Console) -> None:
    from nnunet_attn.evaluation.presets import find_preset, preset_report

    report = preset_report(evaluation)
    if report is None:
        return
    preset = find_preset(report.preset)
    console.print(Text(f"preset {preset.name}, {preset.averaging}: {preset.source}"))
    for column, means in report.columns.items():
        cells = (
            f"{metric} {_cell(mean)}" + ("" if math.isnan(mean.sd) else f", sd {mean.sd:.4g}")
            for metric, mean in means.items()
        )
        console.print(Text(f"  {column}: {'; '.join(cells)}"))
    if len(report.columns) > 1:
        cells = (f"{metric} {value:.4g}" for metric, value in report.average.items())
        console.print(Text(f"  average: {'; '.join(cells)}"))
    if report.over_folds:
        console.print(Text("  mean and sd over the folds; of the average, means over the columns:"))
    for column, means in {**report.over_folds, "average": report.average_over_folds}.items():
        if cells := [f"{metric} {mean:.4g}, sd {sd:.4g}" for metric, (mean, sd) in means.items()]:
            console.print(Text(f"    {column}: {'; '.join(cells)}"))
    for metric, value in report.as_the_script.items():
        console.print(Text(f"  {metric} as the authors' script scores images without overlap: {value:.4g}"))


def _cell(mean: Any) -> str:
    value = "-" if math.isnan(mean.mean) else f"{mean.mean:.4g}"
    return f"{value} ({mean.n_infinite} inf)" if mean.n_infinite else value


@contextmanager
def _progress(title: str) -> Iterator[tuple[Callable[[int, int], None], dict[str, int]]]:
    counts = {"up to date": 0}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task: Any = None

        def progress(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                counts["up to date"] = done
                task = bar.add_task(title, total=total, completed=done)
            bar.update(task, completed=done)

        yield progress, counts
