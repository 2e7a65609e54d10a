import io
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from nnunet_attn import demo
from nnunet_attn.demo import ORGANS, best_slice, dice, dice_table, epoch_in, run_demo
from nnunet_attn.errors import InputError
from nnunet_attn.stock import StockCommandError
from tests.made.workers import one_import


def quiet_console() -> Console:
    return Console(file=io.StringIO(), width=120)


def test_dice_by_hand():
    reference = np.array([[1, 1, 1, 0], [2, 0, 0, 0]])
    prediction = np.array([[1, 1, 0, 1], [0, 0, 0, 3]])
    assert dice(reference, prediction, 1) == pytest.approx(2 * 2 / (3 + 3))
    assert dice(reference, prediction, 2) == 0
    assert dice(reference, prediction, 3) == 0
    assert math.isnan(dice(reference, prediction, 4))


@pytest.mark.parametrize(
    ("line", "epoch"),
    [
        ("2026-01-31 12:00:00.000000: Epoch 3", 3),
        ("2026-01-31 12:00:00.000000: Epoch 12 ", 12),
        ("Epoch 0", 0),
        ("2026-01-31 12:00:00.000000: Epoch time: 3.37 s", None),
        ("Using 1 Epoch 3 ago", None),
    ],
)
def test_epochs_are_read_from_nnunets_lines(line, epoch):
    assert epoch_in(line) == epoch


def test_the_best_slice_shows_the_most_organs_then_the_most_of_them():
    labels = np.zeros((4, 2, 3), int)
    labels[0] = 1
    labels[1, 0] = [1, 2, 0]
    labels[2] = [[1, 2, 2], [0, 0, 0]]
    assert best_slice(labels) == 2


def test_the_table_has_a_row_an_organ_and_their_mean():
    console = quiet_console()
    values = dict(zip(ORGANS, [0.9, 0.5, float("nan"), 0.4], strict=True))
    console.print(dice_table({"A": values, "B": dict.fromkeys(ORGANS, 1.0)}, 4))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(organ in text for organ in ORGANS)
    # (0.9 + 0.5 + 0.4) / 3, the organ without a value left out
    assert "0.600" in text and "1.000" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"dim": 4}, "dim=4"), ({"epochs": 0}, "epochs=0"), ({"iterations": 0}, "iterations=0")],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        run_demo(**arguments, console=quiet_console())


def test_a_folder_with_content_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="is not an empty folder"):
        run_demo(keep=tmp_path, console=quiet_console())
    with pytest.raises(InputError, match="is not an empty folder"):
        run_demo(keep=tmp_path / "thesis.txt", console=quiet_console())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def failing(command, arguments, environment, log_file, on_line):
    log_file.write_text("what went wrong\n")
    raise StockCommandError(f"{command} ended with exit code 1")


def test_a_failed_command_leaves_its_log_where_the_demo_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "run_stock", failing)
    with pytest.raises(StockCommandError, match="nnUNetv2_plan_and_preprocess"):
        run_demo(2, tmp_path / "kept", console=quiet_console())
    assert (tmp_path / "kept" / "logs" / "1_plan_and_preprocess.log").read_text() == "what went wrong\n"


def test_a_failed_command_leaves_its_log_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "run_stock", failing)
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in (demo.LOGS_NAME, f"{demo.LOGS_NAME}-2"):
        console = quiet_console()
        with pytest.raises(StockCommandError):
            run_demo(2, console=console)
        assert not list(temporary.iterdir())
        assert (here / name / "1_plan_and_preprocess.log").read_text() == "what went wrong\n"
        assert isinstance(console.file, io.StringIO)
        assert f"The logs are kept in {here / name}\n" in console.file.getvalue()


def test_a_folder_that_cannot_be_made_is_refused():
    with pytest.raises(InputError, match=r"cannot make the folder .*file_in_the_way"):
        run_demo(keep=Path(__file__) / "file_in_the_way", console=quiet_console())


@pytest.mark.skipif(os.name != "posix", reason="needs a current folder that can be removed")
def test_a_current_folder_that_takes_no_picture_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    console = quiet_console()
    with pytest.raises(InputError, match="cannot write to the current folder"):
        run_demo(2, console=console)
    assert isinstance(console.file, io.StringIO)
    assert not console.file.getvalue()


@pytest.mark.slow
def test_the_demo_runs_through_the_stock_commands_in_its_own_folders(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.setenv("PYTHONPATH", one_import())
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(mine))
    before = dict(os.environ)
    console = quiet_console()

    result = run_demo(2, tmp_path / "kept", epochs=1, iterations=2, console=console)

    assert dict(os.environ) == before
    assert not list(mine.iterdir())
    assert result.folder is not None
    assert result.folder == tmp_path / "kept" and result.overlay == tmp_path / "kept" / demo.OVERLAY_NAME
    assert result.overlay.read_bytes().startswith(b"\x89PNG")
    assert set(result.dice) == set(demo.TRAINERS)
    for values in result.dice.values():
        assert set(values) == set(ORGANS)
        assert all(0 <= value <= 1 for value in values.values())
    logs = sorted(path.name for path in (result.folder / "logs").iterdir())
    assert logs == ["1_plan_and_preprocess.log", "2_train.log", "3_predict.log", "4_train.log", "5_predict.log"]
    (preprocessed,) = (result.folder / "preprocessed").iterdir()
    assert [path.name for path in preprocessed.glob("nnUNetPlans_*")] == ["nnUNetPlans_2d"]
    for base in demo.TRAINERS.values():
        name = f"{base}_1epochs_2its_NoMirroring"
        assert len(list((result.folder / "predictions" / name).glob("*.nii.gz"))) == 4
        assert list((result.folder / "results").glob(f"*/{name}__{demo.PLANS_NAME}__2d/fold_0/checkpoint_final.pth"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "$ nnUNetv2_train 900 2d 0 -p nnUNetPlansDemo -tr nnUNetTrainerGASA_1epochs_2its_NoMirroring" in text
    assert "Mean Dice over 4 held-out cases" in text
