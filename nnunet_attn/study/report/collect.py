"""Collects all that a report shows, also of a study that is half done: what is missing is said, and nothing fails."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_attn.errors import InputError
from nnunet_attn.study.evaluating import Gathered, Progress, compare_gathered, gathered
from nnunet_attn.study.groups import Group, Model, groups, models
from nnunet_attn.study.matrix import Run, dataset_name, runs
from nnunet_attn.study.options import derived_plans_name
from nnunet_attn.study.report.compared import tables_of
from nnunet_attn.study.report.costs import Examine, costs, examined, needs_of
from nnunet_attn.study.report.curves import label_curves, read_epochs
from nnunet_attn.study.report.facts import read_facts
from nnunet_attn.study.report.fairness import unfair
from nnunet_attn.study.report.hardware import this_machine, trained_on, versions
from nnunet_attn.study.report.model import GroupReport, ReportData, RunInfo
from nnunet_attn.study.report.picks import picks
from nnunet_attn.study.report.setup import DatasetInfo, RowInfo
from nnunet_attn.study.report.splits import dataset_info
from nnunet_attn.study.state import read_state

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study
    from nnunet_attn.study.rows import Row

CACHE_FILE = "costs.json"
"""In a study's folder: parameters, operations and memory, which take a minute to find out."""


def collect(
    study: "Study",
    file: Path,
    folder: Path | None = None,
    processes: int = 2,
    progress: Progress | None = None,
    examine: Examine = examined,
) -> ReportData:
    """Collect what a report shows; evaluates what is finished and not evaluated yet, and trains nothing.

    Args:
        study: The study.
        file: Its study.yaml, for its text; need not exist.
        folder: The study's folder, where answers are kept that take long to find out; None: none are.
        processes: How many read and measure at once.
        progress: Called as cases are evaluated.
        examine: What finds out what training steps need.
    Raises:
        InputError: If nnU-Net's folders are not set.
    """
    trainings, problems = known_runs(study)
    told = tuple(run_info(run) for run in trainings)
    datasets: list[DatasetInfo] = []
    for name in dict.fromkeys(run.dataset for run in trainings):
        info, more = dataset_info(study, name, {run.fold for run in trainings if run.dataset == name})
        datasets.append(info)
        problems += more
    by_name = {info.name: info for info in datasets}
    reports = tuple(
        group_report(study, group, by_name.get(group.dataset), processes, progress)
        for group in groups(study, trainings)
    )
    problems += _lost_cases(study, reports)
    tested = {model: dice for each in reports if each.group.test for model, dice in each.dice.items()}
    needs = needs_of(study, told, None if folder is None else folder / CACHE_FILE, examine)
    return ReportData(
        study=study,
        study_file=file.name,
        study_text=_text(file),
        date_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
        machine=this_machine(),
        trained_on=trained_on(told),
        datasets=tuple(datasets),
        rows=tuple(row_info(study, row, told) for row in study.rows),
        runs=told,
        groups=reports,
        label_curves=label_curves(models(study, trainings), told, datasets, tested),
        costs=costs(needs, told),
        unfair=unfair(study, told, reports, datasets, needs),
        problems=tuple(dict.fromkeys(problems)),
    )


def known_runs(study: "Study") -> tuple[tuple[Run, ...], list[str]]:
    """Return the trainings of a study whose data sets and folds are there, and why there are no others."""
    with suppress(InputError):
        return runs(study), []
    found: list[Run] = []
    problems: dict[str, None] = {}  # in order, each once
    for dataset in study.datasets:
        try:
            dataset_name(dataset)
        except InputError as error:
            problems[str(error)] = None
            continue
        for row in study.rows:
            try:
                found += runs(study.model_copy(update={"datasets": (dataset,), "rows": (row,)}))
            except InputError as error:
                problems[str(error)] = None
    return tuple(found), list(problems)


def run_info(run: Run) -> RunInfo:
    """Return what is known of a training."""
    folder = run.fold_folder
    return RunInfo(run, read_state(folder), read_epochs(folder), read_facts(run))


def row_info(study: "Study", row: "Row", told: Sequence[RunInfo]) -> RowInfo:
    """Return what is known of a row."""
    parsed = row.parsed
    network = parsed.network
    own = [each for each in told if each.run.row == row.title]

    def first(of: Callable[[RunInfo], Any]) -> Any:
        return next((value for each in own if (value := of(each)) is not None), None)

    budget = study.budget
    epochs = parsed.attributes.get("epochs") or (None if budget is None else budget.epochs)
    iterations = parsed.attributes.get("iterations_per_epoch") or (None if budget is None else budget.iterations)
    return RowInfo(
        title=row.title,
        trainer=row.trainer,
        network=None if network is None else network.name,
        network_title=None if network is None else network.title,
        source=None if network is None else network.source,
        plans=derived_plans_name(study, row),
        base_plans=study.plans_of(row),
        configurations=study.configurations_of(row),
        options=row.options,
        pretrain=_pretrain(row),
        labels=row.labels,
        ensemble=row.ensemble if study.test_set else None,
        recipe=first(lambda each: each.facts.recipe) or first(_optimiser),
        epochs=first(lambda each: each.facts.epochs) or epochs or first(lambda each: each.state.epochs),
        iterations=first(lambda each: each.facts.iterations) or iterations,
        is_reference=row.title == study.reference,
    )


def group_report(
    study: "Study", group: Group, dataset: DatasetInfo | None, processes: int = 2, progress: Progress | None = None
) -> GroupReport:
    """Return what came of a group; what cannot be evaluated or compared is said."""
    found: Gathered | None = None
    comparison, why = None, None
    try:
        found = gathered(study, group, processes, progress)
        comparison = compare_gathered(group, found)
    except InputError as error:
        why = str(error).removeprefix(f"{group.title}: ")  # it stands below this title
    return GroupReport(
        group,
        comparison,
        why,
        () if found is None else found.folds,
        () if found is None else found.missing,
        group.rows if found is None else found.left_out,
        () if comparison is None else tables_of(comparison),
        picks(study, group, found, comparison, dataset),
        {} if found is None else _dice(found),
    )


def _dice(found: Gathered) -> dict[Model, float]:
    from nnunet_attn.evaluation.aggregate import foreground_means

    return {
        model: foreground_means(evaluation)["dice"].mean
        for row, own in found.models.items()
        for model, evaluation in zip(own, found.evaluations[row], strict=True)
        if "dice" in evaluation.settings.metrics
    }


def _optimiser(each: RunInfo) -> str | None:
    facts = each.facts
    if facts.optimizer is None or facts.learning_rate is None:
        return facts.optimizer
    return f"{facts.optimizer}, {facts.learning_rate:g}"


def _pretrain(row: "Row") -> str | None:
    if row.pretrain is None:
        return None
    on = "" if row.pretrain.dataset is None else f" on data set {row.pretrain.dataset}"
    epochs = "" if row.pretrain.epochs is None else f", {row.pretrain.epochs} epochs"
    return f"{row.pretrain.task}{on}{epochs}"


def _lost_cases(study: "Study", reports: Sequence[GroupReport]) -> list[str]:
    shown = {pick.case for each in reports for pick in each.picks}
    lost = [case for case in study.cases if case not in shown]
    return [f"cases: nothing has predicted {', '.join(lost)} yet, or no data set has it"] if lost else []


def _text(file: Path) -> str:
    with suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace")
    return ""
