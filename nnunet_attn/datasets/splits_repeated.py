"""Repeated random splits into cases to train on and cases to test on."""

from collections.abc import Sequence
from math import comb

import numpy as np

from nnunet_attn.datasets.splits_files import Split
from nnunet_attn.datasets.splits_reduced import check_seed
from nnunet_attn.errors import InputError


def repeated_splits(cases: Sequence[str], repetitions: int, training: int, test: int, seed: int) -> list[Split]:
    """Draw `training` cases to train on and `test` others to test on, again and again; no two draws are the same.

    With one seed a smaller number of repetitions gives the first of a larger one.

    Args:
        cases: All cases, or patients, to choose from; their order does not matter.
        repetitions: How often, from 1.
        training: How many to train on, from 1.
        test: How many to test on, from 1; they are nnU-Net's validation cases.
        seed: From 0 to 2^32 - 1.
    Raises:
        InputError: If an argument is out of its range, or there are not so many different splits.
    """
    if repetitions < 1 or training < 1 or test < 1:
        raise InputError(f"--repeated {repetitions} --train {training} --test {test}: each must be at least 1")
    if training + test > len(cases):
        raise InputError(
            f"--train {training} --test {test} are {training + test}, but there are {len(cases)} to choose from; "
            "give smaller numbers"
        )
    check_seed(seed)
    possible = comb(len(cases), test) * comb(len(cases) - test, training)
    if possible < repetitions:
        raise InputError(f"--repeated {repetitions}: there are only {possible} different splits; give a smaller number")
    names = sorted(cases)
    generator = np.random.RandomState(seed)  # whose numbers stay the same in all versions of NumPy
    splits: list[Split] = []
    while len(splits) < repetitions:
        drawn = [names[index] for index in generator.permutation(len(names))]
        split = {"train": sorted(drawn[test : test + training]), "val": sorted(drawn[:test])}
        if split not in splits:
            splits.append(split)
    return splits
