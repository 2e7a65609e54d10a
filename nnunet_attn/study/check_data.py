"""Checks of what a study's trainings read: data sets, plans, preprocessed cases, splits; and of results in the way."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.errors import InputError
from nnunet_attn.study.engine.preparing import PLANNERS, check_planner
from nnunet_attn.study.findings import Finding
from nnunet_attn.study.matrix import Run, nnunet_folder
from nnunet_attn.study.options import PLANS_KEY, derived_plans, resolved

if TYPE_CHECKING:
    from nnunet_attn.study.model import Row, Study

NNUNET_FOLDS = 5  # of the splits that nnU-Net makes where there are none


def check_dataset(study: "Study", name: str) -> Iterator[Finding]:
    """Check that a data set is registered, that its splits have the study's folds, and its test set.

    One that is registered and not planned is no problem: `study run` plans it.

    Args:
        study: The study.
        name: `DatasetNNN_Name`.
    """
    raw, folder = nnunet_folder("nnUNet_raw") / name, nnunet_folder("nnUNet_preprocessed") / name
    if not (folder / "dataset.json").is_file():
        if not (raw / "dataset.json").is_file():
            yield Finding(name, "problem", f"not registered: {raw} has no dataset.json", "nnunet-attn register --help")
            return
        yield Finding(name, "ok", "registered")
        if study.test_set:
            yield _test_set(name, raw)
        return
    try:
        _json(folder / "dataset.json")
    except InputError as error:
        yield Finding(name, "problem", str(error), _plan(name))
        return
    yield Finding(name, "ok", "registered and planned")
    if study.test_set:
        yield _test_set(name, raw)
    yield from _splits(study, name, folder)


def check_plans(study: "Study", row: "Row", name: str) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Return the plans that a row trains with on a data set, None if there are none, and what was found about them.

    Checks that they are there or can be made by `study run`, that the data are preprocessed for each configuration, and
    that the first stage of a cascade is known.
    """
    what = f"{row.title} on {name}"
    origin = study.plans_of(row)
    try:
        if not is_planned(name, origin):
            check_planner(name, origin)
            text = "not planned yet: study run does it, but networks, memory and disk cannot be checked before"
            return None, [Finding(f"{name}, {origin}", "warning", text, f"{_plan(name, origin)}, then check again")]
        plans = derived_plans(study, row, name)
    except InputError as error:
        has_remedy = "run: " in str(error) or "correct configurations" in str(error)
        return None, [Finding(what, "problem", str(error), "" if has_remedy else _plan(name))]
    findings = []
    for configuration in study.configurations_of(row):
        try:
            entry = resolved(plans, configuration)
        except InputError as error:
            findings.append(Finding(what, "problem", str(error), _plan(name)))
            continue
        findings += _preprocessed(name, origin, configuration, entry)
        stage = entry.get("previous_stage")
        if stage is not None and stage not in study.configurations_of(row):
            text = f"{configuration} reads what {stage} has predicted, and the study does not train that for this row"
            findings.append(Finding(what, "warning", text, f"add {stage} to configurations, before {configuration}"))
    return plans, findings


def check_results(run: Run, plans: Mapping[str, Any]) -> Finding | None:
    """Return the problem that earlier results in a run's folder were made with other plans; None if they were not.

    Args:
        run: One training.
        plans: The plans that it trains with.
    """
    file = run.model_folder / "plans.json"
    if not file.is_file():
        return None
    what = f"{run.row} on {run.dataset}"
    away = f"move {run.model_folder} away, or give the study's plans another name"
    try:
        there, wanted = resolved(_json(file), run.configuration), resolved(plans, run.configuration)
    except InputError as error:
        return Finding(what, "problem", f"results in the way: {error}", away)
    asked = wanted.get(PLANS_KEY, {})
    there, wanted = _without_notes(there, asked), _without_notes(wanted, asked)
    differing = sorted(key for key in {*there, *wanted} if there.get(key) != wanted.get(key))
    if not differing:
        return None
    text = f"{run.model_folder} has results of other plans: {', '.join(differing)} differ in {run.configuration}"
    return Finding(what, "problem", text, away)


def check_cases(study: "Study", names: list[str]) -> Iterator[Finding]:
    """Check that the cases which a study names for its figures are in its data sets."""
    there: set[str] = set()
    for name in names:
        folder = nnunet_folder("nnUNet_preprocessed") / name / "gt_segmentations"
        raw = [nnunet_folder("nnUNet_raw") / name / each for each in ("labelsTr", "labelsTs")]
        there |= {path.name.split(".")[0] for each in (folder, *raw) if each.is_dir() for path in each.iterdir()}
    lost = [case for case in study.cases if case not in there]
    if lost:
        text = f"{', '.join(lost)}: no labels of this name in {', '.join(names)}"
        yield Finding("cases", "warning", text, "correct the names in cases")


def _without_notes(entry: Mapping[str, Any], asked: Any) -> dict[str, Any]:
    """An entry without what trainers write into the plans of their results where nobody has decided it."""
    told, asked = ({} if not isinstance(each, Mapping) else each for each in (entry.get(PLANS_KEY), asked))
    options: dict[str, dict[str, Any]] = {}
    for network in NETWORKS:
        notes = [
            name for name in network.trainer_options if (asked.get(network.name) or {}).get(name, "auto") == "auto"
        ]
        kept = {name: value for name, value in (told.get(network.name) or {}).items() if name not in notes}
        if kept:
            options[network.name] = kept
    return {**entry, PLANS_KEY: options}


def _preprocessed(name: str, plans_name: str, configuration: str, entry: Mapping[str, Any]) -> Iterator[Finding]:
    folder = nnunet_folder("nnUNet_preprocessed") / name
    what, data = f"{name}, {configuration}", folder / str(entry.get("data_identifier"))
    wanted = _json(folder / "dataset.json").get("numTraining")
    count = sum(1 for _ in data.glob("*.pkl")) if data.is_dir() else 0
    if not count:
        yield Finding(what, "ok", "not preprocessed yet: study run does it")
    elif isinstance(wanted, int) and count < wanted:
        text = f"{data} has {count} of {wanted} cases: study run preprocesses all again"
        remedy = f"nnUNetv2_preprocess -d {_number(name)} -plans_name {plans_name} -c {configuration}"
        yield Finding(what, "warning", text, f"wait, if it is being preprocessed; else {remedy}")
    else:
        yield Finding(what, "ok", f"{count} cases preprocessed")


def _splits(study: "Study", name: str, folder: Path) -> Iterator[Finding]:
    file = folder / "splits_final.json"
    wanted = [] if all(row.labels for row in study.rows) else list(study.folds)
    number = NNUNET_FOLDS
    if file.is_file():
        from nnunet_attn.datasets.splits_files import read_splits

        try:
            number = len(read_splits(file))
        except InputError as error:
            yield Finding(f"{name}, splits", "problem", str(error))
            return
    lost = [fold for fold in wanted if fold >= number]
    where = str(file) if file.is_file() else "the splits that nnU-Net will make"
    if lost:
        text = f"{where} have {number} folds, 0 to {number - 1}, but not {', '.join(map(str, lost))}"
        yield Finding(
            f"{name}, splits", "problem", text, f"nnunet-attn splits -d {_number(name)} --help, or folds less"
        )
        return
    cases = _json(folder / "dataset.json").get("numTraining")
    if not file.is_file() and isinstance(cases, int) and cases < NNUNET_FOLDS:
        text = f"{cases} cases are too few for nnU-Net's {NNUNET_FOLDS} folds"
        yield Finding(f"{name}, splits", "problem", text, f"nnunet-attn splits -d {_number(name)} --folds {cases}")
        return
    yield Finding(f"{name}, splits", "ok", f"{number} folds in {where}")


def _test_set(name: str, raw: Path) -> Finding:
    images, labels = raw / "imagesTs", raw / "labelsTs"
    if not images.is_dir() or not any(images.iterdir()):
        return Finding(f"{name}, test set", "problem", f"{images} has no images", "put them there, or test_set: false")
    if not labels.is_dir() or not any(labels.iterdir()):
        return Finding(f"{name}, test set", "warning", f"{labels} has no labels: it can be predicted, not evaluated")
    return Finding(f"{name}, test set", "ok", f"images and labels in {raw}")


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged")
    return content


def is_planned(name: str, plans: str) -> bool:
    """Return whether nnU-Net has made plans of a name for a data set."""
    folder = nnunet_folder("nnUNet_preprocessed") / name
    return all((folder / file).is_file() for file in ("dataset.json", f"{plans}.json"))


def _plan(name: str, plans: str = "nnUNetPlans") -> str:
    planner = PLANNERS.get(plans)
    return f"nnUNetv2_plan_and_preprocess -d {_number(name)}{f' -pl {planner}' if planner else ''}"


def _number(name: str) -> str:
    return str(int(name[7:10])) if name[7:10].isdecimal() else name
