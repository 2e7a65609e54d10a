"""Cases that are left out: by name, also those that lack a file."""

from pathlib import Path

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering.model import SourceCase
from nnunet_attn.registering.naming import LeftOut, finished
from nnunet_attn.registering.sources import from_csv, from_folders, from_pattern
from tests.registering.test_sources import told, touch, write_csv


def test_cases_are_left_out_by_name() -> None:
    given = [SourceCase(name, (Path("a"),)) for name in ("c 01", "c02", "c03")]
    assert [case.case for case in finished(given, left_out=LeftOut(["c 01", "c03"])).cases] == ["c02"]
    assert [case.case for case in finished(given, left_out=LeftOut(["c_01"])).cases] == ["c02", "c03"]
    with pytest.raises(InputError, match="'c04' of --leave-out is no case; cases are called as 'c02'"):
        finished(given, left_out=LeftOut(["c04"]))
    with pytest.raises(InputError, match="--leave-out names every case: keep some"):
        finished(given, left_out=LeftOut(["c 01", "c02", "c03"]))


def test_incomplete_cases_of_folders_can_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ["x/a.nii", "x/b.nii", "y/b.nii", "y/c.nii", "l/b.nii", "l/d_seg.nii", "l/b_seg.nii"])
    many = [tmp_path / "x", tmp_path / "y"]
    assert told(from_folders(many, leave_out=["a", "c"]), tmp_path) == {"b": ("x/b.nii", "y/b.nii")}
    with pytest.raises(InputError, match=r"^a: it has no image in .*y"):
        from_folders(many, leave_out=["c"])
    for leave_out, part in ((["b"], r"d_seg\.nii is a label without image"), (["d"], "could both be its label")):
        with pytest.raises(InputError, match=part):
            from_folders([tmp_path / "x"], tmp_path / "l", leave_out=leave_out)
    # a has no label, which is for the plan to say
    assert set(told(from_folders([tmp_path / "x"], tmp_path / "l", leave_out=["b", "d"]), tmp_path)) == {"a"}
    touch(tmp_path, ["n/a_0000.nii", "n/a_0001.nii", "n/b_0000.nii", "n/b_0001.nii", "n/c_0000.nii", "n/c_0002.nii"])
    assert set(told(from_folders([tmp_path / "n"], channels=["A", "B"], leave_out=["c"]), tmp_path)) == {"a", "b"}
    # the name of a file is no case's where cases are called by less of it
    touch(tmp_path, ["p/a_t1.nii", "p/b_t1.nii", "q/a_t2.nii", "q/b_t2.nii"])
    with pytest.raises(InputError, match="'a_t1' of --leave-out is no case"):
        from_folders([tmp_path / "p", tmp_path / "q"], leave_out=["a_t1"])


def test_incomplete_cases_of_patterns_and_tables_can_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ["a_t1.nii", "a_t2.nii", "b_t1.nii", "c_t1.nii", "c_t2.nii", "c_t3.nii", "a_seg.nii", "d_seg.nii"])
    images, labels = f"{tmp_path}/{{case}}_{{channel}}.nii", f"{tmp_path}/{{case}}_seg.nii"
    found = from_pattern(images, labels, leave_out=["b", "c", "d"])
    assert told(found, tmp_path) == {"a": ("a_t1.nii", "a_t2.nii", "a_seg.nii")}
    with pytest.raises(InputError, match=r"d_seg\.nii is a label without image"):
        from_pattern(images, labels, leave_out=["b", "c"])
    with pytest.raises(InputError, match="--leave-out names every case"):
        from_pattern(images, labels, leave_out=["a", "b", "c", "d"])
    file = write_csv(tmp_path, "image,label\na.nii,s/a.nii\nb.nii,\nnone.nii,s/b.nii\n")
    assert set(told(from_csv(file, leave_out=["b", "none"]), tmp_path)) == {"a"}
    with pytest.raises(InputError, match=r"line 4: image .*none\.nii does not exist"):
        from_csv(file, leave_out=["b"])
    with pytest.raises(InputError, match="'x' of --leave-out is no case"):
        from_csv(file, leave_out=["b", "none", "x"])
