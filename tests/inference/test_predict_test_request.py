"""What `nnunet-attn predict-test` refuses before anything runs, and which files it takes for whole."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from skimage.io import imsave

from nnunet_attn.cli import main
from nnunet_attn.errors import InputError
from nnunet_attn.inference.predict_test import predict_test
from nnunet_attn.inference.predict_test_files import claimed, is_whole
from nnunet_attn.inference.predict_test_request import cases_in
from tests.made.predict_test import DATASET, TRAINERS, Stock, label, model_of, request, write_label


def test_all_that_is_missing_is_said_before_anything_runs(root: Path, stock: Stock) -> None:
    shutil.rmtree(model_of(root) / "fold_3")
    (model_of(root) / "fold_1" / "checkpoint_final.pth").unlink()
    wanted = request(trainers=("nnUNetTrainerNowhere", *TRAINERS, "nnUNetTrainer_1epoch"))
    with pytest.raises(InputError) as error:
        predict_test(wanted)
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and not stock.commands
    assert "does not find the trainer 'nnUNetTrainerNowhere'" in lines[0]
    assert "has no checkpoint_final.pth of fold 1, 3; give those that are there: -f 0 2 4" in lines[1]
    assert "there is no model folder" in lines[2] and "nnUNetTrainer_1epoch" in lines[2]
    assert not [path for path in root.rglob("test_attn*")]


def _no_images(raw: Path) -> None:
    shutil.rmtree(raw / "imagesTs")


def _no_label(raw: Path) -> None:
    (raw / "labelsTs" / "b.nii.gz").unlink()


def _no_image(raw: Path) -> None:
    (raw / "imagesTs" / "b_0000.nii.gz").unlink()


def _two_channels(raw: Path) -> None:
    shutil.copy(raw / "imagesTs" / "b_0000.nii.gz", raw / "imagesTs" / "b_0001.nii.gz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_images, "imagesTs has no images to predict; put the test images there"),
        (_no_label, "1 of the cases in .* have no label, the first is b; .* --no-evaluation"),
        (_no_image, "1 of the cases in .* have no image, the first is b"),
        (_two_channels, r"the case b has b_0000\.nii\.gz, b_0001\.nii\.gz, but the network was trained on 1 channels"),
    ],
)
def test_wrong_test_cases_are_named(root: Path, stock: Stock, change: Callable[[Path], None], message: str) -> None:
    change(root / "raw" / DATASET)
    with pytest.raises(InputError, match=message) as error:
        predict_test(request(trainers=TRAINERS))
    assert str(error.value).count("\n") == 0 and not stock.commands


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trainers": ()}, "-tr : give each trainer once, and at least one"),
        ({"trainers": ("a", "a")}, "-tr a a: give each trainer once"),
        ({"folds": (1, 1)}, "-f 1 1: give each fold once"),
        ({"export_processes": 0}, "-npp 3 -nps 0: both must be at least 1"),
        ({"keep_probabilities": True}, "--keep-probabilities keeps what --ensemble softmax averages"),
        ({"dataset": "8"}, "-d 8: nnU-Net's folders have no data set"),
        ({"plans": "Other"}, "there is no model folder"),
        ({"checkpoint": "best.pth"}, r"has no best\.pth of fold 0, 1, 2, 3, 4"),
    ],
)
def test_wrong_requests_are_named(root: Path, stock: Stock, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict_test(request(**changed))
    assert not stock.commands


@pytest.mark.parametrize("ending", [5, None, ""])
def test_a_file_ending_that_is_no_text_is_named(root: Path, stock: Stock, ending: object) -> None:
    file = model_of(root) / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "file_ending": ending}))
    with pytest.raises(InputError, match=rf"dataset\.json: file_ending is {ending!r}, not a text such as \.nii\.gz"):
        predict_test(request())
    assert not stock.commands


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")
def test_a_lock_that_its_run_has_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    output, flock, opened = tmp_path / "out", fcntl.flock, []

    def late(stream: Any, flags: int) -> None:
        if not opened:  # between our opening and locking the run that made the file ends, and another one begins
            (tmp_path / ".out.lock").unlink()
            (tmp_path / ".out.lock").touch()
        opened.append(stream)
        flock(stream, flags)

    monkeypatch.setattr(fcntl, "flock", late)
    with claimed(output):
        assert len(opened) == 2
        monkeypatch.undo()
        with pytest.raises(InputError, match="another run of this command"), claimed(output):
            pass
    assert not list(tmp_path.iterdir())


def test_a_fold_is_a_number(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict-test", "-d", "7", "-tr", "a", "-c", "2d", "-f", "0", "x"]) == 2
    assert "-f x: a fold is a number from 0, or all" in capsys.readouterr().err


def test_files_that_end_too_early_are_not_whole(tmp_path: Path) -> None:
    for name, reader in (("x.nii.gz", SimpleITKIO), ("x.nii", SimpleITKIO), ("x.mha", SimpleITKIO)):
        write_label(label("a"), tmp_path / name)
        _check_cut(tmp_path / name, reader)
    imsave(tmp_path / "x.png", np.arange(4800, dtype=np.uint8).reshape(60, 80) % 7, check_contrast=False)
    _check_cut(tmp_path / "x.png", NaturalImage2DIO)
    # whole as a file, but a checksum that does not fit
    file = tmp_path / "wrong.nii.gz"
    content = bytearray(gzip.compress(b"content" * 99))
    content[-8] ^= 1
    file.write_bytes(content)
    assert not is_whole(file, SimpleITKIO)


def _check_cut(file: Path, reader: type[Any]) -> None:
    assert is_whole(file, reader)
    content = file.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 30):
        file.write_bytes(content[:size])
        assert not is_whole(file, reader), (file.name, size)


def test_cases_of_colour_images_have_one_file(tmp_path: Path) -> None:
    for name in ("a_0000.png", "b_0000.png", "notes.txt"):
        (tmp_path / name).touch()
    assert {case: len(files) for case, files in cases_in(tmp_path, ".png", 3).items()} == {"a": 1, "b": 1}
    (tmp_path / "b_0001.png").touch()
    with pytest.raises(InputError, match="the case b has"):
        cases_in(tmp_path, ".png", 3)
