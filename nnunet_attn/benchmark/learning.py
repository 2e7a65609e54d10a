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
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from nnunet_attn.benchmark.provenance import command_line, provenance, write_json
from nnunet_attn.datasets.phantom import write_phantom
from nnunet_attn.errors import InputError
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.planning.derived import narrowed_plans, write_plans
from nnunet_attn.stock import StockCommandError, run_stock

PLANS_NAME = "nnUNetPlansNarrow"
PHANTOM_ID = 901
# training: no workers, so that a seed repeats a run; planning needs at least one
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


def _prepare(args: argparse.Namespace, root: Path, log: Path) -> str:
    """Put the data set into `root`, plan and preprocess it, and write the narrow plans; returns its name."""
    raw = root / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    environment = {**nnunet_environment(root), **PLANNING}
    if args.data is None:
        name = f"Dataset{PHANTOM_ID:03d}_Phantom"
        if not (raw / name).exists():
            dim = 2 if args.configuration == "2d" else 3
            write_phantom(raw, PHANTOM_ID, dim=dim, n_train=args.cases, n_test=1)
    else:
        name = args.data.resolve().name
        if not (raw / name).exists():
            _copy_cases(args.data, raw / name, args.cases)
    preprocessed = root / "preprocessed" / name
    if not (preprocessed / f"{PLANS_NAME}.json").exists():
        words = ("-d", int(name[7:10]), "-c", args.configuration, "-np", 2, "--verify_dataset_integrity")
        run_stock("nnUNetv2_plan_and_preprocess", words, environment, log)
        plans = json.loads((preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))
        chosen = narrowed_plans(plans, PLANS_NAME, [args.configuration], args.features, args.batch_size)
        write_plans(chosen, preprocessed)
    return name


def _copy_cases(source: Path, target: Path, count: int) -> None:
    description = source / "dataset.json"
    if not description.is_file():
        raise InputError(f"{source} is no data set in nnU-Net's raw format: it has no dataset.json")
    dataset = json.loads(description.read_text(encoding="utf-8"))
    ending = dataset["file_ending"]
    labels = sorted((source / "labelsTr").glob(f"*{ending}"))
    if len(labels) < count:
        raise InputError(f"--cases {count}: {source.name} has {len(labels)} labelled cases")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for folder in ("imagesTr", "labelsTr"):
        (partial / folder).mkdir(parents=True)
    for label in labels[:count]:
        case = label.name.removesuffix(ending)
        shutil.copy(label, partial / "labelsTr")
        for image in (source / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9]{ending}"):
            shutil.copy(image, partial / "imagesTr")
    (partial / "dataset.json").write_text(json.dumps({**dataset, "numTraining": count}), encoding="utf-8")
    os.replace(partial, target)


def save_untrained(environment: Mapping[str, str], dataset: str, configuration: str, trainer: str) -> None:
    """Write the checkpoint of a network as it is before its first iteration; runs in a process of its own."""
    os.environ.update(environment)
    import torch
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
        "dice_per_label": {label: values["Dice"] for label, values in found["mean"].items()},
        "validation_cases": len(found["metric_per_case"]),
        "wall_seconds": seconds,
    }


def study(args: argparse.Namespace, root: Path, console: Console) -> dict[str, Any]:
    """Train everything and return the result, JSON-able."""
    log = root / "log.txt"
    dataset = _prepare(args, root, log)
    mirroring = "" if args.mirroring else "_NoMirroring"
    runs = []
    for seed in args.seeds:
        for base in args.trainers:
            budget = f"{args.epochs}epochs_{args.its}its{mirroring}_seed{seed}"
            for trained, name in ((False, f"{base}{mirroring}_seed{seed}"), (True, f"{base}_{budget}")):
                run = {
                    "network": base,
                    "seed": seed,
                    "trained": trained,
                    **_run(args, root, dataset, name, trained, log),
                }
                console.print(f"{name}: Dice {run['dice']:.3f}" + ("" if trained else " (untrained)"))
                runs.append(run)
    means = {
        base: {
            state: fmean(run["dice"] for run in runs if run["network"] == base and run["trained"] is trained)
            for state, trained in (("untrained", False), ("trained", True))
        }
        for base in args.trainers
    }
    reference = means[args.trainers[0]]["trained"]
    plans = json.loads((root / "preprocessed" / dataset / f"{PLANS_NAME}.json").read_text(encoding="utf-8"))
    entry = plans["configurations"][args.configuration]
    return {
        "what": "Dice of nnU-Net's own validation, fold 0, mean over labels and cases",
        "dataset": dataset,
        "cases": args.cases,
        "configuration": args.configuration,
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
        "difference_to_reference": {base: means[base]["trained"] - reference for base in args.trainers},
        "runs": runs,
    }


def table(result: Mapping[str, Any]) -> Table:
    """Return mean Dice over seeds, untrained and trained, and the difference to the reference."""
    made = Table(title=f"{result['dataset']}, fold 0, {len({run['seed'] for run in result['runs']})} seeds")
    for heading in ("trainer", "untrained", "trained", f"minus {result['reference']}"):
        made.add_column(heading, justify="left" if heading == "trainer" else "right")
    for base, dice in result["mean_dice"].items():
        difference = f"{result['difference_to_reference'][base]:+.3f}"
        made.add_row(base, f"{dice['untrained']:.3f}", f"{dice['trained']:.3f}", difference)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 for wrong input or a failed stock command."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    console = Console(highlight=False, soft_wrap=True)
    try:
        if min(args.cases, args.epochs, args.its, args.features, args.batch_size, *(s + 1 for s in args.seeds)) < 1:
            raise InputError(
                "--cases, --epochs, --its, --features and --batch-size must be at least 1, seeds at least 0"
            )
        if args.cases < 5:
            raise InputError(f"--cases {args.cases}: nnU-Net's five folds need at least 5 cases")
        if not args.out.parent.is_dir():
            raise InputError(f"--out {args.out}: the folder {args.out.parent} does not exist")
        with tempfile.TemporaryDirectory(prefix="nnunet-attn-learning-") as temporary:
            root = Path(temporary) if args.work is None else args.work
            root.mkdir(parents=True, exist_ok=True)
            result = study(args, root, console)
    except (InputError, StockCommandError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        return 2
    command = command_line("nnunet_attn.benchmark.learning", words)
    write_json(args.out, {**result, "provenance": {**provenance(args.seeds[0]), "command": command}})
    console.print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
