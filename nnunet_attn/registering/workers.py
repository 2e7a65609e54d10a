"""One function over many jobs, in several processes where that is worth their start."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_any
from typing import TypeVar

from nnunet_attn.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")

# A process takes about a second to start: below this it costs more than it brings.
_BYTES_A_PROCESS, _JOBS_A_PROCESS = 16_000_000, 64


def processes_for(jobs: int, size_bytes: int, processes: int) -> int:
    """Return how many processes are worth starting for jobs that read so many bytes in all."""
    worth = max(size_bytes // _BYTES_A_PROCESS, jobs // _JOBS_A_PROCESS)
    return max(1, min(processes, jobs, worth))


def run_all(
    function: Callable[[Job], Result], jobs: Sequence[Job], processes: int, on_done: Callable[[int], None]
) -> list[Result]:
    """Return the results of all jobs, in their order; each process has one job at a time.

    Whatever interrupts this, Ctrl-C too, ends the processes; they also end when this process is killed.

    Args:
        function: Of a module, so that other processes find it.
        jobs: Its arguments.
        processes: 1 for this process alone.
        on_done: Called with the number of jobs done.
    Raises:
        InputError: If a process was ended from outside, or the caller is a script that does its work on import too.
    """
    if processes < 2:
        results = []
        for job in jobs:
            results.append(function(job))
            on_done(len(results))
        return results
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_start)
    try:
        futures = [pool.submit(function, job) for job in jobs]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            on_done(done)
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise InputError(
            "a process was ended from outside, most often for want of memory: give fewer processes, -np 1; or a script "
            'of your own calls this on import too: put the call below `if __name__ == "__main__":`'
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    """Leave Ctrl-C to the process that started this one, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # libraries print there what the error says anyway
    os.close(devnull)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for_any([sentinel])
    os._exit(1)
