"""What the study of pre-training works on: planned cases with few labels, and the other cases without labels."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_attn.benchmark.learning import PLANS_NAME
from nnunet_attn.datasets.binary import link_files
from nnunet_attn.datasets.phantom import write_phantom
from nnunet_attn.datasets.subset import case_images, dataset_name, read_description
from nnunet_attn.errors import InputError
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.planning.derived import narrowed_plans, write_plans
from nnunet_attn.stock import run_stock

PHANTOM_ID, UNLABELLED_ID, OTHER_UNLABELLED_ID = 904, 905, 906
PHANTOM = f"Dataset{PHANTOM_ID}_Phantom"
_SPLITS, _RECORD = "splits_final.json", "splits_nnunet_attn.json"


@dataclass(frozen=True)
class Prepared:
    """A working folder in which trainings can begin.

    Args:
        dataset: Name of the data set to fine-tune on.
        folds: Number of labels -> nnU-Net's fold with so many.
        splits: Number of labels -> cases for training and for validation.
        unlabelled: Number of the data set to pre-train on.
        unlabelled_cases: How many cases that has, 0 if nothing is to be pre-trained; none of them is in any fold.
        test_cases: Held-out cases, in none of the two.
    """

    dataset: str
    folds: Mapping[int, int]
    splits: Mapping[int, Mapping[str, Sequence[str]]]
    unlabelled: int
    unlabelled_cases: int
    test_cases: int


@dataclass(frozen=True)
class Wanted:
    """How to prepare a working folder.

    Args:
        source: Data set in nnU-Net's raw format with labelled test cases; None: a phantom.
        cases: Training cases of the phantom.
        test_cases: Test cases of the phantom.
        labels: Numbers of labelled cases.
        split_seed: Seed of the choice of labelled cases.
        configuration: "2d" or "3d_fullres".
        features: Features of the first stage of planned networks; None: as planned.
        batch_size: Of planned networks; None: as planned.
        options: Network -> what the plans set for it and its trainer.
        workers: Processes that prepare images.
        pretrains: Whether anything is to be pre-trained.
    """

    source: Path | None
    cases: int
    test_cases: int
    labels: tuple[int, ...]
    split_seed: int
    configuration: str
    features: int | None
    batch_size: int | None
    options: Mapping[str, Mapping[str, Any]]
    workers: int
    pretrains: bool = True

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return PHANTOM if self.source is None else dataset_name(self.source)

    def settings(self) -> dict[str, Any]:
        """Return what another run in the same folder must say alike."""
        phantom = {} if self.source else {"cases": self.cases, "test_cases": self.test_cases}
        return {
            "dataset": self.dataset,
            **phantom,
            "labels": list(self.labels),
            "split_seed": self.split_seed,
            "configuration": self.configuration,
            "features": self.features,
            "batch_size": self.batch_size,
            "options": {name: dict(options) for name, options in self.options.items()},
            "plans_name": PLANS_NAME,
        }


def check_source(source: Path) -> None:
    """Check that a data set has what the study needs.

    Raises:
        InputError: If it is no data set in nnU-Net's raw format, or has no labelled test cases.
    """
    ending = read_description(source)["file_ending"]
    if not any((source / "labelsTs").glob(f"*{ending}")):
        raise InputError(
            f"{source} has no labelled test cases, imagesTs and labelsTs, to compare on; hold some out, such as by "
            "python -m nnunet_attn.datasets.binary"
        )


def prepare(wanted: Wanted, root: Path, planning: Mapping[str, str], log: Path) -> Prepared:
    """Put the data into a working folder, plan and preprocess, choose the labelled cases; what is done is kept.

    Args:
        wanted: What to prepare.
        root: The working folder.
        planning: Environment variables of nnU-Net's planning.
        log: File to which the commands' output is appended.
    Raises:
        InputError: If there are too few cases.
        StockCommandError: If a command fails.
    """
    raw, name = root / "raw", wanted.dataset
    environment = {**nnunet_environment(root), **planning}
    if not (raw / name).exists():
        if wanted.source is None:
            dim = 2 if wanted.configuration == "2d" else 3
            write_phantom(raw, PHANTOM_ID, dim=dim, n_train=wanted.cases, n_test=wanted.test_cases)
        else:
            _link_folder(wanted.source, raw / name)
    preprocessed, number = root / "preprocessed" / name, int(name[7:10])
    if not (preprocessed / f"{PLANS_NAME}.json").exists():
        workers = wanted.workers
        words = ["-d", number, "-c", wanted.configuration, "-npfp", workers, "-np", workers]
        run_stock("nnUNetv2_plan_and_preprocess", [*words, "--verify_dataset_integrity"], environment, log)
        plans = json.loads((preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))
        write_plans(_study_plans(plans, wanted), preprocessed)
    run_stock(
        "nnunet-attn",
        ["splits", "-d", number, "--labels", *wanted.labels, "--seed", wanted.split_seed],
        environment,
        log,
    )
    record = json.loads((preprocessed / _RECORD).read_text(encoding="utf-8"))["folds"]
    folds = {each["labels"]: each["fold"] for each in record if each["seed"] == wanted.split_seed}
    all_splits = json.loads((preprocessed / _SPLITS).read_text(encoding="utf-8"))
    splits = {labels: all_splits[folds[labels]] for labels in wanted.labels}
    used = {case for split in splits.values() for part in ("train", "val") for case in split[part]}
    unlabelled = OTHER_UNLABELLED_ID if number == UNLABELLED_ID else UNLABELLED_ID
    count = 0
    if wanted.pretrains:
        count = _write_unlabelled(raw / name, raw / f"Dataset{unlabelled}_{name[11:]}Others", used)
    ending = read_description(raw / name)["file_ending"]
    tested = len(list((raw / name / "labelsTs").glob(f"*{ending}")))
    return Prepared(name, {n: folds[n] for n in wanted.labels}, splits, unlabelled, count, tested)


def _study_plans(plans: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    entry = plans["configurations"][wanted.configuration]
    features = wanted.features or entry["architecture"]["arch_kwargs"]["features_per_stage"][0]
    return narrowed_plans(plans, PLANS_NAME, [wanted.configuration], features, wanted.batch_size, wanted.options)


def _link_folder(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve(), target_is_directory=True)
    except OSError:  # where one may not make links
        shutil.copytree(source, target)


def _write_unlabelled(source: Path, target: Path, used: set[str]) -> int:
    """Write a data set of the images of all training cases but the used ones; return how many they are."""
    description = read_description(source)
    ending = description["file_ending"]
    labels = sorted((source / "labelsTr").glob(f"*{ending}"))
    others = [file for file in labels if file.name.removesuffix(ending) not in used]
    if len(others) < 1:
        raise InputError(
            f"all {len(labels)} training cases of {source.name} are among the labelled ones, so that none is left to "
            "pre-train on; give smaller numbers to --labels, or no --tasks"
        )
    if not target.exists():
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "imagesTr").mkdir(parents=True)
        for label in others:
            link_files(case_images(source, description, label), partial / "imagesTr")
        kept = ("channel_names", "file_ending", "overwrite_image_reader_writer")
        content = {key: description[key] for key in kept if key in description}
        (partial / "dataset.json").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        partial.rename(target)
    return len(others)
