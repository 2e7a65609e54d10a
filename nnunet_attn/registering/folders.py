"""Cases from folders: what files of one name, or of names that differ in a suffix, have to do with each other."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import SimpleITK as sitk

from nnunet_attn.errors import InputError
from nnunet_attn.registering.faults import check_path
from nnunet_attn.registering.locales import kept_locale
from nnunet_attn.registering.model import SourceCase
from nnunet_attn.registering.naming import (
    WITHOUT_IMAGE,
    Found,
    LeftOut,
    counted,
    finished,
    is_image_name,
    label_names,
    matched_labels,
    ordered_channels,
    refuse,
    stem,
)

_SERIES_UID = "0020|000e"
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_Way = dict[str, tuple[Path, ...]]


def from_folders(
    images: Sequence[Path],
    labels: Path | None = None,
    channels: Sequence[str] | None = None,
    test_images: Sequence[Path] | None = None,
    test_labels: Path | None = None,
    leave_out: Sequence[str] = (),
) -> Found:
    """Find the cases of folders: a case is called as its files, without ending.

    A single folder may hold several channels, told apart by nnU-Net's `_0000`, `_0001`, ...; with several folders each
    holds one. A sub-folder is a DICOM series. A label has the name of its image, or that with a common suffix such as
    `_seg`, `_mask` or `-label`, where no other label could be meant.

    Args:
        images: Folders, one a channel.
        labels: Folder of label maps.
        channels: Names of the channels; only checked against the number of folders.
        test_images: Folders of held-out images.
        test_labels: Folder of their label maps. None: they may be in `labels`.
        leave_out: Cases that are not wanted; they may lack a channel, their label or their image.
    Raises:
        InputError: If a folder is missing or holds no images, a case lacks a channel, or a label fits no image or the
            same as another one.
    """
    if test_labels and not test_images:
        raise InputError("--test-labels goes with --test-images: name the folder of the held-out images")
    notes: list[str] = []
    left_out = LeftOut(leave_out)
    marks = _entries(labels, notes) if labels else {}
    test_marks = _entries(test_labels, notes) if test_labels else marks
    tested = _part(test_images, test_marks, notes, left_out) if test_images else []
    trained = _part(images, marks, notes, left_out)
    used = {label for _, _, label in (*trained, *tested)}
    files = [*marks.values(), *(test_marks.values() if test_labels else [])]
    unused = [file for file in files if file not in used and not any(map(left_out.drops, label_names(_name(file))))]
    if unused and len(unused) == len(files):
        raise InputError(
            f"no label in {unused[0].parent} has the name of an image: labels are called {_some(map(_name, files))}, "
            f"images {_some(case for case, _, _ in trained)}; say how names belong together by --pattern and "
            "--label-pattern, or by --csv"
        )
    refuse("labels", [f"{file} is a label without image{WITHOUT_IMAGE}" for file in unused])
    width = max((len(files) for case, files, _ in trained if not left_out.names(case)), default=1)
    names = ordered_channels([str(n) for n in range(width)] if width > 1 else [""], channels, "the source")[1]
    cases = [SourceCase(*each, test=test) for test, part in ((False, trained), (True, tested)) for each in part]
    return finished(cases, names, splits=bool(tested), notes=notes, left_out=left_out)


def _part(
    folders: Sequence[Path], marks: Mapping[str, Path], notes: list[str], left_out: LeftOut
) -> list[tuple[str, tuple[Path, ...], Path | None]]:
    """Return name, images and label of each case."""
    listings = [_entries(folder, notes) for folder in folders]
    both = {file.parent.resolve() for file in marks.values()} & {folder.resolve() for folder in folders}
    if both:
        folder = both.pop()
        raise InputError(
            f"{folder} is the folder of the images and of the labels: say which files are which, for example "
            f"--pattern '{folder}/{{case}}.png' --label-pattern '{folder}/{{case}}_mask.png'"
        )
    if len(listings) == 1:
        way = _ways_of_one(listings[0], marks, left_out)
    else:
        way = _ways_of_many(folders, listings, marks, left_out)
    found = matched_labels(way, marks)
    refuse(
        "labels",
        [
            f"{case}: {files[0]} and {files[1]} could both be its label; keep one"
            for case, files in found.items()
            if len(files) > 1 and not left_out.names(case)
        ],
    )
    return [(case, files, found[case][0] if case in found else None) for case, files in way.items()]


def _name(file: Path) -> str:
    return stem(file.name)


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3])


def series_folder(folder: Path) -> Path:
    """Return the folder that holds the files: that below, as long as there is nothing else in it.

    Raises:
        InputError: If a folder cannot be read.
    """
    while True:
        entries = _visible(folder)
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): allow it, or leave it out") from error


def _entries(folder: Path, notes: list[str]) -> dict[str, Path]:
    """Return the images of a folder, or its sub-folders, by name without ending."""
    # os.path: a folder above that may not be read is no error there
    if not os.path.isdir(folder):
        state = "is not a folder" if os.path.exists(folder) else "does not exist"
        raise InputError(f"{folder} {state}: name the folder of the files")
    entries = _visible(folder)
    files = [entry for entry in entries if not entry.is_dir()]
    folders = [entry for entry in entries if entry.is_dir()]
    images = [file for file in files if is_image_name(file.name)]
    if images and folders:
        raise InputError(
            f"{folder} holds files ({images[0].name}) and folders ({folders[0].name}): take one kind out, or name the "
            "images by --pattern"
        )
    if not images and not folders:
        if files:
            raise InputError(
                f"{folder} holds no image of a known ending, but {files[0].name}: a DICOM series is a sub-folder each"
            )
        raise InputError(f"{folder} is empty: name the folder that holds the files")
    slices = [image for image in images if image.name.lower().endswith(".dcm")][:2]
    if len(slices) == 2 and _series(slices[0]) == _series(slices[1]) != "":
        raise InputError(
            f"{folder} holds slices of one DICOM series ({slices[0].name}, {slices[1].name}): give each series a "
            "folder of its own, and name the folder above"
        )
    others = [file.name for file in files if file not in images]
    if others:
        shown = others[0].encode("utf-8", "backslashreplace").decode()  # a name need not be text
        notes.append(f"left out as no images: {counted(len(others), 'file')} in {folder}, such as {shown}")
    found = {entry.name: series_folder(entry) for entry in folders}
    deep = {name: [each.name for each in _visible(series) if each.is_dir()] for name, series in found.items()}
    refuse(
        "cases",
        [
            f"{name}: {found[name]} holds the folders {', '.join(below[:3])}, and only one series is meant; say which "
            f"by --pattern, for example '{folder}/{{case}}/{below[0]}'"
            for name, below in deep.items()
            if below
        ],
    )
    for file in images:
        other = found.setdefault(stem(file.name), file)
        if other != file:
            raise InputError(f"{other} and {file} would be the same case: keep one of them")
    return found


@kept_locale()
def _series(file: Path) -> str:
    """Return what DICOM files of one series share; nothing if it cannot be read, which is for the reading to say."""
    check_path(file)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        return reader.GetMetaData(_SERIES_UID)
    except RuntimeError:
        return ""


def _ways_of_one(listing: Mapping[str, Path], marks: Mapping[str, Path], left_out: LeftOut) -> _Way:
    """Read the names of one folder in the way under which most labels fit; channels first."""
    plain: _Way = {name: (file,) for name, file in listing.items()}
    numbered: dict[str, dict[int, Path]] = {}
    for name, file in listing.items():
        parts = _CHANNEL.fullmatch(name)
        if parts is not None and file.is_file():
            numbered.setdefault(parts[1], {})[int(parts[2])] = file
    if sum(map(len, numbered.values())) < len(listing):
        return _fitting_most([plain, _without_suffix(plain)], marks)
    fit = {kind: len(matched_labels(names, marks)) for kind, names in (("channels", numbered), ("plain", plain))}
    first = sum(0 in files for files in numbered.values())
    if fit["plain"] > fit["channels"] or (fit["plain"] == fit["channels"] and 2 * first <= len(numbered)):
        return plain
    if len(numbered) == 1 and len(listing) > 1 and not fit["channels"]:
        raise InputError(
            f"{next(iter(listing.values())).parent}: its {len(listing)} files could be the channels of one case or a "
            "case each; say which by --pattern, for example "
            f"--pattern '{next(iter(listing.values())).parent}/{{case}}{_ending(listing)}'"
        )
    wanted = range(max((len(files) for case, files in numbered.items() if not left_out.names(case)), default=0))
    refuse(
        "cases",
        [
            f"{case}: it has the channels {', '.join(f'{n:04d}' for n in sorted(files))}, other cases "
            f"{', '.join(f'{n:04d}' for n in wanted)}; add what is missing, or leave the case out"
            for case, files in numbered.items()
            if sorted(files) != list(wanted) and not left_out.names(case)
        ],
    )
    return {case: tuple(files[n] for n in sorted(files)) for case, files in numbered.items()}


def _ways_of_many(
    folders: Sequence[Path], listings: Sequence[Mapping[str, Path]], marks: Mapping[str, Path], left_out: LeftOut
) -> _Way:
    """Join the folders of several channels by their files' names, without what all names of a folder end with."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"--images names {folders[0]} twice: one folder a channel, or one folder with _0000, _0001")
    numbered = [
        {name.removesuffix(f"_{channel:04d}"): file for name, file in listing.items()}
        for channel, listing in enumerate(listings)
    ]
    shorter = [
        {name: files[0] for name, files in _without_suffix({name: (file,) for name, file in listing.items()}).items()}
        for listing in listings
    ]
    every_way = (listings, numbered, shorter)
    # what is left out may be anywhere
    ways = [
        way
        for way in every_way
        if len({frozenset(name for name in names if not left_out.names(name)) for names in way}) == 1
    ]
    if ways:
        joined = [
            {case: tuple(names[case] for names in way if case in names) for names in way for case in names}
            for way in ways
        ]
        return _fitting_most(joined, marks)
    best = max(every_way, key=lambda way: len(set.intersection(*map(set, way))))
    every = sorted(set.union(*map(set, best)))
    refuse(
        "cases",
        [
            f"{case}: it has no image in {folder}; add it, or leave the case out"
            for case in every
            for folder, names in zip(folders, best, strict=True)
            if case not in names and not left_out.names(case)
        ],
    )
    raise AssertionError("all folders hold the same cases")


def _without_suffix(way: _Way) -> _Way:
    """Take what all names end with, from a separator on, off the names."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*(name[::-1] for name in way), strict=False))
    ends = "".join(letters[0] for letters in same)[::-1]
    separator = re.search(r"[_\-. ]", ends)
    if len(way) < 2 or separator is None:
        return way
    return {name[: len(name) - len(ends) + separator.start()]: files for name, files in way.items()}


def _fitting_most(ways: Sequence[_Way], marks: Mapping[str, Path]) -> _Way:
    return max(ways, key=lambda way: len(matched_labels(way, marks)))


def _ending(listing: Mapping[str, Path]) -> str:
    name, file = next(iter(listing.items()))
    return file.name.removeprefix(name)
