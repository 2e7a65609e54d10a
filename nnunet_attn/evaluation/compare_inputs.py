"""What is compared: seeds brought together, and everything refused that is no fair comparison."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.results import (
    LARGER_IS_BETTER,
    METRICS,
    SURFACE_METRICS,
    VOLUME_METRICS,
    CaseResult,
    Evaluation,
)

Key = tuple[int | None, str]
"""Fold and case: what is paired."""

VALUE_COLUMNS = ("metric", "class", "fold", "case")
"""Of the file of paired values, before one column a method."""

_SHOWN = 5


@dataclass(frozen=True)
class Prepared:
    """Evaluations that may be compared.

    Args:
        evaluations: Method -> one evaluation a seed, all with the cases of `keys` in this order.
        keys: Folds and cases.
        metrics: What is compared, in the order asked for.
        left_out: Evaluation -> its folds and cases that not all others have.
        warnings: What a reader of the comparison has to know.
    """

    evaluations: Mapping[str, tuple[Evaluation, ...]]
    keys: tuple[Key, ...]
    metrics: tuple[str, ...]
    left_out: Mapping[str, tuple[Key, ...]]
    warnings: tuple[str, ...]


def without_seed(trainer: str) -> str:
    """Return a trainer's name without its suffix `_seed<N>`."""
    return "_".join(part for part in trainer.split("_") if not re.fullmatch(r"seed(0|[1-9]\d*)", part))


def grouped_by_method(
    evaluations: Sequence[Evaluation], labels: Sequence[str], names: Sequence[str] | None = None
) -> dict[str, list[Evaluation]]:
    """Bring the seeds of each method together, in the order given.

    Trainers that differ by `_seed<N>` alone, with the same plans and configuration, are one method, called by the name
    without it. What has no known trainer is a method of its own.

    Args:
        evaluations: What is compared.
        labels: How the user named each: a trainer or a folder.
        names: Names to use instead; evaluations of the same name are the seeds of one method.
    Raises:
        InputError: If there is not one name for each, or one folder is given twice.
    """
    if names is not None:
        if len(names) != len(evaluations):
            raise InputError(
                f"--names has {len(names)} names for {len(evaluations)} evaluations; give one for each, in the same "
                "order (the same name for the seeds of one method)"
            )
        if blank := [name for name in names if not name.strip()]:
            raise InputError(f"--names has the name {blank[0]!r}; give a name that can be read in a table")
        found: dict[str, list[Evaluation]] = {}
        for name, evaluation in zip(names, evaluations, strict=True):
            found.setdefault(name, []).append(evaluation)
        return found
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise InputError(f"{twice[0]} is given twice; give each evaluation once")
    groups: dict[tuple[str | None, ...], list[int]] = {}
    for index, evaluation in enumerate(evaluations):
        origin = evaluation.origin
        alike = (origin.plans, origin.configuration, origin.ensemble) if origin.trainer else (labels[index],)
        groups.setdefault((without_seed(origin.trainer) if origin.trainer else None, *alike), []).append(index)
    members: list[tuple[str, list[int]]] = []
    for (stem, *_), indices in groups.items():
        trainers = [evaluations[index].origin.trainer for index in indices]
        if stem is None or len(set(trainers)) < len(trainers):  # one trainer twice: not seeds, but other predictions
            members.extend((_short(labels[index], labels), [index]) for index in indices)
        else:
            members.append((stem if len(indices) > 1 else trainers[0] or stem, indices))
    return {
        name: [evaluations[index] for index in indices] for name, indices in _told_apart(members, evaluations, labels)
    }


def _short(label: str, labels: Sequence[str]) -> str:
    """The fewest last parts of a path with which no other path ends."""
    parts = Path(label).parts
    for count in range(1, len(parts)):
        if sum(Path(other).parts[-count:] == parts[-count:] for other in labels) == 1:
            return "/".join(parts[-count:])
    return label


def _told_apart(
    members: Sequence[tuple[str, list[int]]], evaluations: Sequence[Evaluation], labels: Sequence[str]
) -> list[tuple[str, list[int]]]:
    """Methods of one name get nnU-Net's name of a results folder, or that of the evaluation's, or what was typed.

    The first is TRAINER__PLANS__CONFIGURATION, the second the shortest ending of the path that tells it apart.
    """

    def in_full(name: str, index: int) -> str:
        origin = evaluations[index].origin
        return f"{name}__{origin.plans}__{origin.configuration}"

    def as_typed(_: str, index: int) -> str:
        return labels[index]

    def by_folder(_: str, index: int) -> str:
        return _short(labels[index], labels)

    named = list(members)
    for longer in (in_full, by_folder, as_typed):
        counts = Counter(name for name, _ in named)
        named = [(name if counts[name] == 1 else longer(name, indices[0]), indices) for name, indices in named]
    return named


def check_different(files: Sequence[Path], labels: Sequence[str]) -> None:
    """Check that no evaluation is compared with itself.

    Args:
        files: The files of the evaluations.
        labels: How the user named each.
    Raises:
        InputError: If two of them are one file, however they are spelled.
    """
    known: dict[Path, str] = {}
    for file, label in zip(files, labels, strict=True):
        first = known.get(file.resolve())
        known[file.resolve()] = label
        if first is not None:
            same = f"{label} is given twice" if first == label else f"{first} and {label} are one evaluation"
            raise InputError(f"{same}; give each evaluation once")


def changed_since(evaluation: Evaluation, file: Path, label: str) -> list[str]:
    """Return a warning if predictions or references are no longer the files that were evaluated.

    What is not there any more, or not on this computer, has no warning: nothing tells whether it has changed.

    Args:
        evaluation: What was read from `file`.
        file: To which the names of the others are relative.
        label: How the user named it.
    """
    changed = [case for case in evaluation.cases if _has_changed(case, file.parent)]
    if not changed:
        return []
    named = listed([_place((case.fold, case.case)) for case in changed])
    return [
        f"predictions or references have changed since {label} was evaluated ({named}): its figures are those of "
        "before; evaluate it again"
    ]


def _has_changed(case: CaseResult, folder: Path) -> bool:
    if len(case.stamp) != 4:  # not made by `nnunet-attn evaluate`
        return False
    try:
        stats = [(folder / name).stat() for name in (case.prediction_file, case.reference_file)]
    except OSError:
        return False
    return tuple(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)) != case.stamp


def prepared(
    evaluations: Mapping[str, Sequence[Evaluation]], metrics: Sequence[str] | None = None, common: bool = False
) -> Prepared:
    """Check that evaluations can be compared, and give them the same cases in the same order.

    Args:
        evaluations: Method -> one evaluation a seed; at least two methods.
        metrics: What to compare; None: all that every evaluation has.
        common: Compare the folds and cases that all have, where they have not the same ones.
    Raises:
        InputError: If data set, classes, settings, kind of checkpoint, splits or cases differ; the message says which.
    """
    if len(evaluations) < 2:
        raise InputError(
            f"one method alone ({', '.join(evaluations) or 'none'}) cannot be compared; name another one, or, to "
            "compare the seeds of one method, give each a name of its own with --names"
        )
    if reserved := [name for name in evaluations if name in VALUE_COLUMNS]:
        raise InputError(f"a method cannot be called {reserved[0]!r}, a column of cases.csv; give other --names")
    entries = _entries(evaluations)
    first, *others = entries.items()
    chosen, warnings = _metrics(entries, metrics)
    problems = [problem for other in others for problem in _differences(first, other, chosen)]
    keys = {name: _keys(name, evaluation) for name, evaluation in entries.items()}
    shared = set.intersection(*(set(own) for own in keys.values()))
    left_out = {name: tuple(key for key in own if key not in shared) for name, own in keys.items()}
    left_out = {name: own for name, own in left_out.items() if own}
    if not common:
        problems += [
            problem for name, _ in others for problem in _other_cases((first[0], keys[first[0]]), (name, keys[name]))
        ]
    elif not shared:
        problems.append(
            "no case is in the same fold of all of them, so --common leaves nothing; evaluate the same cases"
        )
    if problems:
        raise InputError("not comparable: " + "; ".join(problems))
    warnings += [warning for other in others for warning in _cautions(first, other)]
    unknown = [name for name, evaluation in entries.items() if evaluation.origin.checkpoint is None]
    if unknown:
        warnings.append(f"nothing tells which checkpoint predicted {listed(unknown)}: final and best must not be mixed")
    if left_out:
        counts = ", ".join(f"{len(own)} of {name}" for name, own in left_out.items())
        warnings.append(f"only the {len(shared)} shared cases are compared; left out: {counts}")
    order = tuple(sorted(shared, key=lambda key: (-1 if key[0] is None else key[0], key[1])))
    return Prepared(
        {name: tuple(_restricted(each, order) for each in own) for name, own in evaluations.items()},
        order,
        chosen,
        left_out,
        tuple(warnings),
    )


def _entries(evaluations: Mapping[str, Sequence[Evaluation]]) -> dict[str, Evaluation]:
    """Every single evaluation under a name for messages."""
    found: dict[str, Evaluation] = {}
    for method, own in evaluations.items():
        if not own:
            raise InputError(f"{method} has no evaluation; give one for each of its seeds")
        for number, evaluation in enumerate(own, 1):
            trainer = evaluation.origin.trainer
            seed = trainer if trainer and trainer != method else f"seed {number} of {len(own)}"
            name = method if len(own) == 1 else f"{method} ({seed})"
            found[name if name not in found else f"{method} (seed {number} of {len(own)})"] = evaluation
    return found


def _metrics(entries: Mapping[str, Evaluation], metrics: Sequence[str] | None) -> tuple[tuple[str, ...], list[str]]:
    shared = set.intersection(*(set(evaluation.settings.metrics) for evaluation in entries.values()))
    if metrics is None:
        chosen = tuple(metric for metric in METRICS if metric in shared)
        if not chosen:
            raise InputError("the evaluations have no metric in common; evaluate them with the same --metrics")
        some = sorted({metric for evaluation in entries.values() for metric in evaluation.settings.metrics} - shared)
        return chosen, [f"not all evaluations have {listed(some)}, so it is not compared"] if some else []
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise InputError(f"{unknown[0]!r} is no metric; choose from {', '.join(METRICS)}")
    for name, evaluation in entries.items():
        if missing := [metric for metric in metrics if metric not in evaluation.settings.metrics]:
            raise InputError(f"{name} was evaluated without {listed(missing)}; evaluate it again with --metrics")
    return tuple(dict.fromkeys(metrics)), []


def _differences(first: tuple[str, Evaluation], other: tuple[str, Evaluation], metrics: Sequence[str]) -> list[str]:
    """What two evaluations must not differ in, but do."""
    (a_name, a), (b_name, b) = first, other
    found: list[str] = []

    def check(what: str, own: object, others: object, remedy: str) -> None:
        if own != others:
            found.append(f"{what} is {own} for {a_name} and {others} for {b_name}; {remedy}")

    again = "evaluate both alike, with nnunet-attn evaluate"
    if a.origin.dataset and b.origin.dataset:
        check("the data set", a.origin.dataset, b.origin.dataset, "compare results on one data set")
    if a.origin.checkpoint and b.origin.checkpoint:
        remedy = "predict both with the same kind of checkpoint (-chk, nnUNetv2_train --val)"
        check("the checkpoint", a.origin.checkpoint, b.origin.checkpoint, remedy)
    if dict(a.classes) != dict(b.classes):
        check("the set of classes", _classes(a), _classes(b), "evaluate both with the same labels")
    check("the ignored value", a.ignore, b.ignore, "evaluate both with the same dataset.json")
    check("the preset", a.settings.preset, b.settings.preset, again)
    if set(metrics) & set(SURFACE_METRICS):
        check("the kind of surface", a.settings.surface, b.settings.surface, again)
    if "nsd" in metrics:
        own, others = a.settings.tolerance_mm, b.settings.tolerance_mm
        for name in a.classes:
            if name in b.classes:
                check(f"the tolerance in mm of {name}", own.get(name), others.get(name), again)
    return found


def _classes(evaluation: Evaluation) -> str:
    return ", ".join(f"{name} = {'+'.join(map(str, values))}" for name, values in evaluation.classes.items())


def _keys(name: str, evaluation: Evaluation) -> list[Key]:
    keys = [(case.fold, case.case) for case in evaluation.cases]
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise InputError(f"{name} has {_place(twice[0])} twice; evaluate it again with --overwrite")
    if not keys:
        raise InputError(f"{name} has no case; evaluate predictions first")
    metrics = set(evaluation.settings.metrics)
    for case in evaluation.cases:
        if any(metrics - case.metrics.get(label, {}).keys() for label in evaluation.classes):
            raise InputError(f"{name} has not every metric of every class of {case.case}; evaluate it with --overwrite")
        for label in evaluation.classes:
            for metric, value in case.metrics[label].items():
                if _is_too_good(metric, value):
                    raise InputError(
                        f"{name} has {value} as {metric} of {label} in {case.case}, which no prediction can have; "
                        "evaluate it with --overwrite"
                    )
    return keys


def _is_too_good(metric: str, value: float) -> bool:
    if metric in VOLUME_METRICS or not math.isinf(value):
        return False
    return LARGER_IS_BETTER.get(metric, False) or value < 0


def _other_cases(first: tuple[str, Sequence[Key]], other: tuple[str, Sequence[Key]]) -> list[str]:
    """How the folds and cases of two evaluations differ: cases that one lacks, and cases in other folds."""
    (a_name, a), (b_name, b) = first, other
    a_folds, b_folds = _folds(a), _folds(b)
    found: list[str] = []
    only_a = [case for case in a_folds if case not in b_folds]
    only_b = [case for case in b_folds if case not in a_folds]
    if only_a or only_b:
        parts = [f"{len(o)} only in {n} ({listed(o)})" for o, n in ((only_a, a_name), (only_b, b_name)) if o]
        found.append(
            f"the cases differ: {', '.join(parts)}; evaluate the same cases, or compare what both have: --common"
        )
    moved = [case for case in a_folds if case in b_folds and a_folds[case] != b_folds[case]]
    if moved:
        shown = [f"{case}: {_fold_text(a_folds[case])} and {_fold_text(b_folds[case])}" for case in moved]
        found.append(
            f"the splits of {a_name} and {b_name} differ: {len(moved)} cases are in other folds ({listed(shown)}); "
            "train both on one splits_final.json, or leave these cases out: --common"
        )
    return found


def _folds(keys: Iterable[Key]) -> dict[str, list[int | None]]:
    found: dict[str, list[int | None]] = {}
    for fold, case in sorted(keys, key=lambda key: (key[1], -1 if key[0] is None else key[0])):
        found.setdefault(case, []).append(fold)
    return found


def _fold_text(folds: Sequence[int | None]) -> str:
    return "no fold" if folds == [None] else f"fold {', '.join(map(str, folds))}"


def _place(key: Key) -> str:
    return key[1] if key[0] is None else f"{key[1]} in fold {key[0]}"


def _cautions(first: tuple[str, Evaluation], other: tuple[str, Evaluation]) -> list[str]:
    """What two evaluations may differ in, but a reader has to know."""
    (a_name, a), (b_name, b) = first, other
    one, two = a.origin, b.origin
    found = []
    if one.plans and two.plans and one.plans != two.plans:
        found.append(f"other plans: {one.plans} for {a_name}, {two.plans} for {b_name}")
    elif one.configuration and two.configuration and one.configuration != two.configuration:
        found.append(f"other configurations: {one.configuration} for {a_name}, {two.configuration} for {b_name}")
    elif one.plans_digest and two.plans_digest and one.plans_digest != two.plans_digest:
        found.append(f"{a_name} and {b_name} were trained with other contents of the plans {one.plans}")
    if one.ensemble and two.ensemble and one.ensemble != two.ensemble:
        found.append(f"the folds of {a_name} are joined by {one.ensemble}, those of {b_name} by {two.ensemble}")
    if one.kind == two.kind == "folder" and one.folds and two.folds and one.folds != two.folds:
        texts = [f"{n} is predicted by fold {' '.join(map(str, o.folds))}" for n, o in ((a_name, one), (b_name, two))]
        found.append(", ".join(texts))
    return found


def _restricted(evaluation: Evaluation, keys: Sequence[Key]) -> Evaluation:
    cases = {(case.fold, case.case): case for case in evaluation.cases}
    return replace(evaluation, cases=tuple(cases[key] for key in keys))


def listed(names: Sequence[str]) -> str:
    """Return names for a message: the first few, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
