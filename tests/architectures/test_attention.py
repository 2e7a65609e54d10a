"""Maps of attention of every network: what any of them promises, and that reading them leaves no trace."""

import copy
from typing import Any

import pytest
import torch
from torch import distributed, nn

from nnunet_attn.architectures.attention import AttentionMap, attention_maps, attention_stages, voxel_attention
from nnunet_attn.architectures.build import build_network
from nnunet_attn.architectures.registry import NETWORKS, Network
from tests.made.plans import KINDS, Kind

WITHOUT = ("PlainUNet", "UNetPlusPlus")
CHANNELS = 2
PAIRS = [
    pytest.param(network, KINDS[kind], id=f"{network.name}-{kind}")
    for network in NETWORKS
    for kind in ("2d", "3d", "anisotropic", "odd", "residual")
    if len(KINDS[kind].entry["patch_size"]) in network.dims
]
WITH_ATTENTION = [pair for pair in PAIRS if pair.values[0].name not in WITHOUT]  # pyright: ignore
EACH_ONCE = [pair for pair in WITH_ATTENTION if pair.id.endswith("-anisotropic")]  # pyright: ignore


def build(network: Network, kind: Kind) -> Any:
    torch.manual_seed(0)
    return build_network(network, kind.planned_unet, CHANNELS, 3, True, network.small_options).double()


def tile_of(kind: Kind) -> torch.Tensor:
    size = kind.entry["patch_size"]
    return torch.randn(1, CHANNELS, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def hooks_of(network: nn.Module) -> list[Any]:
    return [
        hook
        for module in network.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        for hook in hooks.values()
    ]


@pytest.mark.parametrize(("network", "kind"), WITH_ATTENTION)
def test_maps_are_finite_and_lie_on_the_tile(network: Network, kind: Kind) -> None:
    built, tile = build(network, kind), tile_of(kind)
    size = tuple(kind.entry["patch_size"])
    stages = attention_stages(built)
    assert stages and len(set(stages)) == len(stages)
    assert all(stage.isascii() and stage.replace("-", "").isalnum() for stage in stages), "fit for file names"
    for maps in (attention_maps(built, tile), voxel_attention(built, tile, [voxels // 3 for voxels in size])):
        assert [each.stage for each in maps] == stages
        for each in maps:
            assert each.weights.isfinite().all() and each.weights.min() >= 0 and not each.weights.requires_grad
            on_voxels = each.expanded(size)
            assert on_voxels.shape == (len(each.weights), *size)
            for axis, count in enumerate(each.weights.shape[1:], start=1):
                assert count <= size[axis - 1]
                assert each._places(axis - 1, size[axis - 1]).unique().numel() == count, "every place is in the tile"


@pytest.mark.parametrize(("network", "kind"), [pair for pair in PAIRS if pair.values[0].name in WITHOUT])  # pyright: ignore
def test_a_network_without_attention_is_named(network: Network, kind: Kind) -> None:
    built = build(network, kind)
    assert attention_stages(built) == []
    tile = tile_of(kind)
    with pytest.raises(ValueError, match=rf"{type(built).__name__} has no attention.*take a checkpoint"):
        attention_maps(built, tile)
    with pytest.raises(ValueError, match=rf"{type(built).__name__} has no attention.*take a checkpoint"):
        voxel_attention(built, tile, [0] * (tile.ndim - 2))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("network", "kind"), EACH_ONCE)
def test_reading_leaves_no_trace(network: Network, kind: Kind, training: bool) -> None:
    built, tile = build(network, kind).train(training), tile_of(kind)
    one = next(module for module in built.modules() if not list(module.children()))
    one.training = not training  # a module with a mode of its own keeps it
    state, modes = copy.deepcopy(built.state_dict()), [module.training for module in built.modules()]
    names = [set(vars(module)) for module in built.modules()]
    first = attention_maps(built, tile)
    again = attention_maps(built, tile)
    voxel_attention(built, tile, [0, 0, 0])
    assert all(torch.equal(a.weights, b.weights) for a, b in zip(first, again, strict=True)), "evaluation mode"
    assert hooks_of(built) == []
    assert [module.training for module in built.modules()] == modes
    assert [set(vars(module)) for module in built.modules()] == names
    assert all(torch.equal(value, state[key]) for key, value in built.state_dict().items())
    assert built.state_dict().keys() == state.keys()
    assert all(parameter.grad is None for parameter in built.parameters())


@pytest.mark.parametrize(("network", "kind"), EACH_ONCE)
def test_an_error_leaves_no_trace_either(network: Network, kind: Kind) -> None:
    built = build(network, kind).train()
    with pytest.raises(ValueError, match=str(CHANNELS + 5)):
        attention_maps(built, torch.zeros(1, CHANNELS + 5, *kind.entry["patch_size"], dtype=torch.float64))
    assert hooks_of(built) == [] and built.training


@pytest.mark.parametrize(("network", "kind"), EACH_ONCE)
def test_some_stages_are_the_same_as_among_all(network: Network, kind: Kind) -> None:
    built, tile = build(network, kind), tile_of(kind)
    all_maps = {each.stage: each for each in attention_maps(built, tile)}
    all_rows = {each.stage: each for each in voxel_attention(built, tile, (1, 2, 3))}
    some = attention_stages(built)[::-3]
    for found, every in (
        (attention_maps(built, tile, some), all_maps),
        (voxel_attention(built, tile, (1, 2, 3), some), all_rows),
    ):
        assert [each.stage for each in found] == some[::-1], "in the order the network runs them"
        assert all(torch.equal(each.weights, every[each.stage].weights) for each in found)


def small(name: str = "MedT", kind: str = "2d") -> tuple[Any, torch.Tensor]:
    network = next(network for network in NETWORKS if network.name == name)
    return build(network, KINDS[kind]), tile_of(KINDS[kind])


def test_wrappers_are_looked_through() -> None:
    network, tile = small()
    expected = [each.weights for each in attention_maps(network, tile)]
    wrapped: list[nn.Module] = [torch.compile(network), nn.DataParallel(network)]  # pyright: ignore
    store = distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped.append(torch.compile(nn.parallel.DistributedDataParallel(network)))  # pyright: ignore
        for each in wrapped:
            assert attention_stages(each) == attention_stages(network)
            found = attention_maps(each, tile)
            assert all(torch.equal(a.weights, b) for a, b in zip(found, expected, strict=True))
    finally:
        distributed.destroy_process_group()


def test_bad_requests_are_named() -> None:
    network, tile = small()
    with pytest.raises(
        ValueError, match=r"MedT has no stage 'local-7'; there are global-0-0-height, .*local-3-0-width"
    ):
        attention_maps(network, tile, ["local-0-0-width", "local-7"])
    with pytest.raises(ValueError, match=r"\(1, channels, \*space\), got \(2, 2, 16, 24\)"):
        attention_maps(network, tile.expand(2, -1, -1, -1))
    for voxel in [(16, 0), (0, -1), (1, 2, 3)]:
        with pytest.raises(ValueError, match=r"tile of \(16, 24\) voxels, counted from 0, got"):
            voxel_attention(network, tile, voxel)


def test_expansion_of_even_and_uneven_grids() -> None:
    weights = torch.arange(6.0).view(1, 2, 3)
    even = AttentionMap("even", weights).expanded((4, 6))
    assert even[0].tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2
    beyond = AttentionMap("beyond", weights, cell=(3, 2)).expanded((4, 5))
    assert beyond[0].tolist() == [[0, 0, 1, 1, 2]] * 3 + [[3, 3, 4, 4, 5]]
    # lines of 5 voxels in blocks of 3, each with places of 2 and 1 voxels
    blocks = AttentionMap("blocks", torch.arange(4.0).view(1, 4), cell=(2,), block=(3,)).expanded((5,))
    assert blocks[0].tolist() == [0, 0, 1, 2, 2]


def test_expansion_over_a_volume_is_about_its_middle() -> None:
    """3 sub-volumes of 4 voxels, the middle ones from 6 to 9 of 16; outer ones go on to the ends."""
    found = AttentionMap("volume", torch.arange(3.0).view(1, 3), covers="volume", cell=(4,)).expanded((16,))
    assert found[0].tolist() == [0] * 6 + [1] * 4 + [2] * 6
    assert AttentionMap("one", torch.ones(1, 1), covers="volume", cell=(4,)).expanded((9,)).tolist() == [[1.0] * 9]


@pytest.mark.gpu
@pytest.mark.parametrize(("network", "kind"), EACH_ONCE)
def test_maps_on_cuda_are_those_on_the_cpu(network: Network, kind: Kind) -> None:
    built, tile = build(network, kind), tile_of(kind)
    expected = attention_maps(built, tile) + voxel_attention(built, tile, (1, 2, 3))
    built = built.cuda()
    found = attention_maps(built, tile) + voxel_attention(built, tile.cuda(), (1, 2, 3))
    for a, b in zip(found, expected, strict=True):
        assert a.weights.device.type == "cpu"
        torch.testing.assert_close(a.weights, b.weights, rtol=1e-6, atol=1e-6)
