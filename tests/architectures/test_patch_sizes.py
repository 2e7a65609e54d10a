"""The patch transformer at the sizes of its paper, what the plans decide, and what it refuses."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nnunet_attn.architectures import patch_transformer
from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.patch_transformer import PatchTransformer
from nnunet_attn.architectures.registry import network_named
from tests.made.patch_network import image, slow, small

COUNTS = [
    ({}, 45_686_784),
    ({"mlp_dim": 2048}, 60_374_016),
    ({"mlp_dim": 4096}, 89_748_480),
    ({"norm": "none"}, 45_686_784 - 30_720),
    ({"norm": "post"}, 45_686_784 - 2_048),
    ({"neighbourhood": 5}, 45_686_784 + 98 * 1024),
    ({"position": "none"}, 45_686_784 - 27 * 1024),
    ({"position": "fixed"}, 45_686_784 - 27 * 1024),
    ({"depth": 10}, 45_686_784 + 3 * 6_297_600),
    ({"depth": 4}, 45_686_784 - 3 * 6_297_600),
    ({"num_heads": 8}, 45_686_784 + 7 * 4 * 1024 * 1024),
    ({"num_heads": 1}, 45_686_784 - 7 * 4 * 1024 * 768),
    ({"num_heads": 8, "head_dim": 128}, 45_686_784),
    ({"num_heads": 1, "head_dim": 1024}, 45_686_784),
    # 26 more tokens reach the output layer, for 2 classes of 512 voxels
    ({"output": "flatten"}, 45_686_784 + 26 * 1024 * 1024),
]


@pytest.mark.parametrize(("options", "expected"), COUNTS, ids=[str(options) for options, _ in COUNTS])
def test_parameters_at_the_sizes_of_the_paper(options: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        network = PatchTransformer(1, 2, (96, 96, 96), 8, **options)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def counted(network: PatchTransformer, x: Tensor, slowly: bool) -> int:
    """Multiply-adds by PyTorch's counter, on tensors without data."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        slow(network).block(x[0]) if slowly else network(x)
    return counter.get_total_flops() // 2


MACS = [
    # options, multiply-adds of a block one by one, and thousands per labelled voxel: one by one, and shared
    ({}, 1_214_740_480, 2373, 2024),
    ({"mlp_dim": 2048}, 1_611_102_208, 3147, 2692),
    ({"mlp_dim": 4096}, 2_403_825_664, 4695, 4027),
    ({"neighbourhood": 5}, 5_795_608_576, 11320, 9608),
]


@pytest.mark.parametrize(("options", "naive", "naive_per_voxel", "shared_per_voxel"), MACS, ids=str)
def test_multiply_adds_at_the_sizes_of_the_paper(
    options: dict[str, Any], naive: int, naive_per_voxel: int, shared_per_voxel: int
) -> None:
    with torch.device("meta"):
        network = PatchTransformer(1, 2, (96, 96, 96), 8, **options)
        edge = 8 * network.neighbourhood[0]
        one_block, crop = torch.empty(1, 1, edge, edge, edge), torch.empty(1, 1, 32, 32, 32)
    width, hidden, tokens = 1024, network.mlp_dim, math.prod(network.neighbourhood)
    stage = tokens * (4 * width * width + 2 * width * hidden) + 2 * tokens * tokens * width
    embedded, labelled = 512 * width, width * 1024
    assert counted(network, one_block, slowly=True) == tokens * embedded + 7 * stage + labelled == naive
    assert round(naive / 512 / 1000) == naive_per_voxel
    # of one token: queries, keys and values absorbed, output, hidden layer; similarities and sums of 4 heads
    last = 4 * width * width + 2 * width * hidden + 2 * 4 * tokens * width
    shared = embedded + 6 * stage + last + labelled
    assert counted(network, crop, slowly=False) == 4**3 * shared
    assert round(shared / 512 / 1000) == shared_per_voxel


def test_multiply_adds_in_2d() -> None:
    with torch.device("meta"):
        network = PatchTransformer(1, 2, (512, 512), 16)
        one_block, crop = torch.empty(1, 1, 48, 48), torch.empty(1, 1, 512, 512)
    assert round(counted(network, one_block, slowly=True) / 16**2 / 1000) == 1564
    assert round(counted(network, crop, slowly=False) / 512**2 / 1000) == 1359
    assert sum(parameter.numel() for parameter in network.parameters()) == 44_881_408


@pytest.mark.parametrize(
    ("options", "megabytes"), [({}, 6.3), ({"mlp_dim": 4096}, 8.3), ({"checkpointing": True}, 0.8)], ids=str
)
def test_memory_of_a_block_in_training(options: dict[str, Any], megabytes: float) -> None:
    network = PatchTransformer(1, 2, (96, 96, 96), 8, **options)
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        network(torch.randn(1, 1, 24, 24, 32), valid=True)  # two blocks
    assert round(sum(kept.values()) / 2 / 1e6, 1) == megabytes


@pytest.mark.parametrize(
    ("patch", "spacing", "expected"),
    [
        ((96, 96, 96), None, [8, 8, 8]),
        ((40, 224, 224), (2.5, 0.8, 0.8), [4, 14, 14]),
        ((40, 56, 40), (1.0, 1.0, 1.0), [8, 8, 8]),
        ((20, 320, 256), (3.0, 0.5, 0.5), [2, 16, 16]),  # targets 2.4 and 14.5
        ((6, 24, 16), None, [6, 8, 8]),
        ((37, 64, 64), None, [8, 8, 8]),
        ((512, 512), None, [16, 16]),
        ((512, 448), (1.0, 0.5), [8, 28]),  # targets 11.3 and 22.6: 8 and 16, 16 and 28 are the divisors around
        ((64, 512), (3.0, 0.25), [4, 32]),
    ],
)
def test_patches_follow_from_the_plans(patch: tuple[int, ...], spacing: Any, expected: list[int]) -> None:
    plan = PlannedUNet(patch, "", {}, spacing=spacing)
    assert PatchTransformer.plan_arguments(plan) == {"patch_size": list(patch), "patch_embed_size": expected}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": (8,)}, r"patch_size must have 2 or 3 numbers, got \(8,\)"),
        ({"patch_embed_size": (4, 2)}, r"patch_embed_size must be 3 integers of at least 1.*\(4, 2\)"),
        ({"patch_embed_size": 0}, r"patch_embed_size must be 3 integers of at least 1.*got 0"),
        ({"neighbourhood": (3, 4, 3)}, r"neighbourhood must be odd.*\(3, 4, 3\)"),
        ({"num_heads": 0}, r"num_heads must be an integer of at least 1, got 0"),
        ({"depth": 0}, r"depth must be an integer of at least 1, got 0"),
        ({"chunk_size": 0}, r"chunk_size must be an integer of at least 1, got 0"),
        ({"norm": "layer"}, r"norm must be one of pre, post, none, got 'layer'"),
        ({"scale": "both"}, r"scale must be one of inside, outside, got 'both'"),
        ({"position": "sine"}, r"position must be one of learned, fixed, none, got 'sine'"),
        ({"output": "center"}, r"output must be one of centre, flatten, got 'center'"),
        ({"dropout": 1.0}, r"dropout must be at least 0 and below 1, got 1.0"),
    ],
)
def test_illegal_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_illegal_inputs_are_named() -> None:
    network = small()
    with pytest.raises(ValueError, match=r"2 channels and 3 axes, got .* = \(1, 1, 8, 8, 8\)"):
        network(torch.zeros(1, 1, 8, 8, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"2 channels and 3 axes, got .* = \(1, 2, 8, 8\)"):
        network(torch.zeros(1, 2, 8, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"axis 0 must have a multiple of 4 voxels, at least 12 .*\(8, 10, 12\)"):
        network(image(8, 10, 12), valid=True)
    with pytest.raises(ValueError, match=r"axis 1 must have a multiple of 2 voxels, at least 10 .*\(12, 11, 12\)"):
        network(image(12, 11, 12), valid=True)
    with pytest.raises(ValueError, match=r"slab_cells must be an integer of at least 1, got 0"):
        network.grid_forward(image(8, 8, 8), 0)
    with pytest.raises(ValueError, match=r"below a patch of \(4, 2, 4\) voxels along each axis, got \(0, 2, 0\)"):
        network.grid_forward(image(8, 8, 8), offset=(0, 2, 0))


def test_chunks_follow_from_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(embed_dim=1024, num_heads=4, head_dim=256, mlp_dim=1024, neighbourhood=3)
    free = [0, 2 * 500 * 27 * 10 * 1024 * 4, 2**50]  # bytes: none, of 2 x 500 blocks, plenty
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free.pop(0), 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    wanted = [network._chunk(100_000, cuda) for _ in range(3)]
    assert wanted == [16, 500, patch_transformer._MOST_CHUNK]
    assert network._chunk(256, cuda) == 256 and not free, "of few blocks nothing is asked"
    free[:] = [2**50]
    wide = small(embed_dim=16, num_heads=8, head_dim=256, neighbourhood=5)
    assert 125 * 3 * 8 * 256 * wide._chunk(100_000, cuda) <= 2**31, "values of a tensor"


def test_the_registry_row_takes_any_crop() -> None:
    row = network_named("PatchTransformer")
    assert not row.fixed_patch and row.dims == (2, 3) and row.cascade
