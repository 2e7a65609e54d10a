"""FINE: costs, which tokens reach the voxels, positions, and what it keeps of the crops it has seen."""

import subprocess
import sys
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nnunet_attn.architectures import fine
from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.fine import FINE, crop_cells, crop_position
from nnunet_attn.architectures.nnformer import NNFormer2021
from nnunet_attn.architectures.swin_network import check_flags

PATCH, EXTENT = (8, 32, 32), (8, 160, 170)  # 5 x 5 sub-volumes
BCV, BCV_EXTENT = (64, 128, 128), (218, 660, 660)
MIDDLE = {12, 13, 17, 18}  # rows 2 and 3, columns 2 and 3
KINDS: dict[str, dict[str, Any]] = {
    "carry": {},
    "published": {"carry": False},
    "windows": {"volume_tokens": False},
    "deep": {"carry": False, "depths": (3, 1, 2, 1), "decoder_depths": (1, 3, 2)},
    "shallow end": {"depths": (1, 2, 1, 2), "decoder_depths": (1, 2, 1)},
    "shallow": {"depths": (1, 1, 1, 1), "decoder_depths": (1, 1, 1)},
    "three axes": {"grid_axes": (0, 1, 2)},
}


def small(channels: int = 1, **options) -> FINE:
    torch.manual_seed(0)
    options = {"volume_extent": EXTENT, "deep_supervision": True, "drop_path": 0.0, **options}
    return FINE(channels, 2, PATCH, embed_dim=4, num_heads=2, **options).double()


def crops(*positions: tuple[float, ...], channels: int = 1, ramps: bool = False) -> Tensor:
    """Crops whose centres are given along axes 1 and 2, with channels of position."""
    torch.manual_seed(1)
    x = torch.randn(len(positions), channels + len(positions[0]), *PATCH, dtype=torch.float64)
    for crop, position in zip(x, positions, strict=True):
        for number, value in enumerate(position):
            axis = 3 - len(position) + number
            crop[channels + number] = value
            if ramps:
                ramp = torch.arange(PATCH[axis], dtype=torch.float64) - (PATCH[axis] - 1) / 2
                crop[channels + number] += ramp.view([-1 if other == axis else 1 for other in range(3)])
    return x


def evaluated(network: FINE, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([level.flatten() for level in network.eval()(x)])


def change_tokens(network: FINE, cells: set[int]) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("volume_tokens"):
                parameter[sorted(cells)] += torch.randn(len(cells), parameter.shape[1], dtype=torch.float64)


# ---- costs ----


def on_meta(**options) -> FINE:
    with torch.device("meta"):
        network = FINE(1, 9, BCV, volume_extent=BCV_EXTENT, deep_supervision=True, **options)
    return network.eval().requires_grad_(False)


def flops(network: torch.nn.Module, channels: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, channels, *BCV, device="meta"))
    return counter.get_total_flops()


WIDTHS = [192, 384, 768, 1536, 768, 384, 192]
WINDOWS = [512, 64, 8, 1, 8, 64, 512]
VOXELS, NEAR, ALL = 64, 4, 25


def token_operations(c: int, n: int) -> dict[str, int]:
    """Multiplications and additions that tokens cost a block of n windows."""

    def attention(count: int, length: int) -> int:
        return 2 * count * (4 * c**2 * length + 2 * c * length**2)

    return {
        "W-MSA": attention(n, VOXELS + 1) - attention(n, VOXELS),
        "MLP": 2 * 8 * c**2 * n,
        "G-MSA": attention(1, n + NEAR),
        "MSA": attention(1, ALL),
    }


def test_operations_are_those_of_the_formulas() -> None:
    """Multiplications and additions count as 2, at the size published for BCV."""
    with torch.device("meta"):
        plain = NNFormer2021(1, 9, BCV, deep_supervision=True).eval().requires_grad_(False)
    backbone = flops(plain, 1)
    assert backbone == 405_245_263_872
    tokens = [token_operations(c, n) for c, n in zip(WIDTHS, WINDOWS, strict=True)]
    assert sum(2 * sum(each.values()) for each in tokens) == 7_329_408_000, "everything in each of 14 blocks"
    # where tokens start anew in each stage, only those behind the first of two blocks are read, and no MSA
    published = sum(2 * each["W-MSA"] + each["MLP"] + each["G-MSA"] for each in tokens)
    assert flops(on_meta(carry=False), 3) == backbone + published == 408_799_193_088
    # where they are carried on, all but those of the last stage's second block, and its first block's MSA
    last = tokens[-1]
    unread = last["MLP"] + last["G-MSA"] + 2 * last["MSA"]
    carried = sum(2 * ALL * before * c for before, c in pairwise(WIDTHS))
    assert flops(on_meta(), 3) == backbone + 7_329_408_000 - unread + carried == 412_055_145_984
    windows = sum(
        2 * each["W-MSA"] + each["MLP"] + 2 * (4 * c**2 * n + 2 * c * n**2)
        for each, c, n in zip(tokens, WIDTHS, WINDOWS, strict=True)
    )
    assert flops(on_meta(volume_tokens=False), 1) == backbone + windows


def test_parameters_are_those_of_the_formulas() -> None:
    counts = {carry: sum(p.numel() for p in on_meta(carry=carry).parameters()) for carry in (False, True)}
    with torch.device("meta"):
        plain = sum(p.numel() for p in NNFormer2021(1, 9, BCV).parameters())
    tokens = sum(c * (1 + ALL + n) for c, n in zip(WIDTHS, WINDOWS, strict=True))
    assert tokens == 369_408
    attention = [4 * c**2 + 4 * c for c in WIDTHS]
    carried = sum(before * c + c + 2 * before for before, c in pairwise(WIDTHS))
    assert counts[False] == plain + tokens + sum(attention) == 137_254_515
    assert counts[True] == plain + tokens + 4 * sum(attention) - 3 * attention[-1] + carried == 186_860_211


# ---- which tokens reach the voxels ----


@pytest.mark.parametrize("carry", [False, True])
def test_far_tokens_reach_the_voxels_only_if_carried_and_seen(carry: bool) -> None:
    network, x = small(carry=carry), crops((3.0, 2.0))
    network.seen.fill_(True)
    network.seen[[0, 24]] = False
    before = evaluated(network, x)
    change_tokens(network, {0, 24})
    assert torch.equal(evaluated(network, x), before), "unseen"
    change_tokens(network, set(range(1, 24)) - MIDDLE)
    far = evaluated(network, x)
    assert torch.equal(far, before) is not carry
    change_tokens(network, {18})
    assert not torch.allclose(evaluated(network, x), far, rtol=1e-9), "near"
    network.seen[18] = False
    unseen = evaluated(network, x)
    change_tokens(network, {18})
    assert torch.equal(evaluated(network, x), unseen), "near, but unseen"


@pytest.mark.parametrize("name", KINDS)
def test_nothing_seen_is_finite_and_a_step_reaches_every_parameter(name: str) -> None:
    network = small(**KINDS[name])
    axes = len(network.position_axes)
    x = crops(*[(1.0,) * axes] * 2) if axes else crops((0.0, 0.0))[:, :1]
    assert evaluated(network, x).isfinite().all()
    torch.stack([level.square().mean() for level in network.train()(x)]).sum().backward()
    without = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize("carry", [False, True])
def test_the_crops_own_sub_volumes_learn(carry: bool) -> None:
    network = small(carry=carry)
    levels = network.train()(crops((0.0, 0.0), (-64.0, 64.0)))
    torch.stack([level.square().mean() for level in levels]).sum().backward()
    own = MIDDLE | {3, 4, 8, 9}
    found = {key: p.grad for key, p in network.named_parameters() if key.endswith("volume_tokens")}
    assert len(found) == 7
    for key, gradient in found.items():
        assert gradient is not None
        learnt = set(gradient.abs().sum(1).nonzero().flatten().tolist())
        assert learnt == own, key


def test_samples_do_not_depend_on_each_other() -> None:
    network, x = small(), crops((0.0, 0.0), (64.0, -64.0))
    network.seen.fill_(True)
    with torch.no_grad():
        together = network.eval()(x)
        alone = [network(one[None]) for one in x]
    for level, *singles in zip(together, *alone, strict=True):
        torch.testing.assert_close(level, torch.cat(singles), rtol=1e-11, atol=1e-12)
    moved = evaluated(network, crops((0.0, 0.0), (64.0, 0.0)))
    assert not torch.allclose(moved, torch.cat([level.flatten() for level in together]))


# ---- positions ----


@pytest.mark.parametrize(
    ("position", "lower"),
    [(0, 2), (-266, 0), (-152, 0), (-114, 1), (152, 3), (266, 3), (1e12, 3), (-1e12, 0), (float("inf"), 3)],
)
def test_cells_of_five(position: float, lower: int) -> None:
    for axis, grid, step in ((1, (1, 5, 1), 1), (2, (1, 1, 5), 1), (0, (5, 1, 1), 1), (1, (1, 5, 3), 3)):
        where = torch.zeros(1, 3)
        where[0, axis] = position
        cells = crop_cells(where, (128, 128, 128), grid)
        expected = {lower, lower + 1} if step == 1 else {3 * row + c for row in (lower, lower + 1) for c in (1, 2)}
        assert set(cells[0].tolist()) == expected


@pytest.mark.parametrize("position", [-300.0, -1.0, 0.0, 1.0, 300.0])
def test_one_and_two_cells_are_always_all(position: float) -> None:
    where = torch.full((2, 3), position)
    assert crop_cells(where, (8, 8, 8), (1, 1, 1)).tolist() == [[0], [0]]
    assert crop_cells(where, (8, 8, 8), (1, 2, 2)).tolist() == [[0, 1, 2, 3]] * 2


def test_three_axes_have_eight_cells() -> None:
    network = small(volume_extent=(40, 160, 160), grid_axes=(0, 1, 2))
    assert network.grid == (5, 5, 5)
    assert network.position_axes == (0, 1, 2)
    cells = crop_cells(torch.tensor([[-16.0, 0.0, 64.0]]), PATCH, network.grid)
    assert set(cells[0].tolist()) == {25 * d + 5 * h + w for d in (0, 1) for h in (2, 3) for w in (3, 4)}
    evaluated(network.train(), crops((0.0, 0.0, 0.0)))
    network.train()(crops((-16.0, 0.0, 64.0)))
    assert set(network.seen.nonzero().flatten().tolist()) == set(cells[0].tolist())


@pytest.mark.parametrize(
    ("extent", "options", "grid", "axes"),
    [
        (BCV_EXTENT, {}, (1, 5, 5), (1, 2)),
        (BCV_EXTENT, {"grid_axes": (0, 1, 2)}, (3, 5, 5), (0, 1, 2)),
        ((64, 256, 400), {}, (1, 2, 3), (2,)),
        ((500, 100, 383), {}, (1, 1, 2), ()),
        (None, {}, (1, 1, 1), ()),
        (BCV_EXTENT, {"volume_tokens": False}, (1, 5, 5), ()),
    ],
)
def test_extents_decide_the_grid_and_the_axes_of_positions(extent, options, grid, axes) -> None:
    with torch.device("meta"):
        network = FINE(1, 2, BCV, extent, embed_dim=4, num_heads=1, **options)
    assert (network.grid, network.position_axes) == (grid, axes)


def test_positions_are_read_from_ramps_and_constants_and_kept_by_flips() -> None:
    position = (37.5, -101.0)
    expected = torch.tensor([[0, *position]], dtype=torch.float64)
    for x in (crops(position), crops(position, ramps=True)):
        for axes in ((), (2,), (3,), (4,), (2, 3, 4)):
            assert torch.equal(crop_position(x.flip(axes)[:, 1:], (1, 2)), expected)
    odd = torch.arange(5.0).view(1, 1, 1, 5, 1).expand(1, 1, 2, 5, 3) + 10
    assert crop_position(odd, (1,)).tolist() == [[0, 12, 0]]
    network = small()
    network.seen.fill_(True)
    torch.testing.assert_close(
        evaluated(network, crops(position)), evaluated(network, crops(position, ramps=True)), rtol=0, atol=0
    )


def test_without_positions_the_crop_lies_in_the_middle_and_that_is_said_once() -> None:
    network, x = small(), crops((0.0, 0.0))
    network.seen.fill_(True)
    expected = evaluated(network, x)
    fine._warn_of_no_position.cache_clear()
    with pytest.warns(UserWarning, match="without position channels"):
        got = evaluated(network, x[:, :1])
    assert torch.equal(got, expected)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        evaluated(network, x[:, :1])
    assert not heard
    for channels in (2, 4):
        with pytest.raises(ValueError, match=rf"\(b, 3, \(8, 32, 32\)\), 2 of the channels.*got \(1, {channels}, 8"):
            network(torch.zeros(1, channels, *PATCH, dtype=torch.float64))


def test_positions_do_not_reach_the_convolutions() -> None:
    network = small(channels=2)
    network.seen.fill_(True)
    x = crops((1.0, 1.0), channels=2)
    other = x.clone()
    other[:, 2:] += 3.0  # within the same sub-volumes
    assert torch.equal(evaluated(network, x), evaluated(network, other))
    assert network.stem.convs[0].conv.in_channels == 2


# ---- what it has seen ----


def test_sub_volumes_are_marked_in_training_only_and_saved() -> None:
    network = small()
    evaluated(network, crops((0.0, 0.0)))
    assert not network.seen.any()
    with torch.no_grad():
        network.train()(crops((0.0, 0.0), (-64.0, 64.0)))
    marked = MIDDLE | {3, 4, 8, 9}
    assert set(network.seen.nonzero().flatten().tolist()) == marked
    network(crops((0.0, 0.0)))
    evaluated(network, crops((64.0, 64.0)))
    assert set(network.seen.nonzero().flatten().tolist()) == marked
    other = small()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.seen, network.seen) and other.seen.dtype == torch.bool
    assert "seen" not in small(volume_tokens=False).state_dict()


def test_own_sub_volumes_count_from_the_first_step_on() -> None:
    network, x = small(), crops((0.0, 0.0))
    unseen = evaluated(network, x)
    with torch.no_grad():
        first = torch.cat([level.flatten() for level in network.train()(x)])
    torch.testing.assert_close(evaluated(network, x), first, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(unseen, first)


# ---- arguments ----


def test_the_plan_decides_patch_width_and_extent() -> None:
    plan = PlannedUNet(BCV, "", {}, volume_extent=BCV_EXTENT)
    decided = {"patch_size": list(BCV), "embed_dim": 192}
    assert FINE.plan_arguments(plan) == {**decided, "volume_extent": list(BCV_EXTENT)}
    assert FINE.plan_arguments(PlannedUNet(BCV, "", {})) == decided


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid_axes": (1, 3)}, r"grid_axes must be a list of some of 0, 1 and 2, got \(1, 3\)"),
        ({"grid_axes": (1, 1)}, r"got \(1, 1\)"),
        ({"volume_extent": (8, 160)}, r"volume_extent must be 3 integers of at least 1, got \(8, 160\)"),
        ({"volume_extent": (8, 0, 160)}, r"got \(8, 0, 160\)"),
        ({"depths": (2, 2)}, r"depths must be 4 integers of at least 1, got \(2, 2\)"),
    ],
)
def test_illegal_options_are_refused_with_the_numbers(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


COMPILED = """
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from tests.architectures.test_fine import crops, small

torch.set_num_threads(1)
network = small(depths=(1, 1, 1, 1), decoder_depths=(1, 1, 2))
for training in (True, False):
    network.train(training)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, fullgraph=True, backend=counter)
    for position in ((0.0, 0.0), (-64.0, 64.0), (1e6, -1e6)):
        x = crops(position)
        with torch.set_grad_enabled(training):
            levels, expected = compiled(x), network(x)
        for level, other in zip(levels, expected, strict=True):
            torch.testing.assert_close(level, other, rtol=1e-9, atol=1e-11)
        if training:
            sum(level.square().mean() for level in levels).backward()
    assert counter.frame_count == 1, counter.frame_count
assert network.seen.sum() == 12
print("one graph")
"""


@pytest.mark.slow
def test_one_graph_for_all_positions() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "one graph" in done.stdout


def test_the_position_in_a_volume_one_voxel_thin() -> None:
    # nnU-Net pads it to the patch: the volume lies in one of the two central planes, in the other one after a flip
    coordinates = torch.zeros(2, 1, 6, 8, 8)
    coordinates[0, :, 2] = coordinates[1, :, 3] = -37.5
    assert crop_position(coordinates, (1,)).tolist() == [[0, -37.5, 0]] * 2


def test_flags_that_are_no_flags_are_refused() -> None:
    with pytest.raises(ValueError, match="carry must be true or false, got 'false'"):
        check_flags(quirk=True, carry="false")
