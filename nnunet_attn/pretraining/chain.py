"""From images to weights for `-pretrained_weights`, by nnU-Net's own commands in the order in which they work.

The order matters in nnU-Net 2.8.1: `nnUNetv2_plan_experiment` alone copies dataset.json to where preprocessing looks
for it, and moved plans need it; a training copies the fingerprint; and all of them need labels.
"""

import json
import os
import re
import shlex
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nnunet_attn.errors import InputError
from nnunet_attn.paths import TRAINER_VARIABLE, trainers_dir
from nnunet_attn.planning.derived import write_plans
from nnunet_attn.pretraining.learned_from import check_learned_from, learned_from, write_learned_from
from nnunet_attn.pretraining.moved_plans import (
    is_complete,
    mark_file,
    moved_name,
    preprocessed_by,
    read_mark,
    same_plans,
    with_extent_of,
    write_mark,
)
from nnunet_attn.pretraining.request import Checked, Pretraining, check, dataset_id, nnunet_folder
from nnunet_attn.pretraining.steps import Steps, chain_environment
from nnunet_attn.pretraining.unlabelled import find_working_dataset, stamps_of, working_dataset
from nnunet_attn.training.pretrain_weights import PRETRAINED_FILE

LOGS_NAME = "nnunet-attn-pretrain-logs"


def run_pretraining(
    request: Pretraining, console: Console | None = None, preparing: AbstractContextManager[None] | None = None
) -> Path:
    """Run what of the chain has not been done yet, print the command that fine-tunes, and return the weights' file.

    Args:
        request: What is wanted.
        console: Where progress is shown.
        preparing: Entered for all that comes before the training, which several of the same data share: it can keep
            them apart.
    Raises:
        InputError: If a part of the request cannot be met, or an unfinished training is there and not to be resumed.
        StockCommandError: If a stock command fails.
    """
    checked = check(request)
    chain = _Chain(request, checked, console or Console())
    with nullcontext() if preparing is None else preparing:
        chain.prepare()
    file = chain.train()
    chain.print_command(file)
    return file


class _Chain:
    def __init__(self, request: Pretraining, checked: Checked, console: Console) -> None:
        self.request, self.checked = request, checked
        self.plans_name = request.plans
        if not checked.is_own:
            self.plans_name = moved_name(request.plans, dataset_id(checked.target))
        self.device = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.raw = checked.source
        if checked.unlabelled:
            self.raw = find_working_dataset(checked.source) or checked.source
        self.steps = Steps(console, chain_environment(), self._results / LOGS_NAME)

    @property
    def _id(self) -> int:
        return dataset_id(self.raw.name)

    @property
    def _preprocessed(self) -> Path:
        return nnunet_folder("nnUNet_preprocessed") / self.raw.name

    @property
    def _results(self) -> Path:
        return nnunet_folder("nnUNet_results") / self.raw.name

    @property
    def _fold(self) -> Path:
        return self._results / f"{self.checked.trainer}__{self.plans_name}__{self.request.configuration}" / "fold_all"

    @cached_property
    def _learned_from(self) -> dict[str, Any]:
        return learned_from(self.checked.plans, self.request.configuration, stamps_of(self.checked.cases))

    def prepare(self) -> None:
        if self.checked.unlabelled:
            self._make_working_dataset()
        check_learned_from(self._fold, self._learned_from, self.request.plans)
        if self.checked.is_own:
            self._preprocess_own()
        else:
            self._plan()
            self._preprocess_moved()

    def _make_working_dataset(self) -> None:
        source = self.checked.source
        self.steps.say(f"{source.name}: {self.checked.unlabelled}; body masks take their place")
        about = (source, self.checked.description, self.checked.cases, _taken_ids)
        if find_working_dataset(source) is not None:
            self.raw = working_dataset(*about)
        else:
            with self.steps.progress() as progress:
                task = progress.add_task("Body masks", total=len(self.checked.cases))
                show = partial(progress.update, task)
                self.raw = working_dataset(*about, self.request.workers, lambda done: show(completed=done))
        self.steps.say(f"Images with body masks: {self.raw} (links; {source.name} stays as it is)")
        self.steps.logs = self._results / LOGS_NAME

    def _plan(self) -> None:
        numbers = ["-d", self._id]
        if not (self._preprocessed / "dataset_fingerprint.json").is_file():
            words = [*numbers, "-np", self.request.workers]
            self.steps.run("Looking at the images", "nnUNetv2_extract_fingerprint", words)
        if not (self._preprocessed / "dataset.json").is_file():
            self.steps.run("Planning", "nnUNetv2_plan_experiment", numbers)
        file = self._preprocessed / f"{self.plans_name}.json"
        if not file.is_file() or not same_plans(self.checked.plans, _read(file)):
            words = ["-s", dataset_id(self.checked.target), "-t", self._id]
            words += ["-sp", self.request.plans, "-tp", self.plans_name]
            self.steps.run("Moving the plans", "nnUNetv2_move_plans_between_datasets", words)
        if self.checked.reads_positions:
            moved = _read(file)
            wanted = with_extent_of(moved, self.checked.plans, self.request.configuration)
            if wanted != moved:
                write_plans(wanted, self._preprocessed)

    def _preprocess_moved(self) -> None:
        plans = _read(self._preprocessed / f"{self.plans_name}.json")
        folder = self._data_folder(plans)
        mark = preprocessed_by(plans, self.request.configuration, stamps_of(self.checked.cases))
        if read_mark(folder) != mark or not is_complete(folder, self.checked.cases):
            # what is broken off must not look whole
            mark_file(folder).unlink(missing_ok=True)
            self._preprocess()
            write_mark(folder, mark)

    def _preprocess_own(self) -> None:
        if not is_complete(self._data_folder(self.checked.plans), self.checked.cases):
            self._preprocess()

    def _preprocess(self) -> None:
        words = ["-d", self._id, "-plans_name", self.plans_name, "-c", self.request.configuration]
        self.steps.run("Preprocessing", "nnUNetv2_preprocess", [*words, "-np", self.request.workers])

    def _data_folder(self, plans: Any) -> Path:
        entry = plans["configurations"][self.request.configuration]
        while "data_identifier" not in entry:
            entry = plans["configurations"][entry["inherits_from"]]
        return self._preprocessed / entry["data_identifier"]

    def train(self) -> Path:
        file = self._fold / PRETRAINED_FILE
        if file.is_file():
            self.steps.say(f"Pre-trained already: {file}")
            return file
        unfinished = sorted(self._fold.glob("checkpoint_*.pth"))
        if unfinished and not self.request.resume:
            raise InputError(
                f"{self._fold} holds a pre-training that was broken off; continue it with --c, or remove that folder"
            )
        words = [self._id, self.request.configuration, "all", "-p", self.plans_name, "-tr", self.checked.trainer]
        words += ["-device", self.device]
        if self.request.num_gpus > 1:
            words += ["-num_gpus", self.request.num_gpus]
        if unfinished:
            words.append("--c")
        else:
            write_learned_from(self._fold, self._learned_from)
        self.steps.run("Pre-training", "nnUNetv2_train", words, self.checked.epochs)
        if not file.is_file():
            raise InputError(f"the training ended without writing {file}; see the logs in {self.steps.logs}")
        return file

    def print_command(self, file: Path) -> None:
        request = self.request
        words = ["nnUNetv2_train", request.fine_tuned_on or request.dataset, request.configuration, "0"]
        words += ["-p", request.plans, "-tr", request.trainer, "-pretrained_weights", str(file)]
        if self.device != "cuda":
            words += ["-device", self.device]
        self.steps.say("Fine-tune with:")
        folders = os.environ.get(TRAINER_VARIABLE, "").split(os.pathsep)
        if str(trainers_dir()) not in [os.path.realpath(folder) for folder in folders if folder]:
            self.steps.say(f'export {TRAINER_VARIABLE}="$(nnunet-attn trainers-dir)"', style="bold")
        self.steps.say(shlex.join(words), style="bold")


def _taken_ids() -> set[int]:
    names = [
        entry.name
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        for entry in nnunet_folder(variable).iterdir()
    ]
    return {int(match[1]) for name in names if (match := re.match(r"Dataset(\d{3})_", name))}


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
