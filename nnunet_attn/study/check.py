"""Whether a study can run, and what it costs: everything that can be known before anything starts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnunet_attn.errors import InputError
from nnunet_attn.paths import NNUNET_FOLDERS
from nnunet_attn.study.check_data import check_cases, check_dataset, check_plans, check_results, resolved
from nnunet_attn.study.cost import Cost, cost_of
from nnunet_attn.study.findings import Finding
from nnunet_attn.study.matrix import Run, dataset_name, nnunet_folder, runs, trainer_of
from nnunet_attn.study.memory import StepNeed, StepTask, examine_steps, nearest_preset
from nnunet_attn.study.trainers import named_trainer
from nnunet_attn.trainer_names import trainer_names

if TYPE_CHECKING:
    from nnunet_attn.architectures.registry import Network
    from nnunet_attn.study.model import Row, Study

# From here on another preset of nnU-Net than the smallest is nearest in memory: halfway between 8 and 24 GB.
PRESET_BYTES = 16e9
_FULL_DISK = 0.9
_STOCK = "nnUNetTrainer"

Examine = Callable[[Sequence[StepTask]], Sequence[StepNeed]]
Key = tuple[str, str, str]
"""Data set, title of the row, configuration."""


@dataclass(frozen=True)
class CheckReport:
    """What was found out about a study.

    Args:
        findings: Everything checked, in order.
        needs: Memory of a training step of each row on each data set, in each configuration.
        cost: Trainings, hours and disk; None if problems keep it from being worked out.
    """

    findings: tuple[Finding, ...]
    needs: Mapping[Key, StepNeed]
    cost: Cost | None

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What keeps the study from running."""
        return tuple(each for each in self.findings if each.state == "problem")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What makes it worse than it could be."""
        return tuple(each for each in self.findings if each.state == "warning")


def check(study: "Study", examine: Examine = examine_steps) -> CheckReport:
    """Check a study; writes nothing.

    Args:
        study: The study.
        examine: What finds out the memory of training steps; it starts a process of its own.
    """
    unset = list(_folders())
    if unset:
        return CheckReport(tuple(unset), {}, None)
    findings: list[Finding] = []
    names: list[str] = []
    for text in study.datasets:
        try:
            names.append(dataset_name(text))
        except InputError as error:
            remedy = "a shipped study's comments say where it comes from; known ones: nnunet-attn register --help"
            findings.append(Finding(f"data set {text}", "problem", str(error), remedy))
    planned: dict[tuple[str, str], dict[str, Any]] = {}
    for name in names:
        found = list(check_dataset(study, name))
        findings += found
        if any(each.what == name and each.state == "problem" for each in found):
            continue
        for row in study.rows:
            plans, more = check_plans(study, row, name)
            findings += [each for each in more if each not in findings]
            if plans is not None:
                planned[name, row.title] = plans
    findings += _budget(study)
    findings += _missing(study)
    findings += _pretrainings(study, names)
    findings += check_cases(study, names)
    needs = _needs(study, planned, examine)
    findings += _networks(needs)
    known = [each for each in needs.values() if each.problem is None and each.unknown is None]
    if study.device == "cuda" and known and not any(each.measured for each in known):
        text = "there is no CUDA on this machine: memory is an estimate, and compared with no GPU"
        findings.append(Finding("device", "warning", text, "check again where the study will run"))
    findings += check_references(study, needs)
    cost = None
    try:
        trainings = runs(study)
    except InputError as error:
        known = {each.text for each in findings}
        findings += [Finding("folds", "problem", line) for line in str(error).splitlines() if line not in known]
    else:
        findings += _results(trainings, planned)
        cost = _cost(study, trainings, needs)
        findings += _disk(cost)
    return CheckReport(tuple(findings), needs, cost)


def check_references(study: "Study", needs: Mapping[Key, StepNeed]) -> Iterator[Finding]:
    """Warn where attention networks have no fair reference: the plain U-Net, and from 16 GB one of their memory.

    Args:
        study: The study.
        needs: Memory of its rows; an estimate will do.
    """
    plain = [row for row in study.rows if _is_plain(row)]
    others = [row for row in study.rows if row.parsed.network is not None and not _is_plain(row)]
    if not others:
        return
    if not plain:
        text = f"no row trains the network of the plans: what {others[0].title} gains over it cannot be said"
        yield Finding("reference", "warning", text, "add nnUNetTrainerPlain to trainers")
    titles = {row.title for row in others}
    sizes = {key: need.comparable_bytes or 0 for key, need in needs.items() if key[1] in titles}
    for name in dict.fromkeys(key[0] for key in sizes):
        key = max((key for key in sizes if key[0] == name), key=lambda each: sizes[each])
        if sizes[key] < PRESET_BYTES:
            continue
        preset = nearest_preset(sizes[key])
        if any(preset.plans in study.plans_of(row) for row in plain):
            continue
        kind = "" if needs[key].measured else " (estimate)"
        text = (
            f"{key[1]} needs a GPU of about {sizes[key] / 1e9:.0f} GB{kind}, and nnU-Net plans for 8 GB by default; "
            f"its preset nearest in memory is {preset.planner} ({preset.target_gb:.0f} GB)"
        )
        short = preset.planner.removeprefix("nnUNetPlanner")
        remedy = (
            f"nnUNetv2_plan_and_preprocess -d {int(name[7:10])} -pl {preset.planner}, then add the row "
            f"{{trainer: nnUNetTrainerPlain, plans: {preset.plans}, name: {short}}}"
        )
        yield Finding(f"reference on {name}", "warning", text, remedy)


def _is_plain(row: "Row") -> bool:
    network = row.parsed.network
    if network is None:
        return row.parsed.base.split("_")[0] == _STOCK
    return network.class_path is None


def _folders() -> Iterator[Finding]:
    for variable in NNUNET_FOLDERS:
        try:
            folder = nnunet_folder(variable)
        except InputError as error:
            yield Finding(variable, "problem", str(error), f"export {variable}=/path/to/{variable}")
            continue
        if not folder.is_dir():
            yield Finding(variable, "problem", f"{folder} is no folder", f'mkdir -p "{folder}"')


def _budget(study: "Study") -> Iterator[Finding]:
    """What the budget changes of the plans, and which rows take their sizes from elsewhere."""
    budget = study.budget
    if budget is None or not budget.changes_plans:
        return
    changes = [] if budget.width is None else [f"{budget.width:g} times the planned features, in multiples of 8"]
    changes += [] if budget.batch_size is None else [f"batches of {budget.batch_size}"]
    yield Finding("budget", "ok", f"all rows train with {' and '.join(changes)}, in plans of their own")
    for row in study.rows:
        network = row.parsed.network
        if network is None:
            continue
        if budget.width is not None and not network.planned_width and not row.options:
            text = f"the width of {network.name} is its own, which the budget does not change"
            yield Finding(row.title, "warning", text, f"give the row options, such as {_example(network)}")
        has_own = budget.batch_size is not None and "batch_size" in network.trainer_options
        if has_own and row.options.get("batch_size") != budget.batch_size:
            text = f"{row.parsed.base} has a batch size of its own, which the budget does not change"
            remedy = f"give the row options: {{batch_size: {budget.batch_size}}}, unless its name stands for another"
            yield Finding(row.title, "warning", text, remedy)


def _example(network: "Network") -> str:
    options = ", ".join(f"{name}: {value}" for name, value in network.small_options.items())
    return f"{{{options}}}"


def _missing(study: "Study") -> Iterator[Finding]:
    """Methods that the file lists as missing; those that have come since can be added."""
    for each in study.missing:
        if each.what in trainer_names():
            text = f"is listed as missing ({each.why}), but there is such a trainer now"
            yield Finding(each.what, "warning", text, "add it to trainers, and take it out of missing")
        else:
            yield Finding(each.what, "warning", f"is missing from the comparison: {each.why}")


def _pretrainings(study: "Study", names: Sequence[str]) -> Iterator[Finding]:
    for row in study.rows:
        if row.pretrain is None or row.pretrain.dataset is None:
            continue
        try:
            dataset_name(row.pretrain.dataset)
        except InputError as error:
            yield Finding(f"pre-training of {row.title}", "problem", str(error))


def _needs(study: "Study", planned: Mapping[tuple[str, str], dict[str, Any]], examine: Examine) -> dict[Key, StepNeed]:
    """Memory of each network; none is asked for where a plan has not the configuration."""
    tasks: dict[Key, StepTask] = {}
    for (name, title), plans in planned.items():
        row = study.row_named(title)
        dataset = _dataset_json(name)
        for configuration in study.configurations_of(row):
            try:
                resolved(plans, configuration)
            except InputError:
                continue
            trainer = trainer_of(study, row)
            tasks[name, title, configuration] = StepTask(trainer, plans, configuration, dataset, study.device)
    return dict(zip(tasks, examine(list(tasks.values())), strict=True)) if tasks else {}


def _dataset_json(name: str) -> dict[str, Any]:
    from nnunet_attn.json_files import read_json

    return read_json(nnunet_folder("nnUNet_preprocessed") / name / "dataset.json", "plan the data set again")


def _networks(needs: Mapping[Key, StepNeed]) -> Iterator[Finding]:
    for (name, title, configuration), need in needs.items():
        what = f"{title} on {name}, {configuration}"
        if need.problem is not None:
            remedy = need.remedy or f"change the row or its options, or leave out {configuration}"
            yield Finding(what, "problem", need.problem, remedy)
        elif need.unknown is not None:
            text = f"the memory of a training step is unknown: {need.unknown}"
            yield Finding(what, "warning", text, "train one epoch of it and look")
        elif need.does_not_fit and need.measured:
            text = f"a training step does not fit into the GPU, {_gb(need.free_bytes)} of {_gb(need.total_bytes)} free"
            yield Finding(what, "problem", text, "free the GPU, plan for less memory, or use a smaller network")
        elif need.does_not_fit:
            text = f"a training step needs about {_gb(need.peak_bytes)} (estimate), {_gb(need.free_bytes)} are free"
            yield Finding(what, "warning", text, "plan for less memory, or use a smaller network")
        else:
            kind = "measured" if need.measured else "estimate"
            text = f"{need.parameters or 0:,} parameters; a training step needs {_gb(need.peak_bytes)} ({kind})"
            yield Finding(what, "ok", text)


def _results(trainings: Sequence[Run], planned: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[Finding]:
    seen: set[Any] = set()
    for run in trainings:
        plans = planned.get((run.dataset, run.row))
        if plans is None or run.model_folder in seen:
            continue
        seen.add(run.model_folder)
        found = check_results(run, plans)
        if found is not None:
            yield found


def _cost(study: "Study", trainings: Sequence[Run], needs: Mapping[Key, StepNeed]) -> Cost:
    def need_of(run: Run) -> StepNeed:
        return needs.get((run.dataset, run.row, run.configuration), StepNeed())

    return cost_of(
        trainings,
        lambda run: need_of(run).epochs or named_trainer(run.trainer).attributes.get("epochs"),
        lambda run: need_of(run).checkpoint_bytes,
        [row.title for row in study.rows if row.pretrain is not None],
        study.test_set,
    )


def _disk(cost: Cost) -> Iterator[Finding]:
    if cost.disk_bytes is None:
        return
    text = f"checkpoints and predictions need about {_gb(cost.disk_bytes)}, {_gb(cost.free_bytes)} are free"
    if cost.disk_bytes > cost.free_bytes:
        yield Finding("disk", "problem", text, "free space, or let nnUNet_results name a folder on a larger disk")
    elif cost.disk_bytes > _FULL_DISK * cost.free_bytes:
        yield Finding("disk", "warning", text, "free some space")
    else:
        yield Finding("disk", "ok", text)


def _gb(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
