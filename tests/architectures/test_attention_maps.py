"""Each network's maps of attention against dense matrices over all places, made by coordinates, in float64."""

from contextlib import ExitStack
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_attn.architectures import attention_axial
from nnunet_attn.architectures.attention import attention_maps, attention_stages, voxel_attention
from nnunet_attn.architectures.attention_axial import AxialReader
from nnunet_attn.architectures.attention_window import WindowReader
from nnunet_attn.architectures.blocks.axial_block import AxialBlock
from nnunet_attn.architectures.blocks.swin_block import SkipAttentionBlock, SwinBlock
from nnunet_attn.architectures.blocks.window_attention import padded_size
from nnunet_attn.architectures.gasa_unet import GASAUNet
from nnunet_attn.architectures.medt import AxialUNet, LoGo, MedT, MedTLocal
from nnunet_attn.architectures.nnformer import NNFormer
from nnunet_attn.architectures.patch_transformer import PatchTransformer
from tests.made.axial_layer import draw
from tests.made.plans import architecture
from tests.reference.attention_maps import all_places, line_matrix, window_matrix

NARROW: dict[str, Any] = {"features": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_heads": 4, "stem_channels": [4, 8]}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def read(reader: Any, run: Any, tile: Tensor, voxel: tuple[int, ...] | None = None) -> list[Tensor]:
    reader.wanted, reader.voxel, reader.tile = reader.stages, voxel, tile
    with torch.no_grad(), ExitStack() as stack:
        reader.attach(stack)
        run()
        reader.finish()
    return [reader.found[stage].weights for stage in reader.stages]


@pytest.mark.parametrize("position", ["after", "before"])
def test_gasa_spreads_tokens_over_their_slices(position: str) -> None:
    entry = architecture([8, 6, 12], [[1, 1, 1], [2, 1, 2]])["arch_kwargs"]
    network = GASAUNet(1, 2, (8, 6, 12), embed_dim=8, num_heads=2, position=position, **entry).double().eval()
    draw(network.gasa)
    size, tile, captured = (4, 6, 6), torch.randn(1, 1, 8, 6, 12, dtype=torch.float64), []
    handle = network.gasa.qkv.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    network(tile)
    handle.remove()
    weights = network.gasa.attention_weights(captured[0]).detach()[0]
    assert_equal(weights.sum((1, 2)), torch.full((2,), 16.0, dtype=torch.float64))

    maps = {each.stage: each.weights for each in attention_maps(network, tile)}
    rows = {each.stage: each.weights for each in voxel_attention(network, tile, (7, 2, 5))}  # slices 3, 2 and 2
    assert list(maps) == ["bottleneck-axis0", "bottleneck-axis1", "bottleneck-axis2", "bottleneck-mean"]
    for place in all_places(size):
        tokens = [place[0], 4 + place[1], 10 + place[2]]
        at = (slice(None), *place)
        for axis, token in enumerate(tokens):
            assert_equal(maps[f"bottleneck-axis{axis}"][at], weights[:, :, token].sum(1))
            query = (3, 4 + 2, 10 + 2)[axis]
            assert_equal(rows[f"bottleneck-axis{axis}"][at], weights[:, query, tokens].mean(1) * 16)
        assert_equal(
            maps["bottleneck-mean"][at], torch.stack([maps[f"bottleneck-axis{axis}"][at] for axis in range(3)]).mean(0)
        )
    slices = [maps[f"bottleneck-axis{axis}"].mean((1, 2, 3)) * length for axis, length in enumerate(size)]
    assert_equal(torch.stack(slices).sum(0), torch.full((2,), 16.0, dtype=torch.float64))


def test_maps_of_axial_attention_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    network = MedT(1, 2, (32, 48), grid=[2, 1], local_stem=4, **NARROW).double()
    tile = torch.randn(1, 1, 32, 48, dtype=torch.float64)
    whole = attention_maps(network, tile) + voxel_attention(network, tile, (20, 30))
    monkeypatch.setattr(attention_axial, "_CHUNK_ELEMENTS", 4 * 24 * 24 * 3)  # three of the longest lines
    chunked = attention_maps(network, tile) + voxel_attention(network, tile, (20, 30))
    for a, b in zip(whole, chunked, strict=True):
        assert_equal(a.weights, b.weights)


def test_tiles_of_another_size_than_the_patch() -> None:
    network = AxialUNet(1, 2, (32, 32), **NARROW).double()
    for each in attention_maps(network, torch.randn(1, 1, 30, 20, dtype=torch.float64)):
        step = {"0": 2, "1": 2, "2": 4, "3": 8}[each.stage.split("-")[1]]
        assert each.cell == (step, step) and each.weights.shape[1:] == (-(-30 // step), -(-20 // step))
        assert each.expanded((30, 20)).shape == (4, 30, 20)
        assert_equal(each.weights.mean((1, 2)), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("variant", ["gated", "plain", "no_position"])
@pytest.mark.parametrize("size", [(4, 5), (3, 2, 4)], ids=["2d", "3d"])
def test_axial_maps_are_columns_of_lines_and_products_of_layers(size: tuple[int, ...], variant: Any) -> None:
    block = AxialBlock(6, 16, size, (2,) * len(size), num_heads=4, variant=variant).double()
    draw(block)
    block.eval()
    x = torch.randn(1, 6, *size, dtype=torch.float64)
    inputs: list[Tensor] = []
    handles = [layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for layer in block.layers]
    block(x)
    for handle in handles:
        handle.remove()

    matrices = []
    for layer, given in zip(block.layers, inputs, strict=True):
        axis: int = layer.axis  # pyright: ignore

        def of_line(place: tuple[int, ...], layer: Any = layer, given: Tensor = given, axis: int = axis) -> Tensor:
            line = given[0][(slice(None), *(slice(None) if other == axis else at for other, at in enumerate(place)))]
            return layer.attention_weights(line[None])[0].detach()

        matrices.append(line_matrix(size, axis, of_line))

    names = {2: ["height", "width"], 3: ["height", "width", "depth"]}[len(size)]
    image = torch.zeros(1, 1, *(4 * length - 1 for length in size))
    reader = AxialReader(block, "b-0-1", (4,) * len(size))
    assert reader.stages == tuple(f"b-0-1-{name}" for name in names)
    for found, matrix in zip(read(reader, lambda: block(x), image), matrices, strict=True):
        assert_equal(found.flatten(1), matrix.sum(1))
        assert_equal(found.sum((*range(1, found.ndim),)), torch.full((4,), float(prod(size)), dtype=torch.float64))

    place = tuple(length - 1 for length in size)
    voxel = tuple(4 * step + 2 for step in place)
    query = all_places(size).index(place)
    reader = AxialReader(block, "b-0-1", (4,) * len(size))
    found = read(reader, lambda: block(x), image, voxel)
    for number, of_voxel in enumerate(found):
        expected = matrices[number][:, query]
        for earlier in reversed(matrices[:number]):
            expected = expected @ earlier.mean(0)
        tokens = prod(size[layer.axis] for layer in block.layers[: number + 1])  # pyright: ignore
        assert_equal(of_voxel.flatten(1), expected * tokens)
    assert_equal(found[-1].mean((*range(1, found[-1].ndim),)), torch.ones(4, dtype=torch.float64))


def test_local_maps_lie_where_their_cells_do() -> None:
    """Each cell of the grid has the maps that it would have as an image of its own."""
    whole = MedTLocal(1, 2, (20, 28), grid=[2, 2], local_stem=4, **NARROW).double().eval()
    cell = MedTLocal(1, 2, (10, 14), grid=[1, 1], local_stem=4, **NARROW).double().eval()
    with torch.no_grad():
        for name, weight in whole.named_parameters():
            if "bn_similarity" in name:
                weight.fill_(100)  # attention that is far from uniform
    cell.load_state_dict(whole.state_dict())
    tile = torch.randn(1, 1, 20, 28, dtype=torch.float64)
    together = [each.expanded((20, 28)) for each in attention_maps(whole, tile)]
    assert attention_stages(whole) == attention_stages(cell)
    for row, column in all_places((2, 2)):
        part = (..., slice(10 * row, 10 * row + 10), slice(14 * column, 14 * column + 14))
        alone = attention_maps(cell, tile[part])
        for found, expected in zip(together, alone, strict=True):
            assert_equal(found[part], expected.expanded((10, 14)))
    for found in together:
        assert (found[:, :10, :14] - found[:, 10:, 14:]).abs().max() > 1e-6, "cells differ"


def test_a_voxel_of_the_local_branch_sees_its_cell_only() -> None:
    network = LoGo(1, 2, (18, 26), grid=[4, 2], local_stem=4, **NARROW).double().eval()  # cells of 5 x 13 voxels
    tile = torch.randn(1, 1, 18, 26, dtype=torch.float64)
    for voxel, rows, columns in (
        ((4, 12), slice(0, 5), slice(0, 13)),
        ((5, 13), slice(5, 10), slice(13, 26)),
        ((17, 25), slice(15, 18), slice(13, 26)),
    ):
        for each in voxel_attention(network, tile, voxel):
            inside = torch.zeros(18, 26, dtype=torch.bool)
            inside[rows, columns] = True
            found = each.expanded((18, 26))
            if each.stage.startswith("global"):
                assert found.shape[1:] == (18, 26) and (each.stage.endswith("height") or found.min() > 0)
            elif each.stage.endswith("width"):
                assert torch.equal(found.sum(0) > 0, inside), "all layers of a block: the whole cell"
            else:
                assert (found.sum(0) > 0)[inside].any() and not (found.sum(0) > 0)[~inside].any()


def reference_windows(block: SwinBlock, x: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the dense attention of a block's padded map, and which of its places are the map's."""
    full, attention = padded_size(block.size, block.window), block.attn
    padded = []
    for each in (x, x if source is None else source):
        whole = torch.zeros(*full, each.shape[-1], dtype=each.dtype)
        whole[tuple(slice(0, length) for length in block.size)] = block.norm1(each)[0].detach()
        padded.append(whole.flatten(0, 2))
    if source is None:
        query, key, _ = attention.qkv(padded[0]).detach().chunk(3, -1)
    else:
        query, key = padded[0], attention.kv(padded[1]).detach().chunk(2, -1)[0]
    _, second, third = (2 * length - 1 for length in block.window)

    def index(offset: tuple[int, ...]) -> int:
        first, middle, last = (step + length - 1 for step, length in zip(offset, block.window, strict=True))
        return (first * second + middle) * third + last

    heads = (query.unflatten(-1, (attention.num_heads, -1)), key.unflatten(-1, (attention.num_heads, -1)))
    matrix, places = window_matrix(*heads, attention.relative_bias.detach(), index, full, block.window, block.shift)
    inside = [all(at < length for at, length in zip(place, block.size, strict=True)) for place in places]
    return matrix, torch.tensor(inside)


@pytest.mark.parametrize("kind", ["plain", "shifted", "skip"])
def test_window_maps_are_columns_at_the_places_before_the_shift(kind: str) -> None:
    size, window, cell = (3, 6, 4), (2, 3, 4), (2, 4, 1)  # padded along the first axis; one window along the last
    block = (SkipAttentionBlock if kind == "skip" else SwinBlock)(4, 2, size, window, kind == "shifted")
    block = block.double().eval()
    draw(block)
    x, skip = torch.randn(2, 1, *size, 4, dtype=torch.float64)
    assert block.shift == ((1, 1, 0) if kind == "shifted" else (0, 0, 0))

    def run() -> None:
        block.forward_pair(x, skip) if isinstance(block, SkipAttentionBlock) else block(x)

    matrix, inside = reference_windows(block, x, skip if kind == "skip" else None)
    assert_equal(matrix.sum((1, 2)), torch.full((2,), 96.0, dtype=torch.float64))
    image = torch.zeros(1, 1, 5, 24, 4)
    (found,) = read(WindowReader(block, "w", cell), run, image)
    assert_equal(found.flatten(1), matrix.sum(1)[:, inside])

    for place in [(0, 0, 0), (2, 5, 3), (1, 3, 2)]:
        voxel = tuple(step * length for step, length in zip(place, cell, strict=True))
        (found,) = read(WindowReader(block, "w", cell), run, image, voxel)
        query = all_places((4, 6, 4)).index(place)
        assert_equal(found.flatten(1), matrix[:, query, inside] * 24)


def test_names_go_with_the_blocks_in_the_order_of_running() -> None:
    network: Any = NNFormer(1, 2, (16, 16, 16), embed_dim=8, num_heads=2).eval()
    tile = torch.randn(1, 1, 16, 16, 16)
    before = attention_maps(network, tile)
    for name, block in (
        ("encoder-2-1", network.encoder[2].blocks[1]),
        ("decoder-0-0", network.decoder.stages[0].blocks[0]),
        ("decoder-2-1", network.decoder.stages[2].blocks[1]),
    ):
        with torch.no_grad():
            block.attn.relative_bias.normal_(std=3)
        after = attention_maps(network, tile)
        differing = [
            a.stage for a, b in zip(after, before, strict=True) if not torch.allclose(a.weights, b.weights, 1e-5, 1e-5)
        ]
        assert differing[0] == name
        before = after


def test_names_of_medt_tell_the_branch() -> None:
    network = MedT(1, 2, (32, 32), grid=[2, 1], local_stem=4, **NARROW).eval()
    tile = torch.randn(1, 1, 32, 32)
    before = attention_maps(network, tile)
    with torch.no_grad():
        network.local_branch.stages[1][0].layers[1].bn_similarity.weight.mul_(20)  # pyright: ignore
    after = attention_maps(network, tile)
    differing = [a.stage for a, b in zip(after, before, strict=True) if not torch.equal(a.weights, b.weights)]
    assert differing[0] == "local-1-0-width" and all(stage.startswith("local") for stage in differing)


@pytest.mark.parametrize("dims", [2, 3])
def test_patch_transformer_voxel_is_the_centre_row_of_its_block(dims: int) -> None:
    options: Any = {"embed_dim": 16, "depth": 2, "num_heads": 2, "head_dim": 8, "mlp_dim": 16}
    network = PatchTransformer(1, 2, (8,) * dims, (4, 2, 4)[:dims], (3, 5, 3)[:dims], **options).double()
    with torch.no_grad():
        network.embed.weight.mul_(30)
    tile = torch.randn(1, 1, *(10, 9, 8)[:dims], dtype=torch.float64)
    voxel, cell, count = (9, 3, 0)[:dims], (2, 1, 0)[:dims], prod((3, 5, 3)[:dims])
    grid = (3, 5, 2)[:dims]
    maps = voxel_attention(network, tile, voxel)
    assert [each.stage for each in maps] == attention_stages(network) == ["s1", "s2"]
    for each, matrix in zip(maps, network.block_attention(tile, cell), strict=True):
        assert each.weights.shape == (2, *grid) and each.place(voxel, tile.shape[2:]) == cell
        expected = torch.zeros(2, *grid, dtype=torch.float64)
        for number, offset in enumerate(all_places((3, 5, 3)[:dims])):
            at = tuple(own + step - n // 2 for own, step, n in zip(cell, offset, (3, 5, 3), strict=False))
            if all(0 <= step < length for step, length in zip(at, grid, strict=True)):
                expected[(slice(None), *at)] = matrix[:, count // 2, number] * count
        assert_equal(each.weights, expected)
    for each, expected in zip(attention_maps(network, tile), network.attention_grid(tile), strict=True):
        assert torch.equal(each.weights, expected)
