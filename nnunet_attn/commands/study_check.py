"""`nnunet-attn study check`: calls and prints."""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from nnunet_attn.study.check import CheckReport, check
from nnunet_attn.study.memory import StepNeed, StepTask, examine_steps
from nnunet_attn.study.model import read_study
from nnunet_attn.study.state import duration

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}
_WIDTH = 9


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; returns 2 if there is a problem."""
    study = read_study(arguments.file)
    console = Console(highlight=False, soft_wrap=True)
    with console.status("looking at networks and memory") as status:

        def examine(tasks: Sequence[StepTask]) -> tuple[StepNeed, ...]:
            return examine_steps(tasks, on_answer=lambda task: status.update(f"memory: {task.trainer}"))

        report = check(study, examine)
    for finding in report.findings:
        mark = (f"{finding.state:{_WIDTH}}", _COLOURS[finding.state])
        console.print(Text.assemble(mark, f"{finding.what}: {finding.text}"))
        if finding.remedy:
            console.print(Text(f"{'':{_WIDTH}}-> {finding.remedy}"))
    for line in summary(report):
        console.print(Text(line))
    return 2 if report.problems else 0


def summary(report: CheckReport) -> list[str]:
    """Return the lines below the findings: jobs, time, and what the findings say about the whole."""
    lines = []
    if (cost := report.cost) is not None:
        jobs = f"{_counted(cost.trainings, 'training')}, {cost.done} of them done"
        jobs += f"; {_counted(cost.pretrainings, 'pre-training')}" if cost.pretrainings else ""
        jobs += f"; {_counted(cost.predictions, 'model')} to predict a test set" if cost.predictions else ""
        lines.append(f"jobs: {jobs}")
        told = f"{duration(cost.seconds)}, by the time of earlier epochs, on one device, without validation"
        if cost.unknown:
            known = f"{told}; " if cost.seconds else ""
            lines.append(
                f"training time: {known}unknown for {', '.join(cost.unknown)}: nothing like it was trained here"
            )
        else:
            lines.append(f"training time: {told}")
        if cost.pretrainings:
            lines.append("the time of pre-training does not count here")
    problems, warnings = len(report.problems), len(report.warnings)
    if problems:
        lines.append(
            f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}: the study cannot run like this"
        )
    else:
        lines.append(f"no problems, {_counted(warnings, 'warning')}")
    return lines


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
