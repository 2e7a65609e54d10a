"""Where an image's grid lies in space, and how far another grid is from it."""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

# nnU-Net compares spacings by numpy.allclose, with its relative tolerance
_NNUNET_TOLERANCE = 1e-5
# What counts as equal: rounding in headers, far below what a voxel resolves.
EQUAL_SPACING, EQUAL_ORIGIN_VOXELS, EQUAL_DIRECTION = 1e-3, 0.1, 1e-3
# What may be mended: the same voxels under a header that a tool wrote wrong. Beyond it, it may be another image's grid.
SMALL_SPACING, SMALL_ORIGIN_VOXELS, SMALL_DIRECTION = 0.01, 5.0, 0.02
# Between channels, which were registered to each other, a header is hardly wrong by more than half a voxel anywhere:
# what is further away is an image of its own, and its voxels show other places.
SMALL_CHANNEL_VOXELS = 0.5


@dataclass(frozen=True)
class Grid:
    """Sizes and place of an image's grid, axes in the file's order (x y, or x y z).

    Args:
        size: Voxels along each axis.
        spacing: Steps in mm.
        origin: Place of the first voxel in mm.
        direction: Direction cosines, row by row.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image | sitk.ImageFileReader) -> "Grid":
        """Return the grid of an image, or of one of which only the header was read."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    def put_on(self, image: sitk.Image) -> None:
        """Give an image of this size this grid's place."""
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)

    @property
    def orientation(self) -> str:
        """Anatomical directions that the axes of a 3D image point to, such as "LPS"; empty in 2D."""
        if len(self.size) != 3:
            return ""
        return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(self.direction)


@dataclass(frozen=True)
class Mismatch:
    """How a grid differs from the one that it should equal.

    Args:
        small: Whether it may be mended by taking over the other grid.
        parts: What differs: "spacing", "origin", "direction"; or "size" alone.
        text: The difference in numbers.
    """

    small: bool
    parts: tuple[str, ...]
    text: str


def mismatch(grid: Grid, wanted: Grid, channels: bool = False) -> Mismatch | None:
    """Return how a grid differs from the one it should equal; None if they are equal enough to be used together.

    Equal enough are the same size, spacings within 0.001 % (beyond, nnU-Net refuses), origins within 0.1 voxel and
    direction cosines within 0.001. A small mismatch is within 1 % of the spacing, 5 voxels of the origin and 0.02 of
    the cosines. Between `channels` of a case it is one by which no voxel moves by more than half a voxel along an axis,
    and the cosines must be equal.
    """
    if grid.size != wanted.size:
        return Mismatch(False, ("size",), f"size {_sizes(grid.size)} instead of {_sizes(wanted.size)}")
    spacing = np.abs(np.divide(grid.spacing, wanted.spacing) - 1).max()
    axes = np.reshape(wanted.direction, (len(wanted.size), -1))
    # along the axes of the grid, since voxels are of different lengths in each
    origin = np.abs(axes.T @ np.subtract(grid.origin, wanted.origin) / wanted.spacing).max()
    direction = np.abs(np.subtract(grid.direction, wanted.direction)).max()
    small_spacing, small_origin, small_direction = SMALL_SPACING, SMALL_ORIGIN_VOXELS, SMALL_DIRECTION
    if channels:
        small_spacing, small_origin = min(SMALL_SPACING, SMALL_CHANNEL_VOXELS / max(grid.size)), SMALL_CHANNEL_VOXELS
        small_direction = EQUAL_DIRECTION
    found = (
        (
            "spacing",
            spacing,
            _NNUNET_TOLERANCE,
            small_spacing,
            f"spacing {_mm(grid.spacing)}, not {_mm(wanted.spacing)}",
        ),
        ("origin", origin, EQUAL_ORIGIN_VOXELS, small_origin, f"origin {origin:.3g} voxels away"),
        ("direction", direction, EQUAL_DIRECTION, small_direction, f"direction cosines {direction:.3g} apart"),
    )
    differing = [row for row in found if not row[1] <= row[2]]
    if not differing:
        return None
    small = all(distance <= limit for _, distance, _, limit, _ in differing)
    return Mismatch(small, tuple(row[0] for row in differing), ", ".join(row[4] for row in differing))


def _sizes(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def _mm(spacing: tuple[float, ...]) -> str:
    return " x ".join(f"{step:.6g}" for step in spacing) + " mm"
