"""What a study consists of: one job for each step that can be done, or fail, on its own."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from nnunet_attn.study.evaluating import has_test_labels
from nnunet_attn.study.groups import Group, Model, groups, models, testing
from nnunet_attn.study.matrix import Run, runs

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study
    from nnunet_attn.study.rows import Row

Kind = Literal["plan", "preprocess", "plans", "pretrain", "train", "predict", "evaluate", "compare", "report"]
KINDS: tuple[Kind, ...] = (
    "plan",
    "preprocess",
    "plans",
    "pretrain",
    "train",
    "predict",
    "evaluate",
    "compare",
    "report",
)
TRAINED: tuple[Kind, ...] = ("plan", "preprocess", "plans", "pretrain", "train")
"""Kinds whose own files alone say whether they are done, whatever happened to what came before."""

CASCADE = "3d_cascade_fullres"  # nnU-Net knows no other; its first stage is 3d_lowres
_LONGEST = 180  # characters of a name; a log and a marker, with their endings, need less than 255 bytes


@dataclass(frozen=True)
class Job:
    """One step of a study.

    Args:
        name: Names its marker and its log: letters, digits and `_ . + -`. It depends on what the job does alone, so
            that a row that comes or goes, or is called otherwise, changes no other job's name.
        kind: What it does.
        needs: Names of jobs that have to be done before.
        text: What it is called in messages.
        dataset: `DatasetNNN_Name`; None: all.
        row: Title of the row it was first made for; rows that train the same share it.
        plans: Name of the plans that it makes, or preprocesses with.
        configuration: What it preprocesses for.
        run: What it trains, or pre-trains for: then any fold of the model.
        model: What it evaluates or predicts with.
        group: What it compares.
        settings: What decides its result beside the files that it reads, as JSON; empty where only these files do.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...]
    text: str
    dataset: str | None = None
    row: str | None = None
    plans: str | None = None
    configuration: str | None = None
    run: Run | None = None
    model: Model | None = None
    group: Group | None = None
    settings: str = ""


def jobs(study: "Study") -> tuple[Job, ...]:
    """Return all jobs of a study, done or not; what a job needs comes before it.

    Raises:
        InputError: As `nnunet_attn.study.matrix.runs`.
    """
    trainings = runs(study)
    found = _Jobs(study)
    for run in trainings:
        found.add_training(run, trainings)
    evaluations = {model: found.add_evaluation(model) for model in models(study)}
    tested = [each for model in evaluations for each in testing(model)] if study.test_set else []
    predictions = {model: found.add_prediction(model) for model in tested}
    for group in groups(study):
        found.add_comparison(group, [(predictions if group.test else evaluations)[model] for model in group.models])
    found.add_report([*evaluations.values(), *predictions.values()])
    return tuple(sorted(found.jobs.values(), key=lambda job: (KINDS.index(job.kind), job.configuration == CASCADE)))


def closure(wanted: Iterable[str], known: dict[str, Job], is_open: Callable[[str], bool]) -> set[str]:
    """Return the names of jobs that have to run so that some can: those themselves and, of what they need, the open."""
    found: set[str] = set()
    waiting = [name for name in wanted if is_open(name)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [need for need in known[name].needs if is_open(need)]
    return found


class _Jobs:
    """Collects jobs, each once."""

    def __init__(self, study: "Study") -> None:
        self.study = study
        self.jobs: dict[str, Job] = {}

    def _add(self, *parts: str, **fields: Any) -> str:
        job = Job(name=job_name(*parts), **fields)
        self.jobs.setdefault(job.name, job)
        return job.name

    def _plan(self, dataset: str, row: "Row") -> str:
        plans = self.study.plans_of(row)
        text = f"plan {dataset}, {plans}"
        return self._add("plan", dataset, plans, kind="plan", needs=(), text=text, dataset=dataset, plans=plans)

    def add_training(self, run: Run, others: tuple[Run, ...]) -> str:
        row = self.study.row_named(run.row)
        base = self.study.plans_of(row)
        plan = self._plan(run.dataset, row)
        shared: dict[str, Any] = {"dataset": run.dataset, "configuration": run.configuration}
        needs = [
            self._add(
                *("preprocess", run.dataset, base, run.configuration),
                kind="preprocess",
                needs=(plan,),
                text=f"preprocess {run.dataset}, {base}, {run.configuration}",
                plans=base,
                **shared,
            )
        ]
        if run.plans != base:
            text = f"plans {run.plans} of {run.dataset}"
            fields: dict[str, Any] = {"kind": "plans", "needs": (plan,), "text": text, "dataset": run.dataset}
            needs.append(self._add("plans", run.dataset, run.plans, row=run.row, plans=run.plans, **fields))
        if row.pretrain is not None:
            needs.append(
                self._add(
                    *("pretrain", run.dataset, run.trainer, run.plans, run.configuration),
                    kind="pretrain",
                    needs=tuple(needs),
                    text=f"pre-train {run.row}{_seed(run.seed)} on {row.pretrain.dataset or run.dataset}",
                    row=run.row,
                    run=run,
                    settings=row.pretrain.model_dump_json(),
                    **shared,
                )
            )
        needs += [_training_name(each) for each in others if _is_stage_before(each, run)]
        return self._add(
            *_training_parts(run),
            kind="train",
            needs=tuple(dict.fromkeys(needs)),
            text=f"train {run.row}{_seed(run.seed)}, fold {run.fold}, {run.dataset}, {run.configuration}",
            row=run.row,
            plans=run.plans,
            run=run,
            **shared,
        )

    def add_evaluation(self, model: Model) -> str:
        return self._add_of_model("evaluate", model, "evaluate")

    def add_prediction(self, model: Model) -> str:
        ensemble = self.study.row_named(model.row).ensemble
        more = [ensemble] if ensemble != "logits" else []
        return self._add_of_model("predict", model, "predict the test set with", *more)

    def _add_of_model(self, kind: Kind, model: Model, verb: str, *more: str) -> str:
        measured = {name: getattr(self.study, name) for name in ("metrics", "tolerance", "surface")}
        return self._add(
            *(kind, *_model_parts(model), *more),
            kind=kind,
            needs=_trainings(model),
            text=f"{verb} {model.text}, {model.dataset}, {model.configuration}",
            dataset=model.dataset,
            row=model.row,
            configuration=model.configuration,
            model=model,
            settings=_json(measured),
        )

    def add_comparison(self, group: Group, needs: list[str]) -> None:
        if len(group.rows) < 2 or (group.test and not has_test_labels(group.dataset)):
            return  # nothing to compare, or with nothing
        members = [[model.row, model.trainer, model.plans, list(model.folds)] for model in group.models]
        self._add(
            *("compare", group.name),
            kind="compare",
            needs=tuple(dict.fromkeys(needs)),
            text=f"compare {group.title}",
            dataset=group.dataset,
            configuration=group.configuration,
            group=group,
            settings=_json({"reference": group.reference, "models": members}),
        )

    def add_report(self, others: list[str]) -> None:
        comparisons = [name for name, job in self.jobs.items() if job.kind == "compare"]
        needs = tuple(dict.fromkeys([*others, *comparisons]))
        settings = _json(self.study.model_dump(mode="json"))
        self._add("report", kind="report", needs=needs, text="report", settings=settings)


def job_name(*parts: str) -> str:
    """Return the parts of a name as one that files and Snakemake can have; other parts give another one."""
    whole = "__".join(parts)
    safe = re.sub(r"[^A-Za-z0-9_.+-]", "-", whole)
    if safe == whole and len(safe) <= _LONGEST:
        return safe
    return f"{safe[:_LONGEST]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def pretrained_trainer(run: Run, epochs: int | None) -> str:
    """Return the name of the trainer that a run is pre-trained with: its own, for other epochs if a row says so."""
    if epochs is None:
        return run.trainer
    kept = [part for part in run.trainer.split("_") if not re.fullmatch(r"[1-9]\d*epochs", part)]
    return "_".join([kept[0], f"{epochs}epochs", *kept[1:]])


def without(job: Job, gone: set[str]) -> Job:
    """Return a job that does not need some others."""
    return replace(job, needs=tuple(need for need in job.needs if need not in gone))


def _is_stage_before(other: Run, run: Run) -> bool:
    """Whether a training's predictions are read by another's: the first stage of a cascade, in all of its folds."""
    is_stage = other.configuration == "3d_lowres" and run.configuration == CASCADE
    return is_stage and (other.dataset, other.trainer, other.plans) == (run.dataset, run.trainer, run.plans)


def _trainings(model: Model) -> tuple[str, ...]:
    return tuple(job_name("train", *_names(model), f"fold_{fold}") for fold in model.folds)


def _training_name(run: Run) -> str:
    return job_name(*_training_parts(run))


def _training_parts(run: Run) -> tuple[str, ...]:
    return ("train", *_names(run), f"fold_{run.fold}")


def _model_parts(model: Model) -> tuple[str, ...]:
    folds = f"folds_{'_'.join(map(str, model.folds))}"
    return (*_names(model), folds)


def _names(owner: Run | Model) -> tuple[str, str, str, str]:
    return owner.dataset, owner.trainer, owner.plans, owner.configuration


def _seed(seed: int | None) -> str:
    return "" if seed is None else f", seed {seed}"


def _json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
