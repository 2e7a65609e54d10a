"""Data sets of a study: what they hold, and which cases each fold trains and validates with."""

import json
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_attn.errors import InputError
from nnunet_attn.study.matrix import nnunet_folder
from nnunet_attn.study.report.setup import DatasetInfo, FoldSplit

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study

CASES_FILE = "nnunet_attn_cases.json"  # as nnunet_attn.registering.describing.CASES_FILE


def dataset_info(study: "Study", name: str, folds: Collection[int]) -> tuple[DatasetInfo, tuple[str, ...]]:
    """Return what is known of a data set, and what could not be read, one sentence each.

    Args:
        study: Says which plans.
        name: `DatasetNNN_Name`.
        folds: Numbers of the folds that the study trains.
    Raises:
        InputError: If one of nnU-Net's folders is not set.
    """
    raw, folder = nnunet_folder("nnUNet_raw") / name, nnunet_folder("nnUNet_preprocessed") / name
    described = read_table(folder / "dataset.json") or read_table(raw / "dataset.json")
    shape, spacing = _median(study, folder)
    patients = registered_patients(name)
    splits, problems = _splits(folder, folds, patients)
    classes, ignore = _classes(described, folder if (folder / "dataset.json").is_file() else raw)
    ending = str(described.get("file_ending", ""))
    count = described.get("numTraining")
    labels = raw / "labelsTs"
    return DatasetInfo(
        name,
        str(described.get("description") or ""),
        channel_names(described),
        classes,
        ignore,
        count if isinstance(count, int) else None,
        len(_cases_of(raw / "imagesTs", ending)) if raw.is_dir() else None,
        labels.is_dir() and any(labels.iterdir()),
        shape,
        spacing,
        len(set(patients.values())) or None,
        splits,
    ), problems


def registered_patients(name: str) -> dict[str, str]:
    """Return case -> patient as registered with a data set, as far as that can be read."""
    content = read_table(nnunet_folder("nnUNet_raw") / name / CASES_FILE).get("cases")
    entries = content if isinstance(content, dict) else {}
    return {case: str(own["patient"]) for case, own in entries.items() if isinstance(own, dict) and own.get("patient")}


def channel_names(described: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the channels that a dataset.json tells, in order."""
    names = described.get("channel_names") or described.get("modality")
    if not isinstance(names, dict):
        return ()
    return tuple(str(names[key]) for key in sorted(names, key=lambda key: (len(str(key)), str(key))))


def read_table(file: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one if it cannot be read."""
    with suppress(OSError, ValueError):
        content = json.loads(file.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def _classes(described: Mapping[str, Any], folder: Path) -> tuple[dict[str, tuple[int, ...]] | None, int | None]:
    from nnunet_attn.evaluation.description import read_description

    if not described:
        return None, None
    try:
        description = read_description(folder / "dataset.json")
    except InputError:
        return None, None
    return dict(description.classes), description.ignore


def _median(study: "Study", folder: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Shape and spacing as the plans tell, in the order of the images' own axes; else from the fingerprint."""
    plans = read_table(folder / f"{study.plans}.json")
    found = []
    for key in ("original_median_shape_after_transp", "original_median_spacing_after_transp"):
        values, backward = plans.get(key), plans.get("transpose_backward")
        if isinstance(values, list) and isinstance(backward, list) and sorted(backward) == list(range(len(values))):
            values = [values[axis] for axis in backward]
        found.append(tuple(map(float, values)) if isinstance(values, list) else None)
    if found[0] is None or found[1] is None:
        fingerprint = read_table(folder / "dataset_fingerprint.json")
        found = [_medians(fingerprint.get(key)) for key in ("shapes_after_crop", "spacings")]
    return found[0], found[1]


def _medians(values: Any) -> tuple[float, ...] | None:
    try:
        return tuple(float(statistics.median(axis)) for axis in zip(*values, strict=True)) or None
    except (TypeError, ValueError):
        return None


def _splits(
    folder: Path, used: Collection[int], patients: Mapping[str, str]
) -> tuple[tuple[FoldSplit, ...], tuple[str, ...]]:
    from nnunet_attn.datasets.splits_files import read_splits, recorded_folds

    file = folder / "splits_final.json"
    if not file.is_file():
        return (), ()
    problems = []
    try:
        splits = read_splits(file)
    except InputError as error:
        return (), (str(error),)
    recorded = {}
    try:
        recorded = {each.fold: each for each in recorded_folds(folder)}
    except InputError as error:
        problems.append(str(error))
    found = []
    for number, split in enumerate(splits):
        training, validation = tuple(map(str, split["train"])), tuple(map(str, split["val"]))
        known = recorded.get(number)
        sides = [{patients[case] for case in side if case in patients} for side in (training, validation)]
        told = all(case in patients for case in (*training, *validation)) and bool(patients)
        labels = None if known is None else known.settings.get("labels")
        found.append(
            FoldSplit(
                number,
                None if known is None else known.kind,
                len(training),
                validation,
                len(sides[0]) if told else None,
                len(sides[1]) if told else None,
                tuple(sorted(sides[0] & sides[1])),
                labels if isinstance(labels, int) else None,
                number in used,
            )
        )
    return tuple(found), tuple(problems)


def _cases_of(images: Path, ending: str) -> Sequence[str]:
    if not images.is_dir() or not ending:
        return ()
    names = {path.name.removesuffix(ending) for path in images.iterdir() if path.name.endswith(ending)}
    return sorted({re.sub(r"_\d{4}$", "", name) for name in names})
