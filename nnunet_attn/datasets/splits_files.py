"""A data set's splits_final.json: read, and changed without loss of folds that something was trained on."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_results

from nnunet_attn.errors import InputError
from nnunet_attn.json_files import read_json

SPLITS_FILE = "splits_final.json"
RECORD_FILE = "splits_nnunet_attn.json"
DRAWN_KINDS = ("repeated", "reduced")
"""Kinds of folds that are random draws, each for itself."""

Split = dict[str, list[str]]
_RECORD_KEYS = ("fold", "kind", "training", "validation", "seed", "sha256")


@dataclass(frozen=True)
class Fold:
    """What one fold is.

    Args:
        fold: Its number, as `nnUNetv2_train` takes it.
        kind: "cross-validation", "repeated" or "reduced".
        training: Cases to train on.
        validation: Cases to validate on.
        seed: Seed of the choice.
        sha256: Of its case names, which tells whether the file still has it.
        settings: What else it was made by, for example {"labels": 5}; JSON values.
    """

    fold: int
    kind: str
    training: int
    validation: int
    seed: int
    sha256: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """A split to be in the file.

    Args:
        split: Its cases.
        kind: As of a `Fold`.
        seed: As of a `Fold`.
        settings: As of a `Fold`.
    """

    split: Split
    kind: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitsReport:
    """What a change of the splits did, or would do.

    Args:
        file: The data set's splits_final.json.
        folds: One entry for each split asked for, in that order.
        added: Fold numbers that are new, or hold other cases than before.
        removed: Fold numbers that are no more.
        made: Whether the file was not there before.
        cases: Cases that the choice was made from.
        backup: Where the file as it was is kept; None if there was none, or it stays as it is.
        notes: What the user should know about the choice.
        splits: The cases of each of `folds`.
        patients: Case -> patient, where these were kept together.
    """

    file: Path
    folds: tuple[Fold, ...]
    added: tuple[int, ...]
    removed: tuple[int, ...]
    made: bool
    cases: int
    backup: Path | None = None
    notes: tuple[str, ...] = ()
    splits: tuple[Split, ...] = ()
    patients: Mapping[str, str] | None = None


def read_splits(file: Path) -> list[Split]:
    """Read a splits_final.json.

    Raises:
        InputError: If it is not a list of splits.
    """
    content = read_json(file, "mend it, or remove it to have nnU-Net's own splits made anew")
    if not isinstance(content, list) or not content or not all(_is_split(each) for each in content):
        raise InputError(
            f"{file} is not a list of splits with the case names of 'train' and 'val'; "
            "mend it, or remove it to have nnU-Net's own splits made anew"
        )
    return content


def change_splits(
    folder: Path,
    proposals: Sequence[Proposal],
    cases: int,
    *,
    first: Sequence[Split] = (),
    nnunets_own: Sequence[Split] = (),
    replace: bool = False,
    dry_run: bool = False,
    notes: Sequence[str] = (),
) -> SplitsReport:
    """Bring splits into the splits_final.json of a folder; all files are written, or none.

    Without `replace` they are added behind what is there, each only if no fold is the same already. With it they take
    the place of all folds. A fold for which there are results keeps its cases in any case.

    Args:
        folder: The data set's folder below nnUNet_preprocessed; made if missing.
        proposals: The splits.
        cases: How many cases they were chosen from.
        first: Folds that a new file begins with.
        nnunets_own: What nnU-Net trains on where there is no file: such results are kept, too.
        replace: Whether all folds are replaced.
        dry_run: Check and report, but write nothing.
        notes: For the report.
    Raises:
        InputError: If a fold with results would get other cases, or a file is broken or cannot be written.
    """
    with contextlib.nullcontext() if dry_run else _alone(folder):
        report, texts = _changes(folder, proposals, cases, first, nnunets_own, replace, notes)
        if not dry_run:
            _write(texts, None if report.backup is None else (report.file, report.backup))
    return report


def _changes(
    folder: Path,
    proposals: Sequence[Proposal],
    cases: int,
    first: Sequence[Split],
    nnunets_own: Sequence[Split],
    replace: bool,
    notes: Sequence[str],
) -> tuple[SplitsReport, dict[Path, Any]]:
    """Return what `change_splits` does, and the new content of the files that it writes."""
    file, record_file = folder / SPLITS_FILE, folder / RECORD_FILE
    made = not file.exists()
    before = [] if made else read_splits(file)
    after = [] if replace else list(before or first)
    folds = []
    for proposal in proposals:
        place = next((index for index, other in enumerate(after) if _same(proposal.split, other)), len(after))
        if place == len(after):
            kept = place < len(before) and _same(proposal.split, before[place])
            after.append(before[place] if kept else proposal.split)
        folds.append(_fold(place, proposal))
    changed = [index for index, split in enumerate(after) if index >= len(before) or not _same(split, before[index])]
    removed = range(len(after), len(before))
    if changed or removed:
        _check_results(folder.name, nnunets_own if made else before, after)
    known = _read_record(record_file)
    still = [each for each in known if each.fold < len(after) and _digest(after[each.fold]) == each.sha256]
    recorded = _without_repeats([*still, *folds])
    texts: dict[Path, Any] = {}
    if changed or removed:
        texts[file] = after
    if recorded != known:
        texts[record_file] = {"folds": [_as_json(each) for each in recorded]}
    backup = None if made or file not in texts else _backup_of(file)
    splits = tuple(proposal.split for proposal in proposals)
    report = SplitsReport(file, tuple(folds), tuple(changed), tuple(removed), made, cases, backup, tuple(notes), splits)
    return report, texts


def drawn_folds(folder: Path, folds: Collection[int]) -> tuple[int, ...]:
    """Return which folds are random draws by `nnunet-attn splits`, and not parts of one cross-validation.

    Args:
        folder: The data set's folder below nnUNet_preprocessed.
        folds: Numbers to look for.
    Raises:
        InputError: If a file that tells is broken.
    """
    drawn = [each for each in _read_record(folder / RECORD_FILE) if each.kind in DRAWN_KINDS and each.fold in folds]
    if not drawn:
        return ()
    splits = read_splits(folder / SPLITS_FILE)
    still = {each.fold for each in drawn if each.fold < len(splits) and _digest(splits[each.fold]) == each.sha256}
    return tuple(sorted(still))


def recorded_folds(folder: Path) -> list[Fold]:
    """Return what is known of the folds in a data set's splits_final.json: those that this package made.

    Args:
        folder: The data set's folder below nnUNet_preprocessed.
    Raises:
        InputError: If a file is broken.
    """
    file = folder / SPLITS_FILE
    splits = read_splits(file) if file.exists() else []
    known = _read_record(folder / RECORD_FILE)
    return [each for each in known if each.fold < len(splits) and _digest(splits[each.fold]) == each.sha256]


def folds_with_results(dataset: str) -> dict[int, list[Path]]:
    """Return the folds of a data set below nnUNet_results that hold any file, by their numbers.

    Raises:
        InputError: If nnUNet_results is not set.
    """
    if not nnUNet_results.is_set():
        raise InputError(
            "nnUNet_results is not set, so that nobody can tell which folds were trained on; set nnU-Net's three "
            "folders (see: nnunet-attn doctor)"
        )
    found: dict[int, list[Path]] = {}
    for path in sorted((Path(str(nnUNet_results)) / dataset).glob("*/fold_*")):
        number = re.fullmatch(r"fold_(\d+)", path.name)
        if number and any(each.is_file() for each in path.rglob("*")):
            found.setdefault(int(number[1]), []).append(path)
    return found


def _check_results(dataset: str, before: Sequence[Split], after: Sequence[Split]) -> None:
    # nnU-Net trains on a random fifth of the cases where a fold is not in the file: adding it would change that one too
    lost = [
        (fold, folders)
        for fold, folders in sorted(folds_with_results(dataset).items())
        if (fold < max(len(before), len(after)))
        and not (fold < len(before) and fold < len(after) and _same(before[fold], after[fold]))
    ]
    if lost:
        folders = [str(path) for _, paths in lost for path in paths]
        shown = ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if len(folders) > 3 else "")
        numbers = ", ".join(str(fold) for fold, _ in lost)
        which, they = ("fold", "it was") if len(lost) == 1 else ("folds", "they were")
        raise InputError(
            f"{which} {numbers} would hold other cases than those {they} trained on: there are results in {shown}; "
            "move them away first, or leave out --replace to add folds behind those that are there"
        )


def _is_split(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(
        isinstance(entry.get(part), list) and all(isinstance(case, str) for case in entry[part])
        for part in ("train", "val")
    )


def _same(one: Mapping[str, Iterable[str]], other: Mapping[str, Iterable[str]]) -> bool:
    return all(sorted(one[part]) == sorted(other[part]) for part in ("train", "val"))


def _digest(split: Mapping[str, Iterable[str]]) -> str:
    content = json.dumps([sorted(map(str, split[part])) for part in ("train", "val")])
    return hashlib.sha256(content.encode()).hexdigest()


def _fold(number: int, proposal: Proposal) -> Fold:
    split = proposal.split
    sizes = len(split["train"]), len(split["val"])
    return Fold(number, proposal.kind, *sizes, proposal.seed, _digest(split), dict(proposal.settings))


def _without_repeats(folds: Sequence[Fold]) -> list[Fold]:
    unique = {json.dumps(_as_json(each), sort_keys=True): each for each in folds}
    return [each for _, each in sorted(unique.items(), key=lambda item: (item[1].fold, item[0]))]


def _as_json(fold: Fold) -> dict[str, Any]:
    return {**fold.settings, **{key: getattr(fold, key) for key in _RECORD_KEYS}}


def _read_record(file: Path) -> list[Fold]:
    if not file.exists():
        return []
    remedy = f"remove it: it says which fold is which, and the folds themselves are in {SPLITS_FILE}"
    content = read_json(file, remedy)
    try:
        folds = [
            Fold(
                **{key: entry[key] for key in _RECORD_KEYS},
                settings={key: value for key, value in entry.items() if key not in _RECORD_KEYS},
            )
            for entry in content["folds"]
        ]
        if all(isinstance(each.fold, int) and each.fold >= 0 for each in folds):
            return folds
    except (TypeError, KeyError, AttributeError):
        pass
    raise InputError(f"{file} is not what nnunet-attn splits writes; {remedy}")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other run changes splits beside `folder`, so that what was read is still so when it is written.

    The folder above is locked, as no file would have to be made for that. Windows has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    there = next(each for each in folder.absolute().parents if each.is_dir())
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a file system without locks, or a folder that may not be read
            descriptor = os.open(there, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _backup_of(file: Path) -> Path:
    """Return a name that is free, or has the file's content already: no earlier backup is lost."""
    for number in count(1):
        backup = file.with_name(f"{file.name}.bak{'' if number == 1 else number}")
        if not backup.exists() or backup.read_bytes() == file.read_bytes():
            return backup
    raise AssertionError("count does not end")


def _write(contents: Mapping[Path, Any], backup: tuple[Path, Path] | None) -> None:
    """Write JSON files as nnU-Net does, all or none, after a copy of the first file of `backup` to the second."""
    partial = {file: file.with_name(f".{file.name}.{os.getpid()}.part") for file in contents}
    try:
        for file, content in contents.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            partial[file].write_text(json.dumps(content, indent=4, sort_keys=True), encoding="utf-8")
        if backup is not None:
            shutil.copy2(*backup)
        for file, written in partial.items():
            os.replace(written, file)
    except OSError as error:
        raise InputError(
            f"cannot write {', '.join(map(str, contents))} ({error.strerror}); free or allow it"
        ) from error
    finally:
        for written in partial.values():
            written.unlink(missing_ok=True)
