"""Choices of few labelled cases, nested: what a smaller number has, a larger one has too."""

from collections.abc import Sequence

import numpy as np

from nnunet_attn.datasets.splits_files import Split
from nnunet_attn.errors import InputError

# One case in so many is for validation, as in nnU-Net's own folds.
_VALIDATION_SHARE = 5


def reduced_split(cases: Sequence[str], labels: int, seed: int) -> Split:
    """Choose `labels` of `cases`, a fifth of them, but at least one, for validation.

    With one seed choices are nested: what a smaller number trains on, a larger one trains on too, and what it validates
    on a larger one validates on.

    Args:
        cases: All cases, or patients, to choose from; their order does not matter.
        labels: How many, from 2 to all.
        seed: From 0 to 2^32 - 1.
    Raises:
        InputError: If `labels` or `seed` is out of its range.
    """
    if not 2 <= labels <= len(cases):
        raise InputError(
            f"--labels {labels}: there are {len(cases)} cases to choose from, and a split needs one to train on and "
            f"one to validate on; give numbers from 2 to {len(cases)}"
        )
    drawn = drawn_order(cases, seed)
    held_out = _for_validation(len(cases))
    validation, training = drawn[:held_out], drawn[held_out:]
    count = _for_validation(labels)
    return {"train": sorted(training[: labels - count]), "val": sorted(validation[:count])}


def drawn_order(names: Sequence[str], seed: int) -> list[str]:
    """Return names in an order that the seed alone decides.

    Raises:
        InputError: If the seed is out of its range.
    """
    check_seed(seed)
    # RandomState, as in nnU-Net: NumPy keeps its numbers the same in all versions
    return [sorted(names)[index] for index in np.random.RandomState(seed).permutation(len(names))]


def check_seed(seed: int) -> None:
    """Check the range of a seed.

    Raises:
        InputError: If it is not from 0 to 2^32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed}: a seed is from 0 to {2**32 - 1}")


def _for_validation(cases: int) -> int:
    return max(1, cases // _VALIDATION_SHARE)
