import copy
import pickle
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from nnunet_attn.architectures.blocks import window_attention
from nnunet_attn.architectures.blocks.window_attention import (
    WindowAttention,
    from_windows,
    relative_index,
    shift_mask,
    to_windows,
)
from nnunet_attn.benchmark.measure import peak_allocated_bytes
from tests.reference import window_attention as reference
from tests.reference.window_attention import DirectSkipAttention, DirectWindowAttention

TABLE = "relative_position_bias_table"
CHANNELS, HEADS, BATCH = 6, 2, 2


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def drawn(window: tuple[int, int, int], tokens: int = 0, quirk: bool = False, pair: bool = False) -> WindowAttention:
    layer = WindowAttention(CHANNELS, HEADS, window, tokens, not pair, quirk).double()
    torch.nn.init.normal_(layer.relative_bias)
    return layer


def published(layer: WindowAttention, quirk: bool = False, pair: bool = False) -> reference.AttentionWithOffsets:
    first, second, third = layer.window
    kind = DirectSkipAttention if pair else DirectWindowAttention
    direct = kind(CHANNELS, HEADS, (first, second, third), quirk).double()
    weights = {key.replace("relative_bias", TABLE): value for key, value in layer.state_dict().items()}
    direct.load_state_dict(weights)
    return direct


def named_gradients(module: torch.nn.Module, inputs: list[Tensor], output: Tensor, pull: Tensor) -> dict[str, Tensor]:
    named = {f"input {number}": each for number, each in enumerate(inputs)}
    named |= {name.replace(TABLE, "relative_bias"): each for name, each in module.named_parameters()}
    return dict(zip(named, torch.autograd.grad(output, list(named.values()), pull), strict=True))


def check_with_gradients(
    ours: WindowAttention, theirs: torch.nn.Module, inputs: list[Tensor], got: Tensor, expected: Tensor
) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    pull = torch.randn_like(got)
    own, other = named_gradients(ours, inputs, got, pull), named_gradients(theirs, inputs, expected, pull)
    assert own.keys() == other.keys()
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, other[name], rtol=1e-10, atol=1e-11, msg=lambda m, name=name: name + m)


# ---- the published function ----

# map, window, shift
SHAPES = [((4, 4, 4), (2, 2, 2), (1, 1, 1)), ((2, 6, 8), (1, 3, 4), (0, 1, 2)), ((4, 3, 4), (4, 3, 2), (0, 0, 1))]


@pytest.mark.parametrize("quirk", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("size", "window", "shift"), SHAPES)
def test_equals_the_published_layer(size, window, shift, shifted: bool, tokens: int, quirk: bool) -> None:
    layer = drawn(window, tokens, quirk)
    direct = published(layer, quirk)
    count = BATCH * len(shift_mask(size, window, (0, 0, 0), 0))
    x = torch.randn(count, tokens + len(layer.index), CHANNELS, dtype=torch.float64, requires_grad=True)
    mask = shift_mask(size, window, shift, tokens).double() if shifted else None
    other = reference.shift_mask(size, window, shift, x) if shifted else None
    expected = direct(x, other, tokens)
    check_with_gradients(layer, direct, [x], layer(x, mask), expected)
    for mode in (True, False):
        with torch.no_grad():
            torch.testing.assert_close(layer.train(mode)(x, mask), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("window", [(2, 2, 2), (1, 3, 4)])
def test_pairs_equal_the_published_skip_attention(window) -> None:
    layer = drawn(window, pair=True)
    direct = published(layer, pair=True)
    inputs = [torch.randn(3, len(layer.index), CHANNELS, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    check_with_gradients(layer, direct, inputs, layer.forward_pair(*inputs), direct(*inputs))


def learning_table(layer: WindowAttention) -> None:
    layer.qkv.requires_grad_(False)
    layer.proj.requires_grad_(False)


def learning_projections(layer: WindowAttention) -> None:
    layer.relative_bias.requires_grad_(False)


def learning_nothing(layer: WindowAttention) -> None:
    layer.requires_grad_(False)


@pytest.mark.parametrize("freeze", [learning_table, learning_projections, learning_nothing])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("of_input", [True, False])
def test_partly_frozen_layers_get_the_other_gradients(
    freeze: Callable[[WindowAttention], None], training: bool, of_input: bool
) -> None:
    layer = drawn((2, 2, 2)).train(training)
    direct = published(layer)
    freeze(layer)
    x = torch.randn(4, 8, CHANNELS, dtype=torch.float64, requires_grad=of_input)
    leaves = {name: each for name, each in layer.named_parameters() if each.requires_grad}
    other = {name.replace(TABLE, "relative_bias"): each for name, each in direct.named_parameters()}
    outputs = layer(x), direct(x)
    torch.testing.assert_close(*outputs, rtol=1e-11, atol=1e-12)
    inputs = [x] if of_input else []
    if not leaves and not inputs:
        assert not outputs[0].requires_grad
        return
    own = torch.autograd.grad(outputs[0].square().sum(), [*leaves.values(), *inputs])
    theirs = torch.autograd.grad(outputs[1].square().sum(), [*(other[name] for name in leaves), *inputs])
    for one, two in zip(own, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("window", [(2, 2, 2), (4, 4, 4), (1, 3, 4), (3, 2, 1), (3, 5, 5)])
def test_each_offset_has_a_bias_of_its_own(window) -> None:
    index = relative_index(window)
    places = list(product(*map(range, window)))
    row_of = {}
    for (i, place), (j, other) in product(enumerate(places), repeat=2):
        offset = tuple(a - b for a, b in zip(place, other, strict=True))
        assert row_of.setdefault(offset, int(index[i, j])) == int(index[i, j])
    assert sorted(row_of.values()) == list(range(len(WindowAttention(2, 1, window).relative_bias)))
    torch.testing.assert_close(relative_index(window, True), reference.relative_position_index(window, True))


def test_the_published_index_uses_a_third_of_its_table() -> None:
    layer = WindowAttention(2, 1, (4, 4, 4), quirk=True)
    assert len(layer.relative_bias) == 343
    assert len(layer.index.unique()) == 115
    layer.bias().sum().backward()
    assert layer.relative_bias.grad is not None
    assert (layer.relative_bias.grad != 0).sum() == 115


# ---- windows and masks ----


@pytest.mark.parametrize("size", [(4, 6, 8), (3, 7, 5)])
@pytest.mark.parametrize(("window", "shift"), [((2, 3, 4), (1, 1, 2)), ((1, 3, 5), (0, 1, 0))])
def test_windows_are_cut_as_published_and_put_back(size, window, shift) -> None:
    x = torch.randn(2, *size, 3)
    windows = to_windows(x, window, shift)
    full = reference.padded(size, window)
    padded = x.new_zeros(2, *full, 3)
    padded[:, : size[0], : size[1], : size[2]] = x
    rolled = padded.roll([-step for step in shift], (1, 2, 3))
    assert torch.equal(windows, reference.window_partition(rolled, window))
    assert torch.equal(from_windows(windows, size, window, shift), x)
    mask = shift_mask(size, window, shift, 0)
    assert torch.equal(mask, reference.shift_mask(full, window, shift, x))
    with_token = shift_mask(size, window, shift, 2)
    assert torch.equal(with_token[:, 2:, 2:], mask)
    assert not with_token[:, :2].any() and not with_token[:, :, :2].any()


# ---- what is kept ----


def evaluate(layer: WindowAttention, x: Tensor, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return layer(x, mask)


def test_biases_are_kept_in_evaluation_without_gradients_only(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = drawn((2, 2, 2)), torch.randn(2, 8, CHANNELS, dtype=torch.float64)
    evaluate(layer, x)
    assert layer._cached is None, "in training"
    layer.eval()(x)
    assert layer._cached is None, "with gradients"
    expected = evaluate(layer, x)
    assert layer._cached is not None
    assert not layer._cached[1].requires_grad
    assert "_cached" not in "".join(layer.state_dict())
    monkeypatch.setattr(layer, "bias", lambda: pytest.fail("computed again"))
    assert torch.equal(evaluate(layer, x), expected)


def changed_by_an_optimiser(layer: WindowAttention) -> None:
    layer.relative_bias.grad = torch.randn_like(layer.relative_bias)
    torch.optim.SGD([layer.relative_bias], 1.0).step()


def changed_by_loading(layer: WindowAttention) -> None:
    layer.load_state_dict({key: value.flip(0) for key, value in layer.state_dict().items()})


def changed_by_training_unnoticed(layer: WindowAttention) -> None:
    layer.train()
    layer.relative_bias.data.normal_()  # does not count as a change in place
    layer.eval()


def changed_by_replacing(layer: WindowAttention) -> None:
    layer.relative_bias.data = torch.randn_like(layer.relative_bias)


CHANGES = [changed_by_an_optimiser, changed_by_loading, changed_by_training_unnoticed, changed_by_replacing]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_biases_are_noticed(change: Callable[[WindowAttention], None]) -> None:
    layer, x = drawn((2, 2, 2)).eval(), torch.randn(4, 8, CHANNELS, dtype=torch.float64)
    mask = shift_mask((4, 2, 2), (2, 2, 2), (1, 0, 0), 0).double()
    before = evaluate(layer, x, mask)
    change(layer)
    after = evaluate(layer, x, mask)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, published(layer)(x, mask), rtol=1e-11, atol=1e-12)
    assert not torch.allclose(evaluate(layer, x), after), "the mask is kept with them"


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_windows_with_the_same_mask_share_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, chunk: int, dtype: torch.dtype
) -> None:
    layer = drawn((2, 2, 2)).eval().to(dtype)
    mask = shift_mask((6, 4, 6), (2, 2, 2), (1, 0, 1), 0).to(dtype)
    x = torch.randn(3 * len(mask), 8, CHANNELS, dtype=dtype)
    monkeypatch.setattr(window_attention, "_CHUNK_ELEMENTS", chunk * HEADS * 64)
    found = evaluate(layer, x, mask)
    assert layer._cached is not None
    assert len(mask) == 18 and len(layer._cached[1]) == 4, "at the end of an axis that is shifted or not"
    rtol, atol = (1e-11, 1e-12) if dtype == torch.float64 else (1e-4, 1e-5)
    torch.testing.assert_close(found, published(layer)(x.double(), mask.double()).to(dtype), rtol=rtol, atol=atol)
    assert torch.equal(evaluate(layer, x, mask), found), "and again from what is kept"


def test_training_and_loading_forget_what_was_kept() -> None:
    layer, x = drawn((2, 2, 2)).eval(), torch.randn(2, 8, CHANNELS, dtype=torch.float64)
    for forget in (layer.train, lambda: layer.load_state_dict(layer.state_dict())):
        layer.eval()
        evaluate(layer, x)
        assert layer._cached is not None
        forget()
        assert layer._cached is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_keep_nothing_of_each_other(copied: Callable[[WindowAttention], WindowAttention]) -> None:
    layer, x = drawn((2, 2, 2)).eval(), torch.randn(2, 8, CHANNELS, dtype=torch.float64)
    with torch.inference_mode():  # as nnU-Net predicts
        before = layer(x).clone()
    other = copied(layer)
    assert torch.equal(evaluate(other, x), before)
    with torch.no_grad():
        other.relative_bias.normal_()
    assert torch.equal(evaluate(layer, x), before)
    assert not torch.allclose(evaluate(other, x), before)
    torch.testing.assert_close(layer(x), before)  # with gradients again


def test_inference_mode_may_have_made_or_moved_it() -> None:
    x = torch.randn(2, 8, CHANNELS)
    with torch.inference_mode():
        made = WindowAttention(CHANNELS, HEADS, (2, 2, 2)).eval()
        before = made(x)
        made.relative_bias.normal_()
        assert not torch.allclose(made(x), before)
    moved = WindowAttention(CHANNELS, HEADS, (2, 2, 2)).eval()
    with torch.inference_mode():
        moved.double()
        torch.testing.assert_close(moved(x.double()), published(moved)(x.double()), rtol=1e-11, atol=1e-12)


def test_another_precision_has_biases_of_its_own() -> None:
    layer, x = WindowAttention(CHANNELS, HEADS, (2, 2, 2)).eval(), torch.randn(2, 8, CHANNELS)
    single = evaluate(layer, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert evaluate(layer, x).dtype == torch.bfloat16
    assert torch.equal(evaluate(layer, x), single)


def test_nothing_is_kept_while_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = drawn((2, 2, 2)).eval(), torch.randn(2, 8, CHANNELS, dtype=torch.float64)
    monkeypatch.setattr(window_attention.torch.compiler, "is_compiling", lambda: True)
    evaluate(layer, x)
    assert layer._cached is None


def test_training_keeps_no_similarity() -> None:
    count, window, heads = 128, (4, 4, 4), 8
    layer = WindowAttention(8, heads, window)
    x = torch.randn(count, 64, 8, requires_grad=True)
    similarities = count * heads * 64 * 64
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = layer(x)
    assert max(each.numel() for each in kept) == 3 * x.numel()
    peak = peak_allocated_bytes(lambda: output.sum().backward(), torch.device("cpu"))
    assert peak < similarities * 4 / 2


def test_channels_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="6 channels for 4 heads"):
        WindowAttention(6, 4, (2, 2, 2))
