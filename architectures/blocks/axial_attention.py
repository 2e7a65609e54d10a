"""Gated axial attention: self-attention along one spatial axis, with learnt relative positions and gates on them."""

import math
import warnings
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.axial_function import (
    compute_type,
    relative_attention,
    relative_weights,
    without_autocast,
)
from nnunet_attn.architectures.blocks.axial_statistics import similarity_statistics
from nnunet_attn.architectures.shapes import FeatureMap

LONGER_LINES = (
    "an input is larger than the patch that the position tables of axial attention were made for; they are interpolated"
)
Variant = Literal["gated", "plain", "no_position"]
GatePosition = Literal["pre_norm", "post_norm"]
GATES = ("query", "key", "content", "position")
GATE_START = (0.1, 0.1, 1.0, 0.1)
# The launch grid of CUDA's attention kernels has room for 65535 sequences (pytorch issue 177985).
_MOST_SEQUENCES = 65535


class SimilarityNorm(nn.Module):
    """Batch norm of the similarities, as the scale that it puts on each term of each head.

    The softmax that follows takes no notice of what is added to all similarities of a query, so neither means nor
    biases matter: `bias` and `running_mean` are buffers, kept because published weights have them. Training statistics
    come from `similarity_statistics`; the similarities themselves are never needed.

    Args:
        num_terms: 3 with positions (q.k, q.Rq, k.Rk), else 1.
        num_heads: Heads; statistics are of each term and head.
    Source: the published code of arXiv:2102.10662 and arXiv:2003.07853, which norm the stacked similarities.
    """

    eps = 1e-5
    momentum = 0.1

    # what register_buffer makes
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_terms: int, num_heads: int) -> None:
        super().__init__()
        channels = num_terms * num_heads
        self.num_heads = num_heads
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, packed: Tensor, relative: Tensor | None, synchronise: bool) -> Tensor:
        """Return the scale of each term and head, (terms heads), from this batch's statistics in training."""
        if not self.training:
            return (self.weight * torch.rsqrt(self.running_var + self.eps)).view(-1, self.num_heads)
        scales, mean, variance, count = similarity_statistics(packed, relative, self.weight, self.eps, synchronise)
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean.flatten().to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.flatten().to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return scales


class GatedAxialAttention(nn.Module):
    """Self-attention along one spatial axis, each line by itself, with a gate on each positional term.

    (b c *space) -> (b c *space). With i the query's and j the key's position on a line, per head:
    P = softmax_j(BN(q_i.k_j) + BN(g_query q_i.Rq(i-j)) + BN(g_key k_j.Rk(j-i))),
    output = BN(g_content sum_j P_ij v_j) + BN(g_position sum_j P_ij Rv(i-j)).
    There is no scale 1 / sqrt(width): the batch norms set it. Compute is b * space * length * c, memory b * space * c.

    Lines shorter than `length` use the middle of the position tables; for longer ones the tables are interpolated.

    Args:
        channels: Feature channels c, an even multiple of `num_heads`; queries and keys are half as wide as values.
        axis: Spatial axis attended along: 0, 1 for h, w in 2D, 0, 1, 2 for d, h, w in 3D.
        length: Voxels along `axis`; the position tables have 2 * length - 1 offsets, shared by all heads.
        num_heads: Attention heads.
        variant: "gated"; "plain" without gates (Axial-DeepLab's layer); "no_position" with q.k and v alone.
        gate_position: "pre_norm" puts the gates before the batch norms as in the published code, which in training
            cancel their size; "post_norm" puts them behind, so that they weigh the terms as in the paper's Eq. 3.
    Raises:
        ValueError: If an argument is out of its range, or an input has other channels or too few axes.
    Source: Valanarasu et al., arXiv:2102.10662, Eq. 3 and its published code; gates start at 0.1 (query, key, position)
        and 1 (content) as there.
    """

    gates_open: Tensor

    def __init__(
        self,
        channels: int,
        axis: int,
        length: int,
        num_heads: int = 8,
        variant: Variant = "gated",
        gate_position: GatePosition = "pre_norm",
    ) -> None:
        super().__init__()
        for name, value in {"channels": channels, "length": length, "num_heads": num_heads}.items():
            if type(value) is not int or value < 1:  # True is an int to isinstance
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if channels % (2 * num_heads):
            raise ValueError(
                f"channels must be an even multiple of num_heads, got {channels} channels for {num_heads} heads"
            )
        if axis not in (0, 1, 2):
            raise ValueError(f"axis must be 0, 1 or 2, got {axis!r}")
        if variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, got {variant!r}")
        if gate_position not in get_args(GatePosition):
            raise ValueError(f"gate_position must be one of {', '.join(get_args(GatePosition))}, got {gate_position!r}")
        self.channels = channels
        self.axis = axis
        self.length = length
        self.num_heads = num_heads
        self.head_dim = channels // num_heads
        self.variant = variant
        self.gate_position = gate_position
        positions = variant != "no_position"
        self.qkv = nn.Conv1d(channels, 2 * channels, 1, bias=False)
        self.bn_qkv = nn.BatchNorm1d(2 * channels)
        self.bn_similarity = SimilarityNorm(3 if positions else 1, num_heads)
        self.bn_output = nn.BatchNorm1d(2 * channels if positions else channels)
        if positions:
            self.relative = nn.Parameter(torch.empty(2 * self.head_dim, 2 * length - 1))
        if variant == "gated":
            self.gates = nn.Parameter(torch.empty(len(GATES)))
            self.register_buffer("gates_open", torch.tensor(1.0), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw projection and position tables as the published code does, and set the gates to their start."""
        nn.init.normal_(self.qkv.weight, std=self.channels**-0.5)
        if self.variant != "no_position":
            nn.init.normal_(self.relative, std=self.head_dim**-0.5)
        if self.variant == "gated":
            with torch.no_grad():
                self.gates.copy_(torch.tensor(GATE_START))

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that weight decay would drive to zero against their meaning."""
        return {name for name in ("relative", "gates") if hasattr(self, name)}

    def forward(self, x: FeatureMap) -> FeatureMap:
        """Return the attended features."""
        if x.shape[1] != self.channels or self.axis + 2 >= x.ndim:
            raise ValueError(
                f"expected {self.channels} channels and more than {self.axis} spatial axes, got {tuple(x.shape)}"
            )
        space = x.shape[2:]
        length, after = space[self.axis], math.prod(space[self.axis + 1 :])
        # Lines one after the other, before the projection doubles the channels: packing them then moves whole lines.
        lines = x.reshape(len(x), self.channels, -1, length, after).transpose(3, 4).flatten(2)
        apply = self._train if self.training else self._evaluate
        attended = apply(lines, length, *self._gates())
        return attended.view(len(x), self.channels, -1, after, length).transpose(3, 4).reshape(x.shape)

    def attention_weights(self, lines: Tensor) -> Tensor:
        """Return the matrices P of lines in evaluation, (n c length) -> (n heads query key); rows add up to 1."""
        before, behind = self._gates()
        scale, shift = _affine(self.bn_qkv)
        with without_autocast(lines):
            projected = F.conv1d(lines.to(scale.dtype), self.qkv.weight * scale[:, None, None], shift)
        table = self._table(lines.shape[-1], before)
        norm = self.bn_similarity
        scales = (norm.weight * torch.rsqrt(norm.running_var + norm.eps)).view(-1, self.num_heads)
        scales = scales if table is None else _of_all_terms(scales, behind, None)
        return relative_weights(self._packed(projected, lines.shape[-1]), table, scales)

    def _gates(self) -> tuple[Tensor | None, Tensor | None]:
        """The gates before and behind the norms, each (query, key, content, position) or None."""
        if self.variant != "gated":
            return None, None
        held = self.gates.detach()
        # Departs from the published code, which switches requires_grad: under DistributedDataParallel ranks diverge.
        gates = held + self.gates_open * (self.gates - held)
        return (gates, None) if self.gate_position == "pre_norm" else (None, gates)

    def _train(self, x: Tensor, length: int, before: Tensor | None, behind: Tensor | None) -> Tensor:
        """(b c lines*length) -> the same."""
        packed = self._packed(self.bn_qkv(self.qkv(x)), length)
        table = self._table(length, before)
        scales = self.bn_similarity(packed, table, self.synchronises)
        if table is None:
            return self.bn_output(self._unpacked(_attend(packed, scales)[None], len(x)))
        scales = _of_all_terms(scales, behind, None if before is None else before[2])
        both = self._unpacked(relative_attention(packed, table, scales), len(x))
        content, position = self.bn_output(both).chunk(2, 1)
        if behind is not None:
            content, position = behind[2] * content, behind[3] * position
        return content + position

    def _evaluate(self, x: Tensor, length: int, before: Tensor | None, behind: Tensor | None) -> Tensor:
        """The same with running statistics, all norms folded into the projection: P sums to 1, values take shifts."""
        scale_qkv, shift_qkv = _affine(self.bn_qkv)
        scale, shift = _affine(self.bn_output)
        position = None
        if self.variant != "no_position":
            gates = before if before is not None else behind
            (scale, position), (shift, shift_position) = scale.chunk(2), shift.chunk(2)
            if gates is not None:
                scale = gates[2] * scale
            if behind is not None:
                position = behind[3] * position
                shift, shift_position = behind[2] * shift, behind[3] * shift_position
            shift = shift + shift_position
        heads = (self.num_heads, self.head_dim)
        no_change = torch.ones_like(scale).view(heads)
        scale_rows = torch.cat([no_change, scale.view(heads)], 1).flatten()
        shift_rows = torch.cat([no_change - 1, shift.view(heads)], 1).flatten()
        weight = self.qkv.weight * (scale_rows * scale_qkv)[:, None, None]
        packed = self._packed(F.conv1d(x, weight, scale_rows * shift_qkv + shift_rows), length)
        table = self._table(length, before)
        scales = self.bn_similarity(packed, table, False)
        if table is None or position is None:
            output = _attend(packed, scales)
        else:
            content, relative = relative_attention(packed, table, _of_all_terms(scales, behind, None))
            output = torch.addcmul(content, relative, position.view(*heads, 1).to(content.dtype))
        return self._unpacked(output[None], len(x))

    @property
    def synchronises(self) -> bool:
        """Whether statistics are of all ranks: where the norms beside it are, as nnU-Net sets on several GPUs."""
        return (
            isinstance(self.bn_qkv, nn.SyncBatchNorm)
            and distributed.is_available()
            and distributed.is_initialized()
            and distributed.get_world_size() > 1
        )

    def _table(self, length: int, gates: Tensor | None) -> Tensor | None:
        """The position table of a line, (2 head_dim 2*length-1), its rows times their gates."""
        if self.variant == "no_position":
            return None
        table = self.relative
        if length < self.length:
            table = table[:, self.length - length : self.length + length - 1]
        elif length > self.length:
            if not torch.compiler.is_compiling():
                _warn_of_longer_lines()
            table = resampled_table(table, length)
        if gates is None:
            return table
        query, key, value = table.split([self.head_dim // 2, self.head_dim // 2, self.head_dim])
        return torch.cat([gates[0] * query, gates[1] * key, gates[3] * value])

    def _packed(self, projected: Tensor, length: int) -> Tensor:
        """(b 2c lines*length) -> (b*lines heads 2*head_dim length)."""
        rows = 2 * self.head_dim
        split = projected.view(len(projected), self.num_heads, rows, -1, length)
        return split.permute(0, 3, 1, 2, 4).reshape(-1, self.num_heads, rows, length).contiguous()

    def _unpacked(self, output: Tensor, batch: int) -> Tensor:
        """(k b*lines heads head_dim length) -> (b k*c lines*length)."""
        split = output.unflatten(1, (batch, -1))
        return split.permute(1, 0, 3, 4, 2, 5).reshape(batch, len(output) * self.channels, -1)


@cache
def _warn_of_longer_lines() -> None:
    warnings.warn(LONGER_LINES, stacklevel=2)


def resampled_table(table: Tensor, length: int) -> Tensor:
    """Return a position table for lines of another length, (rows old) -> (rows 2*length-1), linear between offsets.

    The outermost offsets stay the outermost, and offset 0 stays in the middle.
    """
    if length == 1:
        middle = table.shape[1] // 2
        return table[:, middle : middle + 1]
    return F.interpolate(table[None], size=2 * length - 1, mode="linear", align_corners=True)[0]


def adapted_table(key: str, source: Tensor, target: Tensor) -> Tensor | None:
    """Fit a checkpoint's position table of another length to `target`; None for any other parameter."""
    if key.endswith(".relative") and source.ndim == 2 and len(source) == len(target):
        return resampled_table(source.float(), (target.shape[1] + 1) // 2).to(target)
    return None


def excluded_from_weight_decay(network: nn.Module) -> set[str]:
    """Return the names of a network's position tables and gates."""
    return {
        f"{name}.{own}"
        for name, module in network.named_modules()
        if isinstance(module, GatedAxialAttention)
        for own in module.no_weight_decay()
    }


def _of_all_terms(scales: Tensor, behind: Tensor | None, content: Tensor | None) -> Tensor:
    """The scales of the similarities (3 heads), gated behind their norms, and of the values: (4 heads)."""
    q, r, k = scales.unbind() if behind is None else (scales[0], behind[0] * scales[1], behind[1] * scales[2])
    of_values = torch.ones_like(q)
    return torch.stack([q, r, k, of_values if content is None else content.to(q.dtype) * of_values])


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch norm does in evaluation: scale and shift of each channel."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _attend(packed: Tensor, scales: Tensor) -> Tensor:
    """Attention without positions, (lines heads 2*head_dim length) -> (lines heads head_dim length)."""
    if packed.device.type != "cuda":
        # PyTorch's CPU kernel is made for wide heads; with 2 to 16 channels it takes twice the time of these products.
        return relative_attention(packed, None, scales)[0]
    width, dtype = packed.shape[-2] // 2, compute_type(packed)
    query, key, value = packed.to(dtype).transpose(-1, -2).split([width // 2, width // 2, width], -1)
    query = query * scales[0][:, None, None].to(dtype)
    # the kernels want equal widths, multiples of 8; zeros change no product
    width_of_kernel = -(-width // 8) * 8
    parts = (F.pad(part, (0, width_of_kernel - part.shape[-1])) for part in (query, key, value))
    lines = (part.split(max(1, _MOST_SEQUENCES // packed.shape[1])) for part in parts)
    with without_autocast(packed):
        attended = [F.scaled_dot_product_attention(*chunk, scale=1.0) for chunk in zip(*lines, strict=True)]
    return torch.cat(attended)[..., :width].transpose(-1, -2).to(packed.dtype)
