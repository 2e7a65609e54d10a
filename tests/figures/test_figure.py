"""What a figure draws, and where."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from nnunet_attn.errors import InputError
from nnunet_attn.figures.figure import case_figure, cases_figure
from nnunet_attn.figures.panels import ERRORS, ON_GREY, Marks, errors_of
from nnunet_attn.figures.request import FigureCase, FigureOptions
from tests.made.figure_cases import SPACING, ramp, reference, write_case, write_description
from tests.made.loose import write


def figure_of(case: FigureCase, **options: Any) -> Figure:
    return cases_figure([case], FigureOptions(**options))


def panel(figure: Figure, label: str) -> Axes:
    (found,) = (axes for axes in figure.axes if axes.get_label() == label)
    return found


def shown(axes: Axes, layer: int = 0) -> np.ndarray:
    return np.asarray(axes.get_images()[layer].get_array())


def contours(axes: Axes) -> dict[str, np.ndarray]:
    """Class -> all corners of its lines (x, y)."""
    drawn = (each for each in axes.collections if isinstance(each, ContourSet))
    return {str(each.get_label()): np.concatenate([path.vertices for path in each.get_paths()]) for each in drawn}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.fixture
def case(tmp_path: Path) -> FigureCase:
    return write_case(tmp_path)


def test_columns_are_image_reference_and_methods(case: FigureCase) -> None:
    figure = case_figure(case.image, case.reference, case.predictions, name="case", note="worst")
    assert [axes.get_label() for axes in figure.axes] == [f"whole: {name}" for name in ("image", "reference", "A", "B")]
    lefts = [axes.get_position().x0 for axes in figure.axes]
    assert lefts == sorted(lefts) and {"image", "reference", "A", "B", "case\nworst"} <= set(texts(figure))
    assert "axial, slice 3" in texts(figure), "the slice with most foreground"
    for axes in figure.axes:
        assert (shown(axes) == ramp()[3]).all()


def test_pixels_are_as_high_as_their_spacing_says(case: FigureCase) -> None:
    figure = figure_of(case, plane="coronal")
    axes = panel(figure, "whole: image")
    assert axes.get_aspect() == SPACING[2] / SPACING[0]
    place, (width, height) = axes.get_position(), figure.get_size_inches()
    wanted = (6 * 4.0) / (30 * 1.0)
    assert place.height * height / (place.width * width) == pytest.approx(wanted)


def test_the_head_is_up_whatever_the_files_directions_are(tmp_path: Path) -> None:
    flipped = write_case(tmp_path, direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1))
    figure = figure_of(flipped, plane="coronal", slice=8)
    picture = shown(panel(figure, "whole: image"))
    assert (picture == ramp()[::-1, 8, ::-1]).all(), "the head up, and the patient's right on the left"
    rows = contours(panel(figure, "whole: reference"))["label 2"][:, 1]
    assert (rows.min(), rows.max()) == (1.5, 2.5), "slice 3 of 6 is row 2 from above"


def test_contours_run_around_each_class(case: FigureCase, tmp_path: Path) -> None:
    figure = figure_of(case, dataset_json=write_description(tmp_path))
    lines = contours(panel(figure, "whole: reference"))
    assert list(lines) == ["organ", "lesion"] and legend(figure) == ["organ", "lesion"]
    # rows 8 and 9, columns 10 to 12; lines lie half a pixel outside
    assert lines["lesion"].min(0).tolist() == [9.5, 7.5] and lines["lesion"].max(0).tolist() == [12.5, 9.5]
    moved = contours(panel(figure, "whole: B"))["lesion"]
    assert (moved - lines["lesion"]).tolist() == [[1, 0]] * len(moved), "B lies one voxel further along x"
    assert not contours(panel(figure, "whole: image"))


def test_contours_close_at_the_border_of_the_picture(tmp_path: Path) -> None:
    labels = np.ones((6, 8), np.uint8)
    file = write(tmp_path / "label.nii.gz", labels)
    image = write(tmp_path / "image.nii.gz", np.arange(48, dtype=np.int16).reshape(6, 8))
    axes = panel(case_figure(image, file, {"A": file}), "whole: A")
    assert contours(axes)["label 1"].max(0).tolist() == [7.5, 5.5]
    assert axes.get_xlim() == (-0.5, 7.5) and axes.get_ylim() == (5.5, -0.5)


def test_filled_classes_have_their_colours_and_opacity(case: FigureCase, tmp_path: Path) -> None:
    figure = figure_of(case, dataset_json=write_description(tmp_path), style="fill", opacity=0.4)
    layer = shown(panel(figure, "whole: reference"), 1)
    labels = reference()[3]
    assert (layer[labels == 0, 3] == 0).all() and (layer[labels > 0, 3] == 0.4).all()
    for value, colour in ((1, ON_GREY[0]), (2, ON_GREY[1])):
        hexed = "#" + "".join(f"{round(255 * part):02x}" for part in layer[labels == value][0, :3])
        assert hexed == colour


def test_colours_go_on_where_there_are_more_classes_than_colours() -> None:
    marks = Marks({f"c{number}": (number,) for number in range(1, 20)}, None, "contour", 0.5)
    looks = {(marks.colour(name), str(marks.dash(name))) for name in marks.classes}
    assert len(looks) == 19


def test_a_region_is_drawn_below_the_classes_in_it(case: FigureCase, tmp_path: Path) -> None:
    regions = {"background": 0, "lesion": 2, "whole": [1, 2]}
    figure = figure_of(case, dataset_json=write_description(tmp_path, regions), style="fill")
    layer, labels = shown(panel(figure, "whole: reference"), 1), reference()[3]
    assert legend(figure) == ["whole", "lesion"]
    assert not np.allclose(layer[labels == 2][0], layer[labels == 1][0])
    lines = contours(panel(figure_of(case, dataset_json=tmp_path / "dataset.json"), "whole: reference"))
    assert lines["whole"].min(0).tolist() == [7.5, 4.5], "around all of it"


def test_what_is_ignored_is_hatched_and_never_wrong(case: FigureCase, tmp_path: Path) -> None:
    labels = {"background": 0, "organ": 1, "ignore": 2}
    predictions = {name: write(file, np.minimum(reference(), 1), SPACING) for name, file in case.predictions.items()}
    figure = figure_of(
        replace(case, predictions=predictions), dataset_json=write_description(tmp_path, labels), errors=True
    )
    assert legend(figure) == ["organ", "ignored"] and any(text == "Dice 1.000" for text in texts(figure))
    assert not shown(panel(figure, "errors: A"), 1).any()
    hatched = [each for each in panel(figure, "whole: A").collections if getattr(each, "hatches", [None])[0]]
    assert len(hatched) == 1


def test_errors_are_told_apart(case: FigureCase, tmp_path: Path) -> None:
    wanted, predicted = np.array([[0, 1, 1, 2, 0]]), np.array([[1, 0, 1, 1, 0]])
    found = errors_of(predicted, wanted, Marks({"a": (1,), "b": (2,)}, None, "contour", 0.5))
    assert {name: np.flatnonzero(mask).tolist() for name, mask in found.items()} == {
        "false positive": [0],
        "false negative": [1],
        "other class": [3],
    }
    figure = figure_of(case, dataset_json=write_description(tmp_path), errors=True)
    assert [axes.get_label() for axes in figure.axes][4:] == ["errors: A", "errors: B"]
    assert legend(figure) == ["organ", "lesion", *ERRORS]
    labels, moved = reference()[3], np.roll(reference()[3], 1, axis=1)
    layer = shown(panel(figure, "errors: B"), 1)
    assert ((layer[..., 3] > 0) == (labels != moved)).all()


def test_dice_stands_below_each_method(case: FigureCase, tmp_path: Path) -> None:
    description = write_description(tmp_path)
    own, moved = reference(), np.roll(reference(), 1, axis=2)
    dice = {v: 2 * ((own == v) & (moved == v)).sum() / (2 * (own == v).sum()) for v in (1, 2)}
    told = texts(figure_of(case, dataset_json=description))
    assert f"Dice {(dice[1] + dice[2]) / 2:.3f}\norgan {dice[1]:.3f}\nlesion {dice[2]:.3f}" in told
    assert "Dice 1.000\norgan 1.000\nlesion 1.000" in told
    given = replace(case, dice={"B": {"organ": 0.25, "lesion": float("nan")}})
    assert "Dice 0.250\norgan 0.250\nlesion -" in texts(figure_of(given, dataset_json=description))


def test_a_box_is_marked_and_enlarged(case: FigureCase) -> None:
    figure = figure_of(case, zoom=(4, 2, 20, 14))
    for name in ("image", "reference", "A", "B"):
        (box,) = (each for each in panel(figure, f"whole: {name}").patches if isinstance(each, Rectangle))
        assert (*box.get_xy(), box.get_width(), box.get_height()) == (3.5, 1.5, 16, 12)
        enlarged = panel(figure, f"zoom: {name}")
        assert enlarged.get_xlim() == (3.5, 19.5) and enlarged.get_ylim() == (13.5, 1.5)
        assert (shown(enlarged) == ramp()[3, 2:14, 4:20]).all()
    assert contours(panel(figure, "zoom: B")).keys() == {"label 1", "label 2"}
    assert figure_of(case, zoom=(4, 2, 20, 14), errors=True).axes[-1].get_xlim() == (3.5, 19.5)


def test_an_automatic_box_holds_the_references_foreground(case: FigureCase) -> None:
    figure = figure_of(case, zoom="auto")
    (left, right), (bottom, top) = (
        panel(figure, "zoom: image").get_xlim(),
        panel(figure, "zoom: image").get_ylim(),
    )
    assert left < 8 and right > 16 and top < 5 and bottom > 13
    assert right - left < 30


def test_the_grey_values_are_the_window_or_percentiles_of_the_slice(case: FigureCase) -> None:
    assert panel(figure_of(case, window=400, level=40), "whole: A").get_images()[0].get_clim() == (-160, 240)
    low, high = np.percentile(ramp()[3], (1, 99))
    assert panel(figure_of(case), "whole: A").get_images()[0].get_clim() == pytest.approx((low, high))


def test_natural_images_have_their_colours_or_one_channel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    mask = np.zeros((9, 7), np.uint8)
    mask[2:5, 2:5] = 1
    Image.fromarray(mask).save(tmp_path / "label.png")
    case = FigureCase("a", tmp_path / "image.png", tmp_path / "label.png", {"A": tmp_path / "label.png"})
    figure = figure_of(case)
    assert np.allclose(shown(panel(figure, "whole: image")), pixels / 255)
    assert panel(figure, "whole: A").get_aspect() == 1 and not any("slice" in text for text in texts(figure))
    assert (shown(panel(figure_of(case, channel=1), "whole: image")) == pixels[..., 1]).all()
    with pytest.raises(InputError, match="--channel 3: the image has the channels 0 to 2"):
        figure_of(case, channel=3)
    with pytest.raises(InputError, match="--window and --level are for grey values"):
        figure_of(case, window=10, level=5)


def test_rows_are_cases_one_below_the_other(tmp_path: Path) -> None:
    cases = [replace(write_case(tmp_path / name), name=name) for name in ("first", "second")]
    figure = cases_figure(cases)
    images = [axes for axes in figure.axes if axes.get_label() == "whole: image"]
    assert images[0].get_position().y0 > images[1].get_position().y1
    assert {"first", "second"} <= set(texts(figure)) and texts(figure).count("reference") == 1


def test_everything_lies_within_the_figure_and_no_text_is_cut(tmp_path: Path) -> None:
    names = ("nnUNetTrainerPatchTransformerPaper_100epochs_NoMirroring_seed3", "B")
    long = replace(write_case(tmp_path, methods=names), name="a_case_with_quite_a_long_name_of_a_hospital_0001")
    description = write_description(
        tmp_path, {"background": 0, **{f"an organ {v} with a long name": v for v in (1, 2)}}
    )
    figure = cases_figure([long], FigureOptions(dataset_json=description, errors=True, zoom="auto"))
    figure.canvas.draw()  # pyright: ignore[reportAttributeAccessIssue]
    width, height = figure.bbox.width, figure.bbox.height
    for artist in (*figure.texts, *figure.legends, *figure.axes):
        box = artist.get_window_extent()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, artist


def test_files_that_do_not_belong_together_are_refused(case: FigureCase, tmp_path: Path) -> None:
    other = write(tmp_path / "other.nii.gz", reference()[:, :, 1:], SPACING)
    with pytest.raises(InputError, match=r"other.nii.gz is 6 x 20 x 29 voxels and the image .* 6 x 20 x 30"):
        figure_of(replace(case, reference=other))
    stretched = write(tmp_path / "stretched.nii.gz", reference(), (1.0, 2.0, 5.0))
    with pytest.raises(InputError, match=r"has the spacing 1 x 2 x 5 mm and the image .* 1 x 2 x 4 mm; give the file"):
        figure_of(replace(case, predictions={"A": stretched}))
    turned = write(tmp_path / "turned.nii.gz", reference(), SPACING, direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1))
    with pytest.raises(InputError, match=r"turned.nii.gz has other axes \(direction\) than the image"):
        figure_of(replace(case, predictions={"A": turned}))
    moved = write(tmp_path / "moved.nii.gz", reference(), SPACING, origin=(50, 0, 0))
    assert figure_of(replace(case, predictions={"A": moved})), "many tools drop the origin; evaluate takes it too"


def test_missing_files_methods_and_labels_are_told(case: FigureCase, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.nii.gz, the prediction of A for case, does not exist; correct"):
        figure_of(replace(case, predictions={"A": tmp_path / "none.nii.gz"}))
    with pytest.raises(InputError, match="the prediction of B is not there for all cases"):
        cases_figure([case, replace(case, name="other", predictions={"A": case.predictions["A"]})])
    with pytest.raises(InputError, match="case: there is no prediction to show"):
        figure_of(replace(case, predictions={}))
    with pytest.raises(InputError, match="there is no case to show"):
        cases_figure([])
    with pytest.raises(InputError, match=r"holds the value 2, and dataset.json has 0, 1"):
        figure_of(case, dataset_json=write_description(tmp_path, {"background": 0, "organ": 1}))


def test_images_with_four_axes_are_refused(case: FigureCase, tmp_path: Path) -> None:
    file = write(tmp_path / "four.nii.gz", np.zeros((2, *ramp().shape), np.int16))
    with pytest.raises(InputError, match=r"four.nii.gz has 4 axes .* split it"):
        figure_of(replace(case, image=file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slice": "most"}, "--slice most: give a number from 0, reference or disagreement"),
        ({"slice": 6}, "case: --slice 6: the image has the slices 0 to 5"),
        ({"plane": "transversal"}, "--plane transversal: it is one of axial, coronal, sagittal"),
        ({"plane": 3}, "--plane 3: it is one of"),
        ({"channel": 1}, "case: --channel 1: the image has one channel, 0"),
        ({"channel": -1}, "--channel -1: channels are numbered from 0"),
        ({"window": 400.0}, "--window and --level go together"),
        ({"window": 0.0, "level": 1.0}, "the window is a width above 0"),
        ({"zoom": (4, 4, 4, 9)}, "--zoom 4 4 4 9: X0 Y0 X1 Y1 are"),
        ({"zoom": (0, 0, 31, 9)}, "the picture is 30 pixels wide and 20 high; give X1 up to 30 and Y1 up to 20"),
        ({"zoom": "big"}, "--zoom big: give auto, none or four numbers"),
        ({"style": "dots"}, "--style dots: it is contour or fill"),
        ({"opacity": 0.0}, "opacity 0: it is above 0 and at most 1"),
    ],
)
def test_impossible_options_are_refused(case: FigureCase, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as told:
        figure_of(case, **options)
    assert message in str(told.value)
