"""The command line: what it prints, its exit codes, and that wrong input leaves nothing behind."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.cli import main
from nnunet_attn.doctor import Finding
from nnunet_attn.errors import InputError
from nnunet_attn.paths import nnunet_environment, trainers_dir
from nnunet_attn.stock import StockCommandError, executable, run_stock
from nnunet_attn.training.weights import fit_weights, read_network_weights
from tests.made.data import make_trainer
from tests.made.plans import KINDS


def test_lists_networks_as_json_and_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [network.name for network in NETWORKS]
    assert {"trainers", "dims", "source"} <= rows[0].keys()
    assert main(["list"]) == 0
    assert "nnUNetTrainerGASANoPE" in capsys.readouterr().out


def test_prints_the_trainers_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trainers-dir"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder == trainers_dir()
    assert (folder / "nnUNetTrainerGASA.py").is_file()


def test_doctor_names_every_problem_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "missing"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    for part in ("nnUNet_raw: not set", "export nnUNet_raw=", "mkdir -p", "$(nnunet-attn trainers-dir)", "GiB free"):
        assert part in printed
    assert f"it is not in {tmp_path}" in printed


@pytest.mark.parametrize(
    ("name", "code", "parts"),
    [
        ("nnUNetTrainerGASA_5epochs_bf16", 0, ["epochs = 5", "precision = bf16"]),
        ("nnUNetTrainerGASA_5epoch", 1, ["'_5epoch'", "_<N>epochs"]),
        ("nnUNetTrainerGASA_bf16_fp32", 1, ["'_fp32'", "once"]),
        ("nnUNetTrainerGazza", 1, ["nnUNetTrainerGASA", "_seed<N>"]),
        ("nnUNetTrainer", 0, ["not a trainer of this package"]),
    ],
)
def test_doctor_explains_a_name(
    name: str, code: int, parts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    assert main(["doctor", name]) == code
    printed = capsys.readouterr().out
    assert all(part in printed for part in parts), printed


def test_nnunet_environment_leaves_the_callers_alone(tmp_path: Path) -> None:
    base = {"nnUNet_raw": "mine", "OTHER": "1"}
    made = nnunet_environment(tmp_path, base)
    assert base == {"nnUNet_raw": "mine", "OTHER": "1"}
    assert made["OTHER"] == "1"
    assert Path(made["nnUNet_raw"]).is_dir() and Path(made["nnUNet_raw"]).parent == tmp_path
    assert made["nnUNet_extTrainer"] == str(trainers_dir())


def test_a_failed_stock_command_shows_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    seen: list[str] = []
    with pytest.raises(StockCommandError, match=r"pip frobnicate[\s\S]*exit code 1[\s\S]*unknown command") as error:
        run_stock("pip", ["frobnicate"], nnunet_environment(tmp_path), log, seen.append)
    assert seen and log.read_text().splitlines() == seen
    assert seen[-1] in str(error.value)
    with pytest.raises(InputError, match="'nnUNetv2_fly' not found"):
        executable("nnUNetv2_fly")


@pytest.fixture
def plain_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]) -> Path:
    """A checkpoint of the plain U-Net, in an environment in which its data set exists."""
    leaf = load_leaf("nnUNetTrainerPlain")
    trainer: Any = make_trainer(leaf.nnUNetTrainerPlain, KINDS["anisotropic"], tmp_path, monkeypatch)
    trainer.initialize()
    trainer.logger.log("train_losses", np.float32(0.5), 0)  # as nnU-Net logs it
    file = tmp_path / "plain.pth"
    trainer.save_checkpoint(str(file))
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    return file


def words(file: Path, output: Path, **changed: str) -> list[str]:
    options = {"-d": "901", "-c": "3d_fullres", "-p": "nnUNetPlansMade", "-tr": "nnUNetTrainerGASA", **changed}
    flat = [part for pair in options.items() for part in pair]
    return ["import-weights", "nnunet", str(file), *flat, "-o", str(output)]


def test_imports_plain_weights_into_gasa(
    plain_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.pth"
    assert main(words(plain_checkpoint, output)) == 0
    printed = capsys.readouterr().out
    assert f"-tr nnUNetTrainerGASA -pretrained_weights {output}" in printed
    source, made = read_network_weights(plain_checkpoint), read_network_weights(output)
    same = [key for key in source if made[key].shape == source[key].shape]
    assert all(torch.equal(made[key], source[key]) for key in same)
    widened = set(source) - set(same)
    assert {key.rsplit(".", 1)[0] for key in widened} == {"decoder.transpconvs.0"}
    for key in widened:
        assert torch.equal(made[key][: len(source[key])], source[key])
    assert set(made) - set(source) and all(key.startswith("gasa.") for key in set(made) - set(source))
    assert f"kept: {len(same)} tensors" in printed
    assert f"resampled or taken over in part: {len(widened)}\n" in printed
    assert f"freshly initialised: {len(set(made) - set(source))}\n" in printed


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"-d": "777"}, ["777", "nnUNetv2_plan_and_preprocess"]),
        ({"-c": "2d"}, ["'2d'", "3d_fullres"]),
        ({"-p": "nnUNetPlansNone"}, ["nnUNetPlansNone.json", "nnUNetv2_plan_and_preprocess"]),
        ({"-tr": "nnUNetTrainerGASA_fast"}, ["nnUNetTrainerGASA_fast", "doctor"]),
    ],
)
def test_wrong_targets_are_named(
    plain_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    parts: list[str],
) -> None:
    output = tmp_path / "out.pth"
    assert main(words(plain_checkpoint, output, **changed)) == 2
    printed = capsys.readouterr().err
    assert all(part in printed for part in parts), printed
    assert not list(tmp_path.glob("out.pth*"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint",
        b"hello\n",
        b"hi there, some text",
        None,
        "cut",
        {"weights": 1},
        {"network_weights": {}},
    ],
)
def test_wrong_files_are_refused(
    plain_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any
) -> None:
    file, output = tmp_path / "wrong.pth", tmp_path / "out.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "cut":
        file.write_bytes(plain_checkpoint.read_bytes()[:2000])
    elif content is not None:
        torch.save(content, file)
    assert main(words(file, output)) == 2
    error = capsys.readouterr().err
    assert error.startswith("nnunet-attn: error: ") and str(file) in error and "Traceback" not in error
    assert not list(tmp_path.glob("out.pth*"))


def test_an_existing_output_is_kept(plain_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.pth"
    output.write_text("mine")
    assert main(words(plain_checkpoint, output)) == 2
    assert "exists already" in capsys.readouterr().err
    assert output.read_text() == "mine"


def test_fit_lists_what_the_target_has_no_place_for() -> None:
    network = torch.nn.Linear(2, 3)
    source = {"weight": torch.ones(3, 2), "bias": torch.ones(4), "other": torch.ones(1)}
    report = fit_weights(network, source)
    assert (report.kept, report.resampled, report.fresh, report.unused) == (["weight"], [], ["bias"], ["other"])
    assert torch.equal(network.weight, source["weight"])


@pytest.mark.parametrize("wrong", [["demo", "--epochs", "0"], ["demo", "--its", "-3"]])
def test_demo_refuses_impossible_budgets(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wrong) == 2
    assert wrong[1] in capsys.readouterr().err


@pytest.mark.parametrize("written_by", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_checkpoints_of_either_numpy_are_read(plain_checkpoint: Path, tmp_path: Path, written_by: str) -> None:
    file = tmp_path / "renamed.pth"
    with zipfile.ZipFile(plain_checkpoint) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                changed = re.sub(rb"cnumpy\.(_core|core)\.multiarray\n", f"c{written_by}\n".encode(), content)
                assert written_by.encode() in changed
                content = changed
            target.writestr(name, content)
    assert read_network_weights(file).keys() == read_network_weights(plain_checkpoint).keys()


def test_objects_that_could_run_code_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "foreign.pth"
    torch.save({"network_weights": {}, "extra": Finding("what", "ok", "text")}, file)
    with pytest.raises(InputError, match=r"foreign.pth holds an object of nnunet_attn.doctor.Finding"):
        read_network_weights(file)


def test_import_names_broken_plans_and_options(
    plain_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = tmp_path / "preprocessed" / "Dataset901_Made" / "nnUNetPlansMade.json"
    content = json.loads(plans.read_text())
    content["configurations"]["3d_fullres"]["nnunet_attn"] = {"GASAUNet": {"num_heads": 3}}
    plans.write_text(json.dumps(content))
    assert main(words(plain_checkpoint, tmp_path / "out.pth")) == 2
    assert "num_heads" in capsys.readouterr().err
    plans.write_text("{")
    assert main(words(plain_checkpoint, tmp_path / "out.pth")) == 2
    assert "cannot be read as JSON" in capsys.readouterr().err
    assert main(words(plain_checkpoint, tmp_path / "out.pth", **{"-d": "Foo"})) == 2
    assert "-d Foo:" in capsys.readouterr().err


def test_doctor_notes_that_compiling_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_compile", "f")
    main(["doctor"])
    assert "note    torch.compile: switched off by nnUNet_compile=f" in capsys.readouterr().out
