"""Curves of trainings, and of Dice against the number of labelled cases."""

import math
import statistics
from datetime import datetime
from pathlib import Path

import pytest

from nnunet_attn.study.groups import Model
from nnunet_attn.study.logs import Epoch
from nnunet_attn.study.matrix import Run
from nnunet_attn.study.report.curves import label_curves, read_epochs, thinned
from nnunet_attn.study.report.model import RunInfo, TrainingFacts
from nnunet_attn.study.report.setup import DatasetInfo, FoldSplit
from nnunet_attn.study.state import RunState
from tests.made.training_logs import MadeTraining


def test_a_continued_training_is_one_curve_without_what_is_unfinished(tmp_path: Path) -> None:
    made = MadeTraining(tmp_path).start().train(0, 3)
    made.clock += 100
    made.start().train(2, 4).begin_epoch(4)
    epochs = read_epochs(tmp_path)
    assert [epoch.number for epoch in epochs] == [0, 1, 2, 3]
    assert {epoch.seconds for epoch in epochs} == {99.0}
    assert read_epochs(tmp_path / "none") == ()


def test_long_curves_are_thinned_evenly() -> None:
    epochs = [Epoch(number, datetime(2026, 3, 1)) for number in range(1000)]
    assert [epoch.number for epoch in thinned(epochs, 4)] == [0, 333, 666, 999]
    assert len(thinned(epochs)) == 200 and thinned(epochs[:7], 7) == tuple(epochs[:7])
    with pytest.raises(ValueError, match="at least 2, got 1"):
        thinned(epochs, 1)


def test_dice_against_the_number_of_labels() -> None:
    name = "Dataset004_Made"

    def model(row: str, labels: int | None, folds: tuple[int, ...], seed: int | None = None) -> Model:
        return Model(name, row, "T", "nnUNetPlans", "3d_fullres", seed, labels, folds)

    def run(row: str, labels: int | None, fold: int, dice: float | None, kind: str = "done", seed: int = 0) -> RunInfo:
        made = Run(name, row, "T", "nnUNetPlans", "3d_fullres", fold, seed, labels)
        return RunInfo(made, RunState(kind, dice=dice), (), TrainingFacts())  # pyright: ignore[reportArgumentType]

    splits = tuple(FoldSplit(fold, None, training, ()) for fold, training in enumerate((16, 17)))
    info = DatasetInfo(name, splits=splits)
    models = [model("A", None, (0, 1), 0), model("B", 8, (5,), 0), model("B", 8, (5,), 1), model("B", 4, (6,), 0)]
    runs = [
        run("A", None, 0, 0.8),
        run("A", None, 1, 0.9),
        run("B", 8, 5, 0.5),
        run("B", 8, 5, 0.7, seed=1),
        run("B", 4, 6, 0.6, "running"),
    ]
    first, second = label_curves(models, runs, [info])
    (point,) = first.points
    assert (first.row, point.labels, point.all_cases, point.values) == ("A", 16, True, (0.8, 0.9))
    (point,) = second.points  # pseudo Dice of a training that runs is of another kind
    assert (second.row, point.labels, point.all_cases, point.values) == ("B", 8, False, (0.5, 0.7))
    assert point.mean == pytest.approx(0.6) and point.sd == pytest.approx(statistics.stdev([0.5, 0.7]))
    alone = label_curves(models[1:], [run("B", 4, 6, 0.25)], [])
    assert [each.labels for each in alone[0].points] == [4] and math.isnan(alone[0].points[0].sd)
    assert label_curves(models[:1], runs, [info]) == ()


def test_dice_of_test_cases_counts_where_it_is_known() -> None:
    names = ("Dataset004_Made", "A", "T", "nnUNetPlans", "3d_fullres")
    models = [Model(*names, seed, labels, (fold,)) for labels, fold in ((4, 6), (8, 5)) for seed in (0, 1)]
    runs = [
        RunInfo(Run(*names, fold, seed, labels), RunState("done", dice=0.99), (), TrainingFacts())
        for labels, fold in ((4, 6), (8, 5))
        for seed in (0, 1)
    ]
    (of_validation,) = label_curves(models, runs, [])
    assert not of_validation.test and [each.mean for each in of_validation.points] == [0.99, 0.99]
    (of_test,) = label_curves(models, runs, [], {models[0]: 0.5, models[1]: 0.7, models[2]: 0.8})
    assert of_test.test and [(each.labels, each.values) for each in of_test.points] == [(4, (0.5, 0.7)), (8, (0.8,))]
