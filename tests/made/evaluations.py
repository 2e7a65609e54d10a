"""Evaluations with given values, as read from a file."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_attn.evaluation.results import METRICS, CaseResult, Evaluation, Origin, Settings

Values = Mapping[str, Mapping[str, Sequence[float]]]


def made_evaluation(
    values: Values,
    folds: Sequence[int | None] | None = None,
    cases: Sequence[str] | None = None,
    origin: Mapping[str, Any] | None = None,
    **changed: Any,
) -> Evaluation:
    """Return an evaluation of `values`: class -> metric -> one value a case.

    Args:
        folds: One a case; all in fold 0 by default.
        cases: Names; `case_000`, `case_001`, ... by default.
        origin: What to change of a cross-validation of nnUNetTrainerGASA.
        changed: Fields of `Settings` or `Evaluation`.
    """
    (first, *_) = values.values()
    metrics = tuple(metric for metric in METRICS if metric in first)
    count = len(first[metrics[0]])
    names = cases or [f"case_{index:03d}" for index in range(count)]
    places = folds if folds is not None else [0] * count
    known = {
        "kind": "cross_validation",
        "dataset": "Dataset910_Made",
        "trainer": "nnUNetTrainerGASA",
        "plans": "nnUNetPlans",
        "configuration": "3d_fullres",
        "folds": (0, 1, 2, 3, 4),
        "checkpoint": "checkpoint_final.pth",
        "plans_digest": "0" * 64,
    }
    settings = {"metrics": metrics, "tolerance_mm": dict.fromkeys(values, 1.0), "surface": "area", "preset": None}
    settings |= {key: changed.pop(key) for key in list(changed) if key in settings}
    results = tuple(
        CaseResult(
            name,
            fold,
            {label: {metric: float(own[metric][index]) for metric in metrics} for label, own in values.items()},
            f"{name}.nii.gz",
            f"labelsTr/{name}.nii.gz",
        )
        for index, (name, fold) in enumerate(zip(names, places, strict=True))
    )
    classes = {label: (value,) for value, label in enumerate(values, 1)}
    content = {"classes": classes, "ignore": None, **changed}
    return Evaluation(Origin(**{**known, **(origin or {})}), Settings(**settings), cases=results, **content)


def random_evaluation(gain: float, seed: int, cases: int = 25, **keywords: Any) -> Evaluation:
    """Return an evaluation of two classes whose Dice is `gain` better; the cases are the same, the noise is not."""
    difficulty = np.random.default_rng(0).uniform(0.6, 0.8, cases)
    rng = np.random.default_rng([1, seed])
    values = {}
    for label in ("liver", "kidney_left"):
        dice = np.clip(difficulty + gain + rng.normal(0, 0.03, cases), 0, 1)
        hd95 = 20 * (1 - dice)
        hd95[0] = math.inf if label == "liver" and gain < 0 else hd95[0]
        values[label] = {"dice": dice, "hd95_mm": hd95}
    return made_evaluation(values, folds=[index % 5 for index in range(cases)], **keywords)
