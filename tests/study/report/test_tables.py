"""Tables of a report: their figures are the comparison's, in HTML, Markdown and LaTeX alike."""

import math
import re
from dataclasses import replace

import pytest

from nnunet_attn.evaluation.compare_tables import TITLES, interval, metric_decimals, number, p_value
from nnunet_attn.evaluation.statistics import compare_paired
from nnunet_attn.study.report.fact_tables import costs_table, labels_table, methods_table, runs_table, scaled
from nnunet_attn.study.report.tables import (
    Cell,
    Column,
    Table,
    case_metrics,
    cases_table,
    classes_table,
    mean_interval,
    overview_table,
    verdict_table,
)
from nnunet_attn.study.state import RunState
from tests.made.report import NAMES, made_comparison, made_report


def column(table: Table, title: str) -> list[str]:
    (at,) = (at for at, each in enumerate(table.columns) if each.title == title)
    return [row[at].text for row in table.rows]


@pytest.fixture(scope="module")
def comparison():
    return made_comparison(seeds=(0, 1))


def test_a_verdict_has_the_figures_of_the_comparison(comparison):
    for metric in comparison.metrics:
        table, result, places = verdict_table(comparison, metric), comparison.result(metric), metric_decimals(metric, 4)
        assert column(table, "method") == [each.method for each in result.methods]
        assert column(table, "mean") == [number(each.table_mean, places) for each in result.methods]
        assert column(table, "case mean") == [number(each.mean, places) for each in result.methods]
        assert column(table, "sd") == [number(each.sd, places) for each in result.methods]
        assert column(table, "sd of seeds") == [number(each.seeds_sd, places) for each in result.methods]
        assert column(table, "mean rank") == [number(each.mean_rank, 2) for each in result.methods]
        means = [number(each.paired.mean_difference, places, sign=True) for each in result.differences]
        assert column(table, "difference") == ["", *means]
        assert column(table, "its 95 % interval") == ["", *(interval(each, places) for each in result.differences)]
        adjusted = [p_value(each.wilcoxon_p_holm) for each in result.differences]
        assert column(table, "p Wilcoxon, Holm") == ["", *adjusted]
        assert table.reference == {0}


def test_the_interval_of_a_mean_is_the_paired_bootstrap_against_zero(comparison):
    values = comparison.result("dice").tested[NAMES[1]]
    told = compare_paired(values, [0.0] * len(values), n_bootstrap=comparison.n_bootstrap, seed=comparison.seed)
    low, high = mean_interval(comparison, "dice", NAMES[1])
    assert (low, high) == pytest.approx((told.ci_low, told.ci_high), abs=1e-9)
    assert low < comparison.result("dice").methods[1].mean < high


def test_infinite_distances_are_counted_beside_the_mean(comparison):
    table = verdict_table(comparison, "hd95_mm")
    assert column(table, "infinite") == ["0", "0", "1"]
    assert "infinite" not in [each.title for each in verdict_table(comparison, "dice").columns]
    assert column(classes_table(comparison, "hd95_mm"), "values")[2] == "24 (+ 1 inf)"


def test_the_best_mean_is_bold_by_the_direction_of_the_metric(comparison):
    table = overview_table(comparison)
    best = {
        column.title: [row[0].text for row in table.rows if row[at].is_best] for at, column in enumerate(table.columns)
    }
    assert best["Dice ↑"] == best["HD95 (mm) ↓"] == [NAMES[1]]
    nearest = min(comparison.result("volume_difference_mm3").methods, key=lambda each: abs(each.table_mean))
    assert best["Volume difference (mm³) "] == [nearest.method]


def test_a_table_of_cases_has_every_case_and_value(comparison):
    table = cases_table(comparison, "dice")
    assert column(table, "case") == [case for _, case in comparison.keys]
    for name in NAMES:
        assert column(table, name) == [number(value, 4) for value in comparison.result("dice").values[name]]
    assert case_metrics(comparison) == ("dice", "nsd")
    two = cases_table(made_comparison(NAMES[:2]), "dice")
    assert column(two, "difference")[0][0] in "+-"


def test_a_table_of_classes_has_each_class_and_method(comparison):
    table = classes_table(comparison, "dice")
    expected = [number(m.table_mean, 4) for name in comparison.classes for m in comparison.result("dice", name).methods]
    assert column(table, "mean") == expected
    assert table.reference == {0, 3, 6}


def test_markdown_and_latex_say_the_same_and_escape(comparison):
    table = verdict_table(comparison, "dice")
    lines = table.markdown().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [row[1] for row in rows[2:]] == column(table, "mean")
    latex = table.latex("tab:dice")
    bodies = re.findall(r"^(.*) \\\\$", latex, flags=re.M)
    assert [body.count(" & ") for body in bodies] == [len(table.columns) - 1] * 4
    assert r"MedT <narrow> \& 20\% of" in bodies[3] and column(table, "mean")[2] in bodies[3]
    assert r"\toprule" in latex and r"\label{tab:dice}" in latex


def test_a_pipe_in_a_name_does_not_break_markdown():
    table = Table("t", (Column("a", is_text=True), Column("b")), ((Cell("x|y"), Cell("1")),))
    assert r"x\|y" in table.markdown()


def test_costs_tell_estimates_and_what_is_unknown():
    data = made_report()
    table = costs_table(data.costs)
    memory = next(at for at, each in enumerate(table.columns) if each.title == "peak memory")
    assert [row[memory].tag for row in table.rows] == ["", "estimate", ""]
    assert column(table, "parameters") == ["31.2 M", "32.2 M", "–"]
    assert column(table, "device hours") == ["31.4", "at least 31.4", "–"]
    assert "the network needs CUDA" in table.note and "were not measured" in table.note
    assert "configuration" not in [each.title for each in table.columns]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (999, "999"),
        (999_600, "1.00 M"),
        (31_195_784, "31.2 M"),
        (123.4e9, "123 G"),
        (2e15, "2000 T"),
    ],
)
def test_large_numbers_keep_three_digits(value, text):
    assert scaled(value) == text


def test_a_training_that_is_not_done_has_no_dice():
    data = made_report(finished=False)
    table = runs_table(data.runs)
    assert column(table, "state")[-2:] == ["failed", "waiting"]
    assert column(table, "mean Dice")[-2:] == ["", ""] and column(table, "mean Dice")[0] == "0.8000"
    assert column(table, "epochs")[-2:] == ["12 of 60", "? of ?"]
    moving = replace(data.runs[0], state=RunState("running", 5, 60, dice=0.7))
    assert column(runs_table([moving]), "epochs") == ["5 of 60"]
    assert "mean Dice" not in [each.title for each in runs_table([moving]).columns]


def test_columns_that_nothing_stands_in_are_left_out():
    titles = [each.title for each in methods_table(made_report()).columns]
    assert "pre-training" not in titles and "optimiser" in titles


def test_dice_against_labels_has_each_point():
    data = made_report()
    table = labels_table(data.label_curves)
    assert len(table.rows) == 12
    assert column(table, "mean Dice")[0] == number(data.label_curves[0].points[0].mean, 4)
    assert "of the validation cases" in table.note and "over folds and seeds" in table.note
    of_test = labels_table([replace(curve, test=True) for curve in data.label_curves])
    assert "of the test cases" in of_test.note and "validation" not in of_test.note


def test_titles_are_those_of_compare(comparison):
    assert [each.title.split(" ↑")[0].split(" ↓")[0].strip() for each in overview_table(comparison).columns[1:]] == [
        TITLES[metric] for metric in comparison.metrics
    ]
    assert not math.isnan(comparison.result("dice").methods[0].table_mean)
