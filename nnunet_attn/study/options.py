"""Plans of rows with options or pre-training: derived from others, for the same preprocessed data."""

import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_attn.errors import InputError
from nnunet_attn.study.matrix import dataset_name, nnunet_folder

if TYPE_CHECKING:
    from nnunet_attn.study.model import Row, Study

PLANS_KEY = "nnunet_attn"  # as nnunet_attn.training.extent.PLANS_KEY, whose import needs torch


def derived_plans_name(study: "Study", row: "Row") -> str:
    """Return the name of the plans that a row trains with.

    Those of the study or the row, unless it has options or is pre-trained. Then `PLANS_NETWORK_DIGEST`, so that other
    options have other results folders, and the same options the same one, whatever the row is called.
    """
    base = study.plans_of(row)
    network = row.parsed.network
    if network is None or not (row.options or row.pretrain):
        return base
    # nnU-Net does not show in its folders' names what weights a training started from
    content = {"options": row.options, "pretrain": None if row.pretrain is None else row.pretrain.model_dump()}
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
                f"{study.plans_of(row)} of {name} has no configuration {wanted}; there are {', '.join(configurations)}"
            )
    derived = derived_plans_name(study, row)
    network = row.parsed.network
    if derived == study.plans_of(row) or network is None:
        return plans
    made = {**plans, "plans_name": derived, "configurations": deepcopy(configurations)}
    if not row.options:
        return made
    for configuration in made["configurations"].values():
        if "inherits_from" in configuration and PLANS_KEY not in configuration:
            continue  # it has the entry of the one it inherits from
        entry = configuration.setdefault(PLANS_KEY, {})
        entry[network.name] = {**entry.get(network.name, {}), **row.options}
    return made


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
        raise InputError(
            f"{dataset} has no plans {file.stem} ({file}); run: nnUNetv2_plan_and_preprocess -d {int(dataset[7:10])}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); plan the data set again") from error
    configurations = plans.get("configurations") if isinstance(plans, dict) else None
    if not isinstance(configurations, dict) or not all(isinstance(each, dict) for each in configurations.values()):
        raise InputError(f"{file} is not nnU-Net's plans; plan the data set again")
    return plans
