"""Devices that processes take from each other, and the variables of a job."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.study.engine import devices
from nnunet_attn.study.engine.devices import (
    Resources,
    device_environment,
    device_locks,
    lock_of_device,
    parsed_devices,
    visible_devices,
    worker_environment,
)
from nnunet_attn.study.engine.locks import holder_lives, own_lock, read_lock
from nnunet_attn.study.engine.processes import run_logged

LISTED = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5d1c9a2e-0000-1111-2222-333344445555)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
  MIG 3g.20gb     Device  0: (UUID: MIG-1111)
  MIG 3g.20gb     Device  1: (UUID: MIG-2222)
"""
FIRST = "GPU-5d1c9a2e-0000-1111-2222-333344445555"

JOB = """
import sys
from pathlib import Path
from nnunet_attn.study.engine.devices import *
from nnunet_attn.study.engine.processes import run_logged
log = Path(sys.argv[1])
resources = Resources("cuda", 1, ("7",))
with device_environment(resources, log) as environment:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    run_logged([sys.executable, "-c", code], log, environment, device_locks(resources, environment))
"""


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder and a list of devices of this test alone."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(devices, "_listed_devices", lambda: parsed_devices(LISTED))
    monkeypatch.setattr(devices, "_POLL_SECONDS", 0.02)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_devices_are_those_that_cuda_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible_devices() == ("0", "MIG-1111", "MIG-2222")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 0,-1,2")
    assert visible_devices() == ("1", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_devices() == ()


def test_nvidia_smi_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    devices._listed_devices.cache_clear()
    assert visible_devices() == ()
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\necho '{LISTED}'\n")
    smi.chmod(0o755)
    devices._listed_devices.cache_clear()
    try:
        assert visible_devices() == ("0", "MIG-1111", "MIG-2222")
        smi.unlink()
        assert visible_devices() == ("0", "MIG-1111", "MIG-2222")
    finally:
        devices._listed_devices.cache_clear()


def test_number_and_uuid_of_a_device_have_the_same_lock(tmp_path: Path) -> None:
    file = lock_of_device("0")
    assert file == lock_of_device(FIRST)
    assert file.name == f"device-{FIRST}.json"
    assert file != lock_of_device("MIG-1111")
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert lock_of_device("../7").parent == file.parent


@pytest.mark.parametrize("made", ["open", "link", "file"])
def test_a_folder_that_others_might_have_made_is_not_trusted(tmp_path: Path, made: str) -> None:
    folder = tmp_path / "temporary" / f"nnunet-attn-{os.getuid()}"
    if made == "open":
        folder.mkdir()
        folder.chmod(0o777)
    elif made == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.touch()
    with pytest.raises(InputError, match="TMPDIR"):
        lock_of_device("0")


def test_jobs_that_need_no_device_wait_for_none(tmp_path: Path) -> None:
    for resources in (Resources("cpu", 2, ("0",)), Resources("mps", 2, ("0",)), Resources("cuda", 2)):
        with device_environment(resources, tmp_path / "log.txt") as environment:
            assert environment == {}
            assert device_locks(resources, environment) == ()
    assert not list((tmp_path / "temporary").iterdir())


def test_each_job_has_a_device_of_its_own_and_the_third_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, resources = tmp_path / "log.txt", Resources(None, 2, ("0", "MIG-1111"))
    entered = threading.Event()
    took: list[str] = []

    def third() -> None:
        with device_environment(resources, log) as environment:
            took.append(environment["CUDA_VISIBLE_DEVICES"])
            entered.set()

    # threads have one process number, so that locks cannot tell them apart: the others' devices are another process's
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    text = f'{{"pid": {holder.pid}, "host": "{own_lock(log).host}"}}'
    for device in resources.devices:
        lock_of_device(device).write_text(text)
    waiting = threading.Thread(target=third)
    waiting.start()
    _until(log.exists)
    time.sleep(0.1)
    assert not entered.is_set()
    (line,) = log.read_text().splitlines()
    assert f"waits for a free device: 0 (process {holder.pid} on " in line
    holder.communicate(b"\n")
    assert entered.wait(20)
    waiting.join()
    assert took == ["0"]
    assert not lock_of_device("0").exists()


def test_numbers_are_those_of_nvidia_smi_unless_the_user_gave_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = Resources("cuda", 2, ("0",))
    with device_environment(resources, tmp_path / "log.txt") as environment:
        assert environment == {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        assert read_lock(lock_of_device("0")) == own_lock(lock_of_device("0"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with device_environment(resources, tmp_path / "log.txt") as environment:
        assert environment == {"CUDA_VISIBLE_DEVICES": "0"}


@pytest.mark.kill
def test_a_device_is_taken_until_the_training_ends_even_if_its_job_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    job = subprocess.Popen([sys.executable, "-c", JOB, str(log)], env=environment)
    _until(lambda: log.exists() and log.read_text().endswith("\n"))
    file = lock_of_device("7")
    job.kill()
    job.wait()
    lock = read_lock(file)
    assert lock is not None
    assert lock.pid == int(log.read_text())
    assert holder_lives(lock)
    os.killpg(lock.pid, signal.SIGKILL)
    with device_environment(Resources("cuda", 1, ("7",)), log) as taken:
        assert taken["CUDA_VISIBLE_DEVICES"] == "7"
        assert holder_lives(lock) is False


def test_a_device_is_free_after_the_command(tmp_path: Path) -> None:
    log, resources = tmp_path / "log.txt", Resources("cuda", 1, ("0",))
    with device_environment(resources, log) as environment:
        code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
        locks = device_locks(resources, environment)
        assert run_logged([sys.executable, "-c", code], log, environment, locks) == 0
    assert log.read_text() == "0\n"
    assert not lock_of_device("0").exists()


def test_variables_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "nnUNet_n_proc_DA", "nnUNet_def_n_proc", "PYTHON_CPU_COUNT"):
        monkeypatch.delenv(name, raising=False)
    one = worker_environment(Resources("cpu", 1))
    assert (one["nnUNet_n_proc_DA"], one["nnUNet_def_n_proc"], one["OMP_NUM_THREADS"]) == ("0", "1", "1")
    assert one["OMP_WAIT_POLICY"] == "PASSIVE"
    many = worker_environment(Resources("cpu", 16))
    assert (many["nnUNet_n_proc_DA"], many["nnUNet_def_n_proc"], many["OMP_NUM_THREADS"]) == ("4", "8", "16")
    gpu = worker_environment(Resources(None, 8))
    assert (gpu["nnUNet_n_proc_DA"], gpu["nnUNet_def_n_proc"], gpu["OMP_NUM_THREADS"]) == ("7", "8", "1")
    assert "OMP_WAIT_POLICY" not in gpu
    assert worker_environment(Resources("cuda", 1))["nnUNet_n_proc_DA"] == "1"
    assert worker_environment(Resources("cuda", 64))["nnUNet_n_proc_DA"] == "12"


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "5")
    assert "nnUNet_n_proc_DA" not in worker_environment(Resources("cpu", 4))
