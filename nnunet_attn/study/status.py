"""All trainings of a study, or of a data set's results folders, at a glance."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from nnunet_attn.errors import InputError
from nnunet_attn.study.matrix import nnunet_folder
from nnunet_attn.study.state import RunState, read_state

_SEED = re.compile(r"_seed(0|[1-9]\d*)(?=_|$)")


class Watched(Protocol):
    """What is needed to know of a training, of a study's `Run` or one that was found."""

    @property
    def dataset(self) -> str:
        """`DatasetNNN_Name`."""
        ...

    @property
    def row(self) -> str:
        """What it is called beside the others."""
        ...

    @property
    def trainer(self) -> str:
        """Full name."""
        ...

    @property
    def plans(self) -> str:
        """Name of the plans."""
        ...

    @property
    def configuration(self) -> str:
        """For example `3d_fullres`."""
        ...

    @property
    def fold(self) -> int | str:
        """Number, or `all`."""
        ...

    @property
    def seed(self) -> int | None:
        """None if the trainer's name sets none."""
        ...

    @property
    def fold_folder(self) -> Path:
        """nnU-Net's folder of this training; need not exist."""
        ...


@dataclass(frozen=True)
class FoundTraining:
    """A training of which there is a folder. Args: see `Watched`."""

    dataset: str
    row: str
    trainer: str
    plans: str
    configuration: str
    fold: int | str
    seed: int | None
    fold_folder: Path


def find_trainings(dataset: str) -> tuple[FoundTraining, ...]:
    """Return all trainings of a data set below nnUNet_results.

    Args:
        dataset: Name or number.
    Raises:
        InputError: If nnUNet_results is not set, or has no folder of this data set, several, or one without trainings.
    """
    results = nnunet_folder("nnUNet_results")
    pattern = f"Dataset{int(dataset):03d}_*" if dataset.isdecimal() else dataset
    folders = sorted(path for path in results.glob(pattern) if path.is_dir()) if pattern.strip("/.") else []
    if len(folders) > 1:
        names = " and ".join(folder.name for folder in folders)
        raise InputError(f"-d {dataset}: {names} are in {results}; give the name")
    found = [each for folder in folders for path in folder.glob("*__*__*/fold_*") if (each := _training(path))]
    if not found:
        there = ", ".join(sorted(path.name for path in results.glob("Dataset*_*"))) or "nothing"
        raise InputError(
            f"-d {dataset}: {results} has no training of this data set, it has: {there}; correct -d, or start one: "
            "nnUNetv2_train"
        )
    return tuple(sorted(found, key=_order))


def read_states(runs: Sequence[Watched], now: float | None = None) -> tuple[RunState, ...]:
    """Return the state of each training; rows that share a training share its state."""
    known: dict[Path, RunState] = {}
    for run in runs:
        folder = run.fold_folder
        if folder not in known:
            known[folder] = read_state(folder, now)
    return tuple(known[run.fold_folder] for run in runs)


def next_command(run: Watched, state: RunState) -> str | None:
    """Return what finishes a training that stopped or failed; None for the others.

    `-device` and `-num_gpus` are not written down anywhere: add those it was started with.
    """
    if state.kind not in ("stopped", "failed"):
        return None
    words = ["nnUNetv2_train", run.dataset, run.configuration, str(run.fold), "-tr", run.trainer]
    if run.plans != "nnUNetPlans":
        words += ["-p", run.plans]
    is_trained = state.epochs is not None and state.epoch == state.epochs
    if is_trained and (run.fold_folder / "checkpoint_final.pth").is_file():
        words.append("--val")
    elif any((run.fold_folder / f"checkpoint_{kind}.pth").is_file() for kind in ("final", "latest", "best")):
        words.append("--c")
    return shlex.join(words)


def as_json(runs: Sequence[Watched], states: Sequence[RunState]) -> list[dict[str, Any]]:
    """Return what is known of each training, for `json.dumps`."""
    rows = []
    for run, state in zip(runs, states, strict=True):
        names = ("dataset", "row", "trainer", "plans", "configuration", "fold", "seed")
        row = {name: getattr(run, name) for name in names}
        log = None if state.log is None else str(state.log)
        rows.append(
            {**row, "folder": str(run.fold_folder), **asdict(state), "log": log, "next": next_command(run, state)}
        )
    return rows


def _training(path: Path) -> FoundTraining | None:
    """The training of a folder `.../TRAINER__PLANS__CONFIGURATION/fold_N`; None if it is called otherwise."""
    parts = path.parent.name.split("__")
    fold = path.name.removeprefix("fold_")
    if len(parts) != 3 or not path.is_dir() or not (fold.isdecimal() or fold == "all"):
        return None
    trainer, plans, configuration = parts
    seed = _SEED.search(trainer)
    row = _SEED.sub("", trainer) + ("" if plans == "nnUNetPlans" else f", {plans}")
    number = int(fold) if fold.isdecimal() else fold
    dataset = path.parent.parent.name
    return FoundTraining(dataset, row, trainer, plans, configuration, number, int(seed[1]) if seed else None, path)


def _order(run: FoundTraining) -> tuple[Any, ...]:
    fold = (0, run.fold) if isinstance(run.fold, int) else (1, 0)
    return run.configuration, run.row, -1 if run.seed is None else run.seed, fold
