"""What a study costs, from the states of its trainings, worked out by hand."""

import json
from pathlib import Path

import pytest

from nnunet_attn.study.cost import cost_of, earlier_seconds_per_epoch, free_disk_bytes
from nnunet_attn.study.matrix import Run
from nnunet_attn.study.state import RunState
from tests.study.conftest import DATASET

WAITING = RunState("waiting")
GASA = "nnUNetTrainerGASA_10epochs"


def run_of(fold: int = 0, trainer: str = GASA, row: str = "gasa", plans: str = "nnUNetPlans") -> Run:
    return Run(DATASET, row, trainer, plans, "3d_fullres", fold)


class States:
    """States of folders that are made here; all others wait."""

    def __init__(self) -> None:
        self.known: dict[Path, RunState] = {}

    def put(self, run: Run, state: RunState) -> None:
        run.fold_folder.mkdir(parents=True)
        self.known[run.fold_folder] = state

    def __call__(self, folder: Path) -> RunState:
        return self.known.get(folder, WAITING)


@pytest.fixture
def states(preprocessed: Path) -> States:
    """With a data set of 7 references of 10 bytes, of which fold 0 validates on two."""
    references = preprocessed / "gt_segmentations"
    references.mkdir()
    for index in range(7):
        (references / f"case_{index}.nii.gz").write_bytes(b"0123456789")
    (preprocessed / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz", "numTraining": 7}))
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": [], "val": ["case_0", "case_1"]}]))
    return States()


def test_hours_are_the_epochs_left_by_the_time_of_earlier_ones(states: States) -> None:
    trainings = [run_of(0), run_of(1), run_of(2), run_of(0, row="other ensemble")]
    states.put(trainings[0], RunState("done", epoch=10, epochs=10, seconds_per_epoch=30))
    states.put(trainings[1], RunState("stopped", epoch=4, epochs=10, seconds_per_epoch=50))
    cost = cost_of(trainings, lambda _: 10, lambda _: 1000, state_of=states)
    assert (cost.trainings, cost.done, cost.predictions) == (3, 1, 0)  # what rows share counts once
    # 40 s an epoch: 6 are left of one training, 10 of the other
    assert cost.seconds == 40 * (6 + 10)
    assert cost.hours == pytest.approx(640 / 3600) and cost.unknown == ()


def test_hours_are_unknown_without_any_time(states: States) -> None:
    states.put(run_of(0), RunState("running", epoch=2, seconds_per_epoch=6))
    new = run_of(0, "nnUNetTrainerMAT_10epochs", "mat")
    cost = cost_of([run_of(0), new], lambda _: 10, lambda _: 1000, state_of=states)
    assert cost.unknown == ("mat",) and cost.hours is None
    assert cost.seconds == 6 * 8
    assert cost_of([run_of(0)], lambda _: None, lambda _: 1, state_of=states).unknown == ("gasa",)


def test_number_of_epochs_and_seed_do_not_change_the_time_of_an_epoch_but_all_else_does(states: States) -> None:
    states.put(run_of(3, "nnUNetTrainerGASA_bf16_200epochs_seed4"), RunState("done", seconds_per_epoch=20))
    states.put(run_of(0, plans="nnUNetPlansWide"), RunState("done", seconds_per_epoch=70))
    states.put(run_of(0, "nnUNetTrainer_250epochs"), RunState("done", seconds_per_epoch=12))
    times = {
        trainer: earlier_seconds_per_epoch(run_of(0, trainer), states)
        for trainer in ("nnUNetTrainerGASA_5epochs_bf16", GASA, "nnUNetTrainerGASA_bf16_8its", "nnUNetTrainer")
    }
    assert list(times.values()) == [20, None, None, 12]
    assert earlier_seconds_per_epoch(run_of(0, GASA, plans="nnUNetPlansWide"), states) == 70


def test_disk_is_two_checkpoints_and_the_predictions_of_each_training_that_is_left(states: States) -> None:
    trainings = [run_of(0), run_of(1), run_of(4)]
    states.put(trainings[0], RunState("stopped", epoch=3))
    (trainings[0].fold_folder / "checkpoint_latest.pth").write_bytes(bytes(700))
    states.put(trainings[2], RunState("done"))
    cost = cost_of(trainings, lambda _: 10, lambda _: 1000, state_of=states)
    # fold 0: 2 x 1000 - 700, two cases of 10; fold 1: 2 x 1000, a fifth of 70; and 1000 while one is written
    assert cost.disk_bytes == 1300 + 20 + 2000 + 14 + 1000
    # a pre-training of each leaves two checkpoints as well
    more = cost_of(trainings, lambda _: 10, lambda _: 1000, ["gasa"], state_of=states)
    assert more.pretrainings == 1 and more.disk_bytes == cost.disk_bytes + 2000
    assert cost_of(trainings, lambda _: 10, lambda _: None, state_of=states).disk_bytes is None


def test_a_study_that_is_done_costs_nothing_more(states: States) -> None:
    states.put(run_of(0), RunState("done", seconds_per_epoch=3))
    cost = cost_of([run_of(0)], lambda _: 10, lambda _: 1000, state_of=states)
    assert (cost.hours, cost.disk_bytes, cost.unknown) == (0, 0, ())


def test_a_test_set_is_predicted_once_for_each_model(states: States, tmp_path: Path) -> None:
    raw = tmp_path / "nnunet" / "raw" / DATASET
    for folder, names in (("labelsTr", ["a"]), ("imagesTs", ["x_0000", "x_0001", "y_0000", "y_0001"])):
        (raw / folder).mkdir(parents=True)
        for name in names:
            (raw / folder / f"{name}.nii.gz").write_bytes(bytes(100))
    (raw / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    for fold in (0, 1):
        states.put(run_of(fold), RunState("done", seconds_per_epoch=3))
    rows = [run_of(0), run_of(1), run_of(0, row="softmax"), run_of(1, row="softmax")]
    cost = cost_of(rows, lambda _: 10, lambda _: 1000, test_set=True, state_of=states)
    assert cost.predictions == 2  # of five folds together, by the mean of logits and by that of probabilities
    assert cost.disk_bytes == 2 * 2 * 100  # two cases, each as large as a label file


def test_free_space_is_known_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_disk_bytes(tmp_path / "a" / "b") > 0
