"""What the networks of axial attention take: arguments, plans, output layers, weights of other sizes."""

import inspect
from typing import Any

import pytest
import torch

from nnunet_attn.architectures.axial_network import AxialNetwork
from nnunet_attn.architectures.blocks.grid import legal_grid
from nnunet_attn.architectures.build import PlannedUNet, build_network, network_arguments
from nnunet_attn.architectures.medt import AxialUNet, GatedAxialUNet, LoGo, MedT, MedTGlobal, MedTLocal
from nnunet_attn.architectures.registry import network_named

NETWORKS = (AxialUNet, GatedAxialUNet, LoGo, MedT, MedTGlobal, MedTLocal)
GATED = (GatedAxialUNet, MedT, MedTGlobal)
WITH_GRID = (LoGo, MedT, MedTLocal)
MAX_HEADS = {AxialUNet: 4, GatedAxialUNet: 4, LoGo: 2, MedT: 2, MedTGlobal: 2, MedTLocal: 1}
NARROW: dict[str, Any] = {"features": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_heads": 4, "stem_channels": [4, 8]}


def small(kind: type[AxialNetwork], patch_size: Any = (24, 40), **options: Any) -> AxialNetwork:
    if issubclass(kind, WITH_GRID):
        options = {"local_stem": 4, **options}
    return kind(2, 3, patch_size, **{**NARROW, **options})


# ---- output layers ----


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("size", [(24, 40), (21, 34, 18)])
def test_one_to_all_output_layers(kind: type[AxialNetwork], size: tuple[int, ...]) -> None:
    dims, features = len(size), [8, 2 * 8, 2 * 8, 2 * 16]
    for heads in range(1, MAX_HEADS[kind] + 1):
        network = small(kind, size, heads=heads, deep_supervision=True).eval()
        assert [layer.in_channels for layer in network.output.seg_layers] == features[:heads]
        image = torch.randn(1, 2, *size)
        with torch.no_grad():
            levels = network(image)
            assert isinstance(levels, list) and len(levels) == len(network.deep_supervision_scales) == heads
            # stem and three stages halve, rounded up
            shape = size
            for level, scale in zip(levels, network.deep_supervision_scales, strict=True):
                assert level.shape == (1, 3, *shape)
                assert scale == pytest.approx([own / full for own, full in zip(shape, size, strict=True)])
                shape = tuple(-(-voxels // 2) for voxels in shape)
            network.deep_supervision = False
            assert torch.equal(network(image), levels[0])
        parameters = list(network.state_dict())
        assert parameters == list(small(kind, size, heads=heads).state_dict())
    assert small(kind, size).deep_supervision_scales == [[1.0] * dims]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("more", [1, -99, True, 2.0])
def test_other_numbers_of_output_layers_are_refused(kind: type[AxialNetwork], more: Any) -> None:
    heads = MAX_HEADS[kind] + 1 if more == 1 and more is not True else more
    with pytest.raises(ValueError) as error:
        unchecked(kind, heads=heads)
    assert str(error.value) == f"heads of {kind.__name__} must be from 1 to {MAX_HEADS[kind]}, got {heads!r}"


def unchecked(kind: type[AxialNetwork], patch_size: Any = (24, 40), **options: Any) -> None:
    """Run the shared constructor as users do, who have no type checks ahead of it."""
    construct = inspect.unwrap(AxialNetwork.__init__)
    construct(object.__new__(kind), 2, 3, patch_size, **{**NARROW, **options})


# ---- arguments ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": (24,)}, "patch_size must have 2 or 3 numbers, got (24,)"),
        ({"patch_size": (24, 40, 8, 8)}, "patch_size must have 2 or 3 numbers, got (24, 40, 8, 8)"),
        ({"patch_size": (24, 0)}, "patch_size must be 2 integers of at least 1, got (24, 0)"),
        ({"features": [8, 8, 16]}, "features must be 4 integers of at least 1, got [8, 8, 16]"),
        ({"features": [8, 8, 16, 16, 16]}, "features must be 4 integers of at least 1, got [8, 8, 16, 16, 16]"),
        ({"depths": [1, 0, 1, 1]}, "depths must be 4 integers of at least 1, got [1, 0, 1, 1]"),
        ({"stem_channels": [4]}, "stem_channels must be 2 integers of at least 1, got [4]"),
        ({"stem_channels": [4, True]}, "stem_channels must be 2 integers of at least 1, got [4, True]"),
        ({"stem_pool": [1, 1, 2]}, "stem_pool must be 2 integers of at least 1, got [1, 1, 2]"),
        ({"strides": [[2, 2]] * 4}, f"strides must be 5 lists of 2 numbers, got {[[2, 2]] * 4}"),
        ({"strides": [[2, 2]] * 4 + [[2]]}, "strides[4] must be 2 integers of at least 1, got [2]"),
        ({"strides": [[2, 2], [0, 2], *[[2, 2]] * 3]}, "strides[1] must be 2 integers of at least 1, got [0, 2]"),
        ({"strides": 2}, "strides must be 5 lists of 2 numbers, got 2"),
        ({"strides": [2] * 5}, "strides[0] must be 2 integers of at least 1, got [2]"),
    ],
)
def test_illegal_arguments_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        unchecked(AxialUNet, **change)
    assert str(error.value) == message


@pytest.mark.parametrize("kind", WITH_GRID)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": [3, 1]}, r"grid must be one of \(4, 2, 1\) for each of 2 axes, got \[3, 1\]"),
        ({"local_stem": 0}, r"local_stem must be an integer of at least 1, got 0"),
    ],
)
def test_illegal_grids_and_stems_are_named(kind: type[AxialNetwork], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(kind, **change)


def test_features_that_heads_do_not_divide_are_named() -> None:
    with pytest.raises(ValueError, match=r"even multiple of num_heads, got 12 channels for 4 heads"):
        small(MedT, features=[8, 12, 16, 16])


@pytest.mark.parametrize("kind", NETWORKS)
def test_gates_are_placed_only_where_there_are_any(kind: type[AxialNetwork]) -> None:
    if kind in GATED:
        network = small(kind, gate_position="post_norm")
        found = {getattr(m, "gate_position", None) for m in network.modules() if hasattr(m, "gates")}
        assert found == {"post_norm"}
    else:
        with pytest.raises(ValueError, match=f"{kind.__name__} has no gates, so gate_position cannot be 'post_norm'"):
            small(kind, gate_position="post_norm")


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 3, 24, 40), (1, 2, 24, 40, 8)])
def test_other_inputs_are_refused(kind: type[AxialNetwork], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as error:
        small(kind)(torch.zeros(shape))
    assert "an input of 2 channels and 2 axes" in str(error.value) and str(shape) in str(error.value)


# ---- plans ----


def plan(patch_size: tuple[int, ...], strides: list[Any]) -> PlannedUNet:
    return PlannedUNet(patch_size, "a.UNet", {"strides": strides})


TWICE = [2, 2, 2]


@pytest.mark.parametrize(
    ("patch_size", "planned", "strides", "pool"),
    [
        # coarse along the first axis: one, then two reductions leave it alone
        ((16, 128, 96), [[1, 1, 1], [1, 2, 2], TWICE, TWICE], [[1, 2, 2], *[TWICE] * 4], [1, 2, 2]),
        ((80, 128, 63), [[1, 1, 1], [1, 2, 2], [1, 2, 2], TWICE], [[1, 2, 2]] * 2 + [TWICE] * 3, [1, 2, 1]),
        ((64, 64, 64), [[1, 1, 1], TWICE, TWICE], [TWICE] * 5, [2, 2, 2]),
        ((63, 32, 16), [1, 2, 2], [TWICE] * 5, [1, 1, 1]),
        # an axis that is pooled first and left alone later is not coarse
        ((64, 64, 64), [[1, 1, 1], TWICE, [1, 2, 2]], [TWICE] * 5, [2, 2, 2]),
        # an axis that is never pooled
        ((3, 64, 64), [[1, 1, 1], *[[1, 2, 2]] * 5], [[1, 2, 2]] * 5, [1, 2, 2]),
        ((512, 512), [[1, 1], [2, 2], [2, 2]], [[2, 2]] * 5, [1, 1]),
        ((320, 64), [[1, 1], [2, 1], [2, 2]], [[2, 1], *[[2, 2]] * 4], [1, 1]),
    ],
)
@pytest.mark.parametrize("kind", [GatedAxialUNet, MedT])
def test_plans_decide_sizes_strides_and_pooling(
    kind: type[AxialNetwork], patch_size: tuple[int, ...], planned: list[Any], strides: list[Any], pool: list[int]
) -> None:
    expected = {"patch_size": list(patch_size), "strides": strides, "stem_pool": pool}
    assert kind.plan_arguments(plan(patch_size, planned)) == expected


def test_options_override_what_plans_decide() -> None:
    row = network_named("GatedAxialUNet")
    given = plan((8, 64, 64), [[1, 1, 1], [1, 2, 2], TWICE])
    options = {"stem_pool": [1, 1, 1], "strides": [[2, 2, 2]] * 5, **NARROW}
    arguments = network_arguments(row, given, options)
    assert arguments == {"patch_size": [8, 64, 64], **options}
    assert network_arguments(row, given, {})["stem_pool"] == [1, 2, 2]
    network: Any = build_network(row, given, 1, 2, options=options)
    assert network.branch.stem.pool == (1, 1, 1) and network.branch.sizes[0] == (4, 32, 32)
    network = build_network(row, given, 1, 2, options=NARROW)
    assert network.branch.stem.pool == (1, 2, 2) and network.branch.sizes[0] == (8, 16, 16)
    with pytest.raises(ValueError, match=r"no option 'grid'"):
        network_arguments(row, given, {"grid": [1, 1, 1]})


# ---- weights ----


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_weight_decay_for_gates_and_tables_alone(kind: type[AxialNetwork]) -> None:
    network = small(kind)
    ends = {name.rsplit(".", 1)[1] for name in network.no_weight_decay()}
    assert ends == ({"relative", "gates"} if kind in GATED else set() if kind is MedTLocal else {"relative"})
    named = {name for name, _ in network.named_parameters() if name.endswith((".relative", ".gates"))}
    assert network.no_weight_decay() == named


@pytest.mark.parametrize(("old", "new"), [((24, 40), (48, 90)), ((48, 90), (24, 40))])
def test_tables_are_resampled_for_another_patch(old: tuple[int, int], new: tuple[int, int]) -> None:
    source, target = small(GatedAxialUNet, old), small(GatedAxialUNet, new)
    weights = source.state_dict()
    adapted = 0
    for key, own in target.state_dict().items():
        before = own.clone()
        fitted = GatedAxialUNet.adapt_weight(key, weights[key], own)
        assert torch.equal(own, before)
        if key.endswith(".relative"):
            assert fitted is not None and fitted.shape == own.shape and fitted.dtype == own.dtype
            torch.testing.assert_close(fitted[:, fitted.shape[1] // 2], weights[key][:, weights[key].shape[1] // 2])
            weights[key] = fitted
            adapted += 1
        else:
            assert fitted is None and weights[key].shape == own.shape
    assert adapted == 8
    target.load_state_dict(weights)


@pytest.mark.parametrize("kind", NETWORKS)
def test_initialising_changes_nothing(kind: type[AxialNetwork]) -> None:
    network = small(kind)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.apply(network.initialize)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_grid_of_other_types_is_named() -> None:
    with pytest.raises(ValueError, match=r"grid must be one of \(4, 2, 1\) for each of 2 axes, got 4"):
        inspect.unwrap(legal_grid)((64, 64), 4)
    with pytest.raises(ValueError, match=r"got \[4.0, 4.0\]"):
        inspect.unwrap(legal_grid)((64, 64), [4.0, 4.0])
