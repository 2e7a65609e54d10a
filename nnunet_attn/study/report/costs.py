"""What each row costs: parameters, operations, memory of a training step, time of an epoch, hours of all trainings."""

import hashlib
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_attn.errors import InputError
from nnunet_attn.study.matrix import nnunet_folder, trainer_of
from nnunet_attn.study.memory import StepNeed, StepTask, examine_steps
from nnunet_attn.study.options import derived_plans
from nnunet_attn.study.report.model import CostInfo, RunInfo
from nnunet_attn.study.report.splits import read_table

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study
    from nnunet_attn.study.rows import Row

COMMAND = (sys.executable, "-m", "nnunet_attn.study.report.cost_step")

Examine = Callable[[Sequence[StepTask]], Sequence[StepNeed]]
Key = tuple[str, str, str]
"""Data set, title of the row, configuration."""


@dataclass(frozen=True)
class Needs:
    """What was found out about the training step of each row.

    Args:
        found: Of those that could be asked for.
        tasks: What was asked.
        unknown: Why the others could not.
    """

    found: Mapping[Key, StepNeed]
    tasks: Mapping[Key, StepTask]
    unknown: Mapping[Key, str]


def examined(tasks: Sequence[StepTask]) -> tuple[StepNeed, ...]:
    """Find out parameters, operations and memory in a process of its own; on a GPU, where there is one, by steps."""
    return examine_steps(tasks, command=COMMAND)


def needs_of(study: "Study", runs: Sequence[RunInfo], cache: Path | None = None, examine: Examine = examined) -> Needs:
    """Return what a training step of each row needs.

    Args:
        study: The study.
        runs: Its trainings; what lies beside their results is taken where the data set is not planned here.
        cache: File that keeps answers with all figures; None: none is kept.
        examine: What finds them out.
    """
    tasks: dict[Key, StepTask] = {}
    unknown: dict[Key, str] = {}
    for each in runs:
        key = (each.run.dataset, each.run.row, each.run.configuration)
        if key in tasks:
            continue
        try:
            tasks[key] = _task(study, study.row_named(each.run.row), each)
            unknown.pop(key, None)
        except InputError as error:
            unknown[key] = str(error)
    answers = _cached(list(tasks.values()), cache, examine) if tasks else ()
    return Needs(dict(zip(tasks, answers, strict=True)), tasks, unknown)


def costs(needs: Needs, runs: Sequence[RunInfo]) -> tuple[CostInfo, ...]:
    """Return one entry for each data set, row and configuration, in the order of the trainings."""
    found = []
    for key in dict.fromkeys((each.run.dataset, each.run.row, each.run.configuration) for each in runs):
        own = [each for each in runs if (each.run.dataset, each.run.row, each.run.configuration) == key]
        need = needs.found.get(key)
        unknown = needs.unknown.get(key) if need is None else need.problem or need.unknown
        batch = next((each.facts.batch_size for each in own if each.facts.batch_size), None)
        if batch is None and key in needs.tasks:
            batch = _planned_batch(needs.tasks[key])
        seconds = [epoch.seconds for each in own for epoch in each.epochs if epoch.seconds is not None]
        hours = [_hours(each) for each in own]
        known = [each for each in hours if each is not None]
        found.append(
            CostInfo(
                *key,
                parameters=None if need is None else need.parameters,
                flops=None if need is None else need.flops,
                input_shape=None if need is None or need.input_shape is None else tuple(need.input_shape),
                batch_size=batch,
                epoch_seconds=statistics.median(seconds) if seconds else None,
                iterations=next((each.facts.iterations for each in own if each.facts.iterations), None),
                peak_bytes=None if need is None else need.peak_bytes,
                peak_is_measured=need is not None and need.measured,
                device_hours=sum(known) if known else None,
                devices=tuple(dict.fromkeys(each.facts.device for each in own if each.facts.device)),
                trainings=len(known),
                hours_are_complete=len(known) == len(own)
                and all(each.state.kind == "done" and not each.facts.distributed for each in own),
                unknown=unknown,
            )
        )
    return tuple(found)


def _hours(each: RunInfo) -> float | None:
    """Of epochs and validation; of several GPUs at least this, since nothing tells how many they are."""
    if each.facts.epoch_seconds is None:
        return None
    return (each.facts.epoch_seconds + (each.facts.validation_seconds or 0.0)) / 3600


def _task(study: "Study", row: "Row", each: RunInfo) -> StepTask:
    """The task of a row, by the plans that it trains with; else by those beside its results.

    Raises:
        InputError: If neither is there.
    """
    run = each.run
    dataset = read_table(nnunet_folder("nnUNet_preprocessed") / run.dataset / "dataset.json")
    dataset = dataset or read_table(run.model_folder / "dataset.json")
    try:
        plans = derived_plans(study, row, run.dataset)
    except InputError:
        plans = read_table(run.model_folder / "plans.json")
        if not plans:
            raise
    if not dataset:
        raise InputError(f"{run.dataset} is not planned here, and nothing of it is trained")
    # the seed changes nothing of it, and one answer serves all
    return StepTask(trainer_of(study, row), plans, run.configuration, dataset, study.device)


def _planned_batch(task: StepTask) -> int | None:
    from nnunet_attn.study.check_data import resolved

    with suppress(InputError):
        batch = resolved(task.plans, task.configuration).get("batch_size")
        return batch if isinstance(batch, int) else None
    return None


def _cached(tasks: Sequence[StepTask], cache: Path | None, examine: Examine) -> tuple[StepNeed, ...]:
    """Ask for what the cache does not know; answers without figures are not kept."""
    from nnunet_attn.study.report.hardware import this_machine, versions

    place = {"versions": versions(), "gpu": this_machine().gpu}
    keys = [_digest({**place, "task": vars(task)}) for task in tasks]
    known: dict[str, Any] = {} if cache is None else read_table(cache)
    waiting = [(key, task) for key, task in zip(keys, tasks, strict=True) if _need(known.get(key)) is None]
    if waiting:
        for (key, _), need in zip(waiting, examine([task for _, task in waiting]), strict=True):
            known[key] = asdict(need)
        if cache is not None:
            _write(cache, {key: own for key, own in known.items() if _is_whole(own)})
    return tuple(_need(known[key]) or StepNeed() for key in keys)


def _need(content: Any) -> StepNeed | None:
    """What a cache holds; None if that is something else."""
    if not isinstance(content, dict) or set(content) != set(StepNeed.__dataclass_fields__):
        return None
    shape = content["input_shape"]
    return StepNeed(**{**content, "input_shape": None if shape is None else tuple(shape)})


def _is_whole(content: Any) -> bool:
    return isinstance(content, dict) and None not in (content.get("flops"), content.get("peak_bytes"))


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _write(cache: Path, content: Mapping[str, Any]) -> None:
    """Write under a temporary name, then rename; a cache that cannot be written is done without."""
    partial = cache.with_name(f".{cache.name}.{os.getpid()}.part")
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(partial, cache)
    with suppress(OSError):
        partial.unlink(missing_ok=True)
