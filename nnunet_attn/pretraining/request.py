"""What `nnunet-attn pretrain` is asked for, checked before anything is written."""

import contextlib
import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_attn.dataset_names import full_dataset_name
from nnunet_attn.datasets.pseudo_labels import pseudo_labels_of
from nnunet_attn.errors import InputError
from nnunet_attn.json_files import read_json
from nnunet_attn.paths import NNUNET_FOLDERS, TRAINER_VARIABLE
from nnunet_attn.pretraining.steps import chain_environment
from nnunet_attn.pretraining.unlabelled import Cases, image_cases, why_unlabelled
from nnunet_attn.training.extent import plans_with_extent
from nnunet_attn.training.patch_training import AUTO, PatchTrainer
from nnunet_attn.training.position import PositionTrainer
from nnunet_attn.training.pretrain import PretrainMixin
from nnunet_attn.training.variants import PRETRAINING, parse_trainer_name

Task = Literal["denoise", "inpaint", "both"]
_SUFFIX: dict[str, str] = {"denoise": "_PretrainDenoise", "inpaint": "_PretrainInpaint", "both": "_PretrainBoth"}


@dataclass(frozen=True)
class Pretraining:
    """What to pre-train.

    Args:
        dataset: Number or name of the data set in nnUNet_raw whose images are learned from.
        trainer: Trainer to fine-tune with, with suffixes.
        configuration: Configuration of the plans.
        plans: Name of the plans to fine-tune with.
        fine_tuned_on: Number or name of the planned data set to fine-tune on; None: `dataset` itself.
        task: "denoise", "inpaint" or "both".
        resume: Continue a training that was broken off.
        device: "cpu", "cuda" or "mps"; None: CUDA where there is one, else the CPU.
        num_gpus: GPUs to train on.
        workers: Processes that read and preprocess images.
    """

    dataset: str
    trainer: str
    configuration: str
    plans: str = "nnUNetPlans"
    fine_tuned_on: str | None = None
    task: Task = "denoise"
    resume: bool = False
    device: str | None = None
    num_gpus: int = 1
    workers: int = 4


@dataclass(frozen=True)
class Checked:
    """A request that can be met.

    Args:
        source: Folder of the raw data set that is learned from.
        description: Its dataset.json.
        cases: Its images.
        unlabelled: Why nnU-Net cannot use its labels; None if it can.
        target: Name of the data set to fine-tune on.
        plans: Its plans, with the extent of its volumes where the network reads positions.
        trainer: Name of the trainer that pre-trains.
        epochs: Its epochs.
        reads_positions: Whether its network may read positions.
    """

    source: Path
    description: Mapping[str, Any]
    cases: Cases
    unlabelled: str | None
    target: str
    plans: Mapping[str, Any]
    trainer: str
    epochs: int
    reads_positions: bool

    @property
    def is_own(self) -> bool:
        """Whether the data set that is learned from is the one to fine-tune on."""
        return self.source.name == self.target


def nnunet_folder(variable: str) -> Path:
    """Return one of nnU-Net's folders.

    Raises:
        InputError: If its variable is not set, or names no folder.
    """
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        raise InputError(
            f"{variable} {'is not set' if not value else f'names no folder: {value}'}; see: nnunet-attn doctor"
        )
    return Path(value)


def dataset_id(name: str) -> int:
    """Return the number in a data set's name."""
    return int(name[7:10])


def check(request: Pretraining) -> Checked:
    """Check a request; writes nothing.

    Raises:
        InputError: If a part of it cannot be met; the message says what to do.
    """
    for variable in NNUNET_FOLDERS:
        nnunet_folder(variable)
    if request.workers < 1 or request.num_gpus < 1:
        raise InputError(f"--npp {request.workers}, --num-gpus {request.num_gpus}: both must be at least 1")
    name = _dataset_name(request.dataset, "-d")
    source = nnunet_folder("nnUNet_raw") / name
    description = _description(source)
    cases = image_cases(source, description)
    target = name if request.fine_tuned_on is None else _dataset_name(request.fine_tuned_on, "--for")
    unlabelled = why_unlabelled(source, description, cases)
    if unlabelled and target == name:
        raise InputError(
            f"{name} cannot be fine-tuned on, because {unlabelled}; name the labelled data set whose plans to use: "
            "--for DATASET"
        )
    plans, dataset_json = _planned(request, target)
    if pseudo_labels_of(dataset_json) is not None:
        raise InputError(
            f"{target} cannot be fine-tuned on, because its labels are body masks; name a labelled one: --for DATASET"
        )
    _check_channels(name, description, target, dataset_json)
    full = f"{request.trainer}{_SUFFIX[request.task]}"
    trainer: Any = _trainer_class(request.trainer, full)
    reads_positions = issubclass(trainer, PositionTrainer)
    try:
        if reads_positions:
            plans = plans_with_extent(plans, request.configuration, request.trainer)[0]
        trainer._check(deepcopy(plans), request.configuration, dataset_json, torch.device("cpu"))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{request.trainer} cannot be built for {request.plans} of {target}: {error}") from error
    _check_gpus(request, trainer, plans)
    return Checked(source, description, cases, unlabelled, target, plans, full, trainer.epochs or 1000, reads_positions)


def _check_gpus(request: Pretraining, trainer: Any, plans: Mapping[str, Any]) -> None:
    if request.num_gpus == 1:
        return
    configuration = PlansManager(deepcopy(dict(plans))).get_configuration(request.configuration)
    patches = issubclass(trainer, PatchTrainer)
    batch_size = trainer.wanted_sizes(configuration)["batch_size"] if patches else configuration.batch_size
    if batch_size != AUTO and batch_size < request.num_gpus:
        raise InputError(
            f"--num-gpus {request.num_gpus}: GPUs share a batch, and batch_size is {batch_size} for {request.trainer}, "
            f"{request.plans}, {request.configuration}; give at most {batch_size}, or plans with a larger batch"
        )
    available = torch.cuda.device_count() if request.device in (None, "cuda") else 0
    if available < request.num_gpus:
        raise InputError(
            f"--num-gpus {request.num_gpus}, -device {request.device or 'not given'}: there are {available} CUDA "
            "devices to train on; give a smaller number"
        )


def _dataset_name(text: str, option: str) -> str:
    name = full_dataset_name(text, option, "correct it, or put the data set into nnUNet_raw")
    if not re.fullmatch(r"Dataset\d{3}_.+", name):
        raise InputError(
            f"{option} {text}: nnU-Net's data sets are called DatasetNNN_Name; give the number or the name"
        )
    return name


def _description(source: Path) -> dict[str, Any]:
    file = source / "dataset.json"
    wants = 'with "channel_names" and "file_ending", such as {"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}'
    if not file.is_file():
        raise InputError(f"{file} does not exist; write it, {wants}")
    content = read_json(file, "mend it")
    channels = content.get("channel_names", content.get("modality")) if isinstance(content, dict) else None
    if not isinstance(channels, Mapping) or not channels or not isinstance(content.get("file_ending"), str):
        raise InputError(f"{file} does not say what the images are; write it {wants}")
    return content


def _planned(request: Pretraining, target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = nnunet_folder("nnUNet_preprocessed") / target
    file = folder / f"{request.plans}.json"
    if not file.is_file() or not (folder / "dataset.json").is_file():
        raise InputError(
            f"{target} has no plans {request.plans} ({file}), by which images are prepared and the network is built; "
            f"run: nnUNetv2_plan_and_preprocess -d {dataset_id(target)}"
        )
    plans = read_json(file, "mend it")
    manager = PlansManager(deepcopy(plans))
    if request.configuration not in manager.available_configurations:
        available = ", ".join(manager.available_configurations)
        raise InputError(
            f"{request.plans} of {target} has no configuration {request.configuration}; there are {available}"
        )
    previous = manager.get_configuration(request.configuration).previous_stage_name
    if previous is not None:
        raise InputError(
            f"{request.configuration} reads what {previous} has segmented, which a data set without labels does not "
            f"have; pre-train for {previous}"
        )
    return plans, read_json(folder / "dataset.json", "mend it")


def _check_channels(name: str, given: Mapping[str, Any], target: str, wanted: Mapping[str, Any]) -> None:
    channels = [description.get("channel_names", description.get("modality", {})) for description in (given, wanted)]
    if len(channels[0]) != len(channels[1]):
        told = [f"{len(names)} ({', '.join(map(str, names.values()))})" for names in channels]
        raise InputError(
            f"{name} has {told[0]} channels and {target} has {told[1]}; a network takes one number of channels, so "
            "pre-train on images with the same"
        )


def _trainer_class(name: str, full: str) -> type[PretrainMixin]:
    # of a name with a suffix in it already, all parts but the trainer's own are looked at
    if PRETRAINING in parse_trainer_name(name, [name.split("_")[0]]).attributes:
        raise InputError(f"-tr {name}: give the trainer to fine-tune with; what to learn before is said by --task")
    try:
        with _variables(chain_environment()), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Any = recursive_find_trainer_class_by_name(full)
    except Exception as error:  # a foreign trainer folder can fail with anything at import
        raise InputError(
            f"-tr {name}: nnU-Net finds no trainer {full}; see: nnunet-attn doctor {name}. Trainers that are not of "
            "this package cannot pre-train"
        ) from error
    if not issubclass(found, PretrainMixin):
        raise InputError(f"-tr {name}: {full} is no pre-training of this package; see: nnunet-attn list")
    return found


@contextlib.contextmanager
def _variables(environment: Mapping[str, str]) -> Iterator[None]:
    before = os.environ.get(TRAINER_VARIABLE)
    os.environ[TRAINER_VARIABLE] = environment[TRAINER_VARIABLE]
    try:
        yield
    finally:
        if before is None:
            del os.environ[TRAINER_VARIABLE]
        else:
            os.environ[TRAINER_VARIABLE] = before
