"""The GASA block as loops over slices, heads, queries and voxels; arXiv:2409.13146."""

from itertools import product

import torch
from torch import Tensor


def gasa(
    f: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    qkv: tuple[Tensor, Tensor],
    out: tuple[Tensor, Tensor],
    num_heads: int,
    token_position: Tensor | None = None,
    voxel_position: Tensor | None = None,
    qkv_norm: tuple[Tensor, Tensor] | None = None,
    out_norm: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return [f, g], (b c *space) -> (b c+k*d *space).

    `weights[a]` is (d, c, *plane) with the plane's axes in tensor order; linear layers are (weight (out, in), bias).
    """
    images = []
    for image in f:
        tokens = _tokens(image, weights, biases, token_position)
        g = _new_channels(image, tokens, qkv, out, num_heads, voxel_position, qkv_norm, out_norm)
        images.append(torch.cat([image, g]))
    return torch.stack(images)


def _tokens(image: Tensor, weights: list[Tensor], biases: list[Tensor], position: Tensor | None) -> list[Tensor]:
    """One token per slice, the slices of the first axis first: the full-plane convolution is a weighted sum."""
    tokens = []
    for axis in range(image.ndim - 1):
        for index in range(image.shape[1 + axis]):
            one_slice = image.select(1 + axis, index)
            tokens.append(
                torch.stack(
                    [
                        (kernel * one_slice).sum() + bias
                        for kernel, bias in zip(weights[axis], biases[axis], strict=True)
                    ]
                )
            )
    if position is not None:
        tokens = [token + position[0, n] for n, token in enumerate(tokens)]
    return tokens


def _linear(x: Tensor, layer: tuple[Tensor, Tensor], norm: tuple[Tensor, Tensor] | None) -> Tensor:
    weight, bias = layer
    y = torch.stack([(row * x).sum() + b for row, b in zip(weight, bias, strict=True)])
    if norm is None:
        return y
    variance = ((y - y.mean()) ** 2).mean()
    return (y - y.mean()) / (variance + 1e-5).sqrt() * norm[0] + norm[1]


def _new_channels(
    image: Tensor,
    tokens: list[Tensor],
    qkv: tuple[Tensor, Tensor],
    out: tuple[Tensor, Tensor],
    num_heads: int,
    voxel_position: Tensor | None,
    qkv_norm: tuple[Tensor, Tensor] | None,
    out_norm: tuple[Tensor, Tensor] | None,
) -> Tensor:
    d = len(tokens[0])
    width = d // num_heads
    packed = [_linear(token, qkv, qkv_norm) for token in tokens]
    mixed = []
    for query_token in packed:
        heads = []
        for head in range(num_heads):
            q, k, v = (slice(part * d + head * width, part * d + (head + 1) * width) for part in range(3))
            scores = [(query_token[q] * other[k]).sum() / width**0.5 for other in packed]
            exponentials = [torch.exp(score) for score in scores]
            total = sum(exponentials)
            weighted = [e / total * other[v] for e, other in zip(exponentials, packed, strict=True)]
            heads.append(torch.stack(weighted).sum(0))
        mixed.append(_linear(torch.cat(heads), out, out_norm))

    space = image.shape[1:]
    voxels = []
    for index in product(*map(range, space)):
        starts = [sum(space[:axis]) for axis in range(len(space))]
        voxel = torch.cat([mixed[start + i] for start, i in zip(starts, index, strict=True)])
        if voxel_position is not None:
            voxel = voxel + voxel_position[(0, 0, *index)]
        voxels.append(voxel)
    return torch.stack(voxels, dim=1).reshape(len(space) * d, *space)
