"""Surfaces and the distances between them, against slow ways of saying the same."""

import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from surface_distance import lookup_tables

from nnunet_attn.evaluation.surfaces import (
    SurfaceDistances,
    _element_sizes,
    _neighbour_codes,
    surface_distances,
)


def test_a_plane_has_the_area_of_the_voxel_faces_on_it() -> None:
    spacing = (3.0, 2.0, 0.5)
    sizes = _element_sizes(spacing)
    for axis, area in enumerate((2.0 * 0.5, 3.0 * 0.5, 3.0 * 2.0)):
        half = np.zeros((6, 6, 6), bool)
        half[(slice(None),) * axis + (slice(3, None),)] = True
        # corners inside the array have voxels on all sides
        codes = _neighbour_codes(half)[(slice(1, -1),) * 3].take(2, axis=axis)
        assert np.unique(sizes[codes]) == pytest.approx([area])


@pytest.mark.parametrize("axes", [2, 3])
def test_neighbourhoods_are_numbered_as_in_the_library(axes: int) -> None:
    kernel = {2: lookup_tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL, 3: lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL}[axes]
    mask = np.random.default_rng(axes).random((4, 5, 6)[:axes]) < 0.5
    padded, codes = np.pad(mask, 1), _neighbour_codes(mask)
    assert codes.shape == tuple(length + 1 for length in mask.shape)
    for place in np.ndindex(codes.shape):
        around = padded[tuple(slice(at, at + 2) for at in place)]
        assert codes[place] == (around * kernel).sum()


@pytest.mark.parametrize("surface", ["area", "erosion"])
def test_distances_are_the_least_of_all_pairs(surface: str) -> None:
    rng = np.random.default_rng(0)
    spacing = (2.3, 0.7, 1.1)
    masks = [rng.random((6, 7, 8)) < 0.2, np.zeros((6, 7, 8), bool)]
    masks[1][1:5, 2:, :3] = True
    found = surface_distances(masks[0], masks[1], spacing, surface)
    places = []
    for mask in masks:
        padded = np.pad(mask, 1)
        corners = surface == "area"
        on = np.zeros([length + corners for length in mask.shape], bool)
        for place in np.ndindex(on.shape):
            if corners:
                around = padded[tuple(slice(at, at + 2) for at in place)]
                on[place] = around.any() and not around.all()
            else:
                faces = [
                    np.add(place, 1) + step for step in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
                ]
                on[place] = mask[place] and not all(padded[tuple(face)] for face in faces)
        places.append(np.argwhere(on) * spacing)
    pairs = cdist(*places)
    np.testing.assert_allclose(found.from_prediction_mm, pairs.min(1), atol=1e-12)
    np.testing.assert_allclose(found.from_reference_mm, pairs.min(0), atol=1e-12)
    assert (found.prediction_sizes is None) == (found.reference_sizes is None) == (surface == "erosion")


@pytest.mark.parametrize("surface", ["area", "erosion"])
def test_a_stray_voxel_far_away_costs_less_memory_than_a_distance_map_of_the_box(surface: str) -> None:
    masks = np.zeros((2, 120, 120, 120), bool)
    masks[:, 10:14, 10:14, 10:14] = True
    masks[0, 10, 10, 110] = True
    tracemalloc.start()
    try:
        found = surface_distances(masks[0], masks[1], (1, 1, 1), surface)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.from_prediction_mm.max() == 110 - 13
    assert peak < 8 * masks[0].size, "a map of distances alone has 8 bytes a voxel"


def test_metrics_weigh_by_size() -> None:
    distances = SurfaceDistances(*map(np.array, ([0.0, 3.0], [1.0, 2.0], [1.0, 3.0], [6.0, 0.1])))
    assert distances.assd_mm() == pytest.approx((0 * 1 + 3 * 3 + 1 * 6 + 2 * 0.1) / (1 + 3 + 6 + 0.1))
    assert distances.nsd(1.0) == pytest.approx((1 + 6) / (1 + 3 + 6 + 0.1))
    assert distances.hd95_mm() == 3  # the other way the second value is less than 5 % of the area, so it is 1
    alike = SurfaceDistances(*map(np.array, ([0.0, 3.0], [1.0, 2.0])))
    assert alike.assd_mm() == 1.5 and alike.nsd(1.0) == 0.5 and alike.nsd(0.9) == 0.25
    in_seven_digits = SurfaceDistances(*map(np.array, ([float(np.float32(0.8)), 0.80001], [0.0])))
    assert in_seven_digits.nsd(0.8) == pytest.approx(2 / 3)
    assert alike.hd95_mm() == pytest.approx(0.95 * 3)  # between two values, as NumPy interpolates


def test_an_empty_mask_and_an_unknown_surface_are_refused() -> None:
    full, empty = np.ones((2, 2), bool), np.zeros((2, 2), bool)
    for pair in ((full, empty), (empty, full)):
        with pytest.raises(ValueError, match="a mask is empty"):
            surface_distances(*pair, (1, 1))
    with pytest.raises(ValueError, match="'voxels'; it has to be one of area, erosion"):
        surface_distances(full, full, (1, 1), "voxels")
