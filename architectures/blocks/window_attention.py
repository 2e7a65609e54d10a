"""Self-attention within windows of a 3D map, with relative biases and optional memory tokens in front."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.axial_function import compute_type, without_autocast
from nnunet_attn.architectures.blocks.window_function import chunked_window_attention
from nnunet_attn.architectures.shapes import Tokens

# Between voxels that the shift has brought side by side; finite as published, so that no row can be all masked.
MASKED = -100.0
BIAS_STD = 0.02
# Elements of the masks that are put together at once in evaluation on a CPU, 1 MiB in float32; measured.
_CHUNK_ELEMENTS = 2**18


class WindowAttention(nn.Module):
    """Multi-head self-attention within each window, with a learnt bias for each relative position.

    (n length c) -> (n length c); n is batch x windows, windows fastest; length is tokens + voxels of a window, voxels
    row-major. Tokens in front of the voxels have no bias and no mask. Compute is n * length^2 * c, memory n * length *
    c: similarities are never kept.

    Args:
        channels: Feature channels c, a multiple of `num_heads`.
        num_heads: Attention heads.
        window: Voxels of a window along each axis.
        tokens: Memory tokens in front of the voxels.
        projects_query: Whether queries are projected; if not, they are the first c of 3c input channels as they are,
            and keys and values come from the other 2c (`forward_pair`).
        quirk: Index the biases as the published code does, whose first stride is 3w-1 instead of (2w-1)^2, so that
            different offsets share a bias and many biases are never used.
    Raises:
        ValueError: If `channels` is no multiple of `num_heads`.
    Source: Liu et al., arXiv:2103.14030, Eq. 4; Zhou et al., arXiv:2109.03201, and its published code.
    """

    index: Tensor

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window: Sequence[int],
        tokens: int = 0,
        projects_query: bool = True,
        quirk: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"channels must be a multiple of num_heads, got {channels} channels for {num_heads} heads")
        self.channels, self.num_heads, self.tokens = channels, num_heads, tokens
        self.window = tuple(window)
        if projects_query:
            self.qkv = nn.Linear(channels, 3 * channels)
        else:
            self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        rows = 1
        for size in self.window:
            rows *= 2 * size - 1
        self.relative_bias = nn.Parameter(torch.empty(rows, num_heads))
        nn.init.trunc_normal_(self.relative_bias, std=BIAS_STD)
        self.register_buffer("index", relative_index(self.window, quirk), persistent=False)
        self._cached: tuple[Any, Tensor, Tensor | None] | None = None

    def forward(self, x: Tokens, mask: Tensor | None = None) -> Tokens:
        """Attend; `mask` is added to the similarities of each window, (windows length length)."""
        return self.proj(self._attended(self.qkv(x), mask))

    def forward_pair(self, query: Tokens, x: Tokens) -> Tokens:
        """Attend from queries that are taken as they are, (n length c), to `x`, (n length c)."""
        return self.proj(self._attended(torch.cat([query, self.kv(x)], -1), None))

    def attention_weights(self, x: Tokens, mask: Tensor | None = None, source: Tensor | None = None) -> Tensor:
        """Return what the values are weighed with, (n heads query key); each row adds up to 1.

        In float32 at least.

        Args:
            x: See `forward`; with `source` the queries of `forward_pair`.
            mask: See `forward`.
            source: What `forward_pair` attends to.
        """
        with without_autocast(x):
            x = x.to(self.proj.weight.dtype)
            qkv = self.qkv(x) if source is None else torch.cat([x, self.kv(source.to(x.dtype))], -1)
            parts = qkv.to(compute_type(qkv)).unflatten(-1, (3, self.num_heads, -1))
            query, key, _ = parts.permute(2, 0, 3, 1, 4)  # n heads length width
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + self.bias()
            if mask is not None:
                scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
            return torch.softmax(scores, -1)

    def bias(self) -> Tensor:
        """Return the bias of each head, (heads length length), zero for tokens."""
        length = len(self.index)
        # along the rows of the transposed table: several times as fast as picking rows, and laid out as wanted
        bias = self.relative_bias.t().index_select(1, self.index.flatten()).view(self.num_heads, length, length)
        return F.pad(bias, (self.tokens, 0, self.tokens, 0)) if self.tokens else bias

    def train(self, mode: bool = True) -> "WindowAttention":
        """Set the mode, and forget what evaluation kept."""
        self._cached = None
        return super().train(mode)

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        self._cached = None
        super()._load_from_state_dict(*arguments, **keywords)

    def _attended(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        learns = torch.is_grad_enabled() and (qkv.requires_grad or self.relative_bias.requires_grad)
        # some versions of PyTorch's kernels fail where of all inputs only the bias learns (pytorch pull 188302)
        if learns and (qkv.device.type == "cpu" or not qkv.requires_grad):
            return chunked_window_attention(qkv, self.bias(), mask, self.num_heads)
        fresh = learns or self.training or torch.compiler.is_compiling()
        added, kinds = (self._added(mask, qkv.dtype), None) if fresh else self._kept(mask, qkv.dtype)
        count, length, _ = qkv.shape
        parts = qkv.view(count, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # 3 n heads length width
        if kinds is not None:
            return self._attended_by_kind(parts, added, kinds)
        if len(added) in (1, count):
            attended = F.scaled_dot_product_attention(*parts, attn_mask=added.expand(count, -1, -1, -1))
        else:
            # one sample after the other: the mask is of one, and repeating it would cost more than the attention
            samples = zip(*(part.split(len(added)) for part in parts), strict=True)
            attended = torch.cat([F.scaled_dot_product_attention(*sample, attn_mask=added) for sample in samples])
        return attended.transpose(1, 2).reshape(count, length, self.channels)

    def _attended_by_kind(self, parts: Tensor, added: Tensor, kinds: Tensor) -> Tensor:
        """Attend with the masks of some windows at a time, (3 n heads length width) -> (n length c).

        Args:
            parts: Queries, keys and values.
            added: Biases and mask of each kind of window, (kinds heads length length).
            kinds: Which of them each window of a sample has, (windows).
        """
        _, count, heads, length, width = parts.shape
        output = parts.new_empty(count, length, heads, width)
        together = max(1, _CHUNK_ELEMENTS // added[0].numel())
        for start in range(0, count, together):
            windows = slice(start, min(start + together, count))
            own = added[kinds[torch.arange(windows.start, windows.stop) % len(kinds)]]
            attended = F.scaled_dot_product_attention(*parts[:, windows], attn_mask=own)
            output[windows] = attended.transpose(1, 2)
        return output.view(count, length, self.channels)

    def _added(self, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return bias and mask as one, (1 or windows, heads length length)."""
        both = self.bias()[None] if mask is None else self.bias() + mask[:, None].to(self.relative_bias.dtype)
        both = both.to(dtype)
        return aligned_rows(both) if both.device.type == "cuda" else both

    def _kept(self, mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The same, kept between calls in evaluation for as long as the biases stay what they are.

        On a CPU only once for all windows that have the same mask, and which of these each window has: shifts make 8
        kinds of windows at most.
        """
        table = self.relative_bias
        try:
            version = table._version
        except RuntimeError:  # made in inference mode, where PyTorch does not count changes
            return self._added(mask, dtype), None
        key = (table.device, dtype, table.data_ptr(), version, None if mask is None else mask.shape)
        if self._cached is None or self._cached[0] != key:
            kinds = None
            if mask is not None and table.device.type == "cpu":
                different, which = torch.unique(mask, dim=0, return_inverse=True)
                if len(different) < len(mask):
                    mask, kinds = different, which
            self._cached = (key, self._added(mask, dtype).detach(), kinds)
        return self._cached[1:]


def aligned_rows(added: Tensor) -> Tensor:
    """Return the same numbers in rows that begin at multiples of 8: CUDA's kernels copy others at each call."""
    length = added.shape[-1]
    return F.pad(added, (0, -length % 8))[..., :length] if length % 8 else added


def relative_index(window: Sequence[int], quirk: bool = False) -> Tensor:
    """Return which bias a pair of voxels of a window has, (query key), both row-major.

    Args:
        window: Voxels along each axis.
        quirk: As the published code computes it; see `WindowAttention`.
    """
    places = torch.tensor(list(itertools.product(*(range(size) for size in window)))).view(-1, len(window))
    offsets = places[:, None] - places + torch.tensor(window) - 1
    _, second, third = window
    strides = ((2 * second - 1) * (2 * third - 1), 2 * third - 1, 1)
    if quirk:
        # the rule is known for cubes; the bound keeps flat windows within their table
        strides = (min(3 * second - 1, strides[0]), 2 * third - 1, 1)
    return (offsets * torch.tensor(strides)).sum(-1)


def padded_size(size: Sequence[int], window: Sequence[int]) -> tuple[int, ...]:
    """Return the smallest multiples of the window that hold the map."""
    return tuple(-(-voxels // step) * step for voxels, step in zip(size, window, strict=True))


def to_windows(x: Tensor, window: Sequence[int], shift: Sequence[int], tokens: Tensor | None = None) -> Tensor:
    """Pad a map at its ends, roll it back by `shift` and cut it: (b d h w c) -> (b*windows voxels c).

    With `tokens` (b*windows count c) these lie in front of the voxels, (b*windows count+voxels c).
    """
    cut = _cut(x, window, shift)
    count = window[0] * window[1] * window[2]
    if tokens is None:
        return cut.reshape(-1, count, x.shape[-1])
    if torch.is_grad_enabled():
        return torch.cat([tokens, cut.reshape(-1, count, x.shape[-1])], 1)
    # straight to their place, which saves a pass over the map
    number, ahead = tokens.shape[:2]
    both = x.new_empty(number, ahead + count, x.shape[-1], dtype=torch.promote_types(tokens.dtype, x.dtype))
    both[:, :ahead] = tokens
    both[:, ahead:].view(cut.shape).copy_(cut)
    return both


def _cut(x: Tensor, window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """(b d h w c) -> (b, windows along each axis, voxels of a window along each axis, c), not contiguous."""
    size = x.shape[1:4]
    full = padded_size(size, window)
    if full != tuple(size):
        ends = [(0, wanted - voxels) for wanted, voxels in zip(full, size, strict=True)]
        x = F.pad(x, (0, 0, *(number for pair in reversed(ends) for number in pair)))
    if any(shift):
        x = torch.roll(x, [-step for step in shift], (1, 2, 3))
    split = [number for voxels, step in zip(full, window, strict=True) for number in (voxels // step, step)]
    return x.reshape(len(x), *split, x.shape[-1]).permute(0, 1, 3, 5, 2, 4, 6, 7)


def from_windows(windows: Tensor, size: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """Reverse of `to_windows`: (b*windows voxels c) -> (b d h w c) of `size`."""
    full = padded_size(size, window)
    counts = [voxels // step for voxels, step in zip(full, window, strict=True)]
    x = windows.view(-1, *counts, *window, windows.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6, 7)
    x = x.reshape(-1, *full, windows.shape[-1])
    if any(shift):
        x = torch.roll(x, tuple(shift), (1, 2, 3))
    return x[:, : size[0], : size[1], : size[2]].contiguous() if full != tuple(size) else x


def shift_mask(size: Sequence[int], window: Sequence[int], shift: Sequence[int], tokens: int = 0) -> Tensor:
    """Return what keeps voxels apart that a shift has brought into one window: 0 or MASKED.

    (windows length length), where length is `tokens`, never kept apart from anything, and the voxels of a window.
    """
    full = padded_size(size, window)
    labels = torch.zeros(1, *full, 1)
    for axis, (voxels, step, moved) in enumerate(zip(full, window, shift, strict=True)):
        if not moved:
            continue
        region = torch.zeros(voxels)
        region[voxels - step : voxels - moved] = 1
        region[voxels - moved :] = 2
        labels += region.view([-1 if place == axis + 1 else 1 for place in range(5)]) * 3**axis
    regions = to_windows(labels, window, (0, 0, 0))[..., 0]
    return F.pad((regions[:, :, None] != regions[:, None]) * MASKED, (tokens, 0, tokens, 0))
