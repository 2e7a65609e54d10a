"""Medical Segmentation Decathlon: any of its tasks, and two of them with one foreground label."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError
from nnunet_attn.json_files import read_object
from nnunet_attn.registering.layouts.contract import LayoutData, LayoutOptions
from nnunet_attn.registering.layouts.trees import (
    PaperSplit,
    divided,
    find_root,
    missing_tree,
    named_files,
    no_choice,
    paired,
    shown,
)
from nnunet_attn.registering.model import SourceCase

NAME = "msd"
URL = "http://medicaldecathlon.com"


def read(folder: Path, options: LayoutOptions) -> LayoutData:
    """Read `TaskNN_Name`: `imagesTr`, `labelsTr`, `dataset.json`, and `imagesTs` if there.

    Names of channels and labels are those of its dataset.json. Images of several channels are 4D files.

    Raises:
        InputError: If the folder is another tree, a case is incomplete, dataset.json is damaged, or an option does not
            fit.
    """
    return _read(folder, options, NAME)


def read_binary(
    folder: Path, options: LayoutOptions, layout: str, parts: frozenset[str], label: str, paper: PaperSplit
) -> LayoutData:
    """Read a task, with all its labels as one.

    Args:
        folder: As of `read`.
        options: As of `read`.
        layout: Name of this layout.
        parts: Names that the task's labels must have, in small letters.
        label: Name of the one label.
        paper: How many cases were used.
    Raises:
        InputError: As of `read`, or if the task has other labels.
    """
    data = _read(folder, options, layout, paper)
    found = {name.lower() for name in data.labels} - {"background"}
    if found != parts:
        raise InputError(
            f"{folder}: layout {layout} has the labels {shown(parts)}, this task {shown(found)}; give the folder of "
            "the right task, or use layout msd"
        )
    return LayoutData(
        data.cases,
        data.channel_names,
        {"background": 0, label: 1},
        {value: int(value > 0) for value in data.value_map},
        reference=data.reference,
        licence=data.licence,
        notes=data.notes,
    )


read_binary_hippocampus = partial(
    read_binary,
    layout="binary-hippocampus",
    parts=frozenset({"anterior", "posterior"}),
    label="hippocampus",
    paper=PaperSplit("the patch transformer's paper", 220, 40),
)

read_binary_pancreas = partial(
    read_binary,
    layout="binary-pancreas",
    parts=frozenset({"pancreas", "cancer"}),
    label="pancreas",
    paper=PaperSplit("the patch transformer's paper", 231, 50),
)


def _read(folder: Path, options: LayoutOptions, layout: str, paper: PaperSplit | None = None) -> LayoutData:
    no_choice(options, layout)
    root = find_root(folder, ("imagesTr", "labelsTr", "dataset.json"), layout)
    description = read_object(root / "dataset.json", "unpack it again")
    channels = _ordered_names(root, description, "modality")
    names = _ordered_names(root, description, "labels")
    images, labels = named_files(root / "imagesTr"), named_files(root / "labelsTr")
    if not images:
        raise missing_tree(root, "imagesTr/*.nii.gz", layout)
    _check_complete(root, description, images)
    pairs = paired(images, labels, f"{root}/labelsTr/{{case}}.nii.gz", f"{root}/imagesTr/{{case}}.nii.gz")
    several = len(channels) > 1
    cases = [SourceCase(name, (image,), label, channels_in_file=several) for name, image, label in pairs]
    cases += [
        SourceCase(name, (image,), test=True, channels_in_file=several)
        for name, image in named_files(root / "imagesTs").items()
    ]
    kept, notes = divided(cases, options, paper)
    return LayoutData(
        kept,
        channels,
        {name: value for value, name in enumerate(names)},
        {value: value for value in range(len(names))},
        reference=_text(description, "reference") or URL,
        licence=_text(description, "licence"),
        notes=notes,
        name=re.sub(r"\W+", "_", root.name.partition("_")[2]) or None,
    )


def _ordered_names(root: Path, description: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the names that dataset.json gives to 0, 1, 2, ..."""
    entries = description.get(key)
    numbered = isinstance(entries, dict) and {str(number) for number in range(len(entries))} == entries.keys()
    names = [str(entries[str(number)]) for number in range(len(entries))] if entries and numbered else []
    if not names or len(set(names)) < len(names) or (key == "labels" and names[0] != "background"):
        raise InputError(
            f"{root / 'dataset.json'}: {key!r} is {entries!r}; the decathlon's names 0, 1, 2, ... one by one"
            f"{', background first' * (key == 'labels')}: give the folder of a task as it was unpacked"
        )
    return tuple(names)


def _check_complete(root: Path, description: Mapping[str, Any], images: Mapping[str, Path]) -> None:
    """Refuse a folder that lacks images which its dataset.json lists."""
    entries = description.get("training") or []
    listed: list[str] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        name = entry.get("image") if isinstance(entry, dict) else None
        listed += [name] if isinstance(name, str) else []
    if not isinstance(entries, list) or len(listed) < len(entries):
        raise InputError(
            f"{root / 'dataset.json'}: 'training' is no list of images and labels; give the folder of a task as it was "
            "unpacked"
        )
    missing = [name for name in listed if Path(name).name.removesuffix(".nii.gz") not in images]
    if missing:
        raise InputError(
            f"{root}: {len(missing)} of the {len(listed)} training images that dataset.json lists are missing "
            f"({shown(missing)}); unpack all of the download"
        )


def _text(description: Mapping[str, Any], key: str) -> str | None:
    value = description.get(key)
    return value if isinstance(value, str) and value else None
