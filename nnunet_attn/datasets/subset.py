"""A smaller data set from a larger one in nnU-Net's raw format: its first cases, and held-out ones behind them."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError

# What nnU-Net's NaturalImage2DIO reads: all channels of a colour image from one file.
COLOUR_ENDINGS = (".png", ".bmp", ".tif")


def read_description(source: Path) -> dict[str, Any]:
    """Return the content of `dataset.json` of a data set in nnU-Net's raw format.

    Raises:
        InputError: If the folder is not called DatasetNNN_Name, or its dataset.json is missing, broken, or lacks
            `channel_names`, `labels` or `file_ending`.
    """
    name = dataset_name(source)
    if not re.fullmatch(r"Dataset(?!000)\d{3}_.+", name):
        raise InputError(
            f"{source}: nnU-Net's data sets are called DatasetNNN_Name, such as Dataset004_Hippocampus; "
            "name such a folder"
        )
    file = source / "dataset.json"
    if not file.is_file():
        raise InputError(f"{source} is no data set in nnU-Net's raw format: it has no dataset.json")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}): mend it") from error
    wanted = {"channel_names": dict, "labels": dict, "file_ending": str}
    for key, kind in wanted.items():
        value = description.get(key) if isinstance(description, dict) else None
        if not isinstance(value, kind) or not value:
            raise InputError(f"{file}: nnU-Net needs {key!r} in it; got {value!r}")
    return description


def dataset_name(source: Path) -> str:
    """Return the folder's own name, also of a relative path or a link."""
    return os.path.basename(os.path.abspath(source))


def case_images(source: Path, description: Mapping[str, Any], label: Path) -> list[Path]:
    """Return the images of a labelled training case, in order of their channels.

    Args:
        source: Data set in nnU-Net's raw format.
        description: Its dataset.json.
        label: File of the case in `labelsTr`.
    Raises:
        InputError: If one is missing.
    """
    ending = description["file_ending"]
    case = label.name.removesuffix(ending)
    channels = len(description["channel_names"])
    if ending in COLOUR_ENDINGS and not (source / "imagesTr" / f"{case}_0001{ending}").is_file():
        channels = 1  # red, green and blue in one file
    images = [source / "imagesTr" / f"{case}_{channel:04d}{ending}" for channel in range(channels)]
    for image in images:
        if not image.is_file():
            raise InputError(f"{image} is missing: {label.name} has a label, but not every channel's image")
    return images


def copy_cases(source: Path, raw_folder: Path, count: int, held_out: int = 0) -> Path:
    """Copy the first cases of a data set, complete or not at all, and return the new folder, which has its name.

    Args:
        source: Data set in nnU-Net's raw format; not changed.
        raw_folder: nnU-Net's raw folder to copy to; made if missing.
        count: Labelled cases that go to `imagesTr`, `labelsTr`, in order of their names.
        held_out: The labelled cases behind those, which go to `imagesTs`, `labelsTs`.
    Raises:
        InputError: If `source` is no data set, has fewer labelled cases or not every image of a case, or a data set of
            its name exists in `raw_folder`.
    """
    description = read_description(source)
    name, ending = dataset_name(source), description["file_ending"]
    if count < 1 or held_out < 0:
        raise InputError(f"count={count}, held_out={held_out}: at least 1 case is copied, and none or more held out")
    target = raw_folder / name
    if target.exists():
        raise InputError(f"{target} exists: choose another folder, or remove that one")
    labels = sorted((source / "labelsTr").glob(f"*{ending}"))
    if len(labels) < count + held_out:
        raise InputError(f"{source} has {len(labels)} labelled cases, not {count + held_out}: ask for fewer")
    raw_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".subset-", dir=raw_folder) as temporary:
        partial = Path(temporary) / name
        for suffix, chosen in {"Tr": labels[:count], "Ts": labels[count : count + held_out]}.items():
            (partial / f"images{suffix}").mkdir(parents=True)
            (partial / f"labels{suffix}").mkdir()
            for label in chosen:
                shutil.copy(label, partial / f"labels{suffix}")
                for image in case_images(source, description, label):
                    shutil.copy(image, partial / f"images{suffix}")
        content = json.dumps({**description, "numTraining": count}, indent=4)
        (partial / "dataset.json").write_text(content + "\n", encoding="utf-8")
        return partial.rename(target)
