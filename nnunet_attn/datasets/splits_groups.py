"""What splits respect: which cases are of one patient, and which stratum each is of: site, size, or the user's own."""

import csv
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from nnunet_attn.datasets.splits_cases import LabelledCases
from nnunet_attn.datasets.subset import read_description
from nnunet_attn.errors import InputError
from nnunet_attn.json_files import read_json

CASES_FILE = "nnunet_attn_cases.json"
"""Beside dataset.json in the raw data set: patient and site of each case, as `nnunet-attn register` writes them."""

REGISTERED = "registered"
SITE, SIZE = "site", "size"

_SIZE_STRATA = 4


def patients_of(found: LabelledCases, source: str | Path) -> dict[str, str]:
    """Return case -> patient.

    Args:
        found: The cases.
        source: CSV with the columns case and patient, or `REGISTERED` for what was registered with the data set.
    Raises:
        InputError: If the file is missing or broken, or does not name every case, or no patient was registered.
    """
    if source != REGISTERED:
        return read_column(Path(source), ("patient",), found.cases, "--groups")
    patients = registered_patients(found)
    if all(patient == _own(case) for case, patient in patients.items()):
        raise InputError(
            f"--groups: none of the {len(found.cases)} cases has a patient in {CASES_FILE}; give a file: --groups "
            "FILE.csv with the columns case and patient"
        )
    return patients


def registered_patients(found: LabelledCases) -> dict[str, str]:
    """Return case -> patient as registered with the data set; a case without one is a patient of its own.

    Raises:
        InputError: If nothing was registered, or the file is broken.
    """
    entries = _registered(found, "--groups FILE.csv with the columns case and patient")
    return {case: str(entries[case].get("patient") or _own(case)) for case in found.cases}


def _own(case: str) -> str:
    return f"case {case}"


def strata_of(found: LabelledCases, source: str | Path, folds: int, processes: int = 4) -> dict[str, str]:
    """Return case -> stratum.

    Args:
        found: The cases.
        source: `SITE`, as registered with the data set; `SIZE`, quarters of the cases by volume of their labels; or a
            CSV with the columns case and stratum, or case and site.
        folds: Number of folds that are stratified.
        processes: Processes that read labels.
    Raises:
        InputError: If the file is missing or broken, or does not name every case.
    """
    if source == SIZE:
        return size_strata(foreground_volumes(found, processes), folds)
    if source != SITE:
        if not Path(source).suffix and not Path(source).exists():
            raise InputError(
                f"--stratify {source}: choose from {SITE}, {SIZE}, or give a FILE.csv with the columns case and stratum"
            )
        return read_column(Path(source), ("stratum", "site"), found.cases, "--stratify")
    entries = _registered(found, "--stratify FILE.csv with the columns case and site")
    missing = [case for case in found.cases if not entries[case].get("site")]
    if missing:
        raise InputError(
            f"--stratify site: {len(missing)} cases have no site in {CASES_FILE}, the first is {missing[0]}; give a "
            "file: --stratify FILE.csv with the columns case and site"
        )
    return {case: str(entries[case]["site"]) for case in found.cases}


def size_strata(volumes: Mapping[str, float], folds: int) -> dict[str, str]:
    """Return case -> quarter of the cases by volume; fewer parts where each would have fewer cases than `folds`."""
    parts = max(1, min(_SIZE_STRATA, len(volumes) // folds))
    ordered = sorted(volumes, key=lambda case: (volumes[case], case))
    chunks = np.array_split(np.arange(len(ordered)), parts)
    return {ordered[index]: f"{part + 1} of {parts}" for part, chunk in enumerate(chunks) for index in chunk}


def foreground_volumes(found: LabelledCases, processes: int = 4) -> dict[str, float]:
    """Return case -> volume of all its labels in mm^3, in 2D area; what is ignored does not count.

    Args:
        found: The cases.
        processes: Processes that read labels.
    Raises:
        InputError: If a label is missing or cannot be read.
    """
    if processes < 1:
        raise InputError(f"-np {processes}: at least 1 process reads the labels")
    description, files = _label_files(found)
    ignored = description.get("labels", {}).get("ignore")
    reader = determine_reader_writer_from_dataset_json(description, str(files[0]), verbose=False)
    words = list(zip(files, repeat(reader), repeat(ignored), strict=False))
    if processes == 1 or len(files) < 4 * processes:  # a new process takes longer to begin than to read a few files
        volumes = [_volume(*each) for each in words]
    else:
        with get_context("spawn").Pool(processes) as pool:
            volumes = pool.starmap(_volume, words)
    return dict(zip(found.cases, volumes, strict=True))


def read_column(file: Path, columns: Sequence[str], cases: Sequence[str], option: str) -> dict[str, str]:
    """Return case -> value of a table's first column of these names; it may have other columns and cases, too.

    Commas, semicolons or tabs are between its cells.

    Raises:
        InputError: If the file cannot be read, has no such columns, two values for a case, or lacks a case.
    """
    wanted = " or ".join(columns)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            heading = stream.readline()
            stream.seek(0)
            rows = csv.DictReader(stream, delimiter=max(",;\t", key=heading.count))
            names = [name.strip() for name in rows.fieldnames or ()]
            rows.fieldnames = names
            column = next((name for name in columns if name in names), None)
            if "case" not in names or column is None:
                raise InputError(
                    f"{option} {file}: its first line must name the columns case and {wanted}; "
                    f"got {', '.join(names) or 'nothing'}"
                )
            values: dict[str, str] = {}
            for row in rows:
                case, value = ((row[name] or "").strip() for name in ("case", column))
                if not value or values.setdefault(case, value) != value:
                    said = f"{values[case]} and {value}" if value else f"no {column}"
                    raise InputError(f"{option} {file}, line {rows.line_num}: {case!r} has {said}; give it one")
    except FileNotFoundError as error:
        raise InputError(
            f"{option}: there is no file {file}; give a text file with the columns case and {wanted}"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{option} {file} cannot be read as CSV ({error}); give a text file, case,{columns[0]}"
        ) from error
    missing = [case for case in cases if case not in values]
    if missing:
        raise InputError(
            f"{option} {file} does not name {len(missing)} of the {len(cases)} cases, the first is {missing[0]}; "
            "add them"
        )
    return {case: values[case] for case in cases}


def _registered(found: LabelledCases, otherwise: str) -> dict[str, Mapping[str, Any]]:
    file = None if found.raw is None else found.raw / CASES_FILE
    if file is None or not file.is_file():
        raise InputError(
            f"{file or CASES_FILE} does not exist: it tells patients and sites of a data set that nnunet-attn register "
            f"made; give them as {otherwise}"
        )
    content = read_json(file, f"mend it, or give {otherwise}")
    entries = content.get("cases") if isinstance(content, Mapping) else None
    for case in found.cases:
        if not isinstance(entries, Mapping) or not isinstance(entries.get(case), Mapping):
            raise InputError(f"{file} says nothing about the case {case}; give {otherwise}")
    assert isinstance(entries, Mapping)
    return dict(entries)


def _label_files(found: LabelledCases) -> tuple[dict[str, Any], list[Path]]:
    """Return a dataset.json and the label of each case: nnU-Net's copies beside the preprocessed data, or the raw."""
    missing = None
    places = ((found.folder, "gt_segmentations"), (found.raw, "labelsTr"))
    for root, labels in places:
        if root is None or not (root / labels).is_dir():
            continue
        description = read_description(root)
        named = description.get("dataset", {}) if root == found.raw else {}
        ending = description["file_ending"]
        files = [root / (named[case]["label"] if case in named else f"{labels}/{case}{ending}") for case in found.cases]
        try:
            missing = next((each for each in files if not each.is_file()), None)
        except OSError as error:  # it is there, but may not be looked into
            raise InputError(
                f"--stratify size: {root / labels} cannot be read ({error.strerror}); allow it, or give a file: "
                "--stratify FILE.csv"
            ) from error
        if missing is None:
            return description, files
    looked = [str(missing)] if missing else [str(root / labels) for root, labels in places if root is not None]
    lacking = f"{looked[0]} is missing" if len(looked) == 1 else f"{' and '.join(looked)} are missing"
    raise InputError(
        f"--stratify size: {lacking}, so that the size of the labels is not known; put the labels there, or give a "
        "file: --stratify FILE.csv"
    )


def _volume(file: Path, reader: Callable[[], Any], ignored: int | None) -> float:
    try:
        array, properties = reader().read_seg(str(file))
    except Exception as error:  # each of nnU-Net's readers fails with errors of its own
        raise InputError(f"{file} cannot be read ({error}); mend it, or take the case out of the data set") from error
    counted = (array > 0) if ignored is None else (array > 0) & (array != ignored)
    spacing_mm = properties["spacing"]
    # nnU-Net's arrays are (1 z y x), with one slice and a made spacing along z in 2D
    voxel = np.prod(spacing_mm[1:] if array.shape[1] == 1 else spacing_mm)
    return float(np.count_nonzero(counted)) * float(voxel)
