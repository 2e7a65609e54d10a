"""What rows cost: operations, times, hours; and what is asked for once only."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_attn.benchmark.measure import forward_flops
from nnunet_attn.study.dry_step import made_batch, prepared_trainer
from nnunet_attn.study.matrix import runs
from nnunet_attn.study.memory import StepNeed, StepTask
from nnunet_attn.study.model import Study
from nnunet_attn.study.report import cost_step
from nnunet_attn.study.report.collect import run_info
from nnunet_attn.study.report.costs import costs, examined, needs_of
from nnunet_attn.study.report.model import RunInfo
from tests.made.results import DATASET
from tests.made.study_results import study, write_notes, write_study_results, write_training, write_trainings

PLAIN = "nnUNetTrainerPlain"
FIGURES = {"parameters": 5, "peak_bytes": 6, "flops": 7, "input_shape": (1, 1, 8, 8, 8)}


class Examiner:
    """Stands in for tracing; remembers what it was asked."""

    def __init__(self, **need: Any) -> None:
        self.asked: list[StepTask] = []
        self.need = StepNeed(**{**FIGURES, **need})

    def __call__(self, tasks: Sequence[StepTask]) -> list[StepNeed]:
        self.asked += tasks
        return [self.need for _ in tasks]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """A study of two rows with two seeds and one fold, all of it done."""
    described = study(folds=(0,))
    for key, value in write_study_results(tmp_path, described, {PLAIN: 0.0, "GASA": 0.0}, cases=4).items():
        monkeypatch.setenv(key, value)
    write_trainings(described)
    yield described


def told(described: Study) -> list[RunInfo]:
    """Return all that is known of its trainings."""
    return [run_info(run) for run in runs(described)]


def test_what_is_known_is_not_asked_for_again(made: Study, tmp_path: Path) -> None:
    cache, examiner = tmp_path / "study" / "costs.json", Examiner()
    infos = told(made)
    first = costs(needs_of(made, infos, cache, examiner), infos)
    assert [task.trainer for task in examiner.asked] == [f"{PLAIN}_3epochs_4its", "nnUNetTrainerGASA_3epochs_4its"]
    assert (first[0].parameters, first[0].peak_bytes, first[0].flops, first[0].input_shape) == tuple(FIGURES.values())
    again = Examiner()
    assert costs(needs_of(made, infos, cache, again), infos) == first and not again.asked
    # other options are another network
    rows = (made.rows[0], made.rows[1].model_copy(update={"options": {"num_heads": 2}}))
    changed = made.model_copy(update={"rows": rows})
    needs_of(changed, told(changed), cache, again)
    assert [task.plans["configurations"]["3d_fullres"].get("nnunet_attn") for task in again.asked] == [
        {"GASAUNet": {"num_heads": 2}}
    ]
    cache.write_text("broken")
    needs_of(made, infos, cache, again)
    assert len(again.asked) == 3


@pytest.mark.parametrize("lacking", [{"flops": None}, {"peak_bytes": None}, {"problem": "no such trainer"}])
def test_answers_without_figures_are_asked_for_again(made: Study, tmp_path: Path, lacking: dict[str, Any]) -> None:
    if "problem" in lacking:
        lacking = {**lacking, **dict.fromkeys(FIGURES)}
    infos, examiner = told(made), Examiner(**lacking)
    for asked in (2, 4):
        found = costs(needs_of(made, infos, tmp_path / "costs.json", examiner), infos)
        assert len(examiner.asked) == asked
        assert found[0].unknown == lacking.get("problem")


def test_a_cache_that_cannot_be_written_is_done_without(made: Study, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = needs_of(made, told(made), tmp_path / "file" / "costs.json", Examiner())
    assert [need.flops for need in found.found.values()] == [7, 7]


def test_results_without_the_preprocessed_data(made: Study, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "preprocessed" / DATASET)
    examiner = Examiner()
    needs = needs_of(made, told(made), None, examiner)
    assert len(examiner.asked) == 2 and not needs.unknown
    shutil.rmtree(tmp_path / "results" / DATASET / "nnUNetTrainerGASA_3epochs_4its_seed0__nnUNetPlans__3d_fullres")
    assert not needs_of(made, told(made), None, examiner).unknown  # the other seed's are as good
    shutil.rmtree(tmp_path / "results" / DATASET / "nnUNetTrainerGASA_3epochs_4its_seed1__nnUNetPlans__3d_fullres")
    infos = told(made)
    gasa = costs(needs_of(made, infos, None, examiner), infos)[1]
    assert gasa.unknown is not None and gasa.unknown.startswith(f"{DATASET} has no plans nnUNetPlans (")
    assert gasa.unknown.endswith("run: nnUNetv2_plan_and_preprocess -d 910")


def test_hours_are_complete_only_if_all_is_done_and_known(made: Study) -> None:
    one, two = (run for run in runs(made) if run.row == PLAIN)
    for file in one.fold_folder.glob("training_log*"):
        file.unlink()
    write_training(one, seconds=30.0)
    infos = told(made)
    plain = costs(needs_of(made, infos, None, Examiner()), infos)[0]
    # three epochs of 30 s, three of 10 s
    assert (plain.epoch_seconds, plain.trainings, plain.hours_are_complete) == (20.0, 2, True)
    write_notes(two.fold_folder, is_ddp=True, gpu_name="Other GPU")
    infos = told(made)
    plain = costs(needs_of(made, infos, None, Examiner()), infos)[0]
    assert not plain.hours_are_complete and plain.devices == ("Made GPU", "Other GPU")
    for file in two.fold_folder.glob("training_log*"):
        file.unlink()
    infos = told(made)
    plain = costs(needs_of(made, infos, None, Examiner()), infos)[0]
    assert (plain.trainings, plain.hours_are_complete) == (1, False)


def test_operations_are_those_of_the_network_with_numbers(
    made: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_compile", "f")
    plans = json.loads((tmp_path / "preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    dataset = json.loads((tmp_path / "preprocessed" / DATASET / "dataset.json").read_text())
    plans["configurations"]["3d_fullres"]["nnunet_attn"] = {"GASAUNet": {"num_heads": 2, "embed_dim": 6}}
    task = {"trainer": "nnUNetTrainerGASA", "plans": plans, "configuration": "3d_fullres", "dataset": dataset}
    found = cost_step.counted_flops(task)
    trainer = prepared_trainer(task, torch.device("cpu"), torch.device("cpu"))
    image = made_batch(trainer)["data"][:1]
    assert found == {"flops": forward_flops(trainer.network, image), "input_shape": [1, 1, 12, 12, 12]}
    assert found["flops"] > 10**5


@pytest.mark.slow
def test_another_process_finds_them_out(made: Study) -> None:
    before = dict(os.environ)
    infos = told(made)
    plain, gasa = costs(needs_of(made, infos, None, examined), infos)
    assert dict(os.environ) == before
    for each in (plain, gasa):
        assert each.unknown is None and each.input_shape == (1, 1, 12, 12, 12)
        assert each.flops and each.parameters and each.peak_bytes
        assert each.peak_is_measured == torch.cuda.is_available()
    assert (plain.parameters or 0) < (gasa.parameters or 0) and (plain.flops or 0) < (gasa.flops or 0)
