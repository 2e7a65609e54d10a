"""All trainings of a study: data sets x rows x configurations x folds x seeds."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_attn.errors import InputError
from nnunet_attn.paths import NNUNET_FOLDERS

if TYPE_CHECKING:
    from nnunet_attn.study.model import Row, Study


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        dataset: `DatasetNNN_Name`.
        row: Title of its row.
        trainer: Full name, with the study's budget and the seed.
        plans: Name of the plans; of derived ones, if the row has options or is pre-trained.
        configuration: For example `3d_fullres`.
        fold: Its number in splits_final.json.
        seed: None: none is set.
        labels: Labelled cases of the fold, in a row with `labels`.
    """

    dataset: str
    row: str
    trainer: str
    plans: str
    configuration: str
    fold: int
    seed: int | None = None
    labels: int | None = None

    @property
    def model_folder(self) -> Path:
        """nnU-Net's folder of this trainer, plans and configuration.

        Raises:
            InputError: If nnUNet_results is not set.
        """
        name = f"{self.trainer}__{self.plans}__{self.configuration}"
        return nnunet_folder("nnUNet_results") / self.dataset / name

    @property
    def fold_folder(self) -> Path:
        """The folder of this training; raises as `model_folder`."""
        return self.model_folder / f"fold_{self.fold}"


def runs(study: "Study") -> tuple[Run, ...]:
    """Return all trainings, by data set, row, configuration, seed and fold.

    Rows that differ in how they predict the test set alone share their trainings: the same folders, other rows.

    Raises:
        InputError: If a data set is not in nnU-Net's folders, or has no folds with a row's numbers of labels: all that
            is missing, one a line.
    """
    from nnunet_attn.study.options import derived_plans_name

    found: list[Run] = []
    missing: dict[str, None] = {}  # in order, each once
    for text in study.datasets:
        try:
            dataset = dataset_name(text)
        except InputError as error:
            missing[str(error)] = None
            continue
        for row in study.rows:
            try:
                folds = _folds(study, row, dataset)
            except InputError as error:
                missing[str(error)] = None
                continue
            plans = derived_plans_name(study, row)
            found += [
                Run(dataset, row.title, trainer, plans, configuration, fold, seed, labels)
                for configuration in study.configurations_of(row)
                for trainer, seed in _trainers(study, row)
                for fold, labels in folds
            ]
    if missing:
        raise InputError("\n".join(missing))
    return tuple(found)


def trainer_of(study: "Study", row: "Row", seed: int | None = None) -> str:
    """Return the full name of a row's trainer: as it was given, then `_<N>epochs`, `_<N>its`, `_save<N>`, `_seed<N>`.

    What the name says already is not added again.
    """
    told = row.parsed.attributes
    budget = study.budget
    parts = [row.trainer]
    if budget is not None and budget.epochs is not None and "epochs" not in told:
        parts.append(f"{budget.epochs}epochs")
    if budget is not None and budget.iterations is not None and "iterations_per_epoch" not in told:
        parts.append(f"{budget.iterations}its")
    if budget is not None and budget.save is not None and "epochs_between_saves" not in told:
        parts.append(f"save{budget.save}")
    if seed is not None and "seed" not in told:
        parts.append(f"seed{seed}")
    return "_".join(parts)


def dataset_name(text: str) -> str:
    """Return the full name of a data set in any of nnU-Net's folders.

    Args:
        text: Number or name.
    Raises:
        InputError: If there is none, or several have the number.
    """
    folders = [Path(value) for variable in NNUNET_FOLDERS if (value := os.environ.get(variable))]
    if not folders:
        raise InputError("nnU-Net's folders are not set; see: nnunet-attn doctor")
    is_number = text.isdecimal()
    there = {path.name for folder in folders if folder.is_dir() for path in folder.glob("Dataset*_*") if path.is_dir()}
    names = sorted(
        name for name in there if (name.startswith(f"Dataset{int(text):03d}_") if is_number else name == text)
    )
    if not names:
        raise InputError(
            f"data set {text}: nnU-Net's folders have none of this {'number' if is_number else 'name'}; correct it, "
            "or register it: nnunet-attn register"
        )
    if len(names) > 1:
        raise InputError(f"data set {text}: {' and '.join(names)} have this number; give the name")
    return names[0]


def nnunet_folder(variable: str) -> Path:
    """Return one of nnU-Net's folders.

    Raises:
        InputError: If its variable is not set.
    """
    value = os.environ.get(variable)
    if not value:
        raise InputError(f"{variable} is not set; set nnU-Net's three folders (see: nnunet-attn doctor)")
    return Path(value)


def _trainers(study: "Study", row: "Row") -> Iterable[tuple[str, int | None]]:
    if not study.seeds:
        own: int | None = row.parsed.attributes.get("seed")
        return [(trainer_of(study, row), own)]
    return [(trainer_of(study, row, seed), seed) for seed in study.seeds]


def _folds(study: "Study", row: "Row", dataset: str) -> list[tuple[int, int | None]]:
    """Folds and their numbers of labels."""
    if not row.labels:
        return [(fold, None) for fold in study.folds]
    from nnunet_attn.datasets.splits_files import recorded_folds

    recorded = [
        each for each in recorded_folds(nnunet_folder("nnUNet_preprocessed") / dataset) if each.kind == "reduced"
    ]
    found = [(each.fold, number) for number in row.labels for each in recorded if each.settings.get("labels") == number]
    lost = [number for number in row.labels if number not in {labels for _, labels in found}]
    if lost:
        given = int(re.sub(r"\D", "", dataset[7:10]))
        raise InputError(
            f"{dataset} has no fold with {', '.join(map(str, lost))} labels; make it: "
            f"nnunet-attn splits -d {given} --labels {' '.join(map(str, lost))}"
        )
    return list(dict.fromkeys(found))
