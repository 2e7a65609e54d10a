"""Merging a data set's labels: what is in the new one, what is held out, and that the old one stays as it is."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.datasets.binary import main, merged_labels
from nnunet_attn.datasets.raw import write_dataset
from nnunet_attn.datasets.subset import read_description
from nnunet_attn.errors import InputError

SPACING_MM = (2.0, 0.5, 0.75)


def made_case(split: int, index: int) -> Any:
    """A case whose image says which one it is, with the labels 0 to 3 along the first axis."""
    image = np.full((4, 3, 2), 10 * index, np.int16)
    labels = np.broadcast_to(np.arange(4, dtype=np.uint8)[:, None, None], image.shape).copy()
    return image, labels, SPACING_MM


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve cases with the labels 1, 2 and 3."""
    labels = {"background": 0, "head": 1, "body": 2, "tail": 3}
    return write_dataset(tmp_path / "elsewhere", "Dataset007_Made", labels, 12, 1, made_case)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def describe(source: Path, **content: object) -> None:
    (source / "dataset.json").write_text(json.dumps({**read_description(source), **content}))


def cases(folder: Path, suffix: str) -> list[str]:
    return sorted(file.name.removesuffix(".nii.gz") for file in (folder / f"labels{suffix}").iterdir())


def test_all_labels_become_one_in_the_same_place(source: Path, tmp_path: Path) -> None:
    before = contents(source)
    made = merged_labels(source, tmp_path / "raw", 104, "MadeBinary", held_out=4, seed=3, label="whole")
    assert made == tmp_path / "raw" / "Dataset104_MadeBinary" and [made] == list((tmp_path / "raw").iterdir())
    assert contents(source) == before
    content = json.loads((made / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "whole": 1} and content["numTraining"] == 8
    assert content["nnunet_attn"] == {
        "merged_from": "Dataset007_Made",
        "merged_labels": [1, 2, 3],
        "held_out": 4,
        "seed": 3,
    }
    for suffix, count in (("Tr", 8), ("Ts", 4)):
        assert len(cases(made, suffix)) == count
        for case in cases(made, suffix):
            label = sitk.ReadImage(str(made / f"labels{suffix}" / f"{case}.nii.gz"))
            old = sitk.ReadImage(str(source / "labelsTr" / f"{case}.nii.gz"))
            wanted = (sitk.GetArrayFromImage(old) > 0).astype(np.uint8)
            assert np.array_equal(sitk.GetArrayFromImage(label), wanted) and 0 < wanted.mean() < 1
            for geometry in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
                assert getattr(label, geometry)() == getattr(old, geometry)()
            image = made / f"images{suffix}" / f"{case}_0000.nii.gz"
            assert image.read_bytes() == (source / "imagesTr" / image.name).read_bytes()


def test_the_seed_says_which_cases_are_held_out_and_the_source_which_there_are(source: Path, tmp_path: Path) -> None:
    held_out = {}
    for number, seed in ((101, 0), (102, 0), (103, 1)):
        made = merged_labels(source, tmp_path / "raw", number, "Binary", held_out=6, seed=seed)
        held_out[number] = cases(made, "Ts")
        assert sorted(held_out[number] + cases(made, "Tr")) == cases(source, "Tr")
    assert held_out[101] == held_out[102] != held_out[103]


def test_regions_are_merged_and_what_is_ignored_stays_ignored(source: Path, tmp_path: Path) -> None:
    describe(source, labels={"background": 0, "whole": [1, 2], "head": [1], "ignore": 3}, regions_class_order=[1, 2])
    made = merged_labels(source, tmp_path / "raw", 104, "Binary", held_out=1)
    content = json.loads((made / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "foreground": 1, "ignore": 2}
    assert "regions_class_order" not in content and content["nnunet_attn"]["merged_labels"] == [1, 2]
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(next((made / "labelsTr").iterdir()))))
    assert label[:, 0, 0].tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"new_id": 0}, "dataset_id=0: nnU-Net's numbers go from 1 to 999"),
        ({"seed": -1}, "seed=-1: a seed is 0 or larger"),
        ({"held_out": 8}, "12 labelled cases; 8 held out leave fewer than the 5"),
        ({"held_out": -1}, "held_out=-1"),
        ({"name": "a b"}, "name='a b'"),
        ({"label": "ignore"}, "label='ignore'"),
    ],
)
def test_wrong_arguments_write_nothing(wrong: dict[str, Any], message: str, source: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"new_id": 104, "name": "Binary", "held_out": 4, **wrong}
    with pytest.raises(InputError, match=message):
        merged_labels(source, tmp_path / "raw", **arguments)
    assert not (tmp_path / "raw").exists()


def test_a_wrong_source_leaves_no_data_set(source: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            merged_labels(source, raw, 104, "Binary", held_out=4)
        assert not raw.exists() or not list(raw.iterdir())

    whole = read_description(source)
    describe(source, labels={"background": 0})
    refused("names no label but the background")
    describe(source, labels={"background": 0, "a": "1"})
    refused(r"label 'a' is \['1'\]; nnU-Net's are integers")
    describe(source, labels={"background": 0, "a": 1, "b": 2})
    refused("has the label 3, which dataset.json does not name")
    describe(source, **whole)
    (source / "labelsTr" / "case_003.nii.gz").write_bytes(b"no image")
    refused(r"case_003\.nii\.gz cannot be read")
    (source / "imagesTr" / "case_004_0000.nii.gz").unlink()
    refused(r"case_004_0000\.nii\.gz is missing")


def test_a_number_that_is_taken_is_refused(source: Path, tmp_path: Path) -> None:
    made = merged_labels(source, tmp_path / "raw", 104, "Binary", held_out=4)
    before = contents(made)
    with pytest.raises(InputError, match=r"Dataset104_Binary exists: choose another number"):
        merged_labels(source, tmp_path / "raw", 104, "Other", held_out=4)
    assert contents(made) == before and list((tmp_path / "raw").iterdir()) == [made]


def test_the_command_writes_to_the_raw_folder_and_says_what(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    words = [str(source), "--id", "104", "--name", "Binary", "--held-out", "4"]
    assert main(words) == 0
    assert "Dataset104_Binary: 8 cases for training, 4 for testing" in capsys.readouterr().out
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Dataset104_Binary exists" in error
    monkeypatch.delenv("nnUNet_raw")
    assert main(words) == 2
    assert "nnUNet_raw is not set" in capsys.readouterr().err


def test_the_papers_hippocampus_task(tmp_path: Path) -> None:
    folder = Path(os.environ.get("NNUNET_ATTN_DATA", "")) / "Dataset004_Hippocampus"
    if not os.environ.get("NNUNET_ATTN_DATA") or not folder.is_dir():
        pytest.skip("NNUNET_ATTN_DATA does not name a folder that holds Dataset004_Hippocampus")
    made = merged_labels(folder, tmp_path, 104, "HippocampusBinary", held_out=44, seed=0)
    training, testing = cases(made, "Tr"), cases(made, "Ts")
    assert (len(training), len(testing)) == (176, 44) and not set(training) & set(testing)
    values = {
        value
        for file in (made / "labelsTs").iterdir()
        for value in np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))).tolist()
    }
    assert values == {0, 1}
