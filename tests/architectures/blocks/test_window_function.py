import pytest
import torch
from torch import Tensor

from nnunet_attn.architectures.blocks import window_function
from nnunet_attn.architectures.blocks.window_function import chunked_window_attention
from nnunet_attn.benchmark.measure import peak_allocated_bytes

OPS = torch.ops.nnunet_attn


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def drawn(
    count: int, length: int, heads: int, width: int, windows: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Packed windows and biases, both with gradients, and the mask of as many windows."""
    qkv = torch.randn(count, length, 3 * heads * width, dtype=dtype, requires_grad=True)
    bias = torch.randn(heads, length, length, dtype=dtype, requires_grad=True)
    return qkv, bias, torch.randn(windows, length, length, dtype=dtype) * 3 if windows else None


def attended(qkv: Tensor, bias: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """One window, one head after the other."""
    channels = qkv.shape[2] // 3
    width = channels // heads
    found = []
    for number, window in enumerate(qkv):
        by_head = []
        for head in range(heads):
            own = slice(head * width, head * width + width)
            query, key, value = (part[:, own] for part in window.split(channels, 1))
            scores = query @ key.t() / width**0.5 + bias[head]
            if mask is not None:
                scores = scores + mask[number % len(mask)]
            by_head.append(scores.softmax(-1) @ value)
        found.append(torch.cat(by_head, 1))
    return torch.stack(found)


@pytest.mark.parametrize("chunk_elements", [0, 1, 32, 100])
@pytest.mark.parametrize("windows", [0, 1, 3])
@pytest.mark.parametrize(("length", "heads", "width"), [(5, 2, 3), (1, 1, 1), (4, 3, 2)])
def test_equals_its_equation(length: int, heads: int, width: int, windows: int, chunk_elements: int) -> None:
    qkv, bias, mask = drawn(6, length, heads, width, windows)
    got = chunked_window_attention(qkv, bias, mask, heads, chunk_elements)
    expected = attended(qkv, bias, mask, heads)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)
    pull = torch.randn_like(got)
    ours, theirs = (torch.autograd.grad(output, (qkv, bias), pull) for output in (got, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_chunks_are_of_the_size_asked_for() -> None:
    qkv, heads, one = torch.empty(7, 3, 12), 3, 3 * 3
    for elements, most in {1: 1, one: 1, 2 * one: 2, 3 * one: 3, 6 * one + 1: 6, 10**6: 21}.items():
        met = torch.zeros(7, heads, dtype=torch.int)
        for chunk in window_function._chunks(qkv, heads, elements):
            assert 0 < met[chunk].numel() <= most
            met[chunk] += 1
        assert (met == 1).all()


def test_strided_inputs_and_no_windows_at_all() -> None:
    qkv, bias, _ = drawn(4, 3, 2, 2)
    strided = qkv.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    assert not strided.is_contiguous()
    results = []
    for each in (qkv, strided):
        output = chunked_window_attention(each, bias, None, 2)
        results.append([output, *torch.autograd.grad(output.transpose(1, 2).square().sum(), (each, bias))])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    nothing = chunked_window_attention(qkv[:0], bias, None, 2)
    assert nothing.shape == (0, 3, 4)
    assert not torch.autograd.grad(nothing.sum(), bias)[0].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    qkv, bias, mask = drawn(4, 6, 2, 4, 2, torch.float32)
    half = qkv.detach().to(dtype).requires_grad_()
    output = chunked_window_attention(half, bias, mask, 2)
    pull = torch.randn_like(output)
    exact_input = half.detach().float().requires_grad_()
    exact = chunked_window_attention(exact_input, bias, mask, 2)
    assert output.dtype == dtype and torch.equal(output, exact.to(dtype))
    own, own_bias = torch.autograd.grad(output, (half, bias), pull)
    other, other_bias = torch.autograd.grad(exact, (exact_input, bias), pull.float())
    assert own.dtype == dtype and torch.equal(own, other.to(dtype))
    assert own_bias.dtype == torch.float32 and torch.equal(own_bias, other_bias)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_surrounding_autocast_changes_nothing(dtype: torch.dtype) -> None:
    qkv, bias, mask = drawn(4, 6, 2, 4, 2, torch.float32)

    def run() -> list[Tensor]:
        output = chunked_window_attention(qkv, bias, mask, 2)
        return [output, *torch.autograd.grad(output.square().sum(), (qkv, bias))]

    plain = run()
    with torch.autocast("cpu", dtype=dtype):
        surrounded = run()
    assert all(torch.equal(one, other) for one, other in zip(plain, surrounded, strict=True))


def test_memory_is_that_of_a_chunk_and_only_inputs_are_kept() -> None:
    count, length, heads, width = 128, 64, 2, 2
    qkv, bias, _ = drawn(count, length, heads, width, dtype=torch.float32)
    one_window = heads * length**2 * 4
    in_and_out = qkv.numel() * 4 * 2
    for chunk_elements, at_most in ((1, in_and_out + 10 * one_window), (count * heads * length**2, None)):
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            output = chunked_window_attention(qkv, bias, None, heads, chunk_elements)
        assert {each.data_ptr() for each in kept if each.numel()} <= {qkv.data_ptr(), bias.data_ptr()}
        ones = torch.ones_like(output)
        for work in (
            lambda chunk_elements=chunk_elements: chunked_window_attention(qkv, bias, None, heads, chunk_elements),
            lambda output=output, ones=ones: output.backward(ones),
        ):
            peak = peak_allocated_bytes(work, torch.device("cpu"))
            assert peak > count * one_window if at_most is None else peak < at_most < count * one_window / 2


# ---- as operators of PyTorch ----


@pytest.mark.parametrize("windows", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_operators_keep_the_rules_of_pytorch(windows: int, dtype: torch.dtype) -> None:
    qkv, bias, mask = drawn(4, 3, 2, 2, windows)
    qkv = qkv.detach().to(dtype).requires_grad_()
    mask = bias.new_empty(0, 3, 3) if mask is None else mask
    results = torch.library.opcheck(OPS.window_attention.default, (qkv, bias, mask, 2, 0))
    assert set(results.values()) == {"SUCCESS"} and len(results) == 4
    grad = torch.randn(4, 3, 4, dtype=dtype)
    arguments = (grad, qkv.detach(), bias.detach(), mask, 2, 0)
    tests = ("test_schema", "test_faketensor")
    results = torch.library.opcheck(OPS.window_attention_backward.default, arguments, test_utils=tests)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("windows", [0, 2])
def test_gradients_are_the_numerical_ones(windows: int) -> None:
    qkv, bias, mask = drawn(4, 3, 2, 2, windows)
    assert torch.autograd.gradcheck(lambda qkv, bias: chunked_window_attention(qkv, bias, mask, 2, 1), (qkv, bias))


def test_second_derivatives_are_refused() -> None:
    qkv, bias, _ = drawn(2, 3, 2, 2)
    output = chunked_window_attention(qkv, bias, None, 2)
    (first,) = torch.autograd.grad(output.square().sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="window_attention_backward"):
        first.square().sum().backward()
