"""Loads the weights that the published code of a network saved."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from nnunet_attn.architectures.published_keys import SOURCES, PublishedSource
from nnunet_attn.architectures.registry import NETWORKS, Network, network_named


def load_published_weights(network: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load a published state dict, whole: every tensor of the network is in it, with the same shape.

    Args:
        network: The network to fill; not changed if it is not filled.
        state_dict: As the published code saved it, with or without the `module.` of DataParallel.
        source: What wrote it, a key of `SOURCES`.
    Raises:
        ValueError: If there is no such source, the network is not the source's or has options that make it another
            function, or a tensor is missing, unknown or of another shape; the message names the first.
    """
    check_network(network, source)
    check_options(network, source)
    state = network.state_dict()
    translated = translate(state_dict, source, state)
    difference = _first_difference(state, state_dict, SOURCES[source])
    if difference is not None:
        raise ValueError(f"this is no state dict of {source} for this network: {difference}{_hint(state_dict, source)}")
    check_weights(network, state_dict, source)
    network.load_state_dict(translated)


def translate(
    state_dict: Mapping[str, Tensor], source: str, wanted: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return a published state dict under the names and in the layouts of this package.

    What has no influence on the published network's output is left out. Nothing is said about completeness and shapes.

    Args:
        state_dict: As the published code saved it, with or without the `module.` of DataParallel.
        source: What wrote it, a key of `SOURCES`.
        wanted: The state dict to fill; tables of which the published network uses the middle are cut to its sizes.
    Raises:
        ValueError: If there is no such source, or a name begins like none of the source's.
    """
    row = published_source(source)
    given = _plain_names(state_dict)
    translated: dict[str, Tensor] = {}
    for key, value in _with_influence(given, row).items():
        if not any(key.startswith(there) for there, _ in row.prefixes):
            raise ValueError(f"this is no state dict of {source}: unknown key {key!r}{_hint(state_dict, source)}")
        here = _name_here(key, row)
        names = _published_names(here, row)
        if len(names) > 1:
            scalars = [given[name] for name in names if name in given and given[name].ndim == 0]
            if len(scalars) == len(names):
                translated[here] = torch.stack(scalars)
            continue
        if _is_interleaved(key, value, given, row):
            value = rearrange(value, "(channel half) -> (half channel)", half=2)
        if here in row.counters:
            value = value.reshape(len(value)) >= 1 if tuple(value.shape[1:]) == (1,) else value
        if wanted is not None and here in wanted and _is_longer_table(here, value, wanted[here], row):
            start = len(value) // 2 - len(wanted[here]) // 2
            value = value[start : start + len(wanted[here])]
        translated[here] = value
    return translated


def published_source(source: str) -> PublishedSource:
    """Return the row of a source.

    Raises:
        ValueError: If there is no such source; the message lists those that exist.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source of weights {source!r}; there are {', '.join(SOURCES)}")
    return SOURCES[source]


def check_network(network: nn.Module, source: str) -> None:
    """Check that a network is the one of a source.

    Raises:
        ValueError: If it is not; the message names the network and the trainers that are.
    """
    wanted = network_named(published_source(source).network)
    found = _row_of(network)
    if found is not wanted:
        name = found.name if found is not None else type(network).__name__
        raise ValueError(
            f"weights of {source} belong into {wanted.name} (trainers {', '.join(wanted.trainers)}), got {name}"
        )


def check_options(network: nn.Module, source: str) -> None:
    """Check that the options of a source's network make it the published function.

    Raises:
        ValueError: If they do not; the message names reason and remedy.
    """
    row = published_source(source)
    for needed in row.required:
        if getattr(network, needed.option) != needed.value:
            trainer = f"train with {needed.trainer}, or " if needed.trainer else ""
            raise ValueError(
                f"weights of {source} {needed.reason}; {trainer}set the option {needed.option} to "
                f"{json.dumps(needed.value)} in the plans ({_place(row)}.{needed.option})"
            )
    if not row.whole_shifts:
        return
    for name, module in network.named_modules():
        shift = getattr(module, "shift", None)
        if shift is not None and any(shift) and not all(shift):
            raise ValueError(
                f"weights of {source} shift windows along all axes or none; in {name} a map of {module.size} voxels "
                f"is shifted by {shift}; choose patch size, windows and strides so that each axis of a stage's map is "
                "longer than its window, or none is"
            )


def check_weights(network: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Check of a source's state dict what would be lost without a word if only what fits were taken.

    These are the constants that the published network computes with and ours has too, and the sizes of counters.

    Raises:
        ValueError: If they differ; the message names the first.
    """
    row, given = published_source(source), _plain_names(state_dict)
    state, constants = network.state_dict(), dict(network.named_buffers())
    for here in row.counters:
        difference = _difference(here, state[here], given, row) if here in state else None
        if difference is not None and _published_names(here, row)[0] in given:
            raise ValueError(f"this is no state dict of {source} for this network: {difference}")
    for key, value in given.items():
        here = _name_here(key, row)
        if row.index is None or not here.endswith(row.index) or here not in constants:
            continue
        own = constants[here].cpu()
        if own.shape == value.shape and not torch.equal(own, value.cpu().to(own.dtype)):
            raise ValueError(
                f"this is no state dict of {source} for this network: {key!r} ({here!r} here) has other numbers, "
                "so relative biases are indexed in another way"
            )


def recognise(state_dict: Iterable[str]) -> list[str]:
    """Return the sources that a state dict may come from, by the names of its tensors."""
    names = {_plain_name(key) for key in state_dict}
    return [source for source, row in SOURCES.items() if names.issuperset(row.present) and names.isdisjoint(row.absent)]


def _plain_name(key: str) -> str:
    return key.removeprefix("module.")


def _plain_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_plain_name(key): value for key, value in state_dict.items()}


def _row_of(network: nn.Module) -> Network | None:
    """Return the registry's row of a network; a network may derive from that of another row."""
    rows = {row.class_path: row for row in NETWORKS}
    paths = [f"{ancestor.__module__}.{ancestor.__qualname__}" for ancestor in type(network).__mro__]
    return next((rows[path] for path in paths if path in rows), None)


def _place(row: PublishedSource) -> str:
    """Return where the plans set the options of a source's network."""
    return f"configurations.<c>.nnunet_attn.{row.network}"


def _with_influence(given: Mapping[str, Tensor], row: PublishedSource) -> dict[str, Tensor]:
    """Return what the published network's output depends on."""
    depths: dict[str, int] = {}
    for found in (re.search(row.block, key) for key in given if row.block is not None):
        if found is not None:
            depths[found[1]] = max(depths.get(found[1], 0), int(found[2]) + 1)

    def is_read(key: str) -> bool:
        for pattern, following in row.read_later:
            found = re.search(pattern, key)
            if found is not None and found[1] in depths:
                stage, *block = found.groups()
                return int(block[0] if block else 0) + following < depths[stage]
        return not any(re.search(pattern, key) for pattern in row.without_influence)

    return {key: value for key, value in given.items() if is_read(key)}


def _is_interleaved(key: str, value: Tensor, given: Mapping[str, Tensor], row: PublishedSource) -> bool:
    if row.interleaved is None or value.ndim != 1 or len(value) % 2:
        return False
    module, table = row.interleaved
    *layer, own, _ = key.split(".")
    return own == module and ".".join([*layer, table]) in given


def _is_longer_table(here: str, value: Tensor, target: Tensor, row: PublishedSource) -> bool:
    return (
        row.centred is not None
        and here.endswith(row.centred)
        and value.shape[1:] == target.shape[1:]
        and len(value) > len(target)
    )


def _name_here(key: str, row: PublishedSource) -> str:
    """Return the tensor of this package that a published tensor fills, alone or with others."""
    owner, _, name = key.rpartition(".")
    for stacked, names in row.stacked.items():
        if name in names:
            key = f"{owner}.{stacked}"
    there, here = next((pair for pair in row.prefixes if key.startswith(pair[0])), ("", ""))
    key = here + key.removeprefix(there)
    for there, here in row.parts:
        key = key.replace(there, here)
    return key


def _published_names(key: str, row: PublishedSource) -> list[str]:
    """Return the published tensors that fill a tensor of this package; none if the source has nothing for it."""
    for there, here in row.parts:
        key = key.replace(here, there)
    for there, here in row.prefixes:
        if key.startswith(here):
            owner, dot, name = (there + key.removeprefix(here)).rpartition(".")
            return [f"{owner}{dot}{each}" for each in row.stacked.get(name, (name,))]
    return []


def _first_difference(
    wanted: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], row: PublishedSource
) -> str | None:
    """Return what keeps a published state dict from filling `wanted`, or None."""
    given = _plain_names(state_dict)
    for key, target in wanted.items():
        difference = _difference(key, target, given, row)
        if difference is not None:
            return difference
    for name in _with_influence(given, row):
        if (key := _name_here(name, row)) not in wanted:
            return f"unknown key {name!r} ({key!r} here)"
    return None


def _difference(key: str, target: Tensor, given: Mapping[str, Tensor], row: PublishedSource) -> str | None:
    """Return what keeps published tensors from filling a tensor of this package, or None."""
    names = _published_names(key, row)
    if not names:
        return f"it never has what fills {key!r} here"
    for name in names:
        if name not in given:
            return f"missing key {name!r} ({key!r} here)"
        shape: tuple[Any, ...] = tuple(target.shape)
        if len(names) > 1:  # several published tensors, one here: each is a scalar
            shape = ()
        elif key in row.counters:
            shape = (*shape, 1)
        if tuple(given[name].shape) != shape and not _is_longer_table(key, given[name], target, row):
            options = [option for pattern, option in row.sized_by if re.search(pattern, key)]
            follows = f"; it follows {options[0]} in the plans ({_place(row)})" if options else ""
            return f"{name!r} ({key!r} here) has the shape {tuple(given[name].shape)}, expected {shape}{follows}"
    return None


def _hint(state_dict: Iterable[str], source: str) -> str:
    others = [other for other in recognise(state_dict) if other != source]
    return f"; its names are those of {others[0]}" if others else ""
