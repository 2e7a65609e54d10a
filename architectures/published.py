"""Loads the weights that the published code of a network saved."""

import re
from collections.abc import Iterable, Mapping

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
        ValueError: If there is no such source, the network is not the source's, or a tensor is missing, unknown or of
            another shape; the message names the first.
    """
    check_network(network, source)
    translated = translate(state_dict, source)
    difference = _first_difference(network.state_dict(), state_dict, SOURCES[source])
    if difference is not None:
        raise ValueError(f"this is no state dict of {source} for this network: {difference}{_hint(state_dict, source)}")
    network.load_state_dict(translated)


def translate(state_dict: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return a published state dict under the names and in the layouts of this package.

    What has no influence on the published network's output is left out. Nothing is said about completeness and shapes.

    Args:
        state_dict: As the published code saved it, with or without the `module.` of DataParallel.
        source: What wrote it, a key of `SOURCES`.
    Raises:
        ValueError: If there is no such source, or a name begins like none of the source's.
    """
    row = published_source(source)
    given = _plain_names(state_dict)
    module_name, table = row.interleaved
    translated: dict[str, Tensor] = {}
    for key, value in given.items():
        if not _has_influence(key, row):
            continue
        if not any(key.startswith(there) for there, _ in row.prefixes):
            raise ValueError(f"this is no state dict of {source}: unknown key {key!r}{_hint(state_dict, source)}")
        here = _name_here(key, row)
        names = _published_names(here, row)
        if len(names) > 1:
            scalars = [given[name] for name in names if name in given and given[name].ndim == 0]
            if len(scalars) == len(names):
                translated[here] = torch.stack(scalars)
            continue
        layer, module = key.split(".")[:-2], key.split(".")[-2]
        alternates = module == module_name and ".".join([*layer, table]) in given
        if alternates and value.ndim == 1 and len(value) % 2 == 0:
            value = rearrange(value, "(channel half) -> (half channel)", half=2)
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


def _has_influence(key: str, row: PublishedSource) -> bool:
    return not any(re.search(pattern, key) for pattern in row.without_influence)


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
            owner, _, name = (there + key.removeprefix(here)).rpartition(".")
            return [f"{owner}.{each}" for each in row.stacked.get(name, (name,))]
    return []


def _first_difference(
    wanted: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], row: PublishedSource
) -> str | None:
    """Return what keeps a published state dict from filling `wanted`, or None."""
    given = _plain_names(state_dict)
    for key, target in wanted.items():
        names = _published_names(key, row)
        if not names:
            return f"it never has what fills {key!r} here"
        for name in names:
            # several published tensors, one here: each is a scalar
            shape = tuple(target.shape) if len(names) == 1 else ()
            if name not in given:
                return f"missing key {name!r} ({key!r} here)"
            if tuple(given[name].shape) != shape:
                return f"{name!r} ({key!r} here) has the shape {tuple(given[name].shape)}, expected {shape}"
    for name in given:
        if _has_influence(name, row) and (key := _name_here(name, row)) not in wanted:
            return f"unknown key {name!r} ({key!r} here)"
    return None


def _hint(state_dict: Iterable[str], source: str) -> str:
    others = [other for other in recognise(state_dict) if other != source]
    return f"; its names are those of {others[0]}" if others else ""
