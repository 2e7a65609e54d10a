"""Attention maps of tiles become one of the image, at the right place and with the right weights."""

from collections.abc import Callable, Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import Tensor

from nnunet_attn.architectures.attention import AttentionMap, attention_stages
from nnunet_attn.architectures.fine import FINE
from nnunet_attn.inference import attention_stitching
from nnunet_attn.inference.attention_stitching import Tiling, grid_maps, stitched_maps, voxel_maps

CPU = torch.device("cpu")
SHAPES = [((9, 21, 14), (4, 8, 6)), ((3, 7, 6), (4, 8, 6)), ((5, 12, 12), (8, 8)), ((2, 6, 30), (8, 8))]
NETWORK = SimpleNamespace()


def made_maps(tile: Tensor, stages: Sequence[str]) -> list[AttentionMap]:
    """Two stages: halves of the tile's means (2 heads), and its voxels themselves (3 heads)."""
    mean: Any = torch.nn.functional.adaptive_avg_pool2d if tile.ndim == 4 else torch.nn.functional.adaptive_avg_pool3d
    coarse = mean(tile[0, :1], tuple(size // 2 for size in tile.shape[2:]))
    made = {"a": torch.cat([coarse, 2 * coarse]), "b": torch.cat([tile[0, :1], tile[0, :1] ** 2, 1 - tile[0, :1]])}
    return [AttentionMap(stage, made[stage]) for stage in ("a", "b") if stage in stages]


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The tiles that the network has seen."""
    seen: list[Tensor] = []

    def maps(_: object, tile: Tensor, stages: Sequence[str]) -> list[AttentionMap]:
        seen.append(tile)
        return made_maps(tile, stages)

    monkeypatch.setattr(attention_stitching, "attention_maps", maps)
    return seen


def stitched_slowly(image: np.ndarray, patch: tuple[int, ...], stage: str) -> np.ndarray:
    """The weighted mean of all tiles, voxel by voxel."""
    thin = 3 - len(patch)
    size = image.shape[1:]
    padded_size = [*size[:thin], *np.maximum(size[thin:], patch)]
    before = [(padded - own) // 2 for padded, own in zip(padded_size, size, strict=True)]
    padded = np.zeros((1, *padded_size), dtype=np.float32)
    padded[(slice(None), *(slice(at, at + own) for at, own in zip(before, size, strict=True)))] = image
    starts = []
    for whole, own in zip(padded_size[thin:], patch, strict=True):
        count = int(np.ceil((whole - own) / (own / 2))) + 1
        starts.append([round((whole - own) * index / max(1, count - 1)) for index in range(count)])
    gaussian = compute_gaussian(patch, 1 / 8, 10, torch.float32, CPU).numpy().astype(float)
    sums, total = None, np.zeros(padded_size)
    for plane in product(*map(range, padded_size[:thin])):
        for start in product(*starts):
            cut = tuple(slice(at, at + own) for at, own in zip(start, patch, strict=True))
            (found,) = made_maps(torch.from_numpy(padded[(slice(None), *plane, *cut)])[None], [stage])
            weights = found.weights.numpy()
            sums = np.zeros((len(weights), *padded_size)) if sums is None else sums
            for voxel in product(*map(range, patch)):
                cell = tuple(i * cells // own for i, cells, own in zip(voxel, weights.shape[1:], patch, strict=True))
                place = (*plane, *(at + i for at, i in zip(start, voxel, strict=True)))
                sums[(slice(None), *place)] += weights[(slice(None), *cell)] * gaussian[voxel]
                total[place] += gaussian[voxel]
    assert sums is not None
    return (sums / total)[(slice(None), *(slice(at, at + own) for at, own in zip(before, size, strict=True)))]


@pytest.mark.parametrize(("shape", "patch"), SHAPES)
def test_stitching_is_the_weighted_mean_of_all_tiles(
    shape: tuple[int, ...], patch: tuple[int, ...], tiles: list[Tensor]
) -> None:
    image = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))
    found = list(stitched_maps(NETWORK, image, patch, ["a", "b"], CPU))
    assert [(each.stage, len(each.values)) for each in found] == [("a", 2), ("b", 3)]
    for each in found:
        assert each.values.dtype == np.float32 and each.values.shape[1:] == shape
        np.testing.assert_allclose(each.values, stitched_slowly(image.numpy(), patch, each.stage), atol=1e-5)
    # what does not depend on the tile is what it was
    np.testing.assert_allclose(found[1].values[0], image[0], atol=1e-6)
    assert tiles and all(tuple(tile.shape) == (1, 1, *patch) for tile in tiles)


@pytest.mark.parametrize(("shape", "patch"), SHAPES)
def test_uniform_attention_is_exactly_one(
    shape: tuple[int, ...], patch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ones = [AttentionMap("a", torch.ones(2, *(size // 2 for size in patch)))]
    monkeypatch.setattr(attention_stitching, "attention_maps", lambda *_: ones)
    (found,) = stitched_maps(NETWORK, torch.rand((1, *shape)), patch, ["a"], CPU)
    assert (found.values == 1).all()


def test_stages_that_do_not_fit_into_memory_wait_for_another_run(tiles: list[Tensor]) -> None:
    image = torch.rand((1, 9, 21, 14), generator=torch.Generator().manual_seed(0))
    at_once = list(stitched_maps(NETWORK, image, (4, 8, 6), ["a", "b"], CPU))
    number = len(tiles)
    assert number == len(Tiling((9, 21, 14), (4, 8, 6)).slices())
    one_by_one = list(stitched_maps(NETWORK, image, (4, 8, 6), ["a", "b"], CPU, sum_bytes=1))
    assert len(tiles) == 3 * number
    for first, second in zip(at_once, one_by_one, strict=True):
        assert first.stage == second.stage and np.array_equal(first.values, second.values)


def test_maps_of_the_volume_are_averaged_over_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter(torch.arange(8.0).reshape(4, 1, 1, 2, 1))

    def maps(_: object, tile: Tensor, __: Sequence[str]) -> list[AttentionMap]:
        return [
            AttentionMap("far", next(given), "volume", cell=(4, 8, 6)),
            AttentionMap("near", torch.ones(1, 2, 2, 2)),
        ]

    monkeypatch.setattr(attention_stitching, "attention_maps", maps)
    far, near = stitched_maps(NETWORK, torch.rand(1, 4, 20, 6), (4, 8, 6), ["far", "near"], CPU)
    assert (near.values == 1).all()
    # of the four tiles (0 + 2 + 4 + 6) / 4 and (1 + 3 + 5 + 7) / 4
    expected = np.broadcast_to(np.repeat([3.0, 4.0], 10)[:, None], (4, 20, 6))
    assert np.array_equal(far.values[0], expected)


def test_a_tile_counts_only_for_the_cells_that_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    given = iter([[1.0, nan, nan], [nan, nan, nan], [3.0, 5.0, nan], [nan, 0.0, nan]])

    def maps(*_: object) -> list[AttentionMap]:
        return [AttentionMap("far", torch.tensor(next(given)).reshape(1, 1, 3, 1), "volume", cell=(4, 8, 6))]

    monkeypatch.setattr(attention_stitching, "attention_maps", maps)
    (far,) = stitched_maps(NETWORK, torch.rand(1, 4, 20, 6), (4, 8, 6), ["far"], CPU)
    expected = np.broadcast_to(np.repeat([2.0, 2.5, nan], [6, 8, 6])[:, None], (4, 20, 6))
    assert np.array_equal(far.values[0], expected, equal_nan=True)


@pytest.mark.parametrize("shape", [(16, 56, 16), (16, 16, 16), (20, 40, 30)])
def test_uniform_attention_of_fines_tokens_is_one_in_all_sub_volumes(shape: tuple[int, ...]) -> None:
    network = FINE(1, 2, (16, 16, 16), volume_extent=(16, 56, 16), embed_dim=8, num_heads=2).eval()
    with torch.no_grad():
        network.seen[:] = True
        for module in network.modules():
            for name in ("qkv", "kv"):  # no token is more alike than another
                if hasattr(module, name):
                    getattr(module, name).weight.zero_()
                    getattr(module, name).bias.zero_()
    stages = [stage for stage in attention_stages(network) if stage.endswith(("-cells", "-volume"))]
    assert "encoder-0-0-cells" in stages and "encoder-0-0-volume" in stages
    for found in stitched_maps(network, torch.rand(1, *shape), (16, 16, 16), stages[:2], CPU):
        np.testing.assert_allclose(found.values, 1, rtol=1e-5)


@pytest.mark.parametrize(("shape", "patch"), SHAPES)
def test_tiles_and_padding_are_nnunets(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    tiling = Tiling(shape, patch)
    image = torch.rand((1, *shape))
    padded, inside = pad_nd_image(image, patch, "constant", {"value": 0}, True)  # pyright: ignore[reportArgumentType]
    assert torch.equal(tiling.padded(image), padded) and padded.shape[1:] == tiling.padded_shape  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    assert torch.equal(padded[(slice(None), *tiling.inside)], padded[tuple(inside)])  # pyright: ignore[reportArgumentType, reportCallIssue]
    predictor = nnUNetPredictor(device=CPU)
    predictor.configuration_manager = SimpleNamespace(patch_size=patch)  # pyright: ignore[reportAttributeAccessIssue]
    slicers = predictor._internal_get_sliding_window_slicers(tiling.padded_shape)
    assert [(slice(None), *place) for place in tiling.slices()] == slicers


@pytest.mark.parametrize(("shape", "patch"), SHAPES)
def test_the_tile_whose_centre_is_nearest_answers(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    tiling = Tiling(shape, patch)
    thin = 3 - len(patch)
    for voxel in product(*map(range, shape)):
        place, within = tiling.tile_of(voxel)
        there = [at + inside.start for at, inside in zip(voxel, tiling.inside, strict=True)]
        assert list(place[:thin]) == there[:thin]
        cut = place[thin:]
        assert all(0 <= at < size for at, size in zip(within, patch, strict=True))
        assert [each.start + at for each, at in zip(cut, within, strict=True)] == there[thin:]

        def distance(start: Sequence[int], there: list[int] = there) -> float:
            middle = np.array(start) + (np.array(patch) - 1) / 2
            return float(np.square(middle - np.array(there[thin:])).sum())

        assert distance([each.start for each in cut]) == min(map(distance, tiling.starts))


def test_a_voxel_sees_its_tile_or_the_whole_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def look(_: object, tile: Tensor, voxel: tuple[int, ...], stages: Sequence[str]) -> list[AttentionMap]:
        asked.append(voxel)
        grid = torch.arange(4.0).reshape(1, 1, 2, 2) + 1
        return [
            AttentionMap("near", tile[0]),
            AttentionMap("far", grid, "volume", "said", cell=(4, 8, 6)),
        ]

    monkeypatch.setattr(attention_stitching, "voxel_attention", look)
    image = torch.rand((1, 6, 20, 14)) + 1
    near, far = voxel_maps(NETWORK, image, (4, 8, 6), (5, 9, 1), ["near", "far"], CPU)
    tiling = Tiling((6, 20, 14), (4, 8, 6))
    place, within = tiling.tile_of((5, 9, 1))
    assert asked == [within]
    seen = np.zeros((6, 20, 14), dtype=bool)
    seen[place] = True
    assert np.array_equal(np.isnan(near.values[0]), ~seen)
    assert np.array_equal(near.values[0][seen], image[0].numpy()[seen])
    # two sub-volumes meet in the middle, and the outer ones go on to the ends
    expected = np.kron([[1.0, 2.0], [3.0, 4.0]], np.ones((10, 7)))
    assert np.array_equal(far.values[0], np.broadcast_to(expected, (6, 20, 14))) and far.note == "said"


def test_a_voxel_of_a_plane_sees_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_stitching, "voxel_attention", lambda _, tile, *__: [AttentionMap("a", tile[0])])
    image = torch.rand((1, 5, 6, 12))
    (found,) = voxel_maps(NETWORK, image, (8, 8), (2, 3, 11), ["a"], CPU)
    assert found.values.shape == (1, 5, 6, 12)
    seen = ~np.isnan(found.values[0])
    assert not seen[[0, 1, 3, 4]].any() and seen[2, :, 4:].all() and not seen[2, :, :4].any()
    assert np.array_equal(found.values[0][seen], image[0].numpy()[seen])


@pytest.mark.parametrize(("shape", "voxel"), [((6, 12, 10), (5, 3, 9)), ((3, 12, 10), (1, 11, 0))])
def test_a_voxel_of_a_network_on_a_grid_sees_its_block(
    shape: tuple[int, ...], voxel: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    planar = shape[0] == 3
    cell = (4, 4) if planar else (2, 4, 4)
    network = SimpleNamespace(attention_grid=None, patch_embed_size=cell, neighbourhood=(3,) * len(cell))
    asked: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def look(_: object, whole: Tensor, place: tuple[int, ...], __: Sequence[str]) -> list[AttentionMap]:
        asked.append((tuple(whole.shape), place))
        grid = [-(-size // edge) for size, edge in zip(whole.shape[2:], cell, strict=True)]
        return [AttentionMap("s1", torch.arange(float(np.prod(grid))).reshape(1, *grid), cell=cell)]

    monkeypatch.setattr(attention_stitching, "voxel_attention", look)
    (found,) = voxel_maps(network, torch.rand(1, *shape), (8,) * len(cell), voxel, ["s1"], CPU)
    assert asked == [((1, 1, *shape[planar:]), voxel[planar:])]
    for place in product(*map(range, shape)):
        cells = [at // edge for at, edge in zip(place[planar:], cell, strict=True)]
        own = [at // edge for at, edge in zip(voxel[planar:], cell, strict=True)]
        inside = max(abs(a - b) for a, b in zip(cells, own, strict=True)) <= 1 and place[:planar] == voxel[:planar]
        value = found.values[(0, *place)]
        assert value == np.ravel_multi_index(cells, (3, 3, 3)[planar:]) if inside else np.isnan(value)


def test_tiles_carry_their_position(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def maps(_: object, tile: Tensor, __: Sequence[str]) -> list[AttentionMap]:
        seen.append(tile[0, 1, 0, 3:5, 0].mean())
        return [AttentionMap("a", torch.ones(1, 1, 1, 1))]

    monkeypatch.setattr(attention_stitching, "attention_maps", maps)
    network = SimpleNamespace(position_axes=(1,), input_channels=1)
    list(stitched_maps(network, torch.rand(1, 4, 20, 6), (4, 8, 6), ["a"], CPU))
    # tiles begin at 0, 4, 8 and 12; the volume's middle is at 9.5 and that of a tile 3.5 behind its beginning
    assert [float(each) for each in seen] == [-6.0, -2.0, 2.0, 6.0]


def whole(cell: tuple[int, ...], calls: list[tuple]) -> SimpleNamespace:
    def attention_grid(image: Tensor, stages: list[int], query: str, include_self: bool) -> list[Tensor]:
        calls.append((stages, query, include_self))
        grid = [-(-size // edge) for size, edge in zip(image.shape[1:], cell, strict=True)]
        cells = torch.arange(float(np.prod(grid))).reshape(1, *grid)
        return [torch.cat([cells, image.mean() * torch.ones_like(cells)]) + stage for stage in stages]

    return SimpleNamespace(patch_embed_size=cell, attention_grid=attention_grid)


def test_a_network_of_whole_images_is_asked_once() -> None:
    calls: list[tuple] = []
    first, second = grid_maps(whole((2, 4, 4), calls), torch.rand(1, 5, 8, 6), ["s1", "s3"], "centre", False)
    assert calls == [([1, 3], "centre", False)]
    expected = np.kron(np.arange(12).reshape(3, 2, 2), np.ones((2, 4, 4)))[:5, :8, :6]
    assert np.array_equal(first.values[0], expected + 1) and np.array_equal(second.values[0], expected + 3)


def test_a_network_of_whole_planes_is_asked_for_each() -> None:
    calls: list[tuple] = []
    image = torch.rand(1, 3, 5, 6)
    parts: list[None] = []
    count: Callable[[], None] = lambda: parts.append(None)  # noqa: E731
    (found,) = grid_maps(whole((4, 4), calls), image, ["s2"], "all", True, count)
    assert len(calls) == len(parts) == 3 and found.values.shape == (2, 3, 5, 6)
    np.testing.assert_allclose(found.values[1, :, 0, 0], image[0].mean((1, 2)) + 2, rtol=1e-6)
    assert np.array_equal(found.values[0, 1], np.kron([[0, 1], [2, 3]], np.ones((4, 4)))[:5, :6] + 2)
