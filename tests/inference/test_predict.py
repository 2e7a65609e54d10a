"""`nnunet-attn predict`: all of nnUNetv2_predict's flags, and one line for what is wrong."""

import argparse
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference import predict_from_raw_data as stock
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_attn.cli import main
from nnunet_attn.inference.grid_predictor import GridPredictor
from nnunet_attn.paths import trainers_dir
from tests.made.attention import MadeModel, write_image, write_model
from tests.made.data import make_trainer, train_some
from tests.made.patch import patch_kind, small_network
from tests.made.plans import KINDS

TRAINER = "nnUNetTrainerPatchTransformer_1epochs_1its"


def flags(shown: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z]\w*", shown))


def test_help_shows_all_flags(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stock_end:
        patch.setattr(sys, "argv", ["nnUNetv2_predict", "-h"])
        stock.predict_entry_point()
    theirs = capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["predict", "-h"])
    ours = capsys.readouterr().out
    assert end.value.code == stock_end.value.code == 0
    assert "usage: nnunet-attn predict" in ours
    assert {"-i", "-o", "-step_size", "--disable_tta", "--continue_prediction"} <= flags(theirs)
    assert flags(ours) == flags(theirs) | {"--phases"}


def test_flags_are_checked_by_nnunets_parser(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, message in (
        (["-i", "a"], "arguments are required: -o, -d, -c"),
        (["-i", "a", "-o", "b", "-d", "1", "-c", "2d", "--phases", "x"], "--phases: invalid int value: 'x'"),
        (["-i", "a", "-o", "b", "-d", "1", "-c", "2d", "--fazes", "1"], "unrecognized arguments: --fazes 1"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["predict", *wrong])
        assert end.value.code == 2
        assert message in capsys.readouterr().err
    assert stock.nnUNetPredictor is nnUNetPredictor
    assert argparse.ArgumentParser.__module__ == "argparse"


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]) -> list[str]:
    """The words of a command that predicts with a trained network."""
    trainer_class = getattr(load_leaf("nnUNetTrainerPatchTransformer"), TRAINER)
    trainer: Any = make_trainer(trainer_class, patch_kind(), tmp_path / "root", monkeypatch)
    train_some(trainer)
    trainer.on_train_end()
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "case_0000.nii.gz").touch()
    folders = ["-i", str(tmp_path / "images"), "-o", str(tmp_path / "out")]
    return [*folders, "-d", "901", "-c", "3d_fullres", "-p", "nnUNetPlansMade", "-tr", TRAINER, "-f", "0"]


def changed(words: list[str], change: dict[str, str]) -> list[str]:
    options = dict(zip(words[::2], words[1::2], strict=True)) | {"-device": "cpu"} | change
    return [word for pair in options.items() for word in pair]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["case_0000.nii.gz", "other.nii.gz"], r"other.nii.gz is not named as nnU-Net names images, CASE_0000.nii.gz"),
        (["case_0000.png"], r"no image in .*images is named as nnU-Net names images, CASE_0000.nii.gz"),
    ],
)
def test_images_of_other_names_are_refused(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], message: str
) -> None:
    (tmp_path / "images" / "case_0000.nii.gz").unlink()
    for name in names:
        (tmp_path / "images" / name).touch()
    assert main(["predict", *changed(trained, {})]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"-c": "2d"}, r"there is no model folder .*__2d; correct .* train it: nnUNetv2_train 901 2d FOLD -p"),
        ({"-tr": "nnUNetTrainerPlain"}, r"there is no model folder .*nnUNetTrainerPlain__"),
        ({"-tr": "nnUNetTrainerFoo"}, r"nnU-Net does not find the trainer 'nnUNetTrainerFoo' .* doctor nnUNetTrainer"),
        ({"-d": "777"}, r"-d 777: nnU-Net's folders have no data set of this number"),
        ({"-f": "3"}, r"has no checkpoint_final.pth of fold 3; give those that are there: -f 0"),
        ({"-chk": "checkpoint_none.pth"}, r"has no checkpoint_none.pth of fold 0; train it, or give another -chk"),
        ({"-i": "nowhere"}, r"-i nowhere is no folder"),
        ({"--phases": "4"}, r"--phases must be 1 or 8 for PatchTransformer in 3D, got 4"),
        ({"--phases": "0"}, r"--phases must be 1, or 2 along each axis \(8 in 3D, 4 in 2D\), got 0"),
        pytest.param(
            {"-device": "cuda"},
            r"-device is cuda, but there is no CUDA here; add: -device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA"),
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(
    trained: list[str], capsys: pytest.CaptureFixture[str], change: dict[str, str], message: str
) -> None:
    threads = torch.get_num_threads()
    try:
        assert main(["predict", *changed(trained, change)]) == 2
    finally:
        torch.set_num_threads(threads)
    error = capsys.readouterr().err
    assert re.search(message, error) and error.startswith("nnunet-attn: error: ") and error.count("\n") == 1
    assert stock.nnUNetPredictor is nnUNetPredictor and sys.argv[0] != "nnunet-attn predict"


def test_the_phases_reach_the_predictor(trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def note(self: Any, *arguments: Any, **keywords: Any) -> None:
        seen.append((type(self), self.phases, type(self.network).__name__, self.use_mirroring))

    monkeypatch.setattr(nnUNetPredictor, "predict_from_files", note)
    threads = torch.get_num_threads()
    try:
        assert main(["predict", *changed(trained, {"--phases": "8"}), "--disable_tta"]) == 0
        assert main(["predict", *changed(trained, {})]) == 0
    finally:
        torch.set_num_threads(threads)
    assert [phases for _, phases, *_ in seen] == [8, 1]
    assert all(issubclass(kind, GridPredictor) and name == "PatchTransformer" for kind, _, name, _ in seen)
    assert [mirrors for *_, mirrors in seen] == [False, True]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command ends with."""
    threads = torch.get_num_threads()
    capsys.readouterr()
    try:
        assert main(["predict", *words]) == 2
    finally:
        torch.set_num_threads(threads)
    error = capsys.readouterr().err
    assert error.startswith("nnunet-attn: error: ") and error.count("\n") == 1
    return error


def test_checkpoints_that_cannot_be_used_are_one_line(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = (tmp_path / "root").rglob("checkpoint_final.pth")
    good = file.read_bytes()
    words = changed(trained, {})

    def said(file: Path = file, more: tuple[str, ...] = (), **change: Any) -> str:
        checkpoint = torch.load(file, weights_only=False)
        torch.save({key: value for key, value in {**checkpoint, **change}.items() if value is not None}, file)
        error = refused([*words, *more], capsys)
        file.write_bytes(good)
        assert str(file) in error
        return error

    # the same shapes, but other heads; and other shapes
    heads = said(network_weights=small_network(num_heads=4, head_dim=4).state_dict())
    assert "is not of the network that its trainer builds" in heads and "num_heads is 4 there and 2 here" in heads
    assert "size mismatch" in said(network_weights=small_network(embed_dim=32).state_dict())
    assert "has no 'network_weights'" in said(network_weights=None)
    assert "does not find nnUNetTrainerNone" in said(trainer_name="nnUNetTrainerNone")
    second = file.parent.with_name("fold_1") / file.name
    shutil.copytree(file.parent, second.parent)
    assert "fold_1" in said(second, ("-f", "0", "1"), network_weights=small_network(embed_dim=32).state_dict())
    for broken in (good[:1000], good[:-1000], b"", b"text"):
        file.write_bytes(broken)
        error = refused(words, capsys)
        assert f"{file} is damaged; copy the results folder again" in error
    file.write_bytes(good)
    plans = file.parents[1] / "plans.json"
    plans.write_text(plans.read_text()[:-100])
    assert f"{plans} is damaged" in refused(words, capsys)
    plans.unlink()
    assert f"{plans} does not exist" in refused(words, capsys)


def test_errors_of_another_kind_are_not_hidden(trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Strange(RuntimeError):
        pass

    def fail(*_: Any) -> None:
        raise Strange

    monkeypatch.setattr(stock, "determine_num_input_channels", fail)
    with pytest.raises(Strange):
        main(["predict", *changed(trained, {})])


def test_several_folds_leave_the_network_as_nnunet_does(trained: list[str], tmp_path: Path) -> None:
    (file,) = (tmp_path / "root").rglob("checkpoint_final.pth")
    second = file.parent.with_name("fold_1") / file.name
    shutil.copytree(file.parent, second.parent)
    checkpoint = torch.load(second, weights_only=False)
    torch.manual_seed(3)
    checkpoint["network_weights"] = small_network().state_dict()
    torch.save(checkpoint, second)
    first = torch.load(file, weights_only=False)["network_weights"]
    for kind in (GridPredictor, nnUNetPredictor):
        made: Any = kind(device=torch.device("cpu"), allow_tqdm=False)
        made.initialize_from_trained_model_folder(str(file.parents[1]), (0, "1"))
        assert len(made.list_of_parameters) == 2
        assert all(torch.equal(value, first[key]) for key, value in made.network.state_dict().items())


def test_a_pretraining_predicts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "nnUNetTrainerGASA_PretrainDenoise"
    made = write_model(tmp_path / "made", name, KINDS["3d"], monkeypatch)
    write_image(tmp_path / "images", "case", np.ones((20, 20, 20)))
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    folders = ["-i", str(tmp_path / "images"), "-o", str(tmp_path / "out")]
    assert f"{name} is a pre-training" in refused([*made.words, *folders], capsys)
    assert main(["attention-maps", *made.words, *folders]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"nnunet-attn: error: {name} is a pre-training: its network gives images")
    assert error.count("\n") == 1 and "-pretrained_weights" in error
    assert not list(tmp_path.rglob("*.nii.gz"))[1:], "the image alone"


def predicted(made: MadeModel, kind: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Predict a folder of images without further processes, by the stock command or ours."""
    output = images.parent / kind
    words = [*made.words, "-i", str(images), "-o", str(output), "-npp", "0", "-nps", "0"]
    threads = torch.get_num_threads()
    try:
        if kind == "ours":
            assert main(["predict", *words]) == 0
        else:
            monkeypatch.setattr(sys, "argv", ["nnUNetv2_predict", *words])
            stock.predict_entry_point()
    finally:
        torch.set_num_threads(threads)
    return output / "case.nii.gz"


# nnU-Net takes the mean of no voxel where only those that are not 0 count
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:Degrees of freedom", "ignore:invalid value")
@pytest.mark.parametrize("masked", [True, False])
def test_an_image_of_zeros_is_predicted_as_by_nnunet(
    masked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [masked]}
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    made = write_model(tmp_path / "made", "nnUNetTrainerPatchTransformer", KINDS["3d"], monkeypatch, **entry)
    write_image(tmp_path / "images", "case", np.zeros((20, 18, 22)), (1, 1.5, 0.8))
    for kind in ("stock", "ours"):
        found = sitk.ReadImage(str(predicted(made, kind, tmp_path / "images", monkeypatch)))
        assert found.GetSize() == (22, 18, 20) and set(np.unique(sitk.GetArrayFromImage(found))) <= {0, 1, 2}
