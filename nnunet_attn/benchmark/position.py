"""Does a network know where a patch lies? Organs that differ by position alone, and a patch far smaller than the image.

`python -m nnunet_attn.benchmark.position --out FILE.json` makes the volumes (`nnunet_attn.datasets.positions`), plans
them, sets a small patch and narrow networks in a copy of the plans, trains every trainer with every seed by the stock
commands, without mirroring, predicts held-out cases and compares Dice of the organs, and of all organs as one. All work
is done in a temporary folder, or in `--work DIR`, which can be resumed.
"""

import argparse
import io
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.benchmark.command import run_study
from nnunet_attn.benchmark.learning import PLANNING, TRAINING, keep_settings
from nnunet_attn.benchmark.provenance import check_output
from nnunet_attn.datasets.positions import LABELS, write_positions
from nnunet_attn.datasets.raw import FILE_ENDING
from nnunet_attn.errors import InputError
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.planning.derived import narrowed_plans, write_plans
from nnunet_attn.stock import run_stock

DATASET_ID = 903
DATASET = f"Dataset{DATASET_ID}_Positions"
PLANS_NAME = "nnUNetPlansSmallPatch"
CONFIGURATION = "3d_fullres"
PATCH = (16, 32, 32)
BATCH = 2
_WIDTHS = {"embed_dim": 24, "num_heads": 3}
OPTIONS = {"FINE": _WIDTHS, "NNFormer2021": _WIDTHS}
# The same recipe for all; nnU-Net's own learns positions far more slowly.
TRAINERS = ("nnUNetTrainerFINE_AdamW", "nnUNetTrainerFINENoTokens_AdamW", "nnUNetTrainerFINEWindowTokens_AdamW")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nnunet_attn.benchmark.position", description=__doc__)
    parser.add_argument(
        "-tr", dest="trainers", nargs="+", default=list(TRAINERS), help="without budget, mirroring and seed"
    )
    parser.add_argument("--reference", default=TRAINERS[1], help="the one of -tr that others are compared with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--its", type=int, default=20, help="iterations an epoch. Default: 20")
    parser.add_argument("--cases", type=int, default=10, help="for training; a fifth validates. Default: 10")
    parser.add_argument("--test-cases", type=int, default=6, help="held out, for the result. Default: 6")
    parser.add_argument("-device", "--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--work", type=Path, help="keep all work here; finished trainings are not run again")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuse, before anything is written, what would fail later."""
    if min(args.epochs, args.its, args.test_cases, *(seed + 1 for seed in args.seeds)) < 1:
        raise InputError("--epochs, --its and --test-cases must be at least 1, seeds at least 0")
    if args.cases < 5:
        raise InputError(f"--cases {args.cases}: nnU-Net's five folds need at least 5 cases")
    with redirect_stdout(io.StringIO()):
        from nnunet_attn.training.variants import parse_trainer_name
    known = [trainer for network in NETWORKS for trainer in network.trainers if network.name in OPTIONS]
    for trainer in args.trainers:
        if not parse_trainer_name(_name(args, trainer, args.seeds[0]), known).is_valid:
            raise InputError(
                f"-tr {trainer}: choose among {', '.join(known)}, without the suffixes that this study sets itself "
                "(epochs, its, NoMirroring, seed)"
            )
    if args.reference not in args.trainers:
        raise InputError(f"--reference {args.reference} is none of -tr {' '.join(args.trainers)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("-device cuda, but PyTorch sees no GPU; use -device cpu")
    check_output(args.out)


def small_patch_plans(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Return plans for the same data with `PATCH`, `BATCH` and `OPTIONS`; all else stays as nnU-Net planned it."""
    planned = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]["features_per_stage"][0]
    small = narrowed_plans(plans, PLANS_NAME, [CONFIGURATION], planned, BATCH, OPTIONS)
    small["configurations"][CONFIGURATION]["patch_size"] = list(PATCH)
    return small


def _prepare(args: argparse.Namespace, root: Path, log: Path) -> None:
    environment = {**nnunet_environment(root), **PLANNING}
    if not (root / "raw" / DATASET).exists():
        write_positions(root / "raw", DATASET_ID, n_train=args.cases, n_test=args.test_cases)
    preprocessed = root / "preprocessed" / DATASET
    if not (preprocessed / f"{PLANS_NAME}.json").exists():
        words = ("-d", DATASET_ID, "-c", CONFIGURATION, "-npfp", 2, "-np", 2, "--verify_dataset_integrity")
        run_stock("nnUNetv2_plan_and_preprocess", words, environment, log)
        plans = json.loads((preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))
        write_plans(small_patch_plans(plans), preprocessed)


def _name(args: argparse.Namespace, base: str, seed: int) -> str:
    return f"{base}_{args.epochs}epochs_{args.its}its_NoMirroring_seed{seed}"


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the Dice of two masks of the same shape, 1 if both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def scores(predicted: Sequence[NDArray[Any]], true: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """Return Dice, mean over cases, of each organ, of the organs' mean and of all organs as one.

    Args:
        predicted: Label maps, one a case.
        true: Those of the data set.
    """
    pairs = list(zip(predicted, true, strict=True))
    per_label = {
        name: fmean(dice(ours == value, theirs == value) for ours, theirs in pairs)
        for name, value in LABELS.items()
        if value
    }
    union = fmean(dice(ours > 0, theirs > 0) for ours, theirs in pairs)
    return {"dice": fmean(per_label.values()), "dice_of_the_union": union, "dice_per_label": per_label}


def _run(args: argparse.Namespace, root: Path, trainer: str, log: Path) -> dict[str, Any]:
    """Train one fold, predict the held-out cases and compare them with their labels."""
    model = root / "results" / DATASET / f"{trainer}__{PLANS_NAME}__{CONFIGURATION}"
    raw, predicted = root / "raw" / DATASET, root / "predicted" / trainer
    environment = {**nnunet_environment(root), **TRAINING}
    common = ("-tr", trainer, "-p", PLANS_NAME, "-device", args.device)
    seconds = None
    if not (model / "fold_0" / "validation" / "summary.json").exists():
        begin = time.monotonic()
        run_stock("nnUNetv2_train", [DATASET, CONFIGURATION, 0, *common, "--c"], environment, log)
        seconds = round(time.monotonic() - begin, 1)
    cases = sorted((raw / "labelsTs").glob(f"*{FILE_ENDING}"))
    if not all((predicted / case.name).exists() for case in cases):
        shutil.rmtree(predicted, ignore_errors=True)
        words = ["-i", raw / "imagesTs", "-o", predicted, "-d", DATASET_ID, "-c", CONFIGURATION, "-f", 0, *common]
        run_stock("nnUNetv2_predict", [*words, "-npp", 1, "-nps", 1], environment, log)
    found = scores([_labels(predicted / case.name) for case in cases], [_labels(case) for case in cases])
    return {"trainer": trainer, **found, "wall_seconds": seconds}


def _labels(file: Path) -> NDArray[Any]:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def study(args: argparse.Namespace, root: Path, console: Console) -> dict[str, Any]:
    """Train and predict everything and return the result, JSON-able."""
    log = root / "log.txt"
    settings = {"dataset": DATASET, "cases": args.cases, "test_cases": args.test_cases}
    keep_settings({**settings, "patch_size": list(PATCH), "batch_size": BATCH, "options": OPTIONS}, root)
    _prepare(args, root, log)
    runs = []
    for seed in args.seeds:
        for base in args.trainers:
            name = _name(args, base, seed)
            run = {"network": base, "seed": seed, **_run(args, root, name, log)}
            console.print(f"{name}: Dice {run['dice']:.3f}, of the union {run['dice_of_the_union']:.3f}")
            runs.append(run)
    means = {
        base: {key: fmean(run[key] for run in runs if run["network"] == base) for key in ("dice", "dice_of_the_union")}
        for base in args.trainers
    }
    plans = json.loads((root / "preprocessed" / DATASET / f"{PLANS_NAME}.json").read_text(encoding="utf-8"))
    entry = plans["configurations"][CONFIGURATION]
    return {
        "what": "Dice of held-out cases, mean over cases, of each organ (dice: mean over organs) and of all as one",
        "dataset": DATASET,
        "cases": args.cases,
        "test_cases": args.test_cases,
        "configuration": CONFIGURATION,
        "median_size": entry["median_image_size_in_voxels"],
        "patch_size": entry["patch_size"],
        "batch_size": entry["batch_size"],
        "options": entry["nnunet_attn"],
        "epochs": args.epochs,
        "iterations_per_epoch": args.its,
        "mirroring": False,
        "device": args.device,
        "reference": args.reference,
        "seeds": args.seeds,
        "mean": means,
        "difference_to_reference": {base: means[base]["dice"] - means[args.reference]["dice"] for base in means},
        "runs": runs,
    }


def table(result: Mapping[str, Any]) -> Table:
    """Return mean Dice over seeds, the difference to the reference, and the Dice of all organs as one."""
    made = Table(title=f"{result['dataset']}, {result['test_cases']} held-out cases, {len(result['seeds'])} seeds")
    for heading in ("trainer", "Dice", f"minus {result['reference']}", "Dice of the union"):
        made.add_column(heading, justify="left" if heading == "trainer" else "right", overflow="fold")
    for base, mean in result["mean"].items():
        difference = f"{result['difference_to_reference'][base]:+.3f}"
        made.add_row(base, f"{mean['dice']:.3f}", difference, f"{mean['dice_of_the_union']:.3f}")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 for wrong input or a failed command."""
    return run_study("nnunet_attn.benchmark.position", _parser(), _check, study, table, argv)


if __name__ == "__main__":
    sys.exit(main())
