"""The learning study refuses wrong input before it writes anything, and a working folder made with other settings."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from nnunet_attn.benchmark import learning
from nnunet_attn.benchmark.learning import main
from nnunet_attn.errors import InputError


def made_dataset(parent: Path, name: str, description: str) -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / "dataset.json").write_text(description)
    return folder


GOOD = '{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}'


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--cases", "4"], "--cases 4"),
        (["--epochs", "0"], "--epochs"),
        (["--data", "Dataset001_Missing"], "Dataset001_Missing"),
        (["--data", "Mine"], "Mine: nnU-Net's data sets are called DatasetNNN_Name"),
        (["--data", "Dataset002_Broken"], "cannot be read as JSON"),
        (["-tr", "nnUNetTrainerGAZA"], "-tr nnUNetTrainerGAZA: choose among nnUNetTrainer"),
        (["-tr", "nnUNetTrainerGASA_seed3"], "without the suffixes that this study sets itself"),
        (["--work", "Mine/dataset.json/x"], "cannot make the folder"),
        (["--out", "."], "is a folder"),
        (["--out", "missing/out.json"], "create it first"),
    ],
)
def test_wrong_input_writes_nothing(
    words: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made_dataset(tmp_path, "Mine", GOOD)
    made_dataset(tmp_path, "Dataset002_Broken", "{")
    before = sorted(tmp_path.rglob("*"))
    assert main(["--work", "work", "--out", "out.json", *words]) == 2
    captured = capsys.readouterr()
    assert part in captured.err and captured.err.startswith("error: ") and "Traceback" not in captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_too_few_cases_in_the_data_leave_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = made_dataset(tmp_path, "Dataset003_Small", GOOD)
    work = tmp_path / "work"
    assert main(["--data", str(data), "--cases", "7", "--work", str(work), "--out", str(tmp_path / "out.json")]) == 2
    assert "has 0 labelled cases, not 7" in capsys.readouterr().err
    assert not list((work / "raw").iterdir()) and not (tmp_path / "out.json").exists()


def parsed(*words: str) -> argparse.Namespace:
    return learning._parser().parse_args(["--out", "out.json", *words])


def test_settings_are_kept_at_first_use_and_the_same_ones_go_on(tmp_path: Path) -> None:
    first = learning._keep_settings(parsed("--cases", "7", "--seeds", "3"), tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text()) == first
    assert first == {
        "dataset": "Dataset901_Phantom",
        "cases": 7,
        "configuration": "3d_fullres",
        "features": 8,
        "batch_size": 2,
        "plans_name": "nnUNetPlansNarrow",
    }
    (tmp_path / "raw").mkdir()
    assert learning._keep_settings(parsed("--cases", "7", "--epochs", "5"), tmp_path) == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cases", "8"), "cases 7, now it is 8; use the same again, or name a new folder"),
        (("--cases", "7", "-c", "2d"), "configuration '3d_fullres', now it is '2d'"),
        (("--cases", "7", "--features", "4"), "features 8, now it is 4"),
        (("--cases", "7", "--batch-size", "3"), "batch_size 2, now it is 3"),
        (("--cases", "7", "--data", "x/Dataset004_Mine"), "dataset 'Dataset901_Phantom', now it is 'Dataset004_Mine'"),
    ],
)
def test_other_settings_are_refused(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    learning._keep_settings(parsed("--cases", "7"), tmp_path)
    before = (tmp_path / "settings.json").read_text()
    with pytest.raises(InputError, match=f"{tmp_path} was prepared with {message}"):
        learning._keep_settings(parsed(*words), tmp_path)
    assert (tmp_path / "settings.json").read_text() == before


@pytest.mark.parametrize("content", ["{", "[1]", "5"])
def test_broken_settings_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(InputError, match=r"settings\.json is broken"):
        learning._keep_settings(parsed(), tmp_path)


def test_data_without_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match=r"has data but no settings\.json"):
        learning._keep_settings(parsed(), tmp_path)


def test_results_say_what_the_data_were_prepared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def plans_only(command: str, arguments: Sequence[object], environment: Mapping[str, str], log: Path) -> str:
        words = list(map(str, arguments))
        assert command == "nnUNetv2_plan_and_preprocess" and "-npfp 2 -np 2" in " ".join(words)
        folder = Path(environment["nnUNet_preprocessed"]) / "Dataset003_Small"
        folder.mkdir()
        entry = {
            "patch_size": [8, 8],
            "batch_size": 9,
            "architecture": {"arch_kwargs": {"features_per_stage": [32, 64]}},
        }
        (folder / "nnUNetPlans.json").write_text(json.dumps({"configurations": {"2d": entry}}))
        return ""

    def untrained_is_worse(args: object, root: Path, dataset: str, trainer: str, trained: bool, log: Path) -> dict:
        return {"trainer": trainer, "dice": 0.75 if trained else 0.25, "iou": 0.6 if trained else 0.125}

    monkeypatch.setattr(learning, "run_stock", plans_only)
    monkeypatch.setattr(learning, "_run", untrained_is_worse)
    data = made_dataset(tmp_path, "Dataset003_Small", GOOD)
    for folder, ending in (("labelsTr", ""), ("imagesTr", "_0000")):
        (data / folder).mkdir()
        for index in range(8):
            (data / folder / f"case_{index}{ending}.nii.gz").touch()
    out, work = tmp_path / "out.json", tmp_path / "work"
    words = ["--data", str(data), "-c", "2d", "--features", "4", "--batch-size", "3", "--work", str(work)]
    assert main([*words, "--cases", "6", "--seeds", "1", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["cases"] == 6 == len(list((work / "raw" / "Dataset003_Small" / "labelsTr").iterdir()))
    assert (result["dataset"], result["batch_size"], result["features_per_stage"]) == ("Dataset003_Small", 3, [4, 8])
    names = [run["trainer"] for run in result["runs"]]
    assert names[:2] == ["nnUNetTrainerPlain_NoMirroring_seed1", "nnUNetTrainerPlain_20epochs_20its_NoMirroring_seed1"]

    before = out.read_text()
    assert main([*words, "--cases", "7", "--seeds", "1", "--out", str(out)]) == 2
    assert "was prepared with cases 6, now it is 7" in capsys.readouterr().err
    assert out.read_text() == before


def test_the_module_leaves_nnunet_to_the_process_that_sets_its_folders() -> None:
    """A spawned process imports the module before `save_untrained` sets the folders, which nnU-Net reads at import."""
    code = "import sys; import nnunet_attn.benchmark.learning; sys.exit('nnunetv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
