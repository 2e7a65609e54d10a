"""What trainings read, made by nnU-Net's own commands: plans, preprocessed cases, splits."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.study.matrix import nnunet_folder

PLANNERS: Mapping[str, str | None] = {
    "nnUNetPlans": None,
    "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM",
    "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL",
    "nnUNetResEncUNetXLPlans": "nnUNetPlannerResEncXL",
}
"""Plans that nnU-Net makes by itself -> its planner, None for the default one."""


def check_planner(dataset: str, plans: str) -> None:
    """Check that plans which are missing can be made.

    Raises:
        InputError: If no planner of nnU-Net is known to make plans of this name.
    """
    if plans not in PLANNERS:
        raise InputError(
            f"{dataset} has no plans {plans}, and they are not among those that nnU-Net makes by itself "
            f"({', '.join(PLANNERS)}); make them: nnUNetv2_plan_and_preprocess -d {number(dataset)} "
            f"-overwrite_plans_name {plans}"
        )


def planning(dataset: str, plans: str, processes: int) -> list[str]:
    """Return the command that plans a data set; raises as `check_planner`."""
    check_planner(dataset, plans)
    planner = PLANNERS[plans]
    words = ["nnUNetv2_plan_and_preprocess", "-d", str(number(dataset)), "-npfp", str(processes), "--no_pp"]
    return [*words, *(["-pl", planner] if planner else [])]


def preprocessing(dataset: str, plans: str, configuration: str, processes: int) -> list[str]:
    """Return the command that preprocesses a data set for one configuration."""
    words = ["nnUNetv2_preprocess", "-d", str(number(dataset)), "-plans_name", plans, "-c", configuration]
    return [*words, "-np", str(processes)]


def planning_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which planning and preprocessing work."""
    changed = dict(environment)
    if changed.get("nnUNet_n_proc_DA") == "0":
        changed["nnUNet_n_proc_DA"] = "1"  # planning makes it a number of threads, of which there must be one
    return changed


def write_splits(dataset: str, data: Path) -> Path:
    """Write the splits that nnU-Net's first training would write, unless there are some; returns the file.

    Of several first trainings at once, one can read what another is just writing.

    Args:
        dataset: `DatasetNNN_Name`.
        data: Folder of its preprocessed cases.
    Raises:
        InputError: If there are fewer cases than nnU-Net makes folds.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    file = nnunet_folder("nnUNet_preprocessed") / dataset / "splits_final.json"
    if file.exists():
        return file
    cases: Sequence[str] = sorted(path.stem for path in data.glob("*.pkl"))
    if len(cases) < 5:  # nnU-Net's number of folds
        raise InputError(
            f"{len(cases)} cases are too few for nnU-Net's 5 folds; make others: "
            f"nnunet-attn splits -d {number(dataset)} --folds {len(cases)}"
        )
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(generate_crossval_split(cases, seed=12345, n_splits=5), indent=4))
    os.replace(partial, file)
    return file


def number(dataset: str) -> int:
    """Return the number in a data set's name."""
    return int(dataset[7:10])
