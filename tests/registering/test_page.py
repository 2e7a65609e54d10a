"""The how-to page of `nnunet-attn register` as it is written, on made files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_attn.paths import nnunet_environment
from tests.made.pages import ROOT, run_page
from tests.made.unsorted import CASES, ct, organ, write_pictures, write_scans, write_volume

PAGE = "docs/how-to/register-a-dataset.md"


@pytest.mark.slow
def test_the_page_runs_as_written(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    write_scans(folder)
    write_pictures(folder)
    for number, case in enumerate(CASES):
        for channel, name in enumerate(("t1", "flair")):
            write_volume(folder / name / f"{case}.nii.gz", ct(10 + 10 * channel + number))
        write_volume(folder / "shifted" / f"{case}.nii.gz", organ(), origin=(0.5, 0.0, 0.0))
        visit = folder / "study" / ("ulm", "bonn")[number % 2] / f"p{number}"
        for channel, name in enumerate(("t1", "fl")):
            write_volume(visit / f"visit1_{name}.mha", ct(50 + 10 * channel + number))
        write_volume(visit / "visit1_seg.mha", organ())
    environment = nnunet_environment(tmp_path / "nnunet", {**os.environ, "OMP_NUM_THREADS": "1"})
    printed = run_page(PAGE, folder, environment)
    raw = Path(environment["nnUNet_raw"])
    made = {path.name[:10]: json.loads((path / "dataset.json").read_text()) for path in raw.iterdir()}
    assert set(made) == {f"Dataset{number}" for number in (101, 103, 106, 108, 109, 110)}
    assert printed.count("Nothing was written") == 7
    assert "nnUNetv2_plan_and_preprocess -d 101 --verify_dataset_integrity" in printed
    assert made["Dataset101"]["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert made["Dataset103"]["channel_names"] == {"0": "T1", "1": "FLAIR"}
    study = json.loads((raw / "Dataset103_Study" / "nnunet_attn_cases.json").read_text())["cases"]
    assert {case: (entry["patient"], entry["site"]) for case, entry in study.items()} == {
        f"p{number}_visit1": (f"p{number}", ("ulm", "bonn")[number % 2]) for number in range(6)
    }
    assert "labels: background = 0, lung = 1, heart = 2\n" in printed
    assert "values of labels (source -> new): 0 -> 0, 100 -> 1, 200 -> 1, 255 -> 2\n" in printed
    assert made["Dataset106"]["labels"] == {"background": 0, "lungs": [1, 2], "left": 2, "ignore": 3}
    assert "values of labels (source -> new): 0 -> 2, 1 -> 0, 2 -> 1\n" in printed
    linked = raw / "Dataset108_Linked" / "imagesTr" / "bob_1_0000.nii.gz"
    assert linked.samefile(folder / "scans" / "bob_1.nii.gz")
    assert not (raw / "Dataset110_More" / "labelsTr").exists()

    snippet = re.findall(r"^```python\n(.*?)^```$", (ROOT / PAGE).read_text(), re.MULTILINE | re.DOTALL)
    (folder / "snippet.py").write_text(snippet[0])
    done = subprocess.run([sys.executable, "snippet.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "nnUNet_raw" / "Dataset111_Liver" / "labelsTr" / "emil_1.nii.gz").is_file()
