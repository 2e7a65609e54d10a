"""`nnunet-attn compare`: trainers, predicted test cases, folders, and what it says to wrong input."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from nnunet_attn.cli import main
from nnunet_attn.evaluation.results import SUMMARY_FILE, Evaluation, read_evaluation, write_evaluation
from tests.made.evaluations import random_evaluation
from tests.made.pages import run_page
from tests.made.results import DATASET, rewrite, write_results

PLAIN, GASA = "nnUNetTrainerPlain", "nnUNetTrainerGASA"


def run(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """Run `compare` and return what it printed, in one line where it is an error."""
    assert main(["compare", *map(str, words)]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Three evaluations: two seeds and another trainer."""
    found = []
    for seed, trainer in enumerate((f"{PLAIN}_seed0", f"{PLAIN}_seed1", GASA)):
        folder = tmp_path / f"eval_{seed}"
        folder.mkdir()
        evaluation = random_evaluation(0.02 * (trainer == GASA), seed, 21, origin={"trainer": trainer})
        write_evaluation(evaluation, folder / SUMMARY_FILE, {})
        found.append(str(folder))
    return found


def test_compares_folders(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    printed = run(capsys, *folders, "--metrics", "dice", "--reference", GASA, "-o", out, "--confidence", "0.9")
    assert f"2 methods, reference {GASA}; paired over 21 cases." in printed
    assert f"{PLAIN} - {GASA}" in printed and "90 % interval" in printed and "HD95" not in printed
    assert f"written: {out / 'comparison.md'} and 8 other files" in printed
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert (content["reference"], content["confidence"], content["metrics"]) == (GASA, 0.9, ["dice"])


def test_without_output_only_the_screen_is_written_to(
    folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    names = ("--names", "one", "two", "GASA", "--all-pairs", "--decimals", "2", "--metrics", "dice")
    printed = run(capsys, *(Path(folder).name for folder in folders), *names)
    assert "two - one" in printed and "GASA - two" in printed
    assert "95 % interval" in printed and not re.search(r"0\.\d{3} to", printed)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_whose_predictions_changed_is_warned_about(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{trainer}__nnUNetPlans__3d_fullres" for trainer in (PLAIN, f"{GASA}_seed0")]
    words = [models / name / "evaluation_attn_folds_0_1" for name in names]
    run(capsys, *TRAINERS, "--metrics", "dice")
    assert "have changed since" not in run(capsys, *words, "--metrics", "dice")
    prediction = next((models / names[1] / "fold_0" / "validation").glob("*.nii.gz"))
    os.utime(prediction, (1, 1))
    printed = run(capsys, *words, "--metrics", "dice", "-o", tmp_path / "out")
    warning = f"predictions or references have changed since {words[1]} was evaluated"
    assert f"warning: {warning}" in printed
    assert warning in (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")


def test_folds_drawn_at_random_are_known_from_their_record(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "preprocessed" / DATASET
    splits = json.loads((folder / "splits_final.json").read_text(encoding="utf-8"))
    digests = [
        hashlib.sha256(json.dumps([sorted(split[part]) for part in ("train", "val")]).encode()).hexdigest()
        for split in splits
    ]
    record = [
        {"fold": fold, "kind": "repeated", "training": 3, "validation": 3, "seed": 0, "sha256": digest}
        for fold, digest in enumerate(digests)
    ]
    words = (*TRAINERS, "--metrics", "dice")
    assert "paired over 6 cases" in run(capsys, *words)
    (folder / "splits_nnunet_attn.json").write_text(json.dumps({"folds": record}), encoding="utf-8")
    printed = run(capsys, *words)
    assert "paired over the means of 2 splits (6 values in all)" in printed
    assert evaluated(models, PLAIN).origin.drawn_folds == (0, 1)
    # a record of other folds than those that are there says nothing
    record[1]["sha256"] = "0" * 64
    (folder / "splits_nnunet_attn.json").write_text(json.dumps({"folds": record}), encoding="utf-8")
    run(capsys, *words)
    assert evaluated(models, PLAIN).origin.drawn_folds == (0,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to compare: give trainers (-d ID -tr A B), or folders"),
        (["-tr", "A", "B"], "-tr needs -d"),
        (["-d", "4", "{0}", "{1}"], "-d goes with -tr"),
        (["--test", "{0}", "{2}"], "--test goes with -tr"),
        (["{0}", "-d", "4", "-tr", "A"], "and -tr: compare trainers or folders, not both"),
        (["-d", "4", "-tr", "A", "B", "--ensemble", "softmax"], "--ensemble goes with --test"),
        (["-d", "4", "-tr", "A", "B", "-f", "one"], "-f one: folds are numbers from 0"),
        (["-d", "4", "-tr", "A", "B", "C", "-p", "P", "Q"], "-p P Q: give one for all of the 3 trainers"),
        (["{0}", "{2}", "--decimals", "-1"], "--decimals -1: give a number from 0 to 12"),
        (["{0}", "{2}", "--metrics", "dsc"], "'dsc' is no metric; choose from dice"),
        (["{0}", "{2}", "--reference", "X"], f"none of the compared methods; choose from {PLAIN}_seed0, {GASA}"),
        (["{0}", "{1}"], f"one method alone ({PLAIN}) cannot be compared"),
        (["{0}", "{0}"], "is given twice; give each evaluation once"),
        (["{0}", "{0}/../eval_0"], "are one evaluation; give each evaluation once"),
        (["{0}", "{0}/summary_attn.json", "--names", "A", "B"], "are one evaluation; give each evaluation once"),
        (["{0}", "{2}", "--names", "A"], "--names has 1 names for 2 evaluations"),
        (["{0}", "nowhere"], "nowhere does not exist; evaluate first: nnunet-attn evaluate"),
        (["{0}", "{2}", "-o", "{0}"], f"holds {SUMMARY_FILE}, which is no comparison's; name a new folder"),
        (["{0}", "{2}", "--preset", "fine"], "summary_attn_fine.json does not exist; evaluate first"),
    ],
)
def test_wrong_input(words: list[str], message: str, folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, *(word.format(*folders) for word in words), code=2)
    assert message in printed and printed.startswith("nnunet-attn: error: ") and "Traceback" not in printed


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of three cross-validations of two folds each, which nnU-Net finds."""
    trainers = {PLAIN: 1.5, f"{GASA}_seed0": 1.0, f"{GASA}_seed1": 1.2}
    for name, value in write_results(tmp_path, trainers, folds=2, cases=6).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "results" / DATASET


TRAINERS = ("-d", "910", "-tr", PLAIN, f"{GASA}_seed0", f"{GASA}_seed1", "-f", "0", "1", "-np", "1")


def evaluated(models: Path, trainer: str, folder: str = "evaluation_attn_folds_0_1") -> Evaluation:
    return read_evaluation(models / f"{trainer}__nnUNetPlans__3d_fullres" / folder)


def test_compares_trainers_and_evaluates_what_is_missing(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    printed = run(capsys, *TRAINERS, "--metrics", "dice", "-o", out)
    assert f"2 methods, reference {PLAIN}; paired over 6 cases." in printed and f"{GASA} - {PLAIN}" in printed
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    (plain, gasa) = content["results"][0]["methods"]
    stock = [
        json.loads(file.read_text(encoding="utf-8"))["foreground_mean"]["Dice"]
        for fold in (0, 1)
        for file in models.glob(f"{PLAIN}__*/fold_{fold}/validation/summary.json")
    ]
    # three cases in each fold: nnU-Net's means of the folds weigh the same
    assert plain["table_mean"] == pytest.approx(sum(stock) / 2)
    assert len(gasa["seed_means"]) == 2 and gasa["seeds_sd"] > 0
    assert "the methods have not the same number of seeds" in printed


def test_registered_patients_are_known(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {case.case: {"patient": None} for case in _first_evaluation(models, capsys).cases}
    file = tmp_path / "raw" / DATASET / "nnunet_attn_cases.json"
    file.write_text(json.dumps({"cases": cases}), encoding="utf-8")
    assert "nothing tells the patients" in run(capsys, *TRAINERS, "--patients", code=2)
    file.write_text(json.dumps({"cases": {case: {"patient": "anna"} for case in cases}}), encoding="utf-8")
    assert "warning: 1 patient has several cases" in run(capsys, *TRAINERS, "--metrics", "dice")
    printed = run(capsys, *TRAINERS, "--metrics", "dice", "--patients")
    assert "the means of 2 patients (6 cases in all)" in printed
    assert "warning: 1 patient has cases in several folds" in printed  # in both
    file.write_text("[]", encoding="utf-8")
    assert "is not what nnunet-attn register writes" in run(capsys, *TRAINERS, code=2)


def _first_evaluation(models: Path, capsys: pytest.CaptureFixture[str]) -> Evaluation:
    run(capsys, *TRAINERS, "--metrics", "dice")
    return evaluated(models, PLAIN)


def test_an_evaluation_keeps_its_settings_and_gives_them_to_the_others(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for checkpoint in models.glob("*/fold_0"):  # so that nothing tells which of the two predicted
        (checkpoint / "checkpoint_best.pth").touch()
    settings = ("--surface", "erosion", "--tolerance", "2", "-chk", "checkpoint_best.pth")
    assert main(["evaluate", "-d", "910", "-tr", f"{GASA}_seed0", "-f", "0", "1", "-np", "1", *settings]) == 0
    before = evaluated(models, f"{GASA}_seed0")
    assert before.origin.checkpoint == "checkpoint_best.pth"
    run(capsys, *TRAINERS)
    assert evaluated(models, f"{GASA}_seed0") == before  # what was stated holds while no file changes
    assert evaluated(models, PLAIN).settings == before.settings
    assert evaluated(models, PLAIN).origin.checkpoint is None
    run(capsys, *TRAINERS, "-chk", "checkpoint_best.pth")
    assert evaluated(models, PLAIN).origin.checkpoint == "checkpoint_best.pth"


def test_a_checkpoint_stated_for_earlier_predictions_does_not_hold_for_later_ones(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models / f"{PLAIN}__nnUNetPlans__3d_fullres"
    for fold in models.glob("*/fold_*"):
        (fold / "checkpoint_best.pth").touch()
    run(capsys, *TRAINERS, "-chk", "checkpoint_final.pth")
    assert evaluated(models, PLAIN).origin.checkpoint == "checkpoint_final.pth"
    # nnU-Net's own trainer validates again with --val_best, which leaves no trace but the predictions
    rewrite(sorted((model / "fold_0" / "validation").glob("*.nii.gz"))[0])
    run(capsys, *TRAINERS)
    assert evaluated(models, PLAIN).origin.checkpoint is None
    assert evaluated(models, f"{GASA}_seed0").origin.checkpoint == "checkpoint_final.pth"
    # so does a trainer of this package, which notes it
    for fold in (0, 1):
        note = {"checkpoint": "checkpoint_best.pth"}
        (model / f"fold_{fold}" / "validation" / "checkpoint_attn.json").write_text(json.dumps(note), encoding="utf-8")
    printed = run(capsys, *TRAINERS, code=2)
    assert "checkpoint_final.pth" in printed and "checkpoint_best.pth" in printed
    assert evaluated(models, PLAIN).origin.checkpoint == "checkpoint_best.pth"


def test_a_note_is_believed_at_once(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *TRAINERS)
    assert evaluated(models, PLAIN).origin.checkpoint == "checkpoint_final.pth"
    for fold in models.glob(f"{PLAIN}__*/fold_*"):
        note = {"checkpoint": "checkpoint_best.pth"}
        (fold / "validation" / "checkpoint_attn.json").write_text(json.dumps(note), encoding="utf-8")
    assert "checkpoint_best.pth" in run(capsys, *TRAINERS, code=2)


def test_plans_and_configurations_are_one_for_all_or_one_each(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old,) = models.glob(f"{GASA}_seed1__*")
    content = json.loads((old / "plans.json").read_text(encoding="utf-8"))
    (old / "plans.json").write_text(json.dumps({**content, "plans_name": "Mine"}), encoding="utf-8")
    old.rename(models / f"{PLAIN}__Mine__3d_fullres")
    words = ("-d", "910", "-tr", PLAIN, PLAIN, "-p", "nnUNetPlans", "Mine", "-f", "0", "1", "--metrics", "dice")
    printed = run(capsys, *words)
    assert f"{PLAIN}__Mine__3d_fullres - {PLAIN}__nnUNetPlans__3d_fullres" in printed
    assert "warning: other plans: nnUNetPlans for" in printed
    assert "is given twice; give each once" in run(capsys, "-d", "910", "-tr", PLAIN, PLAIN, code=2)
    assert "there is no model folder" in run(capsys, "-d", "910", "-tr", PLAIN, PLAIN, "-c", "2d", "3d_fullres", code=2)
    assert "-f all: this fold validates on the cases" in run(capsys, *words[:-4], "all", code=2)


def test_compares_predicted_test_cases(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*TRAINERS, "--test", "--metrics", "dice")
    assert "the test cases have no references; leave out --test" in run(capsys, *words, code=2)
    labels = tmp_path / "raw" / DATASET / "labelsTs"
    labels.mkdir()
    printed = run(capsys, *words, code=2)
    command = f"nnunet-attn predict-test -d 910 -tr {' '.join(TRAINERS[3:6])} -c"
    assert f"(nor those of 2 other trainers); predict first: {command}" in printed and "-device" not in printed
    for model in models.iterdir():
        for name in ("test_attn_folds_0_1", "test_attn_folds_0_1_softmax"):
            (model / name).mkdir()
            for file in (model / "fold_0" / "validation").glob("*.nii.gz"):
                shutil.copy(file, model / name)
                shutil.copy(tmp_path / "raw" / DATASET / "labelsTr" / file.name, labels)
    assert "paired over 3 cases" in run(capsys, *words)
    origin = evaluated(models, PLAIN, "test_attn_folds_0_1").origin
    assert (origin.kind, origin.folds, origin.ensemble) == ("folder", (0, 1), "logits")
    assert origin.checkpoint == "checkpoint_final.pth" and origin.plans_digest
    run(capsys, *words, "--ensemble", "softmax")
    assert evaluated(models, PLAIN, "test_attn_folds_0_1_softmax").origin.ensemble == "softmax"


@pytest.mark.slow
def test_the_page_runs_as_written(tmp_path: Path) -> None:
    trainers = {PLAIN: 1.5, GASA: 1.2, "nnUNetTrainerUNetPlusPlus": 1.3}
    seeds = {f"{name}_seed{seed}": 1.2 + 0.1 * seed for name in (PLAIN, GASA) for seed in (1, 2)}
    environment = write_results(tmp_path / "nnunet", {**trainers, **seeds}, cases=20, dataset="Dataset004_Hippocampus")
    raw = tmp_path / "nnunet" / "raw" / "Dataset004_Hippocampus"
    names = sorted(file.name.split(".")[0] for file in (raw / "labelsTr").iterdir())
    patients = {name: {"patient": f"patient {number // 2}"} for number, name in enumerate(names)}
    (raw / "nnunet_attn_cases.json").write_text(json.dumps({"cases": patients}), encoding="utf-8")
    folder = tmp_path / "here"
    folder.mkdir()
    printed = run_page("docs/how-to/compare.md", folder, {**os.environ, **environment})
    assert f"{GASA} - {PLAIN}" in printed and "GASA - U-Net" in printed and printed.count("over 20 cases") == 3
    assert (folder / "comparison" / "plots" / "differences_dice.svg").is_file()
    assert {path.name for path in folder.iterdir()} == {"comparison", "comparison-of-seeds"}
