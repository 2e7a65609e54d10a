"""Batch statistics of the similarities of axial attention, without forming the similarities.

One operator, known to `torch.compile` as a single node with its own backward pass. Packed lines and relative tables are
those of `axial_function`.
"""

from typing import Any

import torch
from torch import Tensor, distributed

from nnunet_attn.architectures.blocks.axial_function import (
    compute_type,
    expanded_tables,
    folded_tables,
    table_or_none,
    without_autocast,
)


def similarity_statistics(
    packed: Tensor, relative: Tensor | None, weight: Tensor, eps: float, synchronise: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what a batch norm of the similarities would scale them with, and its statistics.

    (lines heads 2c length) -> scales weight / sqrt(variance + eps) (terms heads), differentiable; and without gradient
    mean and variance (terms heads) and the count behind them. Terms are q.k, q.Rq, k.Rk, or q.k alone without a table.

    From Gram matrices: sum_ij (q_i.k_j)^2 = <Q Q^T, K K^T>, and sum_j (q_i.r_ij)^2 = q_i^T (sum_j r_ij r_ij^T) q_i. In
    float64, since the variance is a small difference where the mean is large.

    Args:
        packed: Queries, keys and values; see `axial_function`.
        relative: Table (2c 2*length-1), or None.
        weight: Weight of the norm, (terms * heads).
        eps: Added to the variance.
        synchronise: Take the statistics over all ranks of the default process group.
    """
    scales, *statistics = _statistics(packed, table_or_none(relative, packed), weight, eps, synchronise)[:4]
    mean, variance, count = (each.detach() for each in statistics)
    return scales, mean, variance, count


def _exact(tensor: Tensor) -> Tensor:
    """In float64, or float32 on devices that know no other."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _queries_and_keys(packed: Tensor) -> Tensor:
    """(lines heads 2c length) -> (lines heads 2 rows length)."""
    return packed[:, :, : packed.shape[2] // 2].unflatten(2, (2, -1))


def _table_sums(relative: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the query's table over keys and of the key's over queries, (2 rows length), and of r r^T, (length 2 rows
    rows)."""
    query, key, _ = expanded_tables(relative)
    both = torch.stack([query, key.transpose(1, 2)])  # own position, then the other's
    by_position = both.permute(2, 0, 1, 3)
    return both.sum(-1), by_position @ by_position.transpose(-1, -2)


def _moments(packed: Tensor, relative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums and sums of squares of each term (2 terms heads), and x x^T of every line (lines heads 2 rows rows) and of
    every position (heads length 2 rows rows)."""
    parts = _queries_and_keys(packed)
    exact = _exact(parts)
    by_line = exact @ exact.transpose(-1, -2)
    totals = exact.sum(-1)
    sums = [(totals[:, :, 0] * totals[:, :, 1]).sum((0, 2))]
    squares = [(by_line[:, :, 0] * by_line[:, :, 1]).sum((0, 2, 3))]
    by_position = exact.new_empty(0)
    if len(relative):
        table_totals, table_products = _table_sums(_exact(relative))
        lines_last = exact.permute(1, 4, 2, 3, 0).contiguous()
        by_position = lines_last @ lines_last.transpose(-1, -2)
        sums.extend((exact.sum(0) * table_totals).sum((2, 3)).t())
        squares.extend((by_position * table_products).sum((1, 3, 4)).t())
    return torch.stack([torch.stack(sums), torch.stack(squares)]), by_line, by_position


@torch.library.custom_op("nnunet_attn::similarity_statistics", mutates_args=())
def _statistics(
    packed: Tensor, relative: Tensor, weight: Tensor, eps: float, synchronise: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    with without_autocast(packed):
        moments, by_line, by_position = _moments(packed, relative)
    count = moments.new_tensor(len(packed) * packed.shape[-1] ** 2)
    if synchronise:
        everything = torch.cat([moments.flatten(), count[None]])
        distributed.all_reduce(everything)
        moments, count = everything[:-1].view_as(moments), everything[-1].clone()
    mean, square = moments / count
    variance = (square - mean.square()).clamp_(min=0)
    scales = weight.view(variance.shape) * torch.rsqrt(variance + eps).to(weight.dtype)
    # the backward pass is as exact as that of a batch norm over the similarities would be
    dtype = compute_type(packed)
    return scales, mean.clone(), variance, count, by_line.to(dtype), by_position.to(dtype)


@_statistics.register_fake
def _(
    packed: Tensor, relative: Tensor, weight: Tensor, eps: float, synchronise: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    lines, heads, rows, length = packed.shape
    rows //= 4
    positions = bool(len(relative))
    terms = 1 + 2 * positions
    dtype = torch.float32 if packed.device.type == "mps" else torch.float64
    return (
        weight.new_empty(terms, heads),
        packed.new_empty(terms, heads, dtype=dtype),
        packed.new_empty(terms, heads, dtype=dtype),
        packed.new_empty((), dtype=dtype),
        packed.new_empty(lines, heads, 2, rows, rows, dtype=compute_type(packed)),
        packed.new_empty((heads, length, 2, rows, rows) if positions else (0,), dtype=compute_type(packed)),
    )


@torch.library.custom_op("nnunet_attn::similarity_statistics_backward", mutates_args=())
def _statistics_backward(
    grad: Tensor,
    packed: Tensor,
    relative: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    by_line: Tensor,
    by_position: Tensor,
    eps: float,
    synchronise: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    with without_autocast(packed):
        inverse = torch.rsqrt(variance + eps)
        grad = _exact(grad)
        grad_weight = (grad * inverse).flatten().to(weight.dtype)
        # scale = weight (variance + eps)^-1/2 and variance = squares / count - (sums / count)^2, at least 0
        of_variance = torch.where(variance > 0, grad * _exact(weight).view(grad.shape) * inverse**3 / -2, 0) / count
        if synchronise:
            distributed.all_reduce(of_variance)
        dtype = compute_type(packed)
        sums, squares = (-2 * mean * of_variance).to(dtype), (2 * of_variance).to(dtype)

        parts = _queries_and_keys(packed.to(dtype))
        heads, rows = packed.shape[1], parts.shape[3]
        result = (squares[0].view(heads, 1, 1, 1) * by_line.flip(2)) @ parts
        result += (sums[0].view(heads, 1, 1) * parts.sum(-1)).flip(2)[..., None]
        grad_relative = torch.zeros_like(relative)
        if len(relative):
            tables = expanded_tables(relative.to(dtype))
            totals, products = _table_sums(relative.to(dtype))
            of_sum, of_square = sums[1:].t()[:, :, None, None], squares[1:].t()[:, None, :, None, None]
            # (heads length 2 rows rows) @ (heads length 2 rows lines)
            quadratic = (of_square * products) @ parts.permute(1, 4, 2, 3, 0).contiguous()
            result += quadratic.permute(4, 0, 2, 3, 1)
            result += of_sum * totals
            linear = (of_sum * parts.sum(0)).sum(0)  # (2 rows length)
            both = torch.stack([tables[0], tables[1].transpose(1, 2)]).permute(2, 0, 1, 3)
            grad_both = ((of_square * by_position).sum(0) @ both).permute(1, 2, 0, 3) + linear[..., None]
            folded = folded_tables(grad_both[0], grad_both[1].transpose(1, 2), torch.zeros_like(tables[2]))
            grad_relative = folded.to(relative.dtype)
        grad_packed = torch.empty_like(packed)
        grad_packed[:, :, : 2 * rows] = result.flatten(2, 3)
        grad_packed[:, :, 2 * rows :] = 0
        return grad_packed, grad_relative, grad_weight


@_statistics_backward.register_fake
def _(grad: Tensor, packed: Tensor, relative: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(packed), torch.empty_like(relative), torch.empty_like(weight)


def _keep_for_statistics(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.eps, ctx.synchronise = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _statistics_gradient(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return (*_statistics_backward(grad, *ctx.saved_tensors, ctx.eps, ctx.synchronise), None, None)


_statistics.register_autograd(_statistics_gradient, setup_context=_keep_for_statistics)
