import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering import making, writing
from nnunet_attn.registering.writing import check_target, write_registration
from tests.made.loose import cases, label, volume, write
from tests.made.registration import files_in, plan_of, written


def test_an_existing_data_set_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(cases(tmp_path, 1))
    raw = tmp_path / "raw"
    (raw / "Dataset007_Other").mkdir(parents=True)
    with pytest.raises(InputError, match="Dataset007_Other exists: choose another number, or remove that folder"):
        write_registration(plan, raw, verify=False)
    assert files_in(raw) == []
    (raw / "Dataset007_Other").rename(raw / "Dataset008_Made")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    (tmp_path / "preprocessed" / "Dataset007_Old").mkdir(parents=True)
    with pytest.raises(InputError, match="Dataset007_Old exists"):
        check_target(raw, 7, "Made")
    assert check_target(raw, 9, "Made") == raw / "Dataset009_Made"


def test_a_data_set_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    with pytest.raises(InputError, match="Dataset007_Made exists"):
        write_registration(
            plan_of(cases(tmp_path, 1)),
            raw,
            verify=False,
            progress=lambda *_: (raw / "Dataset007_Made").mkdir(exist_ok=True),
        )
    assert [file.name for file in raw.iterdir()] == ["Dataset007_Made"]
    assert files_in(raw) == []


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_: str, done: int, __: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_registration(plan_of(cases(tmp_path)), tmp_path / "raw", verify=False, progress=interrupt)
    assert list((tmp_path / "raw").iterdir()) == []


def test_too_little_room_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(plan_of(cases(tmp_path, 1)), total_bytes=1 << 60)
    with pytest.raises(InputError, match=r"MiB free, and the data set needs about 1,099,511,627,776.0 MiB; make room"):
        write_registration(plan, tmp_path / "raw", verify=False)
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    plan = plan_of(cases(tmp_path, 2))
    with monkeypatch.context() as patch:
        patch.setattr(making.shutil, "copyfile", full)
        with pytest.raises(InputError, match=r"the disk is full: imagesTr/case_0_0000.nii.gz could not be written"):
            write_registration(plan, tmp_path / "raw", verify=False)
    with monkeypatch.context() as patch:
        patch.setattr(writing, "_write_json", full)
        with pytest.raises(InputError, match=r"raw cannot be written to \(No space left on device\); nothing was made"):
            write_registration(plan, tmp_path / "raw", verify=False)
    assert list((tmp_path / "raw").iterdir()) == []


_LIMITED = """
import resource
import sys
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.registering.model import Registration, SourceCase
from nnunet_attn.registering.plan import plan_registration
from nnunet_attn.registering.writing import write_registration

folder = Path(sys.argv[1])
case = SourceCase("a", (folder / "a.mha",), folder / "label.mha")
plan = plan_registration(Registration(7, "Made", (case,), file_ending=sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # as a disk that fills up in the middle of a file
try:
    write_registration(plan, folder / "raw", verify=False)
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits of file sizes")
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd"])
def test_a_file_that_is_not_written_whole_is_noticed(tmp_path: Path, ending: str) -> None:
    write(tmp_path / "a.mha", volume(shape=(20, 40, 50)))
    write(tmp_path / "label.mha", label(shape=(20, 40, 50)))
    (tmp_path / "script.py").write_text(_LIMITED)
    words = [sys.executable, tmp_path / "script.py", tmp_path, ending]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"imagesTr/a_0000{ending} could not be written (" in said
    assert said.rstrip().endswith("check the disk, and run again")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    plan = plan_of(cases(tmp_path, 1))
    with pytest.raises(InputError, match=r"cannot make the folder .*raw \(Not a directory\)"):
        write_registration(plan, tmp_path / "image_0.nii.gz" / "raw")


def test_a_file_that_changed_since_it_was_read(tmp_path: Path) -> None:
    plan = plan_of(cases(tmp_path, 1, values=(255,)))
    write(tmp_path / "label_0.nii.gz", label((7,)))
    with pytest.raises(InputError, match=r"label_0.nii.gz has got the value 7 since it was looked at"):
        write_registration(plan, tmp_path / "raw", verify=False)
    (tmp_path / "image_0.nii.gz").unlink()
    with pytest.raises(InputError, match=r"image_0.nii.gz"):
        write_registration(plan, tmp_path / "raw", verify=False)
    assert list((tmp_path / "raw").iterdir()) == []


_KILLED = """
import os
import signal
import sys
from pathlib import Path

from nnunet_attn.registering.model import Registration
from nnunet_attn.registering.plan import plan_registration
from nnunet_attn.registering.writing import write_registration
from tests.made.loose import cases

folder = Path(sys.argv[1])


def progress(stage, done, total):
    if (stage, done) == ("write", 2):
        os.kill(os.getpid(), signal.SIGKILL)


write_registration(
    plan_registration(Registration(7, "Made", cases(folder))), folder / "raw", verify=False, progress=progress
)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_killed_run_leaves_nothing_half_written_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_KILLED)
    root = Path(__file__).parents[2]
    words = [sys.executable, tmp_path / "script.py", tmp_path]
    assert subprocess.run(words, env={**os.environ, "PYTHONPATH": str(root)}).returncode == -9
    raw = tmp_path / "raw"
    (left,) = raw.iterdir()
    assert left.name.startswith(".register-Dataset007_Made-")
    mine = raw / left.name.replace(f"-{left.name.split('-')[-2]}-", f"-{os.getpid()}-")
    mine.mkdir()  # of a run that is still going on
    other = raw / left.name.replace("Dataset007_Made", "Dataset008_Made")
    other.mkdir()
    folder = written(raw, cases(tmp_path))
    assert {file.name for file in raw.iterdir()} == {folder.name, mine.name, other.name}
    assert len(files_in(folder)) == 8


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of POSIX")
def test_a_run_of_another_container_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # another container counts processes for itself, so here its number is of no process
    monkeypatch.setattr(writing, "_runs", lambda _: False)
    raw = tmp_path / "raw"
    raw.mkdir()
    with writing._temporary(raw, "Dataset007_Made") as live:
        (live / "Dataset007_Made").mkdir()
        dead = raw / f"{live.name}-dead"
        shutil.copytree(live, dead)
        folder = written(raw, cases(tmp_path))
        assert {file.name for file in raw.iterdir()} == {folder.name, live.name}
    assert [file.name for file in raw.iterdir()] == [folder.name]


def test_hard_links_to_another_disk_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs /dev/shm as another file system")
    raw = other / f"nnunet_attn_test_{os.getpid()}"
    try:
        with pytest.raises(InputError, match=r"is on another disk than .*; link symbolically, or copy"):
            written(raw, cases(tmp_path, 1), link="hard")
        assert list(raw.iterdir()) == []
    finally:
        shutil.rmtree(raw, ignore_errors=True)


def test_links_that_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(making.os, "link", refuse)
    with pytest.raises(InputError, match=r"image_0.nii.gz cannot be linked .*\(Operation not permitted\); link symb"):
        written(tmp_path / "raw", cases(tmp_path, 1), link="hard")
    assert list((tmp_path / "raw").iterdir()) == []
