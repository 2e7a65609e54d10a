"""What the jobs of each kind do."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_attn.paths import NNUNET_FOLDERS
from nnunet_attn.stock import executable
from nnunet_attn.study.engine.devices import Resources, device_environment, worker_environment
from nnunet_attn.study.engine.errors import JobError
from nnunet_attn.study.engine.jobs import Job, job_name, pretrained_trainer
from nnunet_attn.study.engine.locked_exec import HELD
from nnunet_attn.study.engine.markers import begun_file, is_done, marked_outputs
from nnunet_attn.study.engine.preparing import planning, planning_environment, preprocessing, write_splits
from nnunet_attn.study.engine.processes import ended_badly, run_logged
from nnunet_attn.study.folder import COMPARISON, REPORT, log_file, preparing_folder
from nnunet_attn.study.matrix import Run, dataset_name, nnunet_folder
from nnunet_attn.study.options import resolved, write_derived_plans

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study

RESULTS = NNUNET_FOLDERS[2]
_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Place:
    """Where a job is done.

    Args:
        study: The study.
        file: Its file.
        folder: Its folder.
        resources: What the job may use.
    """

    study: "Study"
    file: Path
    folder: Path
    resources: Resources

    @property
    def processes(self) -> int:
        """How many processes may work at once."""
        return max(1, self.resources.threads)


def work(job: Job, place: Place) -> tuple[Path, ...]:
    """Do a job, and return what has to be there as long as it counts as done, beside nnU-Net's own files.

    Raises:
        InputError: If something that it reads is not as it must be.
        JobError: If a command fails.
        StockCommandError: If one of nnU-Net's commands fails that another command of this package runs.
    """
    return _WORK[job.kind](job, place)


def _plan(job: Job, place: Place) -> tuple[Path, ...]:
    dataset, plans = str(job.dataset), str(job.plans)
    _run(planning(dataset, plans, place.processes), job, place)
    return ()


def _preprocess(job: Job, place: Place) -> tuple[Path, ...]:
    from nnunet_attn.json_files import read_object

    dataset, plans, configuration = str(job.dataset), str(job.plans), str(job.configuration)
    begun = begun_file(job.name)
    begun.parent.mkdir(parents=True, exist_ok=True)
    begun.touch()
    _run(preprocessing(dataset, plans, configuration, place.processes), job, place)
    begun.unlink(missing_ok=True)
    there = nnunet_folder("nnUNet_preprocessed") / dataset
    entry = resolved(read_object(there / f"{plans}.json", "plan the data set again"), configuration)
    write_splits(dataset, there / str(entry["data_identifier"]))
    return ()


def _plans(job: Job, place: Place) -> tuple[Path, ...]:
    row = place.study.row_named(str(job.row))
    sys.stdout.write(f"{write_derived_plans(place.study, row, str(job.dataset))}\n")
    return ()


def _pretrain(job: Job, place: Place) -> tuple[Path, ...]:
    from rich.console import Console

    from nnunet_attn.pretraining.chain import run_pretraining
    from nnunet_attn.pretraining.request import Pretraining
    from nnunet_attn.study.engine.job import alone

    run, pretrain = job.run, place.study.row_named(str(job.row)).pretrain
    assert run is not None and pretrain is not None
    trainer = pretrained_trainer(run, pretrain.epochs)
    _wait_for_pretraining(trainer, run.plans)
    other = pretrain.dataset is not None and pretrain.dataset != run.dataset
    source = run.dataset if pretrain.dataset is None else dataset_name(pretrain.dataset)
    # other seeds and tasks learn from the same images, and would preprocess them into the same folder
    preparing = alone(_preparing(source))
    with device_environment(place.resources, log_file(place.folder, job.name)) as environment:
        os.environ.update({**worker_environment(place.resources), **environment})
        request = Pretraining(
            pretrain.dataset or run.dataset,
            trainer,
            run.configuration,
            run.plans,
            run.dataset if other else None,
            pretrain.task,
            resume=True,
            device=place.resources.device,
            workers=place.processes,
        )
        return (run_pretraining(request, Console(highlight=False), preparing),)


def _wait_for_pretraining(trainer: str, plans: str) -> None:
    """Wait for a pre-training whose job was killed: nnU-Net notices at its next line that nobody reads it, and ends."""
    import psutil

    def is_one(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            words = process.cmdline()
            if any(Path(word).name == "nnUNetv2_train" for word in words[:2]):
                same = process.environ().get(RESULTS) == os.environ.get(RESULTS)
                # moved to other images the plans have an ending more; they tell one row's pre-training from another's
                return same and all(
                    any(word.startswith(each) for word in words) for each in (f"{trainer}_Pretrain", plans)
                )
        return False

    while any(is_one(process) for process in psutil.process_iter()):
        time.sleep(_WAIT_SECONDS)


def _train(job: Job, place: Place) -> tuple[Path, ...]:
    from nnunet_attn.study.engine.training import train

    run = job.run
    assert run is not None
    train(run, place.resources, log_file(place.folder, job.name), _pretrained(run, place))
    return ()


def _pretrained(run: Run, place: Place) -> Path | None:
    if place.study.row_named(run.row).pretrain is None:
        return None
    name = job_name("pretrain", run.dataset, run.trainer, run.plans, run.configuration)
    found = marked_outputs(place.folder, name)
    return found[0] if found else None


def _evaluate(job: Job, place: Place) -> tuple[Path, ...]:
    from nnunet_attn.evaluation.evaluate import result_files
    from nnunet_attn.study.evaluating import evaluate_model

    model = job.model
    assert model is not None
    evaluate_model(place.study, model, place.processes)
    folds = "_".join(map(str, sorted(model.folds)))
    return (result_files(model.folder / f"evaluation_attn_folds_{folds}")[0],)


def _predict(job: Job, place: Place) -> tuple[Path, ...]:
    from rich.console import Console

    from nnunet_attn.study.evaluating import predict_model, predictions_folder

    model = job.model
    assert model is not None
    with device_environment(place.resources, log_file(place.folder, job.name)) as environment:
        os.environ.update({**worker_environment(place.resources), **environment})
        device = place.resources.device or "cpu"
        predict_model(place.study, model, device, place.processes, Console(highlight=False))
    return (predictions_folder(place.study, model),)


def _compare(job: Job, place: Place) -> tuple[Path, ...]:
    from nnunet_attn.evaluation.compare_files import write_comparison
    from nnunet_attn.study.evaluating import compare_group

    group = job.group
    assert group is not None
    folder = place.folder / COMPARISON / group.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_comparison(compare_group(place.study, group, place.processes), folder)
    return (folder,)


def _report(job: Job, place: Place) -> tuple[Path, ...]:
    from nnunet_attn.study.report.collect import collect
    from nnunet_attn.study.report.write import write_report

    folder = place.folder / REPORT
    write_report(collect(place.study, place.file, place.folder), folder)
    return (folder,)


_WORK: dict[str, Callable[[Job, Place], tuple[Path, ...]]] = {
    "plan": _plan,
    "preprocess": _preprocess,
    "plans": _plans,
    "pretrain": _pretrain,
    "train": _train,
    "predict": _predict,
    "evaluate": _evaluate,
    "compare": _compare,
    "report": _report,
}


def _preparing(dataset: str) -> Path:
    """The lock of who plans or preprocesses a data set."""
    folder = preparing_folder()
    folder.mkdir(exist_ok=True)
    return folder / f"{dataset}.json"


def _run(words: Sequence[str], job: Job, place: Place) -> None:
    """Run one of nnU-Net's commands, unless another has done its work while this one waited for the lock."""
    environment = planning_environment({**os.environ, **worker_environment(place.resources)})
    log, held = log_file(place.folder, job.name), _preparing(str(job.dataset))
    while (code := run_logged([executable(words[0]), *words[1:]], log, environment, (held,))) == HELD:
        time.sleep(_WAIT_SECONDS)
        if is_done(place.study, job, place.folder):
            return
    if code:  # signals to this job itself are raised by run_logged
        raise JobError(f"{words[0]} {ended_badly(code)}", log)
