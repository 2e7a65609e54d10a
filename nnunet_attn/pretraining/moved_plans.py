"""Plans of the data set to fine-tune on, for the images of another one; and what was preprocessed by which plans."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_attn.training.extent import EXTENT_KEY, PLANS_KEY

# what a plan's configuration says about images; the rest is about networks and batches
_ABOUT_IMAGES = (
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    *(f"resampling_fn_{what}{end}" for what in ("data", "seg") for end in ("", "_kwargs")),
)


def moved_name(plans_name: str, dataset_id: int) -> str:
    """Return the name of a data set's plans on other images."""
    return f"{plans_name}_for_{dataset_id:03d}"


def same_plans(plans: Mapping[str, Any], moved: Mapping[str, Any]) -> bool:
    """Return whether plans that were moved between data sets still say what those say that they were moved from."""
    return _comparable(plans) == _comparable(moved)


def _comparable(plans: Mapping[str, Any]) -> dict[str, Any]:
    left = deepcopy({key: plans[key] for key in plans if key not in ("dataset_name", "plans_name", PLANS_KEY)})
    left.pop("image_reader_writer", None)
    for entry in left["configurations"].values():
        entry.pop("data_identifier", None)
    return left


def with_extent_of(moved: Mapping[str, Any], source: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Return moved plans with the extent of volumes that `source` holds for a configuration.

    A network that reads positions is built from it, and has to be the same on both data sets.
    """
    changed = deepcopy(dict(moved))
    extent = source.get(PLANS_KEY, {}).get(EXTENT_KEY, {}).get(configuration)
    if extent is not None:
        changed.setdefault(PLANS_KEY, {}).setdefault(EXTENT_KEY, {})[configuration] = list(extent)
    return changed


def preprocessed_by(plans: Mapping[str, Any], configuration: str, images: Mapping[str, Any]) -> dict[str, str]:
    """Return what a mark says: a digest of all by which images of a configuration are preprocessed.

    Args:
        plans: The plans.
        configuration: Name of the configuration.
        images: Stamps of each case's images (`nnunet_attn.pretraining.unlabelled.stamps_of`).
    """
    manager = PlansManager(deepcopy(dict(plans))).get_configuration(configuration)
    about = {
        "images": images,
        "transpose": plans["transpose_forward"],
        "intensities": plans["foreground_intensity_properties_per_channel"],
        **{key: manager.configuration.get(key) for key in _ABOUT_IMAGES},
    }
    text = json.dumps(about, sort_keys=True, default=str)
    return {"plans_and_images": hashlib.sha256(text.encode()).hexdigest()}


def is_complete(folder: Path, cases: Iterable[str]) -> bool:
    """Return whether a folder has the preprocessed images and properties of all cases."""
    return all(
        (folder / f"{case}.pkl").is_file() and any((folder / f"{case}{end}").is_file() for end in (".b2nd", ".npz"))
        for case in cases
    )


def mark_file(folder: Path) -> Path:
    """Return the mark of a folder of preprocessed images: beside it, because nnU-Net wants nothing else inside."""
    return folder.with_name(f"{folder.name}.nnunet_attn.json")


def read_mark(folder: Path) -> dict[str, str] | None:
    """Return the mark of a folder, None if it has none."""
    try:
        return json.loads(mark_file(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_mark(folder: Path, mark: Mapping[str, str]) -> None:
    """Mark a folder as a whole."""
    file = mark_file(folder)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(dict(mark)) + "\n", encoding="utf-8")
    os.replace(partial, file)
