"""The folder of a comparison: every number is that of the result, and the pictures show the data."""

import csv
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare import Comparison, compare
from nnunet_attn.evaluation.compare_files import MEAN_OVER_CLASSES, check_output, write_comparison
from nnunet_attn.evaluation.compare_plots import class_plot, difference_plot
from nnunet_attn.evaluation.compare_screen import WIDTH, screen_text
from nnunet_attn.evaluation.compare_tables import (
    escaped,
    latex,
    markdown,
    number,
    p_value,
    percent,
    table,
)
from nnunet_attn.evaluation.results import METRICS
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
    table_of_pair = text.split(f"\n{NAMES[2]} - Plain\n")[1]
    (line,) = (line for line in table_of_pair.splitlines() if line.startswith("| HD95 (mm) "))
    assert f" {paired.mean_difference:+.1f} |" in line and f" {paired.n_pairs} ({paired.n_finite}) |" in line
    own = comparison.result("hd95_mm").methods[2]
    assert f" {own.table_mean:.1f} (1 inf) |" in text and "\nsmaller is better: HD95 (mm)\n" in text
    assert "p before Holm, r, what columns mean, plots; -o DIR writes them." in text
    assert screen_text(comparison, written=True).endswith("; the files have them.\n")


def test_tables_fit_the_screen_with_all_metrics_and_long_names() -> None:
    values = {
        label: {metric: [1e5 + index + at / 3 for index in range(25)] for at, metric in enumerate(METRICS)}
        for label in ("a", "b")
    }
    names = [f"nnUNetTrainer{name}_100epochs_NoMirroring_bf16" for name in ("Plain", "FINEWindowTokens", "MedT")]
    text = screen_text(compare({name: [made_evaluation(values)] * 2 for name in names}, n_bootstrap=100))
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert max(map(len, tables)) <= WIDTH <= 120 and "sd of seeds" in text
    assert len(tables) == 2 + 3 * len(METRICS) + 2 * (2 + len(METRICS))


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
    assert [cell.strip() for cell in absent.split("|")[3:9]] == ["–", "–", "0", "0 (0), few", "–", "–"]
    (lost,) = (line for line in text.splitlines() if line.startswith("| lost   | B "))
    assert [cell.strip() for cell in lost.split("|")[5:]] == ["3", "3 (0), few", "–", "–", "–", "1", "0 / 3 / 0", ""]
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
    assert ("(1 of 12 cases infinite)" in " ".join(names[1].split())) is (metric == "hd95_mm")


def test_the_class_plot_has_a_box_for_each_class_and_method(comparison: Comparison) -> None:
    (axes,) = class_plot(comparison, "hd95_mm").axes
    assert len(axes.patches) == 2 * 3
    black = [np.asarray(line.get_xdata()) for line in axes.lines if line.get_color() == "black"]
    medians = [line[0] for line in black if len(line) == 2]
    expected = [
        np.median([value for value in comparison.result("hd95_mm", name).values[method] if math.isfinite(value)])
        for method in NAMES
        for name in comparison.classes
    ]
    assert all(any(median == pytest.approx(value) for median in medians) for value in expected)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["liver", "kidney_left"]
    counts = [text.get_text() for text in axes.texts]
    assert counts == ["n = 12"] * 4 + ["n = 11, 1 infinite", "n = 12"]


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
    write_comparison(replace(comparison, splits=(0,)), out)
    assert (out / "splits.csv").exists()
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


@pytest.mark.parametrize(
    "name", ["cases.csv", "splits.csv", "comparison.md", "plots/classes_dice.png", "comparison.json", "plots"]
)
@pytest.mark.parametrize("is_beside", [False, True])
def test_a_file_that_is_only_called_like_a_comparisons_is_kept(
    comparison: Comparison, tmp_path: Path, name: str, is_beside: bool
) -> None:
    out = tmp_path / "out"
    if is_beside:
        write_comparison(comparison, out)
        if name in ("comparison.json", "plots"):
            return  # the comparison's own
        written = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
        written["files"].remove(name) if name in written["files"] else None
        (out / "comparison.json").write_text(json.dumps(written), encoding="utf-8")
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text('{"mine": 1}')
    with pytest.raises(InputError, match="which is no comparison's; name a new folder"):
        write_comparison(comparison, out)
    assert (out / name).read_text() == '{"mine": 1}'


def test_a_link_stays_one_and_its_folder_is_written_to(comparison: Comparison, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    write_comparison(comparison, link)
    files = write_comparison(comparison, link)
    assert link.is_symlink() and (tmp_path / "real" / "comparison.md").is_file()
    assert files[0].is_relative_to(link) and files == sorted(files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_earlier_one(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_comparison(comparison, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    rename = Path.rename

    def fail_for_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(InputError, match="No space left"):
        write_comparison(comparison, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("action", ["exists", "read"])
def test_an_output_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, {"exists": "exists", "read": "rglob"}[action], refuse)
    with pytest.raises(InputError, match=r"-o .*out cannot be read .*; allow it, or name another folder"):
        check_output(tmp_path / "out")


def drawn_text(figure: Figure) -> str:
    """Return all that is written in a picture, in one line."""
    return " ".join(" ".join(each.get_text() for each in figure.findobj(Text) if isinstance(each, Text)).split())


def test_a_confidence_is_shown_with_all_its_digits() -> None:
    assert [percent(each) for each in (0.95, 0.9, 0.999, 0.999999999, 0.5, 0.1 + 0.2)] == (
        ["95", "90", "99.9", "99.9999999", "50", "30.000000000000004"]
    )
    values = {"organ": {"dice": [0.5, 0.6, 0.7]}}
    found = compare({"A": [made_evaluation(values)], "B": [made_evaluation(values)]}, confidence=0.999999999)
    for text in (markdown(found), screen_text(found), latex(found), drawn_text(difference_plot(found, "dice"))):
        assert "99.9999999" in text and "100 %" not in text and r"100\,\%" not in text


@pytest.mark.parametrize(("metric", "side"), [("dice", "right"), ("hd95_mm", "left")])
def test_the_difference_plot_says_which_side_is_better(comparison: Comparison, metric: str, side: str) -> None:
    assert f"{side} of 0: better" in drawn_text(difference_plot(comparison, metric))


def test_volume_differences_are_called_absolute_where_they_are() -> None:
    values = {"organ": {"volume_difference_mm3": [-1.0, 2.0, 3.0], "relative_volume_difference": [-0.1, 0.2, 0.3]}}
    found = compare({"A": [made_evaluation(values)], "B": [made_evaluation(values)]})
    for metric, title in (
        ("volume_difference_mm3", "Absolute volume difference (mm³)"),
        ("relative_volume_difference", "Absolute relative volume difference"),
    ):
        assert title in drawn_text(class_plot(found, metric))
        assert f"difference in {title},".lower() in drawn_text(difference_plot(found, metric)).lower()
    means, differences = latex(found).split(r"\label{tab:comparison-differences}")
    assert r"& Volume difference (mm\textsuperscript{3})" in means
    assert r"Absolute volume difference (mm\textsuperscript{3}) & B" in differences
    for text, count in ((markdown(found), 2), (screen_text(found), 1)):
        assert text.count("the table mean keeps the sign, all else is of absolute values") == count
    assert "absolute" not in markdown(compare({name: [random_evaluation(0, 1)] for name in "AB"}))


def test_the_latex_caption_tells_cases_from_their_results_in_repeated_splits(comparison: Comparison) -> None:
    assert f"Means over {CASES} cases, then over classes" in latex(comparison)
    made = made_evaluation({"organ": {"dice": [0.5, 0.7, 0.6, 0.8]}}, [0, 0, 1, 1], ["x", "y", "y", "z"])
    text = latex(compare({"A": [made], "B": [made]}))
    assert "Means over the 4 test results of 3 cases in 2 splits, then over classes" in text


def test_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is the current folder"):
        check_output(Path())
