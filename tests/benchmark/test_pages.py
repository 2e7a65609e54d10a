"""The pages of results say what the JSON files beside them say."""

import json
from pathlib import Path

import pytest

from nnunet_attn.benchmark.pages import main, pages

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.mark.parametrize("name", ["README.md", "speed.md", "learning.md"])
def test_the_kept_pages_are_those_that_the_script_makes(name: str) -> None:
    assert (RESULTS / name).read_text() == pages(RESULTS)[name], (
        "run: python -m nnunet_attn.benchmark.pages docs/results"
    )


def test_every_result_is_shown_and_names_no_place() -> None:
    shown = "".join(pages(RESULTS).values())
    files = list(RESULTS.glob("*.json"))
    assert files
    for file in files:
        assert f"({file.name})" in shown
        assert '"/' not in file.read_text(), "no absolute path"


def made_result() -> dict:
    runs = [
        {"network": name, "seed": seed, "trained": trained, "dice": dice, "validation_cases": 4}
        for name, dices in (("A", (0.0, 0.5, 0.0, 0.7)), ("B", (0.1, 0.6, 0.1, 0.4)))
        for (seed, trained), dice in zip([(0, False), (0, True), (1, False), (1, True)], dices, strict=True)
    ]
    return {
        "dataset": "Dataset001_Made",
        "cases": 20,
        "configuration": "2d",
        "patch_size": [8, 8],
        "batch_size": 2,
        "features_per_stage": [4, 8],
        "epochs": 3,
        "iterations_per_epoch": 5,
        "mirroring": False,
        "device": "cpu",
        "reference": "A",
        "mean_dice": {"A": {"untrained": 0.0, "trained": 0.6}, "B": {"untrained": 0.1, "trained": 0.5}},
        "difference_to_reference": {"A": 0.0, "B": -0.1},
        "runs": runs,
        "provenance": {
            "date_utc": "2026-01-02T03:04:05+00:00",
            "versions": {"torch": "2", "nnunetv2": "2.8", "nnunet_attn": "0"},
            "hardware": {"cpu": "Abacus", "cpu_cores": 1, "gpu": None},
            "command": "python -m made",
        },
    }


def test_a_learning_result_becomes_a_table(tmp_path: Path) -> None:
    (tmp_path / "learning-made.json").write_text(json.dumps(made_result()))
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "learning.md").read_text()
    assert "| A | 0.000 | 0.500 | 0.700 | 0.600 | +0.000 |" in page
    assert "| B | 0.100 | 0.600 | 0.400 | 0.500 | -0.100 |" in page
    assert "Measured 2026-01-02 on Abacus, 1 cores" in page
    assert main([str(tmp_path / "missing")]) == 2


def test_a_gpu_is_told_where_the_result_was_measured_on_it(tmp_path: Path) -> None:
    on_cpu, on_cuda = made_result(), made_result()
    for result in (on_cpu, on_cuda):
        result["provenance"]["hardware"]["gpu"] = {"name": "Loom 9"}
    on_cuda["device"] = "cuda"
    (tmp_path / "learning-cpu.json").write_text(json.dumps(on_cpu))
    assert "Nothing here was measured on CUDA." in pages(tmp_path)["README.md"]
    assert "on Abacus, 1 cores" in pages(tmp_path)["learning.md"]
    (tmp_path / "learning-cuda.json").write_text(json.dumps(on_cuda))
    assert "CUDA" not in pages(tmp_path)["README.md"]
    assert "on Loom 9;" in pages(tmp_path)["learning.md"]


@pytest.mark.parametrize("content", ["{", "[]", '{"device": "cpu"}'])
def test_a_broken_result_is_refused_and_no_page_written(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "learning-made.json").write_text(content)
    assert main([str(tmp_path)]) == 2
    assert "is no result of this package" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["learning-made.json"]
