"""The learning study: its command runs end to end, and the kept results hold what the project claims."""

import json
from pathlib import Path

import pytest

from nnunet_attn.benchmark.learning import main
from tests.made.workers import one_import

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.mark.slow
def test_a_smoke_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", one_import())
    out = tmp_path / "learning.json"
    budget = ("--cases", "5", "--epochs", "1", "--its", "2", "--features", "4", "--seeds", "3", "-c", "2d")
    assert main(["-tr", "nnUNetTrainerGASA", *budget, "--work", str(tmp_path / "work"), "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert [run["trained"] for run in result["runs"]] == [False, True]
    assert all(0 <= run["dice"] <= 1 for run in result["runs"])
    assert result["features_per_stage"][0] == 4
    assert set(result["provenance"]) >= {"versions", "hardware", "seed", "date_utc", "command"}
    assert str(tmp_path) not in out.read_text()


@pytest.mark.parametrize("name", ["learning-phantom-cpu.json", "learning-hippocampus-cpu.json"])
def test_gasa_learns_and_keeps_up_with_the_plain_network(name: str) -> None:
    result = json.loads((RESULTS / name).read_text())
    dice = result["mean_dice"]["nnUNetTrainerGASA"]
    assert dice["trained"] > dice["untrained"] + 0.3
    assert len({run["seed"] for run in result["runs"]}) >= 2
    assert result["difference_to_reference"]["nnUNetTrainerGASA"] >= -0.03
    trained = [run for run in result["runs"] if run["trained"] and run["network"] == "nnUNetTrainerGASA"]
    assert sum(run["dice"] for run in trained) / len(trained) == pytest.approx(dice["trained"])
