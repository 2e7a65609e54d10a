"""Which cases a figure shows."""

import json
import math
from pathlib import Path

import pytest

from nnunet_attn.study.groups import groups
from nnunet_attn.study.report.picks import CaseValues, chosen_keys, picks
from nnunet_attn.study.report.splits import dataset_info
from tests.made.results import DATASET
from tests.made.study_results import study, write_by_hand

PLAIN = "nnUNetTrainerPlain"


def values(metric: str, *rows: tuple[float, ...]) -> CaseValues:
    """Cases a, b, ... of fold 0."""
    keys = tuple((0, "abcdef"[index]) for index in range(len(rows[0])))
    return CaseValues(metric, keys, {str(number): row for number, row in enumerate(rows)})


def test_cases_are_chosen_by_the_mean_over_the_rows() -> None:
    # means 0.5, 0.4, 0.6, 0.45: no row alone would choose so
    made = values("dice", (0.9, 0.1, 0.6, 0.5), (0.1, 0.7, 0.6, 0.4))
    assert chosen_keys(made) == [("worst", (0, "b")), ("median", (0, "d")), ("best", (0, "c"))]
    assert made.of((0, "b")) == {"0": 0.1, "1": 0.7} and made.of((1, "b")) == {}


def test_of_distances_the_largest_is_the_worst_and_infinity_is_too() -> None:
    made = values("hd95_mm", (1.0, 3.0, math.inf, 2.0, math.nan))
    assert chosen_keys(made) == [("worst", (0, "c")), ("median", (0, "b")), ("best", (0, "a"))]


def test_each_case_is_chosen_once() -> None:
    assert chosen_keys(values("dice", (0.5, 0.5))) == [("worst", (0, "a")), ("best", (0, "b"))]
    assert chosen_keys(values("dice", (0.5,))) == [("median", (0, "a"))]
    assert chosen_keys(values("dice", (math.nan, math.nan))) == []


def test_named_cases_are_shown_before_anything_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = study(metrics=("dice",), seeds=(), cases=("case_3", "case_9"))
    for key, value in write_by_hand(tmp_path, described, {PLAIN: [1, 2, 3, 4], "GASA": [1, 2, 3, 4]}).items():
        monkeypatch.setenv(key, value)
    (group,) = groups(described)
    (group.models_of("GASA")[0].fold_folder(0) / "validation" / "case_3.nii.gz").unlink()
    info, problems = dataset_info(described, DATASET, (0, 1))
    assert problems == ()
    (pick,) = picks(described, group, None, None, info)
    assert (pick.kind, pick.case, pick.fold, pick.values, set(pick.predictions)) == ("named", "case_3", 0, {}, {PLAIN})
    assert pick.images == () and pick.reference.is_file()
    raw = tmp_path / "raw" / DATASET
    (raw / "elsewhere.nii.gz").touch()
    (raw / "second.nii.gz").touch()
    monkeypatch.setenv("MADE", DATASET)
    description = json.loads((raw / "dataset.json").read_text())
    description["channel_names"] = {"0": "T1", "1": "T2"}
    listed = {**description, "dataset": {"case_3": {"images": ["$nnUNet_raw/$MADE/elsewhere.nii.gz", "second.nii.gz"]}}}
    (raw / "dataset.json").write_text(json.dumps(listed))
    (pick,) = picks(described, group, None, None, info)
    assert pick.images == (raw / "elsewhere.nii.gz", raw / "second.nii.gz") and pick.channels == ("T1", "T2")
    # a colour image has all channels in one file
    (raw / "imagesTr").mkdir()
    (raw / "imagesTr" / "case_3_0000.nii.gz").touch()
    (raw / "dataset.json").write_text(json.dumps(description))
    (pick,) = picks(described, group, None, None, info)
    assert [file.name for file in pick.images] == ["case_3_0000.nii.gz"] and pick.channels == ("T1, T2",)
