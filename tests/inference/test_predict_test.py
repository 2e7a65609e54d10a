"""`nnunet-attn predict-test`, with a stand-in for the stock commands: what is run, kept and skipped."""

import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

from nnunet_attn.cli import main
from nnunet_attn.commands.predict_test import _print
from nnunet_attn.errors import InputError
from nnunet_attn.inference import predict_test as module
from nnunet_attn.inference.predict_test import PredictedTest, predict_test
from nnunet_attn.inference.predict_test_files import claimed
from nnunet_attn.stock import StockCommandError
from tests.made.evaluations import made_evaluation
from tests.made.predict_test import CASES, DATASET, TRAINERS, Stock, label, model_of, request, write_model


def after(words: Sequence[str], flag: str, count: int = 1) -> list[str]:
    return list(words[words.index(flag) + 1 : words.index(flag) + 1 + count])


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_predicts_as_the_stock_command_and_evaluates(
    root: Path, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-d", "7", "-tr", *TRAINERS, "-c", "3d_fullres", "-device", "cpu", "-npp", "2", "-nps", "1"]
    assert main(["predict-test", *words]) == 0
    output = [model_of(root, trainer) / "test_attn_folds_0_1_2_3_4" for trainer in TRAINERS]
    assert len(stock.commands) == 2
    for command, trainer, folder in zip(stock.commands, TRAINERS, output, strict=True):
        assert command[0] == "nnUNetv2_predict" and after(command, "-tr") == [trainer]
        assert after(command, "-i") == [str(root / "raw" / DATASET / "imagesTs")]
        assert after(command, "-f", 5) == list("01234") and after(command, "-chk") == ["checkpoint_final.pth"]
        assert (after(command, "-npp"), after(command, "-nps")) == (["2"], ["1"])
        assert not {"--continue_prediction", "--disable_tta", "--save_probabilities"} & set(command)
        assert {f"{case}.nii.gz" for case in CASES} <= {path.name for path in folder.iterdir()}
        assert leftovers(folder.parent) == leftovers(folder) == []
        summary = json.loads((folder / "summary_attn.json").read_text())
        assert summary["foreground_mean"]["dice"]["mean"] == 1.0
        wanted = {
            "kind": "folder",
            "dataset": DATASET,
            "trainer": trainer,
            "ensemble": "logits",
            "folds": [0, 1, 2, 3, 4],
        }
        assert wanted.items() <= summary["origin"].items() and len(summary["origin"]["plans_digest"]) == 64
    printed = capsys.readouterr().out
    assert "1.0000" in printed and f"nnunet-attn compare -d 7 -tr {' '.join(TRAINERS)} --test\n" in printed
    # once more: nothing is run, what is there is shown
    assert main(["predict-test", *words]) == 0
    assert len(stock.commands) == 2
    assert f"{TRAINERS[0]}: 3 cases, 3 of them predicted before: {output[0]}\n" in capsys.readouterr().out


def test_names_stay_whole_where_there_is_no_terminal(tmp_path: Path) -> None:
    names = [f"nnUNetTrainer{letter * 90}" for letter in "AB"]
    evaluation = made_evaluation({"organ": {name: [0.5] for name in ("dice", "nsd", "hd95_mm", "assd_mm")}})
    predicted = [PredictedTest(name, tmp_path / name, ("a",), 1, evaluation) for name in names]
    written = io.StringIO()
    _print(predicted, Console(file=written, soft_wrap=True), request(trainers=tuple(names), ensemble="softmax"))
    table = written.getvalue().split("Means over")[1].split("Compare with")[0]
    assert all(any(name in line and "0.5000" in line for line in table.splitlines()) for name in names)
    assert "--ensemble softmax --test" in " ".join(written.getvalue().split())
    written = io.StringIO()
    _print(predicted, Console(file=written, soft_wrap=True), request(trainers=tuple(names), mirroring=False))
    assert f"compare {tmp_path}" in " ".join(written.getvalue().split())


def test_settings_are_in_the_name_and_in_the_command(root: Path, stock: Stock) -> None:
    for fold in range(2):
        shutil.copy(*(model_of(root) / f"fold_{fold}" / f"checkpoint_{kind}.pth" for kind in ("final", "best")))
    changed = {"folds": (0, 1), "checkpoint": "checkpoint_best.pth", "grid": True, "mirroring": False}
    (result,) = predict_test(request(**changed))
    assert result.folder == model_of(root) / "test_attn_folds_0_1_best_grid_notta"
    (command,) = stock.commands
    assert command[:2] == ["nnunet-attn", "predict"]
    assert "--disable_tta" in command and after(command, "-chk") == ["checkpoint_best.pth"]
    (single,) = predict_test(request(folds=(2,), evaluate=False))
    assert single.folder.name == "test_attn_folds_2" and single.evaluation is None


def test_softmax_predicts_apart_and_averages(root: Path, stock: Stock) -> None:
    (result,) = predict_test(request(ensemble="softmax", folds=(0, 1, 2)))
    assert result.folder.name == "test_attn_folds_0_1_2_softmax" and result.predicted == 3
    assert [command[0] for command in stock.commands] == ["nnUNetv2_predict"] * 3 + ["nnUNetv2_ensemble"]
    assert [after(command, "-f") for command in stock.commands[:3]] == [["0"], ["1"], ["2"]]
    assert all("--save_probabilities" in command for command in stock.commands[:3])
    assert {"dataset.json", "plans.json", *(f"{case}.nii.gz" for case in CASES)} <= set(os.listdir(result.folder))
    assert not list(result.folder.rglob("*.npz")) and not list(result.folder.glob("fold_*"))
    assert result.evaluation is not None and result.evaluation.origin.ensemble == "softmax"
    (kept,) = predict_test(request(ensemble="softmax", folds=(3, 4), keep_probabilities=True))
    assert len(list(kept.folder.glob("fold_*/*.npz"))) == 6


@pytest.mark.parametrize(
    ("ensemble", "die_after"), [("logits", 0), ("logits", 2), ("softmax", 0), ("softmax", 2), ("softmax", 4)]
)
def test_a_killed_run_is_continued(root: Path, monkeypatch: pytest.MonkeyPatch, ensemble: str, die_after: int) -> None:
    killed = Stock(die_after)
    monkeypatch.setattr(module, "run_stock", killed)
    wanted = request(ensemble=ensemble, folds=(0, 1))
    with pytest.raises(StockCommandError, match="killed"):
        predict_test(wanted)
    assert not list(model_of(root).glob("test_*"))
    again = Stock()
    monkeypatch.setattr(module, "run_stock", again)
    (result,) = predict_test(wanted)
    # the prediction that was cut off is made anew, those before it are not
    assert len(killed.predicted) == die_after
    assert [*killed.predicted, *again.predicted] == list(CASES) * (1 if ensemble == "logits" else 2)
    reader = sitk.ReadImage
    for case in CASES:
        assert np.array_equal(sitk.GetArrayFromImage(reader(result.folder / f"{case}.nii.gz")), label(case))
    assert leftovers(result.folder.parent) == []


def test_a_kill_while_averaging_predicts_nothing_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledWhileAveraging(Stock):
        def _ensemble(self, words: list[str], output: Path, on_line: Callable[[str], None]) -> None:
            super()._ensemble(words, output, on_line)
            (output / "a.nii.gz").write_bytes(b"")
            raise StockCommandError("killed")

    monkeypatch.setattr(module, "run_stock", KilledWhileAveraging())
    with pytest.raises(StockCommandError, match="killed"):
        predict_test(request(ensemble="softmax"))
    again = Stock()
    monkeypatch.setattr(module, "run_stock", again)
    predict_test(request(ensemble="softmax"))
    assert [command[0] for command in again.commands] == ["nnUNetv2_ensemble"]


def test_a_command_that_leaves_something_out_is_no_success(
    root: Path, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_out(*words: Any) -> str:
        stock(*words)
        output = Path(stock.commands[-1][stock.commands[-1].index("-o") + 1])
        (output / "b.nii.gz").unlink()
        return ""

    monkeypatch.setattr(module, "run_stock", leave_out)
    with pytest.raises(StockCommandError, match=r"1 of 3 predictions in .* are not whole, the first is b;"):
        predict_test(request())
    assert not list(model_of(root).glob("test_*"))


def test_only_what_changed_is_predicted_anew(root: Path, stock: Stock) -> None:
    (first,) = predict_test(request())
    image = root / "raw" / DATASET / "imagesTs" / "b_0000.nii.gz"
    os.utime(image, (1, 1))
    (second,) = predict_test(request())
    assert stock.predicted == [*CASES, "b"] and second.predicted == 1
    assert "--continue_prediction" in stock.commands[-1]
    # another checkpoint is another model: nothing is lost without being asked for
    os.utime(model_of(root) / "fold_3" / "checkpoint_final.pth", (1, 1))
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    with pytest.raises(InputError, match=r"was predicted with another state of the checkpoints; .* add --overwrite"):
        predict_test(request())
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before
    (third,) = predict_test(request(overwrite=True))
    assert third.predicted == 3 and stock.predicted == [*CASES, "b", *CASES]
    # a case that is no more there is taken away
    for name in ("imagesTs/c_0000", "labelsTs/c"):
        (root / "raw" / DATASET / f"{name}.nii.gz").unlink()
    (fourth,) = predict_test(request())
    assert fourth.cases == ("a", "b") and fourth.predicted == 0
    assert sorted(path.name for path in fourth.folder.glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]


def test_overwriting_keeps_the_old_until_the_new_is_complete(root: Path, stock: Stock) -> None:
    (first,) = predict_test(request())
    os.utime(model_of(root) / "fold_0" / "checkpoint_final.pth", (1, 1))
    stock.die_after = 4
    with pytest.raises(StockCommandError, match="killed"):
        predict_test(request(overwrite=True))
    assert {f"{case}.nii.gz" for case in CASES} <= {path.name for path in first.folder.iterdir()}
    with pytest.raises(InputError, match="add --overwrite"):
        predict_test(request())
    # the same command goes on, and once it is complete it begins anew
    stock.die_after = None
    (second,) = predict_test(request(overwrite=True))
    assert second.predicted == 2 and stock.predicted == [*CASES, "a", "b", "c"]
    assert leftovers(second.folder.parent) == []
    (third,) = predict_test(request(overwrite=True))
    assert third.predicted == 3


def test_what_was_not_finished_can_be_begun_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for die_after, overwrite in ((2, False), (1, True), (None, False)):
        stock = Stock(die_after)
        monkeypatch.setattr(module, "run_stock", stock)
        if die_after is None:
            predict_test(request(overwrite=overwrite))
        else:
            with pytest.raises(StockCommandError, match="killed"):
                predict_test(request(overwrite=overwrite))
    assert stock.predicted == ["b", "c"]


def test_the_place_can_be_chosen(root: Path, stock: Stock, tmp_path: Path) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    assert [each.folder for each in predict_test(request(output=output))] == [output]
    above = tmp_path / "several"
    results = predict_test(request(output=above, trainers=TRAINERS))
    assert [each.folder for each in results] == [above / trainer for trainer in TRAINERS]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.nii.gz").write_text("mine")
    with pytest.raises(InputError, match="holds files that this command did not make"):
        predict_test(request(output=tmp_path / "other", overwrite=True))


def test_a_full_disk_is_named_and_what_is_there_is_kept(
    root: Path, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(InputError, match=r"cannot write .* \(No space left on device\)"),
    ):
        patch.setattr(module.shutil, "copy", refuse)
        predict_test(request(ensemble="softmax", folds=(0, 1)))
    assert stock.predicted == list(CASES) * 2
    predict_test(request(ensemble="softmax", folds=(0, 1)))
    assert stock.predicted == list(CASES) * 2


def test_a_second_run_at_the_same_time_is_refused(root: Path, stock: Stock) -> None:
    with (
        claimed(model_of(root) / "test_attn_folds_0_1_2_3_4"),
        pytest.raises(InputError, match="another run of this command predicts into"),
    ):
        predict_test(request())
    assert not stock.commands
    predict_test(request())


def test_a_cascade_reads_what_its_first_stage_predicted(root: Path, stock: Stock) -> None:
    write_model(root, TRAINERS[0], "3d_cascade_fullres")
    cascade = request(configuration="3d_cascade_fullres", ensemble="softmax")
    remedy = (
        "first run: nnunet-attn predict-test -d 7 -tr nnUNetTrainer -c 3d_lowres -p nnUNetPlans -f 0 1 2 3 4 "
        "-chk checkpoint_final.pth -device cpu --ensemble softmax"
    )
    with pytest.raises(InputError, match=remedy):
        predict_test(cascade)
    write_model(root, TRAINERS[0], "3d_lowres")
    (first,) = predict_test(request(configuration="3d_lowres", ensemble="softmax"))
    predict_test(cascade)
    assert after(stock.commands[-2], "-prev_stage_predictions") == [str(first.folder)]
    with pytest.raises(InputError, match="3d_fullres is no cascade; leave it out"):
        predict_test(request(previous=first.folder))
    given = request(configuration="3d_cascade_fullres", previous=first.folder)
    predict_test(given)
    (first.folder / "b.nii.gz").unlink()
    with pytest.raises(InputError, match="has no prediction of 1 of the 3 cases, the first is b"):
        predict_test(given)


def test_without_labels_nothing_is_evaluated(root: Path, stock: Stock, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(root / "raw" / DATASET / "labelsTs")
    assert main(["predict-test", "-d", "7", "-tr", TRAINERS[0], "-c", "3d_fullres", "-device", "cpu"]) == 0
    assert "Nothing was evaluated: the data set has no labels in labelsTs" in capsys.readouterr().out
