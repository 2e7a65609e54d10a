"""Folds of a cross-validation: nnU-Net's own, by patient, and stratified."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from nnunetv2.utilities.crossval_split import generate_crossval_split
from sklearn.model_selection import StratifiedGroupKFold

from nnunet_attn.datasets.splits_files import Split
from nnunet_attn.datasets.splits_reduced import check_seed, drawn_order
from nnunet_attn.errors import InputError

NNUNET_FOLDS, NNUNET_SEED = 5, 12345


def cross_validation(
    cases: Sequence[str],
    folds: int = NNUNET_FOLDS,
    seed: int = NNUNET_SEED,
    groups: Mapping[str, str] | None = None,
    strata: Mapping[str, str] | None = None,
) -> list[Split]:
    """Divide cases into folds; each case is in the validation of one of them.

    Without groups and strata they are what nnU-Net makes, for 5 folds and its seed those that it writes itself. With
    groups, all cases of a group are in one fold: the largest group is placed first, each into the fold with the fewest
    cases so far, and the seed decides among groups of one size. With strata, each fold has about the same share of each
    stratum. With both the shares are looked at alone, so that groups of very different sizes give folds of other sizes.

    Args:
        cases: All cases; their order does not matter.
        folds: Number of folds, from 2 to the number of cases, or of groups.
        seed: From 0 to 2^32 - 1.
        groups: Case -> group, for example its patient.
        strata: Case -> stratum, for example its site.
    Raises:
        InputError: If `folds` or `seed` is out of its range, or no stratum has as many cases as there are folds.
    """
    units = len(cases) if groups is None else len({groups[case] for case in cases})
    if not 2 <= folds <= units:
        named = "cases" if groups is None else "patients"
        raise InputError(f"--folds {folds}: there are {units} {named}; give a number from 2 to {units}")
    check_seed(seed)
    # the argument that nnU-Net's own call has: NumPy's order
    names = list(np.sort(list(cases)))
    if groups is None and strata is None:
        return generate_crossval_split(names, seed=seed, n_splits=folds)
    if groups is not None and strata is None:
        return _by_group([str(name) for name in names], folds, seed, groups)
    assert strata is not None
    labels = [strata[name] for name in names]
    (largest, count), *_ = Counter(labels).most_common(1)
    if count < folds:
        raise InputError(
            f"--stratify: the largest stratum, {largest}, has {count} cases, fewer than the {folds} folds, so that "
            "none can be shared out; give fewer --folds, or larger strata"
        )
    # a stratum of fewer cases than folds is no error here: `rare_strata` tells of it
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(
            names, _numbers(labels), [groups[name] if groups else name for name in names]
        )
        splits = [
            {"train": [str(names[index]) for index in training], "val": [str(names[index]) for index in validation]}
            for training, validation in parts
        ]
    return splits


def _by_group(names: Sequence[str], folds: int, seed: int, groups: Mapping[str, str]) -> list[Split]:
    # scikit-learn's StratifiedGroupKFold does not place large groups first where there are no strata, its GroupKFold
    # does, but equal ones in an order that differs between processors, and with shuffle=True by no size at all
    sizes = Counter(groups[name] for name in names)
    fold_of: dict[str, int] = {}
    filled = [0] * folds
    for group in sorted(drawn_order(list(sizes), seed), key=lambda group: -sizes[group]):
        fold_of[group] = filled.index(min(filled))
        filled[fold_of[group]] += sizes[group]
    return [
        {
            "train": [name for name in names if fold_of[groups[name]] != fold],
            "val": [name for name in names if fold_of[groups[name]] == fold],
        }
        for fold in range(folds)
    ]


def rare_strata(cases: Sequence[str], strata: Mapping[str, str], folds: int) -> dict[str, int]:
    """Return the strata with fewer cases than folds, which cannot be in each of them, and how many they have."""
    counted = Counter(strata[case] for case in cases)
    return {stratum: number for stratum, number in sorted(counted.items()) if number < folds}


def _numbers(labels: Sequence[str]) -> list[int]:
    """Numbers in place of names: scikit-learn's strata of text have to be of one length of type."""
    known = sorted(set(labels))
    return [known.index(label) for label in labels]
