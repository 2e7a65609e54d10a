"""What a study costs before it starts: trainings, hours by the times of earlier epochs, disk."""

import json
import re
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_attn.study.matrix import Run, nnunet_folder
from nnunet_attn.study.state import RunState, read_state
from nnunet_attn.trainer_names import parse_trainer_name, trainer_names

# checkpoint_best and checkpoint_final, which takes the place of checkpoint_latest
_CHECKPOINTS = ("checkpoint_best.pth", "checkpoint_final.pth", "checkpoint_latest.pth")
_KEPT = 2


@dataclass(frozen=True)
class Cost:
    """What a study costs.

    Args:
        trainings: Its trainings; what rows share counts once.
        done: Those of them that are trained and validated.
        pretrainings: Pre-trainings, done or not.
        predictions: Models that predict a test set.
        seconds: Training time of the rest, one after the other on one device, without validation: of those trainers
            whose time is known.
        unknown: Names of rows without any time.
        disk_bytes: What checkpoints and predictions still need; None if the size of a checkpoint is not known.
        free_bytes: Free space where nnUNet_results is.
    """

    trainings: int
    done: int
    pretrainings: int
    predictions: int
    seconds: float
    unknown: tuple[str, ...]
    disk_bytes: int | None
    free_bytes: int

    @property
    def hours(self) -> float | None:
        """Hours of training that are left; None as long as a trainer's time is not known."""
        return None if self.unknown else self.seconds / 3600


def cost_of(
    runs: Sequence[Run],
    epochs: Callable[[Run], int | None],
    checkpoint_bytes: Callable[[Run], int | None],
    pretrained_rows: Iterable[str] = (),
    test_set: bool = False,
    state_of: Callable[[Path], RunState] = read_state,
) -> Cost:
    """Return what a study costs.

    Args:
        runs: All its trainings.
        epochs: Run -> epochs of the whole training; None if unknown.
        checkpoint_bytes: Run -> size of a checkpoint; None if unknown.
        pretrained_rows: Titles of rows that are pre-trained.
        test_set: Whether the test set is predicted.
        state_of: Fold's folder -> state of the training in it.
    Raises:
        InputError: If one of nnU-Net's folders is not set.
    """
    unique = {run.fold_folder: run for run in runs}
    states = {folder: state_of(folder) for folder in unique}
    left = {folder: run for folder, run in unique.items() if states[folder].kind != "done"}
    paces: dict[tuple[str, ...], float | None] = {}
    seconds, unknown, disk, size_unknown = 0.0, dict[str, None](), 0, False
    for folder, run in left.items():
        key = (run.dataset, run.trainer, run.plans, run.configuration)
        if key not in paces:
            paces[key] = earlier_seconds_per_epoch(run, state_of)
        pace, total = paces[key], epochs(run)
        if pace is None or total is None:
            unknown[run.row] = None
        else:
            seconds += pace * max(0, total - (states[folder].epoch or 0))
        size = checkpoint_bytes(run)
        size_unknown |= size is None
        disk += max(0, _KEPT * (size or 0) - _bytes_of(folder / name for name in _CHECKPOINTS))
        disk += _validation_bytes(run)
    # one more while it is written
    disk += max((checkpoint_bytes(run) or 0 for run in left.values()), default=0)
    models = {(run.model_folder, run.row): run for run in runs} if test_set else {}
    disk += sum(_test_bytes(run.dataset) for run in models.values())
    pretrained = set(pretrained_rows)
    pretrainings = {run.model_folder: run for run in runs if run.row in pretrained}
    disk += sum(_KEPT * (checkpoint_bytes(run) or 0) for run in pretrainings.values())
    return Cost(
        trainings=len(unique),
        done=len(unique) - len(left),
        pretrainings=len(pretrainings),
        predictions=len(models),
        seconds=seconds,
        unknown=tuple(unknown),
        disk_bytes=None if size_unknown else disk,
        free_bytes=free_disk_bytes(nnunet_folder("nnUNet_results")),
    )


def earlier_seconds_per_epoch(run: Run, state_of: Callable[[Path], RunState] = read_state) -> float | None:
    """Return the median time of an epoch in earlier trainings like a run, of whatever machine; None if there are none.

    Like it are those of the same data set, plans, configuration and trainer; number of epochs and seed may differ.
    """
    wanted = _without_length(run.trainer)
    found = []
    for model in sorted(run.model_folder.parent.glob(f"*__{run.plans}__{run.configuration}")):
        if _without_length(model.name.split("__")[0]) == wanted:
            states = (state_of(folder) for folder in sorted(model.glob("fold_*")) if folder.is_dir())
            found += [each.seconds_per_epoch for each in states if each.seconds_per_epoch is not None]
    return statistics.median(found) if found else None


def free_disk_bytes(folder: Path) -> int:
    """Return the free space of the file system that a folder is, or will be, on."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _without_length(trainer: str) -> tuple[Any, ...]:
    """What decides how long an epoch takes."""
    parsed = parse_trainer_name(trainer, trainer_names())
    if parsed.base is None or not parsed.is_valid:
        return (re.sub(r"_\d+epochs?(?=_|$)", "", trainer),)  # nnU-Net's own variants are named so
    return parsed.base, *sorted((k, v) for k, v in parsed.attributes.items() if k not in ("epochs", "seed"))


def _bytes_of(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


def _validation_bytes(run: Run) -> int:
    """Predictions take about what the references take."""
    folder = nnunet_folder("nnUNet_preprocessed") / run.dataset
    ending = _read(folder / "dataset.json").get("file_ending", "")
    splits = _read(folder / "splits_final.json", [])
    if run.fold < len(splits):
        cases = splits[run.fold].get("val", [])
        return _bytes_of(folder / "gt_segmentations" / f"{case}{ending}" for case in cases)
    references = sorted((folder / "gt_segmentations").glob(f"*{ending}"))
    return _bytes_of(references) // 5  # nnU-Net's own splits validate on a fifth


def _test_bytes(dataset: str) -> int:
    folder = nnunet_folder("nnUNet_raw") / dataset
    description = _read(folder / "dataset.json")
    ending = str(description.get("file_ending", ""))
    references = sorted((folder / "labelsTr").glob(f"*{ending}"))
    images = (folder / "imagesTs").glob(f"*{ending}")
    cases = {re.sub(r"_\d{4}$", "", path.name.removesuffix(ending)) for path in images}
    return len(cases) * _bytes_of(references) // max(1, len(references))


def _read(file: Path, missing: Any = None) -> Any:
    """What a JSON file holds; nothing if it cannot be read, which the check says elsewhere."""
    empty: Any = {} if missing is None else missing
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return empty
    return content if isinstance(content, Mapping if missing is None else list) else empty
