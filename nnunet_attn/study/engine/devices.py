"""Which device a job gets, and how many threads and worker processes: by a lock file a device, and by variables."""

import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.study.engine.locks import claimed, read_lock, release
from nnunet_attn.study.engine.processes import note

DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER_VARIABLE = "CUDA_DEVICE_ORDER"

_POLL_SECONDS = 2.0
_NVIDIA_SMI_SECONDS = 60.0
_MOST_LOADERS = 12  # nnU-Net's own numbers where nothing is set
_MOST_WORKERS = 8
_MOST_PREDICTING = 3


@dataclass(frozen=True)
class Resources:
    """What a job may use.

    Args:
        device: `cuda`, `cpu` or `mps`, for nnU-Net's `-device`; None: nnU-Net's own choice, which is `cuda`.
        threads: Cores.
        devices: CUDA devices of which it takes a free one; none: chosen from outside, as by Slurm.
    """

    device: str | None
    threads: int
    devices: tuple[str, ...] = ()

    @property
    def takes_device(self) -> bool:
        """Whether it has to have a CUDA device for itself."""
        return self.device in (None, "cuda") and bool(self.devices)


def visible_devices() -> tuple[str, ...]:
    """Return the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them; none without CUDA.

    What that variable says; else all that `nvidia-smi` lists, by its numbers, or by the UUIDs of a divided GPU's parts.
    """
    told = os.environ.get(DEVICES_VARIABLE)
    if told is None:
        return tuple(_listed_devices())
    found: list[str] = []
    for name in (part.strip() for part in told.split(",")):
        if not name or name.startswith("-"):  # as CUDA does: what follows a device that is not there is ignored
            break
        found.append(name)
    return tuple(found)


def worker_environment(resources: Resources) -> dict[str, str]:
    """Return the variables by which nnU-Net and PyTorch take as many processes and threads as a job has cores.

    A variable that is set already is left out: the user's choice stays.

    Trainings on the CPU with few cores load their data without workers, which would take the cores from the network.
    nnU-Net gives PyTorch all cores of the machine there, whatever OMP_NUM_THREADS is; from Python 3.13 on,
    PYTHON_CPU_COUNT keeps it from that.
    """
    threads = max(1, resources.threads)
    on_cpu = resources.device == "cpu"
    on_device = max(1, min(_MOST_LOADERS, threads - 1))
    chosen = {
        "nnUNet_n_proc_DA": (0 if threads < 4 else threads // 4) if on_cpu else on_device,
        "nnUNet_def_n_proc": min(_MOST_WORKERS, threads),
        "nnUNet_npp": min(_MOST_PREDICTING, threads),
        "nnUNet_nps": min(_MOST_PREDICTING, threads),
        "OMP_NUM_THREADS": threads if on_cpu else 1,
    }
    if on_cpu:
        chosen |= {"OMP_WAIT_POLICY": "PASSIVE", "PYTHON_CPU_COUNT": threads}
    return {name: str(value) for name, value in chosen.items() if name not in os.environ}


@contextmanager
def device_environment(resources: Resources, log: Path) -> Iterator[dict[str, str]]:
    """Wait for a free device, hold it meanwhile, and give the variable that names it to a child process.

    A device is free if the process that last took it is dead, be it of this study or of another one of the same user.
    A command that is run with `device_locks` keeps it until it ends, also if this process is killed.

    Args:
        resources: With the devices to choose from; nothing is waited for without.
        log: Told once what is waited for.
    Yields:
        What differs from this process's environment: CUDA_VISIBLE_DEVICES, and CUDA_DEVICE_ORDER where numbers are
        those of `nvidia-smi`; nothing without devices.
    """
    if not resources.takes_device:
        yield {}
        return
    files = {device: lock_of_device(device) for device in resources.devices}
    told = False
    while True:
        device = next((each for each, file in files.items() if claimed(file)), None)
        if device is not None:
            break
        if not told:
            holders = ", ".join(f"{each} ({read_lock(file) or 'just taken'})" for each, file in files.items())
            note(log, f"waits for a free device: {holders}")
            told = True
        time.sleep(_POLL_SECONDS)
    try:
        yield {DEVICES_VARIABLE: device, **_order()}
    finally:
        release(files[device])


def device_locks(resources: Resources, environment: dict[str, str]) -> tuple[Path, ...]:
    """Return the lock of the device that `device_environment` yielded, for `run_logged`; none if it yielded none."""
    device = environment.get(DEVICES_VARIABLE)
    return (lock_of_device(device),) if device is not None and resources.takes_device else ()


def lock_of_device(device: str) -> Path:
    """Return the lock file of a device of this machine, in a folder that only this user can write to.

    Args:
        device: As CUDA_VISIBLE_DEVICES names it; number and UUID of a device have the same file.
    Raises:
        InputError: If the folder is not this user's own.
    """
    name = _listed_devices().get(device, device)
    return _own_folder() / f"device-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.json"


def _order() -> dict[str, str]:
    """CUDA's own order has the fastest device first; numbers that a user has given mean his own order."""
    return {} if DEVICES_VARIABLE in os.environ or ORDER_VARIABLE in os.environ else {ORDER_VARIABLE: "PCI_BUS_ID"}


def _own_folder() -> Path:
    """Not XDG_RUNTIME_DIR: it is gone at the log-out, while trainings may go on, and cron has none."""
    folder = Path(tempfile.gettempdir()) / f"nnunet-attn-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise InputError(f"cannot make the folder {folder} ({error.strerror}): set TMPDIR to another place") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise InputError(
            f"{folder} has to be a folder of your own with mode 700, for the locks of devices; remove it, or set "
            "TMPDIR to another place"
        )
    return folder


@lru_cache(maxsize=1)
def _listed_devices() -> dict[str, str]:
    """Name -> UUID of all devices, of the parts of a device that is divided; empty without `nvidia-smi`."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return {}
    try:
        done = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return {}
    return parsed_devices(done.stdout) if done.returncode == 0 else {}


def parsed_devices(text: str) -> dict[str, str]:
    """Return number -> UUID from what `nvidia-smi -L` prints; for a divided GPU (MIG) its parts, UUID -> UUID."""
    found: dict[str, str] = {}
    number = ""
    for line in text.splitlines():
        if match := re.match(r"GPU (\d+):.*\(UUID: (GPU-[^)\s]+)\)", line):
            number = match[1]
            found[number] = match[2]
        elif match := re.match(r"\s+MIG .*\(UUID: (MIG-[^)\s]+)\)", line):
            found.pop(number, None)
            found[match[1]] = match[1]
    return found
