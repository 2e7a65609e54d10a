"""Predictions as files: which are whole, what they were made from, and the folder that is there when it is complete.

While it is predicted, a folder `NAME` is called `.NAME.part`. A run that was killed leaves it, and the next run goes
on from the predictions in it that are whole.
"""

import contextlib
import gzip
import json
import os
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from nnunet_attn.errors import InputError
from nnunet_attn.paths import make_folder

RECORD_FILE = "predict_test.json"


@dataclass(frozen=True)
class Made:
    """What predictions are made from.

    Args:
        model: Settings and checkpoints; JSON values.
        cases: Case -> sizes and modification times of the files it is predicted from.
    """

    model: Mapping[str, Any]
    cases: Mapping[str, list[int]]


def made_record(settings: Mapping[str, Any], checkpoints: Sequence[Path], inputs: Mapping[str, Sequence[Path]]) -> Made:
    """Return the record of what predictions will be made from.

    Raises:
        InputError: If a file cannot be read.
    """
    return Made(
        {**settings, "state of the checkpoints": _stamp(checkpoints)},
        {case: _stamp(files) for case, files in inputs.items()},
    )


def record_of(folder: Path) -> Made | None:
    """Return what the predictions in a folder were made from; None if nothing that can be read tells."""
    try:
        content = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        return Made(dict(content["model"]), dict(content["cases"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(folder: Path, made: Made) -> None:
    """Write what the predictions in a folder are made from.

    Raises:
        InputError: If it cannot be written.
    """
    partial = folder / f".{RECORD_FILE}.part"
    try:
        partial.write_text(json.dumps(asdict(made), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, folder / RECORD_FILE)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); free or allow it") from error


def working_folder(output: Path) -> Path:
    """Return what a folder is called until its predictions are complete."""
    return output.with_name(f".{output.name}.part")


def is_up_to_date(output: Path, made: Made, ending: str) -> bool:
    """Return whether a folder holds the predictions of all cases, made from the files as they are."""
    return record_of(output) == made and all((output / f"{case}{ending}").is_file() for case in made.cases)


def begin(output: Path, made: Made, ending: str, overwrite: bool) -> Path:
    """Return the working folder of an output folder, with those of its predictions that can be kept.

    Args:
        output: Folder of the predictions; its own are taken over if it is there, unless `overwrite`.
        made: What they are to be made from; what was made from something else is removed.
        ending: Of the predictions' names.
        overwrite: Begin anew, or go on with what an earlier run began anew; `output` stays until all is predicted.
    Raises:
        InputError: If the folder cannot be made or written to.
    """
    working = working_folder(output)
    before = record_of(working)
    # both are there only where an earlier run was to overwrite, and did not come to its end
    is_unwanted = overwrite and not output.exists()
    if working.exists() and (is_unwanted or before is None or before.model != made.model):
        shutil.rmtree(working)
        before = None
    if not working.exists() and not overwrite and record_of(output) is not None:
        before = record_of(output)
        output.rename(working)
    make_folder(working)
    known = before.cases if before is not None else {}
    changed = {case for case in {*known, *made.cases} if known.get(case) != made.cases.get(case)}
    for folder in [working, *(path for path in working.iterdir() if path.is_dir())]:
        for case in changed:
            for each in (ending, ".npz", ".pkl"):
                (folder / f"{case}{each}").unlink(missing_ok=True)
    write_record(working, made)
    return working


def finish(working: Path, output: Path) -> None:
    """Give a complete working folder its name; what was called so before is removed."""
    old = output.with_name(f".{output.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if output.exists():
        output.rename(old)
    working.rename(output)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Keep other runs of this command away from an output folder; the end of the process, however it comes, ends it.

    Raises:
        InputError: If another run has it, or the folder above it cannot be made or written to.
    """
    make_folder(output.parent)
    try:
        import fcntl
    except ImportError:  # Windows: there a second run is not noticed
        yield
        return
    file = output.with_name(f".{output.name}.lock")
    is_ours = False
    while not is_ours:
        with file.open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another run of this command predicts into {output}; wait until it has ended"
                ) from error
            except OSError:  # a file system without locks
                pass
            # a run that ends between our opening and locking has removed this file, and the next one makes another
            is_ours = _is_still(file, stream.fileno())
            if is_ours:
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)


def _is_still(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def whole_predictions(
    folder: Path, cases: Iterable[str], ending: str, reader: type[Any], probabilities: bool
) -> set[str]:
    """Return the cases whose prediction in a folder is whole, and remove the files of the others.

    A process that is killed while it writes leaves a file that ends too early, which nnU-Net would take for done.

    Args:
        folder: Folder of predictions.
        cases: Names to look for.
        ending: Of the predictions.
        reader: nnU-Net's class that reads them.
        probabilities: Whether each has to have its probabilities beside it.
    """
    found = set()
    for case in cases:
        files = [folder / f"{case}{each}" for each in (ending, *((".npz", ".pkl") if probabilities else ()))]
        if all(file.is_file() for file in files) and is_whole(files[0], reader) and _are_whole(*files[1:]):
            found.add(case)
        else:
            for file in files:
                file.unlink(missing_ok=True)
    return found


def is_whole(file: Path, reader: type[Any]) -> bool:
    """Return whether a label file can be read to its end."""
    try:
        if file.name.endswith(".gz"):
            with gzip.open(file) as stream:  # its checksum is at the end
                while stream.read(1 << 22):
                    pass
            return file.stat().st_size > 0
        if file.name.endswith(".nii"):  # where SimpleITK reads zeros behind the end
            np.asanyarray(nibabel.load(file).dataobj)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            reader().read_seg(str(file))
        return True
    except (EOFError, OSError, zlib.error):
        return False
    except Exception:  # each of nnU-Net's readers fails with errors of its own
        return False


def _are_whole(*probabilities: Path) -> bool:
    """nnU-Net writes them before the segmentation: what a full disk or a crash can have spoilt is seen at the end."""
    if not probabilities:
        return True
    values, properties = probabilities
    try:
        with properties.open("rb") as stream:
            pickle.load(stream)
    except Exception:  # unpickling a file that ends too early can fail with anything
        return False
    return zipfile.is_zipfile(values)


def _stamp(files: Sequence[Path]) -> list[int]:
    try:
        stats = [file.stat() for file in files]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); mend it") from error
    return [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]
