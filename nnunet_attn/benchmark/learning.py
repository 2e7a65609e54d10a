"""Does a network learn? Trainers compared under one small budget, by the stock commands, over several seeds.

`python -m nnunet_attn.benchmark.learning --out FILE.json` trains every trainer with every seed on fold 0 of a phantom
(or of `--data FOLDER`, a data set in nnU-Net's raw format) and reads the Dice from nnU-Net's own validation. The
untrained network is validated too. All work is done in a temporary folder, or in `--work DIR`, which can be resumed.
"""

import argparse
import io
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.benchmark.command import run_study
from nnunet_attn.benchmark.provenance import check_output, write_json
from nnunet_attn.datasets.phantom import write_phantom
from nnunet_attn.datasets.subset import copy_cases, dataset_name, read_description
from nnunet_attn.errors import InputError
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.planning.derived import narrowed_plans, write_plans
from nnunet_attn.stock import StockCommandError, run_stock

PLANS_NAME = "nnUNetPlansNarrow"
PHANTOM_ID = 901
SETTINGS_NAME = "settings.json"
# Training: no workers, so that a seed repeats a run, and OpenMP threads that sleep while they wait: nnU-Net takes as
# many threads as there are cores, and where others compute too, waiting in a loop costs more than the work itself.
# Planning needs at least one worker.
TRAINING = {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "2", "OMP_WAIT_POLICY": "PASSIVE"}
PLANNING = {"nnUNet_n_proc_DA": "2", "nnUNet_def_n_proc": "2"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nnunet_attn.benchmark.learning", description=__doc__)
    parser.add_argument("--data", type=Path, help="data set in nnU-Net's raw format. Default: a phantom")
    parser.add_argument("--cases", type=int, default=60, help="number of its cases used. Default: 60")
    parser.add_argument("-c", dest="configuration", default="3d_fullres", choices=("2d", "3d_fullres"))
    parser.add_argument("-tr", dest="trainers", nargs="+", default=["nnUNetTrainerPlain", "nnUNetTrainerGASA"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--its", type=int, default=20, help="iterations an epoch")
    parser.add_argument("--features", type=int, default=8, help="features of the first stage. Default: 8")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--mirroring", action="store_true", help="with mirroring; without it by default")
    parser.add_argument("-device", "--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--work", type=Path, help="keep all work here; finished trainings are not run again")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuse, before anything is written, what would fail later."""
    if min(args.cases, args.epochs, args.its, args.features, args.batch_size, *(s + 1 for s in args.seeds)) < 1:
        raise InputError("--cases, --epochs, --its, --features and --batch-size must be at least 1, seeds at least 0")
    if args.cases < 5:
        raise InputError(f"--cases {args.cases}: nnU-Net's five folds need at least 5 cases")
    with redirect_stdout(io.StringIO()):
        # Not above: this module is imported anew where `save_untrained` runs, and nnU-Net, which comes with this
        # import and tells on stdout what is not set, reads its folders from the environment once and for all.
        from nnunet_attn.training.variants import parse_trainer_name
    known = [trainer for network in NETWORKS for trainer in network.trainers]
    for trainer in args.trainers:
        if not parse_trainer_name(_name(args, trainer, args.seeds[0], trained=True), known).is_valid:
            raise InputError(
                f"-tr {trainer}: choose among {', '.join(known)}, without the suffixes that this study sets itself "
                "(epochs, its, NoMirroring, seed)"
            )
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("-device cuda, but PyTorch sees no GPU; use -device cpu")
    if args.data is not None:
        read_description(args.data)
    check_output(args.out)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the data of a working folder are prepared with; trainers, seeds and budget may differ between its runs."""
    return {
        "dataset": f"Dataset{PHANTOM_ID:03d}_Phantom" if args.data is None else dataset_name(args.data),
        "cases": args.cases,
        "configuration": args.configuration,
        "features": args.features,
        "batch_size": args.batch_size,
        "plans_name": PLANS_NAME,
    }


def _keep_settings(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    return keep_settings(_settings(args), root)


def keep_settings(settings: dict[str, Any], root: Path) -> dict[str, Any]:
    """Write the settings of a new working folder, or check that those of a used one are the same; returns them.

    Args:
        settings: What the folder's data are prepared with, JSON-able.
        root: The folder.
    Raises:
        InputError: If they differ, or the folder was prepared without any.
    """
    file = root / SETTINGS_NAME
    if not file.exists():
        if any((root / part).exists() for part in ("raw", "preprocessed", "results")):
            raise InputError(
                f"--work {root} has data but no {SETTINGS_NAME} that says how they were made; name a new folder"
            )
        write_json(file, settings)
        return settings
    try:
        kept = dict(json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise InputError(f"{file} is broken ({error}); name a new folder for --work") from error
    for key in {**settings, **kept}:
        if settings.get(key) != kept.get(key):
            raise InputError(
                f"--work {root} was prepared with {key} {kept.get(key)!r}, now it is {settings.get(key)!r}; "
                "use the same again, or name a new folder"
            )
    return settings


def _prepare(args: argparse.Namespace, root: Path, name: str, log: Path) -> None:
    """Put the data set into `root`, plan and preprocess it, and write the narrow plans."""
    raw = root / "raw"
    environment = {**nnunet_environment(root), **PLANNING}
    if not (raw / name).exists():
        if args.data is None:
            dim = 2 if args.configuration == "2d" else 3
            write_phantom(raw, PHANTOM_ID, dim=dim, n_train=args.cases, n_test=1)
        else:
            copy_cases(args.data, raw, args.cases)
    preprocessed = root / "preprocessed" / name
    if not (preprocessed / f"{PLANS_NAME}.json").exists():
        words = ("-d", int(name[7:10]), "-c", args.configuration, "-npfp", 2, "-np", 2, "--verify_dataset_integrity")
        run_stock("nnUNetv2_plan_and_preprocess", words, environment, log)
        plans = json.loads((preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))
        narrow = narrowed_plans(plans, PLANS_NAME, [args.configuration], args.features, args.batch_size)
        write_plans(narrow, preprocessed)


def save_untrained(environment: Mapping[str, str], dataset: str, configuration: str, trainer: str) -> None:
    """Write the checkpoint of a network as it is before its first iteration; runs in a process of its own."""
    os.environ.update(environment)
    from nnunetv2.run.run_training import get_trainer_from_args

    with redirect_stdout(io.StringIO()):
        made = get_trainer_from_args(dataset, configuration, 0, trainer, PLANS_NAME, device=torch.device("cpu"))
        made.initialize()
        made.save_checkpoint(str(Path(str(made.output_folder)) / "checkpoint_final.pth"))


def _run(args: argparse.Namespace, root: Path, dataset: str, trainer: str, trained: bool, log: Path) -> dict[str, Any]:
    """Train one fold, or only validate the untrained network, and return nnU-Net's Dice of the validation cases."""
    folder = root / "results" / dataset / f"{trainer}__{PLANS_NAME}__{args.configuration}" / "fold_0"
    summary = folder / "validation" / "summary.json"
    environment = {**nnunet_environment(root), **TRAINING}
    seconds = None
    if not summary.exists():
        begin = time.monotonic()
        words = [dataset, args.configuration, 0, "-p", PLANS_NAME, "-tr", trainer, "-device", args.device]
        if not trained:
            context = multiprocessing.get_context("spawn")
            maker = context.Process(
                target=save_untrained, args=(environment, dataset, args.configuration, trainer), daemon=False
            )
            maker.start()
            maker.join()
            if maker.exitcode != 0:
                raise StockCommandError(f"{trainer} could not be built (exit code {maker.exitcode})")
        run_stock("nnUNetv2_train", [*words, "--c" if trained else "--val"], environment, log)
        seconds = round(time.monotonic() - begin, 1)
    found = json.loads(summary.read_text(encoding="utf-8"))
    if isnan(found["foreground_mean"]["Dice"]):
        raise InputError(f"the Dice of {trainer} is undefined: a label is in no validation case; use more cases")
    return {
        "trainer": trainer,
        "dice": found["foreground_mean"]["Dice"],
        "iou": found["foreground_mean"]["IoU"],
        "dice_per_label": {label: values["Dice"] for label, values in found["mean"].items()},
        "validation_cases": len(found["metric_per_case"]),
        "wall_seconds": seconds,
    }


def _name(args: argparse.Namespace, base: str, seed: int, trained: bool) -> str:
    budget = f"_{args.epochs}epochs_{args.its}its" if trained else ""
    return f"{base}{budget}{'' if args.mirroring else '_NoMirroring'}_seed{seed}"


def _means(runs: Sequence[Mapping[str, Any]], trainers: Sequence[str], metric: str) -> dict[str, dict[str, float]]:
    """Mean of a metric over seeds, for each trainer untrained and trained."""
    return {
        base: {
            state: fmean(run[metric] for run in runs if run["network"] == base and run["trained"] is trained)
            for state, trained in (("untrained", False), ("trained", True))
        }
        for base in trainers
    }


def study(args: argparse.Namespace, root: Path, console: Console) -> dict[str, Any]:
    """Train everything and return the result, JSON-able."""
    log = root / "log.txt"
    settings = _keep_settings(args, root)
    dataset = settings["dataset"]
    _prepare(args, root, dataset, log)
    runs = []
    for seed in args.seeds:
        for base in args.trainers:
            for trained in (False, True):
                name = _name(args, base, seed, trained)
                run = {
                    "network": base,
                    "seed": seed,
                    "trained": trained,
                    **_run(args, root, dataset, name, trained, log),
                }
                console.print(f"{name}: Dice {run['dice']:.3f}" + ("" if trained else " (untrained)"))
                runs.append(run)
    means, iou = _means(runs, args.trainers, "dice"), _means(runs, args.trainers, "iou")
    reference = means[args.trainers[0]]["trained"]
    plans = json.loads((root / "preprocessed" / dataset / f"{PLANS_NAME}.json").read_text(encoding="utf-8"))
    entry = plans["configurations"][args.configuration]
    return {
        "what": "Dice (F1) and IoU of nnU-Net's own validation, fold 0, mean over labels and cases",
        "dataset": dataset,
        "cases": settings["cases"],
        "configuration": settings["configuration"],
        "patch_size": entry["patch_size"],
        "batch_size": entry["batch_size"],
        "features_per_stage": entry["architecture"]["arch_kwargs"]["features_per_stage"],
        "epochs": args.epochs,
        "iterations_per_epoch": args.its,
        "mirroring": args.mirroring,
        "device": args.device,
        "reference": args.trainers[0],
        "seeds": args.seeds,
        "mean_dice": means,
        "mean_iou": iou,
        "difference_to_reference": {base: means[base]["trained"] - reference for base in args.trainers},
        "runs": runs,
    }


def table(result: Mapping[str, Any]) -> Table:
    """Return mean Dice over seeds, untrained and trained, the difference to the reference, and the IoU."""
    made = Table(title=f"{result['dataset']}, fold 0, {len({run['seed'] for run in result['runs']})} seeds")
    for heading in ("trainer", "untrained", "trained", f"minus {result['reference']}", "IoU"):
        made.add_column(heading, justify="left" if heading == "trainer" else "right")
    for base, dice in result["mean_dice"].items():
        difference = f"{result['difference_to_reference'][base]:+.3f}"
        iou = f"{result['mean_iou'][base]['trained']:.3f}"
        made.add_row(base, f"{dice['untrained']:.3f}", f"{dice['trained']:.3f}", difference, iou)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 for wrong input or a failed command."""
    return run_study("nnunet_attn.benchmark.learning", _parser(), _check, study, table, argv)


if __name__ == "__main__":
    sys.exit(main())
