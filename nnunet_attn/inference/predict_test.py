"""`nnunet-attn predict-test`: the test images of a data set by all folds of trainers, and their evaluation."""

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.evaluate import evaluate_folder
from nnunet_attn.evaluation.results import Evaluation
from nnunet_attn.inference.predict_test_files import (
    begin,
    claimed,
    finish,
    is_up_to_date,
    whole_predictions,
    working_folder,
)
from nnunet_attn.inference.predict_test_request import ModelToPredict, PredictTestRequest, check
from nnunet_attn.stock import StockCommandError, run_stock

LOGS_NAME = "logs"
_DESCRIPTIONS = ("dataset.json", "plans.json")


@dataclass(frozen=True)
class PredictedTest:
    """The predictions of one trainer.

    Args:
        trainer: Its name.
        folder: Folder of its predictions.
        cases: Names of the cases, in order.
        predicted: How many of them this run had to predict.
        evaluation: None where there are no labels, or none was asked for.
    """

    trainer: str
    folder: Path
    cases: tuple[str, ...]
    predicted: int
    evaluation: Evaluation | None


def predict_test(request: PredictTestRequest, console: Console | None = None) -> tuple[PredictedTest, ...]:
    """Predict `imagesTs` with each trainer of a request, and evaluate where there is a `labelsTs`.

    A trainer's folder appears when all of its predictions are there. What a run that was killed has predicted is kept,
    and the same request goes on from it; what is up to date is not predicted again.

    Args:
        request: What to predict.
        console: Where commands and progress are shown.
    Returns:
        One entry for each trainer, in order.
    Raises:
        InputError: If a part of the request cannot be met for one of the trainers; nothing has been predicted then.
        StockCommandError: If a stock command fails.
    """
    models = check(request)
    console = console or Console()
    return tuple(_Prediction(request, model, console).run() for model in models)


class _Prediction:
    """The predictions of one trainer."""

    def __init__(self, request: PredictTestRequest, model: ModelToPredict, console: Console) -> None:
        self.request, self.model, self.console = request, model, console
        self.cases = tuple(sorted(model.made.cases))
        self.working = working_folder(model.output)
        self.predicted = 0

    def run(self) -> PredictedTest:
        model, request = self.model, self.request
        self._say(f"{model.trainer} -> {model.output}", style="bold")
        if not request.overwrite and is_up_to_date(model.output, model.made, model.file_ending):
            self._say(f"{len(self.cases)} predictions are up to date")
        else:
            try:
                self._predict()
            except OSError as error:
                raise InputError(
                    f"cannot write {error.filename or self.working} ({error.strerror}); free or allow it, or choose "
                    "another -o; the same command goes on from what is there"
                ) from error
        return PredictedTest(model.trainer, model.output, self.cases, self.predicted, self._evaluate())

    def _predict(self) -> None:
        with claimed(self.model.output):
            begin(self.model.output, self.model.made, self.model.file_ending, self.request.overwrite)
            done = self._whole(self.working)
            self.predicted = len(self.cases) - len(done)
            if self.predicted and self.request.ensemble == "softmax":
                self._predict_apart()
            elif self.predicted:
                self._run_predict(self.working, self.request.folds, done)
                self._check_all(self.working)
            if not self.request.keep_probabilities:
                for folder in self._fold_folders():
                    shutil.rmtree(folder, ignore_errors=True)
            finish(self.working, self.model.output)

    def _predict_apart(self) -> None:
        """Predict by each fold, then average the probabilities, both by the stock commands."""
        for fold, folder in zip(self.request.folds, self._fold_folders(), strict=True):
            folder.mkdir(exist_ok=True)
            done = self._whole(folder, probabilities=True)
            if len(done) < len(self.cases):
                self._run_predict(folder, (fold,), done, probabilities=True)
                self._check_all(folder, probabilities=True)
        merged = self.working / "ensemble"
        if merged.exists():
            shutil.rmtree(merged)
        words = ["-i", *self._fold_folders(), "-o", merged, "-np", self.request.export_processes]
        self._run("nnUNetv2_ensemble", words, "Averaging probabilities", None)
        self._check_all(merged)
        for name in _DESCRIPTIONS:
            shutil.copy(self._fold_folders()[0] / name, self.working / name)
        for case in self.cases:
            name = f"{case}{self.model.file_ending}"
            os.replace(merged / name, self.working / name)
        shutil.rmtree(merged)

    def _fold_folders(self) -> list[Path]:
        return [self.working / f"fold_{fold}" for fold in self.request.folds]

    def _run_predict(
        self, output: Path, folds: Sequence[int | str], done: set[str], probabilities: bool = False
    ) -> None:
        request, model = self.request, self.model
        words: list[object] = ["-i", model.images, "-o", output, "-d", model.origin.dataset, "-tr", model.trainer]
        words += ["-c", request.configuration, "-p", request.plans, "-f", *folds, "-chk", request.checkpoint]
        words += ["-device", request.device]
        words += ["-npp", request.preprocessing_processes, "-nps", request.export_processes]
        words += ["-prev_stage_predictions", model.previous] if model.previous else []
        words += [] if request.mirroring else ["--disable_tta"]
        words += ["--save_probabilities"] if probabilities else []
        words += ["--continue_prediction"] if done else []
        title = f"Predicting by fold {', '.join(map(str, folds))}"
        left = len(self.cases) - len(done)
        if request.grid:
            self._run("nnunet-attn", ["predict", *words], title, left)
        else:
            self._run("nnUNetv2_predict", words, title, left)

    def _run(self, command: str, arguments: Sequence[object], title: str, cases: int | None) -> None:
        """Run a stock command: shown as one would type it, its progress by cases, its output kept."""
        self._say(f"$ {shlex.join([command, *map(str, arguments)])}")
        logs = self.working / LOGS_NAME
        logs.mkdir(exist_ok=True)
        log_file = logs / f"{len(list(logs.iterdir())) + 1:02d}_{command}.log"
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self.console) as progress:
            task = progress.add_task(title, total=cases)

            def show(line: str) -> None:
                if re.match(r"done with ", line):  # nnU-Net's line behind each case
                    progress.advance(task)

            run_stock(command, arguments, os.environ, log_file, show)
            progress.update(task, total=cases or 1, completed=cases or 1)

    def _whole(self, folder: Path, probabilities: bool = False) -> set[str]:
        return whole_predictions(folder, self.cases, self.model.file_ending, self.model.reader, probabilities)

    def _check_all(self, folder: Path, probabilities: bool = False) -> None:
        missing = sorted(set(self.cases) - self._whole(folder, probabilities))
        if missing:
            raise StockCommandError(
                f"the command ended without an error, but {len(missing)} of {len(self.cases)} predictions in {folder} "
                f"are not whole, the first is {missing[0]}; is the disk full? The same command again goes on from here"
            )

    def _evaluate(self) -> Evaluation | None:
        if self.model.labels is None:
            return None
        with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=self.console) as bar:
            task = bar.add_task("Evaluating", total=len(self.cases))
            return evaluate_folder(
                self.model.output,
                self.model.labels,
                origin=self.model.origin,
                processes=self.request.export_processes,
                overwrite=self.request.overwrite,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)
