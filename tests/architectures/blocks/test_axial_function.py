import pytest
import torch
from torch import Tensor

from nnunet_attn.architectures.blocks import axial_function, axial_statistics
from nnunet_attn.architectures.blocks.axial_function import relative_attention
from nnunet_attn.architectures.blocks.axial_statistics import similarity_statistics
from nnunet_attn.benchmark.measure import peak_allocated_bytes

EPS = 1e-5
# By rows of queries and of length, products are computed in different orders: 1, 2, 3 to 4 and more rows; under and
# from 16 voxels.
SIZES = [(width, length) for width in (2, 4, 6, 10) for length in (1, 2, 5, 17)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def drawn(
    lines: int, heads: int, width: int, length: int, positions: bool = True, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Packed lines, table and one number for each term and head, all with gradients."""
    packed = torch.randn(lines, heads, 2 * width, length, dtype=dtype, requires_grad=True)
    table = torch.randn(2 * width, 2 * length - 1, dtype=dtype, requires_grad=True) if positions else None
    numbers = torch.rand(3 if positions else 1, heads, dtype=dtype) + 0.2
    return packed, table, numbers.requires_grad_()


def drawn_with_values(
    lines: int, heads: int, width: int, length: int, positions: bool = True, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The same with one more number for each head with positions, that of the values."""
    packed, table, numbers = drawn(lines, heads, width, length, positions, dtype)
    if positions:
        numbers = torch.cat([numbers.detach(), torch.rand(1, heads, dtype=dtype) + 0.2]).requires_grad_()
    return packed, table, numbers


def terms(packed: Tensor, table: Tensor | None) -> list[Tensor]:
    """q_i.k_j, q_i.Rq(i-j), k_j.Rk(j-i), each (lines heads i j)."""
    half, length = packed.shape[2] // 4, packed.shape[3]
    query, key = packed[:, :, :half], packed[:, :, half : 2 * half]
    found = [torch.einsum("nhri,nhrj->nhij", query, key)]
    if table is not None:
        place = torch.arange(length)
        offset = place[:, None] - place + length - 1  # i - j
        found.append(torch.einsum("nhri,rij->nhij", query, table[:half][:, offset]))
        found.append(torch.einsum("nhrj,rij->nhij", key, table[half : 2 * half][:, offset.t()]))
    return found


def attended(packed: Tensor, table: Tensor | None, scales: Tensor) -> Tensor:
    half, length = packed.shape[2] // 4, packed.shape[3]
    found = terms(packed, table)
    similarities = [scale[:, None, None] * term for scale, term in zip(scales[: len(found)], found, strict=True)]
    weights = torch.stack(similarities).sum(0).softmax(-1)
    outputs = [torch.einsum("nhij,nhrj->nhri", weights, packed[:, :, 2 * half :])]
    if table is not None:
        outputs = [outputs[0] * scales[3, :, None, None]]
        place = torch.arange(length)
        relative = table[2 * half :][:, place[:, None] - place + length - 1]
        outputs.append(torch.einsum("nhij,rij->nhri", weights, relative))
    return torch.stack(outputs)


def gradients(output: Tensor, pull: Tensor, inputs: tuple[Tensor | None, ...]) -> list[Tensor]:
    return list(torch.autograd.grad((output * pull).sum(), [x for x in inputs if x is not None]))


# ---- attention ----


@pytest.mark.parametrize("chunk_elements", [0, 1, 1200])
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize(("width", "length"), SIZES)
def test_attention_equals_its_equations(width: int, length: int, positions: bool, chunk_elements: int) -> None:
    inputs = drawn_with_values(5, 2, width, length, positions=positions)
    got, expected = relative_attention(*inputs, chunk_elements), attended(*inputs)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    pull = torch.randn_like(got)
    for ours, theirs in zip(gradients(got, pull, inputs), gradients(expected, pull, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_chunks_are_of_the_size_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = torch.empty(7, 2, 4, 3)
    one_line = 2 * 3 * 3
    sizes = {1: [1] * 7, one_line: [1] * 7, 3 * one_line: [3, 3, 1], 3 * one_line + 1: [3, 3, 1], 10**6: [7]}
    for elements, expected in sizes.items():
        assert [len(packed[chunk]) for chunk in axial_function._chunks(packed, elements)] == expected
    monkeypatch.setattr(axial_function, "CPU_CHUNK_ELEMENTS", 4 * one_line)
    assert [len(packed[chunk]) for chunk in axial_function._chunks(packed, 0)] == [4, 3]


def test_half_precision_is_computed_in_float32() -> None:
    inputs = drawn_with_values(4, 2, 4, 9, dtype=torch.float32)
    halves = [x.detach().to(torch.bfloat16) for x in inputs if x is not None]
    output = relative_attention(halves[0], halves[1], halves[2])
    assert output.dtype == torch.bfloat16
    exact = relative_attention(halves[0].float(), halves[1].float(), halves[2].float())
    assert torch.equal(output, exact.to(torch.bfloat16))


def peak_bytes(packed: Tensor, table: Tensor | None, scales: Tensor, chunk_elements: int) -> list[int]:
    """Most memory at once beyond the inputs, forward and backward."""
    output = relative_attention(packed, table, scales, chunk_elements)
    works = (
        lambda: relative_attention(packed, table, scales, chunk_elements),
        lambda: output.backward(torch.ones_like(output)),
    )
    return [peak_allocated_bytes(work, torch.device("cpu")) for work in works]


@pytest.mark.parametrize("positions", [True, False])
def test_memory_is_that_of_a_chunk(positions: bool) -> None:
    lines, heads, width, length = 128, 2, 4, 64
    inputs = drawn_with_values(lines, heads, width, length, positions=positions, dtype=torch.float32)
    one_line = heads * length**2 * 4
    in_and_out = lines * heads * width * length * 4 * (2 + 2)
    tables = 2 * width * length**2 * 4 * 6 if positions else 0  # as matrices, their gradients, and copies
    for peak in peak_bytes(*inputs, chunk_elements=1):
        assert peak < in_and_out + tables + 8 * one_line
        assert peak < lines * one_line / 2
    for peak in peak_bytes(*inputs, chunk_elements=lines * heads * length**2):
        assert peak > lines * one_line


# ---- statistics ----


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize(("width", "length"), SIZES)
def test_statistics_equal_those_of_all_similarities(width: int, length: int, positions: bool) -> None:
    packed, table, weight = drawn(5, 2, width, length, positions)
    scales, mean, variance, count = similarity_statistics(packed, table, weight.flatten(), EPS)
    formed = torch.stack(terms(packed, table)).transpose(1, 2).flatten(2)  # terms heads (lines i j)
    expected = weight / (formed.var(-1, unbiased=False) + EPS).sqrt()
    assert count == formed.shape[-1]
    torch.testing.assert_close(mean, formed.mean(-1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(variance, formed.var(-1, unbiased=False), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(scales, expected, rtol=1e-9, atol=0)
    pull = torch.randn_like(scales)
    inputs = (packed, table, weight)
    for ours, theirs in zip(gradients(scales, pull, inputs), gradients(expected, pull, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
    values = gradients(scales_of(packed, table, weight), pull, (packed,))[0][:, :, width:]
    assert not values.any(), "values have no part in the similarities"


def scales_of(packed: Tensor, table: Tensor | None, weight: Tensor) -> Tensor:
    return similarity_statistics(packed, table, weight.flatten(), EPS)[0]


@pytest.mark.parametrize("mean", [100, 1000])
def test_variance_is_exact_where_the_mean_is_large(mean: float, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, table, weight = drawn(60, 2, 8, 16, dtype=torch.float32)
    packed = packed.detach() + mean
    formed = torch.stack(terms(packed.double(), table.detach().double() if table is not None else None))
    expected = formed.var((1, 3, 4), unbiased=False)
    variance = similarity_statistics(packed, table, weight.flatten(), EPS)[2]
    assert ((variance - expected) / expected).abs().max() < 1e-6
    # what the same formula makes of it in float32
    monkeypatch.setattr(axial_statistics, "_exact", Tensor.float)
    variance = similarity_statistics(packed, table, weight.flatten(), EPS)[2]
    assert ((variance - expected) / expected).abs().max() > 1e-4


def test_constant_similarities_have_no_variance_and_a_finite_gradient() -> None:
    packed, table, weight = drawn(3, 2, 4, 5, dtype=torch.float32)
    packed = (torch.zeros_like(packed) + 0.3).requires_grad_()
    scales, _, variance, _ = similarity_statistics(packed, table, weight.flatten(), EPS)
    assert variance[0].min() >= 0 and variance[0].max() < 1e-12
    torch.testing.assert_close(scales[0], weight[0] / EPS**0.5, rtol=1e-4, atol=0)
    for gradient in gradients(scales, torch.ones_like(scales), (packed, table, weight)):
        assert gradient.isfinite().all()


# ---- as operators of PyTorch ----


def operator_arguments(positions: bool) -> dict[str, tuple]:
    packed, table, numbers = drawn_with_values(3, 2, 4, 4, positions=positions)
    table = packed.new_empty(0, 7) if table is None else table
    flat = numbers[:3].detach().flatten().requires_grad_()
    return {
        "relative_attention": (packed, table, numbers, 0),
        "similarity_statistics": (packed, table, flat, EPS, False),
    }


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("name", ["relative_attention", "similarity_statistics"])
def test_operators_keep_the_rules_of_pytorch(name: str, positions: bool) -> None:
    arguments = operator_arguments(positions)[name]
    operator = getattr(torch.ops.nnunet_attn, name).default
    results = torch.library.opcheck(operator, arguments)
    assert set(results.values()) == {"SUCCESS"} and len(results) == 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positions", [True, False])
def test_backward_operators_tell_the_right_shapes_and_types(positions: bool, dtype: torch.dtype) -> None:
    tests = ("test_schema", "test_faketensor")
    ops = torch.ops.nnunet_attn
    packed, table, scales = (x.detach() for x in operator_arguments(positions)["relative_attention"][:3])
    own = torch.promote_types(dtype, torch.float32)  # that of parameters
    packed, table, scales = packed.to(dtype), table.to(own), scales.to(own)
    torch.library.opcheck(ops.relative_attention.default, (packed, table, scales, 0), test_utils=tests)
    grad = torch.randn_like(ops.relative_attention(packed, table, scales, 0))
    torch.library.opcheck(ops.relative_attention_backward.default, (grad, packed, table, scales, 0), test_utils=tests)
    weight = scales[:3].flatten()
    statistics = (packed, table, weight, EPS, False)
    torch.library.opcheck(ops.similarity_statistics.default, statistics, test_utils=tests)
    grad, *kept = ops.similarity_statistics(*statistics)
    torch.library.opcheck(
        ops.similarity_statistics_backward.default,
        (grad, packed, table, weight, *kept, EPS, False),
        test_utils=tests,
    )


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize(("width", "length"), [(2, 3), (6, 2)])
def test_gradients_are_the_numerical_ones(width: int, length: int, positions: bool) -> None:
    packed, table, numbers = drawn_with_values(2, 2, width, length, positions=positions)
    weight = numbers[:3].detach().requires_grad_()
    tables = () if table is None else (table,)

    def attend(packed: Tensor, scales: Tensor, table: Tensor | None = None) -> Tensor:
        return relative_attention(packed, table, scales, 1)

    def scale(packed: Tensor, weight: Tensor, table: Tensor | None = None) -> Tensor:
        return scales_of(packed, table, weight)

    assert torch.autograd.gradcheck(attend, (packed, numbers, *tables))
    assert torch.autograd.gradcheck(scale, (packed, weight, *tables))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("positions", [True, False])
def test_a_surrounding_autocast_changes_nothing(positions: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    packed = torch.randn(3, 2, 16, 20, requires_grad=True)
    table = torch.randn(16, 39, requires_grad=True) if positions else None
    weight = torch.rand(6 if positions else 2, requires_grad=True)
    leaves = [leaf for leaf in (packed, table, weight) if leaf is not None]

    def run() -> list[Tensor]:
        scales = similarity_statistics(packed, table, weight, EPS)[0]
        ones = torch.ones(int(positions), 2)
        output = relative_attention(packed, table, torch.cat([scales, ones]))
        return [scales, output, *torch.autograd.grad(output.square().sum(), leaves)]

    plain = run()
    with torch.autocast("cpu", dtype=dtype):
        surrounded = run()
    assert all(torch.equal(one, other) for one, other in zip(plain, surrounded, strict=True))
