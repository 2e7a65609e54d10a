"""The files of a report: all formats have the figures of the comparison."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_attn.cli import main
from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare_tables import number
from nnunet_attn.study.report.write import FILES, write_report
from tests.made.report import CLASSES, NAMES, made_report
from tests.made.results import DATASET, model_folder, write_results


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "report"
    data = made_report(folds=2, epochs=5)
    files = write_report(data, folder)
    return data, folder, files


def test_every_file_is_there_and_nothing_else(written):
    _, folder, files = written
    assert [file.name for file in files] == list(FILES)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_all_formats_have_the_figures_of_the_comparison(written):
    data, folder, _ = written
    comparison = data.groups[0].comparison
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.md", "tables.tex")}
    table = rows(folder / "results.csv")
    for metric, places in (("dice", 4), ("nsd", 4), ("hd95_mm", 2)):
        result = comparison.result(metric)
        for each in result.methods:
            for text in texts.values():
                assert number(each.table_mean, places) in text
            (own,) = (
                row
                for row in table
                if (row["metric"], row["class"], row["method"]) == (metric, "(mean over classes)", each.method)
            )
            assert float(own["table_mean"]) == each.table_mean and float(own["tested_sd"]) == each.sd
        for each in result.differences:
            for text in texts.values():
                assert number(each.paired.mean_difference, places, sign=True) in text
            (own,) = (
                row
                for row in table
                if (row["metric"], row["class"], row["method"]) == (metric, "(mean over classes)", each.method)
            )
            assert float(own["mean_difference"]) == each.paired.mean_difference
            assert float(own["wilcoxon_p_holm"]) == each.wilcoxon_p_holm


def test_cases_csv_has_every_value(written):
    data, folder, _ = written
    comparison = data.groups[0].comparison
    table = rows(folder / "cases.csv")
    assert len(table) == len(comparison.metrics) * (1 + len(CLASSES)) * len(comparison.keys)
    own = [row for row in table if row["metric"] == "hd95_mm" and row["class"] == CLASSES[0]]
    assert {row["group"] for row in own} == {data.groups[0].group.name}
    values = comparison.result("hd95_mm", CLASSES[0]).values
    for name in NAMES:
        assert [float(row[name]) for row in own] == list(values[name])
    assert math.isinf(float(own[0][NAMES[2]]))


def test_costs_curves_and_trainings_have_what_is_known(written):
    data, folder, _ = written
    costs = rows(folder / "costs.csv")
    assert costs[0]["parameters"] == "31195784" and costs[2]["parameters"] == ""
    assert costs[0]["input_shape"] == "1 1 128 128 128"
    curves = rows(folder / "curves.csv")
    assert len(curves) == 5 * len(data.runs)
    assert float(curves[3]["train_loss"]) == data.runs[0].epochs[3].train_loss
    trainings = rows(folder / "trainings.csv")
    assert len(trainings) == len(data.runs)
    assert trainings[0]["kind"] == "done" and trainings[0]["used_device"] == "NVIDIA H100 80GB HBM3"


def test_markdown_has_the_sections_of_the_page(written):
    _, folder, _ = written
    text = (folder / "report.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, flags=re.M)
    assert headings[:3] == ["Question and setup", "Result", "What makes the comparison unfair"]
    assert "# Comparison" not in text and "#### All of the comparison" in text
    assert "```text\n# made\ndatasets: [910]" in text


def test_latex_is_balanced_and_has_labels_of_its_own(written):
    _, folder, _ = written
    text = (folder / "tables.tex").read_text(encoding="utf-8")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    assert len(set(labels)) == len(labels) == 3
    unescaped = re.sub(r"\\.", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    for line in re.findall(r"^(?!\\|%).*\\\\$", text, flags=re.M):
        assert not re.search(r"(?<!\\)[%#]|(?<!\\)(?<!\$p)(?<!\$d)_", line), line


def test_an_older_report_is_replaced_and_what_is_gone_is_gone(tmp_path):
    folder = tmp_path / "report"
    write_report(made_report(NAMES[:2], 2, (0,), 6, 3), folder)
    (folder / "mine.txt").write_text("kept", encoding="utf-8")
    files = write_report(made_report(NAMES[:2], 2, (0,), 6, 3, compared=False, finished=False, labels=False), folder)
    assert "results.csv" not in [file.name for file in files]
    assert not (folder / "results.csv").exists() and (folder / "mine.txt").exists()
    assert "Nothing can be compared here yet" in (folder / "report.html").read_text(encoding="utf-8")


def test_two_groups_share_the_files(tmp_path):
    data = made_report(NAMES, 2, (0,), 6, 3)
    other = made_report(NAMES[:2], 2, (0,), 6, 3).groups[0]
    other = replace(other, group=replace(other.group, name="other", test=True))
    write_report(replace(data, groups=(data.groups[0], other)), tmp_path / "report")
    table = rows(tmp_path / "report" / "cases.csv")
    assert {row["group"] for row in table} == {data.groups[0].group.name, "other"}
    assert {row[NAMES[2]] for row in table if row["group"] == "other"} == {""}
    text = (tmp_path / "report" / "tables.tex").read_text(encoding="utf-8")
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    assert len(set(labels)) == len(labels) == 5


@pytest.mark.parametrize("name", ["study/report", "study"])
def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, name):
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is a file; name a folder"):
        write_report(made_report(NAMES[:2], cases=6, epochs=3, folds=2), tmp_path / "study" / "report")
    assert place.read_text(encoding="utf-8") == "mine"


@pytest.mark.slow  # networks are built to count their parameters
def test_the_command_writes_a_report_from_files_alone(tmp_path, monkeypatch, capsys):
    trainers = {"nnUNetTrainerPlain": 1.0, "nnUNetTrainerGASA": 2.0}
    for name, value in write_results(tmp_path, trainers, cases=10).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    lines = ["datasets: [910]", "trainers:", *(f"  - {name}" for name in trainers), "metrics: [dice, nsd]"]
    Path("study.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["study", "report"]) == 0
    folder = tmp_path / "study_results" / "report"
    assert f"report: {folder / 'report.html'}" in capsys.readouterr().out
    own = {row["method"]: row for row in rows(folder / "results.csv") if row["class"] == "(mean over classes)"}
    for name in trainers:
        summaries = [
            json.loads((model_folder(tmp_path, name) / f"fold_{fold}" / "validation" / "summary.json").read_text())
            for fold in range(5)
        ]
        # all folds have the same number of cases, and every class is in each
        mean = sum(each["foreground_mean"]["Dice"] for each in summaries) / 5
        dice = [row for row in rows(folder / "results.csv") if (row["metric"], row["method"]) == ("dice", name)]
        assert float(dice[0]["table_mean"]) == pytest.approx(mean, abs=1e-6)
        assert number(mean, 4) in (folder / "report.html").read_text(encoding="utf-8")
    assert set(own) == set(trainers)
    assert DATASET in (folder / "report.md").read_text(encoding="utf-8")


def test_the_command_refuses_a_file_in_the_place_of_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text("datasets: [910]\ntrainers: nnUNetTrainerPlain\n", encoding="utf-8")
    Path("study_results").write_text("mine", encoding="utf-8")
    assert main(["study", "report"]) == 2
    assert "is a file; name a folder: -o" in capsys.readouterr().err
    assert main(["study", "report", "-np", "0"]) == 2
