"""Writing a planned data set: in a temporary folder first, which gets its name when all is there and was checked."""

import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nnunet_attn.errors import InputError
from nnunet_attn.paths import NNUNET_FOLDERS, make_folder
from nnunet_attn.registering.describing import CASES_FILE
from nnunet_attn.registering.forms import size_of
from nnunet_attn.registering.integrity import check_integrity
from nnunet_attn.registering.making import make_case
from nnunet_attn.registering.model import MadeLabel
from nnunet_attn.registering.plan import PlannedCase, Progress, RegistrationPlan
from nnunet_attn.registering.workers import processes_for, run_all

_PREFIX = ".register-"
_LOCK = ".lock"


def check_target(raw_folder: Path, dataset_id: int, name: str) -> Path:
    """Return the folder that a new data set will be.

    Args:
        raw_folder: nnU-Net's raw folder; it need not be there yet.
        dataset_id: Number of the data set, 1 to 999.
        name: Its name after `DatasetNNN_`.
    Raises:
        InputError: If one of nnU-Net's folders holds a data set of this number; of a data set that was removed,
            nnU-Net would take the plans, images and results of the old one for the new one's.
    """
    target = raw_folder / f"Dataset{dataset_id:03d}_{name}"
    for folder in (raw_folder, *map(Path, filter(None, map(os.environ.get, NNUNET_FOLDERS)))):
        taken = sorted(folder.glob(f"Dataset{dataset_id:03d}_*"))
        if taken:
            raise InputError(f"{taken[0]} exists: choose another number, or remove that folder")
    return target


def write_registration(
    plan: RegistrationPlan,
    raw_folder: Path,
    processes: int = 4,
    progress: Progress | None = None,
    verify: bool = True,
) -> Path:
    """Write a data set in nnU-Net's raw format, complete or not at all, and return its folder.

    Args:
        plan: What `plan_registration` returned; its files must not change in between.
        raw_folder: nnU-Net's raw folder; made if missing.
        processes: Processes that write, one case at a time each.
        progress: Called with "write", the cases done, and all cases; then with "verify", 0 or 1, and 1.
        verify: Run nnU-Net's own check before the data set gets its name. It needs labels, so it is left out for a data
            set without.
    Raises:
        InputError: If a data set of this number exists, the disk is full, a file cannot be written or linked, or
            nnU-Net's check refuses the data set. Nothing is left behind.
    """
    report = progress or (lambda *_: None)
    request = plan.request
    target = check_target(raw_folder, request.dataset_id, request.name)
    make_folder(raw_folder)
    _remove_leftovers(raw_folder, target.name)
    _check_room(plan, raw_folder)
    with _temporary(raw_folder, target.name) as temporary:
        partial = temporary / target.name
        for name in sorted({file.split("/")[0] for case in plan.cases for file in _targets(case)}):
            (partial / name).mkdir(parents=True)
        jobs = [(case, partial, plan.reader, request.link, plan.value_map) for case in plan.cases]
        sizes = [(image.as_is, size_of(image.source)) for case in plan.cases for image in case.images]
        converted, whole = sum(size for as_is, size in sizes if not as_is), sum(size for _, size in sizes)
        report("write", 0, len(jobs))
        run_all(
            make_case,
            jobs,
            processes_for(len(jobs), converted, processes),
            lambda done: report("write", done, len(jobs)),
        )
        _write_json(partial / "dataset.json", plan.dataset_json)
        _write_json(partial / CASES_FILE, {"cases": {case.source.case: _record(case) for case in plan.cases}})
        if verify and not request.unlabeled:
            report("verify", 0, 1)
            check_integrity(partial, processes_for(len(jobs), whole, processes))
            report("verify", 1, 1)
        check_target(raw_folder, request.dataset_id, request.name)
        return partial.rename(target)


def _targets(case: PlannedCase) -> list[str]:
    files = [target for image in case.images for target in image.targets]
    return files + ([case.label.target] if case.label is not None else [])


def _check_room(plan: RegistrationPlan, raw_folder: Path) -> None:
    free = shutil.disk_usage(raw_folder).free
    if plan.total_bytes > free:
        raise InputError(
            f"{raw_folder} has {free / 2**20:,.1f} MiB free, and the data set needs about "
            f"{plan.total_bytes / 2**20:,.1f} MiB; make room, choose another disk, or link the files"
        )
    if plan.request.link != "hard":
        return
    device = raw_folder.stat().st_dev
    for case in plan.cases:
        files = [image.source for image in case.images if image.as_is]
        if case.label is not None and case.label.as_is and isinstance(case.label.source, Path):
            files.append(case.label.source)
        for file in files:
            if file.resolve().stat().st_dev != device:
                raise InputError(
                    f"{file} is on another disk than {raw_folder}, where no hard link can lead; "
                    "link symbolically, or copy"
                )


@contextmanager
def _temporary(raw_folder: Path, name: str) -> Iterator[Path]:
    """Make a folder that is gone at the end; its name says who writes there, for the next run to clean up after.

    A file in it is locked meanwhile: containers that share a folder and a host's name count processes apart.
    """
    prefix = f"{_PREFIX}{name}-{_host()}-{os.getpid()}-"
    try:
        with (
            tempfile.TemporaryDirectory(prefix=prefix, dir=raw_folder, ignore_cleanup_errors=True) as folder,
            (Path(folder) / _LOCK).open("wb") as lock,
        ):
            _lock(lock)
            yield Path(folder)
    except OSError as error:
        raise InputError(f"{raw_folder} cannot be written to ({error.strerror or error}); nothing was made") from error


def _remove_leftovers(raw_folder: Path, name: str) -> None:
    """Remove what earlier runs of this data set left on this machine when they were killed."""
    for folder in raw_folder.glob(f"{_PREFIX}{name}-{_host()}-*"):
        found = re.match(r"(\d+)-", folder.name.removeprefix(f"{_PREFIX}{name}-{_host()}-"))
        if found is not None and not _runs(int(found[1])) and not _locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed, or this process ends; False if another process holds it, or it cannot be."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # some network file systems know no locks
        return False
    return True


def _locked(folder: Path) -> bool:
    """Tell whether a process, in whatever container, may still write to a temporary folder."""
    try:
        with (folder / _LOCK).open("rb") as file:
            return not _lock(file)
    except OSError:  # it was just made, or this user may not look into it
        return True


def _runs(process: int) -> bool:
    if os.name != "posix":  # there, asking would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname())


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _record(case: PlannedCase) -> dict[str, Any]:
    source = case.source
    record: dict[str, Any] = {"patient": source.patient, "site": source.site, "test": source.test}
    record["images"] = [str(path.absolute()) for path in source.images]
    if case.label is not None:
        record["label"] = [str(path.absolute()) for path in _label_files(case.label.source)]
    return {**record, "actions": list(case.actions)}


def _label_files(label: Path | MadeLabel) -> tuple[Path, ...]:
    return (label,) if isinstance(label, Path) else label.files
