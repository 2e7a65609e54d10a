"""Measuring the metrics: made cases, what is compared, the file and the page."""

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_attn.benchmark.evaluation import BASELINES, EROSION, LIBRARY, OURS, WHOLE, main, measured_size
from nnunet_attn.benchmark.evaluation_agreement import EXACT, agreement, made_blob
from nnunet_attn.benchmark.evaluation_cases import CT, HIPPOCAMPUS, Size, made_case, scaled_down
from nnunet_attn.benchmark.evaluation_page import evaluation_page
from nnunet_attn.evaluation.results import METRICS

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
TINY = Size("tiny", (14, 16, 18), (2.0, 1.0, 1.0), ((4, 5, 6), (3, 3, 3), (3, 4, 5)), 0.1)


@pytest.mark.parametrize("size", [HIPPOCAMPUS, scaled_down(CT, 8), made_blob(3)])
def test_made_predictions_nearly_meet_their_references(size: Size) -> None:
    prediction, reference = made_case(size, 1)
    assert prediction.shape == reference.shape == size.shape
    for label in range(1, len(size.organs) + 1):
        ours, theirs = prediction == label, reference == label
        assert 0.5 < 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) < 1
    again, other = made_case(size, 1), made_case(size, 2)
    assert np.array_equal(again[0], prediction) and not np.array_equal(other[1], reference)


def test_ct_cases_are_as_large_as_they_say() -> None:
    assert sorted(CT.shape) == [200, 512, 512] and len(CT.organs) == 14
    assert scaled_down(CT, 1) is CT and scaled_down(CT, 2).spacing_mm == (5.0, 1.6, 1.6)


def test_baselines_are_measured_on_as_many_cases_and_labels_as_asked_for() -> None:
    done = []
    found = measured_size(TINY, 3, 2, 1, 0, on_case=lambda: done.append(1))
    assert len(done) == found["cases"] == 3
    assert found["baseline_cases"] == dict.fromkeys(BASELINES, 2)
    assert found["baseline_labels"] == {LIBRARY: 3, WHOLE: 1}
    assert list(found["seconds"]) == list(found["peak_memory_bytes"]) == [OURS, EROSION, *BASELINES]
    assert all(0 < one["q25"] <= one["median"] <= one["q75"] for one in found["seconds"].values())
    for ours in (OURS, EROSION):
        for baseline in BASELINES:
            assert found["times_faster"][ours][baseline]["median"] > 0
    without = measured_size(TINY, 1, 0, 1, 0)
    assert list(without["seconds"]) == [OURS, EROSION] and without["times_faster"][OURS] == {}


def test_the_command_writes_what_the_page_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "evaluation-made.json"
    words = ["--sizes", "hippocampus", "--cases", "2", "--baseline-cases", "1", "--blobs", "2", "--out", str(out)]
    assert main(words) == 0
    assert "hippocampus" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert [size["size"] for size in result["sizes"]] == ["hippocampus"]
    assert [blob["seed"] for blob in result["blobs"]] == [0, 1]
    assert result["agreement"] == agreement(result["blobs"])
    assert result["settings"]["libraries"]["surface-distance"] == "0.1"
    assert result["provenance"]["hardware"]["load_average"] is not None
    page = evaluation_page({out.name: result})
    assert "2 cases of 35x50x35 voxels of 1x1x1 mm, 2 labels, 1 process" in page
    assert f"({out.name})" in page and f"| {OURS} | 2 |" in page and f"| {WHOLE} | 1 |" in page
    for blob in result["blobs"]:
        assert f"{blob['area']['hd95_mm']:.2f} / {blob['simpleitk']['hd95_mm']:.2f}" in page
    assert all(f"| {metric} | " in page for metric in METRICS)


def test_differences_are_told_as_they_are() -> None:
    values = dict.fromkeys(METRICS, 1.0)
    blob = {
        "voxel_diagonal_mm": 2.0,
        "area": values | {"hd95_mm": 4.0, "nsd": 0.75},
        "erosion": values | {"dice": 0.5, "hd95_mm": 11.0},
        "simpleitk": values | {"hd95_mm": 10.0},
        "library": values | {"hd95_mm": 5.0, "nsd": 0.5},
    }
    found = agreement(
        [blob, dict.fromkeys(("area", "erosion", "simpleitk", "library"), values) | {"voxel_diagonal_mm": 1}]
    )
    assert found["exact"]["simpleitk"]["dice"] == 0.5  # not over less than 1
    assert found["exact"]["simpleitk"]["hd95_mm"] == 1 / 10
    assert found["exact"]["library"] == {"nsd": 0.25, "hd95_mm": 1 / 5, "assd_mm": 0}
    assert found["in_voxel_diagonals"] == {"hd95_mm": 6 / 2, "assd_mm": 0}
    assert found["nsd"] == 0.25


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cases", "5"], "--cases 5; one number, 1 or more, for each of --sizes"),
        (["--cases", "0", "1"], "--cases 0 1"),
        (["--baseline-cases", "-1", "1"], "--baseline-cases -1 1; one number, 0 or more"),
        (["--blobs", "0"], "--blobs 0; at least 1"),
        (["--whole-labels", "0"], "--whole-labels 0"),
        (["--out", "nowhere/x.json"], "its folder does not exist"),
    ],
)
def test_wrong_arguments_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_the_kept_results_meet_the_goals_that_the_page_says_are_met() -> None:
    result = json.loads((RESULTS / "evaluation-cpu.json").read_text())
    sizes = {size["size"]: size for size in result["sizes"]}
    assert (sizes["hippocampus"]["cases"], sizes["ct"]["cases"]) == (220, 20)
    assert sizes["ct"]["shape"] == list(CT.shape) and sizes["ct"]["labels"] == 14
    for size in sizes.values():
        assert size["times_faster"][OURS][LIBRARY]["median"] >= 1
    assert sizes["ct"]["times_faster"][OURS][WHOLE]["median"] >= 5
    assert len(result["blobs"]) == 30
    assert max(result["agreement"]["in_voxel_diagonals"].values()) <= 1
    assert max(value for other in result["agreement"]["exact"].values() for value in other.values()) < EXACT
