"""A study with all that a row can have, by the command: pre-training, few labels, the test set by both ensembles."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnunet_attn.datasets.phantom import write_phantom
from nnunet_attn.evaluation.description import plans_digest
from nnunet_attn.paths import NNUNET_FOLDERS, nnunet_environment
from nnunet_attn.study.engine.training import is_trained
from nnunet_attn.study.evaluating import predictions_folder
from nnunet_attn.study.groups import models
from nnunet_attn.study.logs import log_files
from nnunet_attn.study.matrix import runs
from nnunet_attn.study.model import Study, read_study
from tests.made.workers import one_import

pytest.importorskip("snakemake", reason="Snakemake needs Python 3.11 and the extra benchmark")
pytestmark = pytest.mark.slow

LABELS = 4
STUDY = f"""
name: parts
datasets: [902]
trainers:
  - {{trainer: nnUNetTrainerPlain_NoMirroring, name: plain}}
  - {{trainer: nnUNetTrainerPlain_NoMirroring, name: softmax, ensemble: softmax}}
  - trainer: nnUNetTrainerPlain_NoMirroring
    name: pre-trained
    pretrain: {{task: denoise, epochs: 1}}
  - {{trainer: nnUNetTrainerPlain_NoMirroring, name: few, labels: [{LABELS}]}}
reference: plain
configurations: [2d]
folds: [0, 1]
test_set: true
budget: {{epochs: 1, iterations: 2, width: 0.25, batch_size: 2}}
metrics: [dice]
device: cpu
"""


@dataclass(frozen=True)
class Ran:
    """A study that was run, and what the command printed."""

    file: Path
    environment: dict[str, str]
    output: str

    @property
    def study(self) -> Study:
        return read_study(self.file)

    @property
    def folder(self) -> Path:
        return self.file.with_name("study_results")


def _typed(environment: dict[str, str], *words: object) -> str:
    command = [sys.executable, "-m", "nnunet_attn.cli", *map(str, words)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    root = tmp_path_factory.mktemp("parts")
    environment = nnunet_environment(root / "nn")
    environment |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "2", "OMP_NUM_THREADS": "1"}
    environment |= {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": one_import()}
    raw = write_phantom(root / "nn" / "raw", 902, dim=2, n_train=10, n_test=2)
    planning = ["nnUNetv2_plan_and_preprocess", "-d", "902", "-c", "2d", "-npfp", "2", "-np", "2"]
    subprocess.run(planning, env={**environment, "nnUNet_n_proc_DA": "1"}, check=True, capture_output=True)
    _typed(environment, "splits", "-d", 902, "--labels", LABELS)
    assert len(list((raw / "imagesTs").iterdir())) == 2
    file = root / "study.yaml"
    file.write_text(STUDY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name in NNUNET_FOLDERS:
            patch.setenv(name, environment[name])
        yield Ran(file, environment, _typed(environment, "study", "run", file, "--cores", 2))


def test_every_training_is_done_once(ran: Ran) -> None:
    found = runs(ran.study)
    assert {(run.row, run.fold, run.labels) for run in found} == {
        *((row, fold, None) for row in ("plain", "softmax", "pre-trained") for fold in (0, 1)),
        ("few", 5, LABELS),
    }
    assert all(map(is_trained, found))
    # the two ensembles predict with the same networks
    assert {run.fold_folder for run in found if run.row == "plain"} == {
        run.fold_folder for run in found if run.row == "softmax"
    }
    assert all(len(log_files(run.fold_folder)) == 1 for run in found)


def test_pretraining_is_done_once_and_its_weights_are_loaded(ran: Ran) -> None:
    own = [run for run in runs(ran.study) if run.row == "pre-trained"]
    (results,) = {run.model_folder.parent for run in own}
    (weights,) = results.glob("*_PretrainDenoise__*/fold_all/pretrained_weights.pth")
    loaded = re.compile(rf"Loading pretrained weights from file +{re.escape(str(weights))} ")
    texts = {path: path.read_text(encoding="utf-8") for path in (ran.folder / "logs").glob("train__*.txt")}
    assert len(texts) == 5
    assert {path for path, text in texts.items() if loaded.search(text)} == {
        path for path in texts if "Pretrained" in path.name
    }
    assert ran.output.count("done    pre-train") == 1


def test_few_labels_train_on_so_many(ran: Ran) -> None:
    splits = json.loads(
        (Path(ran.environment["nnUNet_preprocessed"]) / "Dataset902_Phantom/splits_final.json").read_text()
    )
    fold = splits[5]
    assert len(fold["train"]) + len(fold["val"]) == LABELS


def test_the_test_set_is_predicted_by_every_model_and_compared(ran: Ran) -> None:
    folders = {model.row: predictions_folder(ran.study, model) for model in models(ran.study)}
    assert len(set(folders.values())) == 4
    for folder in folders.values():
        assert {path.name for path in folder.glob("*.nii.gz")} == {"case_010.nii.gz", "case_011.nii.gz"}
        assert (folder / "summary_attn.json").is_file()
    with (ran.folder / "comparison/Dataset902_Phantom__2d__test/cases.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {"case_010", "case_011"}
    assert all({"plain", "softmax", "pre-trained"} <= row.keys() for row in rows)


def test_the_report_has_a_curve_of_labels_and_no_open_jobs(ran: Ran) -> None:
    page = (ran.folder / "report" / "report.html").read_text(encoding="utf-8")
    assert 'id="labels"' in page
    assert "nothing" in _typed(ran.environment, "study", "run", ran.file, "--dry-run")


def test_a_training_with_other_weights_is_another_one(ran: Ran) -> None:
    plain, pretrained = (next(run for run in runs(ran.study) if run.row == row) for row in ("plain", "pre-trained"))
    assert plain.model_folder != pretrained.model_folder
    digests = {plans_digest(run.model_folder / "plans.json", "2d") for run in (plain, pretrained)}
    assert len(digests) == 1  # of the same data and sizes
