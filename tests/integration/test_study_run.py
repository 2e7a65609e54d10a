"""A study from nothing to its report, by the command: killed three times on the way, and with a training that fails."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from nnunet_attn.datasets.phantom import write_phantom
from nnunet_attn.paths import NNUNET_FOLDERS, nnunet_environment
from nnunet_attn.study.engine.jobs import jobs
from nnunet_attn.study.logs import log_files, read_log
from nnunet_attn.study.matrix import Run, runs
from nnunet_attn.study.model import Study, read_study
from tests.made.workers import one_import

pytest.importorskip("snakemake", reason="Snakemake needs Python 3.11 and the extra benchmark")
pytestmark = [pytest.mark.slow, pytest.mark.kill]

STUDY = (files("nnunet_attn.studies") / "phantom-smoke.yaml").read_text(encoding="utf-8")
ODD = "  - {trainer: nnUNetTrainerGASA_NoMirroring, name: odd, options: {embed_dim: 10, num_heads: 3}}"
EPOCHS = 3
LONGEST_SECONDS = 1500.0
Snapshot = dict[Path, tuple[int, int, int]]


@dataclass
class Bench:
    """A study's file and folders, and what has been seen while it ran."""

    root: Path
    environment: dict[str, str]
    kept: Snapshot = field(default_factory=dict)
    rerun: list[Path] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.root / "study.yaml"

    @property
    def folder(self) -> Path:
        return self.root / "study_results"

    @property
    def study(self) -> Study:
        return read_study(self.file)

    @property
    def runs(self) -> tuple[Run, ...]:
        return runs(self.study)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "nnunet_attn.cli", "study", "run", str(self.file), "--cores", "2", *words]
        output = (self.root / "output.txt").open("a", encoding="utf-8")
        with output:
            return subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.root,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def wait(self, process: "subprocess.Popen[str]", until: Callable[[], bool] = lambda: False) -> int | None:
        """Wait until the run ends or something is true; looks for trainings that share a folder meanwhile."""
        now = looked = time.monotonic()
        deadline = now + LONGEST_SECONDS
        while process.poll() is None and not until():
            now = time.monotonic()
            assert now < deadline, self.output()
            if now > looked + 1:
                self.twice += [text for text, count in trainings_now().items() if count > 1]
                looked = now
            time.sleep(0.05)
        return process.returncode

    def output(self) -> str:
        return (self.root / "output.txt").read_text(encoding="utf-8")

    def remember(self) -> None:
        """Note what is finished, and which of what was finished before has changed since."""
        now = snapshot(self)
        self.rerun += [path for path, stamp in self.kept.items() if now.get(path) != stamp]
        self.kept = now


def trainings_now() -> Counter[str]:
    """How many processes are nnU-Net's training of the same trainer and fold."""
    found: dict[int, tuple[int, str]] = {}
    for process in psutil.process_iter(["cmdline", "environ", "ppid"]):
        words = process.info["cmdline"] or []
        if any(Path(word).name == "nnUNetv2_train" for word in words[:2]):
            results = (process.info["environ"] or {}).get("nnUNet_results", "")
            found[process.pid] = process.info["ppid"], " ".join([results, *words[2:8]])
    # what a training forks looks like itself
    return Counter(text for parent, text in found.values() if found.get(parent, (0, ""))[1] != text)


def epochs_of(run: Run) -> int:
    return sum(len([e for e in read_log(file).epochs if e.seconds is not None]) for file in log_files(run.fold_folder))


def is_between(run: Run) -> bool:
    """Whether a training has a checkpoint to go on from, and not its last one."""
    there = (run.fold_folder / "checkpoint_latest.pth").is_file()
    return there and not (run.fold_folder / "checkpoint_final.pth").exists() and 1 <= epochs_of(run) < EPOCHS


def is_finished(run: Run) -> bool:
    folder = run.fold_folder
    return (folder / "checkpoint_final.pth").is_file() and (folder / "validation" / "summary.json").is_file()


def snapshot(bench: Bench) -> Snapshot:
    """Inode, size and time of change of all that finished jobs have left, trainings and what is marked."""
    markers = [path for path in (bench.folder / "markers").glob("*.json") if path.name != "report.json"]
    found = [*markers, *(log for path in markers if (log := bench.folder / "logs" / f"{path.stem}.txt").exists())]
    for run in bench.runs:
        if is_finished(run):
            found += [run.fold_folder / "checkpoint_final.pth", run.fold_folder / "validation" / "summary.json"]
            found += log_files(run.fold_folder)
    return {path: (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def kill(process: "subprocess.Popen[str]", whole_tree: bool) -> None:
    found = [psutil.Process(process.pid)]
    if whole_tree:
        found += found[0].children(recursive=True)
    for each in found:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGKILL)
    process.wait()


def end_all(bench: Bench) -> None:
    """End what a test that failed has left running: all with this bench's folder in their environment."""
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("nnUNet_results") == bench.environment["nnUNet_results"]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A study on raw images alone, run to its end, killed three times on the way."""
    root = tmp_path_factory.mktemp("study")
    environment = nnunet_environment(root / "nn")
    environment |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "2", "OMP_NUM_THREADS": "1"}
    environment |= {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": one_import()}
    del environment["nnUNet_extTrainer"]  # the engine finds the trainers by itself
    write_phantom(root / "nn" / "raw", 901, dim=2, n_train=10, n_test=2)
    made = Bench(root, environment)
    made.file.write_text(STUDY, encoding="utf-8")
    before = {name: os.environ.get(name) for name in NNUNET_FOLDERS}
    os.environ.update({name: environment[name] for name in NNUNET_FOLDERS})
    try:
        _run_with_kills(made, random.Random(20260301))
        yield made
    finally:
        end_all(made)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _run_with_kills(bench: Bench, rng: random.Random) -> None:
    # the whole tree, as when a machine loses power; the command alone, whose trainings live on; the tree once more
    for number, whole_tree in enumerate((True, False, True)):
        wanted = sum(map(epochs_of, bench.runs)) + rng.randint(1, 5)

        def is_time(wanted: int = wanted, number: int = number) -> bool:
            done = sum(map(epochs_of, bench.runs)) >= wanted
            return done and (number > 0 or any(map(is_between, bench.runs)))  # the first in the middle of a training

        process = bench.start()
        code = bench.wait(process, is_time)
        assert code is None, bench.output()
        time.sleep(rng.uniform(0, 0.3))
        kill(process, whole_tree)
        bench.remember()
    process = bench.start()
    assert bench.wait(process) == 0, bench.output()
    bench.remember()


def test_it_ends_with_the_files_and_cases_of_a_run_that_nobody_kills(bench: Bench) -> None:
    splits = json.loads((bench.root / "nn/preprocessed/Dataset901_Phantom/splits_final.json").read_text())
    for run in bench.runs:
        there = {path.relative_to(run.fold_folder).as_posix() for path in run.fold_folder.rglob("*")}
        predicted = {f"validation/{case}.nii.gz" for case in splits[run.fold]["val"]}
        assert there >= {"checkpoint_final.pth", "checkpoint_best.pth", "validation/summary.json", *predicted}
        assert {path for path in there if path.endswith(".nii.gz")} == predicted
        assert not [path for path in there if "latest" in path or "lock" in path or path.endswith(".broken")]
        assert max(e.number for f in log_files(run.fold_folder) for e in read_log(f).epochs) == EPOCHS - 1
    assert {path.stem for path in (bench.folder / "markers").iterdir()} == {job.name for job in jobs(bench.study)}
    with (bench.folder / "comparison/Dataset901_Phantom__2d/cases.csv").open(encoding="utf-8") as file:
        cases = {row["case"] for row in csv.DictReader(file)}
    assert cases == {case for fold in (0, 1) for case in splits[fold]["val"]}
    assert (bench.folder / "report" / "report.html").is_file()


def test_no_finished_job_ran_again(bench: Bench) -> None:
    assert bench.rerun == []


def test_killed_trainings_went_on_from_their_last_checkpoint(bench: Bench) -> None:
    continued = 0
    for run in bench.runs:
        told = [log for log in map(read_log, log_files(run.fold_folder)) if log.epochs]
        for before, after in pairwise(told):
            finished = [epoch.number for epoch in before.epochs if epoch.seconds is not None]
            if finished:
                # killed after the line and before the checkpoint, that epoch is done again
                assert after.epochs[0].number in (finished[-1], finished[-1] + 1)
                continued += after.epochs[0].number > 0
    assert continued


def test_no_two_trainings_shared_a_folder(bench: Bench) -> None:
    assert bench.twice == []
    for run in bench.runs:
        logs = [log for log in map(read_log, log_files(run.fold_folder)) if log.epochs and log.last]
        for before, after in pairwise(logs):
            assert before.last is not None and before.last <= after.epochs[0].started


def test_a_second_run_has_nothing_to_do(bench: Bench) -> None:
    kept = snapshot(bench)
    process = bench.start()
    assert bench.wait(process) == 0
    assert "nothing" in bench.output().splitlines()[-2]
    assert snapshot(bench) == kept


def test_a_training_that_fails_stops_no_other_and_is_shown(bench: Bench) -> None:
    kept = snapshot(bench)
    text = STUDY.replace("\ntrainers:", f"\ntrainers:\n{ODD}")
    bench.file.write_text(text.replace("seeds: [0, 1]", "seeds: [0]").replace("folds: [0, 1]", "folds: [0]"))
    size = len(bench.output())
    try:
        code = bench.wait(bench.start())
    finally:
        bench.file.write_text(STUDY, encoding="utf-8")
    said = bench.output()[size:]
    assert code == 1
    assert "failed  train odd, seed 0, fold 0" in said
    assert "num_heads" in said  # of the log's last lines
    assert "1 failed:" in said
    assert "odd" in (bench.folder / "report" / "report.html").read_text(encoding="utf-8")
    now = snapshot(bench)
    trained = [path for path in kept if path.suffix == ".pth"]
    assert [now[path] for path in trained] == [kept[path] for path in trained]
