import pytest
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunet_attn.architectures.build import build_planned_unet
from nnunet_attn.benchmark.topologies import scaled_down, topology_named, with_patch
from nnunet_attn.errors import InputError

PAPER = topology_named("gasa-paper")


@pytest.mark.parametrize(
    ("name", "spacing_mm"),
    [("gasa-paper", (3, 0.74, 0.74)), ("3d", (1, 1, 1)), ("2d-256", (1, 1)), ("2d-512", (1, 1))],
)
def test_stages_are_those_that_nnunet_plans(name, spacing_mm):
    plan = topology_named(name).plan
    _, strides, kernel_sizes, padded, _ = get_pool_and_conv_props(spacing_mm, plan.patch_size, 4, 999999)
    assert plan.arch_kwargs["strides"] == [list(stride) for stride in strides]
    assert plan.arch_kwargs["kernel_sizes"] == [list(kernel) for kernel in kernel_sizes]
    assert tuple(padded) == plan.patch_size
    cap = 320 if len(plan.patch_size) == 3 else 512
    assert plan.arch_kwargs["features_per_stage"] == [min(32 * 2**stage, cap) for stage in range(len(strides))]


def test_paper_topology_has_the_parameters_of_nnunet():
    network = build_planned_unet(PAPER.plan, PAPER.input_channels, PAPER.num_classes, deep_supervision=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == 30_758_214


def test_axial_topology_is_planned_for_half_its_patch():
    topology = topology_named("axial-2d")
    assert topology.input_shape == (1, 3, 256, 256) and topology.num_classes == 2
    _, strides, kernel_sizes, padded, _ = get_pool_and_conv_props((1, 1), (128, 128), 4, 999999)
    assert topology.plan.arch_kwargs["strides"] == [list(stride) for stride in strides]
    assert topology.plan.arch_kwargs["kernel_sizes"] == [list(kernel) for kernel in kernel_sizes]
    assert tuple(padded) == (128, 128)
    assert with_patch(topology, [32, 64]).input_shape == (1, 3, 32, 64)


def test_smaller_patches_keep_everything_else():
    assert PAPER.total_strides == (8, 32, 32)
    assert PAPER.input_shape == (2, 1, 48, 192, 192)
    smaller = with_patch(PAPER, [24, 96, 96])
    assert smaller == scaled_down(PAPER, [2]) == scaled_down(PAPER, [2, 2, 2])
    assert smaller.input_shape == (2, 1, 24, 96, 96)
    assert smaller.plan.arch_kwargs == PAPER.plan.arch_kwargs


@pytest.mark.parametrize(
    ("change", "sizes", "numbers"),
    [
        (with_patch, [24, 100, 96], r"\[24, 100, 96\].*\[8, 32, 32\]"),
        (with_patch, [0, 96, 96], r"\[0, 96, 96\].*\[8, 32, 32\]"),
        (with_patch, [96, 96], r"\[96, 96\] has 2 axes.*has 3"),
        (with_patch, [8, 32, 32], r"\[8, 32, 32\].*\[1, 1, 1\]"),
        (scaled_down, [5], r"\[5, 5, 5\].*\[48, 192, 192\]"),
        (scaled_down, [0], r"\[0, 0, 0\].*\[48, 192, 192\]"),
        (scaled_down, [2, 2], r"\[2, 2\].*1 or 3"),
        (scaled_down, [4], r"\[12, 48, 48\].*\[8, 32, 32\]"),
    ],
)
def test_illegal_patches_are_refused_with_the_numbers(change, sizes, numbers):
    with pytest.raises(InputError, match=numbers):
        change(PAPER, sizes)


def test_unknown_topology():
    with pytest.raises(InputError, match=r"'4d'.*gasa-paper, 3d"):
        topology_named("4d")
