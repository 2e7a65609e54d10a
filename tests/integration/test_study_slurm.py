"""A study on a real Slurm, as the page on clusters says; tests/integration/slurm/start.sh starts one here."""

import importlib.util
import json
import re
import shutil
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.datasets.phantom import write_phantom
from nnunet_attn.paths import nnunet_environment
from tests.made.pages import run_page
from tests.made.workers import one_import

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

PAGE = "docs/how-to/run-on-slurm.md"
STUDY = Path(__file__).parents[2] / "studies/phantom-smoke.yaml"
RESULTS = "Dataset901_Phantom"
EPOCHS = 20
PAGE_SECONDS = 1200  # some minutes on idle cores
CATCH_SECONDS = 900  # for two trainings to have a checkpoint: planning and preprocessing come before


def _slurm(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def _running_slurm() -> None:
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip('no snakemake-executor-plugin-slurm: pip install "nnunet-attn[slurm]"')
    if shutil.which("sbatch") is None:
        pytest.skip("no Slurm: apt-get install slurm-wlm munge, then tests/integration/slurm/start.sh")
    try:
        _slurm("scontrol", "show", "config")
    except (AssertionError, subprocess.TimeoutExpired):
        pytest.skip("Slurm does not answer: tests/integration/slurm/start.sh starts one, as root")


def _locks(results: Path) -> dict[Path, dict[str, Any]]:
    """Fold folders in which something trains, with what their locks say."""
    found = {}
    for file in results.glob(f"{RESULTS}/*/fold_*/nnunet_attn_lock.json"):
        with suppress(OSError, ValueError):  # it has just ended
            found[file.parent] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _can_go_on(fold: Path) -> bool:
    return (fold / "checkpoint_latest.pth").is_file() and not (fold / "checkpoint_final.pth").is_file()


def _disturb(results: Path, page: "Future[str]") -> tuple[dict[str, tuple[Path, str]], int]:
    """Cancel the job of one training, and requeue that of another, as soon as each has something to go on from.

    Returns:
        Fold folder and number of both jobs; how often the second was restarted, as it says itself later.
    """
    done: dict[str, tuple[Path, str]] = {}
    waiting = {"cancelled": ["scancel"], "requeued": ["scontrol", "requeue"]}
    restarts = 0
    deadline = time.monotonic() + CATCH_SECONDS
    while (waiting or not restarts) and time.monotonic() < deadline and not page.done():
        for fold, lock in _locks(results).items():
            if waiting and _can_go_on(fold) and fold not in {each for each, _ in done.values()}:
                what = next(iter(waiting))
                _slurm(*waiting.pop(what), lock["slurm_job"])
                done[what] = (fold, lock["slurm_job"])
            if "requeued" in done and fold == done["requeued"][0]:
                restarts = lock["slurm_restart"]
        time.sleep(0.1)
    return done, restarts


def _epochs(log: Path) -> list[int]:
    return [int(number) for number in re.findall(r": Epoch (\d+) *$", log.read_text(), re.MULTILINE)]


def test_the_page_runs_while_jobs_are_cancelled_and_requeued(tmp_path: Path) -> None:
    """All is trained in the end, what was disturbed goes on from its checkpoint, and nothing is trained twice."""
    nnunet = tmp_path / "nnunet"
    environment = {
        **nnunet_environment(nnunet),
        **{"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        "PYTHONPATH": one_import(),
    }
    write_phantom(nnunet / "raw", 901, dim=2, n_train=10, n_test=2)
    text = STUDY.read_text(encoding="utf-8")
    for before, after in (("epochs: 3", f"epochs: {EPOCHS}"), ("seeds: [0, 1]", "seeds: [0]")):
        assert text.count(before) == 1
        text = text.replace(before, after)
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")

    with ThreadPoolExecutor(1) as pool:
        page = pool.submit(run_page, PAGE, tmp_path, environment, PAGE_SECONDS)
        disturbed, restarts = _disturb(nnunet / "results", page)
        printed = page.result(PAGE_SECONDS + 60)

    assert set(disturbed) == {"cancelled", "requeued"}, printed
    assert (tmp_path / "study_results/report/report.html").is_file()
    folds = sorted((nnunet / "results" / RESULTS).glob("*/fold_*"))
    assert len(folds) == 4  # 2 rows x 2 folds
    for fold in folds:
        assert (fold / "checkpoint_final.pth").is_file()
        assert (fold / "validation/summary.json").is_file()
        assert not (fold / "nnunet_attn_lock.json").exists()
        logs = sorted(fold.glob("training_log_*.txt"))
        was_disturbed = fold in {each for each, _ in disturbed.values()}
        assert len(logs) == 1 + was_disturbed, [log.name for log in logs]
        # each epoch once, but for the one in which it was ended: the log of the second start goes on where it stopped
        starts = [_epochs(log) for log in logs]
        assert sorted({epoch for start in starts for epoch in start}) == list(range(EPOCHS))
        assert sum(map(len, starts)) <= EPOCHS + was_disturbed
        assert all(start[0] > 0 for start in starts[1:])

    # the cancelled one was submitted anew; the requeued one was started again by Slurm, under the number that it had
    log = (tmp_path / "study_results/logs/snakemake.txt").read_text(encoding="utf-8")
    failed = re.findall(r"SLURM-job '(\d+)' failed, SLURM status is: '(\w+)'", log)
    assert failed == [(disturbed["cancelled"][1], "CANCELLED")]
    assert log.count("Trying to restart job") == 1
    assert restarts == 1
    run = re.search(r"SLURM run ID: (\S+)", log)
    assert run is not None
    assert _slurm("squeue", "-h", "--name", run[1]) == ""
