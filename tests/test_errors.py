"""Wrong input of every kind on the page of error messages: one line, exit code 2, nothing new on disk."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_attn.cli import main
from nnunet_attn.paths import nnunet_environment
from tests.made.wrong import Wrong, in_process, tree
from tests.made.wrong_files import FOLDERS, scans
from tests.made.wrong_page import GROUPS, PAGE, Group, page

Template = Callable[[Group], Path]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Write what a group's tests start from, once; returns its folder."""
    made: dict[str, Path] = {}

    def get(group: Group) -> Path:
        if group.title not in made:
            folder = tmp_path_factory.mktemp("template")
            nnunet_environment(folder, base={})
            group.before(folder)
            made[group.title] = folder
        return made[group.title]

    return get


@pytest.mark.parametrize(
    ("group", "wrong"),
    [pytest.param(group, wrong, id=f"{group.title}: {wrong.given}") for group in GROUPS for wrong in group.kinds],
)
def test_wrong_input_is_one_line_and_changes_nothing(
    group: Group,
    wrong: Wrong,
    template: Template,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "work"
    shutil.copytree(template(group), folder)
    monkeypatch.chdir(folder)
    for name, value in nnunet_environment(folder, base={}).items():
        monkeypatch.setenv(name, value)
    words = wrong.make(folder)
    before = tree(folder)
    capfd.readouterr()
    if wrong.run is None:
        code, printed = in_process(words), capfd.readouterr().err
    else:
        code, printed = wrong.run(folder, words)
    assert wrong.fits(printed), printed
    assert code == 2
    assert tree(folder) == before


def test_the_page_is_made_from_the_tests() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.made.wrong_page"


def test_every_row_says_what_to_do() -> None:
    for group in GROUPS:
        assert not [kind.given for kind in group.kinds if len(kind.message) < 2 or len(kind.remedy) < 5]
        assert max(Counter(kind.given for kind in group.kinds).values()) == 1


def test_a_message_that_says_something_else_does_not_fit() -> None:
    kind = Wrong("", "images/... is empty", "fill it", lambda _: ())
    assert kind.fits("nnunet-attn: error: images/a is empty; fill it\n")
    for printed in (
        "nnunet-attn: error: images/a is empty; fill it\nmore\n",
        "\nnnunet-attn: error: images/a is empty; fill it\n",
        "nnunet-attn: error: images/a is full; fill it\n",
        "nnunet-attn: error: images/a is empty\n",
        "Traceback\nnnunet-attn: error: images/a is empty; fill it\n",
        "",
    ):
        assert not kind.fits(printed)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_killed_registration_leaves_nothing_under_its_name_and_the_next_one_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in nnunet_environment(tmp_path, base={}).items():
        monkeypatch.setenv(name, value)
    scans(".nrrd", count=80)
    words = [*FOLDERS, "--file-ending", ".nii.gz"]
    command = [sys.executable, "-m", "nnunet_attn.cli", *words]
    raw = tmp_path / "raw"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not any(raw.glob(".register-*/*/imagesTr/*")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (left,) = raw.iterdir()
    assert left.name.startswith(".register-Dataset007_Made-")
    assert 0 < len(list(left.glob("*/imagesTr/*"))) < 80
    assert main([str(word) for word in words]) == 0
    assert "it passed nnU-Net's check" in capsys.readouterr().out
    assert [folder.name for folder in raw.iterdir()] == ["Dataset007_Made"]
    assert all(len(list((raw / "Dataset007_Made" / name).iterdir())) == 80 for name in ("imagesTr", "labelsTr"))
