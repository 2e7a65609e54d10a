"""Labels made from polygons and grey masks, against masks drawn by hand."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering.layouts.masks import ThresholdedMask
from nnunet_attn.registering.layouts.monuseg import PolygonMask
from nnunet_attn.registering.model import MadeLabel
from tests.made import layout_trees as trees


def test_both_kinds_are_made_labels(tmp_path: Path) -> None:
    kinds: list[MadeLabel] = [PolygonMask(tmp_path / "a.xml"), ThresholdedMask(tmp_path / "a.png", 127)]
    for made in kinds:
        assert pickle.loads(pickle.dumps(made)) == made
        assert made.files[0].stem == "a"
    assert PolygonMask(tmp_path / "a.xml") != PolygonMask(tmp_path / "b.xml")


def test_polygons_are_filled_and_united(tmp_path: Path) -> None:
    # a square of columns 4 to 9 and rows 2 to 6 between pixels, a triangle that overlaps it, a line, and a square
    # that reaches over the lower right corner
    square = [(3.5, 1.5), (9.5, 1.5), (9.5, 6.5), (3.5, 6.5)]
    triangle = [(7.5, 4.5), (13.5, 4.5), (7.5, 10.5)]
    corner = [(17.5, 15.5), (40.0, 15.5), (40.0, 40.0), (17.5, 40.0)]
    file = trees.outlines(tmp_path / "a.xml", [square, triangle, [(1.0, 1.0), (2.0, 12.0)], corner])
    by_hand = np.zeros((18, 20), np.uint8)
    by_hand[2:7, 4:10] = 1
    # below the line from (13.5, 4.5) to (7.5, 10.5): centres with column + row < 18 are inside, those on it are not
    for row in range(5, 11):
        for column in range(8, 14):
            if column + row < 18:
                by_hand[row, column] = 1
    by_hand[16:, 18:] = 1
    drawn = PolygonMask(file).read((18, 20))
    differing = np.argwhere(drawn != by_hand)
    assert all(column + row == 18 for row, column in differing), "only centres on an edge may fall to either side"
    assert drawn.dtype == np.uint8


def test_a_centre_on_a_whole_number_is_a_pixel(tmp_path: Path) -> None:
    # columns are X and rows are Y: a tall box around the pixel of row 7, column 2
    file = trees.outlines(tmp_path / "a.xml", [[(1.6, 6.6), (2.4, 6.6), (2.4, 7.4), (1.6, 7.4)]])
    drawn = PolygonMask(file).read((10, 5))
    assert np.argwhere(drawn).tolist() == [[7, 2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<Annotations><Region>", "cannot be read"),
        ('<A><Region><Vertex X="1"/></Region></A>', "cannot be read"),
        ('<A><Region><Vertex X="1" Y="one"/></Region></A>', "cannot be read"),
        ("<Annotations/>", "holds no outline"),
    ],
)
def test_damaged_annotations_are_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "nuclei.xml"
    file.write_text(content)
    with pytest.raises(InputError, match=rf"nuclei\.xml.*{message}.*; replace it, or take out this case"):
        PolygonMask(file).read((10, 10))


def test_annotations_of_another_image_are_named(tmp_path: Path) -> None:
    file = trees.outlines(tmp_path / "a.xml", [[(500.0, 700.0), (510.0, 700.0), (510.0, 710.0)]])
    with pytest.raises(InputError, match=r"near column 500, row 700, outside of its image of 30 x 20 pixels"):
        PolygonMask(file).read((20, 30))
    with pytest.raises(InputError, match="its image 3 axes"):
        PolygonMask(file).read((4, 20, 30))


def test_a_grey_mask_is_cut_above_its_threshold(tmp_path: Path) -> None:
    grey = np.array([[0, 1, 126, 127], [128, 129, 254, 255]], np.uint8)
    file = trees.mask(tmp_path / "grey.png", grey)
    assert ThresholdedMask(file, 127).read((2, 4)).tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    assert ThresholdedMask(file, 0).read((2, 4)).tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]


def test_masks_in_colour_count_by_the_brightest_channel_and_not_by_alpha(tmp_path: Path) -> None:
    colour = np.zeros((2, 3, 4), np.uint8)
    colour[..., 3] = 255
    colour[0, 1, 2] = 200
    colour[1, 2] = 255
    for channels in (3, 4):
        file = trees.mask(tmp_path / f"{channels}.png", colour[..., :channels])
        assert ThresholdedMask(file, 127).read((2, 3)).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_mask_of_one_bit_is_black_and_white(tmp_path: Path) -> None:
    from PIL import Image

    wanted = np.array([[True, False], [False, True]])
    Image.fromarray(wanted).save(tmp_path / "bit.png")
    assert ThresholdedMask(tmp_path / "bit.png", 127).read((2, 2)).tolist() == [[1, 0], [0, 1]]


def test_wrong_masks_are_named(tmp_path: Path) -> None:
    file = trees.mask(tmp_path / "small.png", np.ones((4, 6), np.uint8))
    with pytest.raises(InputError, match=r"small\.png is 6 x 4 pixels, its image 7 x 4 pixels"):
        ThresholdedMask(file, 0).read((4, 7))
    with pytest.raises(InputError, match=r"small\.png: its brightest pixel is 1, and nothing is above .* 127"):
        ThresholdedMask(file, 127).read((4, 6))
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(InputError, match=r"small\.png cannot be read"):
        ThresholdedMask(file, 0).read((4, 6))
