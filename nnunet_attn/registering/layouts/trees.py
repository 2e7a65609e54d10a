"""Reading unpacked downloads: finding their folders, pairing images and labels, dividing cases into two parts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.registering.layouts.contract import LayoutOptions
from nnunet_attn.registering.model import SourceCase
from nnunet_attn.registering.naming import counted

DEPTH = 3
"""How many folders deep an archive may have been unpacked: archives often hold a folder of their own name."""

_SHOWN = 6
"""How many names a message shows."""

_NOT_DATA = "__MACOSX"  # what macOS adds to archives


@dataclass(frozen=True)
class PaperSplit:
    """How many cases a paper trained and tested on; none of them prints which."""

    papers: str
    train: int
    test: int


def checked_folder(folder: Path, layout: str) -> Path:
    """Return the folder.

    Raises:
        InputError: If there is no such folder.
    """
    if not folder.is_dir():
        found = "is a file" if folder.is_file() else "does not exist"
        raise InputError(f"{folder} {found}; layout {layout} reads the folder that the download was unpacked to")
    return folder


def chosen(given: str | None, choices: Sequence[str], flag: str, layout: str) -> str:
    """Return the choice that was given, in small letters, or the first.

    Raises:
        InputError: If it is not among the choices.
    """
    if given is None:
        return choices[0]
    if given.lower() not in choices:
        raise InputError(f"{flag} {given!r}: layout {layout} has {', '.join(choices)}; choose one of them")
    return given.lower()


def no_choice(options: LayoutOptions, layout: str, labels: bool = True, modality: bool = True) -> None:
    """Refuse options that a layout does not have.

    Args:
        options: What the user chose.
        layout: Name of the layout.
        labels: Whether the layout has one reading of the labels only.
        modality: Whether it has one kind of images only.
    Raises:
        InputError: If one was chosen nevertheless.
    """
    given = {"--labels": options.labels if labels else None, "--modality": options.modality if modality else None}
    for flag, value in given.items():
        if value is not None:
            raise InputError(f"{flag} {value!r}: layout {layout} has one kind only; leave {flag} out")


def shown(names: Iterable[str]) -> str:
    """Return the first of some names, for a message, and how many more there are."""
    listed = sorted(names)
    rest = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + rest if listed else "nothing"


def find_root(folder: Path, wanted: Sequence[str], layout: str) -> Path:
    """Return the folder that holds all of `wanted`: the given one, or the only one at the least depth below it.

    Args:
        folder: Where the user unpacked the download.
        wanted: Paths that must exist below it.
        layout: Name of the layout.
    Raises:
        InputError: If there is no such folder, or several.
    """
    for level in levels(checked_folder(folder, layout)):
        found = [each for each in level if all((each / path).exists() for path in wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{folder} has {len(found)} folders in the layout {layout} ({shown(map(str, found))}); give one of them"
            )
    raise missing_tree(folder, " and ".join(wanted), layout)


def levels(folder: Path) -> Iterator[list[Path]]:
    """Return the folder, then all folders in it, then all folders in these, as deep as is looked."""
    level = [folder]
    for _ in range(DEPTH + 1):
        yield level
        level = [below for each in level for below in folders(each)]


def missing_tree(folder: Path, wanted: str, layout: str) -> InputError:
    """Return the error that says what was looked for in a folder, what there is, and what to do."""
    there = [each.name + "/" * each.is_dir() for each in entries(folder)]
    return InputError(
        f"{folder}: layout {layout} looks for {wanted} in it, or up to {DEPTH} folders below, and found "
        f"{shown(there)}; give the folder that the download was unpacked to (see docs/reference/layouts.md)"
    )


def folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones, in order."""
    return [each for each in entries(folder) if each.is_dir() and each.name[0] != "." and each.name != _NOT_DATA]


def entries(folder: Path) -> list[Path]:
    """Return all that is in a folder, in order.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): allow it, or name another folder") from error


def named_files(folder: Path, endings: Sequence[str] = (".nii.gz",)) -> dict[str, Path]:
    """Return the files of some endings in a folder by their names without the ending, in order; none without folder.

    Hidden ones are left out, among them the `._` files of macOS, which end like images and are none.

    Raises:
        InputError: If two files differ only in their ending.
    """
    found: dict[str, Path] = {}
    for file in entries(folder) if folder.is_dir() else []:
        ending = next((each for each in endings if file.name.lower().endswith(each)), None)
        if ending is None or file.name[0] == "." or not file.is_file():
            continue
        name = file.name[: -len(ending)]
        if name in found:
            raise InputError(f"{file} and {found[name].name} are the same case twice; remove one of them")
        found[name] = file
    return found


def paired(
    images: Mapping[str, Path], labels: Mapping[str, Path], expected_label: str, expected_image: str
) -> list[tuple[str, Path, Path]]:
    """Return name, image and label of each case.

    Args:
        images: Images by the names of their cases.
        labels: Labels by the same names.
        expected_label: Where the label of the case `{case}` should be, for the message.
        expected_image: Where its image should be.
    Raises:
        InputError: If a case lacks one of them; the message names it.
    """
    for have, lack, what, expected in (
        (images, labels, "label", expected_label),
        (labels, images, "image", expected_image),
    ):
        if missing := sorted(set(have) - set(lack)):
            first = expected.format(case=missing[0])
            raise InputError(
                f"{len(missing)} of {len(have)} cases have no {what} ({shown(missing)}): {first} is missing; "
                "unpack all of the download, or take the files of these cases out of it"
            )
    return [(name, image, labels[name]) for name, image in sorted(images.items())]


def divided(
    cases: Sequence[SourceCase], options: LayoutOptions, paper: PaperSplit | None = None
) -> tuple[tuple[SourceCase, ...], tuple[str, ...]]:
    """Return the cases as they are to be registered, and what there is to say about their division.

    Lists of the user's choose from all labelled cases. Without a list of test cases the data set's own are held out,
    where some have labels; else images without labels are for testing.

    Args:
        cases: All cases, divided as the data set itself does it.
        options: The user's lists.
        paper: How many cases a paper used.
    Raises:
        InputError: If a list names a case that is not there, both lists name one, or nothing is left to train on.
    """
    labelled = {case.case: case for case in cases if case.label is not None}
    test, train = _parts(labelled, options)
    kept = [replace(case, test=name in test) for name, case in labelled.items() if name in test | train]
    if not test and options.test_cases is None:
        kept += [case for case in cases if case.label is None]
    notes = []
    if left_out := len(cases) - len(kept):
        without = sum(case.label is None for case in cases) - sum(case.label is None for case in kept)
        notes.append(
            f"left out: {left_out} of {counted(len(cases), 'case')}"
            + (f", {without} without a label" if without else "")
        )
    counts = [sum(case.test is part for case in kept) for part in (False, True)]
    if paper and counts != [paper.train, paper.test]:
        notes.append(
            f"{counted(counts[0], 'case')} for training and {counts[1]} for testing; {paper.papers} used {paper.train} "
            f"and {paper.test}, and did not print which: name yours by --test-list"
        )
    return tuple(kept), tuple(notes)


def _parts(labelled: Mapping[str, SourceCase], options: LayoutOptions) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the labelled cases for testing and for training."""
    for name, listed in (("test", options.test_cases), ("training", options.train_cases)):
        if unknown := (listed or frozenset()) - labelled.keys():
            raise InputError(
                f"the list of {name} cases names {shown(unknown)}, which {'is' if len(unknown) == 1 else 'are'} not "
                f"among the {len(labelled)} labelled cases ({shown(labelled)}); correct the list"
            )
    own = frozenset(name for name, case in labelled.items() if case.test) - (options.train_cases or frozenset())
    test = own if options.test_cases is None else options.test_cases
    train = frozenset(labelled) - test if options.train_cases is None else options.train_cases
    if both := test & train:
        raise InputError(f"{shown(both)}: listed for training and for testing; take each case out of one of the lists")
    if not train:
        raise InputError(f"the lists leave none of the {len(labelled)} labelled cases to train on; leave some")
    return test, train
