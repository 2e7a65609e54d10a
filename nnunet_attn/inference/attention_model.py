"""The trained model whose attention is looked at, and the images that it gets."""

import contextlib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.paths import nnUNet_results

from nnunet_attn.architectures.attention import attention_stages
from nnunet_attn.dataset_names import full_dataset_name
from nnunet_attn.errors import InputError
from nnunet_attn.inference.checkpoints import one_line
from nnunet_attn.inference.grid_predictor import GridPredictor
from nnunet_attn.inference.predict import check_trainer
from nnunet_attn.training.predictor import plain_network

DEFAULT_PLANS = "nnUNetPlans"


@dataclass(frozen=True)
class ModelName:
    """What a user types to name a trained model.

    Args:
        dataset: Data set name or number.
        trainer: Name of the trainer, with suffixes.
        fold: Number of the fold, or `all`.
        configuration: Configuration; None: the only one that has been trained.
        plans: Name of the plans.
        checkpoint: File name of the checkpoint.
    """

    dataset: str
    trainer: str
    fold: str = "0"
    configuration: str | None = None
    plans: str = DEFAULT_PLANS
    checkpoint: str = "checkpoint_final.pth"

    def folder(self) -> Path:
        """Return the results folder of the model.

        Raises:
            InputError: If it does not exist, or the configuration is not given and several have been trained.
        """
        if not nnUNet_results.is_set():
            raise InputError("nnUNet_results is not set; set nnU-Net's three folders (see: nnunet-attn doctor)")
        name = full_dataset_name(self.dataset)
        results = Path(str(nnUNet_results)) / name
        begin = f"{self.trainer}__{self.plans}__"
        wanted = results / f"{begin}{self.configuration or 'CONFIGURATION'}"
        fold = results / f"{begin}{self.configuration}" / f"fold_{self.fold}"
        if self.configuration is None:
            trained = sorted(path for path in results.glob(f"{begin}*") if (path / f"fold_{self.fold}").is_dir())
            if len(trained) > 1:
                names = ", ".join(path.name.removeprefix(begin) for path in trained)
                raise InputError(f"{self.trainer} has been trained for {names}; choose one with -c")
            if trained:
                return trained[0]
        elif fold.is_dir():
            return fold.parent
        check_trainer(self.trainer)
        others = sorted(path.parent.name.split("__") for path in results.glob(f"{self.trainer}__*/fold_*"))
        there = [f"-c {parts[2]} -p {parts[1]}" for parts in others if len(parts) == 3]
        hint = f"there are models with {', '.join(dict.fromkeys(there))}; choose one, or " if there else ""
        configuration = self.configuration or "3d_fullres"
        plans = "" if self.plans == DEFAULT_PLANS else f" -p {self.plans}"
        raise InputError(
            f"{wanted / f'fold_{self.fold}'} does not exist; {hint}train it first: "
            f"nnUNetv2_train {self.dataset} {configuration} {self.fold}{plans} -tr {self.trainer}"
        )


@dataclass(frozen=True)
class TrainedModel:
    """A model that is ready to predict, and its stages of attention.

    Args:
        name: How the user named it.
        predictor: the package's predictor with the network, and mirroring as trained.
        configuration_name: The configuration.
        stages: Names of the network's stages, not empty.
    """

    name: ModelName
    predictor: GridPredictor
    configuration_name: str
    stages: tuple[str, ...]

    @property
    def network(self) -> Any:
        """The network, without wrappers."""
        return plain_network(self.predictor.network)

    @property
    def dataset_json(self) -> Mapping[str, Any]:
        """The data set's own description."""
        return self.predictor.dataset_json  # pyright: ignore[reportReturnType]


def load_model(name: ModelName, device: str) -> TrainedModel:
    """Load a trained model as `nnUNetv2_predict` does; its checkpoint is trusted as much.

    Raises:
        InputError: If it does not exist, cannot be read, is of another network, or has no attention.
    """
    chosen = _device(device)
    folder = name.folder()
    file = folder / f"fold_{name.fold}" / name.checkpoint
    if not file.is_file():
        there = ", ".join(sorted(path.name for path in file.parent.glob("checkpoint_*.pth")))
        remedy = (
            f"choose one with -chk: {there}" if there else "the training has not come far enough, continue it (--c)"
        )
        raise InputError(f"{file} does not exist; {remedy}")
    predictor = _quiet_predictor(chosen)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predictor.initialize_from_trained_model_folder(
                str(folder), (int(name.fold) if name.fold.isdigit() else name.fold,), name.checkpoint
            )
    except InputError:
        raise
    except Exception as error:  # a foreign trainer or damaged plans can fail with anything
        raise InputError(
            f"{name.trainer} builds no network for the plans in {folder}; copy the results folder again "
            f"({one_line(error)})"
        ) from error
    if predictor.trainer_name != name.trainer:
        raise InputError(f"{file} is a checkpoint of {predictor.trainer_name}, not of {name.trainer}; put back its own")
    network: Any = plain_network(predictor.network)
    stages = tuple(attention_stages(network))
    if not stages:
        raise InputError(
            f"{type(network).__name__}, the network of {name.trainer}, has no attention, so there are no maps of it; "
            "nnunet-attn list shows the networks that have"
        )
    configuration = folder.name.rpartition("__")[2]
    return TrainedModel(name, predictor, configuration, stages)


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda", "mps"):
        raise InputError(f"-device is cpu, cuda or mps, got {name!r}")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise InputError(f"this machine has no {name}; add: -device cpu")
    return torch.device(name)


def _quiet_predictor(device: torch.device) -> GridPredictor:
    with contextlib.redirect_stdout(io.StringIO()):
        return GridPredictor(device=device, allow_tqdm=False)


def find_cases(images: Path, file_ending: str) -> dict[str, list[Path]]:
    """Return the files of each case of a folder, or of the case of one file, one a channel, in order.

    Args:
        images: Folder with `<case>_0000<ending>`, or one such file; one without a channel number is a case too.
        file_ending: What files of the data set end with.
    Raises:
        InputError: If there are none.
    """
    if not images.exists():
        raise InputError(f"{images} does not exist; give a folder of images or one image with -i")
    pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(file_ending)}")
    if images.is_file():
        found = pattern.fullmatch(images.name)
        if found is None and not images.name.endswith(file_ending):
            raise InputError(f"{images} does not end with {file_ending}, as the images of this data set do")
        if found is None:
            return {images.name.removesuffix(file_ending): [images]}
        return {found[1]: _channels(images.parent, found[1], file_ending)}
    names = sorted({found[1] for path in images.iterdir() if (found := pattern.fullmatch(path.name))})
    if not names:
        raise InputError(
            f"no image in {images} is named as nnU-Net names them, CASE_0000{file_ending}; rename them, or give one"
        )
    return {case: _channels(images, case, file_ending) for case in names}


def _channels(folder: Path, case: str, file_ending: str) -> list[Path]:
    pattern = re.compile(rf"{re.escape(case)}_\d{{4}}{re.escape(file_ending)}")
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))


def read_image(files: Sequence[Path], model: TrainedModel) -> tuple[Any, dict[str, Any]]:
    """Return an image (c *array) and its properties, as the data set's reader gives them.

    Raises:
        InputError: If it cannot be read, has another number of channels, or nothing to see.
    """
    reader = model.predictor.plans_manager.image_reader_writer_class()  # pyright: ignore[reportOptionalMemberAccess]
    channels = list(model.dataset_json.get("channel_names", model.dataset_json.get("modality", {})).values())
    named = f"{files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            image, properties = reader.read_images([str(file) for file in files])
    except Exception as error:  # each reader fails in its own way
        reason = " ".join(f"{said.getvalue()} {error}".split())[:300]
        raise InputError(f"{named} cannot be read as an image: {reason}") from error
    if len(image) != len(channels):
        raise InputError(
            f"{named}: an image of {len(image)} channels, but the model was trained with {len(channels)} "
            f"({', '.join(map(str, channels))}); give one file a channel, CASE_0000, CASE_0001, ..."
        )
    if not np.isfinite(image).all():
        raise InputError(f"{named} holds values that are no numbers (NaN or infinity); replace them first")
    if not image.any():
        raise InputError(f"{named}: every voxel of the image is 0, there is nothing to look at")
    return image, properties


def previous_stage_file(model: TrainedModel, folder: Path | None, case: str) -> str | None:
    """Return the file with the previous stage's segmentation of a case, None if the model needs none.

    Raises:
        InputError: If it needs one and there is none, or the other way round.
    """
    configuration: Any = model.predictor.configuration_manager
    if configuration.previous_stage_name is None:
        if folder is not None:
            raise InputError(f"{model.configuration_name} has no previous stage; leave out -prev_stage_predictions")
        return None
    if folder is None:
        raise InputError(
            f"{model.configuration_name} needs predictions of {configuration.previous_stage_name}; give their folder "
            "with -prev_stage_predictions"
        )
    file = folder / f"{case}{model.dataset_json['file_ending']}"
    if not file.is_file():
        raise InputError(f"{file} does not exist; predict it with {configuration.previous_stage_name} first")
    return str(file)
