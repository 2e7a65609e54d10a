"""Does pre-training without labels help where few labels are? Trainings from scratch against fine-tuned ones.

`python -m nnunet_attn.benchmark.pretraining --out FILE.json` takes a phantom (or `--source FOLDER`, a data set in
nnU-Net's raw format with labelled test cases), labels a few of its training cases, pre-trains on the images of the
others by `nnunet-attn pretrain`, and trains each network with each seed from scratch and from each pre-training, with
the same budget. It predicts the test cases, and reads the Dice from nnU-Net's own evaluation. All work is done in a
temporary folder, or in `--work DIR`, which can be resumed. It runs many trainings.
"""

import argparse
import io
import json
import shlex
import shutil
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
from nnunet_attn.benchmark.learning import PLANNING, PLANS_NAME, TRAINING, keep_settings
from nnunet_attn.benchmark.pretraining_data import PHANTOM, Prepared, Wanted, check_source, prepare
from nnunet_attn.benchmark.provenance import check_output
from nnunet_attn.datasets.subset import read_description
from nnunet_attn.errors import InputError
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.stock import StockCommandError, run_stock

SCRATCH = "scratch"
TASKS = ("denoise", "inpaint", "both")
# The recipe's own learning rate, 1e-4, is for the full width: with it the narrow network learns little in so short a
# training.
TRAINERS = ("nnUNetTrainerPatchTransformer_lr1e-3",)
# Narrow enough for a CPU
OPTIONS: dict[str, dict[str, Any]] = {
    "PatchTransformer": {
        "embed_dim": 96,
        "depth": 3,
        "num_heads": 4,
        "head_dim": 24,
        "mlp_dim": 192,
        "train_cells": 2,
        "batch_size": 4,
    }
}
_MODULE = "nnunet_attn.benchmark.pretraining"
_REPORT = Path("validation", "reconstruction.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--source", type=Path, help="data set in nnU-Net's raw format. Default: a phantom")
    parser.add_argument("--cases", type=int, default=30, help="training cases of the phantom. Default: 30")
    parser.add_argument("--test-cases", type=int, default=10, help="test cases of the phantom. Default: 10")
    parser.add_argument("--labels", type=int, nargs="+", default=[3], help="numbers of labelled cases. Default: 3")
    parser.add_argument("--split-seed", type=int, default=0, help="of the choice of labelled cases. Default: 0")
    parser.add_argument("-c", dest="configuration", default="3d_fullres", choices=("2d", "3d_fullres"))
    parser.add_argument(
        "-tr", dest="trainers", nargs="+", default=list(TRAINERS), help="from scratch and from each of --tasks"
    )
    parser.add_argument(
        "--tasks", nargs="*", choices=TASKS, default=list(TASKS), help="all by default; none: no pre-training"
    )
    parser.add_argument("--beside", nargs="*", default=[], metavar="TRAINER", help="further ones, from scratch alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40, help="of each training with labels. Default: 40")
    parser.add_argument("--pretrain-epochs", type=int, default=40, help="of each pre-training. Default: 40")
    parser.add_argument("--its", type=int, default=25, help="iterations of an epoch of both. Default: 25")
    parser.add_argument("--features", type=int, default=8, help="of planned U-Nets' first stage; 0 as planned")
    parser.add_argument("--batch-size", type=int, default=2, help="of other networks than by --options; 0 as planned")
    parser.add_argument(
        "--options", type=json.loads, default=OPTIONS, metavar="JSON", help="options by network; a narrow network"
    )
    parser.add_argument("--mirroring", action="store_true", help="with mirroring; without it by default")
    parser.add_argument("-device", "--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=0, help="processes that augment. Default: 0, none")
    parser.add_argument("--work", type=Path, help="keep all work here; finished trainings are not run again")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuse, before anything is written, what would fail later."""
    if min(args.epochs, args.pretrain_epochs, args.its, args.test_cases, *(seed + 1 for seed in args.seeds)) < 1:
        raise InputError("--epochs, --pretrain-epochs, --its and --test-cases must be at least 1, seeds at least 0")
    if min(args.features, args.batch_size, args.workers, args.split_seed) < 0:
        raise InputError("--features, --batch-size, --workers and --split-seed must not be below 0")
    if len(set(args.labels)) < len(args.labels) or min(args.labels) < 2:
        raise InputError(f"--labels {' '.join(map(str, args.labels))}: give each number once, from 2 on")
    for name in ("seeds", "trainers", "tasks", "beside"):
        if len(set(getattr(args, name))) < len(getattr(args, name)):
            raise InputError(f"{' '.join(map(str, getattr(args, name)))}: give each once")
    if args.source is None and args.cases < max(5, max(args.labels) + bool(args.tasks)):
        raise InputError(
            f"--cases {args.cases}: nnU-Net's folds need 5, and one is to be left to pre-train on beside the labelled"
        )
    known = [network.name for network in NETWORKS]
    if not isinstance(args.options, dict) or not all(isinstance(value, dict) for value in args.options.values()):
        raise InputError("--options: give a table of options by network, as JSON")
    if unknown := sorted(set(args.options) - set(known)):
        raise InputError(f"--options names {unknown[0]}; the networks are {', '.join(known)}")
    _check_trainers(args)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("-device cuda, but PyTorch sees no GPU; use -device cpu")
    if args.source is not None:
        check_source(args.source)
    check_output(args.out)


def _check_trainers(args: argparse.Namespace) -> None:
    with redirect_stdout(io.StringIO()):
        # Not above: nnU-Net, which comes with this import, tells on stdout what is not set.
        from nnunet_attn.training.variants import PRETRAINING, parse_trainer_name
    known = [trainer for network in NETWORKS for trainer in network.trainers]
    for trainer in (*args.trainers, *args.beside):
        parsed = parse_trainer_name(_name(args, trainer, args.seeds[0], args.epochs), known)
        if not parsed.is_valid or PRETRAINING in parsed.attributes:
            raise InputError(
                f"{trainer}: choose among {', '.join(known)}, without the suffixes that this study sets itself "
                "(epochs, its, NoMirroring, seed, those of pre-training)"
            )
    if both := sorted(set(args.trainers) & set(args.beside)):
        raise InputError(f"{both[0]} is given by -tr and by --beside; -tr includes the training from scratch")


def _name(args: argparse.Namespace, base: str, seed: int, epochs: int) -> str:
    return f"{base}_{epochs}epochs_{args.its}its{'' if args.mirroring else '_NoMirroring'}_seed{seed}"


def _wanted(args: argparse.Namespace) -> Wanted:
    return Wanted(
        args.source,
        args.cases,
        args.test_cases,
        tuple(sorted(args.labels)),
        args.split_seed,
        args.configuration,
        args.features or None,
        args.batch_size or None,
        args.options,
        max(2, args.workers),
        bool(args.tasks),
    )


class _Study:
    """Runs commands in a working folder.

    Args:
        args: Of the command.
        root: The working folder.
        prepared: What is in it.
    """

    def __init__(self, args: argparse.Namespace, root: Path, prepared: Prepared) -> None:
        self.args, self.root, self.prepared = args, root, prepared
        self.log = root / "log.txt"
        workers = {"nnUNet_n_proc_DA": str(args.workers), "nnUNet_def_n_proc": str(max(2, args.workers))}
        self.environment = {**nnunet_environment(root), **TRAINING, **workers}

    def pretrain(self, base: str, task: str, seed: int) -> tuple[Path, dict[str, Any]]:
        """Pre-train, unless that has been done; return the weights' file and what was learned."""
        args = self.args
        words = ["pretrain", "-d", self.prepared.unlabelled, "--for", self.prepared.dataset, "-p", PLANS_NAME]
        words += ["-tr", _name(args, base, seed, args.pretrain_epochs), "-c", args.configuration, "--task", task]
        words += ["-device", args.device, "--npp", max(2, args.workers), "--c"]
        begin = time.monotonic()
        printed = run_stock("nnunet-attn", words, self.environment, self.log)
        file = weights_in(printed)
        report = json.loads((file.parent / _REPORT).read_text(encoding="utf-8"))
        seconds = None if "Pre-trained already" in printed else round(time.monotonic() - begin, 1)
        return file, {"network": base, "task": task, "seed": seed, "mean": report["mean"], "wall_seconds": seconds}

    def run(self, base: str, start: str, labels: int, seed: int, weights: Path | None) -> dict[str, Any]:
        """Train with labels, predict the test cases and return nnU-Net's Dice of these."""
        args, prepared = self.args, self.prepared
        trainer, fold = _name(args, base, seed, args.epochs), prepared.folds[labels]
        # a training's name does not say what it began with
        kind = start if weights is None else f"{start}_{args.pretrain_epochs}epochs"
        environment = {**self.environment, "nnUNet_results": str(self.root / "tuned" / kind)}
        model = self.root / "tuned" / kind / prepared.dataset / f"{trainer}__{PLANS_NAME}__{args.configuration}"
        raw, predicted = self.root / "raw" / prepared.dataset, self.root / "predicted" / kind / f"{trainer}_fold{fold}"
        common = ("-tr", trainer, "-p", PLANS_NAME, "-device", args.device)
        seconds = None
        if not (model / f"fold_{fold}" / "checkpoint_final.pth").exists():
            begin = time.monotonic()
            words: list[Any] = [prepared.dataset, args.configuration, fold, *common]
            if (model / f"fold_{fold}" / "checkpoint_latest.pth").exists():
                words.append("--c")
            elif weights is not None:
                words += ["-pretrained_weights", weights]
            (self.root / "tuned" / kind).mkdir(parents=True, exist_ok=True)
            run_stock("nnUNetv2_train", words, environment, self.log)
            seconds = round(time.monotonic() - begin, 1)
        summary = predicted / "summary.json"
        if not summary.exists():
            shutil.rmtree(predicted, ignore_errors=True)
            words = ["predict", "-i", raw / "imagesTs", "-o", predicted, "-d", prepared.dataset]
            words += ["-c", args.configuration, "-f", fold, *common, "-npp", 1, "-nps", 1]
            run_stock("nnunet-attn", words, environment, self.log)
            words = [raw / "labelsTs", predicted, "-djfile", predicted / "dataset.json"]
            words += ["-pfile", predicted / "plans.json", "-np", 2]
            run_stock("nnUNetv2_evaluate_folder", words, environment, self.log)
        found = dice_of(json.loads(summary.read_text(encoding="utf-8")), trainer)
        run = {"network": base, "start": start, "labels": labels, "seed": seed, "trainer": trainer, "fold": fold}
        return {**run, **found, "wall_seconds": seconds}


def weights_in(printed: str) -> Path:
    """Return the weights' file of the command that `nnunet-attn pretrain` prints at its end."""
    lines = [line for line in printed.splitlines() if line.startswith("nnUNetv2_train ")]
    words = shlex.split(lines[-1]) if lines else []
    if "-pretrained_weights" not in words:
        raise StockCommandError(f"nnunet-attn pretrain printed no command with -pretrained_weights:\n{printed[-2000:]}")
    return Path(words[words.index("-pretrained_weights") + 1])


def dice_of(summary: Mapping[str, Any], trainer: str) -> dict[str, Any]:
    """Return the Dice of nnU-Net's evaluation: mean over labels, per label, and per case its mean over labels.

    Args:
        summary: Content of nnU-Net's summary.json.
        trainer: For the message.
    Raises:
        InputError: If a Dice is undefined.
    """
    dice = summary["foreground_mean"]["Dice"]
    if isnan(dice):
        raise InputError(f"the Dice of {trainer} is undefined: a label is in no test case; use more cases")
    per_case: dict[str, float | None] = {}
    for case in summary["metric_per_case"]:
        values = [metrics["Dice"] for metrics in case["metrics"].values() if not isnan(metrics["Dice"])]
        per_case[Path(case["reference_file"]).name.partition(".")[0]] = fmean(values) if values else None
    return {
        "dice": dice,
        "dice_per_label": {label: metrics["Dice"] for label, metrics in summary["mean"].items()},
        "dice_per_case": per_case,
    }


def rows_of(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each number of labels, network and start the mean over seeds, and the difference to scratch.

    Differences are of runs with the same seed and labels.
    """
    keys = list(dict.fromkeys((run["labels"], run["network"], run["start"]) for run in runs))
    dice = {(run["labels"], run["network"], run["start"], run["seed"]): run["dice"] for run in runs}
    rows = []
    for labels, network, start in keys:
        seeds = [
            run["seed"] for run in runs if (run["labels"], run["network"], run["start"]) == (labels, network, start)
        ]
        own = [dice[labels, network, start, seed] for seed in seeds]
        row: dict[str, Any] = {"labels": labels, "network": network, "start": start, "dice": fmean(own)}
        if start != SCRATCH:
            gains = [value - dice[labels, network, SCRATCH, seed] for value, seed in zip(own, seeds, strict=True)]
            row["difference_to_scratch"] = fmean(gains)
            row["seeds_above_scratch"] = sum(gain > 0 for gain in gains)
        rows.append(row)
    return rows


def study(args: argparse.Namespace, root: Path, console: Console) -> dict[str, Any]:
    """Train and predict everything and return the result, JSON-able."""
    root = root.absolute()
    wanted = _wanted(args)
    keep_settings(wanted.settings(), root)
    planning = {**PLANNING, "nnUNet_def_n_proc": str(wanted.workers)}
    prepared = prepare(wanted, root, planning, root / "log.txt")
    whole = _Study(args, root, prepared)
    runs, pretrainings = [], []
    for seed in args.seeds:
        for base in (*args.trainers, *args.beside):
            for start in (SCRATCH, *(args.tasks if base in args.trainers else ())):
                weights = None
                if start != SCRATCH:
                    weights, learned = whole.pretrain(base, start, seed)
                    pretrainings.append(learned)
                for labels in wanted.labels:
                    run = whole.run(base, start, labels, seed, weights)
                    console.print(f"{base}, {start}, {labels} labels, seed {seed}: Dice {run['dice']:.3f}")
                    runs.append(run)
    plans = json.loads((root / "preprocessed" / prepared.dataset / f"{PLANS_NAME}.json").read_text(encoding="utf-8"))
    entry = plans["configurations"][args.configuration]
    return {
        "what": "Dice of held-out test cases by nnU-Net's evaluation, mean over labels and cases. Pre-training is on "
        "the images of the training cases that are in none of the labelled sets, without their labels; all trainings "
        "with labels have the same budget, pre-training comes on top of it. Surface distances are not measured here",
        "made_data": prepared.dataset == PHANTOM and args.source is None,
        "labels_of_the_data": read_description(root / "raw" / prepared.dataset)["labels"],
        **wanted.settings(),
        "splits": {str(labels): prepared.splits[labels] for labels in wanted.labels},
        "unlabelled_cases": prepared.unlabelled_cases,
        "test_cases": prepared.test_cases,
        "patch_size": entry["patch_size"],
        "planned_batch_size": entry["batch_size"],
        "features_per_stage": entry["architecture"]["arch_kwargs"]["features_per_stage"],
        "epochs": args.epochs,
        "pretrain_epochs": args.pretrain_epochs,
        "iterations_per_epoch": args.its,
        "mirroring": args.mirroring,
        "device": args.device,
        "seeds": args.seeds,
        "rows": rows_of(runs),
        "runs": runs,
        "pretrainings": pretrainings,
    }


def table(result: Mapping[str, Any]) -> Table:
    """Return mean Dice over seeds of each row, and the difference to the same network from scratch."""
    seeds = len(result["seeds"])
    made = Table(title=f"{result['dataset']}, {result['test_cases']} test cases, {seeds} seeds")
    for heading in ("trainer", "labels", "start", "Dice", "minus scratch", "seeds above"):
        made.add_column(heading, justify="left" if heading in ("trainer", "start") else "right", overflow="fold")
    for row in sorted(result["rows"], key=lambda row: row["labels"]):
        gain = row.get("difference_to_scratch")
        more = ["", ""] if gain is None else [f"{gain:+.3f}", f"{row['seeds_above_scratch']} of {seeds}"]
        made.add_row(row["network"], str(row["labels"]), row["start"], f"{row['dice']:.3f}", *more)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 for wrong input or a failed command."""
    return run_study(_MODULE, _parser(), _check, study, table, argv)


if __name__ == "__main__":
    sys.exit(main())
