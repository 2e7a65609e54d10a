"""The command `nnunet-attn evaluate`: what it prints and refuses, Ctrl-C, and its page."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_attn.cli import main
from nnunet_attn.evaluation.evaluate import result_files
from tests.made.pages import run_page
from tests.made.results import DATASET, TRAINER, model_folder, write_results


def test_command_prints_means_and_where_they_are(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "-d", "910", "-tr", TRAINER, "nnUNetTrainerFINE", "-f", "0", "1", "-np", "1"]) == 0
    printed = capsys.readouterr().out
    overall = json.loads((model_folder(results) / "evaluation_attn_folds_0_1" / "summary_attn.json").read_text())
    assert f"{overall['foreground_mean']['nsd']['mean']:.4g}" in printed
    assert "6 cases, 0 of them up to date" in printed and "nnUNetTrainerFINE 3d_fullres" in printed
    assert str(result_files(model_folder(results) / "evaluation_attn_folds_0_1")[1]) in printed
    assert main(["evaluate", "-d", "910", "-tr", TRAINER, "-f", "0", "1", "--preset", "karimi"]) == 0
    printed = capsys.readouterr().out
    assert "preset karimi, per case: Karimi et al." in printed and "sd " in printed
    validation = model_folder(results) / "fold_0" / "validation"
    words = ["-i", str(validation), "-r", str(results / "raw" / DATASET / "labelsTr"), "--chill", "--metrics", "dice"]
    assert (
        main(["evaluate", *words, "-djfile", str(model_folder(results) / "dataset.json"), "-o", str(results / "out")])
        == 0
    )
    printed = capsys.readouterr().out
    assert "without a prediction, left out: case_" in printed and "recall" not in printed
    assert "replaced" not in printed
    settings = ["--metrics", "dice", "--surface", "erosion", "--tolerance", "2"]
    assert main(["evaluate", "-d", "910", "-tr", TRAINER, "-f", "0", "1", "-np", "1", *settings]) == 0
    printed = capsys.readouterr().out
    assert "replaced: an earlier evaluation there with --metrics dice iou" in printed
    assert "--surface area, --tolerance 'liver=1' " in printed
    assert (results / "out" / "summary_attn.json").is_file() and not (validation / "summary_attn.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-i", "a"], "-i needs -r"),
        (["-d", "910"], "-d needs -tr"),
        (["-i", "a", "-r", "b", "-f", "0"], "-f does not go with -i"),
        (["-d", "910", "-tr", TRAINER, "--chill"], "--chill does not go with -d"),
        (["-d", "910", "-tr", TRAINER, "nnUNetTrainerFINE", "-o", "x"], "-o takes the evaluation of one trainer"),
        (["-d", "910", "-tr", TRAINER, "-f", "all"], "validates on the cases it was trained on"),
        (["-d", "910", "-tr", TRAINER, "-f", "x"], "folds are numbers"),
        (["-d", "910", "-tr", TRAINER, "--metrics", "hd"], "--metrics: 'hd' is no metric; choose from dice, iou"),
        (["-d", "910", "-tr", TRAINER, "--tolerance", "spleen=1"], "the classes are liver, lesion"),
        (["-d", "910", "-tr", TRAINER, "--tolerance", "a=b"], "--tolerance a=b"),
        (["-d", "910", "-tr", TRAINER, "--tolerance", "-1"], "--tolerance -1: a tolerance is a number of mm"),
        (["-d", "910", "-tr", TRAINER, "--tolerance", "1", "2"], "1 2: two tolerances of all classes; give one"),
        (["-d", "910", "-tr", TRAINER, "--tolerance", "a=1", "a=2"], "two tolerances of the class a; give one"),
        (["-d", "910", "-tr", TRAINER, "-chk", "nonsense"], "-chk nonsense: give the name of a checkpoint"),
        (["-d", "910", "-tr", TRAINER, "--preset", "x"], "--preset x: it is one of karimi, medt, fine, gasa"),
        (["-d", "910", "-tr", TRAINER, "--preset", "medt", "--metrics", "dice"], "says metrics and surface itself"),
        (["-d", "910", "-tr", TRAINER, "--preset", "fine"], "no class for spleen"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_refuses_in_one_line(
    results: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    folds = [] if "-f" in words or "-i" in words else ["-f", "0", "1"]
    assert main(["evaluate", *words, *folds]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(results.rglob("*_attn*"))


SLOW_RUN = """
import sys
from nnunet_attn.evaluation import measuring, metrics
measuring.ALONE_SECONDS = 0.0
def wait(*_):
    import time
    open(sys.argv[1], "w").close()
    time.sleep(600)
if __name__ == "__main__":
    from nnunet_attn.cli import main
    sys.exit(main(sys.argv[2:]))
else:  # the processes that measure import this file under another name
    measuring.read_pair = wait
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends Ctrl-C to a process group")
def test_ctrl_c_ends_all_processes_and_leaves_nothing(results: Path, tmp_path: Path) -> None:
    script, started = tmp_path / "run.py", tmp_path / "started"
    script.write_text(SLOW_RUN)
    words = [
        sys.executable,
        str(script),
        str(started),
        "evaluate",
        "-d",
        "910",
        "-tr",
        TRAINER,
        "-f",
        "0",
        "1",
        "-np",
        "2",
    ]
    process = subprocess.Popen(
        words, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(os.environ)
    )
    try:
        begin = time.monotonic()
        while not started.exists() and time.monotonic() - begin < 120 and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 130, printed
        assert b"Traceback" not in printed
        with pytest.raises(ProcessLookupError):  # the whole group is gone
            for _ in range(100):
                os.killpg(process.pid, 0)
                time.sleep(0.05)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert not list(results.rglob("summary_attn*")) and not list(results.rglob("*.part"))


@pytest.mark.slow
def test_page_runs_as_written(tmp_path: Path) -> None:
    environment = write_results(tmp_path, {TRAINER: 1.0, "nnUNetTrainerFINE": 0.5}, dataset="Dataset004_Hippocampus")
    predictions = tmp_path / "predictions"
    model_folder = tmp_path / "results" / "Dataset004_Hippocampus" / f"{TRAINER}__nnUNetPlans__3d_fullres"
    shutil.copytree(model_folder / "fold_0" / "validation", predictions)
    shutil.copy(model_folder / "dataset.json", predictions)
    references = tmp_path / "references"
    references.mkdir()
    for file in predictions.glob("*.nii.gz"):
        shutil.copy(tmp_path / "raw" / "Dataset004_Hippocampus" / "labelsTr" / file.name, references)
    printed = run_page("docs/how-to/evaluate.md", tmp_path, {**os.environ, **environment})
    assert printed.count("10 cases, 0 of them up to date") == 4  # both trainers, other surfaces, the preset
    assert printed.count("10 cases, 10 of them up to date") == 1  # the checkpoint was stated
    assert printed.count("2 cases, 0 of them up to date") == 2 and "preset karimi" in printed
