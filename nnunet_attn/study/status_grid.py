"""The picture of many trainings: a grid of rows and seeds by folds, or lines where the grid does not fit."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from nnunet_attn.study.state import STARTING, RunState, duration
from nnunet_attn.study.status import Watched, next_command

STYLES = {
    "waiting": "dim",
    "running": "cyan",
    "validating": "cyan",
    "done": "green",
    "stopped": "yellow",
    "failed": "bold red",
    "foreign": "magenta",
}
_SHOWN_NOTES = 10
_LEGEND = "~ is nnU-Net's pseudo Dice of training, on patches; done shows the mean Dice of the validation cases"

_Cell = tuple[Watched, RunState]


def grid(runs: Sequence[Watched], states: Sequence[RunState], *, folded: bool = False) -> "Grid":
    """Return a picture of trainings, for rich to print with `crop=False`.

    Args:
        runs: The trainings.
        states: Theirs, in the same order.
        folded: Break all lines at the console's width. Else lines of text stay whole, for `grep` and for copying what
            to type, and the terminal breaks them; rich's `Live`, which counts lines, needs them broken.
    """
    return Grid(tuple(zip(runs, states, strict=True)), folded)


@dataclass(frozen=True)
class Grid:
    """The numbers of each state, a table for each data set and configuration, what has stopped and what to type.

    Where a table is wider than the console, each training has a line instead, which is never cut.
    """

    cells: tuple[_Cell, ...]
    folded: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the tables and lines."""
        for part in self._parts(console, options):
            if isinstance(part, Text) and not self.folded:
                part.no_wrap, part.overflow = True, "ignore"
            yield part

    def _parts(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        counts = Counter(state.kind for _, state in self.cells)
        parts: list[str | tuple[str, str]] = [f"{len(self.cells)} training{'s' * (len(self.cells) != 1)}: "]
        for kind in (kind for kind in STYLES if counts[kind]):
            parts += [(f"{counts[kind]} {kind}", STYLES[kind]), ", "]
        yield Text.assemble(*parts[:-1])
        for (dataset, configuration), cells in _grouped(self.cells).items():
            yield Text(f"{dataset}, {configuration}", style="bold")
            table = _table(cells)
            wanted = Measurement.get(console, options.update(max_width=10_000), table)
            if wanted.minimum <= options.max_width:
                table.show_lines = wanted.maximum > options.max_width  # cells of several lines
                yield table
            else:
                yield from (_line(run, state) for run, state in cells)
        yield from _notes(self.cells)
        if any(state.dice is not None and state.kind != "done" for _, state in self.cells):
            yield Text(_LEGEND, style="dim")


def cell_words(state: RunState) -> list[str]:
    """Return the words of a training's cell; a narrow column breaks between them.

    `12/1000 3h05m ~0.81`: finished epochs of all, time that is left, pseudo Dice; the other states begin with
    their name.
    """
    if state.kind == "running" and state.message == STARTING:
        return [STARTING]
    words = [] if state.kind == "running" else [state.kind]
    if state.kind in ("running", "stopped", "failed") and state.epoch is not None:
        words.append(f"{state.epoch}/{state.epochs or '?'}")
    if state.eta_seconds is not None:
        words.append(duration(state.eta_seconds))
    if state.dice is not None:
        words.append(f"{state.dice:.3f}" if state.kind == "done" else f"~{state.dice:.2f}")
    return words or [state.kind]


def _grouped(cells: Sequence[_Cell]) -> dict[tuple[str, str], list[_Cell]]:
    groups: dict[tuple[str, str], list[_Cell]] = {}
    for cell in cells:
        groups.setdefault((cell[0].dataset, cell[0].configuration), []).append(cell)
    return groups


def _table(cells: Sequence[_Cell]) -> Table:
    folds = list(dict.fromkeys(run.fold for run, _ in cells))
    folds.sort(key=lambda fold: (isinstance(fold, str), fold))
    with_seeds = any(run.seed is not None for run, _ in cells)
    table = Table()
    table.add_column("", overflow="fold")
    if with_seeds:
        table.add_column("seed", justify="right")
    for fold in folds:
        table.add_column(f"fold {fold}")
    rows: dict[tuple[str, int | None], dict[int | str, RunState]] = {}
    for run, state in cells:
        rows.setdefault((run.row, run.seed), {})[run.fold] = state
    for (row, seed), states in rows.items():
        words = [Text(row)] + ([Text("" if seed is None else str(seed))] if with_seeds else [])
        words += [_cell(states[fold]) if fold in states else Text("") for fold in folds]
        table.add_row(*words)
    return table


def _cell(state: RunState) -> Text:
    return Text(" ".join(cell_words(state)), style=STYLES[state.kind])


def _line(run: Watched, state: RunState) -> Text:
    return Text.assemble(f"{_name(run)}: ", (" ".join(cell_words(state)), STYLES[state.kind]))


def _name(run: Watched) -> str:
    return f"{run.row}, fold {run.fold}" + ("" if run.seed is None else f", seed {run.seed}")


def _notes(cells: Sequence[_Cell]) -> Iterator[Text]:
    """What is not as it should be, with what to type; the first ones, where there are many."""
    expected = ("validating", "foreign")
    told = [
        (run, state)
        for run, state in cells
        if state.message and state.message != STARTING and state.kind not in expected
    ]
    for run, state in told[:_SHOWN_NOTES]:
        yield Text.assemble(
            f"{_name(run)}, {run.configuration}: ", (state.kind, STYLES[state.kind]), f", {state.message}"
        )
        if command := next_command(run, state):
            yield Text(f"  {command}")
    if len(told) > _SHOWN_NOTES:
        yield Text(f"and {len(told) - _SHOWN_NOTES} more: --json shows all")
