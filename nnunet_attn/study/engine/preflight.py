"""What keeps a study from being run at all, found before anything starts; `study check` says more."""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_attn.errors import InputError
from nnunet_attn.paths import NNUNET_FOLDERS, make_folder
from nnunet_attn.study.check_data import check_dataset, check_results, is_planned
from nnunet_attn.study.cost import free_disk_bytes
from nnunet_attn.study.engine.preparing import check_planner
from nnunet_attn.study.findings import Finding
from nnunet_attn.study.matrix import Run, dataset_name, nnunet_folder, runs
from nnunet_attn.study.options import derived_plans

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study

LEAST_BYTES = 100_000_000
"""Free space below which nothing is started: a checkpoint that finds none is lost, and nnU-Net stops."""


def check_engine() -> None:
    """Check that Snakemake is installed.

    Raises:
        InputError: If not, with what to type.
    """
    if importlib.util.find_spec("snakemake") is None:
        needs = ", which needs Python 3.11 or newer" if sys.version_info < (3, 11) else ""
        raise InputError(f'no Snakemake{needs}; install it: pip install "nnunet-attn[benchmark]"')


def check_executor(name: str) -> None:
    """Check that Snakemake's plug-in for an executor is installed.

    Raises:
        InputError: If not, with what to type.
    """
    if importlib.util.find_spec(f"snakemake_executor_plugin_{name.replace('-', '_')}") is None:
        wanted = '"nnunet-attn[slurm]"' if name == "slurm" else f"snakemake-executor-plugin-{name}"
        raise InputError(f"--executor {name}: Snakemake has no such executor here; install it: pip install {wanted}")


def check_disk(folder: Path) -> None:
    """Check that the study's folder and nnUNet_results can be written to, and make the first.

    Raises:
        InputError: If not, or if less than `LEAST_BYTES` are free.
    """
    for place in (folder, nnunet_folder("nnUNet_results")):
        make_folder(place)
        free = free_disk_bytes(place)
        if free < LEAST_BYTES:
            raise InputError(f"{place} has {free / 1e6:.0f} MB of free space: free some, or choose another disk")


def check_startable(study: "Study") -> tuple[Run, ...]:
    """Check what `study check` calls problems, as far as the engine cannot solve them by itself; nothing is written.

    Data sets that are registered only are planned and preprocessed by the engine.

    Returns:
        The study's trainings.
    Raises:
        InputError: With all problems, one a line.
    """
    for variable in NNUNET_FOLDERS:
        if not nnunet_folder(variable).is_dir():
            raise InputError(f'{variable}={nnunet_folder(variable)} is no folder; make it: mkdir -p "${variable}"')
    trainings = runs(study)
    problems = [finding for finding in _problems(study, trainings) if finding.state == "problem"]
    if problems:
        lines = dict.fromkeys(
            f"{each.what}: {each.text}{f' -> {each.remedy}' if each.remedy else ''}" for each in problems
        )
        raise InputError("the study cannot run like this:\n  " + "\n  ".join(lines))
    return trainings


def _problems(study: "Study", trainings: Sequence[Run]) -> Iterator[Finding]:
    for name in dict.fromkeys(run.dataset for run in trainings):
        yield from check_dataset(study, name)
        for row in study.rows:
            what = f"{row.title} on {name}"
            try:
                if not is_planned(name, study.plans_of(row)):
                    check_planner(name, study.plans_of(row))
                    continue
                plans = derived_plans(study, row, name)
            except InputError as error:
                yield Finding(what, "problem", str(error))
                continue
            own = {run.model_folder: run for run in trainings if (run.dataset, run.row) == (name, row.title)}
            found = (check_results(run, plans) for run in own.values())
            yield from (each for each in found if each is not None)
    for row in study.rows:
        if row.pretrain is not None and row.pretrain.dataset is not None:
            try:
                dataset_name(row.pretrain.dataset)
            except InputError as error:
                yield Finding(f"pre-training of {row.title}", "problem", str(error))
