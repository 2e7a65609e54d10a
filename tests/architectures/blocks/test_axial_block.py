from itertools import product
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention
from nnunet_attn.architectures.blocks.axial_block import AxialBlock, average_pool
from nnunet_attn.architectures.blocks.axial_branch import AxialBranch, AxialStem


@pytest.mark.parametrize(
    ("size", "stride"),
    [
        ((4, 6), (2, 2)),
        ((5, 7), (2, 2)),
        ((5, 4, 3), (1, 2, 2)),
        ((3, 9, 2), (2, 4, 1)),
        ((1, 5), (2, 2)),
        ((1, 9, 2), (2, 4, 1)),
    ],
)
def test_average_of_cells_of_which_the_last_may_be_smaller(size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    pooled = average_pool(x, stride)
    shape = [-(-voxels // step) for voxels, step in zip(size, stride, strict=True)]
    assert pooled.shape == (2, 3, *shape)
    for place in product(*map(range, shape)):
        cell = x[(..., *(slice(at * step, (at + 1) * step) for at, step in zip(place, stride, strict=True)))]
        torch.testing.assert_close(pooled[(..., *place)], cell.flatten(2).mean(-1))


def test_a_stride_of_one_is_no_average() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert average_pool(x, (1, 1)) is x


@pytest.mark.parametrize(("size", "axes"), [((5, 6), [0, 1]), ((5, 6, 7), [1, 2, 0])])
def test_attends_along_height_width_and_then_depth(size: tuple[int, ...], axes: list[int]) -> None:
    block = AxialBlock(4, 8, size, (2,) * len(size), num_heads=2)
    layers = [layer for layer in block.layers if isinstance(layer, GatedAxialAttention)]
    assert [layer.axis for layer in layers] == axes
    assert [layer.length for layer in layers] == [size[axis] for axis in axes]
    order: list[Any] = []
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: order.append(module.axis))
    assert block(torch.randn(2, 4, *size)).shape == (2, 16, *(-(-voxels // 2) for voxels in size))
    assert order == axes


def test_shortcut_is_a_convolution_only_where_shapes_change() -> None:
    assert isinstance(AxialBlock(16, 8, (4, 4), (1, 1), num_heads=2).shortcut, torch.nn.Identity)
    for channels, stride in ((12, (1, 1)), (16, (1, 2))):
        assert isinstance(AxialBlock(channels, 8, (4, 4), stride, num_heads=2).shortcut, torch.nn.Sequential)


def test_stem_averages_and_spares_coarse_axes() -> None:
    stem = AxialStem(2, 4, 8, (1, 2, 2), (1, 2, 1)).eval()
    assert stem.conv1.kernel_size == (3, 7, 7) and stem.conv1.stride == (1, 2, 2)
    x = torch.randn(1, 2, 3, 14, 9)
    with torch.no_grad():
        got = stem(x)
        stem.pool = (1, 1, 1)
        expected = F.avg_pool3d(stem(x), (1, 2, 1), ceil_mode=True)
    assert got.shape == (1, 4, 3, 4, 5)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("bottom", [False, True])
def test_branch_gives_one_map_for_every_stage_but_the_deepest(bottom: bool) -> None:
    strides: Any = [(1, 2, 2), (1, 2, 2), (2, 2, 2), *([(2, 2, 2)] if bottom else [])]
    branch = AxialBranch(1, (6, 20, 26), strides, (8, 8, 16), (1, 2, 1), (4, 8), (1, 1, 1), 4, "gated", "pre_norm")
    assert branch.sizes == [(6, 10, 13), (6, 5, 7), (3, 3, 4)]
    maps = branch(torch.randn(2, 1, 6, 20, 26))
    assert [tuple(each.shape[1:]) for each in maps] == [(8, 6, 20, 26), (16, 6, 10, 13), (16, 6, 5, 7)]
    assert len(branch.decoder) == 3 + bottom


def test_a_single_voxel_of_a_batch_of_one_is_refused_in_training_only() -> None:
    block = AxialBlock(4, 8, (2, 2), (2, 2), num_heads=2)
    with pytest.raises(ValueError, match=r"reduces \(1, 4, 2, 2\) to a single voxel of a batch of one.*larger batch"):
        block(torch.randn(1, 4, 2, 2))
    assert block(torch.randn(2, 4, 2, 2)).shape == (2, 16, 1, 1)
    assert block.eval()(torch.randn(1, 4, 2, 2)).shape == (1, 16, 1, 1)
