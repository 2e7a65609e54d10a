"""Splits with few labelled cases: nested, behind nnU-Net's own folds, and nothing else changes."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from nnunet_attn.cli import main
from nnunet_attn.datasets.splits import add_reduced_splits
from nnunet_attn.datasets.splits_files import RECORD_FILE, SPLITS_FILE
from nnunet_attn.datasets.splits_reduced import reduced_split
from tests.made.splits import CASES, contents, nnunets_split, read


def test_choices_are_nested_and_a_fifth_validates() -> None:
    splits = [reduced_split(CASES, labels, 3) for labels in range(2, len(CASES) + 1)]
    for labels, split in enumerate(splits, start=2):
        assert len(split["val"]) == max(1, labels // 5)
        assert len({*split["train"], *split["val"]}) == len(split["train"]) + len(split["val"]) == labels
    for smaller, larger in pairwise(splits):
        assert set(smaller["train"]) <= set(larger["train"]) and set(smaller["val"]) <= set(larger["val"])
    sizes = {labels: tuple(map(len, reduced_split(CASES, labels, 0).values())) for labels in (5, 10, 15)}
    assert sizes == {5: (4, 1), 10: (8, 2), 15: (12, 3)}


def test_the_seed_decides_and_the_order_of_cases_does_not() -> None:
    chosen = {str(reduced_split(CASES, 10, seed)) for seed in range(5)}
    assert len(chosen) == 5
    assert reduced_split(CASES[::-1], 10, 4) == reduced_split(CASES, 10, 4)
    # NumPy's RandomState, which never changes: figures with these splits can be repeated
    assert reduced_split(CASES, 5, 0) == {"train": ["case_01", "case_13", "case_20", "case_22"], "val": ["case_11"]}


def test_a_file_is_made_as_nnunet_makes_it(folder: Path) -> None:
    report = add_reduced_splits("7", [5, 10, 15], 0)
    assert report.made and report.cases == 23 and [fold.fold for fold in report.folds] == [5, 6, 7]
    ours = read(folder)
    (folder / SPLITS_FILE).unlink()
    nnunets_split(folder, 0)
    assert ours[:5] == read(folder) and len(ours) == 8
    assert ours[5:] == [reduced_split(CASES, labels, 0) for labels in (5, 10, 15)]
    assert not list(folder.glob(".*.part")) and not list(folder.glob("*.bak"))


def test_nnunets_file_is_continued_and_nnunet_reads_it(folder: Path) -> None:
    first = nnunets_split(folder, 3)
    before = (folder / SPLITS_FILE).read_bytes()
    add_reduced_splits("Dataset007_Made", [10], 1)
    assert (folder / f"{SPLITS_FILE}.bak").read_bytes() == before
    assert (folder / SPLITS_FILE).read_bytes().startswith(before.rstrip(b"\n]"))
    assert nnunets_split(folder, 3) == first
    training, validation = nnunets_split(folder, 5)
    assert {"train": training, "val": validation} == reduced_split(CASES, 10, 1)
    (entry,) = read(folder, RECORD_FILE)["folds"]
    assert len(entry.pop("sha256")) == 64
    assert entry == {"fold": 5, "kind": "reduced", "labels": 10, "seed": 1, "training": 8, "validation": 2}


def test_again_changes_nothing_and_more_is_appended(folder: Path) -> None:
    add_reduced_splits("7", [5, 10], 0)
    before = contents(folder)
    report = add_reduced_splits("7", [10, 5], 0)
    assert [fold.fold for fold in report.folds] == [6, 5] and not report.added and contents(folder) == before
    report = add_reduced_splits("7", [15, 5], 0)
    assert [fold.fold for fold in report.folds] == [7, 5] and report.added == (7,)
    report = add_reduced_splits("7", [5], 9)
    assert [fold.fold for fold in report.folds] == [8] and len(read(folder)) == 9
    assert read(folder)[:7] == json.loads(before[SPLITS_FILE])
    numbers = [(each["fold"], each["labels"], each["seed"]) for each in read(folder, RECORD_FILE)["folds"]]
    assert numbers == [(5, 5, 0), (6, 10, 0), (7, 15, 0), (8, 5, 9)]
    # the record follows the file, not the other way round
    (folder / RECORD_FILE).unlink()
    add_reduced_splits("7", [5], 9)
    assert [each["fold"] for each in read(folder, RECORD_FILE)["folds"]] == [8]
    (folder / SPLITS_FILE).unlink()
    add_reduced_splits("7", [10], 0)
    assert [(each["fold"], each["labels"]) for each in read(folder, RECORD_FILE)["folds"]] == [(5, 10)]


def test_own_splits_keep_what_they_hold_out(folder: Path) -> None:
    own = [{"train": list(CASES[:8]), "val": list(CASES[8:12]), "note": "mine"}]
    (folder / SPLITS_FILE).write_text(json.dumps(own))
    report = add_reduced_splits("7", [5, 12], 0)
    assert report.cases == 12 and report.added == (1, 2)
    splits = read(folder)
    assert splits[0] == own[0]
    assert {*splits[2]["train"], *splits[2]["val"]} == set(CASES[:12])


def test_with_patients_numbers_count_patients(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "patients.csv"
    patients = {case: f"p{index // 2}" for index, case in enumerate(CASES)}
    file.write_text("case,patient\n" + "".join(f"{case},{patient}\n" for case, patient in patients.items()))
    report = add_reduced_splits("7", [5, 10], 0, groups=file)
    small, large = read(folder)[5:]
    assert [fold.settings["labels"] for fold in report.folds] == [5, 10]
    parts = [{patients[case] for case in small[part]} for part in ("train", "val")]
    assert [len(part) for part in parts] == [4, 1] and not parts[0] & parts[1]
    assert set(small["train"]) <= set(large["train"]) and set(small["val"]) <= set(large["val"])
    # both cases of a patient are in, but for the one patient with a single case
    assert len(small["train"]) + len(small["val"]) in (9, 10)


def test_says_which_fold_is_which(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["splits", "-d", "7", "--labels", "5", "10"]) == 0
    printed = capsys.readouterr().out
    assert f"{folder / SPLITS_FILE} is new" in printed
    assert "5 labels (4 for training, 1 for validation) -> fold 5\n" in printed
    assert "10 labels (8 for training, 2 for validation) -> fold 6\n" in printed
    assert "nnUNetv2_train 7 CONFIGURATION 5 -tr TRAINER" in printed
    assert main(["splits", "-d", "7", "--labels", "5"]) == 0
    printed = capsys.readouterr().out
    assert "-> fold 5, there already\n" in printed and f"{folder / SPLITS_FILE} is as it was\n" in printed
