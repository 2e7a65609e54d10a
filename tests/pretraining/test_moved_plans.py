"""When plans are the same ones, and when images were preprocessed by them."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.pretraining.moved_plans import (
    is_complete,
    moved_name,
    preprocessed_by,
    read_mark,
    same_plans,
    with_extent_of,
    write_mark,
)
from tests.made.plans import KINDS


def moved() -> dict[str, Any]:
    plans = deepcopy(KINDS["3d"].plans)
    plans |= {"dataset_name": "Dataset010_Other", "plans_name": moved_name(plans["plans_name"], 901)}
    plans["image_reader_writer"] = "NibabelIO"
    plans["configurations"]["3d_fullres"]["data_identifier"] = "another"
    return plans


def test_moved_plans_are_the_same_until_something_else_changes() -> None:
    plans = KINDS["3d"].plans
    assert moved()["plans_name"] == "nnUNetPlansMade_for_901"
    assert same_plans(plans, moved())
    for key, value in (("batch_size", 3), ("nnunet_attn", {"GASAUNet": {"num_heads": 1}}), ("spacing", [1, 1, 2])):
        changed = deepcopy(plans)
        changed["configurations"]["3d_fullres"][key] = value
        assert not same_plans(changed, moved())


def test_the_extent_of_volumes_comes_with_them() -> None:
    source = {**KINDS["3d"].plans, "nnunet_attn": {"fine_extent": {"3d_fullres": [30, 40, 50]}}}
    assert same_plans(source, moved())
    assert with_extent_of(moved(), source, "3d_fullres")["nnunet_attn"]["fine_extent"] == {"3d_fullres": [30, 40, 50]}
    assert with_extent_of(moved(), KINDS["3d"].plans, "3d_fullres") == moved()


@pytest.mark.parametrize(
    ("key", "value", "same"),
    [
        ("spacing", [1.0, 1.0, 2.0], False),
        ("normalization_schemes", ["CTNormalization"], False),
        ("batch_size", 9, True),
    ],
)
def test_the_mark_follows_what_images_depend_on(key: str, value: Any, same: bool) -> None:
    plans, changed = moved(), moved()
    changed["configurations"]["3d_fullres"][key] = value
    images = {"b": [[1, 2]], "a": [[3, 4]]}
    marks = [preprocessed_by(each, "3d_fullres", images) for each in (plans, changed)]
    assert (marks[0] == marks[1]) is same
    assert preprocessed_by(plans, "3d_fullres", dict(sorted(images.items()))) == marks[0]
    assert preprocessed_by(plans, "3d_fullres", {**images, "c": [[5, 6]]}) != marks[0]
    assert preprocessed_by(plans, "3d_fullres", {**images, "a": [[3, 5]]}) != marks[0], "another file of the same name"


def test_marks_lie_beside_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    assert read_mark(folder) is None
    write_mark(folder, {"plans_and_images": "x"})
    assert read_mark(folder) == {"plans_and_images": "x"}
    assert not any(folder.iterdir()), "nnU-Net wants nothing but images there"
    for name in ("a.pkl", "a.b2nd", "b.pkl"):
        (folder / name).touch()
    assert is_complete(folder, ["a"]) and not is_complete(folder, ["a", "b"])
