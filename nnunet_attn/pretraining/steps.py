"""Runs the chain's stock commands one after the other: shows each as one would type it, its progress, keeps its log."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from nnunet_attn.demo import epoch_in
from nnunet_attn.paths import with_trainers
from nnunet_attn.stock import run_stock

WORKERS_VARIABLE = "nnUNet_n_proc_DA"


def chain_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of the chain's commands: the caller's, in which nnU-Net finds this package's trainers."""
    return with_trainers(os.environ if base is None else base)


class Steps:
    """Runs stock commands in one environment.

    Args:
        console: Where commands and progress are shown.
        environment: The commands' environment.
        logs: Folder for what they print, made when the first one runs.
    """

    def __init__(self, console: Console, environment: Mapping[str, str], logs: Path) -> None:
        self.console = console
        self.environment = dict(environment)
        self.logs = logs

    def say(self, text: str, style: str = "") -> None:
        """Print a line as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)

    def progress(self) -> Progress:
        """Return a new progress display."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.console)

    def run(self, title: str, command: str, arguments: Sequence[object], epochs: int = 0) -> None:
        """Run one stock command; with `epochs`, which are those of a training, its output tells the progress.

        Raises:
            StockCommandError: If it fails.
        """
        self.say(f"$ {shlex.join([command, *map(str, arguments)])}", style="bold")
        self.logs.mkdir(parents=True, exist_ok=True)
        log_file = self.logs / f"{len(list(self.logs.iterdir())) + 1:02d}_{command.removeprefix('nnUNetv2_')}.log"
        environment = dict(self.environment)
        if not epochs and environment.get(WORKERS_VARIABLE) == "0":
            # nnU-Net's planning makes it a number of threads, of which there must be one
            environment[WORKERS_VARIABLE] = "1"
        with self.progress() as progress:
            task = progress.add_task(title, total=epochs or None)

            def show(line: str) -> None:
                epoch = epoch_in(line)
                if epoch is not None:
                    progress.update(task, completed=epoch, description=f"{title}, epoch {epoch + 1} of {epochs}")
                elif line.rstrip().endswith("Training done."):
                    progress.update(task, completed=epochs, description=f"{title}, validation")

            on_line: Callable[[str], None] | None = show if epochs else None
            run_stock(command, arguments, environment, log_file, on_line)
            progress.update(task, description=title, total=epochs or 1, completed=epochs or 1)
