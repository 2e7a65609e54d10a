"""The arithmetic of axial attention with relative positions: the one place where a fused kernel can be put.

One operator, known to `torch.compile` as a single node with its own backward pass. It attends line by line in chunks,
and its backward pass computes the similarities anew, so that nothing of size length x length outlives a chunk.

Lines come packed: (lines heads 2c length), and the 2c rows of a head are [query c/2, key c/2, value c].
Relative tables are (2c 2*length-1), rows in the same order, shared by all heads and lines.

Source: Valanarasu et al., arXiv:2102.10662, Eq. 3, in the form of Wang et al., arXiv:2003.07853. With i the query's
position and j the key's, and R(d) the table's column d + length - 1:
similarity = q_i.k_j + q_i.Rq(i - j) + k_j.Rk(j - i), output = sum_j P_ij v_j and sum_j P_ij Rv(i - j). Each similarity
and the values have a scale of every head.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# Elements of one chunk's similarities. On a CPU they should stay in the cache (4 MiB in float32); on a GPU a chunk
# should fill the device.
CPU_CHUNK_ELEMENTS = 2**20
GPU_CHUNK_ELEMENTS = 2**26
# Up to so many rows, a pass over the similarities for each row beats a matrix product that thin; measured on a CPU.
_THIN, _THIN_KEY = 2, 4
# Lines shorter than a vector register are multiplied from the other side.
_SHORT = 16


def relative_attention(packed: Tensor, relative: Tensor | None, scales: Tensor, chunk_elements: int = 0) -> Tensor:
    """Attend along every line: softmax_j(s0 q_i.k_j + s1 q_i.Rq(i-j) + s2 k_j.Rk(j-i)), values s3 v_j and Rv(i-j).

    (lines heads 2c length) -> (2 lines heads c length), the weighted values and the weighted relative values; without a
    table softmax_j(s0 q_i.k_j) and v_j alone, (1 lines heads c length). Computed in float32 at least, returned in the
    type of `packed`. Memory beyond input and output is a chunk's.

    Args:
        packed: Queries, keys and values; see the module's text.
        relative: Table (2c 2*length-1), or None for attention without positions.
        scales: s0, s1, s2, s3 of each head, (4 heads); s0 alone, (1 heads), without a table.
        chunk_elements: Similarities computed at once; 0 chooses by device. The result does not depend on it beyond
            rounding.
    """
    return _attend(packed, table_or_none(relative, packed), scales, chunk_elements)


def table_or_none(relative: Tensor | None, packed: Tensor) -> Tensor:
    """Operators take tensors only: a table without rows stands for none."""
    return packed.new_empty(0, 2 * packed.shape[-1] - 1) if relative is None else relative


def _parts(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    half = packed.shape[-2] // 4
    return packed[..., :half, :], packed[..., half : 2 * half, :], packed[..., 2 * half :, :]


def expanded_tables(relative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tables as matrices over query i and key j: Rq(i-j), Rk(j-i), Rv(i-j), each (rows length length)."""
    rows, width = relative.shape
    length, half = (width + 1) // 2, rows // 4
    windows = relative.unfold(-1, length, 1)  # (rows length length), element a b is column a + b
    key_minus_query = windows.flip(1)
    query_minus_key = windows.flip(2)
    return query_minus_key[:half], key_minus_query[half : 2 * half], query_minus_key[2 * half :]


class _Tables:
    """Tables as matrices in the orders that products want them: Rq(i-j), Rk(j-i) and Rv(i-j)."""

    def __init__(self, relative: Tensor) -> None:
        query, self.key, value = expanded_tables(relative)
        self.query = query.transpose(0, 1).contiguous()  # i rows j
        self.value = value.transpose(0, 1).contiguous()  # i rows j
        self.key_by_position = self.key.permute(2, 0, 1).contiguous()  # j rows i; `key` is rows i j


def folded_tables(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The gradient of the tables from those of the matrices: sums along diagonals. Reverse of `expanded_tables`."""
    length = query.shape[-1]
    aligned = torch.cat([query.flip(2), key.flip(1), value.flip(2)])  # element a b belongs to column a + b
    rows = len(aligned)
    # rows of a matrix of width 2*length, each shifted by one more: its columns are the diagonals
    skewed = aligned.new_zeros(rows, length, 2 * length)
    skewed.as_strided((rows, length, length), (2 * length * length, 2 * length + 1, 1)).copy_(aligned)
    return skewed.sum(1)[:, : 2 * length - 1].contiguous()


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Return what keeps a surrounding autocast from the products of an operator, which chooses its own types."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if device in ("cpu", "cuda") else nullcontext()


def compute_type(tensor: Tensor) -> torch.dtype:
    """Return the type to compute in: float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _chunks(packed: Tensor, chunk_elements: int) -> Iterator[slice]:
    lines, heads, _, length = packed.shape
    if chunk_elements <= 0:
        cached = CPU_CHUNK_ELEMENTS * max(1, torch.get_num_threads() // 4)
        chunk_elements = cached if packed.device.type == "cpu" else GPU_CHUNK_ELEMENTS
    step = max(1, chunk_elements // (heads * length * length))
    for start in range(0, lines, step):
        yield slice(start, start + step)


class _Lines:
    """A chunk of lines: (n rows length) with n = lines x heads, and its scaled queries and keys."""

    def __init__(self, packed: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        lines, heads, _, length = packed.shape
        self.shape = (lines, heads, -1, length)
        query, key, value = _parts(packed.to(dtype))
        scale = scales[:, None, :, None, None]
        self.query, self.key = (part.reshape(lines * heads, -1, length) for part in (query, key))
        self.content_query = (query * scale[0]).view(self.query.shape)
        self.value = (value * scale[3] if len(scales) > 1 else value).reshape(lines * heads, -1, length)
        if len(scales) > 1:
            self.position_query = (query * scale[1]).view(self.query.shape)
            self.position_key = (key * scale[2]).view(self.query.shape)

    def probabilities(self, tables: _Tables) -> Tensor:
        """(n i j)."""
        rows, length = self.query.shape[1:]
        if rows == 1:
            scores = self.content_query.transpose(1, 2) * self.key
        else:
            scores = torch.bmm(self.content_query.transpose(1, 2), self.key)
        if not tables.query.numel():
            return _softmax(scores)
        if rows <= _THIN:
            for row in range(rows):
                scores.addcmul_(self.position_query[:, row, :, None], tables.query[:, row])
        else:
            scores += torch.bmm(_by_position(self.position_query), tables.query).transpose(0, 1)
        if rows <= _THIN_KEY:
            for row in range(rows):
                scores.addcmul_(self.position_key[:, row, None, :], tables.key[row])
        else:
            by_key = torch.bmm(_by_position(self.position_key), tables.key_by_position)  # j n i
            scores += by_key.view(length, -1).t().contiguous().view(scores.shape)
        return _softmax(scores)


def _by_position(part: Tensor) -> Tensor:
    """(n rows length) -> (length n rows), laid out so: products would else copy it matrix by matrix."""
    return part.permute(2, 0, 1).contiguous()


def _softmax(scores: Tensor) -> Tensor:
    """(n i j) -> (n i j), over j."""
    length = scores.shape[-1]
    if length >= _SHORT:
        return torch.softmax(scores, -1)
    # PyTorch's CPU kernel fills a vector register with keys, or else goes number by number; so: with queries
    return torch.softmax(scores.view(-1, length).t().contiguous(), 0).t().contiguous().view(scores.shape)


def _over_keys(left: Tensor, weights: Tensor) -> Tensor:
    """(n rows j), (n i j) -> (n rows i), summed over j."""
    if weights.shape[-1] < _SHORT:
        return torch.bmm(weights, left.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(left, weights.transpose(1, 2))


def _over_queries(left: Tensor, weights: Tensor) -> Tensor:
    """(n rows i), (n i j) -> (n rows j), summed over i."""
    if weights.shape[-1] < _SHORT:
        return torch.bmm(weights.transpose(1, 2), left.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(left, weights)


def _table_over_keys(table: Tensor, weights: Tensor) -> Tensor:
    """(i rows j), (n i j) -> (n rows i), summed over j."""
    return torch.bmm(table, weights.permute(1, 2, 0)).permute(2, 1, 0)


def _by_query(left: Tensor, weights: Tensor) -> Tensor:
    """(i n rows), (n i j) -> (i rows j), summed over n."""
    return torch.bmm(left.transpose(1, 2), weights.transpose(0, 1))


def _key_position(weights: Tensor, position_key: Tensor, tables: _Tables) -> tuple[Tensor, Tensor]:
    """From the gradient of the similarities to those of `position_key` (n rows j) and of its table (rows i j)."""
    rows, length = position_key.shape[1:]
    if rows <= _THIN:
        grad_key = torch.stack([(weights * tables.key[row]).sum(1) for row in range(rows)], 1)
        return grad_key, torch.stack([(weights * position_key[:, row, None, :]).sum(0) for row in range(rows)])
    by_key = weights.view(-1, length).t().contiguous().view(length, -1, length)  # j n i
    grad_key = torch.bmm(tables.key_by_position, by_key.transpose(1, 2))
    grad_table = torch.bmm(_by_position(position_key).transpose(1, 2), by_key)
    return grad_key.permute(2, 1, 0), grad_table.permute(1, 2, 0)


def _through_softmax(grad: Tensor, probabilities: Tensor) -> Tensor:
    if probabilities.shape[-1] < _SHORT:
        grad = grad.mul_(probabilities)
        return grad.sub_(probabilities * grad.sum(-1, keepdim=True))
    return torch.ops.aten._softmax_backward_data(grad, probabilities, -1, probabilities.dtype)


@torch.library.custom_op("nnunet_attn::relative_attention", mutates_args=())
def _attend(packed: Tensor, relative: Tensor, scales: Tensor, chunk_elements: int) -> Tensor:
    with without_autocast(packed):
        return _attended(packed, relative, scales, chunk_elements)


def _attended(packed: Tensor, relative: Tensor, scales: Tensor, chunk_elements: int) -> Tensor:
    dtype = compute_type(packed)
    lines, heads, rows, length = packed.shape
    positions = bool(len(relative))
    output = packed.new_empty(1 + positions, lines, heads, rows // 2, length)
    tables = _Tables(relative.to(dtype))
    scales = scales.to(dtype)
    for chunk in _chunks(packed, chunk_elements):
        part = _Lines(packed[chunk], scales, dtype)
        probabilities = part.probabilities(tables)
        output[0, chunk] = _over_keys(part.value, probabilities).reshape(part.shape)
        if positions:
            output[1, chunk] = _table_over_keys(tables.value, probabilities).reshape(part.shape)
    return output


@_attend.register_fake
def _(packed: Tensor, relative: Tensor, scales: Tensor, chunk_elements: int) -> Tensor:
    lines, heads, rows, length = packed.shape
    return packed.new_empty(1 + bool(len(relative)), lines, heads, rows // 2, length)


@torch.library.custom_op("nnunet_attn::relative_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, packed: Tensor, relative: Tensor, scales: Tensor, chunk_elements: int
) -> tuple[Tensor, Tensor, Tensor]:
    with without_autocast(packed):
        return _attended_backward(grad, packed, relative, scales, chunk_elements)


def _attended_backward(
    grad: Tensor, packed: Tensor, relative: Tensor, scales: Tensor, chunk_elements: int
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = compute_type(packed)
    rows = packed.shape[2] // 4
    positions = bool(len(relative))
    grad_packed = torch.empty_like(packed)
    tables = _Tables(relative.to(dtype))
    own = (tables.query, tables.key, tables.value)
    grad_query_table, grad_key_table, grad_value_table = (torch.zeros_like(table) for table in own)
    scale = scales.to(dtype)
    factor = scale[:, None, :, None, None]
    grad_scales = torch.zeros_like(scale)
    for chunk in _chunks(packed, chunk_elements):
        part = _Lines(packed[chunk], scale, dtype)
        probabilities = part.probabilities(tables)
        side = grad[0, chunk].to(dtype).reshape(part.value.shape)
        grad_of_value = _over_queries(side, probabilities)
        weights = torch.bmm(side.transpose(1, 2), part.value)
        if positions:
            side = _by_position(grad[1, chunk].to(dtype).reshape(part.value.shape))
            grad_value_table += _by_query(side, probabilities)
            weights += torch.bmm(side, tables.value).transpose(0, 1)
        weights = _through_softmax(weights, probabilities)  # the gradient of the similarities
        del probabilities

        query, key = part.query.view(part.shape), part.key.view(part.shape)
        target = (
            grad_packed[chunk] if packed.dtype == dtype else packed[chunk].to(dtype)
        )  # the latter to be overwritten
        of_query, of_key, of_value = target[:, :, :rows], target[:, :, rows : 2 * rows], target[:, :, 2 * rows :]
        grad_query = _over_keys(part.key, weights).reshape(part.shape)
        grad_scales[0] += (query * grad_query).sum((0, 2, 3))
        torch.mul(grad_query, factor[0], out=of_query)
        torch.mul(_over_queries(part.query, weights).reshape(part.shape), factor[0], out=of_key)
        grad_of_value = grad_of_value.reshape(part.shape)
        if positions:
            from_position = _table_over_keys(tables.query, weights).reshape(part.shape)
            grad_scales[1] += (query * from_position).sum((0, 2, 3))
            of_query.addcmul_(from_position, factor[1])
            grad_query_table += _by_query(_by_position(part.position_query), weights)
            from_position, grad_table = _key_position(weights, part.position_key, tables)
            from_position = from_position.reshape(part.shape)
            grad_scales[2] += (key * from_position).sum((0, 2, 3))
            of_key.addcmul_(from_position, factor[2])
            grad_key_table += grad_table
            grad_scales[3] += (packed[chunk, :, 2 * rows :] * grad_of_value).sum((0, 2, 3))
            torch.mul(grad_of_value, factor[3], out=of_value)
        else:
            of_value.copy_(grad_of_value)
        if packed.dtype != dtype:
            grad_packed[chunk] = target
    grad_relative = torch.zeros_like(relative)
    if positions:
        grads = (grad_query_table.transpose(0, 1), grad_key_table, grad_value_table.transpose(0, 1))
        grad_relative = folded_tables(*grads).to(relative.dtype)
    return grad_packed, grad_relative, grad_scales.to(scales.dtype)


@_attend_backward.register_fake
def _(
    grad: Tensor, packed: Tensor, relative: Tensor, scales: Tensor, chunk_elements: int
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(packed), torch.empty_like(relative), torch.empty_like(scales)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.chunk_elements = inputs
    ctx.save_for_backward(*tensors)


def _attend_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_attend_backward(grad.contiguous(), *ctx.saved_tensors, ctx.chunk_elements), None)


_attend.register_autograd(_attend_gradient, setup_context=_keep_inputs)


def relative_weights(packed: Tensor, relative: Tensor | None, scales: Tensor) -> Tensor:
    """Return what `relative_attention` weighs the values with, (lines heads query key); each row adds up to 1.

    In float32 at least. Memory is that of the result, which `relative_attention` never holds.
    """
    dtype = compute_type(packed)
    with without_autocast(packed):
        part = _Lines(packed, scales.to(dtype), dtype)
        weights = part.probabilities(_Tables(table_or_none(relative, packed).to(dtype)))
    return weights.unflatten(0, packed.shape[:2])
