"""The arithmetic of window attention in training: no similarity outlives its chunk of windows.

One operator, known to `torch.compile` as a single node with its own backward pass, which computes the similarities
anew. It exists because PyTorch's fused CPU kernel takes no trainable bias and the composed one keeps every similarity.

Source: Liu et al., arXiv:2103.14030, Eq. 4: softmax(q k^T / sqrt(d) + bias + mask) v.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nnunet_attn.architectures.blocks.axial_function import compute_type, without_autocast

# Elements of one chunk's similarities: they should stay in a core's cache (0.5 MiB in float32); measured on a CPU.
CHUNK_ELEMENTS = 2**17


def chunked_window_attention(
    qkv: Tensor, bias: Tensor, mask: Tensor | None, num_heads: int, chunk_elements: int = 0
) -> Tensor:
    """Attend within every window, (n length 3c) -> (n length c).

    Computed in float32 at least, returned in the type of `qkv`. Memory beyond input and output is a chunk's.

    Args:
        qkv: Queries, keys and values side by side, each head by head. n is batch x windows, windows fastest.
        bias: Added to the similarities of each head, (heads length length).
        mask: Added to those of each window, (windows length length), without gradient.
        num_heads: Attention heads.
        chunk_elements: Similarities computed at once; 0 chooses. The result does not depend on it beyond rounding.
    """
    mask = bias.new_empty(0, *bias.shape[1:]) if mask is None else mask
    return _attend(qkv, bias, mask, num_heads, chunk_elements or CHUNK_ELEMENTS)


def _chunks(qkv: Tensor, num_heads: int, chunk_elements: int) -> Iterator[tuple[slice, slice]]:
    """Yield windows and heads: several windows with all heads, or some heads of one window."""
    count, length, _ = qkv.shape
    together = max(1, chunk_elements // length**2)  # matrices of similarities
    windows, heads = max(1, together // num_heads), min(together, num_heads)
    for start in range(0, count, windows):
        for head in range(0, num_heads, heads):
            yield slice(start, min(start + windows, count)), slice(head, head + heads)


def _split(tensor: Tensor, num_heads: int, parts: int = 1) -> Tensor:
    """(n length parts*c) -> (parts n heads length width), a view."""
    count, length, channels = tensor.shape
    return tensor.view(count, length, parts, num_heads, channels // parts // num_heads).permute(2, 0, 3, 1, 4)


class _Chunk:
    """Queries, keys and values, (windows*heads length width), and their probabilities."""

    def __init__(self, parts: Tensor, windows: slice, bias: Tensor, mask: Tensor) -> None:
        # once, one after the other: products would else copy them matrix by matrix
        parts = parts.to(bias.dtype).contiguous()
        self.shape = parts.shape[1:]
        self.query, self.key, self.value = parts.flatten(1, 2)
        self.scale = self.query.shape[-1] ** -0.5
        self.query = self.query * self.scale
        scores = torch.bmm(self.query, self.key.transpose(1, 2)).view(*self.shape[:-1], -1)
        scores += bias
        if len(mask):
            scores += mask[torch.arange(windows.start, windows.stop, device=mask.device) % len(mask)][:, None]
        self.probabilities = torch.softmax(scores, -1).flatten(0, 1)


@torch.library.custom_op("nnunet_attn::window_attention", mutates_args=())
def _attend(qkv: Tensor, bias: Tensor, mask: Tensor, num_heads: int, chunk_elements: int) -> Tensor:
    dtype = compute_type(qkv)
    output = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
    parts, target = _split(qkv, num_heads, 3), _split(output, num_heads)[0]
    bias, mask = bias.to(dtype), mask.to(dtype)
    with without_autocast(qkv):
        for windows, heads in _chunks(qkv, num_heads, chunk_elements):
            part = _Chunk(parts[:, windows, heads], windows, bias[heads], mask)
            target[windows, heads] = torch.bmm(part.probabilities, part.value).view(part.shape)
    return output


@_attend.register_fake
def _(qkv: Tensor, bias: Tensor, mask: Tensor, num_heads: int, chunk_elements: int) -> Tensor:
    count, length, channels = qkv.shape
    return qkv.new_empty(count, length, channels // 3)


@torch.library.custom_op("nnunet_attn::window_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, qkv: Tensor, bias: Tensor, mask: Tensor, num_heads: int, chunk_elements: int
) -> tuple[Tensor, Tensor]:
    dtype = compute_type(qkv)
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    parts, target, sides = _split(qkv, num_heads, 3), _split(grad_qkv, num_heads, 3), _split(grad, num_heads)[0]
    own_bias, mask = bias.to(dtype), mask.to(dtype)
    grad_bias = torch.zeros_like(own_bias)
    with without_autocast(qkv):
        for windows, heads in _chunks(qkv, num_heads, chunk_elements):
            part = _Chunk(parts[:, windows, heads], windows, own_bias[heads], mask)
            side = sides[windows, heads].to(dtype).contiguous().flatten(0, 1)
            target[2, windows, heads] = torch.bmm(part.probabilities.transpose(1, 2), side).view(part.shape)
            weights = torch.bmm(side, part.value.transpose(1, 2))
            weights = torch.ops.aten._softmax_backward_data(weights, part.probabilities, -1, dtype)
            grad_bias[heads] += weights.view(*part.shape[:-1], -1).sum(0)
            target[0, windows, heads] = torch.bmm(weights, part.key).mul_(part.scale).view(part.shape)
            target[1, windows, heads] = torch.bmm(weights.transpose(1, 2), part.query).view(part.shape)
    return grad_qkv, grad_bias.to(bias.dtype)


@_attend_backward.register_fake
def _(
    grad: Tensor, qkv: Tensor, bias: Tensor, mask: Tensor, num_heads: int, chunk_elements: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format), torch.empty_like(bias)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.num_heads, ctx.chunk_elements = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = _attend_backward(grad.contiguous(), *ctx.saved_tensors, ctx.num_heads, ctx.chunk_elements)
    return (*grads, None, None, None)


_attend.register_autograd(_gradient, setup_context=_keep_inputs)
