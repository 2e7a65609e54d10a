"""What of a study is compared with what: models (all folds of a training), and groups of them on the same cases."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_attn.study.matrix import Run, nnunet_folder, runs

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study


@dataclass(frozen=True)
class Model:
    """All folds of one row that are evaluated, or predict test cases, together: those of one seed.

    Of folds with few labels each predicts test cases for itself: it is a draw of its own, and together they would have
    learnt from more labels.

    Args:
        dataset: `DatasetNNN_Name`.
        row: Title of its row.
        trainer: Full name, with the study's budget and the seed.
        plans: Name of the plans.
        configuration: For example `3d_fullres`.
        seed: None: none is set.
        labels: Labelled cases of each fold, in a row with `labels`.
        folds: Their numbers in splits_final.json, in order.
    """

    dataset: str
    row: str
    trainer: str
    plans: str
    configuration: str
    seed: int | None
    labels: int | None
    folds: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """nnU-Net's folder of this trainer, plans and configuration; need not exist.

        Raises:
            InputError: If nnUNet_results is not set.
        """
        name = f"{self.trainer}__{self.plans}__{self.configuration}"
        return nnunet_folder("nnUNet_results") / self.dataset / name

    def fold_folder(self, fold: int) -> Path:
        """Return the folder of one of its trainings; raises as `folder`."""
        return self.folder / f"fold_{fold}"

    @property
    def text(self) -> str:
        """What it is called in messages: its row, with the seed where one is set, and the draw of few labels."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        draw = f", fold {self.folds[0]}" if self.labels is not None and len(self.folds) == 1 else ""
        return f"{self.row}{seed}{draw}"


@dataclass(frozen=True)
class Group:
    """Models that are compared with each other: on one data set, in one cross-validation or on the test cases.

    Args:
        name: Names a folder; no other group of the study has it, in capital letters or small ones.
        dataset: `DatasetNNN_Name`.
        configuration: Of the study; rows with a configuration of their own join each of them. Where all rows have one,
            all of these, joined by `+`.
        labels: Labelled cases of each fold; None: the study's folds.
        test: Whether on the cases of `imagesTs`, else on the validation cases.
        models: In the order of the rows, then of the seeds.
        reference: Title of the row that the others are compared with: the study's, else the first of the group.
    """

    name: str
    dataset: str
    configuration: str
    labels: int | None
    test: bool
    models: tuple[Model, ...]
    reference: str

    @property
    def rows(self) -> tuple[str, ...]:
        """Titles of its rows, in their order."""
        return tuple(dict.fromkeys(model.row for model in self.models))

    def models_of(self, row: str) -> tuple[Model, ...]:
        """Return the models of a row, one a seed; on test cases with few labels one a seed and draw."""
        return tuple(model for model in self.models if model.row == row)

    @property
    def title(self) -> str:
        """What it is called above its table."""
        parts = [self.dataset, self.configuration]
        parts += [f"{self.labels} labelled cases"] if self.labels is not None else []
        return ", ".join([*parts, "test set" if self.test else "cross-validation"])


def models(study: "Study", trainings: Sequence[Run] | None = None) -> tuple[Model, ...]:
    """Return all models of a study, in the order of its `runs`; raises as these.

    Args:
        study: The study.
        trainings: Some of its runs; all by default.
    """
    folds: dict[Model, list[int]] = {}
    for run in runs(study) if trainings is None else trainings:
        key = Model(run.dataset, run.row, run.trainer, run.plans, run.configuration, run.seed, run.labels, ())
        folds.setdefault(key, []).append(run.fold)
    return tuple(replace(key, folds=tuple(sorted(own))) for key, own in folds.items())


def testing(model: Model) -> tuple[Model, ...]:
    """Return the models that predict test cases in its place: itself, or with few labels each of its draws."""
    if model.labels is None:
        return (model,)
    return tuple(replace(model, folds=(fold,)) for fold in model.folds)


def groups(study: "Study", trainings: Sequence[Run] | None = None) -> tuple[Group, ...]:
    """Return what is compared: by data set, configuration and number of labels; with `test_set` the test cases, too.

    A group may have one row alone, which nothing can be compared with.

    Args:
        study: The study.
        trainings: Some of its runs; all by default.
    Raises:
        InputError: As `nnunet_attn.study.matrix.runs`.
    """
    everything = models(study, trainings)
    own = {row.title: row.configuration for row in study.rows if row.configuration}
    if len(own) == len(study.rows):
        wanted = [("+".join(dict.fromkeys(own.values())), set(own.values()))]
    else:
        wanted = [(name, {name}) for name in study.configurations]
    found: list[Group] = []
    for dataset in dict.fromkeys(model.dataset for model in everything):
        for configuration, members in wanted:
            joined = [
                model
                for model in everything
                if model.dataset == dataset and (model.configuration in members or model.row in own)
            ]
            for labels in _sorted(model.labels for model in joined):
                some = tuple(model for model in joined if model.labels == labels)
                reference = study.reference if any(m.row == study.reference for m in some) else some[0].row
                for test in (False, True) if study.test_set else (False,):
                    name = _name(dataset, configuration, labels, test)
                    own_models = tuple(each for model in some for each in testing(model)) if test else some
                    found.append(Group(name, dataset, configuration, labels, test, own_models, reference))
    return _named_once(found)


def _sorted(labels: Iterable[int | None]) -> list[int | None]:
    """Each number once: none first, then the largest."""
    return sorted(dict.fromkeys(labels), key=lambda each: (each is not None, -(each or 0)))


def _name(dataset: str, configuration: str, labels: int | None, test: bool) -> str:
    parts = [dataset, configuration, *([f"{labels}labels"] if labels is not None else []), *(["test"] if test else [])]
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", "__".join(parts))


def _named_once(found: list[Group]) -> tuple[Group, ...]:
    """Give groups whose names differ by case alone, or by letters that were replaced, a number."""
    seen: dict[str, int] = {}
    named = []
    for group in found:
        count = seen[group.name.lower()] = seen.get(group.name.lower(), 0) + 1
        named.append(group if count == 1 else replace(group, name=f"{group.name}-{count}"))
    return tuple(named)
