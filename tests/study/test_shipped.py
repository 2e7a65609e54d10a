"""The studies that come with the package: each can be read, copied and checked, and says nothing that is not so."""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.cli import main
from nnunet_attn.datasets.splits import add_reduced_splits
from nnunet_attn.errors import InputError
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.study.check import CheckReport, check
from nnunet_attn.study.init import copy_shipped_study, shipped_studies
from nnunet_attn.study.matrix import runs
from nnunet_attn.study.memory import StepNeed, StepTask
from nnunet_attn.study.model import Study, read_study
from nnunet_attn.trainer_names import trainer_names
from nnunet_attn.training.network import build_without_weights, trainer_options
from tests.made.plans import configuration

SHIPPED = shipped_studies()
PATCHES = {"2d": ([128, 128], 2), "3d_fullres": ([64, 128, 128], 3)}
CASES = 25
TRAINING = (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz"))


def made_plans(dataset: str) -> dict[str, Any]:
    """Plans as wide as nnU-Net's own, of patches that each network can be built for."""
    entries = {}
    for name, (patch, dims) in PATCHES.items():
        entry = configuration(patch, [[1] * dims, *([[2] * dims] * 4)])
        entry["architecture"]["arch_kwargs"]["features_per_stage"] = [32, 64, 128, 256, 320]
        entries[name] = entry
    return {"dataset_name": dataset, "plans_name": "nnUNetPlans", "configurations": entries}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Study], None]:
    """Make the data sets of a study: registered, planned and preprocessed; nnU-Net's folders are set."""
    root = tmp_path / "nnunet"
    for key, value in nnunet_environment(root, base={}).items():
        monkeypatch.setenv(key, value)

    def made(study: Study) -> None:
        for text in study.datasets:
            name = text if text.startswith("Dataset") else f"Dataset{int(text):03d}_Made"
            _plan(root / "raw" / name, root / "preprocessed" / name, any(row.labels for row in study.rows))

    return made


def _plan(raw: Path, folder: Path, few_labels: bool) -> None:
    cases = [f"case_{index:02d}" for index in range(CASES)]
    labels = {"background": 0, "a": 1}
    description = {"file_ending": ".nii.gz", "numTraining": CASES, "labels": labels, "channel_names": {"0": "CT"}}
    for path in (raw, folder):
        path.mkdir()
        (path / "dataset.json").write_text(json.dumps(description))
    plans = made_plans(raw.name)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    files = [raw / "imagesTs" / "x_0000.nii.gz", raw / "labelsTs" / "x.nii.gz"]
    files += [raw / kind / f"{case}{end}" for case in cases for kind, end in TRAINING]
    data = [folder / each["data_identifier"] for each in plans["configurations"].values()]
    files += [each / f"{case}{end}" for each in data for case in cases for end in (".pkl", ".b2nd")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    splits = [{"train": [c for c in cases if c not in cases[i::5]], "val": cases[i::5]} for i in range(5)]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    if few_labels:
        add_reduced_splits(raw.name, (5, 10, 15))


def built(tasks: Sequence[StepTask]) -> list[StepNeed]:
    """Build each network without weights, with the options of its plans, in place of a training step."""
    return [_built(task.trainer.split("_")[0], json.dumps(task.plans), task.configuration) for task in tasks]


@lru_cache
def _built(base: str, plans: str, name: str) -> StepNeed:
    network = next(each for each in NETWORKS if base in each.trainers)
    manager = PlansManager(json.loads(plans)).get_configuration(name)
    trainer_options(network, manager)
    net = build_without_weights(network, manager, 1, 2, True, {}, (96, 256, 256))
    parameters = sum(each.numel() for each in net.parameters())
    return StepNeed(peak_bytes=10**9, parameters=parameters, checkpoint_bytes=8, epochs=1)


def test_each_paper_has_its_study() -> None:
    papers = {"gasa", "medt", "fine", "karimi"}
    assert papers | {"phantom-smoke", "hippocampus-all", "glas-all"} <= SHIPPED.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_is_checked_without_a_problem(plan: Callable[[Study], None], name: str) -> None:
    study = read_study(SHIPPED[name])
    assert study.name == name
    plan(study)
    report: CheckReport = check(study, built)
    assert not [f"{each.what}: {each.text}" for each in report.problems]
    expected = {each.what for each in study.missing}
    assert {each.what for each in report.warnings} - expected <= own_batch_size(study)
    assert expected <= {each.what for each in report.warnings}
    assert report.cost is not None and report.cost.trainings == len(runs(study))


def own_batch_size(study: Study) -> set[str]:
    """Rows whose trainer's name stands for a batch size of its own."""
    return {row.title for row in study.rows if row.parsed.base == "nnUNetTrainerPatchTransformerPaper"}


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_missing_is_missing_indeed_and_refused_as_a_row(name: str, tmp_path: Path) -> None:
    study, text = read_study(SHIPPED[name]), SHIPPED[name].read_text(encoding="utf-8")
    names = [each.what for each in study.missing if each.what.startswith("nnUNetTrainer")]
    assert not set(names) & set(trainer_names()), "add them to the rows"
    for missing in names:
        file = tmp_path / f"{missing}.yaml"
        file.write_text(text.replace("\ntrainers:\n", f"\ntrainers:\n  - {missing}_bf16\n", 1), encoding="utf-8")
        with pytest.raises(InputError, match=f"{missing}_bf16 cannot be trained: the file lists {missing} as missing"):
            read_study(file)


def test_all_trainers_that_work_in_2d_are_in_the_studies_of_all() -> None:
    fitting = {trainer for network in NETWORKS if 2 in network.dims for trainer in network.trainers}
    for name in ("hippocampus-all", "glas-all"):
        assert {row.parsed.base for row in read_study(SHIPPED[name]).rows} == fitting


@pytest.mark.parametrize("name", SHIPPED)
def test_commands_in_comments_have_options_that_exist(name: str) -> None:
    page = Path(__file__).parents[2] / "docs/reference/cli.md"
    known = page.read_text(encoding="utf-8")
    lines = re.findall(r"^#   nnunet-attn (.*)$", SHIPPED[name].read_text(encoding="utf-8"), re.MULTILINE)
    for line in lines:
        command = line.split()[0]
        section = re.search(rf"^## {command}\n(.*?)(?=^## |\Z)", known, re.MULTILINE | re.DOTALL)
        assert section is not None, line
        for option in re.findall(r"(?<= )--?[a-z-]+", line):
            assert f"`{option}`" in section[1], line


def test_a_copy_keeps_its_comments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    assert main(["study", "init", str(file), "--like", "phantom-smoke"]) == 0
    assert file.read_bytes() == SHIPPED["phantom-smoke"].read_bytes()
    assert "plain nnU-Net, GASA-UNet; data set 901" in capsys.readouterr().out
    with pytest.raises(InputError, match="exists and is never overwritten"):
        copy_shipped_study(file, "gasa")
    assert file.read_bytes() == SHIPPED["phantom-smoke"].read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--like", "x"], f"--like x: there is no such study; there are {', '.join(SHIPPED)}"),
        (["--like", "gaza"], "--like gaza: there is no such study (did you mean gasa?); there are "),
        (["--like", "gasa", "-d", "4"], "--like copies a study as it is: leave out -d and -tr, and change the copy"),
    ],
)
def test_a_copy_that_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["study", "init", str(tmp_path / "x.yaml"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
