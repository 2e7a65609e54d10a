"""Measures cases, several at once, in processes that end with this one."""

import multiprocessing
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.metrics import case_metrics
from nnunet_attn.evaluation.pairs import Pair
from nnunet_attn.evaluation.reading import read_pair
from nnunet_attn.evaluation.results import Settings

ALONE_SECONDS = 2.0


@dataclass(frozen=True)
class Job:
    """One case to measure.

    Args:
        pair: Its files.
        reader: Name of nnU-Net's reader class.
        known_values: Values that the files may hold.
        classes: Class -> label values.
        settings: With a tolerance for each class.
        ignore: Value that is ignored.
    """

    pair: Pair
    reader: str
    known_values: frozenset[int]
    classes: Mapping[str, tuple[int, ...]]
    settings: Settings
    ignore: int | None


@dataclass(frozen=True)
class Measured:
    """What came of a job: metrics, or an error to tell the user."""

    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str | None = None


Results = Generator[tuple[int, Measured], None, None]


def measure(job: Job) -> Measured:
    """Read and measure one case; what is wrong with its files is returned, not raised, so that all are looked at."""
    try:
        prediction, reference, warnings = read_pair(
            job.pair.prediction, job.pair.reference, job.reader, job.known_values
        )
        metrics = case_metrics(
            prediction.labels,
            reference.labels,
            reference.spacing_mm,
            job.classes,
            job.settings.metrics,
            job.settings.tolerance_mm,
            job.settings.surface,
            job.ignore,
        )
    except InputError as error:
        return Measured(error=str(error))
    except MemoryError:
        return Measured(error=f"{job.pair.prediction} needs more memory than there is; use fewer processes: -np 1")
    return Measured(metrics, warnings)


def measure_all(jobs: Sequence[Job], processes: int) -> Results:
    """Measure cases in any order: for `ALONE_SECONDS` in this process, then the others in several.

    Starting processes takes seconds, in which many small cases are done. Whatever interrupts the iteration, Ctrl-C too,
    ends the processes.

    Yields:
        Index of the job, and what came of it.
    Raises:
        InputError: If a process was killed, most likely for want of memory.
    """
    begin = time.monotonic()
    waiting = list(enumerate(jobs))
    while waiting and (processes == 1 or len(waiting) == 1 or time.monotonic() - begin < ALONE_SECONDS):
        index, job = waiting.pop(0)
        yield index, measure(job)
    if waiting:
        yield from _measure_in_processes(waiting, min(processes, len(waiting)))


def _measure_in_processes(jobs: Sequence[tuple[int, Job]], processes: int) -> Results:
    others = set(multiprocessing.active_children())
    # spawn: a fork of a process with threads (progress bar, BLAS) can hang
    executor = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _leave_interrupts_to_the_parent)
    finished = False
    try:
        futures = {executor.submit(measure, job): index for index, job in jobs}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
        finished = True
    except BrokenProcessPool as error:
        raise InputError(
            f"a process that measured cases was killed, most likely for want of memory; use fewer than -np {processes}"
        ) from error
    finally:
        if not finished:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
        executor.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
