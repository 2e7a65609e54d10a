"""Plans with a smaller patch fit nnU-Net's own networks and leave everything else as it was planned."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_attn.architectures.build import build_planned_unet
from nnunet_attn.errors import InputError
from nnunet_attn.planning.patch import small_patch_plans
from nnunet_attn.training.network import planned_unet
from tests.made.plans import architecture, configuration

STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]


def made_plans(residual: bool = False) -> dict[str, Any]:
    planned = configuration([32, 64, 64], STRIDES, spacing=[2.0, 1.0, 1.0])
    planned["architecture"] = architecture([32, 64, 64], STRIDES, residual=residual)
    return {
        "dataset_name": "Dataset901_Made",
        "plans_name": "nnUNetPlans",
        "configurations": {"3d_fullres": planned, "3d_cascade_fullres": {"inherits_from": "3d_fullres"}},
    }


@pytest.mark.parametrize("residual", [False, True])
def test_the_planned_network_works_on_the_smaller_patch(residual: bool) -> None:
    plans = made_plans(residual)
    before = deepcopy(plans)
    small = small_patch_plans(plans, "nnUNetPlansSmallPatch", "3d_fullres", [10, 24, 24], batch_size=3)
    assert plans == before
    assert small["plans_name"] == "nnUNetPlansSmallPatch" and list(small["configurations"]) == ["3d_fullres"]
    entry, planned = small["configurations"]["3d_fullres"], plans["configurations"]["3d_fullres"]
    # 24 halves to 12 and 6; the first axis, spaced twice as wide, only once: 10 is even already
    assert entry["patch_size"] == [10, 24, 24] and entry["batch_size"] == 3
    assert entry["architecture"]["arch_kwargs"]["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    kept = ("data_identifier", "spacing", "normalization_schemes")
    assert {key: entry[key] for key in kept} == {key: planned[key] for key in kept}
    manager = PlansManager({**small, "continue_training": False}).get_configuration("3d_fullres")
    network = build_planned_unet(planned_unet(manager), 1, 2).eval()
    assert network(torch.zeros(1, 1, *entry["patch_size"])).shape == (1, 2, 10, 24, 24)


def test_a_patch_is_rounded_up_to_what_the_strides_need() -> None:
    entry = small_patch_plans(made_plans(), "Small", "3d_fullres", [9, 21, 30])["configurations"]["3d_fullres"]
    assert entry["patch_size"] == [10, 24, 32] and entry["batch_size"] == 2


@pytest.mark.parametrize(
    ("name", "patch", "batch", "part"),
    [
        ("3d_lowres", [8, 8, 8], None, "no configuration '3d_lowres' with a network of its own; choose 3d_fullres"),
        ("3d_cascade_fullres", [8, 8, 8], None, "choose 3d_fullres"),
        ("3d_fullres", [8, 8], None, r"3 integers of at least 1, got \[8, 8\]"),
        ("3d_fullres", [8, 8, 0], None, "at least 1"),
        ("3d_fullres", [8, 80, 8], None, r"\[8, 80, 8\] is larger than the planned one, \[32, 64, 64\]"),
        ("3d_fullres", [8, 8, 8], 0, "batch size must be an integer of at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(name: str, patch: list[int], batch: int | None, part: str) -> None:
    with pytest.raises(InputError, match=part):
        small_patch_plans(made_plans(), "Small", name, patch, batch)
