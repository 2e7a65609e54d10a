"""One job of a study, as Snakemake starts it: `python -m nnunet_attn.study.engine.job FOLDER JOB --threads N`.

It does the job unless it is done, writes the marker, and notes how it goes in `engine/jobs/JOB.json`, which
`nnunet-attn study run` reads: that works across machines that share the folder, too.
"""

import argparse
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from nnunet_attn.errors import InputError
from nnunet_attn.paths import with_trainers
from nnunet_attn.study.engine.errors import JobError
from nnunet_attn.study.engine.jobs import Job, jobs
from nnunet_attn.study.engine.markers import is_done, marker_file, write_json, write_marker
from nnunet_attn.study.folder import ENGINE, log_file

JOBS_FILE = "jobs.json"
_WAIT_SECONDS = 1.0

Stage = Literal["started", "done", "failed", "stopped"]


@dataclass(frozen=True)
class Note:
    """How a job goes.

    Args:
        stage: `stopped`: by a signal, such as Ctrl-C.
        pid: Its process.
        host: The process's machine.
        began: When it started, in seconds since 1970.
        ended: When it ended; None while it runs.
        message: Why it failed; else empty.
    """

    stage: Stage
    pid: int
    host: str
    began: float
    ended: float | None = None
    message: str = ""


def note_file(folder: Path, name: str) -> Path:
    """Return the file in which a job notes how it goes."""
    return folder / ENGINE / "jobs" / f"{name}.json"


def read_note(folder: Path, name: str) -> Note | None:
    """Return how a job goes; None if it has not started, or the file is being written."""
    try:
        return Note(**json.loads(note_file(folder, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def run_job(folder: Path, name: str, threads: int, partial: bool = False) -> int:
    """Do one job of a study, and return its exit code; what it prints goes into its log.

    Args:
        folder: The study's folder.
        name: Of the job.
        threads: Cores that it may use.
        partial: Do it although something before it failed, with what is there, and write no marker.
    """
    began = time.time()

    def note(stage: Stage, message: str = "") -> None:
        ended = None if stage == "started" else time.time()
        content = Note(stage, os.getpid(), socket.gethostname(), began, ended, message)
        write_json(asdict(content), note_file(folder, name))

    try:
        with _terminable(), _logged(log_file(folder, name)):
            note("started")
            sys.stdout.write(f"----- {name}, {time.strftime('%Y-%m-%d %H:%M:%S')}, {socket.gethostname()}\n")
            try:
                _do(folder, name, threads, partial)
            except JobError as error:
                note("failed", error.message)
            except KeyboardInterrupt:
                sys.stdout.write("stopped\n")
                note("stopped")
                return 130
            except Exception as error:
                if _is_plain(error):
                    sys.stdout.write(f"error: {error}\n")
                else:
                    traceback.print_exc(file=sys.stdout)
                note("failed", f"{'' if _is_plain(error) else f'{type(error).__name__}: '}{error}".splitlines()[0])
            else:
                note("done")
                return 0
    except OSError as error:
        # such as a full disk, on which no log can be written either
        sys.stderr.write(f"{name}: {error}\n")
    return 1


def _do(folder: Path, name: str, threads: int, partial: bool) -> None:
    from nnunet_attn.study.engine.devices import Resources, visible_devices
    from nnunet_attn.study.engine.work import Place, work
    from nnunet_attn.study.model import read_study

    about: dict[str, Any] = json.loads((folder / ENGINE / JOBS_FILE).read_text(encoding="utf-8"))
    file = folder / ENGINE / about["file"]
    study = read_study(file)
    job = _named(name, jobs(study))
    device = about["device"] or ("cuda" if visible_devices() else "cpu")
    os.environ.update(with_trainers(os.environ))
    place = Place(study, file, folder, Resources(device, threads, tuple(about["devices"])))
    with alone(folder / ENGINE / "locks" / f"{name}.json"):
        if marker_file(folder, name).exists() and is_done(study, job, folder):
            return
        outputs = work(job, place)
        if not partial:
            write_marker(study, job, folder, outputs)


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold a lock; an earlier process of the same job may live on where Snakemake was killed, and is waited for."""
    from nnunet_attn.study.engine.locks import claimed, read_lock, release

    file.parent.mkdir(parents=True, exist_ok=True)
    told = False
    while not claimed(file):
        if not told:
            sys.stdout.write(f"waiting for {read_lock(file) or 'another process'}, which does this already\n")
            sys.stdout.flush()
            told = True
        time.sleep(_WAIT_SECONDS)
    try:
        yield
    finally:
        release(file)


def _named(name: str, known: Sequence[Job]) -> Job:
    for job in known:
        if job.name == name:
            return job
    raise InputError(f"the study has no job {name} any more; run it again: nnunet-attn study run")


def _is_plain(error: Exception) -> bool:
    from nnunet_attn.stock import StockCommandError

    return isinstance(error, InputError | StockCommandError)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that all that runs below is ended, too; where there are such signals."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _logged(file: Path) -> Iterator[None]:
    """Let all that is printed, by child processes too, go to the end of a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with file.open("ab") as log:
            for number in (1, 2):
                os.dup2(log.fileno(), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m nnunet_attn.study.engine.job", description=__doc__)
    parser.add_argument("folder", type=Path, help="the study's folder")
    parser.add_argument("job", help="name of the job")
    parser.add_argument("--threads", type=int, default=1, help="cores that it may use")
    parser.add_argument("--partial", action="store_true", help="with what is there, without a marker")
    parsed = parser.parse_args(arguments)
    if "SLURM_JOB_ID" in os.environ:
        from nnunet_attn.study.engine.cluster import keep_restart_count

        keep_restart_count()
    return run_job(Path(os.path.abspath(parsed.folder)), parsed.job, parsed.threads, parsed.partial)


if __name__ == "__main__":
    sys.exit(main())
