import re
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_attn.architectures.nnformer import NNFormer, NNFormer2021
from nnunet_attn.architectures.swin_geometry import (
    checked_geometry,
    checked_windows,
    planned_embedding,
    planned_strides,
)
from nnunet_attn.architectures.swin_network import planned_width

ALL_2 = (2, 2, 2)


@pytest.mark.parametrize(
    ("patch", "embedding"),
    [
        ((64, 128, 128), (2, 4, 4)),  # published for BCV
        ((128, 128, 128), (4, 4, 4)),  # published for brain tumours
        ((14, 160, 160), (1, 4, 4)),  # published for ACDC
        ((96, 128, 97), (2, 4, 4)),  # from more than 3/4 on
        ((32, 128, 33), (1, 4, 2)),  # from more than 1/4 on
        ((1, 3, 4), (1, 2, 4)),
    ],
)
def test_embedding_is_planned_by_the_longest_axis(patch, embedding) -> None:
    assert planned_embedding(patch) == embedding


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        ((32, 32, 32), (ALL_2, ALL_2, ALL_2)),
        ((16, 14, 7), ((2, 2, 1), (2, 1, 1), (1, 1, 1))),
        ((6, 8, 40), ((1, 2, 2), (1, 1, 2), (1, 1, 2))),
    ],
)
def test_strides_halve_long_even_axes(size, strides) -> None:
    assert planned_strides(size) == strides


def test_published_sizes() -> None:
    geometry = checked_geometry((64, 128, 128))
    assert geometry.sizes == ((32, 32, 32), (16, 16, 16), (8, 8, 8), (4, 4, 4))
    assert geometry.stem_strides == ((2, 2, 2), (1, 2, 2))
    assert geometry.padded == geometry.patch_size
    assert checked_geometry((14, 160, 160)).stem_strides == ((1, 2, 2), (1, 2, 2))


def test_sizes_behind_padding() -> None:
    geometry = checked_geometry((18, 30, 22), (2, 4, 4), ((1, 2, 2), (1, 2, 1), (1, 1, 1)))
    assert geometry.padded == (18, 32, 24)
    assert geometry.sizes == ((9, 8, 6), (9, 4, 3), (9, 2, 3), (9, 2, 3))
    assert geometry.output_size(0, (2, 4, 4)) == (18, 30, 22)
    assert geometry.output_size(1, (2, 4, 4)) == (18, 15, 11)
    assert geometry.output_size(2, (2, 4, 4)) == (18, 8, 11)  # 7.5 and 11


@pytest.mark.parametrize("network", [NNFormer, NNFormer2021])
@pytest.mark.parametrize("patch", [(8, 30, 22), (16, 16, 16), (5, 17, 20), (3, 24, 32)])
def test_outputs_are_as_large_as_the_targets_that_nnunet_makes(network, patch) -> None:
    built = network(1, 2, patch, embed_dim=4, num_heads=1, deep_supervision=True).eval()
    with torch.no_grad():
        levels = built(torch.randn(1, 1, *patch))
    scales = built.deep_supervision_scales
    assert len(levels) == len(scales) == 3
    assert scales[0] == [1, 1, 1]
    for level, scale in zip(levels, scales, strict=True):
        assert tuple(level.shape[2:]) == tuple(np.round(np.array(patch) * np.array(scale)).astype(int))
        assert level.isfinite().all()


def test_voxels_beyond_the_patch_are_cut_off_at_its_ends() -> None:
    patch = (6, 14, 16)
    torch.manual_seed(0)
    built = NNFormer(1, 2, patch, embed_dim=4, num_heads=1).double().eval()
    assert built.geometry.padded == (6, 16, 16)
    whole = NNFormer(1, 2, (6, 16, 16), embed_dim=4, num_heads=1).double().eval()
    whole.load_state_dict(built.state_dict())
    x = torch.randn(1, 1, *patch, dtype=torch.float64)
    padded = torch.cat([x, torch.zeros(1, 1, 6, 2, 16, dtype=torch.float64)], 3)
    with torch.no_grad():
        torch.testing.assert_close(built(x), whole(padded)[:, :, :, :14], rtol=1e-12, atol=1e-12)


def test_width_is_planned_by_the_longest_axis() -> None:
    assert planned_width((64, 128, 128)) == planned_width((16, 96, 32)) == 192
    assert planned_width((95, 95, 95)) == 96
    with torch.device("meta"):
        for patch, width, heads in (((16, 16, 96), 192, 6), ((32, 64, 64), 96, 3)):
            built = NNFormer(1, 2, patch)
            assert (built.embed_dim, built.num_heads) == (width, heads)
            assert built.stem.norm.normalized_shape == (width,)


def test_windows_are_those_of_each_axis_and_at_most_the_map() -> None:
    built: Any = NNFormer(
        1, 2, (8, 32, 32), 4, 1, windows=[[1, 4, 4], 2, 4, (1, 2, 2)], decoder_windows=[2, [4, 2, 2], [2, 4, 16]]
    )
    assert built.geometry.sizes == ((8, 8, 8), (4, 4, 4), (4, 4, 4), (4, 4, 4))
    assert [[block.window for block in stage.blocks] for stage in built.encoder] == [
        [(1, 4, 4)] * 2,
        [ALL_2] * 2,
        [(4, 4, 4)] * 2,
        [(1, 2, 2)] * 2,
    ]
    assert [stage.blocks[1].window for stage in built.decoder.stages] == [ALL_2, (4, 2, 2), (2, 4, 8)]
    assert [stage.blocks[1].shift for stage in built.encoder] == [(0, 2, 2), (1, 1, 1), (0, 0, 0), (0, 1, 1)]
    assert [stage.blocks[1].shift for stage in built.decoder.stages] == [(1, 1, 1), (0, 1, 1), (1, 2, 0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": (16, 16)}, "patch_size must be 3 integers of at least 1, got (16, 16)"),
        ({"patch_size": (16, 0, 16)}, "(16, 0, 16)"),
        ({"embedding": (3, 4, 4)}, "embedding must be 1, 2 or 4 per axis, got (3, 4, 4)"),
        ({"strides": (ALL_2, ALL_2)}, "strides must be 3 lists"),
        ({"strides": (ALL_2, ALL_2, (1, 2, 4))}, "strides[2] must be 1 or 2 per axis, got (1, 2, 4)"),
        ({"strides": (ALL_2, (2, 2), ALL_2)}, "strides[1] must be 3 integers of at least 1, got (2, 2)"),
        (
            {"patch_size": (16, 24, 16), "embedding": (4, 4, 4), "strides": (ALL_2, ALL_2, (1, 1, 1))},
            "strides[1] (2, 2, 2) do not divide the map of stage 1, (2, 3, 2) (patch (16, 24, 16), embedding (4, 4, 4)",
        ),
    ],
)
def test_illegal_geometries_are_refused_with_the_numbers(arguments, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        checked_geometry(**{"patch_size": (16, 16, 16), **arguments})


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([4, 4], "sizes must be 3 windows, got [4, 4]"),
        ([4, 0, 4], "sizes[1] must be 3 integers of at least 1, got (0, 0, 0)"),
        ([4, 4, [4, 4]], "sizes[2]"),
    ],
)
def test_illegal_windows_are_refused_with_the_numbers(windows, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        checked_windows("sizes", windows, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 5, "num_heads": 1}, "embed_dim must be even and a multiple of num_heads, got 5 for 1 heads"),
        ({"embed_dim": 8, "num_heads": 3}, "got 8 for 3 heads"),
        ({"embed_dim": 0}, "embed_dim must be an integer of at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be an integer of at least 1, got 0"),
        ({"depths": (2, 2, 2)}, "depths must be 4 integers of at least 1, got (2, 2, 2)"),
        ({"decoder_depths": (2, 2, 0)}, "decoder_depths must be 3 integers of at least 1, got (2, 2, 0)"),
        ({"drop_path": 1.0}, "drop_path must be at least 0 and below 1, got 1.0"),
        ({"windows": (4, 4, 4)}, "windows must be 4 windows"),
        ({"decoder_windows": (4, 4, 4, 4)}, "decoder_windows must be 3 windows"),
    ],
)
def test_illegal_options_are_refused_with_the_numbers(options, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)), torch.device("meta"):
        NNFormer(1, 2, (16, 16, 16), **options)
