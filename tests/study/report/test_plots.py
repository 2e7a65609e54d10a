"""Plots within a page: every id is its own, every colour the page's, and what is drawn is what was measured."""

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from nnunet_attn.evaluation.compare_plots import difference_plot
from nnunet_attn.study.report.pictures import case_svg, pick_text, pick_title
from nnunet_attn.study.report.plots import Look, curves_svg, differences_svg, labels_svg
from nnunet_attn.study.report.svg import inline_svg
from tests.made.report import NAMES, made_comparison, made_pick, made_report

LOOKS = {name: Look(at) for at, name in enumerate(NAMES)}


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter("text")]


def ids(svg: str) -> list[str]:
    return re.findall(r' id="([^"]+)"', svg)


def test_differences_show_each_case_in_the_colour_of_its_method():
    comparison = made_comparison()
    svg = differences_svg(comparison, "dice", LOOKS, "first")
    result = comparison.result("dice")
    titles = re.findall(r"<title>([^<]*)</title>", svg)
    fold, case = comparison.keys[3]
    own = result.tested[NAMES[1]][3] - result.tested[NAMES[0]][3]
    assert f"{case} (fold {fold}): {own:+.4f}" in titles
    assert len(titles) == 2 * 25
    assert "var(--c1)" in svg and "var(--c2)" in svg


def test_infinite_values_have_no_point():
    comparison = made_comparison()
    svg = differences_svg(comparison, "hd95_mm", LOOKS, "x")
    assert len(re.findall("<title>", svg)) == 25 + 24
    assert "(1 of 25 cases infinite)" in " ".join(texts(svg))


def test_the_same_plot_twice_has_no_id_twice():
    comparison = made_comparison()
    one, two = (differences_svg(comparison, "dice", LOOKS, name) for name in ("a", "b"))
    assert ids(one) and not set(ids(one)) & set(ids(two))
    for svg in (one, two):
        assert len(set(ids(svg))) == len(ids(svg))
        referred = re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", svg)
        assert {a or b for a, b in referred} <= set(ids(svg))


def test_the_same_plot_is_the_same_text():
    comparison = made_comparison()
    assert differences_svg(comparison, "dice", LOOKS, "a") == differences_svg(comparison, "dice", LOOKS, "a")


@pytest.mark.parametrize("draw", ["differences", "curves", "labels"])
def test_no_colour_is_fixed_and_no_style_is_the_page_s(draw):
    data = made_report()
    svg = {
        "differences": lambda: differences_svg(made_comparison(), "nsd", LOOKS, "a"),
        "curves": lambda: curves_svg(data.runs, LOOKS, "a"),
        "labels": lambda: labels_svg(data.label_curves, LOOKS, "a"),
    }[draw]()
    assert svg is not None
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", svg)
    assert "<style" not in svg and "<!DOCTYPE" not in svg and "font-family" not in svg
    assert 'role="img"' in svg and "aria-label=" in svg


def test_each_line_of_a_text_is_placed_by_itself():
    plain = difference_plot(made_comparison(), "dice")
    svg = inline_svg(plain, "a", "differences")
    assert "- Plain U-Net" in texts(svg) and "n = 25" in texts(svg)
    anchors = {
        each.text: re.search(r"text-anchor: (\w+)", each.attrib["style"])
        for each in ElementTree.fromstring(svg).iter("text")
    }
    found = anchors["- Plain U-Net"]
    assert found is not None and found[1] == "end"


def test_names_are_escaped():
    svg = differences_svg(made_comparison(), "dice", LOOKS, "a")
    assert "<narrow>" not in svg and "&lt;narrow&gt;" in svg


def test_curves_have_one_line_a_training():
    data = made_report()
    svg = curves_svg(data.runs, LOOKS, "curves")
    assert svg is not None
    titles = re.findall(r"<title>([^<]*)</title>", svg)
    assert len(titles) == 3 * len(data.runs)
    assert titles[0] == "Plain U-Net, fold 0, seed 0"


def test_curves_of_what_has_not_begun_are_left_out():
    data = made_report(finished=False)
    svg = curves_svg(data.runs[-2:], LOOKS, "curves")
    assert svg is not None and len(re.findall("<title>", svg)) == 3
    assert curves_svg(data.runs[-1:], LOOKS, "curves") is None
    assert labels_svg((), LOOKS, "labels") is None


def test_a_loss_that_is_not_a_number_or_one_epoch_can_be_drawn():
    run = made_report(epochs=4).runs[0]
    broken = replace(run, epochs=tuple(replace(each, train_loss=math.nan) for each in run.epochs))
    for each in (broken, replace(run, epochs=run.epochs[:1])):
        svg = curves_svg([each], LOOKS, "curves")
        assert svg is not None and "epoch" in texts(svg)


def test_long_trainings_are_thinned():
    run = made_report(epochs=3000, folds=1, seeds=(0,)).runs[0]
    svg = curves_svg([run], LOOKS, "curves")
    assert svg is not None and len(svg) < 60_000


def test_the_ninth_method_has_dashes():
    assert Look(8).variable == Look(0).variable and Look(8).dash_array != Look(0).dash_array == "none"


def test_labels_have_bars_and_every_number():
    data = made_report()
    svg = labels_svg(data.label_curves, LOOKS, "labels")
    assert svg is not None
    assert {"5", "10", "20", "176", "labelled cases", "Dice of the validation cases"} <= set(texts(svg))
    of_test = labels_svg([replace(curve, test=True) for curve in data.label_curves], LOOKS, "labels")
    assert of_test is not None and "Dice of the test cases" in texts(of_test)


def test_a_case_is_shown_with_small_pictures(tmp_path):
    pick = made_pick(tmp_path)
    svg, why = case_svg(pick, "case")
    assert svg is not None and not why
    assert {"image", "reference", "Plain U-Net", "GASA-UNet"} <= set(texts(svg))
    assert "data:image/jpeg;base64," in svg and len(svg) < 400_000
    assert len(set(ids(svg))) == len(ids(svg))
    assert pick_title(pick) == "Worst: case_000, fold 0"
    assert pick_text(pick).startswith("Dice: Plain U-Net 0.7100, GASA-UNet 0.7200")


def test_a_case_that_cannot_be_shown_says_why(tmp_path):
    pick = made_pick(tmp_path)
    assert case_svg(replace(pick, images=()), "a") == (None, "Its image is not there.")
    assert case_svg(replace(pick, predictions={}), "a") == (None, "No method has predicted it yet.")
    pick.reference.unlink()
    svg, why = case_svg(pick, "a")
    assert svg is None and str(pick.reference) in why


def test_texts_of_a_picture_follow_the_page_and_its_colours_do_not():
    figure = Figure(figsize=(2, 2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.plot([0, 1], [0, 1], color="#ffffff")
    axes.text(0.5, 0.5, "word", color="0.3")
    svg = inline_svg(figure, "a", "a picture", is_picture=True)
    assert "stroke: #ffffff" in svg and "fill: var(--muted)" in svg
