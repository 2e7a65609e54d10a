"""`nnunet-attn study status`: calls and prints."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from nnunet_attn.errors import InputError
from nnunet_attn.study.state import RunState
from nnunet_attn.study.status import Watched, as_json, find_trainings, read_states
from nnunet_attn.study.status_grid import grid

DEFAULT_FILE = Path("study.yaml")


def run(arguments: argparse.Namespace) -> int:
    """Print the states once, or again and again until all trainings are done."""
    a = arguments
    if a.watch is not None and not 0 < a.watch < float("inf"):
        raise InputError(f"--watch {a.watch:g}: give the seconds between two looks, for example --watch 10")
    if a.watch is not None and a.json:
        raise InputError("--json shows the states once; leave out --watch, or call it again and again")
    look = _looker(a)
    trainings = look()
    if a.json:
        sys.stdout.write(json.dumps(as_json(trainings, read_states(trainings)), indent=2) + "\n")
        return 0
    console = Console(highlight=False)
    if a.watch is None:
        console.print(grid(trainings, read_states(trainings)), crop=False)
        return 0
    with suppress(KeyboardInterrupt):  # the usual end of watching
        _watch(look, console, a.watch)
    return 0


def _looker(a: argparse.Namespace) -> Callable[[], Sequence[Watched]]:
    """Return what finds the trainings; with -d more can come while one watches."""
    if a.d is not None:
        return lambda: find_trainings(a.d)
    from nnunet_attn.study.matrix import runs
    from nnunet_attn.study.model import read_study

    found = runs(read_study(a.file or DEFAULT_FILE))
    return lambda: found


def _watch(look: Callable[[], Sequence[Watched]], console: Console, seconds: float) -> None:
    """Show the states again and again; at the end the last picture stays on the screen, whole."""
    if not console.is_terminal:  # a file: one picture behind the other, each with its time
        while True:
            picture, is_over = _picture(look, seconds, folded=False)
            console.print(picture, crop=False)
            if is_over:
                return
            time.sleep(seconds)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            picture, is_over = _picture(look, seconds, folded=True)
            live.update(picture, refresh=True)
            if is_over:
                return
            time.sleep(seconds)


def _picture(look: Callable[[], Sequence[Watched]], seconds: float, folded: bool) -> tuple[Group, bool]:
    trainings = look()
    states: Sequence[RunState] = read_states(trainings)
    heading = f"{time.strftime('%H:%M:%S')}, every {seconds:g} s; Ctrl-C ends the watching, not the trainings"
    return Group(Text(heading, style="dim"), grid(trainings, states, folded=folded)), all(
        state.kind == "done" for state in states
    )
