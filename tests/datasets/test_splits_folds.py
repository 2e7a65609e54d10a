"""Folds by patient, stratified by site and size, and repeated splits."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import KFold

from nnunet_attn.cli import main
from nnunet_attn.datasets.splits import add_cross_validation, add_repeated_splits
from nnunet_attn.datasets.splits_cases import find_cases
from nnunet_attn.datasets.splits_files import Split
from nnunet_attn.datasets.splits_folds import cross_validation
from nnunet_attn.datasets.splits_groups import foreground_volumes, patients_of, size_strata
from nnunet_attn.datasets.splits_repeated import repeated_splits
from nnunet_attn.errors import InputError
from tests.made.splits import CASES, DATASET, read, write_labels, write_preprocessed, write_raw

PATIENTS = {case: f"p{index % 9}" for index, case in enumerate(CASES)}
SITES = {case: "north" if index < 15 else "south" for index, case in enumerate(CASES)}


def check_folds(splits: list[Split], number: int) -> None:
    """Each case is validated once, and trained on in all other folds."""
    assert len(splits) == number
    assert sorted(case for split in splits for case in split["val"]) == list(CASES)
    for split in splits:
        assert sorted([*split["train"], *split["val"]]) == list(CASES) and split["val"]


@pytest.mark.parametrize("folds", [2, 3, 5, 10, 23])
def test_folds_without_groups_are_scikit_learns(folds: int) -> None:
    splits = cross_validation(CASES[::-1], folds, 7)
    check_folds(splits, folds)
    parts = KFold(folds, shuffle=True, random_state=7).split(CASES)
    assert splits == [
        {"train": [CASES[index] for index in training], "val": [CASES[index] for index in validation]}
        for training, validation in parts
    ]


@pytest.mark.parametrize("seed", range(5))
def test_patients_are_kept_together_in_folds_of_like_size(seed: int) -> None:
    splits = cross_validation(CASES, 4, seed, PATIENTS)
    check_folds(splits, 4)
    for split in splits:
        assert not {PATIENTS[case] for case in split["train"]} & {PATIENTS[case] for case in split["val"]}
    sizes = [len(split["val"]) for split in splits]
    # the fullest fold was the emptiest before its last patient, who has 3 cases at most
    assert max(sizes) - min(sizes) <= 3
    assert splits == cross_validation(CASES[::-1], 4, seed, PATIENTS)


def test_large_patients_are_placed_first() -> None:
    sizes = {"a": 17, "b": 10, "c": 7, "d": 6, "e": 5, "f": 3, "g": 2, "h": 1, "i": 1}
    patients = {f"{patient}{index:02d}": patient for patient, size in sizes.items() for index in range(size)}
    found = [cross_validation(list(patients), 3, seed, patients) for seed in range(10)]
    for splits in found:
        assert sorted(len(split["val"]) for split in splits) == [17, 17, 18]
    assert len({str(splits) for splits in found}) > 1, "patients of one size are placed by the seed"
    # one with more than a fold's share is alone
    patients |= {f"a{index}": "a" for index in range(100, 140)}
    alone = max((split["val"] for split in cross_validation(list(patients), 3, 0, patients)), key=len)
    assert {patients[case] for case in alone} == {"a"}


@pytest.mark.parametrize("groups", [None, PATIENTS])
def test_strata_of_which_none_fills_all_folds_are_named(groups: dict[str, str] | None) -> None:
    strata = {case: f"s{index % 8}" for index, case in enumerate(CASES)}
    with pytest.raises(InputError, match="--stratify: the largest stratum, s0, has 3 cases, fewer than the 5 folds"):
        cross_validation(CASES, 5, 0, groups, strata)
    assert len(cross_validation(CASES, 3, 0, groups, strata)) == 3


def test_the_seed_decides_which_patients_are_together() -> None:
    assert len({str(cross_validation(CASES, 4, seed, PATIENTS)) for seed in range(5)}) == 5


def test_sites_are_shared_out_evenly() -> None:
    for seed in range(5):
        splits = cross_validation(CASES, 5, seed, strata=SITES)
        check_folds(splits, 5)
        north = [Counter(SITES[case] for case in split["val"])["north"] for split in splits]
        assert north == [3] * 5
        assert sorted(len(split["val"]) for split in splits) == [4, 4, 5, 5, 5]


def test_patients_and_sites_go_together() -> None:
    patients = {case: f"p{index // 2}" for index, case in enumerate(CASES)}
    sites = {case: "north" if index < 12 else "south" for index, case in enumerate(CASES)}
    splits = cross_validation(CASES, 3, 0, patients, sites)
    check_folds(splits, 3)
    for split in splits:
        assert not {patients[case] for case in split["train"]} & {patients[case] for case in split["val"]}
        assert Counter(sites[case] for case in split["val"])["north"] == 4


def test_folds_by_what_was_registered(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(folders, {case: PATIENTS[case] for case in CASES[1:]}, SITES)
    found = find_cases("7")
    assert patients_of(found, "registered") == {**PATIENTS, CASES[0]: f"case {CASES[0]}"}
    assert main(["splits", "-d", "7", "--folds", "3"]) == 0
    assert "patients have cases on both sides of one of these splits" in capsys.readouterr().out
    assert main(["splits", "-d", "7", "--folds", "3", "--groups", "--stratify", "site", "--replace"]) == 0
    printed = capsys.readouterr().out
    assert "both sides" not in printed and re.search(r"fold 2: .* to validate on \(patients: \d+ and \d+\)", printed)
    folder = folders / "preprocessed" / DATASET
    strata = cross_validation(CASES, 3, groups=patients_of(found, "registered"), strata=SITES)
    assert read(folder) == strata
    (entry, *_) = read(folder, "splits_nnunet_attn.json")["folds"]
    assert (entry["groups"], entry["stratified_by"], entry["seed"]) == ("registered", "site", 12345)


def test_rare_strata_are_named(folders: Path) -> None:
    write_raw(folders, sites={**SITES, CASES[0]: "east"})
    report = add_cross_validation("7", stratify="site")
    assert report.notes == ("stratum east has 1 cases, too few to be in each of 5 folds",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must name the columns case and patient; got nothing"),
        ("name,patient\na,b\n", "must name the columns case and patient; got name, patient"),
        ("case,patient\ncase_00,p0\n", "does not name 22 of the 23 cases, the first is case_01; add them"),
        ("case,patient\ncase_00,p0\ncase_00,p1\n", "line 3: 'case_00' has p0 and p1; give it one"),
        ("case,patient\ncase_00,\n", "line 2: 'case_00' has no patient; give it one"),
        ("case,patient\ncase_00\n", "line 2: 'case_00' has no patient; give it one"),
        (b"case,patient\n\xff\xfe,1\n", "cannot be read as CSV"),
    ],
)
def test_wrong_files_of_patients_are_named(folder: Path, tmp_path: Path, content: str | bytes, message: str) -> None:
    file = tmp_path / "patients.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        add_cross_validation("7", groups=file)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_file_of_strata_may_have_other_columns_and_cases(folder: Path, tmp_path: Path, separator: str) -> None:
    file = tmp_path / "sites.csv"
    lines = ["\ufeffsite, age ,case", *(f"{SITES[case]},x,{case}" for case in CASES), "west,y,other"]
    content = "\n".join(lines)
    file.write_text(content.replace(",", separator), encoding="utf-8")
    add_cross_validation("7", stratify=file)
    assert read(folder) == cross_validation(CASES, strata=SITES)


def test_what_was_not_registered_is_named(folders: Path) -> None:
    write_raw(folders, PATIENTS, {case: site for case, site in SITES.items() if case != CASES[4]})
    with pytest.raises(InputError, match=r"1 cases have no site in nnunet_attn_cases\.json, the first is case_04"):
        add_cross_validation("7", stratify="site")


@pytest.mark.parametrize("is_raw", [True, False])
def test_sizes_are_volumes_of_labels_in_mm3(folders: Path, is_raw: bool) -> None:
    labels = write_raw(folders) / "labelsTr" if is_raw else write_preprocessed(folders) / "gt_segmentations"
    voxels = [(7 * index) % 23 for index in range(23)]
    spacing = [(1.0, 0.5, 2.0 if index % 2 else 4.0) for index in range(23)]
    write_labels(labels, voxels, spacing)
    found = find_cases("7")
    volumes = foreground_volumes(found, 1)
    # voxels to ignore, of which there are as many, do not count
    assert volumes == {
        case: count * step[0] * step[1] * step[2] for case, count, step in zip(CASES, voxels, spacing, strict=True)
    }
    strata = size_strata(volumes, 5)
    assert sorted(Counter(strata.values()).items()) == [(f"{n} of 4", 6 - (n == 4)) for n in (1, 2, 3, 4)]
    by_size = {part: [volumes[case] for case in CASES if strata[case] == part] for part in strata.values()}
    assert max(by_size["1 of 4"]) <= min(by_size["2 of 4"]) <= max(by_size["3 of 4"]) <= min(by_size["4 of 4"])
    assert set(size_strata(dict.fromkeys(CASES[:9], 1.0), 5).values()) == {"1 of 1"}
    report = add_cross_validation("7", stratify="size", processes=2 if is_raw else 1)
    assert not report.notes
    largest = {case for case in CASES if strata[case] == "4 of 4"}
    assert [len(largest & set(split["val"])) for split in read(folders / "preprocessed" / DATASET)] == [1] * 5


def test_an_unreadable_label_is_named(folders: Path) -> None:
    raw = write_raw(folders)
    write_labels(raw / "labelsTr", [1] * 23, [(1.0, 1.0, 1.0)] * 23)
    (raw / "labelsTr" / "case_07.nii.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"case_07\.nii\.gz cannot be read"):
        foreground_volumes(find_cases("7"), 1)
    with pytest.raises(InputError, match="-np 0"):
        foreground_volumes(find_cases("7"), 0)


def test_a_folder_of_labels_that_may_not_be_read_is_named(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_preprocessed(folders)
    is_file = Path.is_file

    def refuse(self: Path) -> bool:  # as the system does for another user's folder; a test may run as root
        if self.parent.name == "gt_segmentations":
            raise PermissionError(13, "Permission denied", str(self))
        return is_file(self)

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(
        InputError, match=r"gt_segmentations cannot be read \(Permission denied\); .*--stratify FILE\.csv"
    ):
        add_cross_validation("7", stratify="size")


def test_repeated_splits_are_drawn_anew() -> None:
    cases = [f"c{index:02d}" for index in range(30)]
    splits = repeated_splits(cases, 5, 18, 12, 0)
    assert [(len(split["train"]), len(split["val"])) for split in splits] == [(18, 12)] * 5
    assert all(sorted([*split["train"], *split["val"]]) == cases for split in splits)
    assert len({tuple(split["val"]) for split in splits}) == 5
    assert repeated_splits(cases[::-1], 2, 18, 12, 0) == splits[:2]
    # each case is tested 2 times of 5 in the mean
    tested = Counter(case for split in repeated_splits(cases, 200, 18, 12, 1) for case in split["val"])
    assert np.isclose(np.mean(list(tested.values())), 80) and min(tested.values()) > 50
    assert repeated_splits(["a", "b", "c", "d"], 1, 1, 1, 0) == [{"train": ["d"], "val": ["c"]}]


def test_repeated_splits_are_all_different_or_refused() -> None:
    splits = repeated_splits(["a", "b", "c"], 3, 2, 1, 0)
    assert sorted(split["val"][0] for split in splits) == ["a", "b", "c"]
    with pytest.raises(InputError, match="there are only 3 different splits"):
        repeated_splits(["a", "b", "c"], 4, 2, 1, 0)


def test_repeated_splits_by_patient_count_patients(folders: Path) -> None:
    write_raw(folders, PATIENTS)
    report = add_repeated_splits("7", 4, 5, 4, 2, groups="registered")
    splits = read(folders / "preprocessed" / DATASET)
    for split, fold in zip(splits, report.folds, strict=True):
        sides = [{PATIENTS[case] for case in split[part]} for part in ("train", "val")]
        assert [len(side) for side in sides] == [5, 4] and not sides[0] & sides[1]
        assert (fold.training, fold.validation) == (len(split["train"]), len(split["val"]))
        assert fold.kind == "repeated" and fold.settings["train"] == 5
