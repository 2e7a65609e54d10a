"""The study of pre-training: its figures follow from its runs, and its command runs end to end."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from nnunet_attn.benchmark.pages import pages
from nnunet_attn.benchmark.pretraining import dice_of, main, rows_of, weights_in
from nnunet_attn.benchmark.pretraining_data import Wanted, check_source
from nnunet_attn.datasets.raw import write_dataset
from nnunet_attn.errors import InputError
from nnunet_attn.stock import StockCommandError
from tests.datasets.test_binary import made_case
from tests.made.workers import one_import

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
KEPT = sorted(RESULTS.glob("pretraining-*.json"))
A, B = "nnUNetTrainerPatchTransformer", "nnUNetTrainerPlain"
SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2, "head_dim": 4, "mlp_dim": 16, "train_cells": 1, "batch_size": 2}


def made_run(network: str, start: str, labels: int, seed: int, dice: float) -> dict[str, Any]:
    return {"network": network, "start": start, "labels": labels, "seed": seed, "dice": dice}


def test_differences_are_of_the_same_seed_and_labels() -> None:
    runs = [
        made_run(A, "scratch", 3, 0, 0.5),
        made_run(A, "both", 3, 0, 0.75),
        made_run(B, "scratch", 3, 0, 0.9),
        made_run(A, "scratch", 3, 1, 0.25),
        made_run(A, "both", 3, 1, 0.125),
        made_run(A, "scratch", 5, 0, 1.0),
        made_run(A, "both", 5, 0, 1.0),
    ]
    found = {(row["labels"], row["network"], row["start"]): row for row in rows_of(runs)}
    assert len(found) == 5
    assert found[3, A, "scratch"] == {"labels": 3, "network": A, "start": "scratch", "dice": 0.375}
    both = found[3, A, "both"]
    # (0.75 - 0.5 + 0.125 - 0.25) / 2
    assert both["dice"] == 0.4375 and both["difference_to_scratch"] == 0.0625 and both["seeds_above_scratch"] == 1
    # no more is not above
    assert found[5, A, "both"]["difference_to_scratch"] == found[5, A, "both"]["seeds_above_scratch"] == 0
    assert "difference_to_scratch" not in found[3, B, "scratch"]


def test_dice_is_read_from_nnunets_summary() -> None:
    nan = float("nan")
    summary = {
        "foreground_mean": {"Dice": 0.75},
        "mean": {"1": {"Dice": 0.5}, "2": {"Dice": 1.0}},
        "metric_per_case": [
            {"reference_file": "/a/case_1.nii.gz", "metrics": {"1": {"Dice": 0.25}, "2": {"Dice": 1.0}}},
            {"reference_file": "/a/case_2.nii.gz", "metrics": {"1": {"Dice": 0.75}, "2": {"Dice": nan}}},
            {"reference_file": "/a/case_3.nii.gz", "metrics": {"1": {"Dice": nan}, "2": {"Dice": nan}}},
        ],
    }
    found = dice_of(summary, A)
    assert found["dice"] == 0.75 and found["dice_per_label"] == {"1": 0.5, "2": 1.0}
    assert found["dice_per_case"] == {"case_1": 0.625, "case_2": 0.75, "case_3": None}
    with pytest.raises(InputError, match=f"the Dice of {A} is undefined"):
        dice_of({**summary, "foreground_mean": {"Dice": nan}}, A)


def test_the_weights_are_those_of_the_command_that_is_printed_last() -> None:
    told = "$ nnUNetv2_train 1 2d all -tr X\nFine-tune with:\nnnUNetv2_train 1 2d 0 -pretrained_weights '/a b/w.pth'\n"
    assert weights_in(told) == Path("/a b/w.pth")
    for other in ("", "$ nnUNetv2_train 1 2d all", "nnUNetv2_train 1 2d 0"):
        with pytest.raises(StockCommandError, match="printed no command with -pretrained_weights"):
            weights_in(other)


def test_a_source_needs_labelled_test_cases(tmp_path: Path) -> None:
    labels = {"background": 0, "a": 1, "b": 2, "c": 3}
    check_source(write_dataset(tmp_path, "Dataset007_Made", labels, 5, 1, made_case))
    with pytest.raises(InputError, match="has no labelled test cases"):
        check_source(write_dataset(tmp_path, "Dataset008_Made", labels, 5, 0, made_case))


def test_a_working_folder_is_of_one_source_or_phantom() -> None:
    common: dict[str, Any] = {"labels": (3,), "split_seed": 0, "configuration": "2d", "features": None}
    common |= {"batch_size": None, "options": {"PatchTransformer": SMALL}, "workers": 2, "cases": 9, "test_cases": 2}
    phantom = Wanted(source=None, **common).settings()
    assert phantom["dataset"] == "Dataset904_Phantom" and phantom["cases"] == 9
    other = Wanted(source=Path("a/Dataset104_Other"), **common).settings()
    assert other["dataset"] == "Dataset104_Other" and "cases" not in other
    assert json.loads(json.dumps(phantom)) == phantom


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--labels", "1"], "--labels 1: give each number once, from 2 on"),
        (["--labels", "3", "3"], "--labels 3 3"),
        (["--labels", "8", "--cases", "8"], "--cases 8: nnU-Net's folds need 5, and one is to be left"),
        (["--seeds", "0", "0"], "0 0: give each once"),
        (["--seeds", "-1"], "seeds at least 0"),
        (["-tr", "nnUNetTrainerGAZA"], "nnUNetTrainerGAZA: choose among nnUNetTrainer"),
        (["--beside", "nnUNetTrainerPlain_seed3"], "without the suffixes that this study sets itself"),
        (["-tr", "nnUNetTrainerPlain_PretrainBoth"], "those of pre-training"),
        (["-tr", A, "--beside", A], f"{A} is given by -tr and by --beside"),
        (["--options", '{"Patches": {}}'], "--options names Patches"),
        (["--options", '{"FINE": 1}'], "--options: give a table of options by network"),
        (["--source", "Dataset001_Missing"], "Dataset001_Missing"),
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


def check(result: dict[str, Any]) -> None:
    """Check that rows follow from runs, that the budget is the same for all, and that cases are apart."""
    assert result["rows"] == rows_of(result["runs"])
    for row in result["rows"]:
        runs = [
            run
            for run in result["runs"]
            if (run["labels"], run["network"], run["start"]) == (row["labels"], row["network"], row["start"])
        ]
        assert [run["seed"] for run in runs] == result["seeds"]
        assert row["dice"] == pytest.approx(fmean(run["dice"] for run in runs))
        for run in runs:
            assert f"_{result['epochs']}epochs_{result['iterations_per_epoch']}its" in run["trainer"]
            assert run["trainer"].endswith(f"_seed{run['seed']}") and len(run["dice_per_case"]) == result["test_cases"]
            assert len(result["labels_of_the_data"]) > len(run["dice_per_label"]) > 0
    for labels, split in result["splits"].items():
        cases = split["train"] + split["val"]
        assert len(set(cases)) == len(cases) == int(labels) and split["train"] and split["val"]
        assert not set(cases) & set(result["runs"][0]["dice_per_case"])


def test_a_result_becomes_a_table_and_says_which_way_it_went(tmp_path: Path) -> None:
    dices = {"scratch": (0.5, 0.25), "both": (0.75, 0.5), "inpaint": (0.25, 0.25)}
    runs = [
        made_run(A, start, 3, seed, dice)
        for start, pair in dices.items()
        for seed, dice in zip((4, 5), pair, strict=True)
    ]
    result = {
        "made_data": True,
        "dataset": "Dataset904_Phantom",
        "configuration": "3d_fullres",
        "device": "cpu",
        "labels": [3],
        "splits": {"3": {"train": ["a", "b"], "val": ["c"]}},
        "seeds": [4, 5],
        "unlabelled_cases": 7,
        "test_cases": 2,
        "epochs": 3,
        "pretrain_epochs": 6,
        "iterations_per_epoch": 9,
        "mirroring": False,
        "patch_size": [8, 16],
        "planned_batch_size": 2,
        "features_per_stage": [4, 8],
        "options": {"PatchTransformer": {"embed_dim": 16}},
        "rows": rows_of(runs),
        "runs": runs,
        "pretrainings": [
            {"network": A, "task": "both", "seed": 4, "mean": {"denoise": {"r2": 0.5}, "inpaint": {"r2": None}}}
        ],
        "provenance": {
            "date_utc": "2026-01-02T03:04:05+00:00",
            "versions": {"torch": "2", "nnunetv2": "2.8", "nnunet_attn": "0"},
            "hardware": {"cpu": "Abacus", "cpu_cores": 1, "gpu": None},
            "command": "python -m made",
        },
    }
    (tmp_path / "pretraining-made.json").write_text(json.dumps(result))
    page = pages(tmp_path)["pretraining.md"]
    assert "## Dataset904_Phantom, 3d_fullres, 2 seeds, cpu" in page
    assert "3 labelled cases, 2 of them for training and 1 for validation:" in page
    assert "3 epochs of 9 iterations with labels, 6 epochs of as many before on 7 cases" in page
    assert f"| {A}, scratch | 0.500 | 0.250 | 0.375 |  |  |" in page
    assert f"| {A}, both | 0.750 | 0.500 | 0.625 | +0.250 | 2 of 2 |" in page
    assert (
        "pre-training by both raised the mean Dice over training from scratch (+0.250; above in 2 of 2 seeds)" in page
    )
    assert "pre-training by inpaint did not raise the mean Dice over training from scratch (-0.125; above in 0" in page
    assert f"| {A}, both | 4 | denoise: 0.500, inpaint: undefined |" in page


def test_a_result_is_kept() -> None:
    assert KEPT


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.name)
def test_the_kept_results_are_of_three_seeds_and_follow_from_their_runs(file: Path) -> None:
    result = json.loads(file.read_text())
    check(result)
    if result["made_data"]:
        assert len(result["seeds"]) >= 3 and result["labels"] == [3]
        assert {row["start"] for row in result["rows"]} == {"scratch", "denoise", "inpaint", "both"}
    assert '"/' not in file.read_text(), "no absolute path"


@pytest.mark.slow
def test_a_smoke_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", one_import())
    out = tmp_path / "pretraining-smoke.json"
    words = ["--cases", "8", "--test-cases", "2", "--labels", "3", "--seeds", "3", "--epochs", "1", "--its", "2"]
    words += [
        "--pretrain-epochs",
        "1",
        "--tasks",
        "both",
        "-tr",
        A,
        "--options",
        json.dumps({"PatchTransformer": SMALL}),
    ]
    words += ["--work", str(tmp_path / "work"), "--out", str(out)]
    assert main(words) == 0
    result = json.loads(out.read_text())
    check(result)
    assert [(run["network"], run["start"]) for run in result["runs"]] == [(A, "scratch"), (A, "both")]
    assert result["unlabelled_cases"] == 5 and result["test_cases"] == 2
    (learned,) = result["pretrainings"]
    assert learned["task"] == "both" and set(learned["mean"]) == {"denoise", "inpaint"}
    assert set(result["provenance"]) >= {"versions", "hardware", "seed", "date_utc", "command"}
    assert str(tmp_path) not in out.read_text()
    log = (tmp_path / "work" / "log.txt").read_text()
    assert "Loading pretrained weights from file" in log and "body masks take their place" in log
    page = pages(tmp_path)["pretraining.md"]
    assert f"| {A}, both | {result['runs'][1]['dice']:.3f} |" in page
    # nothing is run again, and the same comes out
    capsys.readouterr()
    before = len(log.splitlines())
    assert main([*words, "--seeds", "3"]) == 0
    again = json.loads(out.read_text())
    assert [run["dice"] for run in again["runs"]] == [run["dice"] for run in result["runs"]]
    assert all(run["wall_seconds"] is None for run in again["runs"] + again["pretrainings"])
    assert "Epoch 0" not in "".join((tmp_path / "work" / "log.txt").read_text().splitlines(True)[before:])
    # other data settings in the same folder are refused
    assert main([*words, "--labels", "4"]) == 2
    assert "was prepared with labels [3], now it is [4]" in capsys.readouterr().err
