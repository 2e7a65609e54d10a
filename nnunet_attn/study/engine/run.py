"""Runs a study: checks, markers, Snakemake, and what it says while it works."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from nnunet_attn.errors import InputError
from nnunet_attn.paths import NNUNET_FOLDERS, TRAINER_VARIABLE
from nnunet_attn.study.engine.cluster import cluster_arguments
from nnunet_attn.study.engine.devices import visible_devices
from nnunet_attn.study.engine.job import JOBS_FILE
from nnunet_attn.study.engine.jobs import Job, jobs
from nnunet_attn.study.engine.locks import claimed, holder_lives, read_lock, release
from nnunet_attn.study.engine.markers import Open, synchronise
from nnunet_attn.study.engine.preflight import check_disk, check_engine, check_startable
from nnunet_attn.study.engine.watching import Event, Failure, Watch
from nnunet_attn.study.folder import ENGINE, LOGS, REPORT, preparing_folder

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study

RUN_LOCK, SNAKEMAKE_LOCK = "run_lock.json", "snakemake_lock.json"
SNAKEMAKE_LOG = "snakemake.txt"
_POLL_SECONDS = 0.3
_END_SECONDS = 60.0  # for trainings to end after Ctrl-C, and a cluster to take jobs back
_MOST_PROCESSES = 8  # that plan or preprocess: each can need much memory


@dataclass(frozen=True)
class RunOptions:
    """How a study is run.

    Args:
        cores: Cores that jobs share; None: all that this process may use.
        jobs: Trainings at once on a CPU, or jobs at once on a cluster; None: one a core, or as the profile says.
        devices: CUDA devices, by their numbers or UUIDs; empty: all that are visible.
        executor: Snakemake's executor of a cluster, such as `slurm`; None: this machine.
        profile: Snakemake's profile: a folder, or the name of one; None: the one that is shipped for the executor.
    """

    cores: int | None = None
    jobs: int | None = None
    devices: tuple[str, ...] = ()
    executor: str | None = None
    profile: str | None = None


@dataclass(frozen=True)
class StudyOutcome:
    """What a run has done.

    Args:
        done: Jobs that this run did.
        failed: Jobs that failed, each once.
        left: Jobs that did not start, because something that they need failed.
        report: The report's folder; None if it could not be written.
        message: What is wrong with Snakemake itself; else empty.
    """

    done: tuple[Job, ...]
    failed: tuple[Failure, ...]
    left: tuple[Job, ...]
    report: Path | None
    message: str = ""

    @property
    def exit_code(self) -> int:
        """0 if everything is done, else 1."""
        return 1 if self.failed or self.left or self.message or self.report is None else 0


def planned(study: "Study", folder: Path) -> tuple[Open, ...]:
    """Return the jobs that a run would do, and why; nothing is written.

    Raises:
        InputError: If the study cannot run.
    """
    check_engine()
    check_startable(study)
    return synchronise(study, jobs(study), folder, keep=True)


def run_study(
    study: "Study",
    file: Path,
    folder: Path,
    options: RunOptions | None = None,
    show: Callable[[Event], None] = lambda event: None,
) -> StudyOutcome:
    """Run what of a study has not been done yet, to the report.

    Ctrl-C and SIGTERM end all jobs, which the next run continues, and go on as KeyboardInterrupt.

    Args:
        study: The study.
        file: Its file.
        folder: Its folder, made if it is missing.
        options: Cores, devices, cluster.
        show: Called when a job starts, ends or fails.
    Raises:
        InputError: If the study cannot run like this, or another run holds the folder.
    """
    options = RunOptions() if options is None else options
    check_engine()
    cluster = [] if options.executor is None else cluster_arguments(options.executor, options.profile)
    check_startable(study)
    check_disk(folder)
    try:
        with ExitStack() as stack:
            stack.enter_context(_interruptible())
            stack.enter_context(_alone(folder))
            return _run(study, file, folder, options, cluster, show)
    except OSError as error:
        named = f" ({error.filename})" if error.filename else ""
        raise InputError(f"cannot write to {folder}{named}: {error.strerror}; free or allow it") from error


def _run(
    study: "Study",
    file: Path,
    folder: Path,
    options: RunOptions,
    cluster: Sequence[str],
    show: Callable[[Event], None],
) -> StudyOutcome:
    everything = jobs(study)
    opened = synchronise(study, everything, folder)
    report = folder / REPORT
    if not opened:
        return StudyOutcome((), (), (), report)
    _write_workflow(file, folder, opened, options, study.device)
    watch = Watch(folder, [each.job for each in opened], show)
    code = _snakemake(folder, _words(folder, options, cluster, opened), watch)
    failed, left = watch.failed(), watch.left()
    done = watch.done()
    message = ""
    if code and not failed:
        message = f"Snakemake ended with exit code {code}; its last lines, of {folder / LOGS / SNAKEMAKE_LOG}:\n"
        message += "\n".join(_tail(folder / LOGS / SNAKEMAKE_LOG, 15))
    if any(job.kind == "report" for job in left):
        left = tuple(job for job in left if job.kind != "report")
        for job in (*(each for each in left if each.kind == "compare"), _report(everything)):
            code = _partial(folder, job)
        if code:
            failed = (*failed, watch.failure(_report(everything)))
    is_there = not any(each.job.kind == "report" for each in failed) and report.is_dir()
    return StudyOutcome(done, failed, left, report if is_there else None, message)


def _report(everything: Sequence[Job]) -> Job:
    return next(job for job in everything if job.kind == "report")


def _partial(folder: Path, job: Job) -> int:
    """Do a job with what there is although something before it failed; its log tells what was missing."""
    words = [sys.executable, "-m", "nnunet_attn.study.engine.job", str(folder), job.name, "--partial"]
    return subprocess.run(words, check=False).returncode


def _write_workflow(file: Path, folder: Path, opened: Sequence[Open], options: RunOptions, device: str | None) -> None:
    """Write what Snakemake reads: it has to be below the study's folder, which a cluster's nodes share."""
    engine = folder / ENGINE
    engine.mkdir(parents=True, exist_ok=True)
    kept = engine / f"{file.stem}.yaml"
    _copy(file, kept)
    with as_file(files("nnunet_attn.study.engine") / "workflow" / "Snakefile") as snakefile:
        _copy(snakefile, engine / "Snakefile")
    chosen, devices = _devices(options, device)
    threads = _threads(opened, options, chosen, devices)
    listed = [
        {"name": job.name, "kind": job.kind, "needs": job.needs, "threads": threads[job.kind]}
        for job in (each.job for each in opened)
    ]
    content = {"file": kept.name, "device": chosen, "devices": devices, "jobs": listed}
    partial = engine / f".{JOBS_FILE}"
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, engine / JOBS_FILE)
    shutil.rmtree(engine / "jobs", ignore_errors=True)  # how jobs went last time


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    os.replace(partial, target)


def _devices(options: RunOptions, device: str | None) -> tuple[str | None, tuple[str, ...]]:
    """The kind of device, None where the cluster's node has to tell, and the CUDA devices to choose from."""
    if options.executor is not None:
        return device, ()
    there = visible_devices() if device in (None, "cuda") else ()
    if options.devices and device in ("cpu", "mps"):
        raise InputError(f"--devices {options.devices[0]}: the study says device: {device}; leave out one of the two")
    chosen = tuple(_device_named(each, there) for each in options.devices)
    if device == "cuda" and not there:
        raise InputError("the study says device: cuda, and there is no CUDA device here; change it, or leave it out")
    if device is None:
        device = "cuda" if there else "cpu"
    return device, (chosen or there) if device == "cuda" else ()


def _device_named(name: str, there: Sequence[str]) -> str:
    """A device by its own name, or by its number where the names are UUIDs."""
    if name in there:
        return name
    if name.isdecimal() and int(name) < len(there) and not any(each.isdecimal() for each in there):
        return there[int(name)]
    raise InputError(f"--devices {name}: there is no such CUDA device; there are {', '.join(there) or 'none'}")


def _slots(opened: Sequence[Open], options: RunOptions, device: str | None, devices: Sequence[str]) -> int:
    """How many jobs may use a device at once."""
    cores = _cores(options)
    most = len(devices) if device == "cuda" else 1 if device == "mps" else min(options.jobs or cores, cores)
    waiting = sum(each.job.kind in ("train", "pretrain", "predict") for each in opened)
    return max(1, min(most, waiting))


def _threads(opened: Sequence[Open], options: RunOptions, device: str | None, devices: Sequence[str]) -> dict[str, int]:
    """Cores of each kind of job."""
    if options.executor is not None:  # a profile can say something else
        each = options.cores or _MOST_PROCESSES
        whole, on_device = each, each
    else:
        whole = min(_cores(options), _MOST_PROCESSES)
        on_device = max(1, _cores(options) // _slots(opened, options, device, devices))
    some = max(1, whole // 2)
    kinds = {"plan": whole, "preprocess": whole, "plans": 1, "evaluate": some, "compare": some, "report": some}
    return {**kinds, "train": on_device, "pretrain": on_device, "predict": on_device}


def _cores(options: RunOptions) -> int:
    if options.cores is not None:
        return options.cores
    with suppress(AttributeError):  # Linux alone tells which cores a process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _words(folder: Path, options: RunOptions, cluster: Sequence[str], opened: Sequence[Open]) -> list[str]:
    """Snakemake's command."""
    words = [sys.executable, "-m", "snakemake", "--snakefile", "Snakefile", "--directory", "."]
    words += ["--rerun-triggers", "input", "--nolock", "--keep-going", "--rerun-incomplete", "--nocolor"]
    if options.executor is None:
        about: Mapping[str, Any] = json.loads((folder / ENGINE / JOBS_FILE).read_text(encoding="utf-8"))
        slots = _slots(opened, options, about["device"], about["devices"])
        words += ["--cores", str(_cores(options)), "--resources", f"device={slots}"]
        return [*words, *(["--profile", _place(options.profile)] if options.profile else [])]
    return [*words, *cluster, *(["--jobs", str(options.jobs)] if options.jobs else [])]


def _place(profile: str) -> str:
    """A profile's whole path, since Snakemake works in another folder; unchanged if it is the name of one."""
    path = Path(profile).expanduser()
    return str(path.absolute()) if path.exists() else profile


def absolute_folders(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose nnU-Net folders are whole paths: jobs work in another folder than the user."""
    changed = dict(environment)
    for name in NNUNET_FOLDERS:
        if value := changed.get(name):
            changed[name] = os.path.abspath(value)
    if value := changed.get(TRAINER_VARIABLE):
        changed[TRAINER_VARIABLE] = os.pathsep.join(os.path.abspath(each) for each in value.split(os.pathsep) if each)
    return changed


def _snakemake(folder: Path, words: Sequence[str], watch: Watch) -> int:
    """Run Snakemake to its end; returns its exit code."""
    log = folder / LOGS / SNAKEMAKE_LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    engine = folder / ENGINE
    with log.open("ab") as output:
        output.write(f"----- {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        output.flush()
        watch.follow(log)
        process = subprocess.Popen(
            [sys.executable, "-m", "nnunet_attn.study.engine.locked_exec", str(engine / SNAKEMAKE_LOCK), "--", *words],
            cwd=engine,
            env=absolute_folders(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=os.name == "posix",  # Ctrl-C reaches this process alone, which knows what to do
        )
    try:
        while process.poll() is None:
            watch.look()
            time.sleep(_POLL_SECONDS)
    except BaseException:
        _end(process, watch)
        raise
    finally:
        release(engine / SNAKEMAKE_LOCK, process.pid)
    watch.look()
    return process.returncode


def _end(process: "subprocess.Popen[bytes]", watch: Watch) -> None:
    """End Snakemake and its jobs: it starts no more, and they end their trainings."""
    import psutil

    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + _END_SECONDS
    told: set[int] = set()
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if child.pid not in told and "nnunet_attn.study.engine.job" in child.cmdline():
                        told.add(child.pid)
                        child.terminate()
        time.sleep(0.1)
    if process.poll() is None:
        process.kill()
    process.wait()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, and the terminal's end, do what Ctrl-C does; where signals can be set, in the main thread.

    What is ignored, as SIGHUP by nohup, stays so.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [number for number in ("SIGTERM", "SIGHUP") if hasattr(signal, number)]
    heeded = [getattr(signal, number) for number in numbers]
    heeded = [number for number in heeded if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        before = {number: signal.signal(number, interrupt) for number in heeded}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the study's folder; a Snakemake whose `study run` was killed is ended, its trainings are waited for."""
    engine = folder / ENGINE
    engine.mkdir(parents=True, exist_ok=True)
    file = engine / RUN_LOCK
    if not claimed(file):
        holder = read_lock(file)
        lives = None if holder is None else holder_lives(holder)
        remedy = "watch it with nnunet-attn study status, and wait for it or end it"
        if lives is None:
            remedy = f"if that is over, remove {file}"
        raise InputError(f"{folder} is in use by another run, {holder or 'which is just starting'}; {remedy}")
    try:
        _check_elsewhere(engine)
        orphan = read_lock(engine / SNAKEMAKE_LOCK)
        if orphan is not None and orphan.host == socket.gethostname() and holder_lives(orphan):
            with suppress(ProcessLookupError):
                os.kill(orphan.pid, signal.SIGKILL)
        yield
    finally:
        release(file)


def _check_elsewhere(engine: Path) -> None:
    """Check that no job is held by a process of which nothing can be known: this run's would wait for it for ever."""
    there = (engine / SNAKEMAKE_LOCK, *sorted((engine / "locks").glob("*.json")), *preparing_folder().glob("*.json"))
    held = map(read_lock, there)
    unknown = [lock for lock in held if lock is not None and holder_lives(lock) is None]
    if unknown:
        where = shlex.join(str(lock.file) for lock in unknown)
        raise InputError(
            f"{engine.parent}: {unknown[0]} holds {unknown[0].file.name}, and from here it cannot be told whether it "
            f"lives; if all is over there, remove what it left, then run again: rm {where}"
        )


def _tail(file: Path, lines: int) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError:
        return []
