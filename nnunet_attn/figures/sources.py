"""Finds cases, and the predictions of trainers for them, in nnU-Net's folders."""

import json
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nnunet_attn.datasets.subset import COLOUR_ENDINGS
from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare_sources import Trained
from nnunet_attn.evaluation.description import read_description, unreadable_told
from nnunet_attn.evaluation.pairs import Model
from nnunet_attn.figures.request import FigureCase, FigureOptions
from nnunet_attn.json_files import read_object

PICKS = ("worst", "median", "best")
"""Words in place of a case's name: by its Dice, mean over classes, then over the trainers."""

_PREFIX = "nnUNetTrainer"  # left out above columns, which are narrow
_NAMED = 5  # cases that a message names

Key = tuple[int | None, str]
"""Fold and case; no fold of test cases."""


@dataclass(frozen=True)
class Found:
    """Cases to show.

    Args:
        cases: A row each.
        folds: Fold whose network predicted each of them; None of test cases.
        options: How they are shown: dataset.json is the model's, and where each channel has a file, it is chosen.
    """

    cases: tuple[FigureCase, ...]
    folds: tuple[int | None, ...]
    options: FigureOptions


@unreadable_told()
def validation_cases(
    trained: Trained,
    wanted: Sequence[str],
    options: FigureOptions,
    folds: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> Found:
    """Find cases with the predictions that validated each fold.

    Args:
        trained: Data set and trainers; its folds and checkpoint do not matter.
        wanted: Cases, or words of `PICKS`.
        options: How they are shown.
        folds: Where to look. Default: all.
        names: Of the trainers, in the figure. Default: their own, without "nnUNetTrainer".
    Raises:
        InputError: If there is no such model or case, a trainer has not predicted it, or a file is missing.
    """
    models = trained.models()
    ending = _ending(models[0])
    there = {}
    for model in models:
        for fold, folder in _validations(model, folds):
            for case in _predicted(folder, ending):
                there.setdefault((fold, case), {})[model.folder] = folder / f"{case}{ending}"
    shared = {key: list(files.values()) for key, files in there.items() if len(files) == len(models)}
    dice = (
        [_stock_dice(model, sorted({fold for fold, _ in shared}), ending) for model in models] if _picks(wanted) else []
    )
    keys = []
    for word in wanted:
        if word in PICKS:
            keys.append(_picked(word, list(shared), dice))
        else:
            keys.append(_named(word, shared, there, models, folds))
    return _found(trained, keys, shared, wanted, options, names, test=False)


@unreadable_told()
def predicted_test_cases(
    trained: Trained,
    wanted: Sequence[str],
    options: FigureOptions,
    ensemble: Literal["logits", "softmax"] = "logits",
    names: Sequence[str] | None = None,
) -> Found:
    """Find test cases with what `nnunet-attn predict-test` predicted.

    Args:
        trained: Data set, trainers, folds and checkpoint of the predictions.
        wanted: Cases, or words of `PICKS`.
        options: How they are shown.
        ensemble: How folds were joined.
        names: Of the trainers, in the figure. Default: their own, without "nnUNetTrainer".
    Raises:
        InputError: If there is no such model or case, a trainer has not predicted it, or a file is missing.
    """
    from nnunet_attn.evaluation.aggregate import case_means
    from nnunet_attn.evaluation.results import read_evaluation
    from nnunet_attn.inference.predict_test_request import PredictTestRequest, command_of

    models = trained.models()
    ending = _ending(models[0])
    folders = []
    for model in models:
        request = PredictTestRequest(
            trained.dataset,
            (model.trainer,),
            model.configuration,
            model.plans,
            trained.folds,
            trained.checkpoint or "checkpoint_final.pth",
            ensemble=ensemble,
        )
        folders.append(model.folder / request.folder_name)
        if not folders[-1].is_dir():
            raise InputError(f"{folders[-1]} does not exist; predict first: {command_of(request, (model.trainer,))}")
    there: dict[Key, dict[Path, Path]] = {}
    for model, folder in zip(models, folders, strict=True):
        for case in _predicted(folder, ending):
            there.setdefault((None, case), {})[model.folder] = folder / f"{case}{ending}"
    shared = {key: list(files.values()) for key, files in there.items() if len(files) == len(models)}
    dice: list[Mapping[Key, float]] = []
    if _picks(wanted):
        dice = [dict(case_means(read_evaluation(folder), "dice")) for folder in folders]
    keys = [
        _picked(word, list(shared), dice) if word in PICKS else _named(word, shared, there, models, None)
        for word in wanted
    ]
    return _found(trained, keys, shared, wanted, options, names, test=True)


def _picks(wanted: Sequence[str]) -> bool:
    return any(word in PICKS for word in wanted)


def _ending(model: Model) -> str:
    return read_description(model.folder / "dataset.json").file_ending


def _validations(model: Model, folds: Sequence[int] | None) -> Iterator[tuple[int, Path]]:
    """Fold and folder of its validation predictions; fold "all" is left out, which validates on what it learnt."""
    numbers = {each.name.removeprefix("fold_") for each in model.folder.glob("fold_*")}
    for fold in sorted(int(number) for number in numbers if number.isdecimal()) if folds is None else folds:
        folder = model.folder / f"fold_{fold}" / "validation"
        if folder.is_dir():
            yield fold, folder
        elif folds is not None:
            raise InputError(
                f"{folder} does not exist; validate the fold: nnUNetv2_train {model.dataset} {model.configuration} "
                f"{fold} -p {model.plans} -tr {model.trainer} --val, or give other folds with -f"
            )


def _predicted(folder: Path, ending: str) -> list[str]:
    names = (file.name for file in folder.iterdir() if not file.name.startswith("."))
    return sorted(name.removesuffix(ending) for name in names if name.endswith(ending))


def _stock_dice(model: Model, folds: Sequence[int | None], ending: str) -> dict[Key, float]:
    """Mean Dice of each case by nnU-Net's own summaries; cases in which no class is counted are left out."""
    found: dict[Key, float] = {}
    for fold in folds:
        file = model.folder / f"fold_{fold}" / "validation" / "summary.json"
        remedy = "nnU-Net writes it at the end of a validation: repeat it with --val, or name the cases"
        try:
            for entry in read_object(file, remedy)["metric_per_case"]:
                values = [float(each["Dice"]) for each in entry["metrics"].values()]
                counted = [value for value in values if math.isfinite(value)]
                if counted:
                    case = os.path.basename(entry["prediction_file"]).removesuffix(ending)
                    found[fold, case] = statistics.fmean(counted)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file} is not what nnU-Net writes ({error!r}); {remedy}") from error
    return found


def _picked(word: str, keys: Sequence[Key], dice: Sequence[Mapping[Key, float]]) -> Key:
    """The worst, the median or the best case; of an even number the median is the worse of the two in the middle."""
    means = {key: statistics.fmean(each[key] for each in dice) for key in keys if all(key in each for each in dice)}
    means = {key: value for key, value in means.items() if math.isfinite(value)}
    if not means:
        raise InputError(f"--cases {word}: no case has a Dice of all trainers; evaluate first, or name the cases")
    ordered = sorted(means, key=lambda key: (means[key], str(key)))
    return {"worst": ordered[0], "median": ordered[(len(ordered) - 1) // 2], "best": ordered[-1]}[word]


def _named(
    case: str,
    shared: Mapping[Key, Any],
    there: Mapping[Key, Mapping[Path, Path]],
    models: Sequence[Model],
    folds: Sequence[int] | None,
) -> Key:
    """The first fold in which all trainers have predicted a case."""
    if fitting := sorted((key for key in shared if key[1] == case), key=str):
        return fitting[0]
    partly = {folder for key, files in there.items() if key[1] == case for folder in files}
    if lacking := [model for model in models if partly and model.folder not in partly]:
        raise InputError(
            f"--cases {case}: {lacking[0].folder} has no prediction of it; train or predict that fold first"
        )
    if partly:
        raise InputError(
            f"--cases {case}: the trainers predicted it in different folds; train one fold with all of them"
        )
    known = sorted({name for _, name in there})
    shown = ", ".join(known[:_NAMED]) + (f" and {len(known) - _NAMED} more" if len(known) > _NAMED else "")
    where = "" if folds is None else f" in the folds {' '.join(map(str, folds))}"
    raise InputError(
        f"--cases {case}: {models[0].folder} has no prediction of it{where}; "
        + (f"there are {shown}, and the words {', '.join(PICKS)}" if known else "it has no prediction at all")
    )


def _found(
    trained: Trained,
    keys: Sequence[Key],
    shared: Mapping[Key, Sequence[Path]],
    wanted: Sequence[str],
    options: FigureOptions,
    names: Sequence[str] | None,
    test: bool,
) -> Found:
    models = trained.models()
    labels = [label.removeprefix(_PREFIX) or label for label in trained.labels()]
    if names is not None:
        if len(names) != len(labels) or len(set(names)) < len(names):
            raise InputError(f"--names {' '.join(names)}: give {len(labels)} different names, one for each trainer")
        labels = list(names)
    description = models[0].folder / "dataset.json"
    ending, raw = _ending(models[0]), _raw(models[0].dataset)
    rows, channel = [], options.channel
    for key, word in zip(keys, wanted, strict=True):
        image, channel = _image(raw, key[1], ending, options.channel, test)
        reference = _reference(models[0].dataset, raw, key[1], ending, test)
        note = word if word in PICKS else ""
        rows.append(FigureCase(key[1], image, reference, dict(zip(labels, shared[key], strict=True)), note=note))
    given = options.dataset_json or description
    return Found(tuple(rows), tuple(fold for fold, _ in keys), replace(options, channel=channel, dataset_json=given))


def _raw(dataset: str) -> Path:
    from nnunetv2.paths import nnUNet_raw

    if not nnUNet_raw.is_set():
        raise InputError("nnUNet_raw is not set; set nnU-Net's three folders (see: nnunet-attn doctor)")
    return Path(str(nnUNet_raw)) / dataset


def _image(raw: Path, case: str, ending: str, channel: int | None, test: bool) -> tuple[Path, int | None]:
    """The file of a channel, and which channel of that file."""
    listed = None if test else _listed(raw, case)
    if listed is not None:
        files = [Path(file) for file in listed["images"]]
        if channel is not None and channel >= len(files) > 1:
            raise InputError(f"--channel {channel}: dataset.json has the channels 0 to {len(files) - 1} of {case}")
        return (files[0], channel) if len(files) == 1 else (files[channel or 0], None)
    folder = raw / ("imagesTs" if test else "imagesTr")
    first, second = (folder / f"{case}_{number:04d}{ending}" for number in (0, 1))
    if ending.lower() in COLOUR_ENDINGS and not second.is_file():
        return first, channel  # one file has all colours
    file = folder / f"{case}_{channel or 0:04d}{ending}"
    if channel and first.is_file() and not file.is_file():
        count = len(list(folder.glob(f"{case}_[0-9][0-9][0-9][0-9]{ending}")))
        raise InputError(f"--channel {channel}: {case} has the channels 0 to {count - 1}")
    return file, None


def _reference(dataset: str, raw: Path, case: str, ending: str, test: bool) -> Path:
    """The label file that nnU-Net itself compares with, or the raw one."""
    from nnunetv2.paths import nnUNet_preprocessed

    if test:
        return raw / "labelsTs" / f"{case}{ending}"
    if nnUNet_preprocessed.is_set():
        file = Path(str(nnUNet_preprocessed)) / dataset / "gt_segmentations" / f"{case}{ending}"
        if file.is_file():
            return file
    listed = _listed(raw, case)
    return raw / "labelsTr" / f"{case}{ending}" if listed is None else Path(listed["label"])


def _listed(raw: Path, case: str) -> dict[str, Any] | None:
    """Images and label of a case where dataset.json names the files, as nnU-Net allows."""
    try:
        entry = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))["dataset"][case]
        images = [raw / os.path.expandvars(each) for each in entry["images"]]
        return {"images": images, "label": raw / os.path.expandvars(entry["label"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
