"""`study run`: what it refuses before anything starts, what it would do, and what it says about jobs."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn import cli
from nnunet_attn.errors import InputError
from nnunet_attn.study.engine import preflight
from nnunet_attn.study.engine import run as engine
from nnunet_attn.study.engine.job import Note, Stage, note_file
from nnunet_attn.study.engine.jobs import jobs
from nnunet_attn.study.engine.markers import Open, synchronise, write_json, write_marker
from nnunet_attn.study.engine.run import RUN_LOCK, RunOptions, planned, run_study
from nnunet_attn.study.engine.watching import Event, Watch
from nnunet_attn.study.folder import ENGINE, log_file, study_folder
from nnunet_attn.study.model import Study, read_study
from tests.made.results import DATASET
from tests.study.engine.conftest import A, B

STUDY = f"datasets: [910]\ntrainers: [{A}, {B}]\nfolds: [0, 1]\nmetrics: [dice]\ndevice: cpu\n"


@pytest.fixture
def file(root: Path, tmp_path: Path) -> Path:
    made = tmp_path / "study.yaml"
    made.write_text(STUDY)
    return made


@pytest.fixture
def engine_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Snakemake were installed, which it cannot be below Python 3.11."""
    monkeypatch.setattr(engine, "check_engine", lambda: None)


def refusal(file: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["study", "run", str(file), *words]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.err


def made(**fields: Any) -> Study:
    given: dict[str, Any] = {"name": "s", "datasets": (910,), "trainers": (A, B), "folds": (0, 1)}
    return Study.model_validate({**given, **fields})


def opened(*kinds: str) -> list[Open]:
    found = jobs(made(trainers=(A, B, "nnUNetTrainerFINE")))
    return [Open(next(job for job in found if job.kind == kind), "") for kind in kinds]


def test_the_folder_lies_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert study_folder(Path("a/glas.yaml")) == tmp_path / "a" / "glas_results"
    assert study_folder(Path("a/glas.yaml"), Path("b")) == tmp_path / "b"


@pytest.mark.usefixtures("engine_there")
def test_a_dry_run_shows_jobs_and_reasons_and_writes_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(file.parent.rglob("*"))
    assert cli.main(["study", "run", str(file), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["evaluate", "evaluate", "compare", "report"]
    assert lines[-1] == "4 jobs to run"
    assert all(": " in line for line in lines[:-1])
    assert sorted(file.parent.rglob("*")) == before


@pytest.mark.usefixtures("engine_there")
def test_a_finished_study_has_nothing_to_run(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, folder = read_study(file), study_folder(file)
    for each in synchronise(study, jobs(study), folder):
        write_marker(study, next(job for job in jobs(study) if job.name == each.job.name), folder)
    assert cli.main(["study", "run", str(file), "--dry-run"]) == 0
    assert capsys.readouterr().out == "nothing to run: all is done\n"
    assert cli.main(["study", "run", str(file)]) == 0
    assert "nothing to run" in capsys.readouterr().out


@pytest.mark.usefixtures("engine_there")
def test_a_data_set_that_is_registered_only_is_planned(file: Path, root: Path) -> None:
    for path in (root / "preprocessed" / DATASET).glob("*.json"):
        path.unlink()
    more = file.read_text().replace(f"[{A}, {B}]", "[nnUNetTrainerFINE]")
    file.write_text(more)
    kinds = [each.job.kind for each in planned(read_study(file), study_folder(file))]
    assert kinds == ["plan", "preprocess", "train", "train", "evaluate", "report"]


def test_without_snakemake_it_says_what_to_install(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    assert 'pip install "nnunet-attn[benchmark]"' in refusal(file, capsys=capsys)
    monkeypatch.setattr(preflight.sys, "version_info", (3, 10, 9))
    assert "Python 3.11" in refusal(file, capsys=capsys)


@pytest.mark.usefixtures("engine_there")
def test_an_executor_without_plug_in_says_what_to_install(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(file, "--executor", "of-nobody", capsys=capsys)
    assert "pip install snakemake-executor-plugin-of-nobody" in said


@pytest.mark.usefixtures("engine_there")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (A, "nnUNetTrainerPlane", "there is no trainer nnUNetTrainerPlane"),
        ("[910]", "[911]", "data set 911"),
        ("[0, 1]", "[0, 7]", "5 folds, 0 to 4, but not 7"),
        ("device: cpu", "plans: nnUNetPlansMine", "-overwrite_plans_name nnUNetPlansMine"),
        ("device: cpu", "configurations: 3d_lowres", "has no configuration 3d_lowres"),
        ("device: cpu", "test_set: true", "imagesTs"),
    ],
)
def test_a_study_that_cannot_run_is_refused_with_the_reason(
    file: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    file.write_text(file.read_text().replace(old, new))
    assert said in refusal(file, capsys=capsys)
    assert not study_folder(file).exists()


@pytest.mark.usefixtures("engine_there")
def test_results_of_other_plans_are_refused(file: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = root / "results" / DATASET / f"{A}__nnUNetPlans__3d_fullres" / "plans.json"
    content = json.loads(plans.read_text())
    content["configurations"]["3d_fullres"]["batch_size"] += 1
    plans.write_text(json.dumps(content))
    said = refusal(file, capsys=capsys)
    assert "has results of other plans: batch_size differ" in said
    assert f"move {plans.parent} away" in said


@pytest.mark.usefixtures("engine_there")
@pytest.mark.parametrize("place", ["results", "study_results"])
def test_a_full_disk_is_refused(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(preflight, "free_disk_bytes", lambda folder: 10**6 if folder.name == place else 10**12)
    assert f"{place} has 1 MB of free space" in refusal(file, capsys=capsys)


@pytest.mark.usefixtures("engine_there")
def test_a_folder_that_cannot_be_made_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot make the folder" in refusal(file, "-o", str(file / "below"), capsys=capsys)


@pytest.mark.usefixtures("engine_there")
def test_a_disk_that_fills_up_is_one_message(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr(engine, "synchronise", full)
    assert "/somewhere" in refusal(file, capsys=capsys)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.usefixtures("engine_there")
def test_two_runs_in_one_folder_are_refused(
    file: Path, capsys: pytest.CaptureFixture[str], sleeper: "subprocess.Popen[bytes]"
) -> None:
    lock = study_folder(file) / ENGINE / RUN_LOCK
    write_json({"pid": sleeper.pid, "host": socket.gethostname()}, lock)
    said = refusal(file, capsys=capsys)
    assert f"process {sleeper.pid} on {socket.gethostname()}" in said
    write_json({"pid": 1, "host": "another-machine"}, lock)
    said = refusal(file, capsys=capsys)
    assert "another-machine" in said and f"remove {lock}" in said


@pytest.mark.usefixtures("engine_there")
@pytest.mark.parametrize("name", ["locks/report.json", engine.SNAKEMAKE_LOCK])
def test_locks_of_another_machine_are_told_and_not_waited_for(
    file: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    lock = study_folder(file) / ENGINE / name
    write_json({"pid": 1, "host": "another-machine"}, lock)
    said = refusal(file, capsys=capsys)
    assert "process 1 on another-machine holds" in said and f"rm {lock}" in said
    assert not (study_folder(file) / ENGINE / RUN_LOCK).exists()


def test_paths_given_to_jobs_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert engine._place("mine") == str(tmp_path / "mine")
    assert engine._place("one-that-snakemake-knows") == "one-that-snakemake-knows"
    given = {"nnUNet_raw": "raw", "nnUNet_results": "/results", "nnUNet_extTrainer": f"own{os.pathsep}/other", "A": "a"}
    assert engine.absolute_folders(given) == {
        "nnUNet_raw": str(tmp_path / "raw"),
        "nnUNet_results": "/results",
        "nnUNet_extTrainer": f"{tmp_path / 'own'}{os.pathsep}/other",
        "A": "a",
    }


@pytest.mark.usefixtures("engine_there")
@pytest.mark.parametrize("words", [["--cores", "0"], ["--jobs", "-1"], ["--devices", "0"]])
def test_numbers_that_make_no_sense_are_refused(
    file: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert words[0] in refusal(file, *words, capsys=capsys)


def test_devices_are_given_by_number_or_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "visible_devices", lambda: ("GPU-a", "GPU-b"))
    assert engine._devices(RunOptions(), None) == ("cuda", ("GPU-a", "GPU-b"))
    assert engine._devices(RunOptions(devices=("1",)), "cuda") == ("cuda", ("GPU-b",))
    assert engine._devices(RunOptions(devices=("GPU-a",)), None) == ("cuda", ("GPU-a",))
    assert engine._devices(RunOptions(), "cpu") == ("cpu", ())
    with pytest.raises(InputError, match="--devices 2: there is no such CUDA device; there are GPU-a, GPU-b"):
        engine._devices(RunOptions(devices=("2",)), None)
    monkeypatch.setattr(engine, "visible_devices", lambda: ("2", "3"))
    assert engine._devices(RunOptions(devices=("3",)), None) == ("cuda", ("3",))
    with pytest.raises(InputError, match="no such CUDA device"):
        engine._devices(RunOptions(devices=("0",)), None)
    monkeypatch.setattr(engine, "visible_devices", tuple)
    assert engine._devices(RunOptions(), None) == ("cpu", ())
    with pytest.raises(InputError, match="there is no CUDA device here"):
        engine._devices(RunOptions(), "cuda")


@pytest.mark.parametrize(
    ("options", "device", "devices", "slots", "threads"),
    [
        (RunOptions(cores=8), "cpu", (), 2, 4),  # no more than there are jobs
        (RunOptions(cores=8, jobs=1), "cpu", (), 1, 8),
        (RunOptions(cores=1, jobs=4), "cpu", (), 1, 1),
        (RunOptions(cores=8), "cuda", ("a",), 1, 8),
        (RunOptions(cores=8, jobs=5), "cuda", ("a", "b", "c"), 2, 4),
        (RunOptions(cores=8), "mps", (), 1, 8),
    ],
)
def test_trainings_share_devices_and_cores(
    root: Path, options: RunOptions, device: str, devices: tuple[str, ...], slots: int, threads: int
) -> None:
    waiting = opened("preprocess", "train", "train", "report")
    assert engine._slots(waiting, options, device, devices) == slots
    assert engine._threads(waiting, options, device, devices)["train"] == threads


class Seen:
    """Writes notes as jobs do, and keeps what is shown."""

    def __init__(self, folder: Path) -> None:
        study = made()
        self.jobs = [each.job for each in synchronise(study, jobs(study), folder)]
        self.folder = folder
        self.events: list[Event] = []
        self.watch = Watch(folder, self.jobs, self.events.append)

    def note(self, index: int, stage: Stage, message: str = "") -> None:
        ended = None if stage == "started" else 130.0
        name = self.jobs[index].name
        write_json(asdict(Note(stage, 1, "here", 100.0, ended, message)), note_file(self.folder, name))
        time.sleep(0.01)  # a clock tick of the file system

    def look(self) -> list[tuple[str, str]]:
        self.events.clear()
        self.watch.look()
        return [(event.stage, event.job.kind) for event in self.events]


def test_jobs_are_shown_as_they_start_and_end(root: Path, tmp_path: Path) -> None:
    seen = Seen(tmp_path / "s")
    assert seen.look() == []
    seen.note(0, "started")
    assert seen.look() == [("started", "evaluate")]
    assert seen.look() == []
    seen.note(0, "done")
    seen.note(1, "done")  # too quick to be seen starting
    assert seen.look() == [("done", "evaluate"), ("started", "evaluate"), ("done", "evaluate")]
    assert [event.seconds for event in seen.events] == [30.0, None, 30.0]
    assert seen.events[-1].finished == 2 and seen.events[-1].total == 4


def test_a_failed_job_is_shown_with_the_last_lines_of_its_log(root: Path, tmp_path: Path) -> None:
    seen = Seen(tmp_path / "s")
    log = log_file(tmp_path / "s", seen.jobs[0].name)
    log.parent.mkdir(parents=True)
    log.write_text("\n".join(f"line {number}" for number in range(100)))
    seen.note(0, "failed", "exit code 1")
    assert seen.look() == [("started", "evaluate"), ("failed", "evaluate")]
    failure = seen.events[-1].failure
    assert failure is not None
    assert failure.message == "exit code 1" and failure.log == log
    assert failure.last_lines[-1] == "line 99" and len(failure.last_lines) == 12
    assert [each.job for each in seen.watch.failed()] == [seen.jobs[0]]
    assert seen.watch.left() == tuple(seen.jobs[1:])


def test_a_killed_job_is_told_by_snakemake(root: Path, tmp_path: Path) -> None:
    seen = Seen(tmp_path / "s")
    log = tmp_path / "snakemake.txt"
    log.write_text("what was before\n")
    seen.watch.follow(log)
    seen.note(0, "started")
    seen.look()
    name = seen.jobs[0].name
    with log.open("a") as file:
        file.write(
            f"[date]\nError in rule evaluate:\n    message: None\n    jobid: 3\n    output: ../markers/{name}.json"
        )
        file.flush()
        file.write("\n    shell: x\n")
    assert seen.look() == [("failed", "evaluate")]
    assert seen.events[0].failure is not None and seen.events[0].failure.message == "killed"
    assert seen.look() == []


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Snakemake needs Python 3.11")
def test_what_is_trained_is_evaluated_compared_and_reported(file: Path, root: Path) -> None:
    study, folder, events = read_study(file), study_folder(file), []
    outcome = run_study(study, file, folder, RunOptions(cores=2), events.append)
    assert (outcome.exit_code, outcome.failed, outcome.left, outcome.message) == (0, (), (), "")
    assert [job.kind for job in outcome.done] == ["evaluate", "evaluate", "compare", "report"]
    assert sorted(event.job.kind for event in events if event.stage == "done") == sorted(
        job.kind for job in outcome.done
    )
    assert outcome.report is not None and (outcome.report / "report.html").is_file()
    assert (folder / "comparison" / f"{DATASET}__3d_fullres" / "comparison.md").is_file()
    assert run_study(study, file, folder, RunOptions(cores=2)).done == ()
