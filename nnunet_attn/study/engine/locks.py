"""Lock files: which process trains in a folder, or has a device. Standard library only, POSIX only."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_OTHER_CLOCK = 2.0  # seconds that two readings of a start time may differ, where it is told by the clock
_UNREADABLE_SECONDS = 60.0  # a lock file that cannot be understood counts as just being written for so long
_SQUEUE_SECONDS = 30.0
_SETTLE_SECONDS = 2.0  # where files cannot be guarded, the last of several that claimed at once has the lock
_SLURM_LIVES = frozenset(
    {"RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
)


@dataclass(frozen=True)
class Lock:
    """Who holds a lock file.

    Args:
        file: The file.
        pid: Process number on its host.
        host: Name of its machine.
        started: When that process was created: with `boot` in seconds since that boot of the machine, else in seconds
            since 1970; None: unknown.
        boot: Linux's identifier of the time between two boots.
        slurm_job: Number of the Slurm job in which it runs.
        slurm_restart: How often that job was requeued before.
        own_session: Whether it leads a session, so that all processes in the session come from it.
    """

    file: Path
    pid: int
    host: str
    started: float | None = None
    boot: str | None = None
    slurm_job: str | None = None
    slurm_restart: int = 0
    own_session: bool = False

    @property
    def identity(self) -> str:
        """Text that no other holder has."""
        return f"{self.pid}@{self.host}@{self.boot}@{self.started}"

    def __str__(self) -> str:
        job = "" if self.slurm_job is None else f", Slurm job {self.slurm_job}"
        return f"process {self.pid} on {self.host}{job}"


def read_lock(file: Path) -> Lock | None:
    """Return who holds a lock file; None if there is none, or none that can be understood."""
    try:
        return _parsed(file, file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def own_lock(file: Path) -> Lock:
    """Return the lock that this process would hold; nothing is written."""
    pid = os.getpid()
    started, boot = _started(pid)
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return Lock(
        file,
        pid,
        socket.gethostname(),
        started,
        boot,
        os.environ.get("SLURM_JOB_ID") or None,
        int(restart) if restart.isdecimal() else 0,
        os.getsid(0) == pid,
    )


def holder_lives(lock: Lock, ask_slurm: bool = True) -> bool | None:
    """Return whether the process that holds a lock lives; None: it is on another host, and nobody there can be asked.

    A process of the same number that was created at another time is another one; a zombie is dead.

    Args:
        lock: As `read_lock` returns it.
        ask_slurm: Whether `squeue`, where it is installed, may be run for a Slurm job on another host.
    """
    if lock.host == socket.gethostname():
        return _process_lives(lock)
    if lock.slurm_job is None:
        return None
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    if lock.slurm_job == os.environ.get("SLURM_JOB_ID") and restart.isdecimal() and lock.slurm_restart < int(restart):
        return False  # this very job, requeued to another host
    return _slurm_lives(lock) if ask_slurm else None


def claimed(file: Path, stale: str | None = None, from_parent: bool = False) -> bool:
    """Try to let this process hold a lock, also one whose holder is dead; return whether it does.

    What remains of a dead holder's own session is ended first. Of several that claim at once one succeeds.

    Args:
        file: The lock file; its folder exists.
        stale: `Lock.identity` of a holder that counts as dead where `holder_lives` cannot tell.
        from_parent: Whether a lock that this process's parent holds may be taken over.
    """
    mine = own_lock(file)
    while True:
        if _linked(mine):
            return True
        with _held_open(file) as (content, is_guarded):
            if content is None:  # gone, or replaced by another in the meantime
                continue
            holder = _parsed(file, content)
            if holder is None:
                with suppress(FileNotFoundError):
                    if time.time() - file.stat().st_mtime < _UNREADABLE_SECONDS:
                        return False
            elif holder.identity == mine.identity:
                return True
            elif not (from_parent and holder.pid == os.getppid() and _process_lives(holder)):
                lives = holder_lives(holder)
                if lives or (lives is None and holder.identity != stale):
                    return False
                end_remains(holder)
            _write(mine, replace=True)
        if is_guarded:
            return True
        time.sleep(_SETTLE_SECONDS)
        now = read_lock(file)
        return now is not None and now.identity == mine.identity


def release(file: Path, pid: int | None = None) -> None:
    """Remove a lock file that this process holds, or the process of this number on this host, which has ended."""
    holder = read_lock(file)
    if holder is None:
        return
    with _held_open(file) as (content, _):
        now = None if content is None else _parsed(file, content)
        if now is None or now.host != socket.gethostname() or now.pid != (os.getpid() if pid is None else pid):
            return
        if pid is not None and _process_lives(now):
            return
        file.unlink(missing_ok=True)


def end_remains(lock: Lock) -> int:
    """End what a dead holder has left running on this host, such as its data workers; return how many there were.

    Only processes that are surely its own: those of the session that it led. Linux gives its number to no other
    process while that session exists.
    """
    if not (lock.own_session and lock.boot and lock.host == socket.gethostname() and lock.boot == _boot()):
        return 0
    leader = _stat(lock.pid)
    if leader is not None and leader.started != lock.started:
        return 0  # the number is another's, so nothing is left
    ended = 0
    for path in _PROC.iterdir():
        if not path.name.isdecimal() or int(path.name) == lock.pid:
            continue
        found = _stat(int(path.name))
        if found is None or found.session != lock.pid or lock.started is None or found.started < lock.started:
            continue
        with suppress(OSError):
            os.kill(int(path.name), signal.SIGKILL)
            ended += 1
    return ended


@dataclass(frozen=True)
class _Stat:
    state: str
    session: int
    started: float


def _stat(pid: int) -> _Stat | None:
    """What Linux says about a process that is not a zombie; None elsewhere, or if there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes().decode("ascii", errors="replace")
        words = text.rpartition(")")[2].split()  # the name in parentheses may hold anything
        found = _Stat(words[0], int(words[3]), int(words[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None
    return None if found.state in "ZXx" else found


def _boot() -> str | None:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _started(pid: int) -> tuple[float | None, str | None]:
    """When a process was created, and the boot since which that is counted; the clock may be set at any time."""
    boot = _boot()
    found = _stat(pid)
    if found is not None and boot is not None:
        return found.started, boot
    try:
        import psutil
    except ImportError:
        return None, None
    try:
        return psutil.Process(pid).create_time(), None
    except psutil.Error:
        return None, None


def _process_lives(lock: Lock) -> bool:
    if lock.pid < 1:
        return False
    if lock.boot is not None and _boot() not in (None, lock.boot):
        return False
    try:
        os.kill(lock.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it lives, and belongs to another user
        pass
    if (_PROC / str(lock.pid) / "stat").exists() and _stat(lock.pid) is None:
        return False  # a zombie
    started, boot = _started(lock.pid)
    if lock.started is None or started is None or boot != lock.boot:
        return True
    return started == lock.started if boot is not None else abs(started - lock.started) < _OTHER_CLOCK


def _slurm_lives(lock: Lock) -> bool | None:
    squeue = shutil.which("squeue")
    if squeue is None or lock.slurm_job is None:
        return None
    words = [squeue, "--noheader", "--states=all", f"--jobs={lock.slurm_job}", "--Format=State:20,RestartCnt:20"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SQUEUE_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode != 0:
        return False if "Invalid job id" in done.stderr else None
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    if not lines:
        return False
    return any(
        words[0] in _SLURM_LIVES and not (words[-1].isdecimal() and int(words[-1]) > lock.slurm_restart)
        for words in lines
    )


def _parsed(file: Path, text: str) -> Lock | None:
    try:
        content: Any = json.loads(text)
        started, job = content.get("started"), content.get("slurm_job")
        return Lock(
            file,
            int(content["pid"]),
            str(content["host"]),
            None if started is None else float(started),
            content.get("boot"),
            None if job is None else str(job),
            int(content.get("slurm_restart") or 0),
            content.get("own_session") is True,
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _write(lock: Lock, replace: bool) -> None:
    """Write a lock file that nobody can read half; without `replace` FileExistsError if there is one."""
    partial = lock.file.with_name(f"{lock.file.name}.{lock.host}.{lock.pid}.partial")
    content = {name: value for name, value in asdict(lock).items() if name != "file"}
    partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
    try:
        if replace:
            partial.replace(lock.file)
        else:
            _link(partial, lock.file)
    finally:
        partial.unlink(missing_ok=True)


def _link(partial: Path, file: Path) -> None:
    try:
        os.link(partial, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with file.open("x", encoding="utf-8") as opened:
            opened.write(partial.read_text(encoding="utf-8"))


def _linked(lock: Lock) -> bool:
    try:
        _write(lock, replace=False)
    except FileExistsError:
        return False
    return True


@contextmanager
def _held_open(file: Path) -> Iterator[tuple[str | None, bool]]:
    """Keep all others from replacing or removing a lock file.

    By the system's advisory lock on the file itself, which is gone with the process that has it.

    Yields:
        The content, None if the file is not there any more; and whether others are really kept: not all file systems of
        clusters can do that.
    """
    try:
        opened = file.open("r+", encoding="utf-8")
    except FileNotFoundError:
        yield None, False
        return
    with opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
            is_guarded = True
        except OSError:
            is_guarded = False
        try:
            same = os.path.samestat(os.fstat(opened.fileno()), file.stat())
        except FileNotFoundError:
            same = False
        yield (opened.read() if same else None), is_guarded
