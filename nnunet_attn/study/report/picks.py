"""Cases for figures: the worst, the median and the best of a group, and those that the study names."""

import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_attn.evaluation.compare_results import Comparison
from nnunet_attn.evaluation.results import LARGER_IS_BETTER, METRICS
from nnunet_attn.study.evaluating import Gathered, predictions_folder
from nnunet_attn.study.groups import Group, Model
from nnunet_attn.study.matrix import nnunet_folder
from nnunet_attn.study.report.model import CasePick, PickKind
from nnunet_attn.study.report.setup import DatasetInfo
from nnunet_attn.study.report.splits import channel_names, read_table

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study

Key = tuple[int | None, str]
"""Fold and case."""


@dataclass(frozen=True)
class CaseValues:
    """One metric of each case of a group.

    Args:
        metric: Its name.
        keys: Folds and cases.
        values: Title of a row -> one value each, the seeds averaged.
    """

    metric: str
    keys: tuple[Key, ...]
    values: Mapping[str, tuple[float, ...]]

    def of(self, key: Key) -> dict[str, float]:
        """Return row -> value of one case; empty for a case that is not there."""
        if key not in self.keys:
            return {}
        index = self.keys.index(key)
        return {row: own[index] for row, own in self.values.items()}


def case_values(comparison: Comparison | None, found: Gathered) -> CaseValues:
    """Return Dice of each case, or the first metric where Dice was not measured: the comparison's own figures.

    Args:
        comparison: None where a single row is finished; then its evaluations tell.
        found: What was evaluated.
    """
    if comparison is not None:
        metric = _chosen(comparison.metrics)
        return CaseValues(metric, comparison.keys, comparison.result(metric).values)
    from nnunet_attn.evaluation.aggregate import case_means

    first = next(iter(found.evaluations.values()))[0]
    metric = _chosen(first.settings.metrics)
    tables = {row: [case_means(each, metric) for each in own] for row, own in found.evaluations.items()}
    keys = tuple(
        sorted(
            set.intersection(*(set(each) for own in tables.values() for each in own)),
            key=lambda key: (-1 if key[0] is None else key[0], key[1]),
        )
    )
    values = {row: tuple(_mean([each[key] for each in own]) for key in keys) for row, own in tables.items()}
    return CaseValues(metric, keys, values)


def chosen_keys(values: CaseValues) -> list[tuple[PickKind, Key]]:
    """Return the worst, the median and the best case, by the mean over the rows; each case once.

    Cases without a value in some row are left out. Of an even number the median is the worse of the two in the middle.
    """
    means = []
    for index, key in enumerate(values.keys):
        own = [each[index] for each in values.values.values()]
        if own and not any(map(math.isnan, own)):
            means.append((statistics.fmean(own), -1 if key[0] is None else key[0], key[1], key))
    sign = 1 if LARGER_IS_BETTER[values.metric] else -1
    ordered = [each[-1] for each in sorted(means, key=lambda each: (sign * each[0], *each[1:3]))]
    if not ordered:
        return []
    if len(ordered) == 1:
        return [("median", ordered[0])]
    kinds: list[tuple[PickKind, Key]] = [("worst", ordered[0])]
    if len(ordered) > 2:
        kinds.append(("median", ordered[(len(ordered) - 1) // 2]))
    return [*kinds, ("best", ordered[-1])]


def picks(
    study: "Study", group: Group, found: Gathered | None, comparison: Comparison | None, dataset: DatasetInfo | None
) -> tuple[CasePick, ...]:
    """Return cases for figures with the files to show; named ones also where they are not compared yet.

    Args:
        study: Names cases.
        group: The group.
        found: What of it is evaluated; None if nothing is.
        comparison: What came of it; None if nothing.
        dataset: Its data set, whose splits tell which fold validates a case.
    """
    values = None if found is None else case_values(comparison, found)
    wanted: list[tuple[PickKind, Key]] = [] if values is None else chosen_keys(values)
    for key in _named(study, group, values, dataset):
        wanted.append(("named", key))
    made = (_pick(study, group, kind, key, values) for kind, key in wanted)
    return tuple(each for each in made if each is not None)


def _named(study: "Study", group: Group, values: CaseValues | None, dataset: DatasetInfo | None) -> Iterator[Key]:
    for case in study.cases:
        there = [key for key in ([] if values is None else values.keys) if key[1] == case]
        if there:
            yield there[0]
        elif group.test:
            yield None, case
        elif dataset is not None:
            folds = {fold for model in group.models for fold in model.folds}
            own = [split.fold for split in dataset.splits if split.fold in folds and case in split.validation]
            yield from ((fold, case) for fold in own[:1])


def _pick(study: "Study", group: Group, kind: PickKind, key: Key, values: CaseValues | None) -> CasePick | None:
    """A pick with its files; None if there is no reference, or nobody has predicted it."""
    fold, case = key
    raw = nnunet_folder("nnUNet_raw") / group.dataset
    described = read_table(raw / "dataset.json")
    predictions = {}
    for row in group.rows:
        file = _prediction(study, group.models_of(row), fold, case)
        if file is not None:
            predictions[row] = file
    ending = _ending(next(iter(predictions.values())), case) if predictions else ""
    reference = _reference(group, raw, f"{case}{ending}")
    if not predictions or reference is None:
        return None
    images, channels = _images(raw, described, case, ending, group.test)
    metric, own = (METRICS[0], {}) if values is None else (values.metric, values.of(key))
    return CasePick(kind, case, fold, metric, own, images, channels, reference, predictions)


def _prediction(study: "Study", models: Sequence[Model], fold: int | None, case: str) -> Path | None:
    """File of the first seed that has predicted a case."""
    for model in models:
        ending = read_table(model.folder / "dataset.json").get("file_ending")
        if not isinstance(ending, str):
            continue
        if fold is None:
            file = predictions_folder(study, model) / f"{case}{ending}"
        else:
            file = model.fold_folder(fold) / "validation" / f"{case}{ending}"
        if file.is_file():
            return file
    return None


def _reference(group: Group, raw: Path, name: str) -> Path | None:
    if group.test:
        folders = [raw / "labelsTs"]
    else:
        folders = [nnunet_folder("nnUNet_preprocessed") / group.dataset / "gt_segmentations", raw / "labelsTr"]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _images(
    raw: Path, described: Mapping[str, object], case: str, ending: str, test: bool
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The files of a case's image with the names of their channels; none if they are not there."""
    names = channel_names(described)
    listed = described.get("dataset")
    entry = listed.get(case) if isinstance(listed, dict) and not test else None
    if isinstance(entry, dict) and isinstance(entry.get("images"), list):  # nnU-Net lets dataset.json name the files
        files = [raw / os.path.expandvars(str(file)) for file in entry["images"]]  # as nnU-Net reads them
    else:
        folder = raw / ("imagesTs" if test else "imagesTr")
        files = [folder / f"{case}_{channel:04d}{ending}" for channel in range(max(1, len(names)))]
    there = tuple(file for file in files if file.is_file())
    if there == tuple(files[:1]) and len(names) > 1:  # a colour image has all channels
        return there, (", ".join(names),)
    if len(there) < len(files):
        return (), ()
    return there, names if len(names) == len(there) else tuple(f"channel {number}" for number in range(len(there)))


def _ending(file: Path, case: str) -> str:
    return file.name.removeprefix(case)


def _chosen(metrics: Sequence[str]) -> str:
    return "dice" if "dice" in metrics else metrics[0]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan
