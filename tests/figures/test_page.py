"""The page on figures, run as written."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.figures.conftest import write_images
from tests.made.pages import run_page
from tests.made.results import write_results

DATASET = "Dataset004_Hippocampus"
TRAINERS = {"nnUNetTrainerPlain": 1.0, "nnUNetTrainerFINE": 0.5}


@pytest.mark.slow
def test_the_page_runs_as_written(tmp_path: Path) -> None:
    environment = write_results(tmp_path, TRAINERS, dataset=DATASET)
    write_images(tmp_path, DATASET)
    raw = tmp_path / "raw" / DATASET
    for part in ("images", "labels"):
        shutil.copytree(raw / f"{part}Tr", raw / f"{part}Ts")
    for trainer in TRAINERS:
        model = tmp_path / "results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"
        (model / "test_attn_folds_0_1_2_3_4").mkdir()
        for file in model.glob("fold_*/validation/*.nii.gz"):
            shutil.copy(file, model / "test_attn_folds_0_1_2_3_4")
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(raw / "dataset.json", work)
    shutil.copy(raw / "imagesTr" / "case_000_0000.nii.gz", work / "scan.nii.gz")
    for name in ("expert", "plain", "fine"):
        shutil.copy(raw / "labelsTr" / "case_000.nii.gz", work / f"{name}.nii.gz")
    said = run_page("docs/how-to/make-figures.md", work, {**os.environ, **environment})
    assert {file.name for file in work.iterdir()} >= {"cases.png", "chosen.pdf", "test.png", "scan.svg", "zoom.png"}
    splits = json.loads((tmp_path / "preprocessed" / DATASET / "splits_final.json").read_text())
    fold = next(number for number, split in enumerate(splits) if "case_003" in split["val"])
    assert (
        f"written: chosen.pdf: case_003 (fold {fold}); case_" in said
        and "plain U-Net" in (work / "scan.svg").read_text()
    )
