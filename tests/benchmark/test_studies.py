"""What a study found, kept as JSON and shown on a page: the same figures as in its report."""

import json
from pathlib import Path

import pytest

from nnunet_attn.benchmark.pages import pages
from nnunet_attn.benchmark.studies import found_by, main
from nnunet_attn.errors import InputError
from tests.made.report import made_report


def test_figures_are_those_of_the_comparison(tmp_path: Path) -> None:
    data = made_report(folds=2, epochs=5)
    found = found_by(data)
    (group,) = [each for each in found["groups"] if each["title"] == data.groups[0].group.title]
    table = data.groups[0].table("dice")
    assert table is not None
    assert [row["row"] for row in group["metrics"]["dice"]] == [row.row for row in table.rows]
    for kept, row in zip(group["metrics"]["dice"], table.rows, strict=True):
        assert kept["mean"] == row.result.table_mean
        if row.difference is not None:
            assert kept["mean_difference"] == row.difference.paired.mean_difference
            assert kept["wilcoxon_p_holm"] == row.difference.wilcoxon_p_holm
    assert len(found["unfair"]) == len(data.unfair)
    json.dumps(found, allow_nan=False)  # NaN is gone


def test_a_page_is_made_of_it(tmp_path: Path) -> None:
    data = made_report(folds=2, epochs=5)
    provenance = {
        "date_utc": "2026-01-02T00:00:00",
        "hardware": {"cpu": "A CPU", "cpu_cores": 3, "gpu": None},
        "versions": dict.fromkeys(("torch", "nnunetv2", "nnunet_attn"), "9.8"),
        "command": "python made",
    }
    result = {**found_by(data), "note": "Said by hand.", "device": "cpu", "provenance": provenance}
    (tmp_path / "studies-made.json").write_text(json.dumps(result))
    page = pages(tmp_path)["studies.md"]
    table = data.groups[0].table("dice")
    assert table is not None
    for row in table.rows:
        assert f"| {row.row} | {row.result.table_mean:.4f} |" in page
    assert "[studies-made.html](studies-made.html). Said by hand." in page
    assert "A CPU, 3 cores" in page and "What can change who wins" in page


def test_nothing_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="nothing can be compared yet"):
        found_by(made_report(folds=2, epochs=5, compared=False))
    assert main([str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml does not exist" in capsys.readouterr().err
