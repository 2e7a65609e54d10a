"""Published weights: loaded whole or not at all, and the loaded networks compute what the published ones do."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_attn.architectures.build import locate
from nnunet_attn.architectures.published import load_published_weights, recognise, translate
from nnunet_attn.architectures.published_keys import SOURCES
from nnunet_attn.architectures.registry import network_named
from tests.made.parity import parity_case
from tests.made.published import BLOCKS, HEADS, is_parameter, published_state_dict

AXIAL = ("axialunet", "gatedaxialunet", "logo", "medt")


def build(
    source: str, width: float = 0.125, channels: int = 3, classes: int = 2, image: int = 128, **options: Any
) -> nn.Module:
    factor = int(8 * width)
    if source in ("logo", "medt"):
        options = {"local_stem": 64 * factor, "grid": (4, 4), **options}
    return locate(network_named(SOURCES[source].network).class_path or "")(
        input_channels=channels,
        num_classes=classes,
        patch_size=(image, image),
        features=[16 * factor, 32 * factor, 64 * factor, 128 * factor],
        stem_channels=(8 * factor, 128),
        **options,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("source", AXIAL)
def test_computes_what_the_published_network_does(source: str, dtype: torch.dtype) -> None:
    case = parity_case(f"medt_net_{source}")
    network = build(source)
    load_published_weights(network, case.state_dict, source)
    with torch.no_grad():
        case.check("output", network.to(dtype).eval()(case.arrays["input"].to(dtype)))


@pytest.mark.parametrize("source", AXIAL)
def test_leaves_out_only_what_has_no_influence(source: str) -> None:
    case = parity_case(f"medt_net_{source}")
    translated = translate(case.state_dict, source)
    assert translated.keys() == network_state(source).keys()
    sizes = [sum(value.numel() for value in each.values()) for each in (translated, case.live_state_dict)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("source", AXIAL)
def test_made_state_dicts_look_like_published_ones(source: str) -> None:
    given, made = parity_case(f"medt_net_{source}").state_dict, published_state_dict(source)
    assert {key: value.shape for key, value in given.items()} == {key: value.shape for key, value in made.items()}


def network_state(source: str, **sizes: Any) -> dict[str, Tensor]:
    return build(source, **sizes).state_dict()


# Of the published networks at 128 x 128, 3 channels, 2 classes; with 1 channel; at 256 x 256
@pytest.mark.parametrize(
    ("source", "counts"),
    [
        ("axialunet", (1_326_850, 1_326_066, 1_338_114)),
        ("gatedaxialunet", (1_326_914, 1_326_130, 1_338_178)),
        ("logo", (1_529_532, 1_522_476, 1_536_444)),
        ("medt", (1_560_140, 1_553_084, 1_564_236)),
    ],
)
def test_made_state_dicts_have_the_published_numbers_of_parameters(source: str, counts: tuple[int, ...]) -> None:
    sizes: tuple[dict[str, Any], ...] = ({}, {"channels": 1}, {"image": 256})
    made = [published_state_dict(source, **size) for size in sizes]
    assert tuple(sum(value.numel() for key, value in each.items() if is_parameter(key)) for each in made) == counts


@pytest.mark.parametrize(
    ("source", "published", "with_positions", "without", "dead", "expected"),
    [
        # layers with and without positions: two in each block, 1 + 2 blocks in a global branch, 8 in a whole one
        ("axialunet", 1_326_850, 16, 0, 0, 1_326_466),
        ("gatedaxialunet", 1_326_914, 16, 0, 0, 1_326_530),
        ("logo", 1_529_532, 6 + 16, 0, 34, 1_528_970),
        ("medt", 1_560_140, 6, 16, 35_536 + 34, 1_524_298),
    ],
)
def test_number_of_parameters(
    source: str, published: int, with_positions: int, without: int, dead: int, expected: int
) -> None:
    # never called: a second output layer of 16 channels and 2 classes; a p x p convolution with bias in local blocks
    assert 16 * 2 + 2 == 34
    assert sum(blocks * (p * p + p) for blocks, p in zip(BLOCKS, (16, 32, 64, 128), strict=True)) == 35_536
    # the biases of the similarities' norms are added before a softmax and change nothing: buffers here
    assert published - dead - with_positions * 3 * HEADS - without * HEADS == expected
    assert sum(parameter.numel() for parameter in build(source).parameters()) == expected


SIZES = (
    {"width": 0.25},
    {"channels": 1},
    {"classes": 4},
    {"image": 64},
    {"image": 256},
    {"width": 0.25, "channels": 1, "classes": 4, "image": 64},
)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("source", AXIAL)
def test_loads_whole_at_any_size(source: str, size: dict[str, Any]) -> None:
    given = published_state_dict(source, **size)
    network = build(source, **size)
    load_published_weights(network, {f"module.{key}": value for key, value in given.items()}, source)
    state = network.state_dict()
    branch, local = ("global_branch", "local_branch") if source in ("logo", "medt") else ("branch", "branch")
    suffix = "_p" if local == "local_branch" else ""
    same = {
        "conv2.weight": f"{branch}.stem.conv2.weight",
        f"bn3{suffix}.running_var": f"{local}.stem.bn3.running_var",
        f"layer3{suffix}.2.hight_block.qkv_transform.weight": f"{local}.stages.2.2.layers.0.qkv.weight",
        f"layer3{suffix}.2.width_block.bn_qkv.bias": f"{local}.stages.2.2.layers.1.bn_qkv.bias",
        f"layer3{suffix}.0.downsample.0.weight": f"{local}.stages.2.0.shortcut.0.weight",
        f"layer3{suffix}.0.conv_down.weight": f"{local}.stages.2.0.down.weight",
        f"layer3{suffix}.0.conv_up.weight": f"{local}.stages.2.0.up.weight",
        f"layer3{suffix}.0.bn2.num_batches_tracked": f"{local}.stages.2.0.bn2.num_batches_tracked",
        "layer2.1.hight_block.relative": f"{branch}.stages.1.1.layers.0.relative",
        "layer2.1.width_block.bn_similarity.bias": f"{branch}.stages.1.1.layers.1.bn_similarity.bias",
        f"decoder1{suffix}.bias": f"{local}.decoder.0.bias",
        f"decoder5{suffix}.weight": f"{local}.decoder.4.weight",
        "adjust.weight": "output.seg_layers.0.weight",
    }
    if suffix:
        same |= {"decoder4.weight": "global_branch.decoder.0.weight", "decoderf.bias": "fusion.bias"}
    assert not [key for key, here in same.items() if not torch.equal(given[key], state[here])]
    for part in ("weight", "bias", "running_mean", "running_var"):
        theirs = given[f"layer2.0.width_block.bn_output.{part}"]
        here = state[f"{branch}.stages.1.0.layers.1.bn_output.{part}"]
        assert torch.equal(here, torch.cat([theirs[0::2], theirs[1::2]]))
    layer = "layer2.1.hight_block"
    gates = [f"{layer}.{name}" for name in ("f_qr", "f_kr", "f_sv", "f_sve")]
    if gates[0] in given:
        assert state[f"{branch}.stages.1.1.layers.0.gates"].tolist() == [given[name].item() for name in gates]
    if source == "medt":
        key = "layer4_p.0.width_block.bn_output.weight"
        assert torch.equal(state["local_branch.stages.3.0.layers.1.bn_output.weight"], given[key])


@pytest.mark.parametrize("source", AXIAL)
def test_is_recognised_by_its_names(source: str) -> None:
    assert recognise(f"module.{key}" for key in published_state_dict(source)) == [source]
    assert recognise(network_state(source)) == []


def without(*names: str) -> Any:
    return lambda weights: {key: value for key, value in weights.items() if key not in names}


def changed(**shapes: tuple[int, ...]) -> Any:
    return lambda weights: {
        **weights, **{key.replace("__", "."): torch.ones(shape) for key, shape in shapes.items()}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (without("bn2.running_var", "decoder4.bias"), ["missing", "'bn2.running_var'", "'global_branch.stem.bn2.run"]),
        (
            without("layer1.0.width_block.f_kr"),
            ["missing key 'layer1.0.width_block.f_kr'", "'global_branch.stages.0.0.layers.1.gates'"],
        ),
        (
            without("layer2.0.hight_block.relative"),
            ["missing key 'layer2.0.hight_block.relative'", "'global_branch.stages.1.0.layers.0.relative'"],
        ),
        (changed(extra__weight=(1,)), ["unknown key 'extra.weight'"]),
        (changed(layer1_p__0__hight_block__f_qr=()), ["unknown key 'layer1_p.0.hight_block.f_qr'"]),
        (changed(layer2__2__bn1__weight=(1,)), ["unknown key 'layer2.2.bn1.weight'", "stages.1.2.bn1.weight'"]),
        (changed(adjust__weight=(4, 16, 1, 1)), ["'adjust.weight'", "(4, 16, 1, 1), expected (2, 16, 1, 1)"]),
        (
            changed(layer1__0__hight_block__bn_output__bias=(31,)),
            ["'layer1.0.hight_block.bn_output.bias'", "(31,), expected (32,)"],
        ),
        (changed(layer1__0__hight_block__f_sv=(1,)), ["'layer1.0.hight_block.f_sv'", "(1,), expected ()"]),
        (lambda _: {}, ["missing key 'adjust.weight'"]),
    ],
)
def test_the_first_difference_is_named_and_nothing_is_loaded(change: Any, parts: list[str]) -> None:
    network = build("medt")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="no state dict of medt") as error:
        load_published_weights(network, change(published_state_dict("medt")), "medt")
    assert all(part in str(error.value) for part in parts), error.value
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("given", "source"), [(a, b) for a in AXIAL for b in AXIAL if a != b])
def test_weights_of_another_network_are_named(given: str, source: str) -> None:
    with pytest.raises(ValueError, match=f"no state dict of {source}.*its names are those of {given}$"):
        load_published_weights(build(source), published_state_dict(given), source)


@pytest.mark.parametrize(("given", "source"), [("logo", "medt"), ("medt", "logo"), ("gatedaxialunet", "axialunet")])
def test_another_network_is_refused(given: str, source: str) -> None:
    wanted, got = SOURCES[given].network, SOURCES[source].network
    with pytest.raises(ValueError, match=f"weights of {given} belong into {wanted} .*nnUNetTrainer.*, got {got}"):
        load_published_weights(build(source), published_state_dict(given), given)
    with pytest.raises(ValueError, match=f"belong into {wanted} .*got Linear"):
        load_published_weights(nn.Linear(1, 1), published_state_dict(given), given)


def test_more_output_layers_than_published_are_refused() -> None:
    with pytest.raises(ValueError, match=r"never has what fills 'output\.seg_layers\.1\.weight'"):
        load_published_weights(build("medt", heads=2), published_state_dict("medt"), "medt")


def test_unknown_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown source of weights 'unet'; there are axialunet, gatedaxialunet"):
        translate({}, "unet")
    with pytest.raises(ValueError, match="unknown source of weights 'unet'"):
        load_published_weights(nn.Linear(1, 1), {}, "unet")


def test_weights_of_this_package_are_not_taken_for_published_ones() -> None:
    network = build("medt")
    with pytest.raises(ValueError, match=r"unknown key 'output\.seg_layers\.0\.weight'"):
        load_published_weights(network, network.state_dict(), "medt")
