"""Data of a report, made: a study of a few methods with labels, seeds, a failed training and everything else."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_attn.datasets.phantom import phantom_case
from nnunet_attn.evaluation.compare import compare
from nnunet_attn.evaluation.compare_results import Comparison
from nnunet_attn.evaluation.results import Evaluation
from nnunet_attn.study.groups import Group, Model
from nnunet_attn.study.logs import Epoch
from nnunet_attn.study.matrix import Run
from nnunet_attn.study.model import Study
from nnunet_attn.study.report.compared import tables_of
from nnunet_attn.study.report.model import (
    CasePick,
    CostInfo,
    GroupReport,
    LabelCurve,
    LabelPoint,
    ReportData,
    RunInfo,
    TrainingFacts,
    Unfair,
)
from nnunet_attn.study.report.setup import DatasetInfo, FoldSplit, Machine, RowInfo, TrainedOn
from nnunet_attn.study.state import RunState
from tests.made.evaluations import made_evaluation
from tests.made.results import displaced

DATASET, CONFIGURATION = "Dataset910_Made", "3d_fullres"
TRAINERS = ("nnUNetTrainerPlain", "nnUNetTrainerGASA", "nnUNetTrainerMedT")
NAMES = ("Plain U-Net", "GASA-UNet", 'MedT <narrow> & 20% of "a name"')
GAINS = (0.0, 0.035, -0.03)
CLASSES = ("liver", "kidney_left", "kidney_right")


def made_report(
    names: Sequence[str] = NAMES,
    folds: int = 5,
    seeds: Sequence[int | None] = (0, 1),
    cases: int = 25,
    epochs: int = 60,
    labels: bool = True,
    picks: Sequence[CasePick] = (),
    compared: bool = True,
    finished: bool = True,
) -> ReportData:
    """Return a report on made values; nothing of it was trained.

    Args:
        names: Titles of the methods, the first is the reference.
        folds: Of each method.
        seeds: Of each method.
        cases: Of the cross-validation.
        epochs: Of each training.
        labels: Whether there are curves of Dice against labelled cases.
        picks: Cases to show.
        compared: Whether there is a comparison.
        finished: Else one training failed and one waits.
    """
    study = made_study(names, seeds)
    models = tuple(
        Model(
            DATASET, row.title, f"{row.trainer}_seed{seed}", study.plans, CONFIGURATION, seed, None, tuple(range(folds))
        )
        for row in study.rows
        for seed in seeds
    )
    group = Group(f"{DATASET}__{CONFIGURATION}", DATASET, CONFIGURATION, None, False, models, names[0])
    comparison = made_comparison(names, seeds, cases, folds) if compared else None
    report = GroupReport(
        group,
        comparison,
        None if comparison else "no training is finished",
        folds=tuple(range(folds)),
        missing=() if finished else (f"{names[-1]}, seed {seeds[-1]}, is left out: fold 4 is not finished.",),
        tables=tables_of(comparison) if comparison else (),
        picks=tuple(picks),
    )
    runs = tuple(
        RunInfo(
            Run(DATASET, model.row, model.trainer, study.plans, CONFIGURATION, fold, model.seed),
            RunState("done", epochs, epochs, 21.4, None, 0.8 + 0.01 * fold),
            made_epochs(epochs, 10 * at + fold),
            TrainingFacts(device="NVIDIA H100 80GB HBM3", torch="2.9.0", epochs=epochs),
        )
        for at, model in enumerate(models)
        for fold in range(folds)
    )
    if not finished:
        failed = RunState("failed", 12, epochs, 21.4, message="RuntimeError: CUDA out of memory")
        runs = (
            *runs[:-2],
            replace(runs[-2], state=failed, epochs=runs[-2].epochs[:12]),
            replace(runs[-1], state=RunState("waiting"), epochs=()),
        )
    return ReportData(
        study=study,
        study_file="study.yaml",
        study_text="\n".join(["# made", "datasets: [910]", "trainers:", *(f"  - {name}" for name in TRAINERS)]) + "\n",
        date_utc="2026-03-01T12:00:00+00:00",
        versions={"python": "3.11.2", "nnunet_attn": "0.1.0", "nnunetv2": "2.8.1", "torch": "2.9.0", "cupy": None},
        machine=Machine("AMD EPYC 9654", 16, 128 * 2**30, "NVIDIA H100 80GB HBM3"),
        trained_on=(TrainedOn("NVIDIA H100 80GB HBM3", "2.9.0", "91002", "0.1.0", len(runs)),),
        datasets=(_dataset(folds, cases),),
        rows=tuple(_row(study, at, epochs) for at in range(len(names))),
        runs=runs,
        groups=(report,),
        label_curves=tuple(_label_curve(name, at) for at, name in enumerate(names)) if labels else (),
        costs=tuple(_cost(name, at, len(seeds) * folds) for at, name in enumerate(names)),
        unfair=(
            Unfair("epochs", True, f"{names[-1]} was trained for 100 epochs, the others for 60.", group.title),
            Unfair("hardware", False, "2 of 30 trainings ran on another GPU.", DATASET),
        ),
        problems=("The memory of MedT could not be estimated.",),
    )


def made_study(names: Sequence[str] = NAMES, seeds: Sequence[int | None] = (0, 1)) -> Study:
    """Return a study of these methods; names are not checked, so that anything can be tried on a page."""
    others = TRAINERS[1:]  # the first takes no options
    trainers = [TRAINERS[at] if at < len(TRAINERS) else others[at % len(others)] for at in range(len(names))]
    rows = [
        {"trainer": trainer, "name": f"row {at}", **({"options": {"embed_dim": 20 + at}} if at >= 3 else {})}
        for at, trainer in enumerate(trainers)
    ]
    wanted: dict[str, Any] = {"name": "made study", "datasets": ["910"], "trainers": rows}
    study = Study.model_validate({**wanted, "seeds": [seed for seed in seeds if seed is not None]})
    named = tuple(row.model_copy(update={"name": name}) for row, name in zip(study.rows, names, strict=True))
    return study.model_copy(update={"rows": named, "reference": names[0]})


def made_comparison(
    names: Sequence[str] = NAMES, seeds: Sequence[int | None] = (0,), cases: int = 25, folds: int = 5
) -> Comparison:
    """Return a comparison of random values; the second method is better, the third worse with an infinite distance."""
    return _comparison(tuple(names), tuple(seeds), cases, folds)


@lru_cache
def _comparison(names: tuple[str, ...], seeds: tuple[int | None, ...], cases: int, folds: int) -> Comparison:
    gains = {name: GAINS[at] if at < len(GAINS) else 0.002 * at for at, name in enumerate(names)}
    evaluations = {
        name: [_evaluation(gains[name], 10 * at + (seed or 0), cases, folds) for seed in seeds]
        for at, name in enumerate(names)
    }
    return compare(evaluations, n_bootstrap=500)


def _evaluation(gain: float, seed: int, cases: int, folds: int) -> Evaluation:
    difficulty = np.random.default_rng(0).uniform(0.6, 0.85, cases)
    draw = np.random.default_rng([2, seed])
    values = {}
    for label in CLASSES:
        dice = np.clip(difficulty + gain + draw.normal(0, 0.03, cases), 0, 1)
        hd95 = 40 * (1 - dice)
        if gain < 0 and label == CLASSES[0]:
            hd95[0] = math.inf
        sizes = 9000 * (dice - 0.75)
        values[label] = {"dice": dice, "nsd": dice**0.5, "hd95_mm": hd95, "volume_difference_mm3": sizes}
    return made_evaluation(values, folds=[at % folds for at in range(cases)])


def made_epochs(count: int, seed: int) -> tuple[Epoch, ...]:
    """Return the curves of a training that learns."""
    draw = np.random.default_rng([3, seed])
    start = datetime(2026, 3, 1)
    learned = 1 - np.exp(-np.arange(count) / (0.2 * count + seed / 5))
    return tuple(
        Epoch(
            at,
            start + timedelta(seconds=22 * at),
            float(0.2 - learned[at] + draw.normal(0, 0.01)),
            float(0.25 - 0.95 * learned[at] + draw.normal(0, 0.03)),
            tuple(np.clip(0.85 * learned[at] + draw.normal(0, 0.02, len(CLASSES)), 0, 1).tolist()),
            21.4,
        )
        for at in range(count)
    )


def made_pick(folder: Path, names: Sequence[str] = NAMES, kind: Any = "worst", case: str = "case_000") -> CasePick:
    """Write a phantom's image, reference and predictions to a folder, and return the case."""
    folder.mkdir(parents=True, exist_ok=True)
    image, labels, spacing_mm = phantom_case(3, (24, 64, 80), np.random.default_rng(len(case)))
    files = {"image": folder / f"{case}_0000.nii.gz", "reference": folder / f"{case}.nii.gz"}
    _write(np.asarray(image, dtype=np.float32).reshape(labels.shape), files["image"], spacing_mm)
    _write(labels, files["reference"], spacing_mm)
    predictions = {}
    for at, name in enumerate(names):
        predictions[name] = folder / f"{case}_{at}.nii.gz"
        _write(displaced(labels, 1.0 + at, np.random.default_rng(at)), predictions[name], spacing_mm)
    values = {name: 0.71 + 0.01 * at for at, name in enumerate(names)}
    return CasePick(kind, case, 0, "dice", values, (files["image"],), ("MRI",), files["reference"], predictions)


def _write(array: Any, file: Path, spacing_mm: Sequence[float]) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(step) for step in reversed(spacing_mm)])
    sitk.WriteImage(image, str(file))


def _dataset(folds: int, cases: int) -> DatasetInfo:
    splits = tuple(
        FoldSplit(
            fold,
            "cross-validation",
            cases - cases // folds,
            tuple(f"case_{at:03d}" for at in range(fold, cases, folds)),
            18,
            5,
        )
        for fold in range(folds)
    )
    classes = {label: (value,) for value, label in enumerate(CLASSES, 1)}
    return DatasetInfo(
        DATASET,
        "Made abdominal images.",
        ("MRI",),
        classes,
        None,
        cases,
        4,
        True,
        (40.0, 320.0, 260.0),
        (2.5, 0.8, 0.8),
        23,
        splits,
    )


def _row(study: Study, at: int, epochs: int) -> RowInfo:
    row = study.rows[at]
    return RowInfo(
        row.title,
        row.trainer,
        "PlainConvUNet" if at == 0 else "GASAUNet",
        "U-Net" if at == 0 else "U-Net with global axial self-attention",
        None if at == 0 else "arXiv:2408.00000",
        "nnUNetPlans",
        "nnUNetPlans",
        (CONFIGURATION,),
        row.options,
        None,
        (),
        None,
        "SGD, learning rate 0.01, polynomial decay",
        epochs,
        250,
        at == 0,
    )


def _cost(name: str, at: int, trainings: int) -> CostInfo:
    if at == 2:
        return CostInfo(DATASET, name, CONFIGURATION, unknown="the network needs CUDA", trainings=0)
    return CostInfo(
        DATASET,
        name,
        CONFIGURATION,
        31_195_784 + 1_000_000 * at,
        1_072_000_000_000,
        (1, 1, 128, 128, 128),
        2,
        44.3 + at,
        250,
        7_900_000_000,
        at == 0,
        31.4,
        ("NVIDIA H100 80GB HBM3",),
        trainings,
        at == 0,
    )


def _label_curve(name: str, at: int) -> LabelCurve:
    points = []
    for labels, mean in ((5, 0.52), (10, 0.64), (20, 0.73), (176, 0.81)):
        values = tuple((mean + 0.02 * at + np.random.default_rng([labels, at]).normal(0, 0.02, 5)).tolist())
        points.append(LabelPoint(labels, labels == 176, values, float(np.mean(values)), float(np.std(values, ddof=1))))
    return LabelCurve(DATASET, CONFIGURATION, name, tuple(points))
