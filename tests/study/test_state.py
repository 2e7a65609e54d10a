"""What a training is doing, told from logs that nnU-Net's own methods wrote."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from nnunet_attn.study.engine.locks import own_lock
from nnunet_attn.study.logs import log_files, merged_epochs, parsed_log, read_log
from nnunet_attn.study.state import LOCK_FILE, duration, read_state
from tests.made.training_logs import NOON, MadeTraining


@pytest.fixture
def fold(tmp_path: Path) -> Path:
    """A fold's folder of a stock trainer, not made yet."""
    return tmp_path / "nnUNetTrainer_10epochs__nnUNetPlans__3d_fullres" / "fold_0"


def test_nothing_there_waits(fold: Path) -> None:
    assert read_state(fold).kind == "waiting"
    fold.mkdir(parents=True)
    assert read_state(fold).kind == "waiting"
    (fold / f"{LOCK_FILE}.host.1.partial").touch()  # a lock that is being written
    assert read_state(fold).kind == "waiting"


def test_epoch_times_and_dice_of_a_running_training(fold: Path) -> None:
    made = MadeTraining(fold).start()
    made.epoch(0, dice=(0.2, 0.4))
    made.epoch(1, dice=(0.6, math.nan))
    made.begin_epoch(2)
    state = read_state(fold, now=made.clock + 30)
    assert (state.kind, state.epoch, state.epochs, state.log) == ("running", 2, 10, made.log)
    assert state.seconds_per_epoch == pytest.approx(100.0)  # 99 s and the second behind
    assert state.eta_seconds == pytest.approx(8 * 100 - 30)
    assert state.dice == pytest.approx(0.9 * 0.3 + 0.1 * 0.6, abs=1e-4)
    assert state.message is None


def test_a_start_has_no_epoch_yet(fold: Path) -> None:
    made = MadeTraining(fold).start()
    state = read_state(fold, now=made.clock + 5)
    assert (state.kind, state.epoch, state.epochs, state.eta_seconds) == ("running", 0, 10, None)
    assert state.message == "starting"


@pytest.mark.parametrize(("seconds", "silence", "kind"), [(9, 590, "running"), (9, 610, "stopped")])
def test_ten_minutes_without_a_line_are_a_stop(fold: Path, seconds: float, silence: float, kind: str) -> None:
    made = MadeTraining(fold, seconds=seconds).start().train(0, 3)
    made.begin_epoch(3)
    assert read_state(fold, now=made.clock + silence).kind == kind


def test_long_epochs_may_be_silent_for_five_of_them(fold: Path) -> None:
    made = MadeTraining(fold, seconds=299).start().train(0, 3)
    made.begin_epoch(3)
    running = read_state(fold, now=made.clock + 5 * 300 - 1)
    assert (running.kind, running.message) == ("running", "no line for 25m")
    assert running.eta_seconds == pytest.approx(6 * 300)  # the epoch that is late counts as done, not as less
    stopped = read_state(fold, now=made.clock + 5 * 300 + 1)
    assert (stopped.kind, stopped.epoch, stopped.eta_seconds) == ("stopped", 3, None)
    assert stopped.message == "no line for 25m"


def test_the_first_epoch_may_take_an_hour_unless_another_fold_was_faster(fold: Path) -> None:
    made = MadeTraining(fold).start()
    made.begin_epoch(0)
    assert read_state(fold, now=made.clock + 3000).kind == "running"
    assert read_state(fold, now=made.clock + 3700).kind == "stopped"
    MadeTraining(fold.with_name("fold_1"), seconds=199).start().train(0, 2)
    assert read_state(fold, now=made.clock + 990).kind == "running"
    assert read_state(fold, now=made.clock + 1010).kind == "stopped"


def test_a_clock_that_is_behind_is_no_stop(fold: Path) -> None:
    made = MadeTraining(fold).start().train(0, 2)
    assert read_state(fold, now=made.clock - 7200).kind == "running"


def test_a_copy_of_an_old_log_does_not_run(fold: Path) -> None:
    made = MadeTraining(fold).start().train(0, 2)
    later = made.clock + 30 * 86400
    os.utime(made.log, (later, later))
    state = read_state(fold, now=later + 1)
    assert (state.kind, state.message) == ("stopped", "no line for 30d00h")


def test_continued_epochs_replace_those_that_were_lost(fold: Path) -> None:
    made = MadeTraining(fold).start()
    for number in range(4):
        made.epoch(number, dice=(0.1,))
    made.begin_epoch(4)
    made.clock += 7200  # a night between
    made.start()
    made.epoch(2, dice=(0.9,))
    state = read_state(fold, now=made.clock)
    assert (state.kind, state.epoch) == ("running", 3)
    assert state.seconds_per_epoch == pytest.approx(99.0)  # one epoch of the new log, nothing of the night
    assert state.dice == pytest.approx(0.9 * 0.1 + 0.1 * 0.9)
    epochs = merged_epochs(map(read_log, log_files(fold)))
    assert [epoch.number for epoch in epochs] == [0, 1, 2]


def test_a_night_within_one_log_does_not_count_either(fold: Path) -> None:
    made = MadeTraining(fold).start().train(0, 3)
    made.clock += 36000  # the machine slept
    made.train(3, 6)
    assert read_state(fold, now=made.clock).seconds_per_epoch == pytest.approx(100.0)


def test_a_training_that_began_anew_forgets_the_old_one(fold: Path) -> None:
    made = MadeTraining(fold).start().train(0, 8)
    made.start().train(0, 1)
    assert read_state(fold, now=made.clock).epoch == 1


def test_validation_cases_are_counted(fold: Path) -> None:
    made = MadeTraining(fold).start(cases=7).train(0, 10).finish().predict(3)
    state = read_state(fold, now=made.clock + 60)
    assert (state.kind, state.epoch, state.epochs, state.message) == ("validating", 10, 10, "at case 3 of 7")
    late = read_state(fold, now=made.clock + 700)
    assert late.kind == "stopped"
    assert late.message == "trained; validation broken off at case 3 of 7, no line for 12m"


def test_done_tells_the_validation_dice(fold: Path) -> None:
    made = MadeTraining(fold).whole()
    for now in (made.clock, made.clock + 1e7):
        state = read_state(fold, now=now)
        assert (state.kind, state.dice, state.epoch, state.epochs) == ("done", 0.875, 10, 10)
        assert state.message is None


def test_done_without_a_final_checkpoint_says_so(fold: Path) -> None:
    made = MadeTraining(fold).whole()
    (fold / "checkpoint_final.pth").unlink()
    assert read_state(fold, now=made.clock).message == "there is no final checkpoint"


def test_without_its_result_a_validation_is_not_done(fold: Path) -> None:
    made = MadeTraining(fold).whole()
    (fold / "validation" / "summary.json").unlink()
    state = read_state(fold, now=made.clock)
    assert (state.kind, state.message) == ("stopped", "validated, but validation/summary.json is missing")


def test_training_anew_over_a_finished_one_is_running(fold: Path) -> None:
    made = MadeTraining(fold).whole()
    made.clock += 3600
    made.start()
    assert read_state(fold, now=made.clock).kind == "running"
    # a start that ended before its first epoch changed nothing
    assert read_state(fold, now=made.clock + 4000).kind == "done"
    made.train(0, 1)
    state = read_state(fold, now=made.clock)
    assert (state.kind, state.epoch) == ("running", 1)
    assert read_state(fold, now=made.clock + 4000).kind == "stopped"


def test_a_validation_again_is_told(fold: Path) -> None:
    made = MadeTraining(fold).whole()
    made.clock += 3600
    made.start(debug=False).predict(1)
    assert read_state(fold, now=made.clock).kind == "validating"
    made.predict(3).validate(dice=0.5)
    assert read_state(fold, now=made.clock).dice == 0.5


def test_a_traceback_at_the_end_is_a_failure(fold: Path) -> None:
    made = MadeTraining(fold).start().train(0, 2)
    trace = 'Traceback (most recent call last):\n  File "a.py", line 1\nRuntimeError: CUDA out of memory'
    made.write(trace, add_timestamp=False)
    state = read_state(fold, now=made.clock)
    assert (state.kind, state.epoch, state.message) == ("failed", 2, "RuntimeError: CUDA out of memory")
    made.train(2, 3)  # it went on: the traceback was of something else
    assert read_state(fold, now=made.clock).kind == "running"


def test_a_loss_that_is_not_finite_is_told(fold: Path) -> None:
    made = MadeTraining(fold).start()
    for number, loss in enumerate((-0.1, math.nan, -0.2, math.nan, math.inf)):
        made.epoch(number, loss=loss)
    assert read_state(fold, now=made.clock).message == "the loss is not finite since epoch 3"


def test_files_of_others(fold: Path) -> None:
    fold.mkdir(parents=True)
    (fold / "checkpoint_final.pth").write_bytes(b"no weights")
    assert read_state(fold).kind == "foreign"
    (fold / "validation").mkdir()
    (fold / "validation" / "summary.json").write_text('{"foreground_mean": {"Dice": NaN}}')
    state = read_state(fold)
    assert (state.kind, state.dice, state.message) == ("done", None, "without a training log")
    (fold / "checkpoint_final.pth").unlink()
    state = read_state(fold)
    assert (state.kind, state.message) == ("done", "without a training log and the final checkpoint")


def test_pretraining_is_done_without_a_dice(fold: Path) -> None:
    made = MadeTraining(fold).start().train(0, 10).finish()
    (fold / "validation").mkdir()
    (fold / "validation" / "reconstruction.json").write_text("{}")
    made.write("Validation complete, mean of 4 cases. denoise: PSNR 20 dB, R^2 0.9")
    state = read_state(fold, now=made.clock)
    assert (state.kind, state.dice) == ("done", None)


def test_the_lock_file_knows_better_than_silence(fold: Path) -> None:
    made = MadeTraining(fold, seconds=9).start().train(0, 2)
    lock, host = fold / LOCK_FILE, socket.gethostname()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for pid, silence, kind in (
        (os.getpid(), 1e6, "running"),
        (child.pid, 30, "running"),  # lines still come: it was started again by hand
        (child.pid, 90, "stopped"),
    ):
        lock.write_text(json.dumps({"pid": pid, "host": host}))
        assert read_state(fold, now=made.clock + silence).kind == kind, (pid, silence)
    assert read_state(fold, now=made.clock + 90).message == "its process is gone"
    if Path("/proc/self/stat").exists():
        held = asdict(own_lock(lock)) | {"file": None}
        for started, kind in ((held["started"], "running"), (1.0, "stopped")):  # another process had this number
            lock.write_text(json.dumps({**held, "started": started}))
            assert read_state(fold, now=made.clock + 90).kind == kind, started
    for text in ('{"pid": 1, "host": "another machine"}', "{", "[]", '{"pid": "x", "host": 3}'):
        lock.write_text(text)
        assert read_state(fold, now=made.clock + 90).kind == "running", text
        assert read_state(fold, now=made.clock + 900).kind == "stopped", text


def test_a_lock_alone_is_a_training_that_starts(fold: Path) -> None:
    fold.mkdir(parents=True)
    (fold / LOCK_FILE).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    assert read_state(fold).kind == "running"


def test_epochs_without_the_note_of_nnunet_come_from_the_name(fold: Path) -> None:
    made = MadeTraining(fold).start().train(0, 1)
    (fold / "debug.json").write_text('{"num_epochs": ')  # being written
    assert read_state(fold, now=made.clock).epochs == 10
    other = fold.parent.with_name("nnUNetTrainerGASA__nnUNetPlans__2d") / "fold_0"
    shutil.copytree(fold, other)
    state = read_state(other, now=made.clock)
    assert (state.epochs, state.eta_seconds) == (None, None)


def test_logs_are_in_the_order_of_their_times_not_of_their_letters(fold: Path) -> None:
    fold.mkdir(parents=True)
    names = [f"training_log_2026_{month}_1_09_05_00.txt" for month in (10, 9, 2)]
    for name in [*names, "training_log_notes.txt"]:
        (fold / name).write_text("")
    assert [file.name for file in log_files(fold)] == names[::-1]


def test_a_line_that_is_being_written_is_left(fold: Path) -> None:
    made = MadeTraining(fold).start().train(0, 1)
    with made.log.open("a") as log:
        log.write("2026-03-01 12:10:00.000001: Epoch 1")  # of "Epoch 12"
    assert [epoch.number for epoch in read_log(made.log).epochs] == [0]


def test_lists_of_older_numpy_and_stamps_without_a_fraction() -> None:
    lines = ["2026-03-01 12:00:00: Epoch 7 ", "2026-03-01 12:00:09: Pseudo dice [0.25, nan, 1e-04] ", ""]
    (epoch,) = parsed_log(Path("log"), "\n".join(lines)).epochs
    assert (epoch.number, epoch.started.timestamp()) == (7, NOON)
    assert epoch.pseudo_dice[::2] == (0.25, 1e-4)
    assert math.isnan(epoch.pseudo_dice[1])
    assert epoch.dice == pytest.approx((0.25 + 1e-4) / 2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m"), (3540, "59m"), (3599, "1h00m"), (11100, "3h05m"), (183600, "2d03h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_neither_torch_nor_nnunet_is_imported() -> None:
    code = "import sys, nnunet_attn.study.status_grid; sys.exit(any(m in sys.modules for m in ('torch', 'nnunetv2')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
