import io
import json
import math
import os
import tempfile

import numpy as np
import pytest
from rich.console import Console

from nnunet_attn import demo
from nnunet_attn.demo import ORGANS, best_slice, demo_plans, dice, dice_table, epoch_in, run_demo
from nnunet_attn.errors import InputError
from nnunet_attn.stock import StockCommandError

PLANS = {
    "dataset_name": "Dataset900_Phantom",
    "plans_name": "nnUNetPlans",
    "configurations": {
        "2d": {"data_identifier": "nnUNetPlans_2d"},
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "batch_size": 11,
            "patch_size": [16, 32, 48],
            "architecture": {"arch_kwargs": {"n_stages": 3, "features_per_stage": [32, 64, 320]}},
        },
    },
}


def quiet_console() -> Console:
    return Console(file=io.StringIO(), width=120)


def test_dice_by_hand():
    reference = np.array([[1, 1, 1, 0], [2, 0, 0, 0]])
    prediction = np.array([[1, 1, 0, 1], [0, 0, 0, 3]])
    assert dice(reference, prediction, 1) == pytest.approx(2 * 2 / (3 + 3))
    assert dice(reference, prediction, 2) == 0
    assert dice(reference, prediction, 3) == 0
    assert math.isnan(dice(reference, prediction, 4))


def test_derived_plans_are_small_and_need_no_preprocessing():
    before = json.dumps(PLANS)
    derived = demo_plans(PLANS, "3d_fullres")
    assert derived["plans_name"] == demo.PLANS_NAME
    assert list(derived["configurations"]) == ["3d_fullres"]
    configuration = derived["configurations"]["3d_fullres"]
    assert configuration["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert configuration["batch_size"] == 2
    assert configuration["patch_size"] == [16, 32, 48]
    # 32 / 16 = 2
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [16, 32, 160]
    assert json.dumps(PLANS) == before


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


def test_a_failed_command_leaves_its_log_where_the_demo_is_kept(tmp_path, monkeypatch):
    def failing(command, arguments, environment, log_file, on_line):
        log_file.write_text("what went wrong\n")
        raise StockCommandError(f"{command} ended with exit code 1")

    monkeypatch.setattr(demo, "run_stock", failing)
    with pytest.raises(StockCommandError, match="nnUNetv2_plan_and_preprocess"):
        run_demo(2, tmp_path / "kept", console=quiet_console())
    assert (tmp_path / "kept" / "logs" / "1_plan_and_preprocess.log").read_text() == "what went wrong\n"

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(StockCommandError):
        run_demo(2, console=quiet_console())
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.slow
def test_the_demo_runs_through_the_stock_commands_in_its_own_folders(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
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
