"""Splits of a data set: cross-validation, repeated, or with few labelled cases, in its splits_final.json."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_attn.datasets.splits_cases import LabelledCases, find_cases
from nnunet_attn.datasets.splits_files import SPLITS_FILE, Proposal, Split, SplitsReport, change_splits, read_splits
from nnunet_attn.datasets.splits_folds import NNUNET_FOLDS, NNUNET_SEED, cross_validation, rare_strata
from nnunet_attn.datasets.splits_groups import CASES_FILE, patients_of, registered_patients, strata_of
from nnunet_attn.datasets.splits_reduced import reduced_split
from nnunet_attn.datasets.splits_repeated import repeated_splits
from nnunet_attn.errors import InputError


def add_cross_validation(
    dataset: str,
    folds: int = NNUNET_FOLDS,
    seed: int = NNUNET_SEED,
    *,
    groups: str | Path | None = None,
    stratify: str | Path | None = None,
    replace: bool = False,
    dry_run: bool = False,
    processes: int = 4,
) -> SplitsReport:
    """Bring the folds of a cross-validation into a data set's splits_final.json.

    Without `groups` and `stratify` they are nnU-Net's, and a new file is the one that nnU-Net makes, byte for byte.

    Args:
        dataset: Name or number of the data set, raw or preprocessed.
        folds: Number of folds.
        seed: Seed of the choice; nnU-Net's by default.
        groups: Keeps all cases of a patient in one fold: a CSV with the columns case and patient, or `REGISTERED`.
        stratify: "site", "size", or a CSV with the columns case and stratum.
        replace: Replace all folds that are there, instead of adding behind them.
        dry_run: Write nothing.
        processes: Processes that read labels for "size".
    Raises:
        InputError: If an argument is out of its range, a file is missing or broken, or a fold with results would
            change; nothing is written then.
    """
    found = find_cases(dataset)
    patients = None if groups is None else patients_of(found, groups)
    strata = None if stratify is None else strata_of(found, stratify, folds, processes)
    splits = cross_validation(found.cases, folds, seed, patients, strata)
    notes = [
        f"stratum {stratum} has {number} cases, too few to be in each of {folds} folds"
        for stratum, number in (rare_strata(found.cases, strata, folds) if strata else {}).items()
    ]
    shared = {"folds": folds, **_named(groups=groups, stratified_by=stratify)}
    proposals = [
        Proposal(split, "cross-validation", seed, {**shared, "part": part}) for part, split in enumerate(splits)
    ]
    return _change(found, proposals, patients, notes, replace=replace, dry_run=dry_run)


def add_repeated_splits(
    dataset: str,
    repetitions: int,
    training: int,
    test: int,
    seed: int = 0,
    *,
    groups: str | Path | None = None,
    replace: bool = False,
    dry_run: bool = False,
) -> SplitsReport:
    """Bring repeated random splits into a data set's splits_final.json; the test cases are nnU-Net's validation cases.

    Args:
        dataset: Name or number of the data set, raw or preprocessed.
        repetitions: How many splits.
        training: Cases to train on; with `groups`, patients.
        test: Cases to test on; with `groups`, patients.
        seed: Seed of the choice.
        groups: As of `add_cross_validation`.
        replace: As of `add_cross_validation`.
        dry_run: Write nothing.
    Raises:
        InputError: As `add_cross_validation`.
    """
    found = find_cases(dataset)
    patients = None if groups is None else patients_of(found, groups)
    units = found.cases if patients is None else sorted(set(patients.values()))
    splits = [_cases_of(split, patients) for split in repeated_splits(units, repetitions, training, test, seed)]
    shared = {"repetitions": repetitions, "train": training, "test": test, **_named(groups=groups)}
    proposals = [Proposal(split, "repeated", seed, {**shared, "part": part}) for part, split in enumerate(splits)]
    return _change(found, proposals, patients, (), replace=replace, dry_run=dry_run)


def add_reduced_splits(
    dataset: str,
    labels: Sequence[int],
    seed: int = 0,
    *,
    groups: str | Path | None = None,
    dry_run: bool = False,
) -> SplitsReport:
    """Add splits with few labelled cases to a data set's splits_final.json, behind those that are there.

    What is in the file stays as it is; a file that does not exist yet is made as nnU-Net makes it. Cases are chosen
    from those of fold 0, training and validation together: all cases, unless the user's own splits leave some out.

    Args:
        dataset: Name or number of the data set, raw or preprocessed.
        labels: Numbers of labelled cases, each from 2 to all; with `groups`, of patients.
        seed: Seed of the choice.
        groups: As of `add_cross_validation`.
        dry_run: Write nothing.
    Raises:
        InputError: As `add_cross_validation`.
    """
    if len(set(labels)) < len(labels) or not labels:
        raise InputError(f"--labels {' '.join(map(str, labels))}: give each number once, and at least one")
    found = find_cases(dataset)
    file = found.folder / SPLITS_FILE
    first = read_splits(file) if file.exists() else _nnunets_own(found)
    if not first:
        raise InputError(f"{found.place} has {len(found.cases)} cases; nnU-Net's five folds need 5 at least")
    cases = sorted({*first[0]["train"], *first[0]["val"]})
    if missing := sorted(set(cases) - set(found.cases)):
        raise InputError(
            f"{file}: fold 0 names {missing[0]}, which is not among the {len(found.cases)} cases of {found.place}; "
            "mend the file, or preprocess the data set again"
        )
    patients = None
    if groups is not None:
        known = patients_of(found, groups)
        patients = {case: known[case] for case in cases}
    units = cases if patients is None else sorted(set(patients.values()))
    proposals = [
        Proposal(
            _cases_of(reduced_split(units, number, seed), patients),
            "reduced",
            seed,
            {"labels": number, **_named(groups=groups)},
        )
        for number in labels
    ]
    return _change(found, proposals, patients, (), first=first, dry_run=dry_run, cases=len(cases))


def _change(
    found: LabelledCases,
    proposals: Sequence[Proposal],
    patients: Mapping[str, str] | None,
    notes: Sequence[str],
    *,
    cases: int | None = None,
    **settings: Any,
) -> SplitsReport:
    if patients is None and (parted := _parted_patients(found, proposals)):
        notes = [
            *notes,
            f"{parted} patients have cases on both sides of one of these splits; keep each on one side: --groups",
        ]
    number = len(found.cases) if cases is None else cases
    own = _nnunets_own(found)
    report = change_splits(found.folder, proposals, number, nnunets_own=own, notes=notes, **settings)
    return dataclasses.replace(report, patients=patients)


def _nnunets_own(found: LabelledCases) -> list[Split]:
    return cross_validation(found.cases) if len(found.cases) >= NNUNET_FOLDS else []


def _cases_of(split: Split, patients: Mapping[str, str] | None) -> Split:
    """Turn a split of patients into one of cases."""
    if patients is None:
        return split
    return {
        part: sorted(case for case, patient in patients.items() if patient in names) for part, names in split.items()
    }


def _parted_patients(found: LabelledCases, proposals: Sequence[Proposal]) -> int:
    """Return how many of the patients that were registered with the data set are on both sides of a split."""
    if found.raw is None or not (found.raw / CASES_FILE).is_file():
        return 0
    patients = registered_patients(found)
    parted = [
        {patients[case] for case in each.split["train"]} & {patients[case] for case in each.split["val"]}
        for each in proposals
    ]
    return len(set().union(*parted))


def _named(**sources: str | Path | None) -> dict[str, str]:
    return {name: str(source) for name, source in sources.items() if source is not None}
