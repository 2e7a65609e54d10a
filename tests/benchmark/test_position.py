"""The study of positions: its command runs end to end, and the kept result holds what the project claims of FINE."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from nnunet_attn.benchmark.position import LABELS, TRAINERS, main, scores, small_patch_plans
from tests.made.workers import one_import

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def kept(name: str) -> dict[str, Any]:
    """Return a kept result whose means follow from its runs."""
    result = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    for base, mean in result["mean"].items():
        runs = [run for run in result["runs"] if run["network"] == base]
        assert [run["seed"] for run in runs] == result["seeds"]
        for run in runs:
            assert "_NoMirroring_" in run["trainer"] and run["trainer"].startswith(base)
            assert run["dice"] == pytest.approx(fmean(run["dice_per_label"].values()))
        for key, value in mean.items():
            assert value == pytest.approx(fmean(run[key] for run in runs))
        reference = result["mean"][result["reference"]]["dice"]
        assert result["difference_to_reference"][base] == pytest.approx(mean["dice"] - reference)
    return result


def test_only_fine_with_volume_tokens_names_the_organs_that_all_networks_find() -> None:
    result = kept("position-cpu.json")
    assert len(result["seeds"]) == 2 and not result["mirroring"]
    fine, *others = (result["mean"][trainer] for trainer in TRAINERS)
    for other in others:
        assert fine["dice"] >= other["dice"] + 0.3
        assert other["dice_of_the_union"] >= 0.75
        assert other["dice"] <= 0.3


def test_adamw_learns_positions_sooner_than_sgd() -> None:
    result = kept("position-recipe-cpu.json")
    assert result["reference"] == "nnUNetTrainerFINE_SGD"
    assert result["difference_to_reference"]["nnUNetTrainerFINE_AdamW"] >= 0.3


def test_scores_tell_finding_from_naming() -> None:
    true = np.zeros((2, 4), np.uint8)
    true[:, 0], true[:, 2] = 1, 2
    swapped = np.where(true > 0, 3 - true, 0)
    assert scores([true], [true]) == {
        "dice": 1,
        "dice_of_the_union": 1,
        "dice_per_label": dict.fromkeys([name for name in LABELS if name != "background"], 1),
    }
    found = scores([swapped], [true])
    assert found["dice_of_the_union"] == 1
    assert list(found["dice_per_label"].values()) == [0, 0, 1, 1]
    halved = np.where(np.arange(2)[:, None] == 0, true, 0)
    # 2 * 1 / (1 + 2), and 2 * 2 / (2 + 4) of both
    assert scores([halved], [true])["dice_of_the_union"] == pytest.approx(2 / 3)
    assert scores([halved, true], [true, true])["dice_per_label"]["front right"] == pytest.approx((2 / 3 + 1) / 2)


def test_plans_differ_in_patch_batch_and_options_alone() -> None:
    entry = {
        "patch_size": [16, 128, 128],
        "batch_size": 7,
        "architecture": {"arch_kwargs": {"features_per_stage": [32, 64]}},
        "spacing": [1, 1, 1],
    }
    plans = {"plans_name": "nnUNetPlans", "configurations": {"3d_fullres": entry, "2d": {}}}
    small = small_patch_plans(plans)
    assert entry["patch_size"] == [16, 128, 128]
    (made,) = small["configurations"].values()
    assert made["patch_size"] == [16, 32, 32] and made["batch_size"] == 2
    assert {name: value for name, value in made.items() if name in ("architecture", "spacing")} == {
        name: entry[name] for name in ("architecture", "spacing")
    }
    assert made["nnunet_attn"]["FINE"] == made["nnunet_attn"]["NNFormer2021"] == {"embed_dim": 24, "num_heads": 3}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--cases", "4"], "--cases 4"),
        (["--epochs", "0"], "--epochs"),
        (["--seeds", "-1"], "seeds at least 0"),
        (["-tr", "nnUNetTrainerGASA"], "-tr nnUNetTrainerGASA: choose among nnUNetTrainer"),
        (["-tr", "nnUNetTrainerFINE_seed3"], "without the suffixes that this study sets itself"),
        (["-tr", "nnUNetTrainerFINE"], "--reference nnUNetTrainerFINENoTokens_AdamW is none of"),
        (["--out", "missing/out.json"], "create it first"),
    ],
)
def test_wrong_input_writes_nothing(
    words: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--work", "work", "--out", "out.json", *words]) == 2
    captured = capsys.readouterr()
    assert part in captured.err and captured.err.startswith("error: ") and "Traceback" not in captured.err
    assert not list(tmp_path.rglob("*"))


@pytest.mark.slow
def test_a_smoke_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", one_import())
    out = tmp_path / "position.json"
    budget = ("--cases", "5", "--test-cases", "1", "--epochs", "1", "--its", "1", "--seeds", "3")
    chosen = ("-tr", "nnUNetTrainerFINE", "--reference", "nnUNetTrainerFINE")
    words = [*chosen, *budget, "--work", str(tmp_path / "work"), "--out", str(out)]
    assert main(words) == 0
    result = json.loads(out.read_text())
    (run,) = result["runs"]
    assert 0 <= run["dice"] <= 1 and run["trainer"] == "nnUNetTrainerFINE_1epochs_1its_NoMirroring_seed3"
    assert result["patch_size"] == [16, 32, 32] and result["options"]["FINE"]["embed_dim"] == 24
    assert result["mean"]["nnUNetTrainerFINE"]["dice"] == run["dice"]
    assert set(result["provenance"]) >= {"versions", "hardware", "seed", "date_utc", "command"}
    assert str(tmp_path) not in out.read_text()
    log = (tmp_path / "work" / "log.txt").read_text()
    assert "sub-volumes: 1 x 4 x 4; axes along which the network reads its position: 1, 2" in log
    words[words.index("--cases") + 1] = "6"
    assert main(words) == 2
    assert "was prepared with cases 5, now it is 6" in capsys.readouterr().err
