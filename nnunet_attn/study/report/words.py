"""What a study asks, how it answers and how far it is, in plain sentences."""

from collections import Counter
from collections.abc import Iterable, Sequence

from nnunet_attn.evaluation.compare_tables import TESTED_TITLES, interval, metric_decimals, number, p_value, percent
from nnunet_attn.evaluation.statistics import FEW_PAIRS
from nnunet_attn.study.report.model import GroupReport, ReportData, RunInfo, TableRow
from nnunet_attn.study.state import RunState

UNFINISHED = ("waiting", "running", "validating", "stopped", "failed", "foreign")


def question(data: ReportData) -> str:
    """Return the question, in a sentence."""
    datasets = joined(each.name for each in data.datasets) or joined(data.study.datasets)
    if len(data.rows) == 1:
        return f"How well does {data.rows[0].title} segment {datasets}?"
    which = "these two" if len(data.rows) == 2 else f"these {len(data.rows)}"
    return f"Which of {which} methods segments {datasets} best, and is what sets them apart more than chance?"


def setup(data: ReportData) -> list[str]:
    """Return how the question is answered, a few sentences each."""
    runs = _unique(data.runs)
    folds = len({(run.run.dataset, run.run.fold) for run in runs})
    seeds = len({run.run.seed for run in runs})
    lengths = {(row.epochs, row.iterations) for row in data.rows}
    length = ", of different lengths"
    if len(lengths) == 1:
        ((epochs, iterations),) = lengths
        length = f", of {_count(epochs, 'epoch')}" if epochs else ""
        length += f" with {iterations} iterations each" if epochs and iterations else ""
    each = f"on {_count(folds, 'fold')}" + (f", with {seeds} seeds each" if seeds > 1 else "")
    said = [f"Each method was trained {each}: {_count(len(runs), 'training')} in all{length}."]
    if len(data.datasets) > 1:
        said[0] = f"Each method was trained on the same folds of each data set: {_count(len(runs), 'training')} in all."
    said.append(
        "Every case is predicted by networks that have not seen its reference, and methods are compared case by case."
    )
    if len(data.rows) > 1:
        reference = next((row.title for row in data.rows if row.is_reference), data.study.reference)
        said.append(f"The reference, which the others are compared with, is {reference}.")
    return said


def progress(runs: Sequence[RunInfo]) -> str:
    """Return how many trainings are in which state."""
    unique = _unique(runs)
    counts = Counter(each.state.kind for each in unique)
    told = [f"{counts[kind]} {kind}" for kind in ("done", *UNFINISHED) if counts[kind]]
    return f"{_count(len(unique), 'training')}: {', '.join(told)}." if unique else "No trainings."


def is_finished(data: ReportData) -> bool:
    """Return whether every training is done and every group compared as far as it can be."""
    if not all(each.state.kind == "done" for each in data.runs):
        return False
    return not any(each.missing or _can_be_compared(data, each) for each in data.groups)


def _can_be_compared(data: ReportData, report: GroupReport) -> bool:
    """Whether there is no comparison yet, but can be: several rows and, of test cases, their labels."""
    if report.comparison is not None or len(report.group.rows) < 2:
        return False
    labelled = {each.name for each in data.datasets if each.test_labels}
    return not report.group.test or report.group.dataset in labelled


def verdict(report: GroupReport, metric: str) -> list[tuple[str, str]]:
    """Return what the tests say of one metric: (better, worse, mixed, equal or few) and a sentence each.

    Mixed: told apart, but the mean is to one side and most cases to the other.
    """
    table, comparison = report.table(metric), report.comparison
    if table is None or comparison is None:
        return []
    told: dict[str, list[str]] = {"better": [], "worse": [], "mixed": [], "equal": []}
    for row in table.rows:
        if row.difference is None:
            continue
        kind = "equal"
        if row.is_significant and row.is_better is not None:
            kind = "better" if row.is_better else "worse"
            ahead = row.difference.paired.wins - row.difference.paired.losses
            kind = "mixed" if ahead and (ahead > 0) is not row.is_better else kind
        told[kind].append(_in_words(report, row, metric))
    title, reference, unit = TESTED_TITLES[metric], comparison.reference, comparison.paired_over
    begin = {
        "better": f"Better than {reference} in {title}",
        "worse": f"Worse than {reference} in {title}",
        "mixed": f"Told apart from {reference} in {title}, but the mean is to one side and most {unit} to the other",
        "equal": f"Not told apart from {reference} in {title}",
    }
    sentences = [(kind, f"{begin[kind]}: {'; '.join(rows)}.") for kind, rows in told.items() if rows]
    least = 2 / 2 ** min((row.difference.paired.n_pairs for row in table.rows if row.difference), default=0)
    if least >= 1 - comparison.confidence:
        text = f"With so few {unit} the p of Wilcoxon's test cannot be below {least:.3g}, whatever the difference is"
        sentences.append(("few", f"{text}: this comparison can tell nothing apart."))
    elif any(row.has_few_pairs for row in table.rows):
        sentences.append(
            (
                "few",
                f"Fewer than {FEW_PAIRS} pairs: p-values and intervals rest on little, and a difference that is "
                "there can easily be missed.",
            )
        )
    return sentences


def _in_words(report: GroupReport, row: TableRow, metric: str) -> str:
    comparison, difference = report.comparison, row.difference
    assert comparison is not None and difference is not None
    places = metric_decimals(metric, 4)
    p = p_value(difference.wilcoxon_p_holm)
    mean = number(difference.paired.mean_difference, places, sign=True)
    between = interval(difference, places)
    sure = f", {percent(comparison.confidence)} % interval {between}" if " " in between else ""
    return f"{row.row} (mean difference {mean}{sure}; p\N{NO-BREAK SPACE}{_equals(p)})"


def _equals(p: str) -> str:
    return f"<\N{NO-BREAK SPACE}{p[1:]}" if p.startswith("<") else f"=\N{NO-BREAK SPACE}{p}"


def state_text(state: RunState) -> str:
    """Return what to know of a training that is not done."""
    epochs = f"epoch {state.epoch} of {state.epochs or '?'}" if state.epoch else ""
    return ", ".join(part for part in (epochs, state.message) if part)


def joined(names: Iterable[str]) -> str:
    """Return names as a list in a sentence."""
    some = list(names)
    return some[0] if len(some) == 1 else f"{', '.join(some[:-1])} and {some[-1]}" if some else ""


def _count(number_of: int, word: str) -> str:
    return f"{number_of} {word}{'' if number_of == 1 else 's'}"


def _unique(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """Rows that differ in how they predict test cases alone share their trainings."""
    found = {}
    for each in runs:
        run = each.run
        found.setdefault((run.dataset, run.trainer, run.plans, run.configuration, run.fold), each)
    return list(found.values())
