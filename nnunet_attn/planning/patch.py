"""Plans with a smaller patch than nnU-Net's own, for the same preprocessed data."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunet_attn.errors import InputError

# nnU-Net's own: voxels of the smallest feature map along an axis, and no bound on the number of stages
_SMALLEST_MAP = 4
_MOST_STAGES = 999999
# of the U-Nets that nnU-Net plans, plain and residual, and by how much they are shorter than the list of stages
_LISTS = {"features_per_stage": 0, "n_conv_per_stage": 0, "n_blocks_per_stage": 0, "n_conv_per_stage_decoder": 1}


def small_patch_plans(
    plans: Mapping[str, Any],
    plans_name: str,
    configuration: str,
    patch_size: Sequence[int],
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Return plans of one configuration with a smaller patch, and with strides and kernels for it by nnU-Net's rule.

    The patch is rounded up to what the strides need. Spacing, normalisation and preprocessed data stay.

    Args:
        plans: nnU-Net's own plans; not changed.
        plans_name: Name of the new plans.
        configuration: The configuration to keep; it must have an architecture of its own.
        patch_size: Voxels along each axis, at most those of the planned patch.
        batch_size: Another batch size; None keeps the planned one.
    Raises:
        InputError: If the plans have no such configuration, or the patch or batch size is out of its range.
    """
    entries = plans["configurations"]
    if configuration not in entries or "architecture" not in entries[configuration]:
        able = ", ".join(name for name, entry in entries.items() if "architecture" in entry)
        raise InputError(f"the plans have no configuration {configuration!r} with a network of its own; choose {able}")
    entry = deepcopy(entries[configuration])
    planned = entry["patch_size"]
    if len(patch_size) != len(planned) or any(type(size) is not int or size < 1 for size in patch_size):
        raise InputError(f"the patch must have {len(planned)} integers of at least 1, got {list(patch_size)}")
    if any(size > most for size, most in zip(patch_size, planned, strict=True)):
        raise InputError(f"the patch {list(patch_size)} is larger than the planned one, {planned}; take at most that")
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise InputError(f"the batch size must be an integer of at least 1, got {batch_size!r}")
    _, strides, kernel_sizes, rounded, _ = get_pool_and_conv_props(
        entry["spacing"], patch_size, _SMALLEST_MAP, _MOST_STAGES
    )
    unet, stages = entry["architecture"]["arch_kwargs"], len(strides)
    if stages > unet["n_stages"]:
        raise InputError(
            f"the patch {list(patch_size)} needs {stages} stages, and the planned network has {unet['n_stages']}; "
            "take a smaller patch"
        )
    unet.update(n_stages=stages, strides=[list(each) for each in strides], kernel_sizes=[list(k) for k in kernel_sizes])
    for name, fewer in _LISTS.items():
        if name in unet:
            unet[name] = unet[name][: stages - fewer]
    entry["patch_size"] = [int(size) for size in rounded]
    if batch_size is not None:
        entry["batch_size"] = batch_size
    return {**plans, "plans_name": plans_name, "configurations": {configuration: entry}}
