"""`nnunet-attn figure`: what it writes and prints, and what it refuses."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.image import imread

from nnunet_attn.cli import main
from nnunet_attn.figures.figure import cases_figure
from nnunet_attn.figures.writing import write_figure
from tests.figures.conftest import FINE
from tests.made.figure_cases import write_case
from tests.made.results import TRAINER


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that show a case by its files."""
    monkeypatch.chdir(tmp_path)
    write_case(Path())
    files = ["--image", "image.nii.gz", "--reference", "label.nii.gz"]
    return ["figure", *files, "--predictions", "A=A/case.nii.gz", "B=B/case.nii.gz"]


def test_a_case_is_shown_by_its_files(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    zoomed = [
        "--plane",
        "coronal",
        "--slice",
        "8",
        "--zoom",
        "4",
        "1",
        "20",
        "5",
        "--errors",
        "--window",
        "9",
        "--level",
    ]
    assert main([*words, *zoomed, "4", "-o", "one.png", "--dpi", "50"]) == 0
    assert capsys.readouterr().out == "written: one.png: image.nii.gz\n"
    picture = imread("one.png")
    assert picture.shape[1] > picture.shape[0] / 2 and len({tuple(row) for row in picture[:, 60].tolist()}) > 3
    assert main([*words, "-o", "one.svg", "--style", "fill"]) == 0
    svg = Path("one.svg").read_text()
    assert {"reference", "label", "axial, slice 3", "A"} <= {text.strip() for text in re.findall(r">([^<>]+)<", svg)}
    assert main([*words, "-o", "one.pdf"]) == 0
    assert Path("one.pdf").read_bytes().startswith(b"%PDF")
    assert not list(Path().glob(".*"))


def test_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    case = write_case(tmp_path, methods=("A",))
    for ending in ("png", "svg"):
        for name in ("a", "b"):
            write_figure(cases_figure([case]), tmp_path / f"{name}.{ending}", dpi=40)
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_trainers_are_shown_from_nnunets_folders(
    made_results: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    made_results()
    given = ["figure", "-d", "910", "-tr", TRAINER, FINE, "-c", "3d_fullres", "-o", "cases.svg"]
    assert main([*given, "--cases", "worst", "case_003"]) == 0
    assert re.fullmatch(
        r"written: cases.svg: case_00\d \(worst, fold [01]\); case_003 \(fold [01]\)\n", capsys.readouterr().out
    )
    svg = Path("cases.svg").read_text()
    assert "liver" in svg and "FINE" in svg, "classes have their names, trainers theirs"


def test_a_file_is_not_replaced_unasked(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("one.png").write_text("mine")
    assert main([*words, "-o", "one.png"]) == 2
    assert "-o one.png exists already; add --overwrite, or give another name" in capsys.readouterr().err
    assert Path("one.png").read_text() == "mine"
    assert main([*words, "-o", "one.png", "--overwrite", "--dpi", "40"]) == 0
    assert imread("one.png").size


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-o", "one.jpg"], "-o one.jpg: the name ends in none of .png, .svg, .pdf"),
        (["-o", "none/one.png"], "the folder none does not exist; make it first"),
        (["-o", "."], "-o .: the name ends in none of"),
        (["-d", "4"], "give either --image, --reference and --predictions, or -d with -tr"),
        (["--cases", "worst"], "--cases does not go with --image; leave it out"),
        (["--test"], "--test does not go with --image; leave it out"),
        (["--predictions", "A"], "--predictions A: give NAME=FILE"),
        (["--predictions", "A=a", "A=b"], "A is given twice"),
        (["--zoom", "1", "2", "3"], "--zoom 1 2 3: give auto, none or four numbers"),
        (["--slice", "-1"], "--slice -1"),
        (["--slice=--3"], "--slice --3: give a number from 0"),
        (["--slice", "9"], "label: --slice 9: the image has the slices 0 to 5"),
        (["--plane", "7"], "--plane 7: it is one of axial, coronal, sagittal"),
        (["--dpi", "1"], "--dpi 1: give 10 to 2400"),
        (["-djfile", "none.json"], "none.json does not exist"),
        (["--image", "none.nii.gz"], "none.nii.gz, the image of label, does not exist"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *([] if "-o" in more else ["-o", "one.png"]), *more]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not Path("one.png").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-d", "4"], "-d needs -tr; add it"),
        (["--image", "image.nii.gz", "--reference", "label.nii.gz"], "--image needs --predictions; add it"),
        (["-d", "4", "-tr", TRAINER, "--reference", "a"], "--reference does not go with -d; leave it out"),
        (["-d", "4", "-tr", TRAINER, "--ensemble", "softmax"], "--ensemble is for test cases; add --test"),
        (["-d", "4", "-tr", TRAINER, "-f", "one"], "-f one: a fold is a number from 0, or all"),
        (["-d", "4", "-tr", TRAINER, "-f", "all"], "-f all: this fold validates on the cases it was trained on"),
    ],
)
def test_flags_that_do_not_go_together_are_told(
    words: list[str], given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words and main(["figure", "-o", "one.png", *given]) == 2
    assert message in capsys.readouterr().err
