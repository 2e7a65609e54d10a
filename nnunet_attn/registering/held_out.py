"""Which cases are left out, and which are held out for testing: by a list, or drawn."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunet_attn.errors import InputError
from nnunet_attn.registering.model import SourceCase
from nnunet_attn.registering.naming import legal_name, refuse, stem

_LARGEST_SEED = 2**32 - 1  # of NumPy's RandomState


def read_names(file: Path, flag: str = "--test-list") -> tuple[str, ...]:
    """Read names of cases, one a line; endings of files are left out, lines with # are comments.

    Raises:
        InputError: If it cannot be read, is empty or names a case twice.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{flag} {file} cannot be read ({error.strerror}): name a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{flag} {file} is not UTF-8 ({error.reason}): write one case a line") from error
    names: dict[str, int] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        name = stem(line.strip())
        if not name or name.startswith("#"):
            continue
        if names.setdefault(name, number) != number:
            problems.append(f"{file}, line {number}: {name!r} is in line {names[name]} too; keep one of them")
    refuse("lines", problems)
    if not names:
        raise InputError(f"{flag} {file} names no case: write one case a line")
    return tuple(names)


def hold_out_listed(
    cases: Iterable[SourceCase], test: Sequence[str] | None, train: Sequence[str] | None = None
) -> tuple[SourceCase, ...]:
    """Hold out the cases of these names, as they are called in the source or in the new data set.

    Args:
        cases: All cases.
        test: Names of those to hold out. None: none of them.
        train: Names of those to train on; cases that neither list names are left out. None: all others.
    Raises:
        InputError: If one of them is no case or in both lists, or none is left for training.
    """
    given = tuple(cases)
    known = {case.case for case in given}
    held_out = {legal_name(name): name for name in test or ()}
    trained = known - held_out.keys() if train is None else {legal_name(name) for name in train}
    named = [("--test-list", name) for name in test or ()] + [("--train-list", name) for name in train or ()]
    refuse(
        "names",
        [_unknown(name, flag, known) for flag, name in named if legal_name(name) not in known]
        + [f"{held_out[name]!r} is in --test-list and in --train-list; keep one" for name in trained & held_out.keys()],
    )
    _check_rest(len(trained))
    return tuple(
        replace(case, test=case.case in held_out) for case in given if case.case in held_out or case.case in trained
    )


def hold_out_drawn(cases: Iterable[SourceCase], number: int, seed: int) -> tuple[SourceCase, ...]:
    """Hold out a number of cases drawn by a seed, all of a patient or none.

    The same seed, number and cases hold out the same ones. Patients are taken in the order of the draw, as long as the
    rest of the number can still be made of whole patients.

    Raises:
        InputError: If the number is not from 1 to all but one case, or whole patients do not make it.
    """
    given = tuple(cases)
    if number < 1:
        raise InputError(f"--test {number}: hold out 1 case or more, or leave --test out")
    if not 0 <= seed <= _LARGEST_SEED:
        raise InputError(f"--seed {seed}: give a number from 0 to {_LARGEST_SEED}")
    _check_rest(len(given) - number)
    patients: dict[tuple[str, str], list[str]] = {}
    for case in sorted(given, key=lambda case: case.case):
        # a case without patient is one of its own, which no patient's name may meet
        key = ("case", case.case) if case.patient is None else ("patient", case.patient)
        patients.setdefault(key, []).append(case.case)
    groups = list(patients.values())
    # RandomState, as in nnU-Net: NumPy keeps its numbers the same in all versions
    order = [groups[index] for index in np.random.RandomState(seed).permutation(len(groups))]
    # bit n of makeable[i] says whether whole patients from i on make n cases
    makeable = [1]
    for group in reversed(order):
        makeable.insert(0, makeable[0] | makeable[0] << len(group))
    if not makeable[0] >> number & 1:
        near = [n for n in range(1, len(given)) if makeable[0] >> n & 1]
        raise InputError(
            f"--test {number}: all cases of a patient are held out together, and whole patients do not make {number}; "
            + (f"ask for --test {min(near, key=lambda n: abs(n - number))}" if near else "there is one patient only")
        )
    drawn: set[str] = set()
    for position, group in enumerate(order, start=1):
        left = number - len(drawn)
        if len(group) <= left and makeable[position] >> (left - len(group)) & 1:
            drawn.update(group)
    return tuple(replace(case, test=case.case in drawn) for case in given)


def _unknown(name: str, flag: str, known: Collection[str]) -> str:
    return f"{name!r} of {flag} is no case; cases are called as {min(known, default='')!r}"


def _check_rest(left: int) -> None:
    if left < 1:
        raise InputError("no case would be left for training: hold out fewer")
