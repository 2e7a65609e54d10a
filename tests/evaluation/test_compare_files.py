"""The folder of a comparison: every number is that of the result, and the pictures show the data."""

import csv
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare import Comparison, compare
from nnunet_attn.evaluation.compare_files import MEAN_OVER_CLASSES, check_output, write_comparison
from nnunet_attn.evaluation.compare_plots import class_plot, difference_plot
from nnunet_attn.evaluation.compare_tables import escaped, latex, markdown, number, p_value, screen_text, table
from tests.made.evaluations import made_evaluation, random_evaluation

NAMES = ("Plain", "GASA_bf16 & co | 100%", "Bad_$1")
CASES = 12


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """Three methods, the second of two seeds, the third with an infinite distance in its first case."""
    seeds = [random_evaluation(0.02, seed, CASES, origin={"trainer": f"T_seed{seed}"}) for seed in (2, 3)]
    plain, bad = random_evaluation(0, 1, CASES), random_evaluation(-0.1, 4, CASES)
    return compare(dict(zip(NAMES, ([plain], seeds, [bad]), strict=True)), n_bootstrap=200)


@pytest.fixture(scope="module")
def folder(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("compare") / "new" / "out"
    files = write_comparison(comparison, written)
    assert files == sorted(path for path in written.rglob("*") if path.is_file())
    return written


def test_the_folder_is_complete_and_nothing_else_is_left(folder: Path) -> None:
    plots = {
        f"plots/{kind}_{m}.{e}" for kind in ("differences", "classes") for m in ("dice", "hd95_mm") for e in ENDINGS
    }
    texts = {"comparison.md", "comparison.tex", "comparison.csv", "comparison.json", "cases.csv"}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == plots | texts
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


ENDINGS = ("png", "svg")


def test_the_csv_has_one_row_for_each_metric_class_and_method(folder: Path, comparison: Comparison) -> None:
    rows = list(csv.DictReader((folder / "comparison.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 2 * 3 * 3
    for row in rows:
        name = None if row["class"] == MEAN_OVER_CLASSES else row["class"]
        result = comparison.result(row["metric"], name)
        (method,) = (each for each in result.methods if each.method == row["method"])
        assert float(row["table_mean"]) == method.table_mean and int(row["n_infinite"]) == method.n_infinite
        if row["method"] == "Plain":
            assert row["against"] == row["t_p"] == row["seeds_sd"] == ""
        else:
            (difference,) = (each for each in result.differences if each.method == row["method"])
            assert row["against"] == "Plain"
            assert float(row["mean_difference"]) == difference.paired.mean_difference
            assert float(row["wilcoxon_p_holm"]) == difference.wilcoxon_p_holm
            assert int(row["n_finite_pairs"]) == difference.paired.n_finite


def test_the_paired_values_give_the_means_again(folder: Path, comparison: Comparison) -> None:
    values = pd.read_csv(folder / "cases.csv")
    assert len(values) == 2 * 3 * CASES and list(values.columns[:4]) == ["metric", "class", "fold", "case"]
    own = values[(values["metric"] == "hd95_mm") & (values["class"] == MEAN_OVER_CLASSES)]
    assert list(zip(own["fold"], own["case"], strict=True)) == list(comparison.keys)
    difference = np.asarray(own[NAMES[2]]) - np.asarray(own["Plain"])
    assert np.isinf(difference).sum() == 1
    paired = comparison.result("hd95_mm").differences[1].paired
    assert difference[np.isfinite(difference)].mean() == pytest.approx(paired.mean_difference)


def test_the_json_holds_all_statistics(folder: Path, comparison: Comparison) -> None:
    content = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert [method["name"] for method in content["methods"]] == list(NAMES)
    assert content["methods"][1]["origins"][1]["trainer"] == "T_seed3"
    assert content["provenance"]["versions"].keys() >= {"nnunet_attn", "scipy", "statsmodels"}
    first = content["results"][0]
    expected = comparison.result("dice").differences[0]
    assert first["differences"][0]["paired"]["ci_low"] == expected.paired.ci_low
    assert first["methods"][0]["seeds_sd"] is None and "values" not in first


def test_markdown_tables_are_whole_and_right(comparison: Comparison) -> None:
    text = markdown(comparison)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    result = comparison.result("dice")
    gasa, paired = result.methods[1], result.differences[0].paired
    line = next(
        line for line in text.splitlines() if line.startswith(r"| GASA_bf16 & co \| 100% ") and "25" not in line
    )
    assert "T_seed2" in line  # the list of methods comes first
    assert f" {gasa.table_mean:.4f} |" in text and f" {gasa.seeds_sd:.4f} |" in text
    assert f"{paired.ci_low:+.4f} to {paired.ci_high:+.4f}" in text
    assert f" {paired.wins} / {paired.ties} / {paired.losses} |" in text
    assert "12 pairs are fewer than 20" in text and "mean over the classes present" in text
    assert "as nnU-Net's `foreground_mean`" in text and "tolerance of NSD in mm: liver 1, kidney_left 1" in text
    assert f"rank alike: p {'<0.0001' if result.friedman_p < 1e-4 else f'= {result.friedman_p:.3g}'}." in text


def test_the_screen_has_the_same_figures(comparison: Comparison) -> None:
    text = screen_text(comparison, decimals=3)
    paired = comparison.result("hd95_mm").differences[1].paired
    assert f"{paired.mean_difference:+.1f}" in text and "HD95 (mm) (smaller is better)" in text
    assert max(map(len, text.splitlines())) < 200


def test_left_out_cases_and_repeated_splits_are_in_the_files(tmp_path: Path) -> None:
    folds, cases = [0, 0, 1, 1, 2], ["x", "y", "y", "z", "x"]
    a = made_evaluation({"organ": {"dice": [0.5, 0.7, 0.6, 0.8, 0.4]}}, folds, cases)
    b = made_evaluation({"organ": {"dice": [0.6, 0.8, 0.6, 0.9, 0.9]}}, [*folds[:4], 3], cases)
    found = compare({"A": [a], "B": [b]}, common=True)
    write_comparison(found, tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "- A: x (fold 2)\n" in text and "- B: x (fold 3)\n" in text
    splits = pd.read_csv(tmp_path / "out" / "splits.csv")
    own = splits[splits["class"] == MEAN_OVER_CLASSES]
    assert own["fold"].tolist() == [0, 1] and own["A"].tolist() == pytest.approx([0.6, 0.7])
    assert "split mean" in text and "paired over the means of 2 splits (4 values in all)" in text


def test_a_class_without_any_value_is_written_and_drawn(tmp_path: Path) -> None:
    nothing, infinite = [math.nan] * 3, [math.inf] * 3
    values = {"organ": {"hd95_mm": [1.0, 2.0, 4.0]}, "absent": {"hd95_mm": nothing}, "lost": {"hd95_mm": infinite}}
    found = compare({"A": [made_evaluation(values)], "B": [made_evaluation(values)]})
    write_comparison(found, tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    (absent,) = (line for line in text.splitlines() if line.startswith("| absent | B "))
    assert [cell.strip() for cell in absent.split("|")[3:9]] == ["–", "–", "0", "0 (0)", "–", "–"]
    (lost,) = (line for line in text.splitlines() if line.startswith("| lost   | B "))
    assert [cell.strip() for cell in lost.split("|")[5:]] == ["3", "3 (0)", "–", "–", "–", "1", "0 / 3 / 0", ""]
    assert "& -- & -- & --" in (tmp_path / "out" / "comparison.tex").read_text(encoding="utf-8")


def test_latex_is_balanced_escaped_and_has_as_many_cells_as_columns(comparison: Comparison) -> None:
    text = latex(comparison)
    assert r"GASA\_bf16 \& co | 100\%" in text and r"Bad\_\$1" in text
    begun = re.findall(r"\\begin\{(\w+)\}", text)
    assert sorted(begun) == sorted(re.findall(r"\\end\{(\w+)\}", text)) == ["table", "table", "tabular", "tabular"]
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        rules = [line for line in body.splitlines() if not line.endswith(r"\\")]
        assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
    plain = re.sub(r"\\[$%&#_{}]", "", "\n".join(text.splitlines()[1:]))  # the first line is a comment
    assert plain.count("$") % 2 == 0 and plain.count("{") == plain.count("}")
    assert not re.search(r"[%#]", plain)
    outside = re.sub(r"\$[^$]*\$", "", plain)
    assert not re.search(r"[_^<>~–]", outside)
    gasa = comparison.result("dice").methods[1]
    assert rf"{gasa.table_mean:.4f} $\pm$ {gasa.seeds_sd:.4f}" in text


def test_texts() -> None:
    assert escaped(r"a\b{c}_~^#") == r"a\textbackslash{}b\{c\}\_\textasciitilde{}\textasciicircum{}\#"
    assert [number(value, 2, sign=True) for value in (0.001, -0.001, 1, math.nan, math.inf)] == NUMBERS
    assert [p_value(p) for p in (0.00009, 0.0001234, 0.5, 1, math.nan)] == ["<0.0001", "0.000123", "0.5", "1", "–"]
    assert table(["a", "b"], [["x|y", "1"], ["z", "22"]]).splitlines() == [
        r"| a    |   b |",
        r"| ---- | --: |",
        r"| x\|y |   1 |",
        r"| z    |  22 |",
    ]


NUMBERS = ["0.00", "0.00", "+1.00", "–", "inf"]


@pytest.mark.parametrize("metric", ["dice", "hd95_mm"])
def test_the_difference_plot_has_a_point_for_each_finite_pair(comparison: Comparison, metric: str) -> None:
    figure = difference_plot(comparison, metric)
    (axes,) = figure.axes
    points = [np.asarray(each.get_offsets()) for each in axes.collections if isinstance(each, PathCollection)]
    result = comparison.result(metric)
    assert [len(each) for each in points] == [each.paired.n_finite for each in result.differences]
    for drawn, difference in zip(points, result.differences, strict=True):
        assert drawn[:, 0].mean() == pytest.approx(difference.paired.mean_difference)
    lines = [np.asarray(line.get_xdata()) for line in axes.lines[1:]]
    intervals = [list(line) for line in lines if len(line) == 2]
    assert intervals == [[each.paired.ci_low, each.paired.ci_high] for each in result.differences]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert ("(1 of 12 cases infinite)" in names[1]) is (metric == "hd95_mm")


def test_the_class_plot_has_a_box_for_each_class_and_method(comparison: Comparison) -> None:
    (axes,) = class_plot(comparison, "hd95_mm").axes
    assert len(axes.patches) == 2 * 3
    black = [np.asarray(line.get_ydata()) for line in axes.lines if line.get_color() == "black"]
    medians = [line[0] for line in black if len(line) == 2]
    expected = [
        np.median([value for value in comparison.result("hd95_mm", name).values[method] if math.isfinite(value)])
        for method in NAMES
        for name in comparison.classes
    ]
    assert all(any(median == pytest.approx(value) for median in medians) for value in expected)
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["liver\n(1 infinite)", "kidney_left"]


def test_plots_are_pictures_with_names_and_leave_the_callers_settings_alone(folder: Path) -> None:
    for file in (folder / "plots").iterdir():
        if file.suffix == ".svg":
            texts = "".join(ET.parse(file).getroot().itertext())
            assert "Plain" in texts and "Bad_$1" in texts
        else:
            assert file.read_bytes().startswith(b"\x89PNG")
    assert matplotlib.rcParams["svg.fonttype"] == matplotlib.rcParamsDefault["svg.fonttype"]


def test_an_earlier_comparison_is_replaced_and_anything_else_refused(comparison: Comparison, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_comparison(comparison, out)
    (out / "splits.csv").write_text("of another comparison")
    write_comparison(comparison, out)
    assert not (out / "splits.csv").exists() and (out / "comparison.md").is_file()
    (out / "plots" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds plots/mine\.txt, which is no comparison's; name a new folder"):
        write_comparison(comparison, out)
    assert (out / "plots" / "mine.txt").read_text() == "mine"
    with pytest.raises(InputError, match="is a file"):
        check_output(out / "comparison.md")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_after_an_error_the_earlier_one_is_still_there(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_comparison(comparison, out)
    before = (out / "comparison.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nnunet_attn.evaluation.compare_files.draw_plots", full)
    with pytest.raises(InputError, match=r"cannot write .*out \(No space left on device\)"):
        write_comparison(comparison, out)
    assert (out / "comparison.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is the current folder"):
        check_output(Path())
