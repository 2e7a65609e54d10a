"""Matrices of attention over all places of a map at once, made from the definitions by coordinates, without windows."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
Places = list[tuple[int, ...]]


def all_places(size: Sequence[int]) -> Places:
    """Return the indices of a map's places, row-major."""
    return list(product(*(range(length) for length in size)))


def line_matrix(size: Sequence[int], axis: int, of_line: Any) -> Tensor:
    """Return a matrix between all places of a map (heads places places), from matrices (heads length length) of lines.

    Args:
        size: Places along each axis.
        axis: The axis of the lines.
        of_line: Returns the matrix of the line through a place.
    """
    places = all_places(size)
    rows = []
    for query in places:
        line = of_line(query)
        row = torch.zeros(len(line), len(places), dtype=line.dtype)
        for number, key in enumerate(places):
            if all(a == b for other, (a, b) in enumerate(zip(query, key, strict=True)) if other != axis):
                row[:, number] = line[:, query[axis], key[axis]]
        rows.append(row)
    return torch.stack(rows, 1)


def window_matrix(
    query: Tensor,
    key: Tensor,
    bias: Tensor,
    index: Any,
    size: Sequence[int],
    window: Sequence[int],
    shift: Sequence[int],
) -> tuple[Tensor, Places]:
    """Return the attention between all places of a padded map, (heads places places), and the places.

    Args:
        query: Of all places of the padded map, (places heads width).
        key: The same.
        bias: Table of relative biases, (rows heads).
        index: Returns the row of the table for an offset of query minus key.
        size: Places of the padded map along each axis.
        window: Places of a window along each axis.
        shift: By how much the map is rolled back before it is cut.
    """
    places = all_places(size)
    axes = range(len(size))
    rolled = [tuple((place[axis] - shift[axis]) % size[axis] for axis in axes) for place in places]
    scores = torch.full((query.shape[1], len(places), len(places)), -torch.inf, dtype=query.dtype)
    similarity = torch.einsum("iha,jha->hij", query, key) / query.shape[-1] ** 0.5
    for i, first in enumerate(rolled):
        for j, second in enumerate(rolled):
            if any(first[axis] // window[axis] != second[axis] // window[axis] for axis in axes):
                continue
            offset = tuple(first[axis] - second[axis] for axis in axes)
            # a place that has come round from the other end is far away in truth
            come_round = any((places[i][axis] < shift[axis]) != (places[j][axis] < shift[axis]) for axis in axes)
            scores[:, i, j] = similarity[:, i, j] + bias[index(offset)] - 100.0 * come_round
    return scores.softmax(-1), places
