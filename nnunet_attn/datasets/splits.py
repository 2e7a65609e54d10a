"""Splits with few labelled cases, behind nnU-Net's own folds of a data set."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_attn.errors import InputError

SPLITS_FILE = "splits_final.json"
RECORD_FILE = "splits_nnunet_attn.json"
# One case in so many is for validation, as in nnU-Net's own folds.
_VALIDATION_SHARE = 5

Split = dict[str, list[str]]


@dataclass(frozen=True)
class ReducedFold:
    """One split with few labelled cases.

    Args:
        labels: Labelled cases, those for validation among them.
        training: Those to train on.
        validation: Those to validate on.
        seed: Seed of the choice.
        fold: Its number, as `nnUNetv2_train` takes it.
    """

    labels: int
    training: int
    validation: int
    seed: int
    fold: int


@dataclass(frozen=True)
class SplitsReport:
    """What `add_reduced_splits` did.

    Args:
        file: The data set's splits_final.json.
        folds: One entry for each number of labels, in the order asked for.
        added: Fold numbers that are new.
        made: Whether the file had to be made, with nnU-Net's own folds.
        cases: Cases that the choice was made from.
    """

    file: Path
    folds: tuple[ReducedFold, ...]
    added: tuple[int, ...]
    made: bool
    cases: int


def reduced_split(cases: Sequence[str], labels: int, seed: int) -> Split:
    """Choose `labels` of `cases`, a fifth of them, but at least one, for validation.

    With one seed choices are nested: what a smaller number trains on, a larger one trains on too, and what it validates
    on a larger one validates on.

    Args:
        cases: All cases to choose from; their order does not matter.
        labels: How many, from 2 to all.
        seed: From 0 to 2^32 - 1.
    Raises:
        InputError: If `labels` or `seed` is out of its range.
    """
    if not 2 <= labels <= len(cases):
        raise InputError(
            f"--labels {labels}: there are {len(cases)} cases to choose from, and a split needs one to train on and "
            f"one to validate on; give numbers from 2 to {len(cases)}"
        )
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed}: a seed is from 0 to {2**32 - 1}")
    # RandomState, as in nnU-Net: NumPy keeps its numbers the same in all versions
    drawn = [sorted(cases)[index] for index in np.random.RandomState(seed).permutation(len(cases))]
    held_out = _for_validation(len(cases))
    validation, training = drawn[:held_out], drawn[held_out:]
    count = _for_validation(labels)
    return {"train": sorted(training[: labels - count]), "val": sorted(validation[:count])}


def _for_validation(cases: int) -> int:
    return max(1, cases // _VALIDATION_SHARE)


def add_reduced_splits(dataset: str, labels: Sequence[int], seed: int) -> SplitsReport:
    """Add splits with few labelled cases to a data set's splits_final.json, behind those that are there.

    What is in the file stays as it is; a file that does not exist yet is made as nnU-Net makes it. A split that is
    there already is not added again. Cases are chosen from those of fold 0, training and validation together: all
    cases, unless the user's own splits leave some out. The numbers are kept in splits_nnunet_attn.json beside the file,
    and the file as it was before in splits_final.json.bak.

    Args:
        dataset: Name or number of the data set, which must be preprocessed.
        labels: Numbers of labelled cases, each from 2 to all.
        seed: Seed of the choice.
    Raises:
        InputError: If an argument is out of its range, the data set is not preprocessed, or a file is broken; nothing
            is written then.
    """
    if len(set(labels)) < len(labels) or not labels:
        raise InputError(f"--labels {' '.join(map(str, labels))}: give each number once, and at least one")
    folder = _preprocessed_folder(dataset)
    identifiers = _preprocessed_cases(folder, dataset)
    file = folder / SPLITS_FILE
    made = not file.exists()
    splits = _nnunet_splits(identifiers, folder) if made else _read_splits(file)
    cases = sorted({*splits[0]["train"], *splits[0]["val"]})
    if missing := sorted(set(cases) - set(identifiers)):
        raise InputError(
            f"{file}: fold 0 names {missing[0]}, which is not among the {len(identifiers)} preprocessed cases of "
            f"{folder}; mend the file, or preprocess the data set again"
        )
    wanted = [reduced_split(cases, number, seed) for number in labels]
    extended = list(splits)
    folds = []
    for number, split in zip(labels, wanted, strict=True):
        fold = next((index for index, other in enumerate(extended) if _same(split, other)), len(extended))
        if fold == len(extended):
            extended.append(split)
        folds.append(ReducedFold(number, len(split["train"]), len(split["val"]), seed, fold))
    record_file = folder / RECORD_FILE
    known = _read_record(record_file)
    # of what was recorded, what the file still has
    kept = [each for each in known if _is_there(each, cases, extended)]
    recorded = sorted({*kept, *folds}, key=lambda each: (each.fold, each.labels, each.seed))
    texts: dict[Path, Any] = {}
    if made or len(extended) > len(splits):
        texts[file] = extended
    if recorded != known:
        texts[record_file] = {"folds": [asdict(each) for each in recorded]}
    _write(texts, backed_up=None if made else file)
    return SplitsReport(file, tuple(folds), tuple(range(len(splits), len(extended))), made, len(cases))


def _preprocessed_folder(dataset: str) -> Path:
    if not nnUNet_preprocessed.is_set():
        raise InputError("nnUNet_preprocessed is not set; set nnU-Net's three folders (see: nnunet-attn doctor)")
    try:
        name = maybe_convert_to_dataset_name(dataset)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"-d {dataset}: nnU-Net's folders have no data set of this number or name, or several; correct it, or put "
            "the data set into nnUNet_raw and run nnUNetv2_plan_and_preprocess"
        ) from error
    folder = Path(str(nnUNet_preprocessed)) / name
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; run: nnUNetv2_plan_and_preprocess -d {dataset}")
    return folder


def _preprocessed_cases(folder: Path, dataset: str) -> list[str]:
    """Return the names of the cases that all preprocessed configurations have, in order."""
    found: dict[str, set[str]] = {}
    for name in sorted(_data_identifiers(folder)):
        data = folder / name
        if data.is_dir() and any(data.iterdir()):
            try:
                found[name] = set(infer_dataset_class(str(data)).get_identifiers(str(data)))
            except (AssertionError, KeyError) as error:
                raise InputError(
                    f"{data} holds other files than nnU-Net's preprocessed cases; run: nnUNetv2_preprocess -d {dataset}"
                ) from error
    if not any(found.values()):
        raise InputError(f"{folder} has no preprocessed cases; run: nnUNetv2_plan_and_preprocess -d {dataset}")
    first, *others = found.items()
    for name, cases in others:
        if differing := sorted(cases ^ first[1]):
            raise InputError(
                f"{folder}: only one of {first[0]} and {name} has the case {differing[0]}; "
                f"run: nnUNetv2_preprocess -d {dataset}"
            )
    return sorted(first[1])


def _data_identifiers(folder: Path) -> set[str]:
    """Return the names of the data folders that the plans of a data set name."""
    names: set[str] = set()
    for file in folder.glob("*.json"):
        if file.name in (SPLITS_FILE, RECORD_FILE):
            continue
        content = _read_json(file, "plan the data set again, or remove it if it is not nnU-Net's")
        if isinstance(content, Mapping) and isinstance(content.get("configurations"), Mapping):
            entries = content["configurations"].values()
            names.update(entry["data_identifier"] for entry in entries if "data_identifier" in entry)
    return names


def _nnunet_splits(identifiers: Sequence[str], folder: Path) -> list[Split]:
    """Return what `nnUNetTrainer.do_split` writes where there is no file yet."""
    if len(identifiers) < 5:
        raise InputError(f"{folder} has {len(identifiers)} cases; nnU-Net's five folds need 5 at least")
    # the argument that nnU-Net's own call has: NumPy's order
    return generate_crossval_split(list(np.sort(list(identifiers))), seed=12345, n_splits=5)


def _read_splits(file: Path) -> list[Split]:
    content = _read_json(file, "mend it, or remove it to have nnU-Net's own splits made anew")
    if not isinstance(content, list) or not content or not all(_is_split(each) for each in content):
        raise InputError(
            f"{file} is not a list of splits with the case names of 'train' and 'val'; "
            "mend it, or remove it to have nnU-Net's own splits made anew"
        )
    return content


def _is_split(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(
        isinstance(entry.get(part), list) and all(isinstance(case, str) for case in entry[part])
        for part in ("train", "val")
    )


def _same(one: Mapping[str, Iterable[str]], other: Mapping[str, Iterable[str]]) -> bool:
    return all(sorted(one[part]) == sorted(other[part]) for part in ("train", "val"))


def _read_record(file: Path) -> list[ReducedFold]:
    if not file.exists():
        return []
    remedy = f"remove it: it says which fold is which, and the folds themselves are in {SPLITS_FILE}"
    content = _read_json(file, remedy)
    try:
        folds = [ReducedFold(**entry) for entry in content["folds"]]
        if all(isinstance(value, int) for fold in folds for value in asdict(fold).values()):
            return folds
    except (TypeError, KeyError):
        pass
    raise InputError(f"{file} is not what this command writes; {remedy}")


def _is_there(recorded: ReducedFold, cases: Sequence[str], splits: Sequence[Split]) -> bool:
    try:
        split = reduced_split(cases, recorded.labels, recorded.seed)
    except InputError:
        return False
    return 0 <= recorded.fold < len(splits) and _same(split, splits[recorded.fold])


def _read_json(file: Path, remedy: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); {remedy}") from error


def _write(contents: Mapping[Path, Any], backed_up: Path | None) -> None:
    """Write JSON files as nnU-Net does, all or none; `backed_up`, if it is among them, is kept as `.bak`."""
    partial = {file: file.with_name(f"{file.name}.partial") for file in contents}
    try:
        for file, content in contents.items():
            partial[file].write_text(json.dumps(content, indent=4, sort_keys=True), encoding="utf-8")
        if backed_up is not None and backed_up in contents:
            shutil.copy2(backed_up, backed_up.with_name(f"{backed_up.name}.bak"))
        for file, written in partial.items():
            os.replace(written, file)
    except OSError as error:
        raise InputError(
            f"cannot write {', '.join(map(str, contents))} ({error.strerror}); free or allow it"
        ) from error
    finally:
        for written in partial.values():
            written.unlink(missing_ok=True)
