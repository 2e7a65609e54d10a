"""How a network of window attention divides a patch: reductions, maps, windows and output layers per axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STAGES = 4
# An axis is halved between stages while it is even and at least so long.
_SHORTEST_HALVED = 8

Size = tuple[int, ...]


@dataclass(frozen=True)
class SwinGeometry:
    """Sizes of a network of window attention for one patch size, each three numbers.

    Args:
        patch_size: Voxels of the crops.
        embedding: Reduction by the patch embedding, 1, 2 or 4 per axis; crops are padded to its multiples.
        strides: Reductions between the four stages.
    """

    patch_size: Size
    embedding: Size
    strides: tuple[Size, ...]

    @property
    def padded(self) -> Size:
        """Voxels of the crops behind padding."""
        return tuple(-(-size // step) * step for size, step in zip(self.patch_size, self.embedding, strict=True))

    @property
    def stem_strides(self) -> tuple[Size, Size]:
        """Reductions of the embedding's first and third convolution."""
        first = tuple(min(2, step) for step in self.embedding)
        return first, tuple(step // half for step, half in zip(self.embedding, first, strict=True))

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Voxels of the stages' maps."""
        found = [tuple(size // step for size, step in zip(self.padded, self.embedding, strict=True))]
        for stride in self.strides:
            found.append(tuple(size // step for size, step in zip(found[-1], stride, strict=True)))
        return tuple(found)

    def output_size(self, stage: int, kernel: Sequence[int]) -> Size:
        """Return the size of a stage's logits behind an output layer of `kernel`, without what stands for padding."""
        sizes = zip(self.patch_size, self.padded, self.sizes[stage], kernel, strict=True)
        return tuple(-(-size * own * step // full) for size, full, own, step in sizes)


def planned_embedding(patch_size: Sequence[int]) -> Size:
    """Return the reduction of the patch embedding: 4 for long axes of a patch, 2 and 1 for shorter ones."""
    longest = max(patch_size)
    return tuple(4 if 4 * size > 3 * longest else 2 if 4 * size > longest else 1 for size in patch_size)


def planned_strides(size: Sequence[int]) -> tuple[Size, ...]:
    """Return reductions between the stages from the first stage's map on: an axis is halved while it is long."""
    found = []
    for _ in range(STAGES - 1):
        found.append(tuple(2 if voxels % 2 == 0 and voxels >= _SHORTEST_HALVED else 1 for voxels in size))
        size = [voxels // step for voxels, step in zip(size, found[-1], strict=True)]
    return tuple(found)


def checked_geometry(
    patch_size: Sequence[int],
    embedding: Sequence[int] | None = None,
    strides: Sequence[Sequence[int]] | None = None,
) -> SwinGeometry:
    """Return the geometry of a patch; what is None is planned.

    Raises:
        ValueError: If a number is illegal, or a map cannot be divided by its stride; the message names the numbers.
    """
    check_triple("patch_size", patch_size)
    embedding = planned_embedding(patch_size) if embedding is None else embedding
    check_triple("embedding", embedding)
    if any(step not in (1, 2, 4) for step in embedding):
        raise ValueError(f"embedding must be 1, 2 or 4 per axis, got {tuple(embedding)}")
    geometry = SwinGeometry(tuple(patch_size), tuple(embedding), ())
    strides = planned_strides(geometry.sizes[0]) if strides is None else strides
    if not isinstance(strides, Sequence) or len(strides) != STAGES - 1:
        raise ValueError(f"strides must be {STAGES - 1} lists of 3 numbers, got {strides!r}")
    for number, stride in enumerate(strides):
        check_triple(f"strides[{number}]", stride)
        if any(step not in (1, 2) for step in stride):
            raise ValueError(f"strides[{number}] must be 1 or 2 per axis, got {tuple(stride)}")
    geometry = SwinGeometry(tuple(patch_size), tuple(embedding), tuple(tuple(stride) for stride in strides))
    for number, (size, stride) in enumerate(zip(geometry.sizes, geometry.strides, strict=False)):
        if any(voxels % step for voxels, step in zip(size, stride, strict=True)):
            raise ValueError(
                f"strides[{number}] {stride} do not divide the map of stage {number}, {size} "
                f"(patch {geometry.patch_size}, embedding {geometry.embedding}); use 1 for an odd axis"
            )
    return geometry


def checked_windows(name: str, windows: Sequence[int | Sequence[int]], count: int) -> tuple[Size, ...]:
    """Return windows of the stages, a number or one per axis each, as three numbers each.

    Raises:
        ValueError: If there are not `count` of them, or a number is below 1.
    """
    if not isinstance(windows, Sequence) or len(windows) != count:
        raise ValueError(f"{name} must be {count} windows, got {windows!r}")
    found = [(window,) * 3 if isinstance(window, int) else tuple(window) for window in windows]
    for number, window in enumerate(found):
        check_triple(f"{name}[{number}]", window)
    return tuple(found)


def check_triple(name: str, values: Any) -> None:
    """Check that there is a number of at least 1 for each axis.

    Raises:
        ValueError: If not.
    """
    if (
        not isinstance(values, Sequence)
        or len(values) != 3
        or any(type(value) is not int or value < 1 for value in values)
    ):
        raise ValueError(f"{name} must be 3 integers of at least 1, got {values!r}")
