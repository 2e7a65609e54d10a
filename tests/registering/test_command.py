"""`nnunet-attn register`: what its flags ask for, what it prints and writes, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.cli import main
from nnunet_attn.registering import show, writing
from tests.made.unsorted import CASES, ct, organ, write_picture, write_pictures, write_scans, write_volume

Register = Callable[..., tuple[int, str, str]]
FOLDERS = ("--images", "scans", "--labels", "masks")


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Register:
    """Run the command in a folder of loose files; returns its exit code and what it printed.

    Without nnU-Net's check, which takes seconds and is tried by the page's test.
    """
    monkeypatch.chdir(tmp_path)
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setattr(writing, "check_integrity", lambda *_: None)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["register", *words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def described(tmp_path: Path, name: str) -> dict[str, Any]:
    return json.loads((tmp_path / "raw" / name / "dataset.json").read_text())


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_dry_run_shows_everything_and_writes_nothing(tmp_path: Path, register: Register) -> None:
    write_scans(tmp_path, values=(3, 255))
    code, printed, _ = register("-d", "7", "-n", "Liver", *FOLDERS, "--dry-run")
    assert code == 0 and not (tmp_path / "raw").exists()
    for part in (
        "Dataset007_Liver: 6 cases for training; 3D, 1 channel",
        "labels: background = 0, label_1 = 1, label_2 = 2",
        "values of labels (source -> new): 0 -> 0, 3 -> 1, 255 -> 2",
        "--label label_1=1 label_2=2",
        "--channels CT",
        "normalises it image by image",
        "scans/anna_1.nii.gz  masks/anna_1_seg.nii.gz  copy, remap labels",
        '"file_ending": ".nii.gz"',
        "Nothing was written",
    ):
        assert part in printed, printed


def test_many_cases_are_shortened_unless_all_are_asked_for(tmp_path: Path, register: Register) -> None:
    write_pictures(tmp_path, values=(255,), number=23)
    words = ("-d", "7", "-n", "X", "--pattern", "xray/{case}.png", "--label-pattern", "xray/{case}_mask.png")
    printed = register(*words, "--dry-run")[1]
    assert printed.count("_mask.png") == 20 and "... and 3 more; --all shows them" in printed
    assert register(*words, "--dry-run", "--all")[1].count("_mask.png") == 23


def test_writes_the_data_set_and_says_what_to_type_next(tmp_path: Path, register: Register) -> None:
    write_scans(tmp_path)
    code, printed, _ = register(
        *("-d", "7", "-n", "Liver", "--csv", "cases.csv", "--channels", "CT", "--label", "liver=1", "tumour=2"),
        *("--test", "2", "--seed", "3"),
    )
    assert code == 0
    made = tmp_path / "raw" / "Dataset007_Liver"
    assert f"{made}: 4 cases for training, 2 held out; it passed" in printed
    assert "Plan with: nnUNetv2_plan_and_preprocess -d 7 --verify_dataset_integrity" in printed
    assert "nnunet-attn splits -d 7 --groups" in printed
    assert "4 cases for training; nnU-Net's five folds need 5" in printed
    assert described(tmp_path, made.name)["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    held_out = {name.removesuffix(".nii.gz") for name in files(made / "labelsTs")}
    assert len(held_out) == 2 and held_out < set(CASES)
    assert ("anna_1" in held_out) == ("anna_2" in held_out)
    assert files(made / "imagesTs") == sorted(f"{case}_0000.nii.gz" for case in held_out)
    assert len(files(made / "imagesTr")) == len(files(made / "labelsTr")) == 4
    case = sorted(set(CASES) - held_out)[0]
    assert (made / "imagesTr" / f"{case}_0000.nii.gz").read_bytes() == (tmp_path / f"scans/{case}.nii.gz").read_bytes()

    code, _, error = register("-d", "7", "-n", "Other", *FOLDERS)
    assert code == 2 and "Dataset007_Liver exists" in error


def test_lists_and_folders_hold_cases_out(tmp_path: Path, register: Register) -> None:
    write_scans(tmp_path)
    (tmp_path / "test.txt").write_text("bob_1\n")
    (tmp_path / "train.txt").write_text("anna_1\nanna_2.nii.gz\n")
    assert register("-d", "7", "-n", "A", *FOLDERS, "--test-list", "test.txt", "--train-list", "train.txt")[0] == 0
    made = tmp_path / "raw" / "Dataset007_A"
    assert (files(made / "labelsTr"), files(made / "labelsTs")) == (
        ["anna_1.nii.gz", "anna_2.nii.gz"],
        ["bob_1.nii.gz"],
    )

    (tmp_path / "new").mkdir()
    shutil.move(tmp_path / "scans" / "emil_1.nii.gz", tmp_path / "new" / "emil_1.nii.gz")
    assert register("-d", "8", "-n", "B", *FOLDERS, "--test-images", "new", "--raw", "raw")[0] == 0
    made = tmp_path / "raw" / "Dataset008_B"
    assert (files(made / "imagesTs"), files(made / "labelsTs")) == (["emil_1_0000.nii.gz"], ["emil_1.nii.gz"])


def test_regions_maps_and_the_ignored_value(tmp_path: Path, register: Register) -> None:
    write_pictures(tmp_path)
    words = ("--pattern", "xray/{case}.png", "--label-pattern", "xray/{case}_mask.png")
    options = (
        "--map",
        "100=1",
        "200=2",
        "--label",
        "both=1,2",
        "left=2",
        "--regions-order",
        "1",
        "2",
        "--ignore",
        "255",
    )
    assert register("-d", "7", "-n", "R", *words, *options)[0] == 0
    made = described(tmp_path, "Dataset007_R")
    assert made["labels"] == {"background": 0, "both": [1, 2], "left": 2, "ignore": 3}
    assert made["regions_class_order"] == [1, 2]
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "raw/Dataset007_R/labelsTr/0.png")))
    assert np.unique(label).tolist() == [0, 1, 2, 3]


def test_values_below_0_are_mapped_and_scribbles_leave_0_out(tmp_path: Path, register: Register) -> None:
    write_scans(tmp_path)
    write_volume(tmp_path / "masks" / "bob_1_seg.nii.gz", organ().astype(np.int16) - 2 * (organ() == 1))
    words = ("-d", "7", "-n", "L", *FOLDERS, "--dry-run")
    _, printed, error = register(*words, "--map=-1=2", "--map", "1=1", "2=1")
    assert "(source -> new): -1 -> 2, 0 -> 0, 1 -> 1, 2 -> 1" in printed, error
    printed = register(*words, "--map=-1=1", "--map", "1=0", "2=1", "--ignore", "0", "--label", "liver=1")[1]
    assert "(source -> new): -1 -> 1, 0 -> 2, 1 -> 0, 2 -> 1" in printed
    assert "labels: background = 0, liver = 1, ignore = 2" in printed and "in no case" not in printed


def test_help_says_how_values_below_0_are_mapped_and_what_is_mended(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["register", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "--map=-1=2" in printed and "by more than half a voxel" in printed


def test_cases_on_several_drives_are_shown_by_their_whole_paths(
    tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scans(tmp_path)

    def on_two_drives(_: object) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(show.os.path, "commonpath", on_two_drives)
    code, printed, error = register("-d", "7", "-n", "L", *FOLDERS, "--dry-run")
    assert code == 0, error
    assert "\nCases:\n" in printed and f"{tmp_path}/scans/anna_1.nii.gz  {tmp_path}/masks/anna_1_seg.nii.gz" in printed


def test_links_repairs_and_other_endings(tmp_path: Path, register: Register) -> None:
    write_scans(tmp_path)
    write_volume(tmp_path / "masks" / "bob_1_seg.nii.gz", organ(), origin=(0.5, 0.0, 0.0))
    words = ("-d", "7", "-n", "L", *FOLDERS, "--link", "symbolic")
    code, _, error = register(*words)
    assert code == 2 and "bob_1" in error and "--repair" in error and not (tmp_path / "raw" / "Dataset007_L").exists()
    code, printed, _ = register(*words, "--leave-out", "bob_1", "--dry-run")
    assert code == 0 and "5 cases for training" in printed and "bob_1" not in printed
    code, printed, _ = register(*words, "--repair")
    assert code == 0 and "1 case: bob_1" in printed
    made = tmp_path / "raw" / "Dataset007_L"
    assert (made / "labelsTr" / "anna_1.nii.gz").is_symlink()
    label = made / "labelsTr" / "bob_1.nii.gz"
    assert not label.is_symlink() and sitk.ReadImage(str(label)).GetOrigin() == (0.0, 0.0, 0.0)
    assert register("-d", "8", "-n", "L", *FOLDERS, "--repair", "--file-ending", ".nrrd")[0] == 0
    assert described(tmp_path, "Dataset008_L")["file_ending"] == ".nrrd"


def test_images_without_labels(tmp_path: Path, register: Register) -> None:
    for number in range(3):
        write_picture(tmp_path / f"i/{number}.png", np.full((8, 9, 3), 40 * number, np.uint8))
    code, printed, _ = register("-d", "7", "-n", "More", "--images", "i", "--unlabeled")
    assert (
        code == 0 and "3 cases for pre-training, without labels" in printed and "nnunet-attn pretrain -d 7" in printed
    )
    assert "channels are the colours" in printed
    assert list(described(tmp_path, "Dataset007_More")["channel_names"].values()) == ["R", "G", "B"]


def test_channels_of_4d_files_are_split_on_request(tmp_path: Path, register: Register) -> None:
    (tmp_path / "i").mkdir()
    for case in range(2):
        volumes = [sitk.GetImageFromArray(ct(10 * case + channel)) for channel in range(2)]
        sitk.WriteImage(sitk.JoinSeries(volumes), str(tmp_path / f"i/{case}.nii.gz"))
    words = ("-d", "7", "-n", "Two", "--images", "i", "--unlabeled", "--channels", "T1", "T2")
    code, _, error = register(*words, "--channels-in-file", "--dry-run")
    assert code == 0, error
    code, _, error = register(*words)
    assert code == 2 and error


def made_task(folder: Path, cases: int = 4) -> None:
    """Write a task in the layout of the Medical Segmentation Decathlon."""
    for number in range(cases):
        write_volume(folder / "imagesTr" / f"liver_{number}.nii.gz", ct(number))
        write_volume(folder / "labelsTr" / f"liver_{number}.nii.gz", organ())
    write_volume(folder / "imagesTs" / "liver_9.nii.gz", ct(9))
    content = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "training": [
            {"image": f"./imagesTr/liver_{n}.nii.gz", "label": f"./labelsTr/liver_{n}.nii.gz"} for n in range(cases)
        ],
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def test_a_known_layout_needs_no_names(tmp_path: Path, register: Register) -> None:
    made_task(tmp_path / "Task03_Liver")
    words = ("-d", "7", "--layout", "msd", "--source", "Task03_Liver")
    code, printed, error = register(*words, "--test", "1", "--dry-run")
    assert code == 0, error
    assert "Dataset007_Liver: 3 cases for training, 1 held out" in printed and "left out" in printed
    assert "3 cases for training, 1 held out" in register(*words, "--leave-out", "liver_2", "--dry-run")[1]
    # what is left out is not drawn: of two cases one is for training, whatever the seed
    for seed in "0123":
        draw = ("--test", "1", "--seed", seed, "--leave-out", "liver_2", "liver_3", "--dry-run")
        assert "1 case for training, 1 held out" in register(*words, *draw)[1]
    assert "'CT=X' does not go with --layout" in register(*words, "--channels", "CT=X")[2]
    assert register(*words, "-n", "Mine")[0] == 0
    made = described(tmp_path, "Dataset007_Mine")
    assert made["channel_names"] == {"0": "CT"} and made["labels"] == {"background": 0, "liver": 1, "cancer": 2}
    assert files(tmp_path / "raw" / "Dataset007_Mine" / "imagesTs") == ["liver_9_0000.nii.gz"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--images", "none"], ["none does not exist"]),
        (["--layout", "btvc", "--source", "."], ["'btvc' is not known", "btcv"]),
        (["--layout", "btcv"], ["--source is missing"]),
        (["--layout", "btcv", "--source", ".", "--label", "a=1"], ["--label does not go with --layout"]),
        ([*FOLDERS, "--source", "x"], ["--source goes with --layout, not with --images"]),
        (["--csv", "cases.csv", "--labels", "masks"], ["--labels goes with --images or --layout, not with --csv"]),
        ([*FOLDERS, "--case-name", "{case}"], ["--case-name goes with --pattern"]),
        ([*FOLDERS, "--test-labels", "masks"], ["--test-labels goes with --test-images"]),
        ([*FOLDERS, "--test", "1", "--test-list", "x"], ["give one kind"]),
        ([*FOLDERS, "--seed", "1"], ["--seed", "--test"]),
        ([*FOLDERS, "--test", "6"], ["no case would be left"]),
        (
            [*FOLDERS, "--test", "1", "--seed", "99999999999"],
            ["--seed 99999999999: give a number from 0 to 4294967295"],
        ),
        ([*FOLDERS, "--raw", "cases.csv", "--dry-run"], ["cannot make the folder cases.csv (File exists)"]),
        ([*FOLDERS, "--raw", "cases.csv/raw", "--dry-run"], ["cases.csv/raw (Not a directory): choose another one"]),
        ([*FOLDERS, "--raw", "r" * 256, "--dry-run"], ["(File name too long): choose another one"]),
        ([*FOLDERS, "--channels", "CT=X", "--channels-in-file"], ["'CT=X' does not go with --channels-in-file"]),
        ([*FOLDERS, "--label", "a=1,2", "b=2", "--regions-order", "2", "1"], ["1 stands for 'b', which has 2"]),
        ([*FOLDERS, "--leave-out", *CASES], ["--leave-out names every case: keep some"]),
        ([*FOLDERS, "--test-list", "none"], ["--test-list none cannot be read"]),
        ([*FOLDERS, "--label", "liver"], ["'liver'", "NAME=VALUE"]),
        ([*FOLDERS, "--label", "liver=1", "liver=2"], ["'liver' is there twice"]),
        ([*FOLDERS, "--label", "ignore=3"], ["--ignore VALUE"]),
        ([*FOLDERS, "--label", "liver=1", "tumour=3"], ["gaps"]),
        ([*FOLDERS, "--label", "liver=1", "all=1,2"], ["region", "order"]),
        ([*FOLDERS, "--map", "1:2"], ["'1:2'", "OLD=NEW"]),
        ([*FOLDERS, "--map", "1=1", "1=2"], ["1 becomes 1 already"]),
        ([*FOLDERS, "--map", "1=1"], ["2", "map"]),
        ([*FOLDERS, "--channels", "CT", "PET"], ["CT", "PET", "1 channel"]),
        ([*FOLDERS, "-np", "0"], ["-np 0"]),
        ([*FOLDERS, "--file-ending", ".txt"], ["'.txt'", ".nii.gz"]),
        (["--images", "scans"], ["anna_1", "no label", "--unlabeled"]),
    ],
)
def test_wrong_requests_are_one_line_on_stderr(
    tmp_path: Path, register: Register, words: list[str], parts: list[str]
) -> None:
    write_scans(tmp_path)
    code, _, error = register("-d", "7", "-n", "Liver", *words)
    assert code == 2 and error.startswith("nnunet-attn: error: ") and "Traceback" not in error
    assert all(part in error for part in parts), error
    assert not (tmp_path / "raw").exists() or not files(tmp_path / "raw")


def test_a_name_and_a_raw_folder_are_needed(
    tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scans(tmp_path)
    code, _, error = register("-d", "7", *FOLDERS)
    assert code == 2 and "-n is missing" in error
    for wrong in ("0", "1000"):
        assert "1 to 999" in register("-d", wrong, "-n", "A", *FOLDERS)[2]
        assert f"-d {wrong}: " in register("-d", wrong, "-n", "A", *FOLDERS)[2]
    assert "-n 'a b': a data set's name" in register("-d", "7", "-n", "a b", *FOLDERS)[2]
    monkeypatch.delenv("nnUNet_raw")
    code, _, error = register("-d", "7", "-n", "A", *FOLDERS)
    assert code == 2 and "nnUNet_raw is not set" in error
