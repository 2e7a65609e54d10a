"""Fits the weights of one network into another and writes them for nnU-Net's `-pretrained_weights`."""

import io
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_attn.architectures.published import (
    check_network,
    check_options,
    check_weights,
    published_source,
    recognise,
    translate,
)
from nnunet_attn.dataset_names import full_dataset_name
from nnunet_attn.errors import InputError
from nnunet_attn.json_files import read_object
from nnunet_attn.paths import TRAINER_VARIABLE
from nnunet_attn.training.checkpoints import load_trusted
from nnunet_attn.training.extent import plans_with_extent
from nnunet_attn.training.position import PositionTrainer

# nnU-Net's load_pretrained_weights leaves these out, so that another number of classes can be trained
SEGMENTATION_HEADS = ".seg_layers."
NNUNET = "nnunet"
# Where others than nnU-Net put a state dict into a checkpoint
STATE_DICTS = ("state_dict", "model", "network_weights")


@dataclass
class FitReport:
    """What became of each tensor of the target network's state dict.

    Args:
        kept: Same name, same shape: taken over.
        resampled: Same name, another shape: taken over as far as it fits, or resampled.
        fresh: Not in the source, or nothing of it fits: freshly initialised.
        unused: Tensors of the source that the target network has no place for.
    """

    kept: list[str] = field(default_factory=list)
    resampled: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def read_network_weights(file: Path) -> dict[str, Tensor]:
    """Return the network weights of an nnU-Net checkpoint, on the CPU, whatever device they were saved from.

    Raises:
        InputError: If there is no such file, it is not a checkpoint, or it holds no `network_weights`.
    """
    checkpoint = _read_checkpoint(file)
    weights = checkpoint.get("network_weights") if isinstance(checkpoint, Mapping) else None
    if not _is_state_dict(weights):
        raise InputError(f"{file} holds no 'network_weights'; give a checkpoint that nnU-Net wrote")
    return _plain_names(weights)


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Return the state dict that a file holds, alone or under one of the usual names, on the CPU.

    Raises:
        InputError: If there is no such file, it is not a checkpoint, or it holds no state dict.
    """
    checkpoint = _read_checkpoint(file)
    entries = [checkpoint.get(name) for name in STATE_DICTS] if isinstance(checkpoint, Mapping) else []
    for entry in (checkpoint, *entries):
        if _is_state_dict(entry) and entry:
            return _plain_names(entry)
    raise InputError(
        f"{file} holds no state dict, neither alone nor as {', '.join(map(repr, STATE_DICTS))}; "
        "save one with torch.save(model.state_dict(), FILE)"
    )


def _read_checkpoint(file: Path) -> Any:
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a checkpoint such as fold_0/checkpoint_final.pth")
    try:
        return load_trusted(file)
    except Exception as error:  # on a file that is no checkpoint, unpickling fails with anything
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is not None:
            raise InputError(
                f"{file} holds an object of {refused[1]}, which is not loaded, because that could run foreign code; "
                "save its state dict ('network_weights' in nnU-Net's checkpoints) alone in a file of its own, "
                "if you trust it"
            ) from error
        raise InputError(
            f"{file} is not a checkpoint that PyTorch can read, or it is damaged; copy or export it again"
        ) from error


def _is_state_dict(entry: Any) -> TypeGuard[Mapping[str, Tensor]]:
    return isinstance(entry, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in entry.items()
    )


def _plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without what DataParallel and torch.compile put before their names."""
    return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in weights.items()}


def fit_weights(network: nn.Module, source: Mapping[str, Tensor]) -> FitReport:
    """Fill a network's state dict with what fits of `source`.

    Tensors of another shape are handed to the network's own `adapt_weight(key, source, target)`, if it has one.

    Raises:
        ValueError: If the network refuses the weights: they are of settings that their shapes do not show.
    """
    adapt = getattr(network, "adapt_weight", lambda *_: None)
    state = network.state_dict()
    report = FitReport(unused=[key for key in source if key not in state])
    for key, target in state.items():
        given = source.get(key)
        if given is None:
            report.fresh.append(key)
        elif given.shape == target.shape:
            state[key] = given.to(target.dtype)
            report.kept.append(key)
        elif (adapted := adapt(key, given, target)) is not None:
            state[key] = adapted.to(target.dtype)
            report.resampled.append(key)
        else:
            report.fresh.append(key)
    network.load_state_dict(state)
    return report


def build_target(dataset: str, configuration: str, plans: str, trainer: str) -> nn.Module:
    """Build the network that `nnUNetv2_train DATASET CONFIGURATION 0 -p PLANS -tr TRAINER` would train.

    Raises:
        InputError: If data set, plans, configuration or trainer do not exist.
    """
    if not nnUNet_preprocessed.is_set():
        raise InputError("nnUNet_preprocessed is not set; set nnU-Net's three folders (see: nnunet-attn doctor)")
    remedy = "correct it, or put the data set into nnUNet_raw and run nnUNetv2_plan_and_preprocess"
    name = full_dataset_name(dataset, remedy=remedy)
    folder = Path(str(nnUNet_preprocessed)) / name
    plans_file = folder / f"{plans}.json"
    if not plans_file.is_file():
        raise InputError(f"{plans_file} does not exist; run: nnUNetv2_plan_and_preprocess -d {dataset}")
    manager = PlansManager(read_object(plans_file, "plan the data set again"))
    if configuration not in manager.available_configurations:
        available = ", ".join(manager.available_configurations)
        raise InputError(f"{plans} has no configuration {configuration!r}; there are {available}")
    dataset_json = read_object(folder / "dataset.json", "plan the data set again")
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer_class = recursive_find_trainer_class_by_name(trainer)
    except Exception as error:  # a foreign trainer folder can fail with anything at import
        folders = os.environ.get(TRAINER_VARIABLE) or "not set"
        raise InputError(
            f"nnU-Net does not find the trainer {trainer!r} ({TRAINER_VARIABLE}: {folders}); "
            f"see: nnunet-attn doctor {trainer}"
        ) from error
    try:
        if issubclass(trainer_class, PositionTrainer):
            manager = PlansManager(plans_with_extent(manager.plans, configuration, trainer)[0])
        configuration_manager = manager.get_configuration(configuration)
        return trainer_class.build_network_architecture(
            manager,
            configuration_manager,
            determine_num_input_channels(manager, configuration_manager, dataset_json),
            manager.get_label_manager(dataset_json).num_segmentation_heads,
            True,
        )
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InputError(f"{trainer} cannot be built for {plans}, {configuration}: {error}") from error


def import_weights(
    source: str, file: Path, dataset: str, configuration: str, plans: str, trainer: str, output: Path
) -> FitReport:
    """Write `output`, for `-pretrained_weights`, with what fits of a file's weights into a trainer's network.

    Args:
        source: What wrote the file: `nnunet`, or a published source (`nnunet_attn.architectures.published_keys`).
        file: The checkpoint.
        dataset: Name or number of the data set to train on.
        configuration: Configuration of its plans.
        plans: Name of its plans.
        trainer: Name of the trainer, with suffixes.
        output: File to write.
    Raises:
        InputError: If an input is missing or wrong, nothing of it fits, or `output` exists already.
    """
    if output.exists():
        raise InputError(f"{output} exists already; give another name or remove it first")
    if not output.parent.is_dir():
        raise InputError(f"the folder {output.parent} does not exist; create it first")
    weights = read_network_weights(file) if source == NNUNET else _read_published(file, source)
    network = build_target(dataset, configuration, plans, trainer)
    if source != NNUNET:
        try:
            check_network(network, source)
            check_options(network, source)
        except ValueError as error:
            raise InputError(f"-tr {trainer}: {error}") from error
        weights = _translated(weights, file, source, network)
    try:
        report = fit_weights(network, weights)
    except ValueError as error:
        raise InputError(f"{file}, -tr {trainer}: {error}") from error
    _refuse_trivial(report, weights, network, file, trainer)
    partial = output.with_name(f"{output.name}.partial")
    try:
        torch.save({"network_weights": network.state_dict(), "trainer_name": trainer}, partial)
        os.replace(partial, output)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{output} cannot be written ({error}); give a file in a folder of yours") from error
    finally:
        partial.unlink(missing_ok=True)
    return report


def _read_published(file: Path, source: str) -> dict[str, Tensor]:
    weights = read_state_dict(file)
    recognised = recognise(weights)
    if source not in recognised:
        remedy = (
            f"these are of {recognised[0]}: run import-weights {recognised[0]}"
            if recognised
            else f"its first is {next(iter(weights))!r}; those of {source} have {published_source(source).present[0]!r}"
        )
        raise InputError(f"the names of the weights in {file} are not those of {source}; {remedy}")
    return weights


def _translated(weights: Mapping[str, Tensor], file: Path, source: str, network: nn.Module) -> dict[str, Tensor]:
    try:
        translated = translate(weights, source, network.state_dict())
    except ValueError as error:
        raise InputError(f"{file}: {error}; save the network's own state dict alone") from error
    try:
        check_weights(network, weights, source)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error
    return translated


def _refuse_trivial(
    report: FitReport, weights: Mapping[str, Tensor], network: nn.Module, file: Path, trainer: str
) -> None:
    """Refuse weights of which nothing fits but counters, norms and what else every network of a family shares.

    Raises:
        InputError: If no matrix or kernel outside the output layers fits.
    """
    state = network.state_dict()
    matrices = {key for key, value in state.items() if value.ndim > 1 and SEGMENTATION_HEADS not in key}
    if not matrices.isdisjoint((*report.kept, *report.resampled)):
        return
    other = next((key for key in report.fresh if key in weights and key in matrices), None)
    example = (
        f"{other} is {tuple(weights[other].shape)} there and {tuple(state[other].shape)} here; "
        "choose another trainer, or set the network's options in the plans"
        if other is not None
        else "is it of another architecture?"
    )
    raise InputError(f"no weight of {file} fits into the network of {trainer}; {example}")
