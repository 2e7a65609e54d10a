"""Real cases as loose files with faults are registered, repaired or refused by name, and stock nnU-Net takes them."""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.cli import main
from tests.integration.conftest import Workspace
from tests.made.results import rewrite

pytestmark = pytest.mark.slow

NAME = "Dataset104_Hippocampus"
NEW_VALUES = {3: {1: 100, 2: 200}, 17: {1: 100, 2: 200}, 29: {1: 100, 2: 200}, 8: {1: 11, 2: 12}, 41: {1: 11, 2: 12}}
"""Number of a case -> what its label values become."""
SHIFTED, TRUNCATED, AS_NRRD = 11, 23, (5, 6)
MAPPING = ("1=1", "2=2", "100=1", "200=2", "11=1", "12=2")


def _scattered(source: Path, folder: Path, cases: list[str]) -> dict[str, dict[str, str]]:
    """Copy cases to files whose names tell nothing, and spoil some; returns the row of each for a table."""
    rows = {}
    for number, case in enumerate(cases):
        names = {}
        for kind, file in (("image", f"imagesTr/{case}_0000.nii.gz"), ("label", f"labelsTr/{case}.nii.gz")):
            scrambled = hashlib.sha256(f"{kind} {case}".encode()).hexdigest()[:12]
            ending = ".nrrd" if number in AS_NRRD and kind == "image" else ".nii.gz"
            names[kind] = f"{'ab'[number % 2]}/{scrambled}{ending}"
            made = folder / names[kind]
            made.parent.mkdir(parents=True, exist_ok=True)
            if ending == ".nrrd":
                sitk.WriteImage(sitk.ReadImage(str(source / file)), str(made))
            else:
                shutil.copyfile(source / file, made)
        rows[case] = {"case": case, **names, "patient": f"patient {number}"}
    for number, values in NEW_VALUES.items():
        new = np.array([0, values[1], values[2]], np.uint8)
        rewrite(folder / rows[cases[number]]["label"], lambda array, new=new: new[array])
    label = folder / rows[cases[SHIFTED]]["label"]
    origin = sitk.ReadImage(str(label)).GetOrigin()
    rewrite(label, origin=(origin[0] + 0.5, *origin[1:]))
    image = folder / rows[cases[TRUNCATED]]["image"]
    image.write_bytes(image.read_bytes()[:-1000])
    return rows


def _write_table(file: Path, rows: dict[str, dict[str, str]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        table = csv.DictWriter(opened, ["case", "image", "label", "patient"])
        table.writeheader()
        # in an order of their own, which has nothing to do with the names
        table.writerows(sorted(rows.values(), key=lambda row: row["image"]))


def test_loose_files_with_faults_become_a_data_set_that_nnunet_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 220 cases with NNUNET_ATTN_ALL_CASES=1, else 60 of them."""
    source = Path(os.environ.get("NNUNET_ATTN_DATA", "")) / "Dataset004_Hippocampus"
    if not os.environ.get("NNUNET_ATTN_DATA") or not source.is_dir():
        pytest.skip("NNUNET_ATTN_DATA does not name a folder that holds Dataset004_Hippocampus")
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (source / "labelsTr").iterdir())
    cases = cases if os.environ.get("NNUNET_ATTN_ALL_CASES") == "1" else cases[:60]
    workspace = Workspace(tmp_path, NAME)
    for key, value in workspace.environment().items():
        monkeypatch.setenv(key, value)
    table = tmp_path / "loose" / "cases.csv"
    rows = _scattered(source, table.parent, cases)
    _write_table(table, rows)
    labels = ("--label", "Anterior=1", "Posterior=2")
    words = ["register", "-d", "104", "-n", "Hippocampus", "--csv", str(table), "--channels", "MRI", *labels]

    def refused(*more: str) -> str:
        assert main([*words, *more]) == 2
        assert not any((tmp_path / "raw").iterdir())
        return capsys.readouterr().err

    def named(message: str) -> set[str]:
        return {case for case in cases if case in message}

    shifted, truncated = cases[SHIFTED], cases[TRUNCATED]
    message = refused("--map", *MAPPING)
    assert named(message) == {shifted, truncated}
    assert "damaged or cut short (gzip: Compressed file ended" in message and "add --repair" in message
    message = refused("--map", *MAPPING, "--repair")
    assert named(message) == {truncated} and rows[truncated]["image"] in message
    del rows[truncated]
    _write_table(table, rows)
    message = refused("--repair")
    assert named(message) == {cases[number] for number in NEW_VALUES}
    assert all(f"{value} in " in message for values in NEW_VALUES.values() for value in values.values())

    assert main([*words, "--map", *MAPPING, "--repair"]) == 0
    assert "it passed nnU-Net's check" in capsys.readouterr().out
    made = tmp_path / "raw" / NAME
    assert [path.name for path in made.parent.iterdir()] == [NAME]
    kept = [case for case in cases if case != truncated]
    assert sorted(file.name for file in (made / "labelsTr").iterdir()) == [f"{case}.nii.gz" for case in kept]
    written = {f"imagesTr/{cases[number]}_0000.nii.gz" for number in AS_NRRD}
    written |= {f"labelsTr/{cases[number]}.nii.gz" for number in (*NEW_VALUES, SHIFTED)}
    for case in kept:
        for part in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
            original, registered = sitk.ReadImage(str(source / part)), sitk.ReadImage(str(made / part))
            assert np.array_equal(sitk.GetArrayViewFromImage(registered), sitk.GetArrayViewFromImage(original)), part
            for get in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
                assert np.allclose(get(registered), get(original), atol=1e-4), part
            # one of all labels is stored in floats, which become integers
            of_floats = part.startswith("labels") and "float" in original.GetPixelIDTypeAsString()
            same_file = (made / part).read_bytes() == (source / part).read_bytes()
            assert same_file is not (of_floats or part in written), part
    description = json.loads((made / "dataset.json").read_text(encoding="utf-8"))
    assert description["labels"] == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert description["channel_names"] == {"0": "MRI"} and description["numTraining"] == len(kept)
    assert description["nnunet_attn"]["value_map"] == {"0": 0, "1": 1, "2": 2, "11": 1, "12": 2, "100": 1, "200": 2}
    assert description["nnunet_attn"]["repaired"] == {shifted: ["origin of label"]}

    options = ("-d", 104, "-npfp", 2, "--verify_dataset_integrity", "--no_pp")
    printed = workspace.run("nnUNetv2_plan_and_preprocess", *options, nnUNet_n_proc_DA="2")
    assert "verify_dataset_integrity Done" in printed
    plans = json.loads((tmp_path / "preprocessed" / NAME / "nnUNetPlans.json").read_text(encoding="utf-8"))
    assert {"2d", "3d_fullres"} <= set(plans["configurations"])
