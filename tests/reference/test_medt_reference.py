"""The references are right: against the published networks' numbers, and against each other."""

from pathlib import Path

import pytest
import torch

from nnunet_attn.benchmark.topologies import topology_named, with_patch
from nnunet_attn.benchmark.variants import file_build
from tests.made.parity import parity_case
from tests.reference.axial_attention import DirectAxialAttention, loop_axial_attention
from tests.reference.medt import KINDS, DirectNetwork

LAYERS = {
    "gated_height": "gated",
    "gated_width": "gated",
    "gated_width_stride2": "gated",
    "position_height": "plain",
    "position_width": "plain",
    "nopos_height": "no_position",
    "nopos_width": "no_position",
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_the_published_one(name):
    case = parity_case(f"medt_layer_{name}")
    told, axis = case.meta["configuration"], 0 if "height" in name else 1
    length, heads = told["line_length"], told["heads"]
    layer = DirectAxialAttention(
        told["input_channels"], axis, length, heads, LAYERS[name], stride=told["stride"]
    ).double()
    layer.load_state_dict(case.live_state_dict)
    cotangent = case.arrays["cotangent"].double()
    for suffix, train in (("", False), ("_train", True)):
        x = case.arrays["input"].double().requires_grad_()
        layer.zero_grad()
        output = layer.train(train)(x)
        (output * cotangent).sum().backward()
        case.check(f"output{suffix}", output)
        assert x.grad is not None
        case.check(f"grad_input{suffix}", x.grad)

    compared = 0
    for kind, own in (
        ("grad_param_train", {key: value.grad for key, value in layer.named_parameters()}),
        ("buffer_after_train", dict(layer.named_buffers())),
    ):
        stored = [key for key in case.arrays if key.startswith(f"{kind}/")]
        for key in stored:
            value = own[key.removeprefix(f"{kind}/")]
            assert value is not None
            case.check(key, value)
        compared += len(stored)
    assert compared == (13 if LAYERS[name] == "no_position" else 14)


@pytest.mark.parametrize("kind", KINDS)
def test_network_equals_the_published_one(kind):
    case = parity_case(f"medt_net_{kind}")
    network = DirectNetwork(kind, 3, 2, (128, 128)).double()
    network.load_state_dict(case.live_state_dict)
    network.eval()
    with torch.no_grad():
        output = network(case.arrays["input"].double())
        case.check("output", output)
        if network.has_local:
            network.patch_by_patch = True
            torch.testing.assert_close(network(case.arrays["input"][:1].double()), output[:1])


def drawn_layer(channels, axis, length, heads, variant, gate_position):
    layer = DirectAxialAttention(channels, axis, length, heads, variant, gate_position).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5 + 0.5)
        for name, buffer in layer.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.3)
    return layer


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("variant", "gate_position"),
    [("gated", "pre_norm"), ("gated", "post_norm"), ("plain", "pre_norm"), ("no_position", "pre_norm")],
)
@pytest.mark.parametrize(("space", "axis"), [((3, 2), 0), ((2, 3), 1), ((3, 2, 1), 0), ((2, 3, 1), 1), ((1, 2, 3), 2)])
def test_loop_equals_direct(space, axis, variant, gate_position, training):
    torch.manual_seed(0)
    channels, heads = 8, 2
    # A table for more voxels than there are: the columns in its middle are used
    layer = drawn_layer(channels, axis, 4, heads, variant, gate_position).train(training)
    x = torch.randn(2, channels, *space, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())
    loop = loop_axial_attention(x, layer.state_dict() | parameters, axis, heads, variant, gate_position, training)
    cotangent = torch.randn_like(loop)
    expected = torch.autograd.grad((loop * cotangent).sum(), [x, *parameters.values()])
    direct = layer(x)
    torch.testing.assert_close(direct, loop, rtol=1e-9, atol=1e-11)
    gradients = torch.autograd.grad((direct * cotangent).sum(), [x, *parameters.values()])
    for own, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "side", "number"),
    [
        ("axialunet", 128, 1_326_850),
        ("gatedaxialunet", 128, 1_326_914),
        ("gatedaxialunet", 256, 1_338_178),
        ("logo", 128, 1_529_532 - 34),
        ("logo", 256, 1_536_444 - 34),
        ("medt", 128, 1_524_570),
        ("medt", 256, 1_564_236 - 35_570),
    ],
)
def test_networks_have_the_published_number_of_parameters_that_are_used(kind, side, number):
    network = DirectNetwork(kind, 3, 2, (side, side))
    assert sum(parameter.numel() for parameter in network.parameters()) == number


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 64), (37, 70)])
def test_networks_accept_other_sizes(kind, size):
    network = DirectNetwork(kind, 2, 3, size)
    output = network(torch.randn(2, 2, *size))
    assert output.shape == (2, 3, *size)
    output.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_local_branch_covers_the_whole_image():
    torch.manual_seed(0)
    network = DirectNetwork("medt", 1, 2, (64, 128)).eval()
    assert network.grid == (2, 4)
    image = torch.randn(1, 1, 64, 128)
    with torch.no_grad():
        before = network._local(image)
        image[..., 32:, 96:] += 1
        changed = (network._local(image) != before).any(dim=1)[0]
    assert changed[32:, 96:].float().mean() > 0.9
    changed[32:, 96:] = False
    assert not changed.any()


def test_patch_by_patch_differs_from_folded_patches_in_training_only():
    torch.manual_seed(0)
    network = DirectNetwork("medt", 1, 2, (64, 64), grid=(2, 2)).train()
    image = torch.randn(2, 1, 64, 64)
    folded = network(image)
    assert int(network.get_buffer("bn1_p.num_batches_tracked")) == 1
    network.patch_by_patch = True
    assert (network(image) - folded).abs().max() > 1e-3
    assert int(network.get_buffer("bn1_p.num_batches_tracked")) == 1 + 4


@pytest.mark.parametrize(
    ("name", "kind", "patch_by_patch"),
    [
        ("slow_axial_unet", "axialunet", False),
        ("slow_gated_axial_unet", "gatedaxialunet", False),
        ("slow_logo", "logo", True),
        ("slow_medt", "medt", True),
        ("slow_medt_folded", "medt", False),
    ],
)
def test_speed_peers_are_the_direct_networks(name, kind, patch_by_patch):
    topology = with_patch(topology_named("2d-256"), (64, 128))
    build = file_build(Path(__file__).parent / f"{name}.py", topology)
    torch.manual_seed(0)
    network = build(True)
    torch.manual_seed(0)
    sizes = (topology.input_channels, topology.num_classes, (64, 128))
    expected = DirectNetwork(kind, *sizes, patch_by_patch=patch_by_patch)
    assert network.published_source == kind
    image = torch.randn(2, topology.input_channels, 64, 128)
    torch.testing.assert_close(network(image), expected(image))
