"""Folds of a cross-validation: nnU-Net's own, by patient, and stratified."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from nnunetv2.utilities.crossval_split import generate_crossval_split
from sklearn.model_selection import StratifiedGroupKFold

from nnunet_attn.datasets.splits_files import Split
from nnunet_attn.datasets.splits_reduced import check_seed
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
    groups, all cases of a group are in one fold; with strata, each fold has about the same share of each stratum. As
    far as that allows, folds are of equal size.

    Args:
        cases: All cases; their order does not matter.
        folds: Number of folds, from 2 to the number of cases, or of groups.
        seed: From 0 to 2^32 - 1.
        groups: Case -> group, for example its patient.
        strata: Case -> stratum, for example its site.
    Raises:
        InputError: If `folds` or `seed` is out of its range.
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
    labels = [strata[name] if strata else "" for name in names]
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


def rare_strata(cases: Sequence[str], strata: Mapping[str, str], folds: int) -> dict[str, int]:
    """Return the strata with fewer cases than folds, which cannot be in each of them, and how many they have."""
    counted = Counter(strata[case] for case in cases)
    return {stratum: number for stratum, number in sorted(counted.items()) if number < folds}


def _numbers(labels: Sequence[str]) -> list[int]:
    """Numbers in place of names: scikit-learn's strata of text have to be of one length of type."""
    known = sorted(set(labels))
    return [known.index(label) for label in labels]
