"""The tutorial on studies, run as it is written."""

import csv
import json
import os
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from statistics import fmean

import pytest

from nnunet_attn.evaluation.compare_files import MEAN_OVER_CLASSES
from tests.made.pages import run_page
from tests.made.workers import one_import

pytest.importorskip("snakemake", reason="Snakemake needs Python 3.11 and the extra benchmark")


@pytest.mark.slow
def test_the_tutorial_runs_as_written(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": one_import(), "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "200"}
    printed = run_page("docs/tutorials/first-study.md", tmp_path, environment)
    assert "Traceback" not in printed
    folds = sorted(tmp_path.glob("nnunet/results/Dataset043_Study/*__2d/fold_[01]"))
    assert len(folds) == 6  # three rows on two folds
    # of the row that was added alone anything was trained after the first report
    logs = [len(list(fold.glob("training_log_*.txt"))) for fold in folds]
    assert logs == [1] * 6
    report = tmp_path / "small_results" / "report"
    assert "GASA without positions" in (report / "report.html").read_text(encoding="utf-8")
    # the table's means are those of nnU-Net's own summaries: two folds of as many cases
    with (report / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, network in (("plain", "nnUNetTrainerPlain_"), ("GASA", "nnUNetTrainerGASA_")):
        found = [each for each in rows if (each["method"], each["metric"]) == (row, "dice")]
        (mean,) = [float(each["table_mean"]) for each in found if each["class"] == MEAN_OVER_CLASSES]
        assert mean == pytest.approx(_mean_dice([fold for fold in folds if network in str(fold)]), abs=1e-9)


def _mean_dice(folds: Sequence[Path]) -> float:
    """nnU-Net's mean: over the cases in which a class is, then over the classes."""
    summaries = [json.loads((fold / "validation" / "summary.json").read_text()) for fold in folds]
    cases = [case["metrics"] for summary in summaries for case in summary["metric_per_case"]]
    return fmean(
        fmean(case[name]["Dice"] for case in cases if not isnan(case[name]["Dice"])) for name in sorted(cases[0])
    )
