"""Plans of rows with options, pre-training or a budget of sizes: derived from others, for the same data."""

import hashlib
import json
import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_attn.errors import InputError
from nnunet_attn.study.matrix import dataset_name, nnunet_folder

if TYPE_CHECKING:
    from nnunet_attn.study.model import Row, Study

PLANS_KEY = "nnunet_attn"  # as nnunet_attn.training.extent.PLANS_KEY, whose import needs torch
FEATURES_STEP = 8


def derived_plans_name(study: "Study", row: "Row") -> str:
    """Return the name of the plans that a row trains with.

    Those of the study or the row, unless it has options, is pre-trained, or the study's budget has a width or a batch
    size. Then `PLANS_NETWORK_DIGEST`, so that other options have other results folders, and the same options the same
    one, whatever the row is called.
    """
    base = study.plans_of(row)
    network, sizes = row.parsed.network, _sizes(study)
    if network is None or not (row.options or row.pretrain or sizes):
        return base
    # nnU-Net does not show in its folders' names what weights a training started from
    content = {"options": row.options, "pretrain": None if row.pretrain is None else row.pretrain.model_dump(), **sizes}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    kind = f"{network.name}Pretrained" if row.pretrain else network.name
    return f"{base}_{kind}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def derived_plans(study: "Study", row: "Row", dataset: str) -> dict[str, Any]:
    """Return the plans that a row trains with, for a data set that is planned; nothing is written.

    All configurations keep their `data_identifier`, so that nothing is preprocessed again.

    Args:
        study: The study.
        row: One of its rows.
        dataset: Number or name of the data set.
    Raises:
        InputError: If the plans are missing or broken, or have not the row's configurations.
    """
    name = dataset_name(dataset)
    plans = _read(nnunet_folder("nnUNet_preprocessed") / name / f"{study.plans_of(row)}.json", name)
    configurations = plans["configurations"]
    for wanted in study.configurations_of(row):
        if wanted not in configurations:
            raise InputError(
                f"{study.plans_of(row)} of {name} has no configuration {wanted}; "
                f"there are {', '.join(configurations)}: correct configurations"
            )
    derived = derived_plans_name(study, row)
    network = row.parsed.network
    if derived == study.plans_of(row) or network is None:
        return plans
    made = {**plans, "plans_name": derived, "configurations": deepcopy(configurations)}
    if sizes := _sizes(study):
        for wanted in study.configurations_of(row):
            if "width" in sizes and _features(resolved(plans, wanted)) is None:
                raise InputError(
                    f"{study.plans_of(row)} of {name} do not say the features of {wanted}, so that budget.width cannot "
                    "change them; plan the data set again, or leave out width"
                )
        for entry in made["configurations"].values():
            _resize(entry, **sizes)
    if not row.options:
        return made
    for configuration in made["configurations"].values():
        if "inherits_from" in configuration and PLANS_KEY not in configuration:
            continue  # it has the entry of the one it inherits from
        entry = configuration.setdefault(PLANS_KEY, {})
        entry[network.name] = {**entry.get(network.name, {}), **row.options}
    return made


def resolved(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Return an entry of the plans with what it inherits.

    Raises:
        InputError: If the configuration, or one that it inherits from, is not there.
    """
    entries: Any = plans.get("configurations", {})
    entry: dict[str, Any] = {}
    seen: list[str] = []
    name: str | None = configuration
    while name is not None:
        if name in seen or not isinstance(entries, Mapping) or not isinstance(entries.get(name), Mapping):
            raise InputError(f"the plans {plans.get('plans_name')} have no configuration {name}")
        seen.append(name)
        entry = {**entries[name], **entry}
        name = entries[name].get("inherits_from")
    entry.pop("inherits_from", None)
    return entry


def _sizes(study: "Study") -> dict[str, Any]:
    """What the budget says about plans; nothing where it says nothing, so that digests stay what they were."""
    if study.budget is None:
        return {}
    return study.budget.model_dump(include={"width", "batch_size"}, exclude_none=True)


def _features(entry: Mapping[str, Any]) -> list[int] | None:
    found = entry.get("architecture", {}).get("arch_kwargs", {}).get("features_per_stage")
    return found if isinstance(found, list) else None


def _resize(entry: dict[str, Any], width: float | None = None, batch_size: int | None = None) -> None:
    """Change what an entry of the plans says itself; what it inherits is changed where it stands."""
    if width is not None and (features := _features(entry)) is not None:
        entry["architecture"]["arch_kwargs"]["features_per_stage"] = [scaled_features(n, width) for n in features]
    if batch_size is not None and "batch_size" in entry:
        entry["batch_size"] = batch_size


def scaled_features(features: int, width: float) -> int:
    """Return a stage's features times a factor, as the nearest multiple of 8, at least 8.

    Attention at the bottleneck shares its channels among heads, and group norm among groups.
    """
    return max(FEATURES_STEP, math.floor(features * width / FEATURES_STEP + 0.5) * FEATURES_STEP)


def write_derived_plans(study: "Study", row: "Row", dataset: str) -> Path:
    """Write the plans that a row trains with beside their origin, unless they are there, and return the file.

    Raises:
        InputError: As `derived_plans`; if plans of this name and other content are there, which are never overwritten;
            or if the file cannot be written.
    """
    from nnunet_attn.planning.derived import write_plans

    plans = derived_plans(study, row, dataset)
    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(dataset)
    file = folder / f"{derived_plans_name(study, row)}.json"
    if file.exists():
        if _read(file, folder.name) != plans:
            raise InputError(
                f"{file} is there with another content than {study.plans_of(row)} and the options of {row.title!r} "
                "give: one of the two was changed since; remove the file, and results that were trained with it"
            )
        return file
    try:
        return write_plans(plans, folder)
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror}): free or allow it") from error


def _read(file: Path, dataset: str) -> dict[str, Any]:
    try:
        plans = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        from nnunet_attn.study.engine.preparing import PLANNERS

        planner = f" -pl {PLANNERS[file.stem]}" if PLANNERS.get(file.stem) else ""
        raise InputError(
            f"{dataset} has no plans {file.stem} ({file}); run: nnUNetv2_plan_and_preprocess -d {int(dataset[7:10])}"
            f"{planner}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); plan the data set again") from error
    configurations = plans.get("configurations") if isinstance(plans, dict) else None
    if not isinstance(configurations, dict) or not all(isinstance(each, dict) for each in configurations.values()):
        raise InputError(f"{file} is not nnU-Net's plans; plan the data set again")
    return plans
