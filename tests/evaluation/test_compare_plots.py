"""Pictures of a comparison: all text is on them, whatever the names, and says what is drawn."""

import math
import random
from collections.abc import Sequence

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from nnunet_attn.evaluation.compare import Comparison, compare
from nnunet_attn.evaluation.compare_labels import shared_note, short_names, text_width, wrapped
from nnunet_attn.evaluation.compare_plots import class_plot, difference_plot, drawing_style
from tests.made.evaluations import made_evaluation

NETWORKS = ("Plain", "GASA", "UNetPlusPlus", "PatchTransformerPaper", "MedT", "FINEWindowTokens")
SUFFIXES = "_100epochs_NoMirroring_bf16_seed3"
MODEL = "nnUNetTrainer{}__nnUNetPlansTiny__3d_fullres"
NAMES = {
    "short": "{}",
    "long": f"nnUNetTrainer{{}}{SUFFIXES}",
    "path": f"../results/Dataset101_Hippocampus/{MODEL}/evaluation_attn_folds_0_1_2_3_4",
    "differing in the middle": "/data/{0}/results/Dataset101_Hippocampus_of_a_long_name/all/{0}_and_more/predictions",
    "without a place to break": "{}" + 60 * "W",
}


def made(
    names: Sequence[str],
    classes: int,
    metric: str = "hd95_mm",
    lost: Sequence[str] = (),
    scale: float = 1,
    all_pairs: bool = False,
) -> Comparison:
    """Return a comparison of random values; all those of the methods `lost` are infinite."""
    draw = random.Random(0)
    labels = [f"organ_{at}" + " of a long description" * (at % 3) for at in range(classes)]
    evaluations = {
        name: [
            made_evaluation(
                {
                    label: {metric: [math.inf if name in lost else scale * draw.uniform(1, 9) for _ in range(5)]}
                    for label in labels
                }
            )
        ]
        for name in names
    }
    return compare(evaluations, n_bootstrap=100, all_pairs=all_pairs)


def texts(figure: Figure) -> list[Text]:
    """Return all that is written on a picture."""
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    ticks = axes.get_xticklabels()  # matplotlib has one more on each side, which it doesn't draw
    beyond = {id(each) for each in ticks if not low <= each.get_position()[0] <= high}
    found = [each for each in figure.findobj(Text) if isinstance(each, Text) and each.get_visible()]
    return [each for each in found if each.get_text().strip() and id(each) not in beyond]


def check_all_is_on_it(figure: Figure) -> None:
    """Every text lies within the picture, the axes have their size, and the legend is not over them."""
    with matplotlib.rc_context(drawing_style()):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        width, height = figure.bbox.size
        for each in texts(figure):
            box = each.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, each.get_text()
        (axes,) = figure.axes
        assert axes.bbox.width / figure.dpi > 4
        for legend in figure.legends:
            box = legend.get_window_extent(canvas.get_renderer())
            assert box.x0 >= 0 and box.x1 <= width and box.y1 <= height and box.y0 >= axes.bbox.y1


@pytest.mark.parametrize(("methods", "classes"), [(2, 1), (3, 14), (6, 2)])
@pytest.mark.parametrize("kind", NAMES)
def test_no_text_is_cut_off(kind: str, methods: int, classes: int) -> None:
    names = [NAMES[kind].format(network) for network in NETWORKS[:methods]]
    comparison = made(names, classes, lost=names[2:3])
    for draw in (difference_plot, class_plot):
        check_all_is_on_it(draw(comparison, "hd95_mm"))


@pytest.mark.parametrize("scale", [1e-7, 1e9])
def test_long_numbers_are_not_cut_off_either(scale: float) -> None:
    comparison = made(NETWORKS[:3], 2, "volume_difference_mm3", scale=scale, all_pairs=True)
    for draw in (difference_plot, class_plot):
        check_all_is_on_it(draw(comparison, "volume_difference_mm3"))


def test_the_pictures_say_what_is_drawn() -> None:
    names = [NAMES["long"].format(network) for network in NETWORKS[:3]]
    comparison = made(names, 2, lost=names[2:])
    shown = [each.get_text() for each in texts(difference_plot(comparison, "hd95_mm"))]
    joined = " ".join("\n".join(shown).split())
    assert "left of 0: better than nnUNetTrainerPlain, right: worse" in joined
    assert f"end with {SUFFIXES}." in joined.replace("_ ", "_")
    assert "nnUNetTrainerGASA\n- nnUNetTrainerPlain\nn = 5" in shown
    assert shown.count("no finite pair") == 1 and "n = 0 (5 of 5 cases infinite)" in joined
    boxes = [each.get_text() for each in texts(class_plot(comparison, "hd95_mm"))]
    assert boxes.count("n = 5") == 4 and boxes.count("n = 0, 5 infinite") == 2
    assert any("diamond: mean" in text and "whiskers" in text for text in boxes)
    pairs = difference_plot(made(names, 1, "dice", all_pairs=True), "dice")
    assert any("right of 0: the method named first is better" in each.get_text() for each in texts(pairs))


def test_without_any_finite_value_there_is_no_empty_axis() -> None:
    names = NETWORKS[:2]
    comparison = made(names, 2, lost=names)
    differences, classes = difference_plot(comparison, "hd95_mm"), class_plot(comparison, "hd95_mm")
    assert "no finite pair" in [each.get_text() for each in texts(differences)]
    assert "no finite value" in [each.get_text() for each in texts(classes)]
    for figure in (differences, classes):
        assert not figure.axes[0].get_xticks().size
        check_all_is_on_it(figure)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["U-Net_1", "GASA_1"], ["U-Net_1", "GASA_1"]),
        ([f"nnUNetTrainer{n}{SUFFIXES}" for n in "AB"], ["nnUNetTrainerA", "nnUNetTrainerB"]),
        ([f"a/b_c/{MODEL.format(n)}/test_attn" for n in "AB"], ["nnUNetTrainerA", "nnUNetTrainerB"]),
        (["results/of/test_attn_folds_0", "results/of/test_attn_folds_0_softmax"], None),
        (["a_long_beginning_of_a_name_1__P", "a_long_beginning_of_a_name_2__P"], None),
        (["predictions_of_the_network", "more/predictions_of_the_network"], None),
        (["network_of_ten_words_with_seed1", "network_of_ten_words_with_bseed1"], None),
    ],
)
def test_what_all_names_share_is_told_once(names: list[str], expected: list[str] | None) -> None:
    short = list(short_names(names).values())
    assert expected is None or short == expected
    assert all(short) and len(set(short)) == len(names)
    note = shared_note(names)
    assert bool(note) is (short != names)
    for name, own in zip(names, short, strict=True):
        start, _, end = name.partition(own)
        assert (not start or f"begin with {start}" in note) and (not end or f"end with {end}" in note)


@pytest.mark.parametrize(
    "text", ["one two three four", "nnUNetTrainerPlain_100epochs_NoMirroring", "W" * 40, "a\nb", ""]
)
def test_wrapped_text_keeps_every_letter(text: str) -> None:
    broken = wrapped(text, 1.0, 8)
    assert broken.replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")
    assert all(text_width(line, 8) <= 1.0 for line in broken.splitlines())
    assert not any("epo" in line and "epochs" not in line for line in broken.splitlines())
