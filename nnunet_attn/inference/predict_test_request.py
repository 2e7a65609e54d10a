"""What `nnunet-attn predict-test` is asked for, and everything that is checked before the first network runs."""

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nnunetv2.paths import nnUNet_raw, nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_attn.dataset_names import full_dataset_name
from nnunet_attn.datasets.subset import COLOUR_ENDINGS
from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.description import plans_digest, reader_class
from nnunet_attn.evaluation.results import Origin
from nnunet_attn.inference.predict import check_arguments
from nnunet_attn.inference.predict_test_files import Made, made_record, record_of
from nnunet_attn.json_files import read_object

Ensemble = Literal["logits", "softmax"]
FOLDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class PredictTestRequest:
    """What to predict, and how.

    Args:
        dataset: Name or number of the data set whose `imagesTs` are predicted.
        trainers: Names of the trainers.
        configuration: For example `3d_fullres`.
        plans: Name of the plans.
        folds: Folds that predict together; numbers, or "all".
        checkpoint: File name.
        device: "cuda", "cpu" or "mps".
        ensemble: "logits": the mean of the folds' logits, as `nnUNetv2_predict`; "softmax": of their probabilities.
        grid: By `nnunet-attn predict`: networks on a grid in one exact pass.
        mirroring: Test time augmentation.
        preprocessing_processes: As `-npp` of `nnUNetv2_predict`.
        export_processes: As `-nps` of `nnUNetv2_predict`.
        output: Folder of the predictions; with several trainers, above a folder for each. None: in the model's folder.
        previous: Folder with the predictions of a cascade's previous stage. None: those that this command made.
        keep_probabilities: Keep what "softmax" averages.
        overwrite: Predict anew what is there.
        evaluate: Evaluate where there is a `labelsTs`.
    """

    dataset: str
    trainers: tuple[str, ...]
    configuration: str = "3d_fullres"
    plans: str = "nnUNetPlans"
    folds: tuple[int | str, ...] = FOLDS
    checkpoint: str = "checkpoint_final.pth"
    device: str = "cuda"
    ensemble: Ensemble = "logits"
    grid: bool = False
    mirroring: bool = True
    preprocessing_processes: int = 3
    export_processes: int = 3
    output: Path | None = None
    previous: Path | None = None
    keep_probabilities: bool = False
    overwrite: bool = False
    evaluate: bool = True

    @property
    def folder_name(self) -> str:
        """The name of the folder of predictions in a model's folder; other settings have other names."""
        kind = self.checkpoint.removesuffix(".pth").removeprefix("checkpoint_")
        marks = {
            "softmax": self.ensemble == "softmax",
            kind: kind != "final",
            "grid": self.grid,
            "notta": not self.mirroring,
        }
        folds = sorted(map(str, self.folds), key=lambda fold: (not fold.isdecimal(), len(fold), fold))
        parts = ["test_attn_folds", *folds, *(mark for mark, is_set in marks.items() if is_set)]
        return "_".join(parts)


@dataclass(frozen=True)
class ModelToPredict:
    """One trainer of a request that can be met.

    Args:
        trainer: Its name.
        output: Folder of its predictions.
        images: The data set's `imagesTs`.
        labels: Its `labelsTs`; None if there is none, or nothing is to be evaluated.
        file_ending: Of the predictions.
        reader: nnU-Net's class that reads them.
        previous: Folder with the previous stage's predictions.
        made: What decides the predictions.
        origin: For the evaluation.
    """

    trainer: str
    output: Path
    images: Path
    labels: Path | None
    file_ending: str
    reader: type[Any]
    previous: Path | None
    made: Made
    origin: Origin


def check(request: PredictTestRequest) -> tuple[ModelToPredict, ...]:
    """Check a request for all of its trainers; writes nothing.

    Raises:
        InputError: If a part of it cannot be met: one error for all trainers.
    """
    if not request.trainers or len(set(request.trainers)) < len(request.trainers):
        raise InputError(f"-tr {' '.join(request.trainers)}: give each trainer once, and at least one")
    if not request.folds or len(set(request.folds)) < len(request.folds):
        raise InputError(f"-f {' '.join(map(str, request.folds))}: give each fold once, and at least one")
    if request.preprocessing_processes < 1 or request.export_processes < 1:
        raise InputError(
            f"-npp {request.preprocessing_processes} -nps {request.export_processes}: both must be at least 1"
        )
    if request.keep_probabilities and request.ensemble != "softmax":
        raise InputError("--keep-probabilities keeps what --ensemble softmax averages; give both, or neither")
    dataset, raw = _raw_dataset(request.dataset)
    images = raw / "imagesTs"
    if not images.is_dir() or not any(images.iterdir()):
        raise InputError(f"{images} has no images to predict; put the test images there, CASE_0000 and so on")
    models: list[ModelToPredict] = []
    wrong: dict[str, None] = {}  # in order, each once: what is wrong with the images is so for all trainers
    for trainer in request.trainers:
        try:
            models.append(_checked(request, dataset, trainer, raw))
        except InputError as error:
            wrong[str(error)] = None
    if wrong:
        raise InputError("\n".join(wrong))
    return tuple(models)


def _checked(request: PredictTestRequest, dataset: str, trainer: str, raw: Path) -> ModelToPredict:
    images = raw / "imagesTs"
    check_arguments(
        argparse.Namespace(
            phases=1,
            i=str(images),
            d=dataset,
            tr=trainer,
            p=request.plans,
            c=request.configuration,
            f=request.folds,
            chk=request.checkpoint,
            device=request.device,
        )
    )
    model = _results_folder(dataset, trainer, request.plans, request.configuration)
    remedy = "copy the results folder again"
    description, plans = read_object(model / "dataset.json", remedy), read_object(model / "plans.json", remedy)
    try:
        manager = PlansManager(plans)
        stage = manager.get_configuration(request.configuration).previous_stage_name
        ending, channels = str(description["file_ending"]), len(description["channel_names"])
        reader = reader_class(plans["image_reader_writer"])
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{model}: dataset.json or plans.json is damaged ({error!r}); copy the folder again"
        ) from error
    cases = cases_in(images, ending, channels)
    labels = _labels(raw, cases, ending) if request.evaluate else None
    previous = _previous(request, model, trainer, stage, cases, ending)
    settings = {
        "dataset": dataset,
        "trainer": trainer,
        "plans": request.plans,
        "configuration": request.configuration,
        "folds": list(request.folds),
        "checkpoint": request.checkpoint,
        "ensemble": request.ensemble,
        "grid": request.grid,
        "mirroring": request.mirroring,
        "previous": None if previous is None else str(previous.resolve()),
    }
    checkpoints = [model / f"fold_{fold}" / request.checkpoint for fold in request.folds]
    inputs = {case: [*files, *((previous / f"{case}{ending}",) if previous else ())] for case, files in cases.items()}
    output = _output(request, model, trainer)
    made = made_record(settings, checkpoints, inputs)
    _check_output(output, made, request.overwrite)
    origin = origin_of(request, dataset, trainer, model)
    return ModelToPredict(trainer, output, images, labels, ending, reader, previous, made, origin)


def origin_of(request: PredictTestRequest, dataset: str, trainer: str, model: Path) -> Origin:
    """Return what an evaluation of a model's predictions says of where they come from.

    Args:
        request: What is predicted, and how.
        dataset: `DatasetNNN_Name`.
        trainer: Full name.
        model: Its folder in nnUNet_results.
    """
    return Origin(
        "folder",
        dataset,
        trainer,
        request.plans,
        request.configuration,
        request.folds,
        request.checkpoint,
        request.ensemble if len(request.folds) > 1 else None,
        plans_digest(model / "plans.json", request.configuration),
    )


def cases_in(images: Path, ending: str, channels: int) -> dict[str, list[Path]]:
    """Return case -> its images, in order of their channels.

    Args:
        images: Folder of images that are named as nnU-Net names them.
        ending: Of their names.
        channels: How many images a case has.
    Raises:
        InputError: If a case has not every channel, or others.
    """
    cases: dict[str, list[Path]] = {}
    for path in sorted(images.iterdir()):
        found = re.fullmatch(rf"(.+)_\d{{4}}{re.escape(ending)}", path.name)
        if found:
            cases.setdefault(found[1], []).append(path)
    for case, files in cases.items():
        wanted = [f"{case}_{channel:04d}{ending}" for channel in range(channels)]
        names = [path.name for path in files]
        # one file of a colour image has all its channels
        if names != wanted and not (ending in COLOUR_ENDINGS and names == wanted[:1]):
            raise InputError(
                f"{images}: the case {case} has {', '.join(names)}, but the network was trained on {channels} "
                f"channels: {', '.join(wanted)}; add or rename them"
            )
    return cases


def _raw_dataset(text: str) -> tuple[str, Path]:
    if not nnUNet_raw.is_set():
        raise InputError("nnUNet_raw is not set; set nnU-Net's three folders (see: nnunet-attn doctor)")
    name = full_dataset_name(text)
    return name, Path(str(nnUNet_raw)) / name


def _results_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    return Path(str(nnUNet_results)) / dataset / f"{trainer}__{plans}__{configuration}"


def _labels(raw: Path, cases: Mapping[str, Sequence[Path]], ending: str) -> Path | None:
    folder = raw / "labelsTs"
    there = {path.name.removesuffix(ending) for path in folder.glob(f"*{ending}")} if folder.is_dir() else set()
    if not there:
        return None
    for missing, what in ((sorted(set(cases) - there), "label"), (sorted(there - set(cases)), "image")):
        if missing:
            raise InputError(
                f"{len(missing)} of the cases in {raw}/imagesTs and labelsTs have no {what}, the first is "
                f"{missing[0]}; add it, or leave out the evaluation: --no-evaluation"
            )
    return folder


def _previous(
    request: PredictTestRequest, model: Path, trainer: str, stage: str | None, cases: Mapping[str, Any], ending: str
) -> Path | None:
    if stage is None:
        if request.previous is not None:
            raise InputError(f"-prev_stage_predictions: {request.configuration} is no cascade; leave it out")
        return None
    own = replace(request, configuration=stage, previous=None, output=None)
    folder = request.previous
    if folder is None:
        folder = model.with_name(f"{trainer}__{request.plans}__{stage}") / own.folder_name
    missing = [case for case in cases if not (folder / f"{case}{ending}").is_file()]
    if missing:
        raise InputError(
            f"{request.configuration} reads what {stage} has predicted, but {folder} has no prediction of "
            f"{len(missing)} of the {len(cases)} cases, the first is {missing[0]}; first run: "
            f"{command_of(own, (trainer,))}"
        )
    return folder


def command_of(request: PredictTestRequest, trainers: Sequence[str]) -> str:
    """Return the command that predicts with these trainers of a request; a default device is not named."""
    words = ["-d", request.dataset, "-tr", *trainers, "-c", request.configuration, "-p", request.plans]
    words += ["-f", *map(str, request.folds), "-chk", request.checkpoint]
    words += ["-device", request.device] if request.device != PredictTestRequest.device else []
    words += ["--ensemble", "softmax"] if request.ensemble == "softmax" else []
    words += ["--grid"] if request.grid else []
    words += [] if request.mirroring else ["--disable_tta"]
    return shlex.join(["nnunet-attn", "predict-test", *words])


def _output(request: PredictTestRequest, model: Path, trainer: str) -> Path:
    if request.output is None:
        return model / request.folder_name
    output = request.output.absolute()  # "." has no name
    return output if len(request.trainers) == 1 else output / trainer


def _check_output(output: Path, made: Made, overwrite: bool) -> None:
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise InputError(f"-o {output} is no folder; choose another one")
    if not output.is_dir() or not any(output.iterdir()):
        return
    before = record_of(output)
    if before is None:
        raise InputError(f"-o {output} holds files that this command did not make; choose a new or an empty folder")
    differing = sorted(key for key in made.model if before.model.get(key) != made.model[key])
    if differing and not overwrite:
        raise InputError(
            f"{output} was predicted with another {', '.join(differing)}; to predict anew, add --overwrite, "
            "or choose another folder with -o"
        )
