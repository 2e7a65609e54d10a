"""The references of nnFormer and FINE are right: against the published networks' numbers."""

from itertools import product
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nnunet_attn.benchmark.topologies import topology_named, with_patch
from nnunet_attn.benchmark.variants import file_build
from nnunet_attn.errors import InputError
from tests.made.parity import parity_case
from tests.reference.fine import DirectFINE, DirectFINEStage, cells_of_crop
from tests.reference.nnformer import DirectNNFormer, DirectOldNNFormer
from tests.reference.swin import SkipBlock, SwinBlock, fitted_window
from tests.reference.window_attention import (
    DirectWindowAttention,
    padded,
    relative_position_index,
    shift_mask,
    window_partition,
    window_reverse,
)

INDEX = "relative_position_index"
BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def loaded(module, case, dtype):
    """Load all weights, strictly; of the constant indices, which are not in the state dict, check that they agree."""
    weights = {key: value for key, value in case.state_dict.items() if not key.endswith(INDEX)}
    module.load_state_dict(weights)
    own = {key: value for key, value in module.named_buffers() if key.endswith(INDEX)}
    assert {*own, *weights} == {*case.state_dict}
    for key, value in own.items():
        torch.testing.assert_close(value, case.state_dict[key])
    assert sum(parameter.numel() for parameter in module.parameters()) == case.meta["number_of_parameters"]
    return module.to(dtype).eval()


@BOTH
@pytest.mark.parametrize("name", ["shift", "shift_padded"])
def test_shifted_block_equals_the_published_one(name, dtype):
    case = parity_case(f"nnformer_block_{name}")
    told = case.meta["configuration"]
    window, shift = (told["window"],) * 3, (told["shift"],) * 3
    block = loaded(SwinBlock(told["width"], told["heads"], window, shift), case, dtype)
    mask = shift_mask(padded(told["resolution"], window), window, shift, case.arrays["input"])
    torch.testing.assert_close(mask, case.arrays["attn_mask"])
    with torch.no_grad():
        case.check("output", block(case.arrays["input"].to(dtype), mask.to(dtype)))


@BOTH
def test_skip_block_equals_the_published_one(dtype):
    case = parity_case("nnformer_block_skip")
    told = case.meta["configuration"]
    block = loaded(SkipBlock(told["width"], told["heads"], (told["window"],) * 3, (0, 0, 0)), case, dtype)
    with torch.no_grad():
        case.check("output", block(case.arrays["input_up"].to(dtype), case.arrays["input_skip"].to(dtype)))


@BOTH
def test_nnformer_equals_the_published_one(dtype):
    case = parity_case("nnformer_net")
    told = case.meta["configuration"]
    network = DirectNNFormer(
        told["input_channels"],
        told["classes"],
        told["crop"],
        told["embedding_width"],
        told["patch_embedding"],
        told["heads_encoder"],
        windows=told["windows_given_per_encoder_stage"],
    )
    network = loaded(network, case, dtype)
    effective = [getattr(stage, "window")[0] for stage in network.model_down.layers]  # noqa: B009
    assert effective == told["windows_effective_encoder"]
    with torch.no_grad():
        outputs = network(case.arrays["input"].to(dtype))
    assert len(outputs) == 3
    for number, output in enumerate(outputs):
        case.check(f"output{number}", output)


def old_arguments(told):
    names = ("input_channels", "classes", "crop", "embedding_width", "patch_embedding", "heads_encoder")
    return [told[name] for name in names]


@BOTH
def test_old_nnformer_equals_the_published_one(dtype):
    case = parity_case("fine_backbone_old_nnformer")
    network = loaded(DirectOldNNFormer(*old_arguments(case.meta["configuration"])), case, dtype)
    with torch.no_grad():
        outputs = network(case.arrays["input"].to(dtype))
    assert len(outputs) == 2
    for number, output in enumerate(outputs):
        case.check(f"output{number}", output)


@BOTH
@pytest.mark.parametrize("batch", [1, 2])
def test_fine_stage_equals_the_published_one(batch, dtype):
    case = parity_case(f"fine_stage_b{batch}")
    told = case.meta["configuration"]
    depth, n_cells = len(told["shifts"]), len(case.arrays["seen"])
    stage = DirectFINEStage(
        told["width"], told["resolution"], told["heads"], told["window"], [0.0] * depth, n_cells=n_cells
    )
    stage = loaded(stage, case, dtype)
    assert [getattr(block, "shift")[0] for block in stage.blocks] == told["shifts"]  # noqa: B009
    with torch.no_grad():
        states = stage.states(case.arrays["input"].to(dtype), case.arrays["cells"], case.arrays["seen"].squeeze(1))
    compared = 0
    for number, state in enumerate(states):
        for name, own in zip(("x", "window_tokens", "volume_tokens"), state, strict=True):
            if f"block{number}/{name}" in case.arrays:
                case.check(f"block{number}/{name}", own)
                compared += 1
    assert compared == {1: 9, 2: 4}[batch]


@BOTH
@pytest.mark.parametrize(("name", "depth", "runs"), [("fine_net", 2, 2), ("fine_net_depth3", 3, 1)])
def test_fine_equals_the_released_one(name, depth, runs, dtype):
    case = parity_case(name)
    told = case.meta["configuration"]
    # The decoder's tables of positions are made for maps of 32^3, 16^3 and 8^3
    network = DirectFINE(*old_arguments(told), depths=(depth,) * 4, extent=told["volume_extent"], pe_rows=(512, 64, 8))
    network = loaded(network, case, dtype)
    for run in range(runs):
        arrays = {key.removeprefix(f"run{run}/"): value for key, value in case.arrays.items()}
        crop, extent = told["crop"], told["volume_extent"]
        cells = [cells_of_crop(position, extent, crop) for position in arrays["position"].tolist()]
        assert cells == case.meta["cells_used"][f"run{run}"]
        with torch.no_grad():
            network.vt_check.copy_(arrays["seen_before"])
            outputs = network(arrays["input"].to(dtype), arrays["position"])
        case.check(f"run{run}/seen_after", network.vt_check)
        assert len(outputs) == 2
        for number, output in enumerate(outputs):
            case.check(f"run{run}/output{number}", output)


@pytest.mark.parametrize("quirk", [True, False])
@pytest.mark.parametrize("window", [(4, 4, 4), (2, 2, 2), (3, 1, 4), (4, 2, 1), (3, 5, 5)])
def test_index_has_one_row_for_each_offset_but_for_the_quirk(window, quirk):
    index = relative_position_index(window, quirk)
    places = list(product(*map(range, window)))
    d, h, w = (2 * length - 1 for length in window)
    rows = {}
    for (i, p), (j, q) in product(enumerate(places), repeat=2):
        rows.setdefault(tuple(a - b for a, b in zip(p, q, strict=True)), set()).add(int(index[i, j]))
    assert all(len(found) == 1 for found in rows.values())
    found = {row for (row,) in rows.values()}
    assert len(rows) == d * h * w and min(found) == 0 and max(found) < d * h * w
    if quirk:
        assert len(found) < len(rows) or window in [(3, 1, 4), (4, 2, 1), (2, 2, 2)]
        assert window != (4, 4, 4) or len(found) == 115
    else:
        assert found == set(range(d * h * w))


def test_window_attention_equals_sums_over_its_definition():
    torch.manual_seed(0)
    channels, heads, window, tokens, width = 4, 2, (1, 2, 3), 1, 2
    layer = DirectWindowAttention(channels, heads, window, quirk=False).double()
    torch.nn.init.normal_(layer.relative_position_bias_table)
    x = torch.randn(4, tokens + 6, channels, dtype=torch.float64)  # 2 samples of 2 windows
    mask = torch.randn(2, 6, 6, dtype=torch.float64)
    expected = torch.zeros_like(x)
    places = list(product(*map(range, window)))
    for n, head in product(range(4), range(heads)):
        q, k, v = (layer.qkv(x[n])[:, part * channels + head * width :][:, :width] for part in range(3))
        for i in range(tokens + 6):
            scores = []
            for j in range(tokens + 6):
                score = (q[i] * k[j]).sum() / width**0.5
                if i >= tokens and j >= tokens:
                    (_, b, c), (_, e, f) = places[i - tokens], places[j - tokens]
                    score = score + layer.relative_position_bias_table[(b - e + 1) * 5 + c - f + 2, head]
                    score = score + mask[n % 2, i - tokens, j - tokens]
                scores.append(score.exp())
            expected[n, i, head * width :][:width] = sum(s * u for s, u in zip(scores, v, strict=True)) / sum(scores)
    torch.testing.assert_close(layer(x, mask, tokens), layer.proj(expected))


def test_windows_are_put_back():
    x = torch.arange(2 * 4 * 6 * 2 * 3.0).view(2, 4, 6, 2, 3)
    windows = window_partition(x, (2, 3, 1))
    assert windows.shape == (2 * 8, 6, 3)
    torch.testing.assert_close(windows[1], x[0, :2, :3, 1].reshape(6, 3))
    torch.testing.assert_close(window_reverse(windows, (2, 3, 1), (4, 6, 2)), x)


def test_windows_are_fitted_to_the_map():
    assert fitted_window((8, 16, 16), 4) == ((4, 4, 4), (2, 2, 2))
    assert fitted_window((4, 16, 16), 4) == ((4, 4, 4), (0, 0, 0))
    assert fitted_window((3, 16, 16), 4) == ((3, 3, 3), (0, 0, 0))
    assert fitted_window((3, 16, 4), (4, 4, 4)) == ((3, 4, 4), (0, 2, 0))


@pytest.mark.parametrize(
    ("position", "lower"), [(0, {2, 3}), (-266, {0, 1}), (-152, {0, 1}), (-114, {1, 2}), (152, {3, 4}), (266, {3, 4})]
)
def test_cells_of_crops(position, lower):
    extent, crop = (218, 660, 660), (64, 128, 128)
    cells = cells_of_crop((0, position, 0), extent, crop)
    assert {cell // 5 for cell in cells} == lower and {cell % 5 for cell in cells} == {2, 3}
    cells = cells_of_crop((0, 0, position), extent, crop)
    assert {cell % 5 for cell in cells} == lower and {cell // 5 for cell in cells} == {2, 3}


@pytest.mark.parametrize(
    ("network_class", "parameters", "gflop"),
    [
        (DirectNNFormer, 149_839_155, 422.786),
        (DirectOldNNFormer, 158_992_755, 405.849243648),
        (DirectFINE, 221_951_116, 413.179),
    ],
)
def test_networks_have_the_published_size(network_class, parameters, gflop):
    with torch.device("meta"):
        network = network_class(1, 9).requires_grad_(False)
        image, cells = torch.empty(1, 1, 64, 128, 128), torch.empty(1, 4, dtype=torch.int64)
        where = (cells, torch.empty(25, dtype=torch.bool)) if network_class is DirectFINE else ()
        assert sum(parameter.numel() for parameter in network.parameters()) == parameters
        with FlopCounterMode(display=False) as counter:
            network.decode(image, *where)
    assert counter.get_total_flops() == pytest.approx(gflop * 1e9, abs=5e5)


@pytest.mark.parametrize("name", ["slow_nnformer", "slow_old_nnformer", "slow_fine"])
def test_speed_peers_run_on_other_sizes(name):
    topology = topology_named("tiny")
    build = file_build(Path(__file__).parent / f"{name}.py", with_patch(topology, (16, 32, 64)))
    network = build(True)
    outputs = network(torch.randn(1, topology.input_channels, 16, 32, 64))
    assert len(outputs) == 3 and outputs[0].shape == (1, topology.num_classes, 16, 32, 64)
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    if name == "slow_nnformer":
        assert all(parameter.grad is not None for parameter in network.parameters())
    assert build(False)(torch.randn(1, topology.input_channels, 16, 32, 64)).shape == outputs[0].shape
    with pytest.raises(InputError, match="3D"):
        file_build(Path(__file__).parent / f"{name}.py", topology_named("2d-256"))(False)
