"""How large the volumes of a data set are: what the sub-volume grid of a network that reads positions is made from."""

import json
import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

PLANS_KEY = "nnunet_attn"
EXTENT_KEY = "fine_extent"
"""Of `plans[PLANS_KEY]`: from the name of a configuration to its extent, voxels along each axis of the array."""

FINGERPRINT_FILE = "dataset_fingerprint.json"
# the largest volume of a data set whose median is known alone
_LARGEST_TO_MEDIAN = 1.25

Extent = tuple[int, ...]


def recorded_extent(plans: Mapping[str, Any], configuration_name: str) -> Extent | None:
    """Return the extent that plans hold for a configuration, None if they hold none.

    Raises:
        ValueError: If the entry is not a list of positive integers, one an axis, or what it is in is no table.
    """
    entry = plans.get(PLANS_KEY, {})
    extents = entry.get(EXTENT_KEY, {}) if isinstance(entry, Mapping) else entry
    for key, table in ((PLANS_KEY, entry), (f"{PLANS_KEY}.{EXTENT_KEY}", extents)):
        if not isinstance(table, Mapping):
            raise ValueError(f"plans: {key} must be a table, got {table!r}; remove it, and it is worked out anew")
    extent = extents.get(configuration_name)
    if extent is None:
        return None
    whole = isinstance(extent, list | tuple) and all(type(size) is int and size > 0 for size in extent)
    if not whole or len(extent) != 3:
        raise ValueError(
            f"plans: {PLANS_KEY}.{EXTENT_KEY}.{configuration_name} must be a list of voxels along each axis, "
            f"got {extent!r}; remove it, and it is worked out anew"
        )
    return tuple(extent)


def extent_of(plans: PlansManager, configuration: ConfigurationManager) -> Extent | None:
    """Return the extent that plans hold for one of their configurations, None if they hold none."""
    entry = plans.plans.get(PLANS_KEY)
    extents = entry.get(EXTENT_KEY) if isinstance(entry, Mapping) else None
    if not isinstance(extents, Mapping):
        return None
    # nnU-Net does not say the configuration's name, but the manager gives the same object for the same name
    managers = {name: plans.get_configuration(name) for name in extents if name in plans.available_configurations}
    for name, manager in managers.items():
        if manager is configuration:
            return recorded_extent(plans.plans, name)
    for name, manager in managers.items():
        if manager.configuration == configuration.configuration:
            return recorded_extent(plans.plans, name)
    return None


def estimated_extent(configuration: ConfigurationManager) -> Extent | None:
    """Return 1.25 times a configuration's median size, rounded up, None if the plans do not say that size."""
    median = configuration.configuration.get("median_image_size_in_voxels")
    return None if median is None else tuple(math.ceil(_LARGEST_TO_MEDIAN * size) for size in median)


def measured_extent(file: Path, plans: PlansManager, configuration: ConfigurationManager) -> Extent | None:
    """Return the largest preprocessed size along each axis over the cases of a data set's fingerprint.

    The size of a case is nnU-Net's own: shape after cropping times spacing by target spacing, rounded, on the axes as
    the plans transpose them. None if there is no such file, or it says nothing of sizes.

    Raises:
        ValueError: If the file cannot be read, or its sizes make no sense.
    """
    try:
        fingerprint = json.loads(file.read_text(encoding="utf-8"))
        if not {"shapes_after_crop", "spacings"} <= fingerprint.keys():
            return None
        axes, target = plans.transpose_forward, configuration.spacing
        sizes = [
            compute_new_shape([shape[axis] for axis in axes], [spacing[axis] for axis in axes], target)
            for shape, spacing in zip(fingerprint["shapes_after_crop"], fingerprint["spacings"], strict=True)
        ]
        extent = tuple(int(max(along)) for along in zip(*sizes, strict=True))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError) as error:
        raise ValueError(_damaged(file, repr(error))) from error
    if not extent or min(extent) < 1:
        raise ValueError(_damaged(file, f"largest size {extent}"))
    return extent


def _damaged(file: Path, what: str) -> str:
    return f"{file} does not hold the sizes of the data set ({what}); run nnUNetv2_extract_fingerprint for it again"


def plans_of_results(plans: PlansManager, configuration_name: str, trainer_name: str) -> dict[str, Any] | None:
    """Return the plans that an earlier training of the same trainer, plans and configuration has written down."""
    if not nnUNet_results.is_set():
        return None
    folder = Path(str(nnUNet_results)) / plans.dataset_name
    model = folder / f"{trainer_name}__{plans.plans_name}__{configuration_name}"
    file = model / "plans.json"
    if not any(model.glob("fold_*/checkpoint_*.pth")):
        return None  # nothing has been trained for it
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # another fold, started in the same moment, may be writing it
        return None
    return written if isinstance(written, dict) else None


def _extent_of_results(plans: PlansManager, configuration_name: str, trainer_name: str) -> Extent | None:
    written = plans_of_results(plans, configuration_name, trainer_name)
    return None if written is None else recorded_extent(written, configuration_name)


def plans_with_extent(
    plans: dict[str, Any], configuration_name: str, trainer_name: str
) -> tuple[dict[str, Any], str | None]:
    """Return a copy of plans that holds the extent of a 3D configuration, and a line for a log of where it is from.

    In this order: from earlier results of the same trainer, whose networks it shaped; from the plans; from the data
    set's fingerprint; from the plans' median size. The plans given and all files stay as they are. Plans of a 2D
    configuration are returned without extent or line.

    Raises:
        ValueError: If plans and earlier results contradict each other, or the fingerprint is damaged.
    """
    plans = deepcopy(plans)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(configuration_name)
    if len(configuration.patch_size) != 3:
        return plans, None
    planned = recorded_extent(plans, configuration_name)
    trained = _extent_of_results(manager, configuration_name, trainer_name)
    if planned and trained and planned != trained:
        raise ValueError(
            f"plans: {PLANS_KEY}.{EXTENT_KEY}.{configuration_name} is {planned}, but the networks in the results of "
            f"{trainer_name} were built for {trained}; remove the entry, or give the plans another name"
        )
    extent, source = trained or planned, "as in earlier results" if trained else "as in the plans"
    if extent is None and nnUNet_preprocessed.is_set():
        file = Path(str(nnUNet_preprocessed)) / manager.dataset_name / FINGERPRINT_FILE
        extent, source = measured_extent(file, manager, configuration), "the largest of each axis in the fingerprint"
    if extent is None:
        extent, source = estimated_extent(configuration), "estimated from the median size, for want of a fingerprint"
    if extent is None:
        raise ValueError(
            f"plans: configurations.{configuration_name} has no median_image_size_in_voxels, and the data set has no "
            f"{FINGERPRINT_FILE}; plan the data set again"
        )
    entry = plans.setdefault(PLANS_KEY, {})
    entry.setdefault(EXTENT_KEY, {})[configuration_name] = list(extent)
    return plans, f"Extent of the volumes, in voxels: {' x '.join(map(str, extent))}, {source}"
