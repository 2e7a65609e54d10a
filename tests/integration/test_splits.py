"""Folds that are made before planning are those that nnU-Net trains on."""

from pathlib import Path

import pytest

from nnunet_attn.cli import main
from nnunet_attn.datasets.phantom import write_phantom
from nnunet_attn.datasets.splits_files import RECORD_FILE, SPLITS_FILE
from tests.integration.conftest import Workspace
from tests.made.splits import contents, nnunets_split, read
from tests.made.workers import AS_TYPED

DATASET = 507


@pytest.mark.slow
def test_folds_made_before_planning_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir()
    raw = write_phantom(tmp_path / "raw", DATASET, dim=2, n_train=6, n_test=0)
    workspace = Workspace(tmp_path, raw.name)
    for key, value in workspace.environment().items():
        monkeypatch.setenv(key, value)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").iterdir())
    patients = tmp_path / "patients.csv"
    patients.write_text("case,patient\n" + "".join(f"{case},{index // 2}\n" for index, case in enumerate(cases)))
    words = ["splits", "-d", str(DATASET), "--folds", "3", "--groups", str(patients)]
    assert main(words) == 0
    folder = tmp_path / "preprocessed" / raw.name
    before = contents(folder)
    assert sorted(before) == [SPLITS_FILE, RECORD_FILE]
    options = ("-c", "2d", "-npfp", "2", "-np", "2", "--verify_dataset_integrity")
    workspace.run("nnUNetv2_plan_and_preprocess", "-d", DATASET, *options, nnUNet_n_proc_DA="2", **AS_TYPED)
    assert before.items() <= contents(folder).items()
    for fold, split in enumerate(read(folder)):
        assert nnunets_split(folder, fold) == (split["train"], split["val"])
        # both cases of a patient are on one side
        assert [cases.index(case) // 2 for case in split["val"]] in ([0, 0], [1, 1], [2, 2])
    # the preprocessed cases give the same folds
    assert main(words) == 0
    assert before.items() <= contents(folder).items()
