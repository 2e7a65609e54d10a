"""Curves: of a training over its epochs, and of Dice against the number of labelled cases."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_attn.study.groups import Model
from nnunet_attn.study.logs import Epoch, merged_epochs
from nnunet_attn.study.report.facts import belongs, read_logs
from nnunet_attn.study.report.model import LabelCurve, LabelPoint, RunInfo
from nnunet_attn.study.report.setup import DatasetInfo


def read_epochs(fold_folder: Path) -> tuple[Epoch, ...]:
    """Return the finished epochs of a training that may have been continued."""
    return tuple(epoch for epoch in merged_epochs(read_logs(fold_folder)) if epoch.seconds is not None)


def thinned(epochs: Sequence[Epoch], most: int = 200) -> tuple[Epoch, ...]:
    """Return at most so many epochs, evenly spaced, the first and the last among them; nothing is averaged.

    Args:
        epochs: In their order.
        most: At least 2.
    Raises:
        ValueError: If `most` is below 2.
    """
    if most < 2:
        raise ValueError(f"most must be at least 2, got {most}")
    if len(epochs) <= most:
        return tuple(epochs)
    last = len(epochs) - 1
    return tuple(epochs[round(index * last / (most - 1))] for index in range(most))


def label_curves(
    models: Sequence[Model],
    runs: Sequence[RunInfo],
    datasets: Sequence[DatasetInfo],
    tested: Mapping[Model, float] | None = None,
) -> tuple[LabelCurve, ...]:
    """Return Dice against the number of labelled cases; nothing for a study whose rows have no `labels`.

    Rows without `labels` are in it with all cases that their folds train on. Where test cases were predicted, it is
    their Dice that counts: validation cases are other ones for each number of labels.

    Args:
        models: All of the study.
        runs: All of its trainings.
        datasets: Those that are known.
        tested: Model -> its mean Dice of the test cases; with few labels a model is one draw.
    """
    if all(model.labels is None for model in models):
        return ()
    trained = {(info.name, split.fold): split.training for info in datasets for split in info.splits}
    tested = tested or {}
    of_test = {(model.dataset, model.configuration) for model in tested}
    wanted: dict[tuple[str, str, str], dict[tuple[int, bool], list[float]]] = {}
    untested = [model for model in models if (model.dataset, model.configuration) not in of_test]
    found = [(model, _finished_dice(model, runs)) for model in untested]
    for model, values in (*found, *((model, [dice]) for model, dice in tested.items())):
        labels = model.labels if model.labels is not None else _all_cases(model, trained)
        if labels is None or not values:
            continue
        points = wanted.setdefault((model.dataset, model.configuration, model.row), {})
        points.setdefault((labels, model.labels is None), []).extend(values)
    return tuple(
        LabelCurve(
            *key,
            tuple(_point(*labels, tuple(values)) for labels, values in sorted(points.items())),
            key[:2] in of_test,
        )
        for key, points in wanted.items()
    )


def _point(labels: int, all_cases: bool, values: tuple[float, ...]) -> LabelPoint:
    sd = statistics.stdev(values) if len(values) > 1 else math.nan
    return LabelPoint(labels, all_cases, values, statistics.fmean(values), sd)


def _finished_dice(model: Model, runs: Sequence[RunInfo]) -> list[float]:
    own = (each.state for each in runs if belongs(each.run, model) and each.state.kind == "done")
    return [state.dice for state in own if state.dice is not None]


def _all_cases(model: Model, trained: Mapping[tuple[str, int], int]) -> int | None:
    """Cases that the folds of a model train on, their mean."""
    numbers = [trained[model.dataset, fold] for fold in model.folds if (model.dataset, fold) in trained]
    return round(statistics.fmean(numbers)) if numbers else None
