"""Which prediction belongs to which reference: in a folder, and in the folds of a cross-validation."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_attn.dataset_names import full_dataset_name
from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.description import unreadable_told
from nnunet_attn.evaluation.results import CHECKPOINT_FILE
from nnunet_attn.json_files import read_json

FINAL, BEST, LATEST = "checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth"

_NAMED = 5  # cases that a message names


@dataclass(frozen=True)
class Pair:
    """One prediction and its reference.

    Args:
        case: Name of the case.
        fold: Fold whose network predicted it; None outside a cross-validation.
        prediction: Its file.
        reference: Its file.
    """

    case: str
    fold: int | None
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class Model:
    """A model folder of nnU-Net's results.

    Args:
        folder: `nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION`.
        dataset: `DatasetNNN_Name`.
        trainer: Its name.
        plans: Name of the plans.
        configuration: For example `3d_fullres`.
    """

    folder: Path
    dataset: str
    trainer: str
    plans: str
    configuration: str


@unreadable_told()
def folder_pairs(
    predictions: Path, references: Path, file_ending: str, chill: bool = False
) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Pair the predictions of a folder with their references, by name.

    Args:
        predictions: Folder with CASE and ending.
        references: Folder with the same names.
        file_ending: For example `.nii.gz`.
        chill: Accept references without a prediction, as nnU-Net's flag of this name.
    Returns:
        The pairs, and the cases without a prediction.
    Raises:
        InputError: If a folder is missing, empty or not to be read, a prediction has no reference or, unless `chill`, a
            reference no prediction.
    """
    for flag, folder in (("-i", predictions), ("-r", references)):
        if not folder.is_dir():
            raise InputError(f"{flag} {folder} is no folder; give the folder with the label files")
    predicted, wanted = (_cases(folder, file_ending) for folder in (predictions, references))
    for flag, folder, cases in (("-i", predictions, predicted), ("-r", references, wanted)):
        if not cases:
            raise InputError(f"{flag} {folder} has no {file_ending} file, the ending that dataset.json names")
    if strangers := sorted(predicted - wanted):
        raise InputError(f"{references} has no reference for {_listed(strangers)}; add it, or take the prediction away")
    missing = sorted(wanted - predicted)
    if missing and not chill:
        raise InputError(
            f"{predictions} has no prediction for {_listed(missing)}; predict it, or leave it out: add --chill"
        )
    pairs = (
        Pair(case, None, predictions / f"{case}{file_ending}", references / f"{case}{file_ending}")
        for case in sorted(predicted)
    )
    return tuple(pairs), tuple(missing)


@unreadable_told()
def find_model(dataset: str, trainer: str, plans: str, configuration: str) -> Model:
    """Find a model folder in nnU-Net's results.

    Args:
        dataset: Name or number.
        trainer: Its name.
        plans: Name of the plans.
        configuration: For example `3d_fullres`.
    Raises:
        InputError: If a variable is not set, there is no such data set or model, or it may not be read.
    """
    from nnunetv2.paths import nnUNet_results

    if not nnUNet_results.is_set():
        raise InputError("nnUNet_results is not set; set nnU-Net's three folders (see: nnunet-attn doctor)")
    name = full_dataset_name(dataset)
    results = Path(str(nnUNet_results)) / name
    folder = results / f"{trainer}__{plans}__{configuration}"
    if not folder.is_dir():
        there = sorted(each.name for each in results.glob("*__*__*")) if results.is_dir() else []
        raise InputError(
            f"there is no model folder {folder}; correct -d, -tr, -p or -c, or train it"
            + (f"; {results} has {_listed(there)}" if there else "")
        )
    return Model(folder, name, trainer, plans, configuration)


@unreadable_told()
def fold_pairs(model: Model, folds: Sequence[int], file_ending: str) -> tuple[Pair, ...]:
    """Pair a model's validation predictions with their references, and check them against splits_final.json.

    References are the preprocessed data set's gt_segmentations, which nnU-Net itself compares with, or labelsTr of the
    raw one where that folder is not there.

    Raises:
        InputError: If folds, predictions or references are missing or not to be read, or a fold holds other cases than
            its split says.
    """
    splits = _splits(model, folds)
    references = _references(model)
    wanted = _cases(references, file_ending)
    pairs = []
    for fold in folds:
        validation = model.folder / f"fold_{fold}" / "validation"
        remedy = _remedy(model, fold)
        if not validation.is_dir():
            raise InputError(f"{validation} does not exist; {remedy}, or give the folds that are there with -f")
        predicted, expected = _cases(validation, file_ending), set(splits[fold])
        if missing := sorted(expected - predicted):
            raise InputError(
                f"{validation} lacks {_listed(missing)} of the {len(expected)} cases that splits_final.json gives "
                f"fold {fold}; {remedy}"
            )
        if strangers := sorted(predicted - expected):
            raise InputError(
                f"{validation} has {_listed(strangers)}, which splits_final.json does not give fold {fold}: the splits "
                "are others than those trained with; give the splits back, or train again"
            )
        if without := sorted(expected - wanted):
            raise InputError(f"{references} has no reference for {_listed(without)}; put it there")
        pairs += [
            Pair(case, fold, validation / f"{case}{file_ending}", references / f"{case}{file_ending}")
            for case in sorted(expected)
        ]
    return tuple(pairs)


def _remedy(model: Model, fold: int) -> str:
    """The command that makes what a fold lacks: `--val` only where it has been trained to its end."""
    command = f"nnUNetv2_train {model.dataset} {model.configuration} {fold} -p {model.plans} -tr {model.trainer}"
    folder = model.folder / f"fold_{fold}"
    if (folder / FINAL).is_file():
        return f"validate it: {command} --val"
    if any((folder / name).is_file() for name in (LATEST, BEST)):
        return f"train it to its end: {command} --c"
    return f"train it: {command}"


@unreadable_told()
def checkpoint_used(model: Model, folds: Sequence[int], stated: str | None = None) -> str | None:
    """Return the checkpoint that made the validation predictions: as stated, else as far as the files tell, else None.

    The trainers of this package note it in `checkpoint_attn.json` beside the predictions. nnU-Net's own leave nothing
    that tells whether a validation had `--val_best`; so where a fold without a note has checkpoint_final.pth and not
    checkpoint_best.pth, it was the former; else nothing tells.

    Args:
        model: The model folder.
        folds: Which.
        stated: What the user says.
    Raises:
        InputError: If `stated` is the name of no checkpoint there or contradicts a note, or the folds were predicted by
            different checkpoints, or one by another than the final one and nothing tells of the others.
    """
    noted = {fold: _noted_checkpoint(model.folder / f"fold_{fold}" / "validation") for fold in folds}
    if stated is not None:
        _check_stated(model, folds, stated)
        if others := {fold: name for fold, name in noted.items() if name not in (None, stated)}:
            raise InputError(
                f"-chk {stated}: {CHECKPOINT_FILE} in {model.folder} says {_by_checkpoint(others)}; leave out -chk, or "
                "validate with that checkpoint"
            )
        return stated
    told = {fold: name or _sole_checkpoint(model.folder / f"fold_{fold}") for fold, name in noted.items()}
    known = set(told.values()) - {None}
    if len(known) > 1:
        raise InputError(
            f"{model.folder}: the folds were predicted by different checkpoints: {_by_checkpoint(told)}; validate them "
            "with the same one, or evaluate them apart: -f"
        )
    if None in told.values():
        if known - {FINAL}:
            raise InputError(
                f"{model.folder}: {_by_checkpoint(told)}; validate them with the same one, or state it, if it was: "
                f"-chk {known.pop()}"
            )
        return None
    return known.pop()


def _noted_checkpoint(validation: Path) -> str | None:
    """Return what the trainer noted; None without such a note."""
    try:
        return str(json.loads((validation / CHECKPOINT_FILE).read_text(encoding="utf-8"))["checkpoint"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _check_stated(model: Model, folds: Sequence[int], stated: str) -> None:
    names = {file.name for fold in folds for file in (model.folder / f"fold_{fold}").glob("*.pth")}
    # weights may have been deleted since: then any name will do
    if not stated.endswith(".pth") or Path(stated).name != stated or (names and stated not in names):
        there = f"the folds have {', '.join(sorted(names))}" if names else f"for example {FINAL}"
        raise InputError(f"-chk {stated}: give the name of a checkpoint; {there}")


def _sole_checkpoint(fold: Path) -> str | None:
    return FINAL if (fold / FINAL).is_file() and not (fold / BEST).is_file() else None


def _by_checkpoint(told: Mapping[int, str | None]) -> str:
    """For example `checkpoint_best.pth (fold 0, 1), unknown (fold 2)`."""
    names = sorted({name or "unknown" for name in told.values()})
    return ", ".join(
        f"{name} (fold {', '.join(str(fold) for fold, each in told.items() if (each or 'unknown') == name)})"
        for name in names
    )


def _splits(model: Model, folds: Sequence[int]) -> list[list[str]]:
    """Return the validation cases of all folds."""
    from nnunetv2.paths import nnUNet_preprocessed

    if not folds or len(set(folds)) < len(folds) or min(folds) < 0:
        raise InputError(f"-f {' '.join(map(str, folds))}: give each fold once, as numbers from 0")
    if not nnUNet_preprocessed.is_set():
        raise InputError("nnUNet_preprocessed is not set; set nnU-Net's three folders (see: nnunet-attn doctor)")
    file = Path(str(nnUNet_preprocessed)) / model.dataset / "splits_final.json"
    content = read_json(file, "it tells which cases belong to a fold: put it back, or evaluate folders with -i and -r")
    try:
        splits = [[str(case) for case in entry["val"]] for entry in content]
    except (TypeError, KeyError) as error:
        raise InputError(f"{file} is not a list of splits with 'train' and 'val'; mend it") from error
    if not splits:
        raise InputError(f"{file} has no folds; mend it, or delete it and train: nnU-Net makes it anew")
    if max(folds) >= len(splits):
        there = " ".join(str(fold) for fold in folds if fold < len(splits)) or " ".join(map(str, range(len(splits))))
        raise InputError(
            f"-f {max(folds)}: {file} has the folds 0 to {len(splits) - 1}; give those that are there: -f {there}"
        )
    return splits


def _references(model: Model) -> Path:
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw

    preprocessed = Path(str(nnUNet_preprocessed)) / model.dataset / "gt_segmentations"
    if preprocessed.is_dir():
        return preprocessed
    if nnUNet_raw.is_set() and (raw := Path(str(nnUNet_raw)) / model.dataset / "labelsTr").is_dir():
        return raw
    raise InputError(f"there are no references: neither {preprocessed} nor labelsTr of the raw data set; put one back")


def _cases(folder: Path, file_ending: str) -> set[str]:
    names = (file.name for file in folder.iterdir() if not file.name.startswith("."))
    return {name.removesuffix(file_ending) for name in names if name.endswith(file_ending)}


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
