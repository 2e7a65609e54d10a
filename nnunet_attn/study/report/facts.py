"""What nnU-Net's files tell of a training beside its epochs: device, versions, batch, optimiser, plans, checkpoint."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError
from nnunet_attn.study.check_data import resolved
from nnunet_attn.study.groups import Model
from nnunet_attn.study.logs import TrainingLog, log_files, merged_epochs, read_log
from nnunet_attn.study.matrix import Run
from nnunet_attn.study.options import PLANS_KEY
from nnunet_attn.study.report.model import TrainingFacts

# of the plans beside the configuration, what a network sees
_SHARED_ENTRIES = ("transpose_forward", "foreground_intensity_properties_per_channel")
_BANNER = re.compile(r"nnunet-attn (\S+): .*?; recipe: (.*?); loss: (.*?); flips only: (.*?);")


def read_facts(run: Run) -> TrainingFacts:
    """Return what is known of a training; raises nothing for files that are missing or broken."""
    noted = _debug(run.fold_folder)
    logs = read_logs(run.fold_folder)
    version, recipe, loss, flips_only = _banner(logs)
    configuration = trained_configuration(run.model_folder, run.configuration)
    patch = configuration.get("patch_size")
    device = noted.get("gpu_name") or _kind(noted.get("device"))
    finished = [epoch.seconds for epoch in merged_epochs(logs) if epoch.seconds is not None]
    return TrainingFacts(
        device=device,
        torch=noted.get("torch_version"),
        cudnn=None if noted.get("cudnn_version") in (None, "None") else str(noted["cudnn_version"]),
        nnunet_attn=version,
        epochs=_whole(noted.get("num_epochs")),
        iterations=_whole(noted.get("num_iterations_per_epoch")),
        batch_size=_whole(noted.get("batch_size")) or _whole(configuration.get("batch_size")),
        patch_size=tuple(patch) if isinstance(patch, list) else None,
        optimizer=str(noted.get("optimizer", "")).partition(" ")[0] or None,
        learning_rate=_number(noted.get("initial_lr")),
        recipe=recipe,
        loss=loss,
        flips_only=flips_only,
        precision=noted.get("precision"),
        distributed=noted.get("is_ddp") == "True",
        plans_digest=_digest(configuration) if configuration else None,
        checkpoint=_checkpoint(run),
        epoch_seconds=sum(finished) if finished else None,
        validation_seconds=_validation_seconds(logs),
    )


def read_logs(fold_folder: Path) -> tuple[TrainingLog, ...]:
    """Return the training logs of a fold that can be read, oldest first."""
    logs = []
    for file in log_files(fold_folder):
        with suppress(OSError):
            logs.append(read_log(file))
    return tuple(logs)


def trained_configuration(model_folder: Path, configuration: str) -> dict[str, Any]:
    """Return a configuration of the plans beside results, with what it inherits and without networks' options.

    What the plans say for all configurations and a network sees is added. Empty if it cannot be read.
    """
    with suppress(OSError, ValueError, InputError, AttributeError):
        plans = json.loads((model_folder / "plans.json").read_text(encoding="utf-8"))
        entry = resolved(plans, configuration)
        entry.pop(PLANS_KEY, None)
        return {**{key: plans[key] for key in _SHARED_ENTRIES if key in plans}, **entry}
    return {}


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what two configurations do not agree in."""
    return tuple(sorted(key for key in {*one, *other} if one.get(key) != other.get(key)))


def _digest(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _debug(fold_folder: Path) -> dict[str, Any]:
    """What nnU-Net noted at the training's start; empty if it is not there, or being written."""
    with suppress(OSError, ValueError):
        noted = json.loads((fold_folder / "debug.json").read_text(encoding="utf-8"))
        return noted if isinstance(noted, dict) else {}
    return {}


def _banner(logs: Sequence[TrainingLog]) -> tuple[str | None, ...]:
    """Version, recipe, loss and augmentation that the trainers of this package write, as of the last start."""
    for log in reversed(logs):
        with suppress(OSError), log.file.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if found := _BANNER.search(line):
                    return found.groups()
    return (None,) * 4


def _kind(device: Any) -> str | None:
    return None if device is None else str(device).partition(":")[0]


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _checkpoint(run: Run) -> str | None:
    from nnunet_attn.evaluation.pairs import Model as Evaluated
    from nnunet_attn.evaluation.pairs import checkpoint_used

    if not (run.fold_folder / "validation").is_dir():
        return None
    model = Evaluated(run.model_folder, run.dataset, run.trainer, run.plans, run.configuration)
    with suppress(InputError):
        return checkpoint_used(model, (run.fold,))
    return None


def _validation_seconds(logs: Sequence[TrainingLog]) -> float | None:
    """From the first case to the end of the last validation that came to its end."""
    for log in reversed(logs):
        if log.validation_complete and log.predicted and log.last is not None:
            return (log.last - log.predicted[0]).total_seconds()
    return None


def first_facts(facts: Mapping[Run, TrainingFacts], model: Model) -> TrainingFacts | None:
    """Return what is known of the first training of a model of which anything is."""
    own = (facts.get(run) for run in facts if belongs(run, model))
    return next((each for each in own if each is not None and each != TrainingFacts()), None)


def belongs(run: Run, model: Model) -> bool:
    """Whether a training is one of a model's folds."""
    names = ("dataset", "row", "trainer", "plans", "configuration", "seed", "labels")
    return all(getattr(run, name) == getattr(model, name) for name in names) and run.fold in model.folds
