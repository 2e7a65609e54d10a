"""`nnunet-attn study run`: parses, calls, prints."""

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from nnunet_attn.errors import InputError

if TYPE_CHECKING:
    from nnunet_attn.study.engine.run import StudyOutcome
    from nnunet_attn.study.engine.watching import Event, Failure

_COLOURS = {"started": "blue", "done": "green", "failed": "red"}
_WIDTH = 8
_LINES_AGAIN = 3  # of a failed job's log at the end; when it fails, more are shown


def add_parser(actions: Any, default_file: Path) -> None:
    """Add the action to those of `nnunet-attn study`."""
    run = actions.add_parser("run", help="do everything that is not done yet, to the report; Ctrl-C and run again")
    run.add_argument(
        "file", nargs="?", type=Path, default=default_file, metavar="FILE", help=f"Default: {default_file}"
    )
    run.add_argument("-o", type=Path, metavar="DIR", help="the study's folder. Default: FILE's name with _results")
    run.add_argument("--cores", type=int, metavar="N", help="cores that jobs share. Default: all")
    run.add_argument("--jobs", type=int, metavar="N", help="trainings at once on a CPU. Default: one a core")
    run.add_argument("--devices", nargs="+", default=[], metavar="ID", help="CUDA devices, one job each. Default: all")
    run.add_argument("--executor", metavar="NAME", help="Snakemake's executor of a cluster, such as slurm")
    run.add_argument("--profile", metavar="DIR", help="Snakemake's profile. Default: the shipped one of the executor")
    run.add_argument("--dry-run", action="store_true", help="show the jobs that would run, and why")
    run.set_defaults(run=_run)


def _run(a: argparse.Namespace) -> int:
    if os.name != "posix":
        raise InputError("study run needs Linux or macOS; on Windows, use the Windows Subsystem for Linux")
    from nnunet_attn.study.engine.run import RunOptions, planned, run_study
    from nnunet_attn.study.folder import study_folder
    from nnunet_attn.study.model import read_study

    for flag, value in (("--cores", a.cores), ("--jobs", a.jobs)):
        if value is not None and value < 1:
            raise InputError(f"{flag} must be at least 1, got {value}")
    study = read_study(a.file)
    folder = study_folder(a.file, a.o)
    console = Console(highlight=False, soft_wrap=True)
    if a.dry_run:
        opened = planned(study, folder)
        for each in opened:
            console.print(Text.assemble((f"{each.job.kind:11}", "bold"), f"{each.job.text}: {each.reason}"))
        console.print(Text(f"{len(opened)} jobs to run" if opened else "nothing to run: all is done"))
        return 0
    options = RunOptions(a.cores, a.jobs, tuple(a.devices), a.executor, a.profile)
    again = shlex.join(["nnunet-attn", "study", "run", str(a.file), *(["-o", str(a.o)] if a.o else [])])
    try:
        outcome = run_study(study, a.file, folder, options, lambda event: _show(event, console))
    except KeyboardInterrupt:
        console.print(Text(f"stopped; what is finished stays. Continue with: {again}"))
        raise
    _tell(outcome, console, again)
    return outcome.exit_code


def _show(event: "Event", console: Console) -> None:
    from nnunet_attn.study.state import duration

    took = "" if event.seconds is None else f", {duration(event.seconds)}"
    counted = f" ({event.finished} of {event.total})" if event.stage == "done" else ""
    mark = (f"{event.stage:{_WIDTH}}", _COLOURS[event.stage])
    console.print(Text.assemble(mark, f"{event.job.text}{took}{counted}"))
    if event.failure is not None:
        _print_failure(event.failure, console)


def _tell(outcome: "StudyOutcome", console: Console, again: str) -> None:
    if not (outcome.done or outcome.exit_code):
        console.print(Text("nothing to run: all is done"))
    if outcome.failed:
        console.print(Text(f"{len(outcome.failed)} failed:", style="red"))
        for failure in outcome.failed:
            console.print(Text(f"{'':{_WIDTH}}{failure.job.text}"))
            _print_failure(failure, console, _LINES_AGAIN)
    for job in outcome.left:
        console.print(Text(f"not run: {job.text}: something before it failed"))
    if outcome.message:
        console.print(Text(outcome.message, style="red"))
    if outcome.exit_code:
        console.print(Text(f"Mend what failed, then continue with: {again}"))
    if outcome.report is not None:
        console.print(Text(f"report: {outcome.report / 'report.html'}"))


def _print_failure(failure: "Failure", console: Console, lines: int | None = None) -> None:
    indent = " " * _WIDTH
    console.print(Text(f"{indent}{failure.message}"))
    for line in failure.last_lines[-(lines or 0) :]:
        console.print(Text(f"{indent}| {line}", style="dim"))
    console.print(Text(f"{indent}log: {failure.log}"))
