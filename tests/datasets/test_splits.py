"""Splits with few labelled cases: nested, behind nnU-Net's own folds, and nothing else changes."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_attn.cli import main
from nnunet_attn.datasets.splits import RECORD_FILE, SPLITS_FILE, add_reduced_splits, reduced_split
from nnunet_attn.errors import InputError
from nnunet_attn.paths import nnunet_environment

CASES = [f"case_{index:02d}" for index in range(23)]
IDENTIFIERS = ("nnUNetPlans_2d", "nnUNetPlans_3d_fullres")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preprocessed data set of 23 cases in two configurations, by its file names."""
    for key, value in nnunet_environment(tmp_path, base={}).items():
        monkeypatch.setenv(key, value)
    made = tmp_path / "preprocessed" / "Dataset007_Made"
    made.mkdir()
    plans = {"configurations": {name.split("_", 1)[1]: {"data_identifier": name} for name in IDENTIFIERS}}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres"}  # pyright: ignore[reportArgumentType]
    (made / "nnUNetPlans.json").write_text(json.dumps(plans))
    (made / "dataset.json").write_text(json.dumps({"labels": {"background": 0}}))
    (made / "gt_segmentations").mkdir()
    for name in IDENTIFIERS:
        (made / name).mkdir()
        for case in CASES:
            for ending in (".b2nd", "_seg.b2nd", ".pkl"):
                (made / name / f"{case}{ending}").touch()
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def read(folder: Path, name: str = SPLITS_FILE) -> Any:
    return json.loads((folder / name).read_text())


def nnunets_split(folder: Path, fold: int) -> Any:
    """What nnU-Net's own method gives a trainer of this fold; it makes the file if there is none."""
    trainer: Any = SimpleNamespace(
        dataset_class=None,
        preprocessed_dataset_folder=str(folder / IDENTIFIERS[0]),
        preprocessed_dataset_folder_base=str(folder),
        folder_with_segs_from_previous_stage=None,
        fold=fold,
        print_to_log_file=lambda *_: None,
    )
    return nnUNetTrainer.do_split(trainer)


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


def test_a_file_is_made_as_nnunet_makes_it(folder: Path, tmp_path: Path) -> None:
    report = add_reduced_splits("7", [5, 10, 15], 0)
    assert report.made and report.added == (5, 6, 7) and report.cases == 23
    ours = read(folder)
    (folder / SPLITS_FILE).unlink()
    nnunets_split(folder, 0)
    assert ours[:5] == read(folder) and len(ours) == 8
    assert ours[5:] == [reduced_split(CASES, labels, 0) for labels in (5, 10, 15)]
    assert not list(folder.glob("*.partial")) and not list(folder.glob("*.bak"))


def test_nnunets_file_is_continued_and_nnunet_reads_it(folder: Path) -> None:
    first = nnunets_split(folder, 3)
    before = (folder / SPLITS_FILE).read_bytes()
    add_reduced_splits("Dataset007_Made", [10], 1)
    assert (folder / f"{SPLITS_FILE}.bak").read_bytes() == before
    assert (folder / SPLITS_FILE).read_bytes().startswith(before.rstrip(b"\n]"))
    assert nnunets_split(folder, 3) == first
    training, validation = nnunets_split(folder, 5)
    assert {"train": training, "val": validation} == reduced_split(CASES, 10, 1)
    assert read(folder, RECORD_FILE) == {
        "folds": [{"fold": 5, "labels": 10, "seed": 1, "training": 8, "validation": 2}],
    }


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
    own = [{"train": CASES[:8], "val": CASES[8:12], "note": "mine"}]
    (folder / SPLITS_FILE).write_text(json.dumps(own))
    report = add_reduced_splits("7", [5, 12], 0)
    assert report.cases == 12 and report.added == (1, 2)
    splits = read(folder)
    assert splits[0] == own[0]
    assert {*splits[2]["train"], *splits[2]["val"]} == set(CASES[:12])


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
        (RECORD_FILE, '{"folds": [{"labels": 5}]}', "not what this command writes; remove it"),
        (
            RECORD_FILE,
            '{"folds": [{"labels": 5, "training": 4, "validation": 1, "seed": 0, "fold": "5"}]}',
            "not what this command writes; remove it",
        ),
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
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(InputError, match="nnUNet_preprocessed is not set"):
        add_reduced_splits("7", [3], 0)


def test_a_failed_write_leaves_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nnunets_split(folder, 0)
    before = contents(folder)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nnunet_attn.datasets.splits.shutil.copy2", refuse)
    with pytest.raises(InputError, match=r"cannot write .*splits_final\.json.*No space left"):
        add_reduced_splits("7", [5], 0)
    assert contents(folder) == before


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
