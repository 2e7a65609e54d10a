"""Published weights of nnFormer, its first publication and FINE: loaded whole, they compute what they did there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_attn.architectures.published import load_published_weights, recognise, translate
from tests.made.parity import ParityCase, parity_case
from tests.made.published import published_state_dict
from tests.made.published_windows import WINDOWS, direct, ours
from tests.reference.window_attention import relative_position_index

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
CASES = {
    "nnformer_net": "nnformer",
    "fine_backbone_old_nnformer": "nnformer_2021",
    "fine_net": "fine",
    "fine_net_depth3": "fine",
}
INDEX = "model_down.layers.0.blocks.1.attn.relative_position_index"


def parity_network(case: ParityCase, source: str) -> nn.Module:
    told = case.meta["configuration"]
    sizes = {"crop": told["crop"], "width": told["embedding_width"], "heads": told["heads_encoder"][0]}
    sizes |= {"channels": told["input_channels"], "classes": told["classes"], "extent": told.get("volume_extent")}
    depth = told.get("depth_per_stage", 2)
    return ours(source, **sizes, depths=(depth,) * 4, decoder_depths=(depth,) * 3)


def placed(network: nn.Module, image: Tensor, position: Tensor) -> Tensor:
    """Return the image with the channels of positions that the network reads."""
    axes: Any = network.position_axes
    channels = [position[:, axis].to(image.dtype)[:, None, None, None, None] for axis in axes]
    return torch.cat([image, *(channel.expand(-1, 1, *image.shape[2:]) for channel in channels)], 1)


@BOTH
@pytest.mark.parametrize("name", CASES)
def test_computes_what_the_published_network_does(name: str, dtype: torch.dtype) -> None:
    case, source = parity_case(name), CASES[name]
    network: Any = parity_network(case, source)
    load_published_weights(network, {f"module.{key}": value for key, value in case.state_dict.items()}, source)
    network.to(dtype)
    runs = sorted({key.split("/")[0] for key in case.arrays if key.startswith("run")})
    assert len(runs) == {"fine_net": 2, "fine_net_depth3": 1}.get(name, 0)
    for prefix in [f"{run}/" for run in runs] or [""]:
        image = case.arrays[f"{prefix}input"].to(dtype)
        if source == "fine":
            # the published network counts the crop's own cells before it looks which have been reached
            counted = {**case.state_dict, "vt_check": case.arrays[f"{prefix}seen_after"]}
            load_published_weights(network, counted, source)
            assert network.seen.tolist() == (counted["vt_check"][:, 0] > 0).tolist()
            image = placed(network, image, case.arrays[f"{prefix}position"])
        with torch.no_grad():
            outputs = network(image)
        for number in range(3 if source == "nnformer" else 2):
            case.check(f"{prefix}output{number}", outputs[number])


@pytest.mark.parametrize("name", CASES)
def test_leaves_out_only_what_has_no_influence(name: str) -> None:
    case, source = parity_case(name), CASES[name]
    numbers = {key: number for number, key in enumerate(case.state_dict, 10)}
    marked = {key: torch.full(value.shape, float(numbers[key])) for key, value in case.state_dict.items()}
    marked.pop("vt_check", None)
    found = {int(value.flatten()[0]) for value in translate(marked, source).values()}
    left_out = {key for key in marked if numbers[key] not in found and not key.endswith("relative_position_index")}
    # the third output layer is used here, and there built and never returned
    assert left_out == {key for key in case.meta["parameters_without_influence"] if not key.startswith("final.2.")}


# What differs from the default of `direct` and `ours`: sizes, then arguments of the one and of the other
EQUAL: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}, {}),
    "wide, channels, classes": ({"width": 12, "heads": 3, "channels": 3, "classes": 5}, {}, {}),
    "a head": ({"width": 10, "heads": 1}, {}, {}),
    "another embedding": ({"crop": (8, 32, 16), "embedding": (1, 4, 2)}, {}, {}),
    "maps are padded": ({}, {"windows": (3, 3, 3, 3)}, {"windows": (3,) * 4, "decoder_windows": (3,) * 3}),
    "maps are no cubes": (
        {"crop": (32, 64, 32), "embedding": (4, 4, 4), "extent": (32, 200, 100)},
        {"windows": (4, 2, 1, 1)},
        {"windows": (4, 2, 1, 1), "decoder_windows": (1, 2, 4)},
    ),
    "windows are no cubes": (
        {},
        {"windows": ((2, 4, 4), (2, 2, 2), (2, 2, 2), (1, 1, 1))},
        {"windows": ((2, 4, 4), 2, 2, 1), "decoder_windows": (2, 2, (2, 4, 4))},
    ),
    "deep": ({}, {"depths": (1, 3, 2, 1)}, {"depths": (1, 3, 2, 1), "decoder_depths": (2, 3, 1)}),
    "strides": (
        {"crop": (8, 32, 32)},
        {"strides": [(2, 2, 2), (1, 2, 2), (2, 1, 2), (1, 1, 1)], "windows": (2, 2, 1, 1)},
        {"strides": [(2, 2, 2), (1, 2, 2), (2, 1, 2)], "windows": (2, 2, 1, 1), "decoder_windows": (1, 2, 2)},
    ),
}


@pytest.mark.parametrize("case", EQUAL)
@pytest.mark.parametrize("source", WINDOWS)
def test_computes_what_a_direct_transcription_does(source: str, case: str) -> None:
    sizes, theirs, options = EQUAL[case]
    slow, network = direct(source, **sizes, **theirs), ours(source, **sizes, **options).double()
    load_published_weights(network, slow.state_dict(), source)
    image = torch.randn(2, sizes.get("channels", 1), *sizes.get("crop", (16, 32, 32)), dtype=torch.float64)
    position = torch.tensor([[3.0, -30.0, 20.0], [-5.0, 21.0, -40.0]])
    with torch.no_grad():
        if source == "fine":
            expected = slow(image, position)
            load_published_weights(network, slow.state_dict(), source)  # the slow one has counted
            found = network(placed(network, image, position))
        else:
            expected, found = slow(image), network(image)
    assert len(expected) == len(found) == 3
    for one, other in zip(expected, found, strict=True):
        assert one.std() > 0.05
        torch.testing.assert_close(other, one, rtol=0, atol=1e-10)


@pytest.mark.parametrize("more", [(0, 0, 0), (5, 1, 2), (448, 63, 7)])
def test_the_middle_of_longer_tables_of_positions_is_taken(more: tuple[int, ...]) -> None:
    rows = [windows + extra for windows, extra in zip((8, 1, 1), more, strict=True)]
    slow, network = direct("fine", pe_rows=rows), ours("fine").double()
    load_published_weights(network, slow.state_dict(), "fine")
    for number, (given, windows) in enumerate(zip(rows, (8, 1, 1), strict=True)):
        start = given // 2 - windows // 2
        table = slow.state_dict()[f"encoder.layers.{number}.pe"]
        own = network.state_dict()[f"decoder.stages.{2 - number}.position"]
        assert torch.equal(own, table[start : start + windows])
    image = torch.randn(1, 1, 16, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = slow(image)
        load_published_weights(network, slow.state_dict(), "fine")
        found = network(placed(network, image, torch.zeros(1, 3)))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-10)


def test_counters_become_what_has_been_seen() -> None:
    network: Any = ours("fine")
    given = direct("fine").state_dict()
    given["vt_check"] = torch.tensor([0, 1, 2, 700, 0, 0, 3, 0, 1.0])[:, None]
    load_published_weights(network, given, "fine")
    assert network.seen.dtype == torch.bool
    assert network.seen.tolist() == [False, True, True, True, False, False, True, False, True]


@pytest.mark.parametrize("source", WINDOWS)
def test_is_recognised_by_its_names(source: str) -> None:
    assert recognise(f"module.{key}" for key in direct(source).state_dict()) == [source]
    assert recognise(direct(source, depths=(1, 1, 1, 1)).state_dict()) == [source]
    assert recognise(ours(source).state_dict()) == []
    assert not set(WINDOWS) & set(recognise(published_state_dict("medt")))


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def refused(network: nn.Module, given: dict[str, Tensor], source: str, *parts: str) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=rf"of {source}\b") as error:
        load_published_weights(network, given, source)
    assert not [part for part in parts if part not in str(error.value)], error.value
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("source", WINDOWS)
@pytest.mark.parametrize("other", [*WINDOWS, "medt"])
def test_weights_of_another_network_are_named(source: str, other: str) -> None:
    if other != source:
        given = published_state_dict(other) if other == "medt" else direct(other).state_dict()
        refused(ours(source), given, source, "no state dict", f"its names are those of {other}")
        with pytest.raises(ValueError, match=f"weights of {other} belong into .*, got"):
            load_published_weights(ours(source), given, other)


OPTIONS = [
    *((source, {"quirk": False}, ["index their relative biases in the published way"]) for source in WINDOWS),
    ("fine", {"carry": True}, ["tokens of sub-volumes anew", "train with nnUNetTrainerFINEPublished"]),
    ("fine", {"volume_tokens": False}, ["have tokens of sub-volumes", "train with nnUNetTrainerFINEPublished"]),
    ("fine", {"grid_axes": [0, 1, 2]}, ["axes 1 and 2 alone"]),
]


@pytest.mark.parametrize(("source", "options", "parts"), OPTIONS)
def test_options_that_make_another_function_are_refused(source: str, options: dict[str, Any], parts: list[str]) -> None:
    network = ours(source, **options)
    ((name, value),) = options.items()
    wanted = "[1, 2]" if name == "grid_axes" else "false" if value else "true"
    place = f"(configurations.<c>.nnunet_attn.{type(network).__name__}.{name})"
    refused(network, direct(source).state_dict(), source, *parts, f"set the option {name} to {wanted} in the", place)


FLAT: dict[str, Any] = {"crop": (16, 32, 32), "embedding": (4, 4, 4)}
FLAT_STRIDES = [(1, 2, 2), (2, 2, 2), (2, 2, 2)]


@pytest.mark.parametrize("source", WINDOWS)
def test_a_map_whose_shortest_axis_has_one_window_is_not_shifted(source: str) -> None:
    windows = {"windows": (4, 2, 1, 1), "decoder_windows": (1, 2, 4)}
    given = direct(source, **FLAT, windows=(4, 2, 1, 1), strides=[*FLAT_STRIDES, (1, 1, 1)])
    network = ours(source, **FLAT, **windows, strides=FLAT_STRIDES).double().eval()
    load_published_weights(network, given.state_dict(), source)
    image = torch.randn(1, 1, 16, 32, 32, dtype=torch.float64)
    channels = torch.zeros(1, len(getattr(network, "position_axes", ())), 16, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        if source == "fine":
            network.get_buffer("seen").fill_(True)  # the published code marks what it sees in evaluation too
        expected = given(image) if source != "fine" else given(image, torch.zeros(1, 3))
        got = network(torch.cat([image, channels], 1))
    for own, theirs in zip(got if isinstance(got, list) else [got], expected, strict=False):
        torch.testing.assert_close(own, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("source", WINDOWS)
def test_other_windows_that_are_shifted_along_some_axes_are_refused(source: str) -> None:
    windows = {"windows": ((4, 4, 2), 2, 1, 1), "decoder_windows": (1, 2, (4, 4, 2))}
    given = direct(source, **FLAT, windows=((4, 4, 2), 2, 1, 1), strides=[*FLAT_STRIDES, (1, 1, 1)])
    network = ours(source, **FLAT, **windows, strides=FLAT_STRIDES)
    refused(network, given.state_dict(), source, "along all axes or none", "(4, 8, 8) voxels", "shifted by (0, 2, 1)")


@pytest.mark.parametrize("source", WINDOWS)
def test_published_indices_are_compared(source: str) -> None:
    given = direct(source).state_dict()
    load_published_weights(ours(source), {**given, INDEX: relative_position_index((4, 4, 4))}, source)
    corrected = relative_position_index((4, 4, 4), quirk=False)
    refused(ours(source), {**given, INDEX: corrected}, source, INDEX, "has other numbers", "indexed in another way")


def without(*names: str) -> Change:
    return lambda weights: {key: value for key, value in weights.items() if key not in names}


def changed(**shapes: tuple[int, ...]) -> Change:
    made = {key.replace("__", "."): torch.ones(shape) for key, shape in shapes.items()}
    return lambda weights: {**weights, **made}


DIFFERENCES: list[tuple[str, Change, list[str]]] = [
    (
        "nnformer",
        without("decoder.layers.2.blocks.0.attn.kv.weight", "decoder.layers.0.blocks.0.attn.kv.bias"),
        ["missing key 'decoder.layers.2.blocks.0.attn.kv.weight'", "'decoder.stages.0.blocks.0.attn.kv.weight' here"],
    ),
    ("nnformer", without("final.1.up.bias"), ["missing key 'final.1.up.bias'", "decoder.seg_layers.1.bias"]),
    ("nnformer", changed(model_down__layers__3__downsample__norm__weight=(64,)), ["unknown key", "3.downsample.norm"]),
    ("nnformer", changed(final__0__up__weight=(8, 3, 2, 4, 4)), ["(8, 3, 2, 4, 4), expected (8, 2, 2, 4, 4)"]),
    (
        "nnformer",
        changed(model_down__layers__0__blocks__1__attn__relative_position_bias_table=(125, 2)),
        ["'encoder.0.blocks.1.attn.relative_bias' here", "(125, 2), expected (343, 2); it follows windows"],
    ),
    ("nnformer_2021", lambda _: {}, ["missing key 'model_down.patch_embed.proj1.conv1.weight'"]),
    (
        "nnformer_2021",
        changed(model_down__layers__0__downsample__reduction__weight=(16, 8, 1, 2, 2)),
        ["'down.0.conv.weight' here", "(16, 8, 1, 2, 2), expected (16, 8, 2, 2, 2)", "it follows strides in the plans"],
    ),
    ("nnformer_2021", changed(model_down__norm4__weight=(1,)), ["unknown key 'model_down.norm4.weight'"]),
    (
        "nnformer_2021",
        changed(encoder__layers__1__blocks__2__norm1__weight=(16,)),
        ["unknown key 'encoder.layers.1.blocks.2.norm1.weight' ('decoder.stages.1.blocks.2.norm1.weight' here)"],
    ),
    ("fine", without("vt_check"), ["missing key 'vt_check' ('seen' here)"]),
    (
        "fine",
        changed(vt_check=(25, 1)),
        [
            "'vt_check' ('seen' here) has the shape (25, 1), expected (9, 1)",
            "it follows volume_extent in the plans (configurations.<c>.nnunet_attn.FINE)",
        ],
    ),
    ("fine", changed(vt_check=(9,)), ["has the shape (9,), expected (9, 1)"]),
    ("fine", without("encoder.layers.0.pe"), ["missing key 'encoder.layers.0.pe' ('decoder.stages.2.position' here)"]),
    ("fine", changed(model_down__layers__0__pe=(7, 8)), ["'encoder.0.position' here", "(7, 8), expected (8, 8)"]),
    ("fine", changed(model_down__layers__0__pe=(9, 7)), ["(9, 7), expected (8, 8)"]),
    (
        "fine",
        changed(encoder__layers__2__volume_token=(4, 32)),
        ["'decoder.stages.0.volume_tokens' here", "(4, 32), expected (9, 32); it follows volume_extent"],
    ),
    (
        "fine",
        without("encoder.layers.0.blocks.0.gt_attn.proj.bias"),
        ["missing key", "'decoder.stages.2.blocks.0.global_attn.proj.bias' here"],
    ),
    ("fine", changed(encoder__layers__0__blocks__1__gt_attn__norm__weight=(8,)), ["unknown key", "gt_attn.norm"]),
    ("fine", changed(model_down__layers__3__downsample__extra=(8,)), ["unknown key", "downsample.extra"]),
    ("fine", changed(model_down__layers__5__pe=(8, 8)), ["unknown key 'model_down.layers.5.pe'"]),
    ("fine", changed(other__attn__relative_position_index=(8, 8)), ["unknown key 'other.attn."]),
]


@pytest.mark.parametrize(("source", "change", "parts"), DIFFERENCES)
def test_the_first_difference_is_named_and_nothing_is_loaded(source: str, change: Change, parts: list[str]) -> None:
    refused(ours(source), change(direct(source).state_dict()), source, "no state dict of", *parts)


@pytest.mark.parametrize(("there", "here"), [(2, 3), (3, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("source", WINDOWS)
def test_another_depth_is_refused(source: str, there: int, here: int) -> None:
    network = ours(source, depths=(here,) * 4, decoder_depths=(here,) * 3)
    refused(network, direct(source, depths=(there,) * 4).state_dict(), source, "no state dict", "key 'model_down.lay")
