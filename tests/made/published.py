"""State dicts with the names and shapes of the published code, made for any width, size, channels and classes."""

from collections.abc import Iterator

import torch
from torch import Tensor

HEADS = 8
BLOCKS = (1, 2, 4, 1)


def published_state_dict(
    source: str, width: float = 0.125, channels: int = 3, classes: int = 2, image: int = 128, seed: int = 0
) -> dict[str, Tensor]:
    """Return random weights of `axialunet`, `gatedaxialunet`, `logo` or `medt`, as their authors' code saves them.

    Args:
        source: Which network.
        width: Factor on all widths but the 128 channels in the middle of the stem.
        channels: Input channels.
        classes: Output channels.
        image: Side of the image, from which the lengths of the position tables follow.
        seed: Of the random numbers.
    """
    features = [int(128 * width) * 2**stage for stage in range(4)]
    end = int(128 * width)
    two_branches = source in ("logo", "medt")
    kind = "gated" if source in ("gatedaxialunet", "medt") else "positions"
    shapes = dict(_branch("", int(64 * width), channels, features[: 2 if two_branches else 4], kind, image))
    if two_branches:
        local_kind = "dead" if source == "medt" else "positions"
        shapes |= dict(_branch("_p", 2 * features[1], channels, features, local_kind, image // 4))
        shapes |= _convolution("decoderf", end, end, 3) | _convolution("adjust_p", classes, end, 1)
    shapes |= _convolution("adjust", classes, end, 1)
    generator = torch.Generator().manual_seed(seed)
    return {key: _values(key, shape, generator) for key, shape in shapes.items()}


def is_parameter(key: str) -> bool:
    """Whether the authors' optimiser holds a tensor."""
    return not key.endswith(("running_mean", "running_var", "num_batches_tracked", "flatten_index"))


def _values(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if key.endswith(("num_batches_tracked", "flatten_index")):
        return torch.randint(1, 100, shape, generator=generator)
    drawn = torch.randn(shape, generator=generator)
    return drawn.abs() + 0.5 if key.endswith("running_var") else drawn


def _branch(
    suffix: str, stem: int, channels: int, features: list[int], kind: str, image: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    steps = ((stem, channels, 7), (128, stem, 3), (stem, 128, 3))
    for number, (made, given, kernel) in enumerate(steps, 1):
        yield f"conv{number}{suffix}.weight", (made, given, kernel, kernel)
        yield from _norm(f"bn{number}{suffix}", made)
    given, length = stem, image // 2
    for stage, feature in enumerate(features):
        for block in range(BLOCKS[stage]):
            name = f"layer{stage + 1}{suffix}.{block}"
            yield f"{name}.conv_down.weight", (feature, given, 1, 1)
            if kind == "dead":
                yield from _convolution(f"{name}.conv1", feature, feature, 1).items()
            yield from _norm(f"{name}.bn1", feature)
            for axis in ("hight", "width"):
                yield from _layer(f"{name}.{axis}_block", feature, kind, length)
            yield f"{name}.conv_up.weight", (2 * feature, feature, 1, 1)
            yield from _norm(f"{name}.bn2", 2 * feature)
            if block == 0:
                yield f"{name}.downsample.0.weight", (2 * feature, given, 1, 1)
                yield from _norm(f"{name}.downsample.1", 2 * feature)
                # the first block of a stage attends before it pools
                length //= 1 if stage == 0 else 2
            given = 2 * feature
    numbers = range(1, 6) if len(features) == 4 else range(4, 6)
    for number in numbers:
        width = 16 * features[0] // 2 ** (number - 1)
        yield from _convolution(f"decoder{number}{suffix}", width, 2 * width if number > 1 else width, 3).items()


def _layer(name: str, width: int, kind: str, length: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    positions = kind != "dead"
    if kind == "gated":
        for gate in ("f_qr", "f_kr", "f_sve", "f_sv"):
            yield f"{name}.{gate}", ()
    if positions:
        yield f"{name}.relative", (2 * width // HEADS, 2 * length - 1)
        yield f"{name}.flatten_index", (length * length,)
    yield f"{name}.qkv_transform.weight", (2 * width, width, 1)
    yield from _norm(f"{name}.bn_qkv", 2 * width)
    yield from _norm(f"{name}.bn_similarity", 3 * HEADS if positions else HEADS)
    yield from _norm(f"{name}.bn_output", 2 * width if positions else width)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()


def _convolution(name: str, made: int, given: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (made, given, kernel, kernel), f"{name}.bias": (made,)}
