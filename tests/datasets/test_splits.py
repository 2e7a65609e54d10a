"""The command `splits`: what it writes where, what it never changes, and what it refuses."""

import json
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.cli import main
from nnunet_attn.datasets import splits_files
from nnunet_attn.datasets.splits import add_cross_validation, add_reduced_splits, add_repeated_splits
from nnunet_attn.datasets.splits_files import RECORD_FILE, SPLITS_FILE, drawn_folds
from nnunet_attn.datasets.splits_folds import cross_validation
from nnunet_attn.errors import InputError
from tests.made.splits import CASES, DATASET, IDENTIFIERS, contents, nnunets_split, read, write_raw


def trained(folders: Path, *folds: int) -> Path:
    """Leave a result for each fold; returns the trainer's folder."""
    model = folders / "results" / DATASET / "nnUNetTrainerPlain__nnUNetPlans__2d"
    for fold in folds:
        (model / f"fold_{fold}").mkdir(parents=True)
        (model / f"fold_{fold}" / "checkpoint_latest.pth").touch()
    return model


@pytest.mark.parametrize("is_raw", [True, False])
def test_five_folds_are_nnunets_file_byte_for_byte(folders: Path, folder: Path, is_raw: bool) -> None:
    nnunets_split(folder, 0)
    nnunets = (folder / SPLITS_FILE).read_bytes()
    (folder / SPLITS_FILE).unlink()
    if is_raw:  # before planning nothing is in nnUNet_preprocessed yet
        folder.rename(folders / "away")
        write_raw(folders)
    report = add_cross_validation("7")
    assert report.made and report.added == (0, 1, 2, 3, 4) and report.cases == 23
    assert (folder / SPLITS_FILE).read_bytes() == nnunets
    assert sorted(contents(folder)) == sorted(
        [SPLITS_FILE, RECORD_FILE, *(() if is_raw else ("dataset.json", "nnUNetPlans.json"))]
    )
    kinds = [(each["kind"], each["part"], each["folds"]) for each in read(folder, RECORD_FILE)["folds"]]
    assert kinds == [("cross-validation", part, 5) for part in range(5)]
    before = contents(folder)
    assert not add_cross_validation("7").added and contents(folder) == before


def test_folds_are_added_behind_or_replace_what_is_untrained(folder: Path) -> None:
    nnunets_split(folder, 0)
    nnunets = (folder / SPLITS_FILE).read_bytes()
    report = add_repeated_splits("7", 3, 12, 6, 0)
    assert [fold.fold for fold in report.folds] == [5, 6, 7] == list(report.added)
    assert report.backup == folder / f"{SPLITS_FILE}.bak" and report.backup.read_bytes() == nnunets
    assert read(folder)[:5] == json.loads(nnunets)
    behind = (folder / SPLITS_FILE).read_bytes()
    report = add_repeated_splits("7", 3, 12, 6, 0, replace=True)
    assert [fold.fold for fold in report.folds] == [0, 1, 2]
    assert report.added == (0, 1, 2) and report.removed == (3, 4, 5, 6, 7)
    assert read(folder) == json.loads(behind)[5:]
    assert [each["fold"] for each in read(folder, RECORD_FILE)["folds"]] == [0, 1, 2]
    # no earlier file is lost
    assert (folder / f"{SPLITS_FILE}.bak").read_bytes() == nnunets
    assert (folder / f"{SPLITS_FILE}.bak2").read_bytes() == behind


def test_folds_with_results_keep_their_cases(folders: Path, folder: Path) -> None:
    nnunets_split(folder, 0)
    model = trained(folders, 1)
    before = contents(folder)
    with pytest.raises(InputError, match=r"fold 1 would hold other cases.*__2d/fold_1; move them away"):
        add_repeated_splits("7", 3, 12, 6, 0, replace=True)
    with pytest.raises(InputError, match="fold 1 would hold other cases"):
        add_cross_validation("7", 4, replace=True)
    assert contents(folder) == before
    # the same content may be written again, with others around it
    add_repeated_splits("7", 3, 12, 6, 0)
    assert add_cross_validation("7", replace=True).removed == (5, 6, 7)
    assert contents(folder)[SPLITS_FILE] == before[SPLITS_FILE]
    # fold 6 was not in the file: nnU-Net trained it on a random part of the cases
    trained(folders, 6)
    with pytest.raises(InputError, match=r"fold 6 would hold other cases"):
        add_repeated_splits("7", 3, 12, 6, 0)
    assert add_repeated_splits("7", 1, 12, 6, 0).added == (5,)
    # an empty folder is no result, and `all` is no fold of the file
    (model / "fold_1" / "checkpoint_latest.pth").unlink()
    (model / "fold_all").mkdir()
    (model / "fold_all" / "checkpoint_final.pth").touch()
    (model / "fold_6" / "checkpoint_latest.pth").unlink()
    assert add_cross_validation("7", 4, replace=True).added == (0, 1, 2, 3)


def test_results_without_a_file_are_of_nnunets_own_folds(folders: Path, folder: Path) -> None:
    trained(folders, 0, 3)
    with pytest.raises(InputError, match="folds 0, 3 would hold other cases than those they were trained on"):
        add_repeated_splits("7", 5, 12, 6, 0)
    assert not (folder / SPLITS_FILE).exists()
    assert add_cross_validation("7").made


def test_a_dry_run_writes_nothing(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(folders)
    assert main(["splits", "-d", "7", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "fold 4: 19 cases to train on, 4 to validate on\n  training: case_" in printed
    assert re.search(r"training: (case_\d\d, ){4}case_\d\d and 14 more\n", printed)
    assert re.search(r"validation: (case_\d\d(, )?){4}\n", printed)
    assert "Nothing was written" in printed
    assert not (folders / "preprocessed" / DATASET).exists()
    assert main(["splits", "-d", "7"]) == 0
    assert "Plan with: nnUNetv2_plan_and_preprocess -d 7\n" in capsys.readouterr().out


def test_says_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nnunets_split(folder, 0)
    assert main(["splits", "-d", "7", "--repeated", "2", "--train", "12", "--test", "6", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "fold 5: 12 cases to train on, 6 to test on\n" in printed
    assert "folds 0 to 4 stay as they are; to have these in their place, add --replace\n" in printed
    assert f"as it was before: {folder / SPLITS_FILE}.bak\n" in printed
    assert "nnUNetv2_train 7 CONFIGURATION 5 -tr TRAINER\n" in printed
    assert main(["splits", "-d", "7", "--folds", "4", "--dry-run"]) == 0
    assert "as it was before" not in capsys.readouterr().out  # nothing was kept


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("-d", "8", "--labels", "5"), ["-d 8", "nnUNetv2_plan_and_preprocess"]),
        (("-d", "Made", "--labels", "5"), ["-d Made", "no data set of this number or name"]),
        (("-d", "Dataset009_Other", "--labels", "5"), ["Dataset009_Other does not exist"]),
        (("-d", "7", "--labels", "24"), ["--labels 24", "from 2 to 23"]),
        (("-d", "7", "--labels", "5", "1"), ["--labels 1", "from 2 to 23"]),
        (("-d", "7", "--labels", "5", "-3"), ["--labels -3", "from 2 to 23"]),
        (("-d", "7", "--labels", "5", "5"), ["--labels 5 5", "each number once"]),
        (("-d", "7", "--labels", "5", "--seed", "-1"), ["--seed -1", "from 0"]),
        (("-d", "7", "--labels", "5", "--replace"), ["--labels are added behind", "leave out --replace"]),
        (("-d", "7", "--labels", "5", "--folds", "5"), ["--folds and --labels", "give one of them"]),
        (("-d", "7", "--labels", "5", "--stratify", "size"), ["--stratify is for the folds", "not for --labels"]),
        (("-d", "7", "--folds", "1"), ["--folds 1", "from 2 to 23"]),
        (("-d", "7", "--folds", "24"), ["--folds 24", "from 2 to 23"]),
        (("-d", "7", "--seed", str(2**32)), ["--seed 4294967296", "from 0 to 4294967295"]),
        (("-d", "7", "--repeated", "5"), ["--repeated, --train and --test go together"]),
        (("-d", "7", "--train", "5"), ["--repeated, --train and --test go together"]),
        (("-d", "7", "--repeated", "5", "--train", "20", "--test", "4"), ["are 24, but there are 23"]),
        (("-d", "7", "--repeated", "0", "--train", "2", "--test", "4"), ["--repeated 0", "at least 1"]),
        (("-d", "7", "--groups"), ["nnunet_attn_cases.json does not exist", "--groups FILE.csv"]),
        (("-d", "7", "--stratify", "site"), ["nnunet_attn_cases.json does not exist", "--stratify FILE.csv"]),
        (("-d", "7", "--stratify", "size"), ["is missing", "--stratify FILE.csv"]),
        (("-d", "7", "--groups", "gone.csv"), ["--groups: there is no file gone.csv", "columns case and patient"]),
    ],
)
def test_wrong_words_are_named_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], parts: list[str]
) -> None:
    before = contents(folder)
    assert main(["splits", *words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("nnunet-attn: error: ") and not printed.out
    assert all(part in printed.err for part in parts), printed.err
    assert contents(folder) == before


OLD_ENTRY = '{"labels": 5, "training": 4, "validation": 1, "seed": 0, "fold": "5", "kind": "reduced", "sha256": ""}'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (SPLITS_FILE, "[{", "cannot be read as JSON"),
        (SPLITS_FILE, "[]", "not a list of splits"),
        (SPLITS_FILE, '{"train": [], "val": []}', "not a list of splits"),
        (SPLITS_FILE, '[{"train": ["case_00"]}]', "not a list of splits"),
        (SPLITS_FILE, '[{"train": ["case_00", 3], "val": []}]', "not a list of splits"),
        (SPLITS_FILE, '[{"train": ["case_00", "gone"], "val": ["case_01"]}]', "fold 0 names gone, which is not among"),
        (SPLITS_FILE, '[{"train": ["case_00"], "val": ["case_01"]}]', "there are 2 cases to choose from"),
        (RECORD_FILE, "{", "cannot be read as JSON"),
        (RECORD_FILE, '{"folds": [{"labels": 5}]}', "not what nnunet-attn splits writes; remove it"),
        (RECORD_FILE, '{"folds": [' + OLD_ENTRY + "]}", "not what nnunet-attn splits writes; remove it"),
        ("nnUNetPlans.json", "{", "cannot be read as JSON"),
        ("nnUNetPlans.json", "{}", "has no preprocessed cases; run: nnUNetv2_plan_and_preprocess"),
    ],
)
def test_broken_files_are_named_and_stay(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    before = contents(folder)
    with pytest.raises(InputError, match=message):
        add_reduced_splits("7", [5], 0)
    assert contents(folder) == before


def test_wrong_preprocessed_data_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stray = folder / IDENTIFIERS[1] / "case_99.b2nd"
    stray.touch()
    with pytest.raises(InputError, match="only one of nnUNetPlans_2d and nnUNetPlans_3d_fullres has the case case_99"):
        add_reduced_splits("7", [5], 0)
    stray.rename(stray.with_suffix(".txt"))
    with pytest.raises(InputError, match="holds other files than nnU-Net's preprocessed cases"):
        add_reduced_splits("7", [5], 0)
    for path in folder.rglob("*_3d_fullres/*"):
        path.unlink()  # as if only 2d had been preprocessed
    for case in CASES[4:]:
        (folder / IDENTIFIERS[0] / f"{case}.b2nd").unlink()
    with pytest.raises(InputError, match="has 4 cases; nnU-Net's five folds need 5 at least"):
        add_reduced_splits("7", [3], 0)
    assert not (folder / SPLITS_FILE).exists() and not (folder / RECORD_FILE).exists()
    assert add_cross_validation("7", 4, dry_run=True).cases == 4
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(InputError, match="nnUNet_results is not set"):
        add_cross_validation("7", 4)
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(InputError, match="nnUNet_preprocessed is not set"):
        add_reduced_splits("7", [3], 0)


def test_a_raw_data_set_without_images_is_named(folders: Path) -> None:
    raw = write_raw(folders)
    for path in (raw / "imagesTr").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"imagesTr has no images \(\*\.nii\.gz\); put the training cases there"):
        add_cross_validation("7")


def test_a_failed_write_leaves_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nnunets_split(folder, 0)
    before = contents(folder)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nnunet_attn.datasets.splits_files.shutil.copy2", refuse)
    with pytest.raises(InputError, match=r"cannot write .*splits_final\.json.*No space left"):
        add_reduced_splits("7", [5], 0)
    assert contents(folder) == before


def test_folds_that_are_random_draws_are_told_from_parts_of_a_cross_validation(folder: Path) -> None:
    assert drawn_folds(folder, range(9)) == ()
    add_cross_validation("7")
    add_repeated_splits("7", 3, 12, 6, 0)
    add_reduced_splits("7", [5], 0)
    assert drawn_folds(folder, range(9)) == (5, 6, 7, 8) and drawn_folds(folder, (0, 6, 99)) == (6,)
    splits = read(folder)
    splits[6]["val"].pop()
    (folder / SPLITS_FILE).write_text(json.dumps(splits))
    assert drawn_folds(folder, range(9)) == (5, 7, 8), "another fold than the one that was drawn"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")
def test_two_runs_at_once_both_add_their_folds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nnunets_split(folder, 0)
    write, began, threads = splits_files._write, threading.Event(), []

    def slow(*arguments: Any) -> None:
        if not began.is_set():  # the first run has read the file: now another one begins
            began.set()
            threads.append(threading.Thread(target=add_repeated_splits, args=("7", 2, 12, 6, 1)))
            threads[0].start()
            threads[0].join(0.3)
        write(*arguments)

    monkeypatch.setattr(splits_files, "_write", slow)
    add_repeated_splits("7", 3, 12, 6, 0)
    threads[0].join(10)
    assert len(read(folder)) == 5 + 3 + 2
    assert [each["seed"] for each in read(folder, RECORD_FILE)["folds"]] == [0, 0, 0, 1, 1]


def test_a_raw_list_of_files_is_read(folders: Path) -> None:
    raw = write_raw(folders)
    description = json.loads((raw / "dataset.json").read_text())
    description["dataset"] = {case: {"images": [], "label": f"elsewhere/{case}.nii.gz"} for case in CASES[:7]}
    (raw / "dataset.json").write_text(json.dumps(description))
    report = add_cross_validation("7", 3)
    assert report.cases == 7 and read(folders / "preprocessed" / DATASET) == cross_validation(CASES[:7], 3)
