"""Surfaces of two masks, what lies between them, and the three metrics that say it: NSD, HD95 and ASSD.

Source: the area-weighted reading is that of the library surface-distance 0.1 (Nikolov et al., arXiv:1809.04430), whose
tables say how much surface each neighbourhood of 2 x 2 (x 2) voxels holds; the erosion reading is that of the papers
before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree
from surface_distance import lookup_tables

SURFACES = ("area", "erosion")
PERCENT = 95
TOLERANCE_SLACK = 1e-6
"""Relative: files keep spacings with 7 digits (0.8 mm is 0.800000012), and what equals the tolerance is within it."""

_LEAF = 20  # places in a leaf of the search tree: twice the default, a tenth faster


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances from every element of either surface to the other surface; none of the surfaces is empty.

    Args:
        from_prediction_mm: (n) from the elements of the predicted surface.
        from_reference_mm: (m) from those of the reference's.
        prediction_sizes: (n) areas in mm^2, in 2D lengths in mm; None where every element counts alike.
        reference_sizes: (m) likewise.
    """

    from_prediction_mm: NDArray[np.float64]
    from_reference_mm: NDArray[np.float64]
    prediction_sizes: NDArray[np.float64] | None = None
    reference_sizes: NDArray[np.float64] | None = None

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface distance: the part of both surfaces within the tolerance of the other one, 0 to 1."""
        within = whole = 0.0
        for distances, sizes in self._both():
            near = distances <= tolerance_mm * (1 + TOLERANCE_SLACK)
            within += np.count_nonzero(near) if sizes is None else sizes[near].sum()
            whole += len(distances) if sizes is None else sizes.sum()
        return float(within / whole)

    def hd95_mm(self) -> float:
        """The larger one of the two directed 95th percentiles."""
        return max(_percentile(distances, sizes) for distances, sizes in self._both())

    def assd_mm(self) -> float:
        """Mean over the elements of both surfaces together, each by its size."""
        total = whole = 0.0
        for distances, sizes in self._both():
            total += distances.sum() if sizes is None else (distances * sizes).sum()
            whole += len(distances) if sizes is None else sizes.sum()
        return float(total / whole)

    def _both(self) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64] | None], ...]:
        return (
            (self.from_prediction_mm, self.prediction_sizes),
            (self.from_reference_mm, self.reference_sizes),
        )


def surface_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float], surface: str = "area"
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks; what is outside the arrays is background.

    Args:
        prediction: (y x) or (z y x), not empty.
        reference: Of the same shape, not empty.
        spacing_mm: One for each axis, in the arrays' order.
        surface: "area": elements at the corners of voxels, with the area that the tables of surface-distance give them;
            "erosion": voxels of the mask that an erosion by face neighbours takes, all alike.
    Raises:
        ValueError: If a mask is empty or `surface` is unknown.
    """
    if surface not in SURFACES:
        raise ValueError(f"surface {surface!r}; it has to be one of {', '.join(SURFACES)}")
    if not (prediction.any() and reference.any()):
        raise ValueError("a mask is empty: it has no surface to measure distances to")
    spacing = tuple(map(float, spacing_mm))
    if surface == "erosion":
        ours, theirs = (mask & ~np.asarray(binary_erosion(mask), bool) for mask in (prediction, reference))
        return SurfaceDistances(*_between(ours, theirs, spacing))
    codes = [_neighbour_codes(mask) for mask in (prediction, reference)]
    full = 2**2**prediction.ndim - 1
    ours, theirs = ((code != 0) & (code != full) for code in codes)
    sizes = _element_sizes(spacing)
    return SurfaceDistances(*_between(ours, theirs, spacing), sizes[codes[0][ours]], sizes[codes[1][theirs]])


def _neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """For each corner of the voxels, which of the 2^d voxels around it are in the mask, as the library numbers them.

    Its kernel is a product over the axes: 2 and 1 along the last one, 4 and 1 and 16 and 1 along those before.
    """
    codes = np.pad(mask, 1).view(np.uint8)
    for place, axis in enumerate(reversed(range(mask.ndim))):
        before, after = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        codes = codes[before] * np.uint8(2**2**place) + codes[after]
    return codes


@lru_cache(maxsize=64)
def _element_sizes(spacing_mm: tuple[float, ...]) -> NDArray[Any]:
    """Area in mm^2 (in 2D length in mm) of the surface in each neighbourhood; the library takes 3 ms for it."""
    if len(spacing_mm) == 2:
        return lookup_tables.create_table_neighbour_code_to_contour_length(spacing_mm)
    return lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm)


def _between(
    ours: NDArray[np.bool_], theirs: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in mm from each place in one mask to the nearest one in the other, there and back, in raster order."""
    places, targets, step = np.argwhere(ours), np.argwhere(theirs), np.asarray(spacing_mm)
    return _nearest(places, theirs[ours], targets, step), _nearest(targets, ours[theirs], places, step)


def _nearest(
    places: NDArray[np.intp], shared: NDArray[np.bool_], targets: NDArray[np.intp], step: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distances by a search tree, which costs what the surfaces hold.

    A distance map costs what their box holds: for a whole CT, where one stray voxel is enough, 10 s and more than 1 GB.

    Args:
        places: (n axes) to start from.
        shared: (n) those that are among the targets.
        targets: (m axes)
        step: (axes) spacing in mm.
    """
    distances = np.zeros(len(places))
    apart = np.flatnonzero(~shared)
    if len(apart):
        start = places[apart]
        tree = KDTree(targets * step, leafsize=_LEAF, compact_nodes=False, balanced_tree=False)
        _, nearest = tree.query(start * step)
        # from whole steps, so that the sum of squares is rounded alike wherever the masks lie
        steps = (targets[nearest] - start) * step
        distances[apart] = np.sqrt((steps**2).sum(1))
    return distances


def _percentile(distances: NDArray[np.float64], sizes: NDArray[np.float64] | None) -> float:
    """The 95th percentile, of voxels interpolated as NumPy does, of areas as the library does."""
    if sizes is None:
        return float(np.percentile(distances, PERCENT))
    order = np.lexsort((sizes, distances))
    part = np.cumsum(sizes[order]) / np.sum(sizes)
    return float(distances[order][min(np.searchsorted(part, PERCENT / 100), len(order) - 1)])
