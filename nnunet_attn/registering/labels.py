"""Label values: which of the source become which of the new data set, and the names that nnU-Net is told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_attn.errors import InputError

BACKGROUND, IGNORE = "background", "ignore"
# nnU-Net writes labels as 8 or 16 bits, and no data set has near so many; more are an image, or numbered instances.
MOST_LABELS = 254

LabelNames = Mapping[str, int | tuple[int, ...]]


@dataclass(frozen=True)
class LabelScheme:
    """Labels of the new data set.

    Args:
        labels: As in dataset.json: name -> value, or values of a region.
        value_map: Value found in the source -> value in the new data set.
        regions_class_order: As in dataset.json; None without regions.
        warnings: What the user should look at.
    """

    labels: dict[str, int | list[int]]
    value_map: dict[int, int]
    regions_class_order: list[int] | None
    warnings: tuple[str, ...]


def check_labels(labels: LabelNames, regions_class_order: Sequence[int] | None) -> dict[str, int | list[int]]:
    """Return the labels as dataset.json has them, a region of one value as that value.

    Raises:
        InputError: If nnU-Net would refuse them: background is not 0, values are not consecutive, the ignore label is
            not the highest, or the class order does not fit the regions.
    """
    made: dict[str, int | list[int]] = {}
    for name, given in labels.items():
        values = [given] if isinstance(given, int) else list(dict.fromkeys(given))
        if not values or any(type(value) is not int or value < 0 for value in values):
            raise InputError(f"label {name!r} is {given!r}; give an integer from 0, or several for a region")
        made[name] = values[0] if len(values) == 1 else values
    if made.get(BACKGROUND) != 0:
        raise InputError(f'labels need "{BACKGROUND}": 0; got {made.get(BACKGROUND)!r}')
    ignored = made.get(IGNORE)
    values = sorted({value for name, given in made.items() if name != IGNORE for value in _listed(given)})
    if values != list(range(len(values))):
        raise InputError(f"label values {_text(values)} have gaps; nnU-Net wants 0, 1, 2, ...: number them so")
    if len(values) < 2:
        raise InputError("labels name nothing but the background; name at least one structure")
    if ignored is not None and ignored != len(values):
        raise InputError(f'label "{IGNORE}" is {ignored}; nnU-Net wants it to be the highest value, {len(values)}')
    regions = [name for name, given in made.items() if isinstance(given, list)]
    foreground = [name for name in made if name not in (BACKGROUND, IGNORE)]
    for name in foreground:
        if 0 in _listed(made[name]):
            raise InputError(f"label {name!r} holds 0, which is the background: leave 0 out of it")
    if not regions:
        if regions_class_order is not None:
            raise InputError("regions_class_order is given, but no label is a region of several values; leave it out")
        twice = {value for value in values if sum(made[name] == value for name in foreground) > 1}
        if twice:
            raise InputError(f"label value {min(twice)} has two names; give each value one")
        return made
    if regions_class_order is None:
        raise InputError(
            f"label {regions[0]!r} is a region, so nnU-Net needs regions_class_order: one value for each of "
            f"{', '.join(foreground)}, the value that is written where this region is the last to claim a voxel"
        )
    if len(regions_class_order) != len(foreground) or not set(regions_class_order) <= set(values) - {0}:
        raise InputError(
            f"regions_class_order {_text(regions_class_order)} does not fit; it wants one of the label values for each "
            f"of {', '.join(foreground)}"
        )
    _check_painting({name: _listed(made[name]) for name in foreground}, regions_class_order)
    return made


def label_scheme(
    found: Mapping[int, Iterable[str]],
    labels: LabelNames | None,
    value_map: Mapping[int, int] | None,
    regions_class_order: Sequence[int] | None,
    ignore: int | None,
) -> LabelScheme:
    """Return what the values that were found become, and the labels of the new data set.

    Without a value map, values that are the labels' own stay; where none of them is, as many values as there are labels
    are taken in order; without labels, all values found become 1, 2, 3... in order.

    Args:
        found: Value in the source -> names of the cases that have it.
        labels: Name -> value or values in the new data set; None to propose them.
        value_map: Value in the source -> value in the new data set; None to propose it.
        regions_class_order: As in dataset.json.
        ignore: Value in the source that becomes the ignore label.
    Raises:
        InputError: If labels and map contradict each other or nnU-Net's rules, or a value found has no label.
    """
    named = None if labels is None else check_labels(labels, regions_class_order)
    cases = {value: list(names) for value, names in found.items()}
    foreground = sorted(value for value in cases if value not in (0, ignore))
    if len(foreground) > MOST_LABELS:
        raise InputError(
            f"the labels have {len(foreground)} different values, from {foreground[0]} to {foreground[-1]}; they may "
            "be images, or numbered instances: give the label files, or map the values"
        )
    warnings: list[str] = []
    if value_map is not None:
        mapped = {0: 0, **value_map}
    else:
        mapped = _proposed_map(foreground, cases) if named is None else _map_to_labels(foreground, named, cases)
        warnings += _rare_values(mapped, cases, proposed=named is None)
    if named is None:
        targets = sorted({target for source, target in mapped.items() if source != ignore} - {0})
        names = ["foreground"] if len(targets) == 1 else [f"label_{target}" for target in targets]
        named = {BACKGROUND: 0, **dict(zip(names, targets, strict=True))}
        named = check_labels({name: _given(value) for name, value in named.items()}, regions_class_order)
    values = {value for given in named.values() for value in _listed(given)}
    if ignore is not None:
        if value_map is not None and ignore in value_map and value_map[ignore] != named.get(IGNORE):
            raise InputError(
                f"value {ignore} is both ignored and mapped to {value_map[ignore]}; leave it out of one of them"
            )
        if IGNORE not in named:
            named[IGNORE] = max(values) + 1
            values.add(max(values) + 1)
        mapped[ignore] = _listed(named[IGNORE])[0]
    beyond = sorted({target for target in mapped.values() if target not in values})
    if beyond:
        raise InputError(
            f"the value map leads to {_text(beyond)}, which no label has; name these labels or change the map"
        )
    unmapped = sorted(value for value in cases if value not in mapped)
    if unmapped:
        raise InputError(_unmapped(unmapped, cases, "label values that neither the labels nor the value map name"))
    seen = {mapped[value] for value in cases}
    warnings += _unseen(named, seen)
    if 0 not in seen:
        warnings.append(
            "background (0) is in no case"
            + "; if the value 0 is background, leave --ignore out, else say by --map which value is" * (ignore == 0)
        )
    order = None if regions_class_order is None else list(regions_class_order)
    return LabelScheme(named, {value: mapped[value] for value in sorted({0, *cases})}, order, tuple(warnings))


def values_of(array: NDArray[np.integer]) -> tuple[int, ...]:
    """Return the different values of a label map, in order."""
    if array.dtype.itemsize == 1:  # counting is many times faster than sorting or hashing
        counted = np.bincount(array.ravel().view(np.uint8), minlength=256)
        return tuple(sorted(int(value) for value in np.flatnonzero(counted).astype(np.uint8).view(array.dtype)))
    import pandas as pd

    return tuple(sorted(int(value) for value in pd.unique(array.ravel())))


def remapped(array: NDArray[np.integer], value_map: Mapping[int, int]) -> NDArray[np.integer]:
    """Return a label map with each value replaced, in the smallest type of nnU-Net's that holds it.

    Raises:
        KeyError: If a value is not in the map.
    """
    largest = max(value_map.values(), default=0)
    dtype = np.uint8 if largest < 256 else np.uint16
    made = np.zeros(array.shape, dtype)
    for value in values_of(array):
        if value_map[value] != 0:
            made[array == value] = value_map[value]
    return made


def _check_painting(regions: Mapping[str, Sequence[int]], order: Sequence[int]) -> None:
    """Refuse an order by which nnU-Net would write other regions than it was given.

    It writes each region's value over those before it, so a voxel gets that of the last of its regions.
    """
    for (name, values), value in zip(regions.items(), order, strict=True):
        if value not in values:
            raise InputError(
                f"regions_class_order {_text(order)}: {value} stands for {name!r}, which has {_text(values)}; give one "
                f"value of each of {', '.join(regions)}, in this order"
            )
    if len(set(order)) < len(order):
        raise InputError(f"regions_class_order {_text(order)}: give each region a value of its own")
    for value in sorted({value for values in regions.values() for value in values}):
        meant = [name for name, values in regions.items() if value in values]
        written = [each for name, each in zip(regions, order, strict=True) if name in meant][-1]
        painted = [name for name, values in regions.items() if written in values]
        if painted != meant:
            raise InputError(
                f"regions_class_order {_text(order)}: the value {value}, which is {' and '.join(meant)}, would be "
                f"written as {written}, which is {' and '.join(painted)}; name large regions first, and give each "
                "value that lies in several a region of its own"
            )


def _map_to_labels(
    foreground: Sequence[int], named: Mapping[str, int | list[int]], cases: Mapping[int, Sequence[str]]
) -> dict[int, int]:
    values = {value for given in named.values() for value in _listed(given)}
    if set(foreground) <= values:
        return {value: value for value in sorted(values)}
    wanted = sorted(values - {0} - set(_listed(named.get(IGNORE, []))))
    # one value that a label has may mean that label: then the others are odd, and not the next ones in order
    if len(foreground) == len(wanted) and foreground[0] > 0 and not values & set(foreground):
        return {0: 0, **dict(zip(foreground, wanted, strict=True))}
    odd = [value for value in foreground if value not in values]
    raise InputError(_unmapped(odd, cases, "label values that no label has"))


def _proposed_map(foreground: Sequence[int], cases: Mapping[int, Sequence[str]]) -> dict[int, int]:
    negative = [value for value in foreground if value < 0]
    if negative:
        raise InputError(_unmapped(negative, cases, "label values below 0, whose meaning cannot be guessed"))
    if not foreground:
        raise InputError("the labels have no foreground: all are 0 everywhere; give the right files")
    return {0: 0, **{value: number for number, value in enumerate(foreground, start=1)}}


def _unmapped(values: Sequence[int], cases: Mapping[int, Sequence[str]], why: str) -> str:
    told = "; ".join(f"{value} in {_names(cases[value])}" for value in values[:10])
    more = f"; and {len(values) - 10} more values" if len(values) > 10 else ""
    return (
        f"{why}: {told}{more}; correct these files, or name every value by --map, such as --map={values[0]}=0, or one "
        "by --ignore"
    )


def _rare_values(mapped: Mapping[int, int], cases: Mapping[int, Sequence[str]], proposed: bool) -> list[str]:
    """Tell of values that few cases have, and that were renumbered or named by nobody: they may be mistakes there."""
    whole = len({name for names in cases.values() for name in names})
    guessed = [value for value, target in mapped.items() if value != target or (proposed and value != 0)]
    rare = [value for value in guessed if len(cases[value]) < 0.5 * whole]
    if not rare:
        return []
    told = "; ".join(f"{value} in {len(cases[value])} ({_names(cases[value])})" for value in rare[:5])
    more = f"; and {len(rare) - 5} more values" if len(rare) > 5 else ""
    return [
        f"label values that few of {whole} cases have get a number of their own: {told}{more}; if they are mistakes "
        "there, map the values yourself"
    ]


def _unseen(named: Mapping[str, int | list[int]], seen: set[int]) -> list[str]:
    return [
        f"label {name!r} ({_text(_listed(given))}) is in no case"
        for name, given in named.items()
        if name != BACKGROUND and not seen & set(_listed(given))
    ]


def _listed(given: int | list[int]) -> list[int]:
    return given if isinstance(given, list) else [given]


def _given(value: int | list[int]) -> int | tuple[int, ...]:
    return tuple(value) if isinstance(value, list) else value


def _text(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def _names(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
