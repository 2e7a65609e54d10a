"""What can be wrong with a request before a file is read, and between cases after all were read."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.registering.faults import check_path
from nnunet_attn.registering.inspecting import CaseFacts
from nnunet_attn.registering.labels import check_labels
from nnunet_attn.registering.model import Registration, SourceCase
from nnunet_attn.registering.naming import refuse

LINKS = ("hard", "symbolic")


def check_request(request: Registration) -> None:
    """Check what can be checked without reading images.

    Raises:
        InputError: If the number, the name, a case's name or the labels break a rule of nnU-Net's, a file is missing,
            two cases have one name or one label, or a patient is in both splits.
    """
    if not 1 <= request.dataset_id <= 999:
        raise InputError(f"dataset_id={request.dataset_id}: nnU-Net's numbers go from 1 to 999")
    if not re.fullmatch(r"\w+", request.name):
        raise InputError(f"name={request.name!r}: a data set's name is made of letters, digits and underscores")
    if request.link not in (None, *LINKS):
        raise InputError(f"link={request.link!r}: links are {' or '.join(LINKS)}")
    if request.labels is not None and not request.unlabeled:
        check_labels(request.labels, request.regions_class_order)
    _check_channel_names(request.channel_names)
    if not any(not case.test for case in request.cases):
        raise InputError(f"{len(request.cases)} cases are given, none of them for training; name some to train on")
    _check_names(request.cases)
    refuse("cases", [problem for case in request.cases if (problem := _incomplete(case, request.unlabeled))])
    if not request.unlabeled:
        _check_label_files(request.cases)
    _check_patients(request.cases)


def _check_channel_names(names: Sequence[str] | None) -> None:
    if names is None:
        return
    if not names or any(not name.strip() for name in names):
        raise InputError(f"channel names {list(names)}: give each channel a name, such as CT or T1")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"two channels are called {twice[0]!r}; give each a name of its own")


def _check_names(cases: Sequence[SourceCase]) -> None:
    # files whose names differ in capitals, or in how accents are stored, are one file on some systems
    counts = Counter(_folded(case.case) for case in cases)
    problems = []
    for name, count in counts.items():
        if count > 1:
            same = [case for case in cases if _folded(case.case) == name]
            files = ", ".join(str(path) for case in same[:3] for path in case.images[:1])
            problems.append(f"{same[0].case}: {count} cases have this name ({files}); give each a name of its own")
    problems += [
        f"{case.case!r}: a case's name is made of letters, digits and _ - . and starts with no dot; rename it"
        for case in cases
        if not re.fullmatch(r"(?!\.)[\w.\-]+", case.case)
    ]
    refuse("cases", problems)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _incomplete(case: SourceCase, unlabeled: bool) -> str | None:
    """Return what a case lacks, None if all its files are there."""
    if not case.images:
        return f"{case.case}: it has a label, but no image; add the image or leave out the label"
    if case.channels_in_file and len(case.images) != 1:
        return f"{case.case}: {len(case.images)} files, but all channels are said to be in one; give that one"
    files = list(case.images)
    if not unlabeled:
        if case.label is None and not case.test:
            return f"{case.case}: its image has no label; add one, leave out the case, or register with --unlabeled"
        if case.label is not None:
            files += [case.label] if isinstance(case.label, Path) else case.label.files
    try:
        for file in files:
            check_path(file)
    except InputError as error:
        return f"{case.case}: {error}"
    missing = next((file for file in files if not os.path.exists(file)), None)  # Path.exists may fail on permissions
    if missing is not None:
        return f"{case.case}: {missing} does not exist; correct the path or leave out the case"
    folder = next((file for file in files[len(case.images) :] if isinstance(case.label, Path) and file.is_dir()), None)
    if folder is not None:
        return f"{case.case}: the label {folder} is a folder; give a label map in one file"
    return None


def _check_label_files(cases: Sequence[SourceCase]) -> None:
    """Check that each label map is of one case, and no image: a slip in a table or a pattern."""
    images = {os.path.realpath(path): case.case for case in cases for path in case.images}
    first: dict[str, str] = {}
    problems = []
    for case in cases:
        if not isinstance(case.label, Path):
            continue
        file = os.path.realpath(case.label)
        if file in images:
            problems.append(f"{case.case}: its label {case.label} is the image of {images[file]}; give its label")
        elif first.setdefault(file, case.case) != case.case:
            problems.append(f"{case.case}: {case.label} is the label of {first[file]} too; give each case its own")
    refuse("cases", problems)


def _check_patients(cases: Sequence[SourceCase]) -> None:
    splits: dict[str, dict[bool, str]] = {}
    for case in cases:
        if case.patient is not None:
            splits.setdefault(case.patient, {}).setdefault(case.test, case.case)
    refuse(
        "patients",
        [
            f"patient {patient} is in training ({first[False]}) and in test ({first[True]}); a patient's cases belong "
            "to one split: move them"
            for patient, first in splits.items()
            if len(first) == 2
        ],
    )


def same_images(facts: Sequence[CaseFacts], tests: Mapping[str, bool]) -> tuple[str, ...]:
    """Return warnings on images that are there more than once; images of a single value do not count.

    Args:
        facts: Of all cases.
        tests: Name of a case -> whether it is held out.
    Raises:
        InputError: If one is in training and in test.
    """
    places: dict[str, list[str]] = {}
    for case in facts:
        for image in case.images:
            if image.minimum == image.maximum:  # such as zeros in place of a missing channel
                continue
            places.setdefault(image.sha256, []).append(case.case)
    groups = [cases for cases in places.values() if len(cases) > 1]
    refuse(
        "images",
        [
            f"{', '.join(dict.fromkeys(cases))}: the same image is in training and in test; leave one out, or put both "
            "into one split"
            for cases in groups
            if len({tests[case] for case in cases}) == 2
        ],
    )
    told = [
        f"{cases[0]}: two of its channels are the same image"
        if len(set(cases)) == 1
        else f"{named(list(dict.fromkeys(cases)))} have the same image; folds may put them on both sides"
        for cases in groups
    ]
    return tuple(told[:10]) + ((f"{len(told) - 10} more images are there twice",) if len(told) > 10 else ())


def same_labels(facts: Sequence[CaseFacts]) -> tuple[str, ...]:
    """Return warnings on label maps, with foreground, that cases of different images share."""
    places: dict[str, list[CaseFacts]] = {}
    for case in facts:
        if case.label is not None and case.label.sha256 is not None:
            places.setdefault(case.label.sha256, []).append(case)
    told = [
        f"{named([case.case for case in cases])} have the same label; look whether each has its own"
        for cases in places.values()
        if len({tuple(image.sha256 for image in case.images) for case in cases}) > 1
    ]
    return tuple(told[:10]) + ((f"{len(told) - 10} more labels are there twice",) if len(told) > 10 else ())


def mixed(what: str, found: Mapping[str, Sequence[str]], remark: str) -> tuple[str, ...]:
    """Return a warning if cases differ in something.

    Args:
        what: Such as "orientations".
        found: What was found -> names of the cases.
        remark: What it means.
    """
    if len(found) < 2:
        return ()
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    told = [f"{ordered[0][0]} in {len(ordered[0][1])} cases"]
    told += [f"{name} in {len(cases)} ({named(cases)})" for name, cases in ordered[1:]]
    return (f"{what} differ: {', '.join(told)}; {remark}",)


def named(cases: Sequence[str], most: int = 5) -> str:
    """Return the names of some cases, and how many more there are."""
    return ", ".join(cases[:most]) + (f" and {len(cases) - most} more" if len(cases) > most else "")
