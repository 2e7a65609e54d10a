"""Where the evaluations of a comparison come from: cross-validations, predicted test cases, folders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.description import unreadable_told
from nnunet_attn.evaluation.evaluate import FOLDS, evaluate_cross_validation, evaluate_folder, result_files
from nnunet_attn.evaluation.pairs import Model, find_model
from nnunet_attn.evaluation.results import Evaluation, Settings, read_evaluation
from nnunet_attn.evaluation.settings import chosen_settings
from nnunet_attn.json_files import read_json

Progress = Callable[[str, int, int], None]
"""Called with what is evaluated, the cases done and all cases."""


@dataclass(frozen=True)
class Trained:
    """Networks of one data set.

    Args:
        dataset: Name or number.
        trainers: Names, in the order of the tables.
        plans: One for all, or one a trainer.
        configurations: One for all, or one a trainer.
        folds: Of the cross-validation, as numbers; with predicted test cases those whose networks predicted together.
        checkpoint: What made the predictions, where no file tells.
        preset: Name of a paper's reading.
    Raises:
        InputError: If there is not one of plans and configurations for all or for each trainer.
    """

    dataset: str
    trainers: tuple[str, ...]
    plans: tuple[str, ...] = ("nnUNetPlans",)
    configurations: tuple[str, ...] = ("3d_fullres",)
    folds: tuple[int | str, ...] = FOLDS
    checkpoint: str | None = None
    preset: str | None = None

    def __post_init__(self) -> None:
        for flag, values in (("-p", self.plans), ("-c", self.configurations)):
            if len(values) not in (1, len(self.trainers)):
                raise InputError(
                    f"{flag} {' '.join(values)}: give one for all of the {len(self.trainers)} trainers, or one for each"
                )

    def each(self) -> list[tuple[str, str, str]]:
        """Return trainer, plans and configuration of each network."""
        count = len(self.trainers)
        plans, configurations = (each * count if len(each) == 1 else each for each in (self.plans, self.configurations))
        return list(zip(self.trainers, plans, configurations, strict=True))

    def models(self) -> list[Model]:
        """Return the results folder of each network."""
        return [find_model(self.dataset, *parts) for parts in self.each()]

    def labels(self) -> list[str]:
        """Return names that tell them apart: the trainer's, or that of the results folder if it is there twice."""
        names = ["__".join(parts) for parts in self.each()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"{twice} is given twice; give each once")
        return [t if self.trainers.count(t) == 1 else n for t, n in zip(self.trainers, names, strict=True)]


def cross_validations(trained: Trained, processes: int = 4, progress: Progress | None = None) -> list[Evaluation]:
    """Return the evaluation of each cross-validation, computing what is missing or out of date.

    What has been evaluated keeps its settings; the others get those of the first that has been, else the defaults.
    Which checkpoint predicted is looked up anew, since the predictions may be others than those evaluated before.

    Raises:
        InputError: As `nnunet_attn.evaluation.evaluate.evaluate_cross_validation`.
    """
    labels, folds = trained.labels(), tuple(sorted(fold for fold in trained.folds if isinstance(fold, int)))
    if len(folds) < len(trained.folds):
        raise InputError("-f all: this fold validates on the cases it was trained on; give other folds, or test cases")
    models = trained.models()
    name = f"evaluation_attn_folds_{'_'.join(map(str, folds))}"
    earlier = [_earlier(model.folder / name, trained.preset) for model in models]
    settings = _shared_settings(earlier, trained.preset)
    found = []
    for label, model, before in zip(labels, models, earlier, strict=True):
        found.append(
            evaluate_cross_validation(
                model.dataset,
                model.trainer,
                model.plans,
                model.configuration,
                folds,
                settings=settings if before is None else before.settings,
                checkpoint=trained.checkpoint,
                processes=processes,
                progress=_named(progress, label),
            )
        )
    return found


def predicted_tests(
    trained: Trained,
    ensemble: Literal["logits", "softmax"] = "logits",
    processes: int = 4,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Return the evaluation of the test cases that `nnunet-attn predict-test` predicted with each network.

    Raises:
        InputError: If they are not predicted, or the data set has no `labelsTs`.
    """
    from nnunetv2.paths import nnUNet_raw

    from nnunet_attn.inference.predict_test_request import PredictTestRequest, command_of, origin_of

    labels, models = trained.labels(), trained.models()
    if not nnUNet_raw.is_set():
        raise InputError("nnUNet_raw is not set; set nnU-Net's three folders (see: nnunet-attn doctor)")
    references = Path(str(nnUNet_raw)) / models[0].dataset / "labelsTs"
    with unreadable_told():
        if not references.is_dir():
            raise InputError(f"{references} does not exist: the test cases have no references; leave out --test")
    checkpoint = trained.checkpoint or "checkpoint_final.pth"
    requests = [
        PredictTestRequest(
            trained.dataset, (m.trainer,), m.configuration, m.plans, trained.folds, checkpoint, ensemble=ensemble
        )
        for m in models
    ]
    folders = [model.folder / request.folder_name for model, request in zip(models, requests, strict=True)]
    with unreadable_told():
        lacking = [(folder, request) for folder, request in zip(folders, requests, strict=True) if not folder.is_dir()]
    if lacking:
        together: dict[PredictTestRequest, list[str]] = {}  # one command for those with the same plans
        for _, request in lacking:
            together.setdefault(replace(request, trainers=()), []).extend(request.trainers)
        commands = "; ".join(command_of(request, trainers) for request, trainers in together.items())
        others = len(lacking) - 1
        more = f" (nor those of {others} other trainer{'s' * (others > 1)})" if others else ""
        raise InputError(f"{lacking[0][0]} does not exist{more}; predict first: {commands}")
    earlier = [_earlier(folder, trained.preset) for folder in folders]
    settings = _shared_settings(earlier, trained.preset)
    found = []
    for label, model, request, folder, before in zip(labels, models, requests, folders, earlier, strict=True):
        found.append(
            evaluate_folder(
                folder,
                references,
                dataset_json=model.folder / "dataset.json",
                plans_json=model.folder / "plans.json",
                settings=settings if before is None else before.settings,
                origin=origin_of(request, model.dataset, model.trainer, model.folder),
                processes=processes,
                progress=_named(progress, label),
            )
        )
    return found


@unreadable_told()
def read_folders(folders: Sequence[Path], preset: str | None = None) -> list[Evaluation]:
    """Return the evaluations in folders, or in the files that are named.

    Raises:
        InputError: If there is none, or it may not be read.
    """
    found = []
    for each in folders:
        file = result_files(each, preset)[0] if each.is_dir() else each
        if each.is_dir() and not file.is_file() and (inside := sorted(each.glob(f"*/{file.name}"))):
            raise InputError(
                f"{file} does not exist, but there are evaluations in folders below; give one of them: "
                + ", ".join(str(other.parent) for other in inside)
            )
        found.append(read_evaluation(file))
    return found


def registered_patients(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Return case -> patient, as told to `nnunet-attn register`; empty where nothing tells.

    Raises:
        InputError: If the file that tells is broken.
    """
    from nnunetv2.paths import nnUNet_raw

    from nnunet_attn.datasets.splits_groups import CASES_FILE

    dataset = next((each.origin.dataset for each in evaluations if each.origin.dataset), None)
    if dataset is None or not nnUNet_raw.is_set():
        return {}
    file = Path(str(nnUNet_raw)) / dataset / CASES_FILE
    with unreadable_told():
        if not file.is_file():
            return {}
    remedy = "mend it, or register the data set again"
    content = read_json(file, remedy)
    try:
        return {str(case): str(own["patient"]) for case, own in content["cases"].items() if own.get("patient")}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not what nnunet-attn register writes; {remedy}") from error


def _earlier(folder: Path, preset: str | None) -> Evaluation | None:
    try:
        return read_evaluation(result_files(folder, preset)[0])
    except InputError:  # evaluated anew
        return None


def _shared_settings(earlier: Sequence[Evaluation | None], preset: str | None) -> Settings:
    found = (each.settings for each in earlier if each is not None)
    return next(found, None) or chosen_settings(preset=preset)


def _named(progress: Progress | None, label: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(label, done, total)
