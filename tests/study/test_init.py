"""What `study init` writes can be read, says what was asked for, and is never written over another file."""

import re
from pathlib import Path

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.study.init import write_study
from nnunet_attn.study.model import Pretrain, Row, Study, read_study


@pytest.mark.usefixtures("preprocessed")
def test_without_arguments_all_planned_data_sets_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    study = write_study(file)
    assert study == read_study(file)
    assert study.datasets == ("Dataset004_Made",)
    assert [row.trainer for row in study.rows] == ["nnUNetTrainerPlain", "nnUNetTrainerGASA"]


def test_what_is_commented_out_can_be_uncommented(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    write_study(file, ["4"])
    text = file.read_text().replace("test_set: false", "test_set: true")
    file.write_text(re.sub(r"^( *)# (?=- trainer|  \w+: |\w+: )(?!Check)", r"\1", text, flags=re.MULTILINE))
    study = read_study(file)
    assert {name for name in Study.model_fields if name not in study.model_fields_set} == set()
    row = study.rows[2]
    assert row.model_fields_set == set(Row.model_fields) and row.pretrain == Pretrain(task="denoise")


@pytest.mark.parametrize(
    ("trainers", "rows", "reference"),
    [
        (["nnUNetTrainerFINE"], ["nnUNetTrainerPlain", "nnUNetTrainerFINE"], "nnUNetTrainerPlain"),
        (
            ["nnUNetTrainerFINE_bf16_5epochs_2its", "nnUNetTrainerMAT_5epochs_2its"],
            ["nnUNetTrainerPlain_5epochs_2its", "nnUNetTrainerFINE_bf16_5epochs_2its", "nnUNetTrainerMAT_5epochs_2its"],
            "nnUNetTrainerPlain_5epochs_2its",
        ),
        (["nnUNetTrainerMAT", "nnUNetTrainer"], ["nnUNetTrainerMAT", "nnUNetTrainer"], "nnUNetTrainer"),
        (
            ["nnUNetTrainerMAT", "nnUNetTrainerPlain_bf16"],
            ["nnUNetTrainerMAT", "nnUNetTrainerPlain_bf16"],
            "nnUNetTrainerPlain_bf16",
        ),
    ],
)
def test_there_is_always_a_reference(tmp_path: Path, trainers: list[str], rows: list[str], reference: str) -> None:
    study = write_study(tmp_path / "study.yaml", ["4", "Dataset005_X"], trainers)
    assert ([row.trainer for row in study.rows], study.reference) == (rows, reference)
    assert study.datasets == ("4", "Dataset005_X")


@pytest.mark.parametrize(
    "name", ["true.yaml", "12.yaml", "my study.yaml", "_x.yaml", "größe.yaml", "....yaml", "a'b.yaml"]
)
def test_any_file_name_gives_a_study_that_can_be_read(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    assert write_study(file, ["4"]) == read_study(file)


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("mine")
    with pytest.raises(InputError, match="exists and is never overwritten"):
        write_study(file, ["4"])
    assert file.read_text() == "mine"
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="exists and is never overwritten"):
        write_study(tmp_path / "link.yaml", ["4"])
    assert not (tmp_path / "nowhere.yaml").exists()


@pytest.mark.parametrize(
    ("datasets", "trainers", "message"),
    [
        (["Liver"], None, "-d Liver: give a data set's number"),
        (["4", "4"], None, "-d 4 is given twice"),
        (["4"], ["nnUNetTrainerMAT", "nnUNetTrainerMAT"], "-tr nnUNetTrainerMAT is given twice"),
        (["4"], ["nnUNetTrainerMATT"], r"there is no trainer nnUNetTrainerMATT \(did you mean nnUNetTrainerMAT\?\)"),
        (["4", "004"], None, "datasets: has 4 twice"),
    ],
)
def test_wrong_input_writes_nothing(
    tmp_path: Path, datasets: list[str], trainers: list[str] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_study(tmp_path / "study.yaml", datasets, trainers)
    assert not list(tmp_path.iterdir())


def test_no_place_and_no_data(tmp_path: Path, preprocessed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"cannot write .* \(No such file or directory\)"):
        write_study(tmp_path / "missing" / "study.yaml", ["4"])
    (preprocessed / "nnUNetPlans.json").unlink()
    with pytest.raises(InputError, match="no data set is planned yet; name one: nnunet-attn study init -d ID"):
        write_study(tmp_path / "study.yaml")
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(InputError, match="nnUNet_preprocessed is not set"):
        write_study(tmp_path / "study.yaml")
