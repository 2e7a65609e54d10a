from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering import integrity
from nnunet_attn.registering.writing import write_registration
from nnunet_attn.stock import StockCommandError
from tests.made.loose import cases, label, write
from tests.made.registration import plan_of


@pytest.mark.slow
def test_nnunets_own_check_passes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, int, int]] = []
    labels = {"background": 0, "whole": (1, 2), "core": 2}
    plan = plan_of(cases(tmp_path, values=(1, 2, 255)), labels=labels, regions_class_order=(1, 2), ignore=255)
    folder = write_registration(plan, tmp_path / "raw", progress=lambda *stage: seen.append(stage))
    assert folder.is_dir()
    assert seen[-2:] == [("verify", 0, 1), ("verify", 1, 1)]
    assert capfd.readouterr() == ("", ""), "what nnU-Net prints is kept off the screen"


@pytest.mark.slow
def test_what_nnunet_refuses_never_appears(tmp_path: Path) -> None:
    plan = plan_of(cases(tmp_path), link="symbolic")
    write(tmp_path / "label_1.nii.gz", label((5,)))  # since it was looked at
    with pytest.raises(InputError) as error:
        write_registration(plan, tmp_path / "raw")
    said = str(error.value)
    assert said.startswith(
        "nnU-Net's check refuses the data set, so it was not made: Error: Unexpected labels found in"
    )
    assert "labelsTr/case_1.nii.gz" in said and "Found: [0. 5.]" in said
    assert ".register-" not in said and "\n" not in said
    assert list((tmp_path / "raw").iterdir()) == []


def test_what_nnunet_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, on_line: Callable[[str], None]) -> NoReturn:
        on_line("Traceback (most recent call last):")
        on_line(f"AssertionError: no label file in {tmp_path}/labelsTr.")
        on_line("")
        raise StockCommandError("ended with exit code 1")

    monkeypatch.setattr(integrity, "run_stock", fail)
    with pytest.raises(InputError, match=r"it was not made: AssertionError: no label file in labelsTr\.$"):
        integrity.check_integrity(tmp_path, 1)
