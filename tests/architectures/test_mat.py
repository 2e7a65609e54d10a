"""The planned U-Net with gated axial attention at its bottleneck."""

import warnings
from typing import Any

import pytest
import torch

from nnunet_attn.architectures.blocks import axial_attention
from nnunet_attn.architectures.blocks.axial_attention import LONGER_LINES
from nnunet_attn.architectures.build import PlannedUNet, build_network, build_planned_unet
from nnunet_attn.architectures.mat import MAT
from nnunet_attn.architectures.registry import network_named
from tests.made.plans import architecture

STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
PATCH = (8, 16, 24)  # bottleneck (4, 4, 6)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def plan(dims: int = 3, residual: bool = False, features: tuple[int, ...] = (4, 6, 16)) -> PlannedUNet:
    entry = architecture(list(PATCH[-dims:]), [stride[-dims:] for stride in STRIDES], list(features), residual)
    return PlannedUNet(PATCH[-dims:], entry["network_class_name"], entry["arch_kwargs"])


def small(dims: int = 3, residual: bool = False, **options: Any) -> Any:
    arguments = {**MAT.plan_arguments(plan(dims, residual)), **options}
    return MAT(input_channels=2, num_classes=3, **arguments)


def test_adds_what_the_comparison_reports_at_320_channels() -> None:
    network: Any = MAT(1, 2, **{**MAT.plan_arguments(plan(features=(4, 6, 320))), "patch_size": [10, 24, 28]})
    # per axis: queries, keys and values; their norm, that of 3 terms x 8 heads and that of both outputs; 4 gates
    layer = 320 * 640 + 2 * 640 + 3 * 8 + 2 * 640 + 4
    # 2 * 320 / 8 rows, and 2 L - 1 offsets for 5, 6 and 7 voxels
    tables = 80 * (9 + 11 + 13)
    # two 1x1 convolutions with a norm each
    around = 2 * (320 * 320 + 2 * 320)
    expected = 3 * layer + tables + around
    assert expected == 830_884
    assert sum(parameter.numel() for parameter in network.bottleneck.parameters()) == expected
    assert [layer.length for layer in network.bottleneck.layers] == [6, 7, 5], "height, width, depth"


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("dims", [2, 3])
def test_all_else_is_the_planned_unet(dims: int, residual: bool) -> None:
    given = plan(dims, residual)
    network: Any = build_network(network_named("MAT"), given, 2, 3, True)
    unet: Any = build_planned_unet(given, 2, 3, True).eval()
    own, planned = network.state_dict(), unet.state_dict()
    assert {key for key in own if not key.startswith("bottleneck.")} == planned.keys()
    assert all(own[key].shape == value.shape for key, value in planned.items())
    assert all(key.startswith("bottleneck.layers.") for key in network.no_weight_decay())
    assert len(network.no_weight_decay()) == 2 * dims

    # with its block's branch silent and nothing negative at the bottleneck, it computes what the planned one does
    network.eval()
    unet.load_state_dict({key: own[key] for key in planned})
    images = torch.randn(2, 2, *PATCH[-dims:])
    torch.nn.init.zeros_(network.bottleneck.bn2.weight)
    with torch.no_grad():
        *skips, deepest = unet.encoder(images)
        expected = unet.decoder([*skips, deepest.relu()])
        for ours, theirs in zip(network(images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        torch.nn.init.ones_(network.bottleneck.bn2.weight)
        assert not torch.allclose(network(images)[0], expected[0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("gate_position", ["pre_norm", "post_norm"])
def test_trains_on_unequal_axes(residual: bool, gate_position: str) -> None:
    network = small(residual=residual, gate_position=gate_position, deep_supervision=True)
    assert {layer.gate_position for layer in network.bottleneck.layers} == {gate_position}
    levels = network(torch.randn(2, 2, *PATCH))
    assert [tuple(level.shape[2:]) for level in levels] == [PATCH, (8, 8, 12)]
    torch.stack([level.square().mean() for level in levels]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    network.decoder.deep_supervision = False
    assert network(torch.randn(1, 2, *PATCH)).shape == (1, 3, *PATCH)


def test_takes_other_crops() -> None:
    axial_attention._warn_of_longer_lines.cache_clear()
    network = small().eval()
    with torch.no_grad(), warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        for smaller in ((2, 16, 12), (8, 4, 24), PATCH):
            assert network(torch.randn(1, 2, *smaller)).shape[2:] == smaller
        assert not raised
        larger = (12, 16, 32)  # along depth and width
        for _ in range(2):
            assert network(torch.randn(1, 2, *larger)).shape[2:] == larger
    assert [str(each.message) for each in raised] == [LONGER_LINES]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 6}, r"even multiple of num_heads, got 16 channels for 6 heads"),
        ({"num_heads": 16}, r"even multiple of num_heads, got 16 channels for 16 heads"),
        ({"num_heads": 0}, r"num_heads must be an integer of at least 1, got 0"),
        ({"patch_size": [8, 18, 24]}, r"\(8, 18, 24\) must be a multiple of the product of the strides, \(2, 4, 4\)"),
        ({"patch_size": [16, 24]}, r"works on 3 axes, got patch_size \(16, 24\)"),
        ({"n_stages": 1, "features_per_stage": [16], "strides": [1], "kernel_sizes": [3]}, None),
    ],
)
def test_illegal_arguments_are_named(options: dict[str, Any], message: str | None) -> None:
    if message is None:
        options = {**options, "n_conv_per_stage": [1], "n_conv_per_stage_decoder": []}
        message = r"has a single stage; MAT needs a decoder"
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"an input of 2 channels, got \(1, 3, 8, 16, 24\)"):
        small()(torch.zeros(1, 3, *PATCH))


def test_plans_that_name_it_already_are_refused() -> None:
    given = PlannedUNet(PATCH, "nnunet_attn.architectures.mat.MAT", {})
    with pytest.raises(ValueError, match=r"nnunet_attn\.architectures\.mat\.MAT already"):
        MAT.plan_arguments(given)


@pytest.mark.parametrize(("old", "new"), [(PATCH, (16, 32, 48)), ((16, 32, 48), PATCH)])
def test_tables_are_resampled_for_another_patch(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    weights = small(patch_size=list(old)).state_dict()
    target = small(patch_size=list(new))
    for key, own in target.state_dict().items():
        fitted = MAT.adapt_weight(key, weights[key], own)
        assert (fitted is None) is not key.endswith(".relative")
        weights[key] = weights[key] if fitted is None else fitted
    target.load_state_dict(weights)
