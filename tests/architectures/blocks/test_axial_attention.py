import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_attn.architectures.blocks import axial_attention, axial_function
from nnunet_attn.architectures.blocks.axial_attention import (
    GATE_START,
    GatedAxialAttention,
    adapted_table,
    excluded_from_weight_decay,
    resampled_table,
)
from nnunet_attn.architectures.blocks.axial_block import average_pool
from tests.made.axial_layer import KINDS, draw, pair, under_own_names
from tests.made.parity import parity_case
from tests.reference.axial_attention import loop_axial_attention

PARITY = {
    "gated_height": "gated",
    "gated_width": "gated",
    "gated_width_stride2": "gated",
    "position_height": "plain",
    "position_width": "plain",
    "nopos_height": "no_position",
    "nopos_width": "no_position",
}
every_kind = pytest.mark.parametrize(("variant", "gate_position"), KINDS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def made(
    variant: str = "gated", gate_position: str = "pre_norm", axis: int = 0, length: int = 6, **more: Any
) -> GatedAxialAttention:
    """A layer of 8 channels and 2 heads, drawn, in float64."""
    options: Any = {"num_heads": 2, "variant": variant, "gate_position": gate_position, **more}
    layer = GatedAxialAttention(8, axis, length, **options).double()
    draw(layer)
    return layer


# ---- the published layer's numbers ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", PARITY)
def test_equals_the_published_layer(name: str, dtype: torch.dtype) -> None:
    case, variant = parity_case(f"medt_layer_{name}"), PARITY[name]
    told = case.meta["configuration"]
    options: Any = (told["input_channels"], int("width" in name), told["line_length"], told["heads"], variant)
    layer = GatedAxialAttention(*options).to(dtype)
    layer.load_state_dict(under_own_names(case.live_state_dict, variant))
    cotangent = case.arrays["cotangent"].to(dtype)
    for suffix, train in (("", False), ("_train", True)):
        x = case.arrays["input"].clone().to(dtype).requires_grad_()
        layer.zero_grad()
        output = average_pool(layer.train(train)(x), [told["stride"]] * 2)
        (output * cotangent).sum().backward()
        case.check(f"output{suffix}", output)
        assert x.grad is not None
        case.check(f"grad_input{suffix}", x.grad)

    # a buffer here: what the softmax cancels has no gradient
    bias = "bn_similarity.bias"
    assert case.arrays[f"grad_param_train/{bias}"].abs().max() < 1e-10
    expected_names = {key for key, _ in layer.named_parameters()} - {"gates"}
    for kind, own, names in (
        ("grad_param_train/", {key: value.grad for key, value in layer.named_parameters()}, expected_names),
        ("buffer_after_train/", dict(layer.named_buffers()), {key for key, _ in layer.named_buffers() if "run" in key}),
    ):
        stored = {key.removeprefix(kind): key for key in case.arrays if key.startswith(kind) and bias not in key}
        expected = under_own_names({own: case.arrays[key] for own, key in stored.items()}, variant)
        assert expected.keys() == names
        for published, key in stored.items():
            here = published.replace("qkv_transform", "qkv")
            value = own[here]
            assert value is not None
            difference = (value.double() - expected[here].double()).abs().max()
            assert difference <= case.tolerance(key, dtype), f"{here}: {difference:.3g}"


# ---- the equations ----


def compare(layer: GatedAxialAttention, x: Tensor, expected: Tensor, parameters: Mapping[str, Tensor]) -> None:
    """Compare output and gradients with those of another computation with parameters by their published names."""
    got = layer(x)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    pull = torch.randn_like(got)
    # the similarities' norm has biases there, on which nothing depends
    theirs = torch.autograd.grad((expected * pull).sum(), [x, *parameters.values()])
    by_name = under_own_names(dict(zip(parameters, theirs[1:], strict=True)), layer.variant)
    assert by_name.pop("bn_similarity.bias").abs().max() < 1e-8
    own = dict(layer.named_parameters())
    assert own.keys() == by_name.keys()
    ours = torch.autograd.grad((got * pull).sum(), [x, *own.values()])
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-7, atol=1e-9)
    for name, gradient in zip(own, ours[1:], strict=True):
        torch.testing.assert_close(
            gradient, by_name[name], rtol=1e-7, atol=1e-8, msg=lambda text, n=name: f"{n}: {text}"
        )


@every_kind
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("space", "axis"), [((3, 2), 0), ((2, 3), 1), ((3, 1, 2), 0), ((2, 3, 1), 1), ((1, 2, 3), 2)])
def test_equals_the_loops(space: tuple[int, ...], axis: int, training: bool, variant: str, gate_position: str) -> None:
    layer, direct = pair(4, axis, 3, 2, variant, gate_position)
    x = torch.randn(2, 4, *space, dtype=torch.float64, requires_grad=True)
    parameters = dict(direct.named_parameters())
    state = direct.state_dict() | parameters
    expected = loop_axial_attention(x, state, axis, 2, variant, gate_position, training)
    compare(layer.train(training), x, expected, parameters)


@every_kind
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("space", "axis", "channels", "heads", "chunk_elements"),
    [
        ((7, 5), 0, 8, 2, 0),
        ((7, 5), 0, 8, 2, 2**20),
        ((5, 17), 1, 12, 2, 1500),
        ((1, 3), 0, 8, 4, 2**20),
        ((5, 3, 7), 0, 8, 4, 700),
        ((3, 7, 5), 1, 12, 1, 2**20),
        ((3, 5, 19), 2, 20, 2, 3000),
    ],
)
def test_equals_the_direct_computation(
    space: tuple[int, ...],
    axis: int,
    channels: int,
    heads: int,
    chunk_elements: int,
    training: bool,
    variant: str,
    gate_position: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(axial_function, "CPU_CHUNK_ELEMENTS", chunk_elements)
    for longer in (0, 4):  # tables for more voxels than there are
        layer, direct = pair(channels, axis, space[axis] + longer, heads, variant, gate_position)
        layer.train(training)
        direct.train(training)
        x = torch.randn(2, channels, *space, dtype=torch.float64, requires_grad=True)
        compare(layer, x, direct(x), dict(direct.named_parameters()))
        expected = under_own_names(direct.state_dict(), variant)
        for name, value in layer.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11)
        assert layer.bn_similarity.num_batches_tracked == int(training)


@every_kind
def test_starts_as_published(variant: str, gate_position: str) -> None:
    options: Any = {"variant": variant, "gate_position": gate_position}
    layer = GatedAxialAttention(128, 1, 200, **options)
    assert layer.qkv.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    for norm in (layer.bn_qkv, layer.bn_output, layer.bn_similarity):
        assert (norm.weight == 1).all() and not norm.bias.any()
    if variant != "no_position":
        assert layer.relative.shape == (2 * 16, 399)
        assert layer.relative.std().item() == pytest.approx(16**-0.5, rel=0.05)
    if variant == "gated":
        assert GATE_START == (0.1, 0.1, 1.0, 0.1) and layer.gates.tolist() == pytest.approx(GATE_START)
    no_decay = {"gated": {"gates", "relative"}, "plain": {"relative"}, "no_position": set()}[variant]
    assert layer.no_weight_decay() == no_decay
    prefixed = {f"0.1.{name}" for name in no_decay}
    assert excluded_from_weight_decay(nn.Sequential(nn.Sequential(nn.Identity(), layer))) == prefixed


# ---- memory ----


def saved_sizes(layer: nn.Module, x: Tensor) -> list[int]:
    """Elements of each tensor kept for the backward pass."""
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x).sum().backward()
    return sizes


@every_kind
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_nothing_of_the_size_of_similarities_is_kept(variant: str, gate_position: str, training: bool) -> None:
    length, heads, channels, lines = 64, 4, 16, 2 * 3
    layer, direct = pair(channels, 0, length, heads, variant, gate_position)
    x = torch.randn(2, channels, length, 3, dtype=torch.float64, requires_grad=True)
    similarities = lines * heads * length**2
    packed = lines * 2 * channels * length
    assert packed <= max(saved_sizes(layer.train(training), x)) < similarities / 4
    assert max(saved_sizes(direct.train(training), x)) >= similarities, "which the test above is to find"


# ---- gates ----


@pytest.mark.parametrize("gate_position", ["pre_norm", "post_norm"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_closed_gates_have_a_gradient_of_zero(gate_position: str, training: bool) -> None:
    layer, direct = pair(8, 0, 5, 2, "gated", gate_position)
    layer.train(training)
    direct.train(training)
    x = torch.randn(2, 8, 5, 3, dtype=torch.float64)
    pull = torch.randn_like(x)
    layer.gates_open.fill_(0)
    closed = layer(x)
    (closed * pull).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) is (name != "gates"), name
    layer.gates_open.fill_(1)
    layer.zero_grad()
    opened = layer(x)
    torch.testing.assert_close(opened, closed, rtol=0, atol=0)
    (opened * pull).sum().backward()
    (direct(x) * pull).sum().backward()
    expected = torch.stack([getattr(direct, name).grad for name in ("f_qr", "f_kr", "f_sv", "f_sve")])
    assert layer.gates.grad is not None
    torch.testing.assert_close(layer.gates.grad, expected, rtol=1e-7, atol=1e-9)


def test_state_dict_has_the_agreed_names() -> None:
    statistics = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    norms = {f"{norm}.{name}" for norm in ("bn_qkv", "bn_similarity", "bn_output") for name in statistics}
    for variant, more in (("gated", {"relative", "gates"}), ("plain", {"relative"}), ("no_position", set())):
        layer = made(variant)
        assert set(layer.state_dict()) == {"qkv.weight", *norms, *more}
        parameters = {name for name in norms if name.endswith((".weight", ".bias"))} - {"bn_similarity.bias"}
        assert {name for name, _ in layer.named_parameters()} == {"qkv.weight", *parameters, *more}
        assert ("gates_open" in dict(layer.named_buffers())) is (variant == "gated")


def change_by_gates(gate_position: str) -> float:
    """How much of the output changes in training when all gates but that of the content become ten times as large."""
    layer = GatedAxialAttention(16, 0, 16, 4, gate_position=gate_position)  # pyright: ignore[reportArgumentType]
    x = torch.randn(4, 16, 16, 8)
    with torch.no_grad():
        before = layer(x)
        layer.gates.copy_(torch.tensor([1.0, 1.0, 1.0, 1.0]))
        return ((layer(x) - before).norm() / before.norm()).item()


def test_gates_before_the_norms_cancel_in_training_and_those_behind_do_not() -> None:
    assert change_by_gates("pre_norm") < 0.03
    assert change_by_gates("post_norm") > 0.3


# ---- lines of other lengths ----


@pytest.mark.parametrize("variant", ["gated", "plain"])
def test_longer_lines_warn_once_and_interpolate(variant: str) -> None:
    axial_attention._warn_of_longer_lines.cache_clear()
    layer, other = made(variant).eval(), made(variant).eval()
    x = torch.randn(1, 8, 9, 2, dtype=torch.float64)
    with pytest.warns(UserWarning, match="larger than the patch that the position tables .* interpolated") as raised:
        layer(x)
    assert len(raised) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in (layer, other):
            each(x)
            each(torch.randn(1, 8, 12, 2, dtype=torch.float64))
            each.train()(x)

    layer = made(variant)
    grown = made(variant, length=9)
    grown.load_state_dict(layer.state_dict() | {"relative": resampled_table(layer.relative.detach(), 9)})
    for train in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = layer.train(train)(x)
        torch.testing.assert_close(got, grown.train(train)(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_shorter_lines_use_the_middle_silently(length: int) -> None:
    layer, cut = made(), made(length=length)
    cut.load_state_dict(layer.state_dict() | {"relative": layer.relative[:, 6 - length : 6 + length - 1]})
    x = torch.randn(2, 8, length, 3, dtype=torch.float64)
    for train in (False, True):
        assert torch.equal(layer.train(train)(x), cut.train(train)(x))


def test_no_positions_take_any_length_silently() -> None:
    layer = made("no_position")
    for length in (1, 6, 31):
        assert layer(torch.randn(2, 8, length, 2, dtype=torch.float64)).shape == (2, 8, length, 2)


@pytest.mark.parametrize(("old", "new"), [(4, 9), (9, 4), (5, 5), (1, 3), (3, 1)])
def test_tables_of_another_length(old: int, new: int) -> None:
    table = torch.randn(6, 2 * old - 1, dtype=torch.float64)
    table[1] = torch.linspace(-1, 1, 2 * old - 1)
    resampled = resampled_table(table, new)
    assert resampled.shape == (6, 2 * new - 1)
    torch.testing.assert_close(resampled[:, new - 1], table[:, old - 1])
    if min(old, new) > 1:
        torch.testing.assert_close(resampled[:, [0, -1]], table[:, [0, -1]])
        torch.testing.assert_close(resampled[1], torch.linspace(-1, 1, 2 * new - 1, dtype=torch.float64))
    target = torch.zeros(6, 2 * new - 1)
    adapted = adapted_table("branch.stages.0.0.layers.1.relative", table, target)
    assert adapted is not None and adapted.dtype == torch.float32 and not target.any()
    torch.testing.assert_close(adapted, resampled.float())


def test_nothing_but_tables_with_the_same_rows_is_adapted() -> None:
    assert adapted_table("a.gates", torch.zeros(4, 7), torch.zeros(4, 9)) is None
    assert adapted_table("a.relative", torch.zeros(2, 7), torch.zeros(4, 9)) is None
    assert adapted_table("a.relative", torch.zeros(4), torch.zeros(4, 9)) is None


# ---- norms, arguments ----


@every_kind
def test_conversion_to_synchronised_norms_leaves_that_of_the_similarities(variant: str, gate_position: str) -> None:
    layer = made(variant, gate_position)
    names = list(layer.state_dict())
    kind = type(layer.bn_similarity)
    assert not layer.synchronises
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert isinstance(converted.bn_qkv, nn.SyncBatchNorm) and isinstance(converted.bn_output, nn.SyncBatchNorm)
    assert type(converted.bn_similarity) is kind
    assert list(converted.state_dict()) == names
    assert not converted.synchronises, "there is one rank"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, r"channels must be an integer of at least 1, got 0"),
        ({"length": True}, r"length must be an integer of at least 1, got True"),
        ({"num_heads": -2}, r"num_heads must be an integer of at least 1, got -2"),
        ({"channels": 20}, r"even multiple of num_heads, got 20 channels for 8 heads"),
        ({"channels": 24}, r"even multiple of num_heads, got 24 channels for 8 heads"),
        ({"axis": 3}, r"axis must be 0, 1 or 2, got 3"),
        ({"axis": -1}, r"axis must be 0, 1 or 2, got -1"),
    ],
)
def test_illegal_arguments_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GatedAxialAttention(**{"channels": 16, "axis": 0, "length": 4, "num_heads": 8, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "gates"}, r"variant must be one of gated, plain, no_position, got 'gates'"),
        ({"gate_position": "post"}, r"gate_position must be one of pre_norm, post_norm, got 'post'"),
    ],
)
def test_illegal_names_are_named(change: dict[str, Any], message: str) -> None:
    construct = inspect.unwrap(GatedAxialAttention.__init__)  # users have no type checks ahead of it
    with pytest.raises(ValueError, match=message):
        construct(object.__new__(GatedAxialAttention), 16, 0, 4, **change)


@pytest.mark.parametrize(
    ("axis", "shape"), [(0, (2, 7, 6, 3)), (2, (2, 8, 6, 3)), (1, (2, 8, 6))], ids=["channels", "axes", "axes-1"]
)
def test_other_inputs_are_refused(axis: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as error:
        made(axis=axis)(torch.zeros(shape, dtype=torch.float64))
    assert f"expected 8 channels and more than {axis} spatial axes, got {shape}" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["gated", "plain", "no_position"])
def test_large_inputs_of_statistics_never_seen_are_finite(variant: str, dtype: torch.dtype) -> None:
    """Similarities pass float16's 65504 here, so they must not be in float16 whatever surrounds the layer."""
    layer = GatedAxialAttention(128, 0, 8, variant=variant).eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        assert layer(1e3 * torch.randn(2, 128, 8, 3)).isfinite().all()
