import json
import shutil
from pathlib import Path

import pytest

from nnunet_attn.datasets.subset import copy_cases, read_description
from nnunet_attn.errors import InputError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six labelled cases of two channels, their files being text."""
    made = tmp_path / "elsewhere" / "Dataset007_Made"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (made / folder).mkdir(parents=True)
    for index in range(6):
        (made / "labelsTr" / f"case_{index}.nii.gz").write_text(f"label {index}")
        for channel in range(2):
            (made / "imagesTr" / f"case_{index}_{channel:04d}.nii.gz").write_text(f"image {index} {channel}")
    (made / "imagesTs" / "unlabelled_0000.nii.gz").write_text("not taken")
    (made / "labelsTr" / "readme.txt").write_text("not taken")
    describe(made, channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "a": 1}, file_ending=".nii.gz")
    return made


def describe(folder: Path, **content: object) -> None:
    (folder / "dataset.json").write_text(json.dumps({"numTraining": 6, "name": "Made", **content}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_first_cases_and_those_behind_them(source: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    made = copy_cases(source, raw, 3, held_out=2)
    assert made == raw / "Dataset007_Made" and names(raw) == ["Dataset007_Made"]
    assert names(made) == ["dataset.json", "imagesTr", "imagesTs", "labelsTr", "labelsTs"]
    for suffix, indices in (("Tr", (0, 1, 2)), ("Ts", (3, 4))):
        assert names(made / f"labels{suffix}") == [f"case_{index}.nii.gz" for index in indices]
        assert names(made / f"images{suffix}") == [f"case_{i}_000{c}.nii.gz" for i in indices for c in (0, 1)]
    assert (made / "labelsTs" / "case_4.nii.gz").read_text() == "label 4"
    assert (made / "imagesTs" / "case_4_0001.nii.gz").read_text() == "image 4 1"
    assert json.loads((made / "dataset.json").read_text()) == {**read_description(source), "numTraining": 3}
    assert read_description(source)["numTraining"] == 6


def test_a_relative_path_and_a_link_keep_their_own_name(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "Dataset008_Link"
    link.symlink_to(source)
    assert copy_cases(link, tmp_path / "raw", 1).name == "Dataset008_Link"
    monkeypatch.chdir(source)
    assert copy_cases(Path("."), tmp_path / "raw", 1).name == "Dataset007_Made"


@pytest.mark.parametrize("name", ["Hippocampus", "Dataset7_Made", "Dataset007", "Dataset000_Made", "MyDataset007_Made"])
def test_other_names_are_refused(source: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: nnU-Net's data sets are called DatasetNNN_Name"):
        copy_cases(source.rename(source.with_name(name)), tmp_path / "raw", 1)
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it has no dataset.json"),
        ("{", "cannot be read as JSON"),
        ("\udcff", "cannot be read as JSON"),
        ("[1]", "'channel_names' in it; got None"),
        ('{"channel_names": {"0": "T1"}, "labels": {"a": 1}}', "'file_ending' in it; got None"),
        ('{"channel_names": {"0": "T1"}, "labels": {"a": 1}, "file_ending": 5}', "'file_ending' in it; got 5"),
        ('{"channel_names": {"0": "T1"}, "labels": []}', r"'labels' in it; got \[\]"),
    ],
)
def test_a_broken_description_is_refused(source: Path, tmp_path: Path, content: str | None, message: str) -> None:
    file = source / "dataset.json"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message):
        copy_cases(source, tmp_path / "raw", 1)
    assert not (tmp_path / "raw").exists()


def test_too_few_cases(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 6 labelled cases, not 7: ask for fewer"):
        copy_cases(source, tmp_path / "raw", 5, held_out=2)
    with pytest.raises(InputError, match="count=0"):
        copy_cases(source, tmp_path / "raw", 0)
    shutil.rmtree(source / "labelsTr")
    with pytest.raises(InputError, match="has 0 labelled cases"):
        copy_cases(source, tmp_path / "raw", 1)


def test_a_missing_channel_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    (source / "imagesTr" / "case_1_0001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case_1_0001.nii.gz is missing"):
        copy_cases(source, tmp_path / "raw", 3)
    assert names(tmp_path / "raw") == []


def test_an_existing_data_set_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "raw" / "Dataset007_Made").mkdir(parents=True)
    with pytest.raises(InputError, match="Dataset007_Made exists"):
        copy_cases(source, tmp_path / "raw", 3)
    assert names(tmp_path / "raw" / "Dataset007_Made") == []


def test_a_colour_image_is_one_file_for_all_channels(source: Path, tmp_path: Path) -> None:
    for path in [*source.glob("*Tr/*.nii.gz")]:
        path.rename(path.with_name(path.name.replace(".nii.gz", ".png")))
    for path in source.glob("imagesTr/*_0001.png"):
        path.unlink()
    describe(source, channel_names={"0": "R", "1": "G", "2": "B"}, labels={"gland": 1}, file_ending=".png")
    made = copy_cases(source, tmp_path / "raw", 2)
    assert names(made / "imagesTr") == ["case_0_0000.png", "case_1_0000.png"]
