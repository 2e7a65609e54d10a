from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.registering.geometry import Grid, mismatch

GRID = Grid((7, 6, 5), (1.0, 2.0, 4.0), (10.0, 20.0, 30.0), tuple(np.eye(3).ravel()))


def _turned(radians: float) -> tuple[float, ...]:
    c, s = np.cos(radians), np.sin(radians)
    return (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "other",
    [
        GRID,
        replace(GRID, spacing=(1.0, 2.00001, 4.0)),  # 5e-6 of it: as nnU-Net
        replace(GRID, origin=(10.0, 20.0, 30.3)),  # 0.3 of 4 mm
        replace(GRID, direction=_turned(0.0009)),
    ],
)
def test_what_rounding_leaves_is_equal(other: Grid) -> None:
    assert mismatch(other, GRID) is None


@pytest.mark.parametrize(
    ("other", "parts", "text"),
    [
        (replace(GRID, spacing=(1.0, 2.0002, 4.0)), ("spacing",), "spacing 1 x 2.0002 x 4 mm, not 1 x 2 x 4 mm"),
        (replace(GRID, origin=(10.0, 20.0, 32.0)), ("origin",), "origin 0.5 voxels away"),
        (replace(GRID, origin=(15.0, 20.0, 50.0)), ("origin",), "origin 5 voxels away"),
        (replace(GRID, direction=_turned(0.01)), ("direction",), "direction cosines 0.01 apart"),
        (
            replace(GRID, origin=(11.0, 20.0, 30.0), spacing=(1.009, 2.0, 4.0)),
            ("spacing", "origin"),
            "origin 1 voxels away",
        ),
    ],
)
def test_a_small_mismatch_can_be_mended(other: Grid, parts: tuple[str, ...], text: str) -> None:
    found = mismatch(other, GRID)
    assert found is not None and found.small
    assert found.parts == parts
    assert text in found.text


@pytest.mark.parametrize(
    "other",
    [
        replace(GRID, spacing=(1.0, 2.0, 4.1)),
        replace(GRID, origin=(15.1, 20.0, 30.0)),  # 5.1 voxels of 1 mm
        replace(GRID, direction=_turned(0.03)),
        replace(GRID, direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)),
        replace(GRID, spacing=(1.001, 2.0, 4.0), origin=(100.0, 20.0, 30.0)),
        replace(GRID, origin=(float("nan"), 20.0, 30.0)),
    ],
)
def test_a_large_mismatch_is_none_to_mend(other: Grid) -> None:
    found = mismatch(other, GRID)
    assert found is not None and not found.small


def test_channels_are_mended_by_half_a_voxel_at_most() -> None:
    def small(other: Grid) -> bool:
        found = mismatch(other, GRID, channels=True)
        assert found is not None
        return found.small

    assert mismatch(GRID, GRID, channels=True) is None
    assert mismatch(replace(GRID, direction=_turned(0.0009)), GRID, channels=True) is None
    assert small(replace(GRID, origin=(10.0, 20.0, 32.0)))
    assert not small(replace(GRID, origin=(10.0, 20.0, 32.1)))
    assert not small(replace(GRID, direction=_turned(0.002)))
    assert small(replace(GRID, spacing=(1.009, 2.0, 4.0)))  # 7 voxels: 0.06 voxel at the last
    wide = replace(GRID, size=(512, 6, 5))
    found = mismatch(replace(wide, spacing=(1.002, 2.0, 4.0)), wide, channels=True)  # a voxel at the last
    assert found is not None and not found.small


def test_other_sizes_are_never_mended() -> None:
    found = mismatch(replace(GRID, size=(7, 6, 4)), GRID)
    assert found is not None and not found.small
    assert found.text == "size 7 x 6 x 4 instead of 7 x 6 x 5"


def test_the_origin_is_measured_along_the_axes_of_the_image() -> None:
    # x and y are swapped, so 8 mm along the world's x are 4 voxels of 2 mm of the second axis
    swapped = replace(GRID, direction=(0.0, 1.0, 0, 1.0, 0, 0, 0, 0, 1.0))
    found = mismatch(replace(swapped, origin=(18.0, 20.0, 30.0)), swapped)
    assert found is not None and "origin 4 voxels away" in found.text


def test_a_grid_of_an_image_and_back() -> None:
    image = sitk.Image([7, 6, 5], sitk.sitkUInt8)
    GRID.put_on(image)
    assert Grid.of(image) == GRID
    assert GRID.orientation == "LPS"
    assert replace(GRID, direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)).orientation == "RAS"
    assert Grid((3, 4), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0)).orientation == ""
