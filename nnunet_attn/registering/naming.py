"""Names of cases: from file names, legal for nnU-Net, each only once."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from nnunet_attn.errors import InputError
from nnunet_attn.registering.model import Registration, SourceCase
from nnunet_attn.registering.reading import ending_of

SHOWN = 10
"""That many problems are listed at once; behind them stands their number."""

WITHOUT_IMAGE = "; add the image, or leave the label out"
"""What to do about a label without image."""

LONGEST_CASE, LONGEST_NAME = 240, 120
"""Bytes of a case's and of a data set's name. File systems take 255 with `_0000.nii.gz`, or what is around them."""

_LABEL_WORDS = "segmentation|seg|masks?|labels?|gt|ground_?truth|manual|annotation|anno|contours?"
_LABEL_SUFFIX = re.compile(rf"(.+?)[_\-. ](?:{_LABEL_WORDS})", re.IGNORECASE)
_TRAINING = frozenset({"train", "training", "tr", "imagestr"})
_HELD_OUT = frozenset({"test", "testing", "ts", "imagests"})


@dataclass(frozen=True)
class Found:
    """The cases of a source.

    Args:
        cases: In order of their names, which are legal and differ.
        channel_names: In order of each case's images; None where nothing tells.
        splits: Whether the source itself says which cases are held out.
        notes: What the user should know.
    """

    cases: tuple[SourceCase, ...]
    channel_names: tuple[str, ...] | None = None
    splits: bool = False
    notes: tuple[str, ...] = ()


class LeftOut:
    """Names of cases to leave out, as they are called in the source or in the new data set.

    It remembers which cases it dropped, so that a name of no case can be told.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._wanted = {legal_name(name): name for name in names}
        self._dropped: set[str] = set()

    def names(self, case: str) -> bool:
        """Tell whether a case of this name is to be left out."""
        return legal_name(case) in self._wanted

    def drops(self, case: str) -> bool:
        """Tell whether the case of this name is left out, and remember that it was there."""
        if self.names(case):
            self._dropped.add(legal_name(case))
        return self.names(case)

    def kept(self, cases: Sequence[SourceCase]) -> tuple[SourceCase, ...]:
        """Return the cases that are not left out.

        Raises:
            InputError: If a name is neither of these nor was dropped before, or nothing is kept.
        """
        left = tuple(case for case in cases if not self.drops(case.case))
        known = min((legal_name(case.case) for case in cases), default="")
        refuse(
            "names",
            [
                f"{given!r} of --leave-out is no case" + (f"; cases are called as {known!r}" if known else "")
                for name, given in self._wanted.items()
                if name not in self._dropped
            ],
        )
        if self._dropped and not left:
            raise InputError("--leave-out names every case: keep some")
        return left


def counted(number: int, what: str) -> str:
    """Return a number of things, in words: `1 case`, `2 cases`."""
    return f"{number} {what}{'s' * (number != 1)}"


def stem(name: str) -> str:
    """Return a file's name without the ending of an image: `a.1.nii.gz` -> `a.1`; accents as one letter each (NFC).

    Some systems store them as two, so that what looks the same, such as an image's and its label's name, differs.
    """
    return unicodedata.normalize("NFC", name[: len(name) - len(ending_of(Path(name)) or "")])


def is_image_name(name: str) -> bool:
    """Tell whether a file of this name may be an image, by its ending."""
    return ending_of(Path(name)) is not None


def legal_name(name: str) -> str:
    """Return the name that a case gets: letters, digits, `_`, `-` and `.`; all else becomes `_`."""
    return re.sub(r"[^\w.\-]+", "_", unicodedata.normalize("NFC", name).strip()).lstrip(".")


def finished(
    cases: Iterable[SourceCase],
    channel_names: tuple[str, ...] | None = None,
    splits: bool = False,
    notes: Iterable[str] = (),
    left_out: LeftOut | None = None,
) -> Found:
    """Give cases their legal names, in order, without those that are left out.

    Raises:
        InputError: If there are none, two would have the same name, or one that is to be left out is not there.
    """
    given = list(cases)
    left_out = left_out or LeftOut()
    if not given:
        left_out.kept(())
        raise InputError("there are no cases to register: name a source that holds some")
    renamed = [replace(case, case=legal_name(case.case)) for case in given]
    counts = Counter(case.case for case in renamed)
    problems: dict[str, str] = {}
    for name in [name for name, count in counts.items() if count > 1]:
        same = [old for old, new in zip(given, renamed, strict=True) if new.case == name]
        problems[name] = (
            f"{name!r} would be the name of {len(same)} cases ({same[0].case!r} of {same[0].images[0]}, "
            f"{same[1].case!r} of {same[1].images[0]}); give them names that differ in letters or digits"
        )
    nameless = [old for old, new in zip(given, renamed, strict=True) if not new.case]
    problems.update(
        {old.case: f"{old.case!r} ({old.images[0]}) has no letter or digit in its name" for old in nameless}
    )
    refuse("cases", list(problems.values()))
    kept = left_out.kept(renamed)
    changed = [(old.case, new.case) for old, new in zip(given, renamed, strict=True) if old.case != new.case]
    told = list(notes)
    if changed:
        some = ", ".join(f"{old!r} -> {new!r}" for old, new in changed[:3])
        told.append(
            f"made legal for nnU-Net: {counted(len(changed), 'name')} of cases, {some}" + ", ..." * (len(changed) > 3)
        )
    return Found(tuple(sorted(kept, key=lambda case: case.case)), channel_names, splits, tuple(told))


def refuse(what: str, problems: Sequence[str]) -> None:
    """Raise one error that lists what is wrong, the first ten; nothing wrong is no error.

    Raises:
        InputError: If there is a problem.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise InputError(problems[0])
    lines = [f"\n  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"\n  ... and {len(problems) - SHOWN} more")
    raise InputError(f"{len(problems)} {what} are refused:{''.join(lines)}")


def check_lengths(request: Registration) -> None:
    """Refuse names that no file system would take with all that is put around them.

    Raises:
        InputError: If the data set's name or that of a case is too long.
    """
    if len(request.name.encode()) > LONGEST_NAME:
        raise InputError(
            f"the data set's name has {len(request.name.encode())} bytes ({request.name[:40]}...); give one of "
            f"{LONGEST_NAME} at most"
        )
    refuse(
        "cases",
        [
            f"{case.case[:40]}...: the case's name has {len(case.case.encode())} bytes; rename it to have "
            f"{LONGEST_CASE} at most"
            for case in request.cases
            if len(case.case.encode()) > LONGEST_CASE
        ],
    )


def held_out(value: str, where: str) -> bool:
    """Tell whether a word such as `train` or `test` holds a case out.

    Raises:
        InputError: If it is another word; `where` says where it stands.
    """
    word = value.strip().casefold()
    if word in _TRAINING | _HELD_OUT:
        return word in _HELD_OUT
    remedy = "write train or test; or leave it out, and name the held-out cases by --test-list"
    if word.startswith("val"):
        remedy = "nnU-Net takes its validation cases from those for training: write train"
    raise InputError(f"{where}: the split {value!r} is neither train nor test; {remedy}")


def label_names(name: str) -> tuple[str, ...]:
    """Return what the case of a label of this name may be called: the same, or that without a suffix such as `_seg`."""
    shorter = _LABEL_SUFFIX.fullmatch(name)
    return (name, shorter[1]) if shorter else (name,)


def matched_labels(cases: Collection[str], labels: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Return the labels of each case: of its own name, or of its name with a suffix such as `_seg` or `-label`.

    Args:
        cases: Names.
        labels: File by its name without ending. Those that belong to no case are left out.
    """
    found: dict[str, list[Path]] = {}
    for name, file in labels.items():
        case = next((each for each in label_names(name) if each in cases), None)
        if case is not None:
            found.setdefault(case, []).append(file)
    return found


def ordered_channels(
    values: Collection[str], asked: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return what tells a source's channels apart, in their order, and their names; None where nothing names them.

    Args:
        values: What tells the channels apart, for example `t1` and `flair`, or numbers, or `""` for a single channel.
            Names keep their order, numbers are sorted.
        asked: Names wanted, each `NAME`, or `VALUE=NAME` to say whose it is.
        where: Where the values stand, for the message.
    Raises:
        InputError: If the names do not fit the values.
    """
    order = tuple(values)
    numbered = all(value.isdecimal() for value in order)
    if numbered:
        order = tuple(sorted(order, key=int))
    if asked is None:
        return order, None if numbered or order == ("",) else order
    pairs = [name.split("=", 1) for name in asked]
    if any(len(pair) == 2 for pair in pairs):
        given = {pair[0]: pair[-1] for pair in pairs}
        if all(len(pair) == 2 for pair in pairs) and len(given) == len(pairs) and given.keys() == set(order):
            return tuple(given), tuple(given.values())
        _no_fit(asked, order, where)
    if order == ("",):
        return order, tuple(asked)
    if numbered:
        return (order, tuple(asked)) if len(asked) == len(order) else _no_fit(asked, order, where)
    folded = {value.casefold(): value for value in order}
    if len(folded) == len(order) == len(asked) and {name.casefold() for name in asked} == folded.keys():
        return tuple(folded[name.casefold()] for name in asked), tuple(asked)
    _no_fit(asked, order, where)


def _no_fit(asked: Sequence[str], order: Sequence[str], where: str) -> NoReturn:
    example = " ".join(f"{value}=NAME" for value in order)
    raise InputError(
        f"--channels {' '.join(asked)} does not fit {where}, which has {', '.join(order) or 'a single channel'}; "
        f"say which is which: --channels {example if order != ('',) else 'NAME'}"
    )
