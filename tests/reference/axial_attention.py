"""Axial attention as it is published, arXiv:2003.07853 and 2102.10662: as tensor operations, and as loops."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def average_pool(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Average (b c *space) over blocks of `stride` voxels; blocks at the border are those that are left."""
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[x.ndim - 2]
    return pool(x, tuple(stride), tuple(stride), ceil_mode=True, count_include_pad=False)


class DirectAxialAttention(nn.Module):
    """Attention along one axis of (b c *space), with every similarity as a tensor of its own.

    The state dict has the published names.

    Args:
        channels: Feature channels, as many in as out.
        axis: Axis of *space that is attended along.
        length: Voxels along `axis` that the table of relative positions is made for; fewer are accepted.
        num_heads: Number of heads.
        variant: "gated", "plain" (positions without gates) or "no_position".
        gate_position: Where the gates are, "pre_norm" or "post_norm": before or after the norms of what they gate.
        stride: Average pooling of the result, a number for all axes or one for each.
    """

    def __init__(
        self,
        channels: int,
        axis: int,
        length: int,
        num_heads: int = 8,
        variant: str = "gated",
        gate_position: str = "pre_norm",
        stride: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        assert variant in ("gated", "plain", "no_position") and gate_position in ("pre_norm", "post_norm")
        self.channels, self.axis, self.length, self.num_heads = channels, axis, length, num_heads
        self.variant, self.gate_position, self.stride = variant, gate_position, stride
        width = channels // num_heads
        kinds = 1 if variant == "no_position" else 3
        self.qkv_transform = nn.Conv1d(channels, 2 * channels, 1, bias=False)
        self.bn_qkv = nn.BatchNorm1d(2 * channels)
        self.bn_similarity = nn.BatchNorm2d(kinds * num_heads)
        self.bn_output = nn.BatchNorm1d(channels if variant == "no_position" else 2 * channels)
        nn.init.normal_(self.qkv_transform.weight, std=channels**-0.5)
        if variant != "no_position":
            self.relative = nn.Parameter(torch.randn(2 * width, 2 * length - 1) * width**-0.5)
            place = torch.arange(length)
            self.register_buffer("offset", place[:, None] - place[None, :] + length - 1, persistent=False)
        if variant == "gated":
            self.f_qr = nn.Parameter(torch.tensor(0.1))
            self.f_kr = nn.Parameter(torch.tensor(0.1))
            self.f_sv = nn.Parameter(torch.tensor(1.0))
            self.f_sve = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend along the axis: (b c *space) -> (b c *space), or smaller if there is a stride."""
        lines = x.movedim((1, self.axis + 2), (-2, -1)).contiguous()  # b *others c l
        y = self._attend(lines.flatten(0, -3)).view(lines.shape)
        y = y.movedim((-2, -1), (1, self.axis + 2))
        stride = [self.stride] * (x.ndim - 2) if isinstance(self.stride, int) else self.stride
        return y if all(s == 1 for s in stride) else average_pool(y, stride)

    def _attend(self, lines: Tensor) -> Tensor:
        n, channels, length = lines.shape
        heads, width = self.num_heads, channels // self.num_heads
        qkv = self.bn_qkv(self.qkv_transform(lines)).view(n, heads, 2 * width, length)
        q, k, v = qkv.split([width // 2, width // 2, width], dim=2)
        qk = torch.einsum("ngci,ngcj->ngij", q, k)
        if self.variant == "no_position":
            attention = self.bn_similarity(qk).softmax(dim=-1)
            return self.bn_output(torch.einsum("ngij,ngcj->ngci", attention, v).reshape(n, channels, length))

        gated = self.variant == "gated"
        before, after = gated and self.gate_position == "pre_norm", gated and self.gate_position == "post_norm"
        table = self.relative.index_select(1, self.get_buffer("offset")[:length, :length].reshape(-1))
        r_q, r_k, r_v = table.view(2 * width, length, length).split([width // 2, width // 2, width])
        qr = torch.einsum("ngci,cij->ngij", q, r_q)
        kr = torch.einsum("ngcj,cji->ngij", k, r_k)
        if before:
            qr, kr = self.f_qr * qr, self.f_kr * kr
        similarity = self.bn_similarity(torch.cat([qk, qr, kr], dim=1)).view(n, 3, heads, length, length)
        if after:
            qk, qr, kr = similarity.unbind(1)
            similarity = qk + self.f_qr * qr + self.f_kr * kr
        else:
            similarity = similarity.sum(dim=1)
        attention = similarity.softmax(dim=-1)

        sv = torch.einsum("ngij,ngcj->ngci", attention, v)
        sve = torch.einsum("ngij,cij->ngci", attention, r_v)
        if before:
            sv, sve = self.f_sv * sv, self.f_sve * sve
        output = self.bn_output(torch.cat([sv, sve], dim=-1).view(n, 2 * channels, length))
        output = output.view(n, channels, 2, length)
        if after:
            return self.f_sv * output[:, :, 0] + self.f_sve * output[:, :, 1]
        return output.sum(dim=2)


Values = dict[tuple[int, ...], Tensor]  # numbers of one channel, by line and positions
State = Mapping[str, Tensor]


def loop_axial_attention(
    x: Tensor,
    state: State,
    axis: int,
    num_heads: int,
    variant: str = "gated",
    gate_position: str = "pre_norm",
    training: bool = False,
) -> Tensor:
    """Return the same, (b c *space) -> (b c *space), number by number, from the equations.

    Args:
        x: Features.
        state: Weights and buffers under the names of `DirectAxialAttention`; none is changed.
        axis: Axis of *space that is attended along.
        num_heads: Number of heads.
        variant: As there.
        gate_position: As there.
        training: Whether the norms take their statistics from what they normalise.
    """
    batch, channels, *space = x.shape
    others = [range(size) for a, size in enumerate(space) if a != axis]
    lines = list(enumerate(product(range(batch), *others)))
    where = {(n, i): (b, *rest[:axis], i, *rest[axis:]) for n, (b, *rest) in lines for i in range(space[axis])}
    qkv = _project(x, state, where, training)
    attention = _attention(qkv, state, len(lines), space[axis], num_heads, variant, gate_position, training)
    output = _outputs(qkv, attention, state, len(lines), space[axis], num_heads, variant, gate_position, training)
    voxels: dict[tuple[int, ...], Tensor] = {
        (index[0], c, *index[1:]): output[c][at] for c in range(channels) for at, index in where.items()
    }
    return torch.stack([voxels[index] for index in product(*map(range, x.shape))]).reshape(x.shape)


def _project(x: Tensor, state: State, where: dict[tuple[int, int], tuple[int, ...]], training: bool) -> list[Values]:
    """Queries, keys and values of all heads: [channel][line, position]."""
    projected = []
    for channel, weight in enumerate(state["qkv_transform.weight"][:, :, 0]):
        values: Values = {at: (weight * x[(b, slice(None), *space)]).sum() for at, (b, *space) in where.items()}
        projected.append(_normalised(values, state, "bn_qkv", channel, training))
    return projected


def _normalised(values: Values, state: State, norm: str, channel: int, training: bool) -> Values:
    mean, variance = state[f"{norm}.running_mean"][channel], state[f"{norm}.running_var"][channel]
    if training:
        mean = torch.stack(list(values.values())).sum() / len(values)
        variance = torch.stack([(value - mean) ** 2 for value in values.values()]).sum() / len(values)
    weight, bias = state[f"{norm}.weight"][channel], state[f"{norm}.bias"][channel]
    return {at: (value - mean) / (variance + 1e-5) ** 0.5 * weight + bias for at, value in values.items()}


def _rows(qkv: list[Values], head: int, num_heads: int) -> tuple[list[Values], list[Values], list[Values]]:
    """Queries, keys and values of one head."""
    width = len(qkv) // 2 // num_heads
    packed = qkv[head * 2 * width : (head + 1) * 2 * width]
    return packed[: width // 2], packed[width // 2 : width], packed[width:]


def _table(state: State, row: int, offset: int) -> Tensor:
    table = state["relative"]
    return table[row, offset + (table.shape[1] + 1) // 2 - 1]


def _sum(numbers: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(numbers)).sum()


def _gate(values: Values, gate: Tensor | None) -> Values:
    return values if gate is None else {at: gate * value for at, value in values.items()}


def _attention(
    qkv: list[Values],
    state: State,
    n_lines: int,
    length: int,
    num_heads: int,
    variant: str,
    gate_position: str,
    training: bool,
) -> list[Values]:
    """Probabilities [head][line, query position, key position]."""
    pairs = list(product(range(n_lines), range(length), range(length)))
    probabilities = []
    for head in range(num_heads):
        q, k, _ = _rows(qkv, head, num_heads)
        half = range(len(q))
        terms: list[Values] = [{(n, i, j): _sum(q[m][n, i] * k[m][n, j] for m in half) for n, i, j in pairs}]
        if variant != "no_position":
            terms += [
                {(n, i, j): _sum(q[m][n, i] * _table(state, m, i - j) for m in half) for n, i, j in pairs},
                {(n, i, j): _sum(k[m][n, j] * _table(state, len(q) + m, j - i) for m in half) for n, i, j in pairs},
            ]
        gates = [None, state["f_qr"], state["f_kr"]] if variant == "gated" else [None] * len(terms)
        normed = []
        for number, (term, gate) in enumerate(zip(terms, gates, strict=True)):
            before, after = (gate, None) if gate_position == "pre_norm" else (None, gate)
            channel = number * num_heads + head
            normed.append(_gate(_normalised(_gate(term, before), state, "bn_similarity", channel, training), after))
        weights = {at: torch.exp(_sum(term[at] for term in normed)) for at in pairs}
        total = {(n, i): _sum(weights[n, i, j] for j in range(length)) for n, i, _ in pairs}
        probabilities.append({(n, i, j): weights[n, i, j] / total[n, i] for n, i, j in pairs})
    return probabilities


def _outputs(
    qkv: list[Values],
    attention: list[Values],
    state: State,
    n_lines: int,
    length: int,
    num_heads: int,
    variant: str,
    gate_position: str,
    training: bool,
) -> list[Values]:
    """The result [channel][line, position]."""
    places, keys = list(product(range(n_lines), range(length))), range(length)
    result: list[Values] = []
    for head, p in enumerate(attention):
        q, k, values = _rows(qkv, head, num_heads)
        for m, v in enumerate(values):
            terms: list[Values] = [{(n, i): _sum(p[n, i, j] * v[n, j] for j in keys) for n, i in places}]
            if variant != "no_position":
                row = len(q) + len(k) + m
                terms.append({(n, i): _sum(p[n, i, j] * _table(state, row, i - j) for j in keys) for n, i in places})
            gates = [state["f_sv"], state["f_sve"]] if variant == "gated" else [None] * len(terms)
            normed = []
            for number, (term, gate) in enumerate(zip(terms, gates, strict=True)):
                before, after = (gate, None) if gate_position == "pre_norm" else (None, gate)
                channel = len(terms) * len(result) + number
                normed.append(_gate(_normalised(_gate(term, before), state, "bn_output", channel, training), after))
            result.append({at: _sum(term[at] for term in normed) for at in places})
    return result
