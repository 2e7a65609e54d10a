"""Evaluates and compares what a study has trained, with its settings; only what is finished counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.results import Evaluation, Settings
from nnunet_attn.study.groups import Group, Model
from nnunet_attn.study.matrix import nnunet_folder
from nnunet_attn.study.state import read_state

if TYPE_CHECKING:
    from rich.console import Console

    from nnunet_attn.evaluation.compare_results import Comparison
    from nnunet_attn.inference.predict_test_request import PredictTestRequest
    from nnunet_attn.study.model import Study

CHECKPOINT = "checkpoint_final.pth"

Progress = Callable[[str, int, int], None]
"""Called with what is evaluated, the cases done and all cases."""


@dataclass(frozen=True)
class Gathered:
    """The evaluations of a group that can be compared.

    Args:
        evaluations: Title of a row -> one evaluation a seed, those with anything finished.
        models: Title of a row -> its models, in the order of `evaluations`.
        folds: What was evaluated of each model: those that all of them have finished; of test cases those whose
            networks predicted together.
        missing: What is left out, and why, one sentence each; empty if all is finished.
        left_out: Titles of rows of which nothing is finished.
    """

    evaluations: Mapping[str, tuple[Evaluation, ...]]
    models: Mapping[str, tuple[Model, ...]]
    folds: tuple[int, ...]
    missing: tuple[str, ...]
    left_out: tuple[str, ...]


def study_settings(study: "Study") -> Settings:
    """Return what a study measures, for `nnunet_attn.evaluation.evaluate`."""
    from nnunet_attn.evaluation.settings import chosen_settings

    return chosen_settings(study.metrics, study.tolerance, study.surface)


def finished_folds(model: Model) -> tuple[int, ...]:
    """Return those of a model's folds that are trained and validated, whoever did it."""
    return tuple(fold for fold in model.folds if is_finished(model.fold_folder(fold)))


def is_finished(fold_folder: Path) -> bool:
    """Whether a training is done; one whose files were copied without logs and checkpoints counts by its validation."""
    return read_state(fold_folder).kind == "done"


def evaluate_model(
    study: "Study",
    model: Model,
    processes: int = 2,
    progress: Progress | None = None,
    *,
    folds: Sequence[int] | None = None,
) -> Evaluation:
    """Evaluate the validation cases of a model's folds, as `nnunet-attn evaluate` does and where it writes it.

    Args:
        study: Says metrics, tolerances and kind of surface.
        model: The model.
        processes: How many read and measure at once.
        progress: Called as cases are done.
        folds: Some of the model's; all by default.
    Raises:
        InputError: As `nnunet_attn.evaluation.evaluate.evaluate_cross_validation`: if a fold is not finished.
    """
    from nnunet_attn.evaluation.evaluate import evaluate_cross_validation

    return evaluate_cross_validation(
        model.dataset,
        model.trainer,
        model.plans,
        model.configuration,
        model.folds if folds is None else folds,
        settings=study_settings(study),
        processes=processes,
        progress=None if progress is None else lambda done, total: progress(model.text, done, total),
    )


def request_of(study: "Study", model: Model, device: str = "cuda", processes: int = 2) -> "PredictTestRequest":
    """Return what `nnunet-attn predict-test` is to be asked for; its evaluation is left to `evaluate_test`."""
    from nnunet_attn.inference.predict_test_request import PredictTestRequest

    return PredictTestRequest(
        model.dataset,
        (model.trainer,),
        model.configuration,
        model.plans,
        model.folds,
        CHECKPOINT,
        device,
        study.row_named(model.row).ensemble,
        preprocessing_processes=processes,
        export_processes=processes,
        evaluate=False,
    )


def predictions_folder(study: "Study", model: Model) -> Path:
    """Return where a model's predictions of the test cases lie, once they are complete."""
    return model.folder / request_of(study, model).folder_name


def predict_model(
    study: "Study",
    model: Model,
    device: str = "cuda",
    processes: int = 2,
    console: "Console | None" = None,
    progress: Progress | None = None,
) -> Evaluation | None:
    """Predict the test cases by all folds of a model, as `nnunet-attn predict-test` does, and evaluate them.

    What is up to date is not predicted again; what a run that was killed has predicted is kept.

    Args:
        study: The study.
        model: The model; all of its folds are trained.
        device: "cuda", "cpu" or "mps".
        processes: That prepare images, write predictions and measure.
        console: Where commands and progress of the prediction are shown.
        progress: Called as cases are evaluated.
    Returns:
        None where the data set has no labels of test cases.
    Raises:
        InputError: As `nnunet_attn.inference.predict_test.predict_test`.
        nnunet_attn.stock.StockCommandError: If a stock command fails.
    """
    from nnunet_attn.inference.predict_test import predict_test

    predict_test(request_of(study, model, device, processes), console)
    return evaluate_test(study, model, processes, progress) if has_test_labels(model.dataset) else None


def has_test_labels(dataset: str) -> bool:
    """Whether a data set has labels of its test cases."""
    folder = nnunet_folder("nnUNet_raw") / dataset / "labelsTs"
    return folder.is_dir() and any(folder.iterdir())


def evaluate_test(study: "Study", model: Model, processes: int = 2, progress: Progress | None = None) -> Evaluation:
    """Evaluate the test cases that a model has predicted; the result lies beside the predictions.

    Raises:
        InputError: If they are not predicted, or the labels do not fit them.
    """
    from nnunet_attn.evaluation.evaluate import evaluate_folder
    from nnunet_attn.inference.predict_test_request import origin_of

    return evaluate_folder(
        predictions_folder(study, model),
        nnunet_folder("nnUNet_raw") / model.dataset / "labelsTs",
        dataset_json=model.folder / "dataset.json",
        plans_json=model.folder / "plans.json",
        settings=study_settings(study),
        origin=origin_of(request_of(study, model), model.dataset, model.trainer, model.folder),
        processes=processes,
        progress=None if progress is None else lambda done, total: progress(model.text, done, total),
    )


def gathered(study: "Study", group: Group, processes: int = 2, progress: Progress | None = None) -> Gathered:
    """Evaluate what is finished of a group: of each model the folds that all have finished.

    Models without anything finished are left out; with them out, the others may have more folds in common.

    Raises:
        InputError: If nothing is finished, or the models have no finished fold in common.
    """
    if group.test:
        return _gathered_test(study, group, processes, progress)
    done = {model: finished_folds(model) for model in group.models}
    there = [model for model, folds in done.items() if folds]
    if not there:
        raise InputError(f"{group.title}: no fold is finished yet; run the study: nnunet-attn study run")
    folds = tuple(fold for fold in there[0].folds if all(fold in done[model] for model in there))
    if not folds:
        have = "; ".join(f"{model.text}: {_numbers(done[model])}" for model in there)
        raise InputError(f"{group.title}: no fold is finished by all ({have}); finish the study: nnunet-attn study run")
    missing = [f"{model.text}: no fold is finished, so it is left out" for model, own in done.items() if not own]
    for model in there:
        lacking = [fold for fold in model.folds if fold not in done[model]]
        if lacking:
            missing.append(f"{model.text}: fold {_numbers(lacking)} not finished")
    every = tuple(dict.fromkeys(fold for model in there for fold in model.folds))
    if len(folds) < len(every):
        missing.append(f"compared on fold {_numbers(folds)} of {_numbers(every)}, which all of them have finished")
    found = {model: evaluate_model(study, model, processes, progress, folds=folds) for model in there}
    return _joined(group, found, folds, missing)


def compare_group(study: "Study", group: Group, processes: int = 2, progress: Progress | None = None) -> "Comparison":
    """Compare the rows of a group, each called by its title, its seeds joined; only what is finished counts.

    What is left out is told by the first of the comparison's warnings.

    Raises:
        InputError: If fewer than two rows have anything finished, or what they have cannot be compared.
    """
    return compare_gathered(group, gathered(study, group, processes, progress))


def compare_gathered(group: Group, found: Gathered) -> "Comparison":
    """Compare evaluations that `gathered` has found; raises as `compare_group`."""
    from nnunet_attn.evaluation.compare import compare
    from nnunet_attn.evaluation.compare_sources import registered_patients

    names = list(found.evaluations)
    if len(names) < 2:
        others = [row for row in group.rows if row not in names]
        why = f"nothing is finished of {', '.join(others)}" if others else "it is the only row"
        raise InputError(f"{group.title}: {names[0]} has nothing to be compared with: {why}")
    warnings = list(found.missing)
    reference = group.reference
    if reference not in names:
        reference = names[0]
        warnings.append(f"nothing is finished of the reference {group.reference}; {reference} takes its place")
    some = [each for own in found.evaluations.values() for each in own]
    comparison = compare(found.evaluations, reference=reference, patients=registered_patients(some))
    return replace(comparison, warnings=(*warnings, *comparison.warnings))


def _gathered_test(study: "Study", group: Group, processes: int, progress: Progress | None) -> Gathered:
    if not has_test_labels(group.dataset):
        raise InputError(f"{group.title}: the data set has no labels of test cases (labelsTs), so nothing is compared")
    there = [model for model in group.models if predictions_folder(study, model).is_dir()]
    if not there:
        raise InputError(f"{group.title}: no model has predicted them yet; run the study: nnunet-attn study run")
    missing = [
        f"{model.text}: the test cases are not predicted, so it is left out"
        for model in group.models
        if model not in there
    ]
    found = {model: evaluate_test(study, model, processes, progress) for model in there}
    return _joined(group, found, there[0].folds, missing)


def _joined(
    group: Group, found: Mapping[Model, Evaluation], folds: tuple[int, ...], missing: Sequence[str]
) -> Gathered:
    of_row = {row: tuple(model for model in group.models_of(row) if model in found) for row in group.rows}
    return Gathered(
        {row: tuple(found[model] for model in own) for row, own in of_row.items() if own},
        {row: own for row, own in of_row.items() if own},
        folds,
        tuple(missing),
        tuple(row for row, own in of_row.items() if not own),
    )


def _numbers(folds: Sequence[int]) -> str:
    return ", ".join(map(str, folds))
