"""A data set without labels as nnU-Net wants it: a working data set of links and body masks beside the user's own."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from nnunet_attn.datasets.pseudo_labels import ENTRY, PSEUDO_LABELS_OF, pseudo_labels_of
from nnunet_attn.errors import InputError
from nnunet_attn.pretraining.body_mask import body_mask

LABELS = {"background": 0, "body": 1}
_CASES_A_WORKER = 8  # a process of its own takes seconds to start

Cases = Mapping[str, Sequence[Path]]


def image_cases(folder: Path, description: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Return the images of each training case of a raw data set, in order of their channels.

    Raises:
        InputError: If there are none, or a case has fewer channels than another.
    """
    ending = description["file_ending"]
    listed = description.get("dataset")
    cases: dict[str, list[Path]] = {}
    if isinstance(listed, Mapping):
        for case, files in listed.items():
            cases[case] = [folder / os.path.expandvars(file) for file in files["images"]]
    else:
        for file in sorted((folder / "imagesTr").glob(f"*{ending}")):
            match = re.fullmatch(r"(.+)_(\d{4})", file.name.removesuffix(ending))
            if match is not None:
                cases.setdefault(match[1], []).append(file)
    if not cases:
        raise InputError(
            f"{folder} has no images to learn from; put them into {folder / 'imagesTr'} as CASE_0000{ending}"
        )
    most = max(len(files) for files in cases.values())
    for case, files in cases.items():
        if len(files) != most:
            raise InputError(f"{folder}: case {case} has {len(files)} files and others {most}; add the missing channel")
    return cases


def why_unlabelled(folder: Path, description: Mapping[str, Any], cases: Cases) -> str | None:
    """Return why nnU-Net cannot use the labels of a raw data set; None if it can."""
    ending, listed = description["file_ending"], description.get("dataset")
    if isinstance(listed, Mapping):
        labels = [folder / os.path.expandvars(str(files.get("label"))) for files in listed.values()]
    else:
        labels = [folder / "labelsTr" / f"{case}{ending}" for case in cases]
    there = [file for file in labels if file.is_file()]
    if not there:
        return "it has no labels"
    if len(there) < len(labels):
        return f"{len(labels) - len(there)} of its {len(labels)} cases have no label"
    reader = _reader_of(description, cases)()
    # nnU-Net needs foreground somewhere; most often the first file has some
    if not any((reader.read_seg(str(file))[0] > 0).any() for file in there):
        return "its labels are zero everywhere"
    return None


def _reader_of(description: Mapping[str, Any], cases: Cases) -> Any:
    example = next(iter(cases.values()))[0]
    try:
        return determine_reader_writer_from_dataset_json(dict(description), str(example), verbose=False)
    except RuntimeError as error:
        raise InputError(f"{example} cannot be read by nnU-Net ({error})") from error


def working_dataset(
    folder: Path,
    description: Mapping[str, Any],
    cases: Cases,
    taken_ids: Callable[[], set[int]],
    workers: int = 1,
    on_case: Callable[[int], None] = lambda _: None,
) -> Path:
    """Return the working data set of a raw data set without labels, made whole if it is not there yet.

    It lies beside the data set in the highest free number: links to the images, body masks as labels. The data set
    itself stays as it is.

    Args:
        folder: The raw data set.
        description: Its dataset.json.
        cases: Its images.
        taken_ids: Gives the numbers that no new data set may have.
        workers: Processes that make masks.
        on_case: Called with the number of cases done.
    Raises:
        InputError: If an image is constant or not readable, the one that is there was made from other images, or no
            number is free.
    """
    made_from = {PSEUDO_LABELS_OF: folder.name, "files": stamps_of(cases)}
    found = find_working_dataset(folder)
    if found is not None:
        entry = json.loads((found / "dataset.json").read_text(encoding="utf-8"))[ENTRY]
        if entry != made_from:
            raise InputError(
                f"{found} was made from {folder.name}, whose images have changed since; remove it, and what "
                f"nnUNet_preprocessed and nnUNet_results have of {found.name}, and run again"
            )
        return found
    number = next((number for number in range(999, 0, -1) if number not in taken_ids()), None)
    if number is None:
        raise InputError("nnU-Net's numbers of data sets, 1 to 999, are all taken; remove a data set")
    name = f"Dataset{number:03d}_{folder.name.partition('_')[2]}BodyMask"
    with tempfile.TemporaryDirectory(prefix=".pretrain-", dir=folder.parent) as temporary:
        partial = Path(temporary) / name
        for part in ("imagesTr", "labelsTr"):
            (partial / part).mkdir(parents=True)
        _link_images(partial / "imagesTr", description["file_ending"], cases)
        _write_masks(partial / "labelsTr", description, cases, workers, on_case)
        kept = ("channel_names", "modality", "file_ending", "overwrite_image_reader_writer")
        content = {
            **{key: description[key] for key in kept if key in description},
            "labels": LABELS,
            "numTraining": len(cases),
            ENTRY: made_from,
        }
        (partial / "dataset.json").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        return partial.rename(folder.parent / name)


def find_working_dataset(folder: Path) -> Path | None:
    """Return the working data set that was made for a raw data set, None if there is none."""
    for file in sorted(folder.parent.glob("Dataset*/dataset.json")):
        try:
            made_for = pseudo_labels_of(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError):  # of other data sets, nothing is asked
            continue
        if made_for == folder.name:
            return file.parent
    return None


def stamps_of(cases: Cases) -> dict[str, list[list[int]]]:
    """Return size in bytes and time of change in ns of each case's images."""
    return {case: [[file.stat().st_size, file.stat().st_mtime_ns] for file in files] for case, files in cases.items()}


def _link_images(target: Path, ending: str, cases: Cases) -> None:
    for case, files in cases.items():
        for channel, file in enumerate(files):
            _link(file, target / f"{case}_{channel:04d}{ending}")
        # what nnU-Net reads the spacing of 3D TIFF images from
        spacing = files[0].parent / f"{case}.json"
        if spacing.is_file():
            _link(spacing, target / spacing.name)


def _link(file: Path, target: Path) -> None:
    try:
        target.symlink_to(file.resolve())
    except OSError:  # where one may not make links
        shutil.copyfile(file, target)


def _write_masks(
    target: Path, description: Mapping[str, Any], cases: Cases, workers: int, on_case: Callable[[int], None]
) -> None:
    reader = _reader_of(description, cases)
    jobs = [(reader, list(files), target / f"{case}{description['file_ending']}") for case, files in cases.items()]
    workers = min(workers, len(jobs) // _CASES_A_WORKER)
    if workers < 2:
        for done, job in enumerate(jobs, start=1):
            _write_mask(*job)
            on_case(done)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for done, future in enumerate(as_completed([pool.submit(_write_mask, *job) for job in jobs]), start=1):
                future.result()
                on_case(done)
        except BrokenProcessPool as error:
            raise InputError(
                "a process that makes body masks was ended from outside, most often for want of memory; "
                "give fewer processes: --npp 1"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write_mask(reader: Any, files: Sequence[Path], target: Path) -> None:
    named = ", ".join(map(str, files))
    try:
        image, properties = reader().read_images([str(file) for file in files])
    except Exception as error:  # a damaged file makes a reader raise anything
        raise InputError(f"{named} cannot be read ({error}); mend or remove this case") from error
    try:
        mask = body_mask(image)
    except ValueError as error:
        raise InputError(f"{named}: {error}; remove this case from imagesTr") from error
    reader().write_seg(mask, str(target), properties)
