"""Which slice is shown, how it lies, and which part of it is enlarged."""

import numpy as np
import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.figures.views import box_around, slice_index, view_of
from nnunet_attn.registering.geometry import Grid

SHAPE = (4, 5, 6)  # z y x
LPS = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
TURNED = {  # direction cosines row by row: columns are the file's axes x, y, z in the world
    "LPS": LPS,
    "RAI": (-1.0, 0, 0, 0, -1, 0, 0, 0, -1),
    "PIR": (0.0, 0, -1, 1, 0, 0, 0, -1, 0),  # x to the back, y to the feet, z to the right
    "oblique": (0.98, -0.199, 0, 0.199, 0.98, 0, 0, 0, 1),
}


def world(direction: tuple[float, ...]) -> np.ndarray:
    """(4 5 6 3) Place of each voxel in the world: to the left, to the back, to the head."""
    z, y, x = np.indices(SHAPE)
    return np.stack([x, y, z], axis=-1) @ np.reshape(direction, (3, 3)).T


def grid(direction: tuple[float, ...]) -> Grid:
    return Grid(SHAPE[::-1], (1.0,) * 3, (0.0,) * 3, direction)


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize(
    ("plane", "right", "down"),
    [("axial", (0, 1), (1, 1)), ("coronal", (0, 1), (2, -1)), ("sagittal", (1, 1), (2, -1))],
)
def test_pictures_hang_as_radiologists_hang_them(
    name: str, plane: str, right: tuple[int, int], down: tuple[int, int]
) -> None:
    """The patient's right on the left, the head up; on sagittal pictures the face on the left."""
    places, view = world(TURNED[name]), view_of(SHAPE, grid(TURNED[name]), plane)
    for (axis, sign), along in ((right, 1), (down, 0)):
        picture = view.picture(places[..., axis], 1)
        assert (sign * np.diff(picture, axis=along) > 0.9).all()
    assert view.name == plane


def test_letters_say_what_is_at_the_borders() -> None:
    assert {plane: view_of(SHAPE, grid(LPS), plane).letters for plane in ("axial", "coronal", "sagittal")} == {
        "axial": "RLAP",
        "coronal": "RLSI",
        "sagittal": "APSI",
    }


def test_an_axis_of_the_array_is_the_plane_across_it() -> None:
    turned = grid(TURNED["PIR"])
    # z runs to the right, y to the feet, x to the back
    assert [view_of(SHAPE, turned, axis).name for axis in (0, 1, 2)] == ["sagittal", "axial", "coronal"]
    assert [view_of(SHAPE, turned, axis).axis for axis in (0, 1, 2)] == [0, 1, 2]


def test_without_directions_slices_stay_as_they_are_stored() -> None:
    array = np.arange(120).reshape(SHAPE)
    assert (view_of(SHAPE, None, None).picture(array, 2) == array[2]).all()
    assert (view_of(SHAPE, None, 2).picture(array, 4) == array[:, :, 4]).all()
    with pytest.raises(InputError, match="does not tell directions; give an axis"):
        view_of(SHAPE, None, "axial")


def test_one_slice_is_shown_whichever_axis_it_lies_along() -> None:
    flat = Grid((6, 1, 4), (1.0,) * 3, (0.0,) * 3, LPS)
    assert view_of((4, 1, 6), flat, None).name == "coronal"


def test_images_in_two_dimensions_have_no_plane() -> None:
    assert view_of((5, 6), None, None).axis is None
    with pytest.raises(InputError, match=r"--plane 0: the image is 2D"):
        view_of((5, 6), None, 0)


def test_pixels_have_the_spacing_of_their_axes() -> None:
    view = view_of(SHAPE, grid(LPS), "coronal")
    assert view.aspect((5.0, 2.0, 0.5)) == 10.0  # z down, x to the right


def test_the_slice_with_most_foreground_or_disagreement_is_chosen() -> None:
    reference = np.zeros(SHAPE, int)
    reference[1, :2, :3] = 1
    reference[3, 0, 0] = 1
    first, second = reference.copy(), reference.copy()
    first[3, :, :] = 1
    second[2, 0, :2] = 1
    assert slice_index("reference", 0, reference, {"a": first}) == 1
    assert slice_index("disagreement", 0, reference, {"a": first, "b": second}) == 3
    assert slice_index("disagreement", 0, reference, {"b": second}) == 2, "a single one is compared with the reference"
    assert slice_index("disagreement", 0, reference, {"a": reference, "b": reference}) == 1
    assert slice_index("reference", 0, reference * 0, {"a": first}) == 3, "an empty reference"
    assert slice_index("reference", 0, reference * 0, {"a": reference * 0}) == 2, "the middle one"
    assert slice_index(0, 0, reference, {}) == 0
    assert slice_index("reference", None, reference[1], {}) == 0


@pytest.mark.parametrize("index", [-1, 4])
def test_there_are_no_slices_outside(index: int) -> None:
    with pytest.raises(InputError, match=rf"--slice {index}: the image has the slices 0 to 3 along this axis"):
        slice_index(index, 0, np.zeros(SHAPE, int), {})
    with pytest.raises(InputError, match="2D and has no slices"):
        slice_index(2, None, np.zeros((5, 6), int), {})


def test_a_box_lies_around_the_foreground_in_the_pictures_proportions() -> None:
    mask = np.zeros((100, 200), bool)
    mask[40:60, 90:100] = True  # 20 of 100 rows, with a margin 26
    assert box_around(mask, 1.0) == (69, 37, 121, 63)
    corner = np.zeros((100, 200), bool)
    corner[0:20, 0:10] = True
    assert box_around(corner, 1.0) == (0, 0, 52, 26), "it stays in the picture"
    single = np.zeros((100, 200), bool)
    single[50, 50] = True
    left, top, right, bottom = box_around(single, 1.0) or (0, 0, 0, 0)
    assert (right - left, bottom - top) == (30, 15), "a pixel alone would say nothing"
    assert box_around(np.ones((10, 10), bool), 1.0) is None
    assert box_around(np.zeros((10, 10), bool), 1.0) is None
