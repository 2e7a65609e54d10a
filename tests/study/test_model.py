"""A study.yaml says what it says; what it may not say is refused with file, line and field."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.settings import KITS23_TOLERANCE_MM
from nnunet_attn.study.model import Budget, Missing, Pretrain, Row, Study, read_study

Write = Callable[[str], Path]

SMALL = "datasets: 4\ntrainers: nnUNetTrainerPlain\n"


def refusal(file: Path) -> list[str]:
    """The lines of the message, without the file's name."""
    with pytest.raises(InputError) as caught:
        read_study(file)
    text = str(caught.value)
    assert text.startswith(f"{file}")
    lines = text.removeprefix(f"{file}").split("\n")
    return [line.strip() for line in lines[1:]] if len(lines) > 1 else [lines[0].removeprefix(", ")]


def test_a_small_study_has_defaults(write: Write) -> None:
    study = read_study(write(SMALL))
    assert study == Study(name="study", datasets=("4",), rows=(Row(trainer="nnUNetTrainerPlain"),))
    assert study.reference == "nnUNetTrainerPlain"
    assert (study.folds, study.seeds, study.configurations) == ((0, 1, 2, 3, 4), (), ("3d_fullres",))
    assert (study.tolerance, study.surface, study.metrics, study.test_set) == (1.0, "area", None, False)


def test_every_field_is_read(write: Write) -> None:
    text = """\
name: all of them
datasets: [4, 005, Dataset006_X]
trainers:
  - nnUNetTrainerPlain
  - {trainer: nnUNetTrainerGASA_bf16, name: wide, options: {embed_dim: 50, rate: 1e-4, flags: [true, null, no]}}
  - {trainer: nnUNetTrainerGASA, plans: nnUNetResEncUNetMPlans, configuration: 2d, labels: [5, 10], ensemble: softmax}
  - {trainer: nnUNetTrainerMAT, pretrain: denoise}
  - {trainer: nnUNetTrainerFINE, pretrain: {task: both, dataset: 10, epochs: 3}}
plans: otherPlans
configurations: [2d, 3d_fullres]
folds: [0, 2]
seeds: [7, 0]
test_set: true
metrics: [dice, nsd]
tolerance: {liver: 1.5, tumour: 2}
surface: erosion
reference: wide
budget: {epochs: 3, iterations: 2, save: 1, width: 0.25, batch_size: 4}
device: cpu
cases: [case_1]
missing:
  - {what: nnUNetTrainerSoon, why: it is not written yet}
"""
    study = read_study(write(text))
    assert study.datasets == ("4", "005", "Dataset006_X")
    wide, other, pretrained, long = study.rows[1:]
    assert wide.options == {"embed_dim": 50, "rate": 0.0001, "flags": [True, None, "no"]}
    assert (wide.title, other.title, study.row_named("wide")) == ("wide", "nnUNetTrainerGASA", wide)
    assert (other.labels, other.ensemble) == ((5, 10), "softmax")
    assert (study.plans_of(other), study.configurations_of(other)) == ("nnUNetResEncUNetMPlans", ("2d",))
    assert (study.plans_of(wide), study.configurations_of(wide)) == ("otherPlans", ("2d", "3d_fullres"))
    assert pretrained.pretrain == Pretrain(task="denoise")
    assert long.pretrain == Pretrain(task="both", dataset="10", epochs=3)
    assert study.budget == Budget(epochs=3, iterations=2, save=1, width=0.25, batch_size=4)
    assert study.missing == (Missing(what="nnUNetTrainerSoon", why="it is not written yet"),)
    assert study.tolerance == {"liver": 1.5, "tumour": 2.0}
    assert (study.seeds, study.cases, study.device, study.reference) == ((7, 0), ("case_1",), "cpu", "wide")
    with pytest.raises(ValidationError, match="frozen"):
        study.name = "x"  # pyright: ignore[reportAttributeAccessIssue]


def test_kits23_stands_for_its_tolerances(write: Write) -> None:
    assert read_study(write(f"{SMALL}tolerance: kits23\n")).tolerance == KITS23_TOLERANCE_MM


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1]", "line 3, seed: no such field (did you mean seeds?); there are name, datasets, trainers, plans"),
        ("rows: [a]", "line 3, rows: no such field (did you mean trainers?)"),
        ("folds: [0, all]", "line 3, folds[1]: must be a whole number, got 'all'"),
        ("folds: [0, -1]", "line 3, folds[1]: must be at least 0, got -1"),
        ("folds:\n  - 1\n  - 1", "line 3, folds: has 1 twice; give it once"),
        ("folds: []", "line 3, folds: must have at least one entry"),
        ("folds: [1.0]", "line 3, folds[0]: must be a whole number, got 1.0"),
        ("seeds: [true]", "line 3, seeds[0]: must be a whole number, got True"),
        ("test_set: yes", "line 3, test_set: must be true or false, got 'yes'"),
        ("device: gpu", "line 3, device: must be cpu, cuda or mps, got 'gpu'"),
        ("metrics: [hd95]", "line 3, metrics: has no metric 'hd95' (did you mean hd95_mm?); there are dice, iou"),
        (
            "tolerance: -1",
            "line 3, tolerance: must be a number of mm, 0 or larger, such numbers by class, or kits23, g",
        ),
        ("tolerance:\n  liver: x", "line 3, tolerance: must be a number of mm"),
        ("budget: 100", "line 3, budget: must be a table of names and values, got 100"),
        ("budget:\n  epochs: 0", "line 4, budget.epochs: must be at least 1, got 0"),
        ("budget: {width: 0}", "line 3, budget.width: must be a number above 0 and at most 4, got 0"),
        ("budget: {width: half}", "line 3, budget.width: must be a number above 0 and at most 4, got 'half'"),
        ("budget: {batch_size: 0}", "line 3, budget.batch_size: must be at least 1, got 0"),
        ("missing: [x]", "line 3, missing[0]: must be a table of names and values, got 'x'"),
        ("missing: [{what: x}]", "line 3, missing[0].why: is missing"),
        (
            "missing: [{what: x, why: y, whys: z}]",
            "line 3, missing[0].whys: no such field (did you mean why?); there are",
        ),
        ("budget: {iters: 3}", "line 3, budget.iters: no such field (did you mean iterations?)"),
        ("configurations: [a__b]", "line 3, configurations[0]: must be a name of nnU-Net's, without spaces and withou"),
        ("name: a/b", "line 3, name: must begin with a letter or digit"),
        ("reference: nnUNetTrainerPlane", "line 3, reference: no row is called 'nnUNetTrainerPlane' (did you mean n"),
        ("name: one\nname: two", "line 4, name: is there twice, first in line 3; keep one"),
        ("[a, b]: 1", "line 3: a field's name must be text"),
        ("device: !!python/name:os.system x", "line 3, device: 'x' cannot be read as tag:yaml.org,2002:python/name"),
        ("seeds: !!int many", "line 3, seeds: 'many' cannot be read as tag:yaml.org,2002:int; leave out the tag"),
    ],
)
def test_a_wrong_field_is_named(write: Write, text: str, message: str) -> None:
    found = refusal(write(f"{SMALL}{text}\n"))
    assert found[0].startswith(message)
    assert len(found) == 1 + ("!!" in text)  # a wrong tag is also a wrong value


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("nnUNetTrainerGaza", "[1]: there is no trainer nnUNetTrainerGaza (did you mean nnUNetTrainerGASA?)"),
        (
            "nnUNetTrainerGASA_5epoch",
            "[1]: nnUNetTrainerGASA exists, but not its suffix '_5epoch'; suffixes: _",
        ),
        ("nnUNetTrainerGASA_bf16_fp32", "[1]: nnUNetTrainerGASA_bf16_fp32: '_fp32' sets again"),
        ("nnUNetTrainerGASA_PretrainBoth", "[1]: nnUNetTrainerGASA_PretrainBoth is a pre-training"),
        ("7", "[1]: must be a table of names and values, got 7"),
        ("{name: x}", "[1].trainer: is missing"),
        (
            "{trainer: nnUNetTrainerGASA, lables: 5}",
            "[1].lables: no such field (did you mean labels?); there are train",
        ),
        ("{trainer: nnUNetTrainerGASA, labels: 1}", "[1].labels: must be at least 2, got 1"),
        ("{trainer: nnUNetTrainerGASA, labels: [5, 5]}", "[1].labels: has 5 twice; give it once"),
        (
            "{trainer: nnUNetTrainerGASA, pretrain: noise}",
            "[1].pretrain: must be denoise, inpaint or both, got 'noise'",
        ),
        (
            "{trainer: nnUNetTrainerGASA, pretrain: {task: both, epoch: 1}}",
            "[1].pretrain.epoch: no such field (did you",
        ),
        ("{trainer: nnUNetTrainerGASA, options: [1]}", "[1].options: must be a table of names and values, got [1]"),
        ("{trainer: nnUNetTrainerGASA, options: {a: 1e999}}", "[1].options: must be what JSON can hold"),
        ("{trainer: nnUNetTrainerGASA, ensemble: mean}", "[1].ensemble: must be logits or softmax, got 'mean'"),
        ("{trainer: nnUNetTrainerGASA, ensemble: softmax}", "[1].ensemble: is about the test set"),
        ("nnUNetTrainerPlain", "[1]: trainers[0] is called 'nnUNetTrainerPlain' too; give each row a name"),
        ("{trainer: nnUNetTrainerPlain, name: x}", "[1]: is the same training as trainers[0]; leave one out"),
        ("{trainer: nnUNetTrainerPlain_bf16, options: {a: 1}}", "[1].options: nnUNetTrainerPlain_bf16 trains the netw"),
        (
            "{trainer: nnUNetTrainer, options: {a: 1}}",
            "[1].options: nnUNetTrainer takes none: it is not a trainer of t",
        ),
        ("{trainer: nnUNetTrainer, pretrain: both}", "[1].pretrain: nnUNetTrainer takes none"),
    ],
)
def test_a_wrong_row_is_named(write: Write, row: str, message: str) -> None:
    text = f"datasets: 4\ntrainers:\n  - nnUNetTrainerPlain\n  - {row}\n"
    (found,) = refusal(write(text))
    assert found.startswith(f"line 4, trainers{message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainers: nnUNetTrainer\nseeds: 1", "line 2, trainers: nnUNetTrainer cannot be given seeds"),
        (
            "trainers: nnUNetTrainer\nbudget: {epochs: 1}",
            "line 2, trainers: nnUNetTrainer cannot be given a b",
        ),
        (
            "trainers: nnUNetTrainerGASA_seed3\nseeds: 1",
            "line 2, trainers: nnUNetTrainerGASA_seed3 has a seed",
        ),
        ("trainers: []", "line 2, trainers: must have at least one entry"),
        ("plans: p", "line 1, trainers: is missing"),
        (
            "trainers: [nnUNetTrainerGASA_bf16_5epochs, {trainer: nnUNetTrainerGASA_5epochs_bf16, name: x}]",
            "line 2, trainers[1]: is the same training as trainers[0]",
        ),
    ],
)
def test_a_contradiction_is_named(write: Write, text: str, message: str) -> None:
    (found,) = refusal(write(f"datasets: [4]\n{text}\n"))
    assert found.startswith(message)


def test_rows_that_share_something_but_not_all_are_taken(write: Write) -> None:
    text = """\
datasets: 4
test_set: true
trainers:
  - nnUNetTrainerPlain
  - {trainer: nnUNetTrainerPlain, name: M, plans: nnUNetResEncUNetMPlans}
  - {trainer: nnUNetTrainerPlain, name: flat, configuration: 2d}
  - {trainer: nnUNetTrainerPlain, name: few, labels: [5, 10]}
  - {trainer: nnUNetTrainerPlain, name: more, labels: 15}
  - {trainer: nnUNetTrainerPlain, name: pretrained, pretrain: both}
  - {trainer: nnUNetTrainerPlain, name: probabilities, ensemble: softmax}
"""
    assert len(read_study(write(text)).rows) == 7


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ("[4, 004]", "line 1, datasets: has 4 twice; give it once"),
        ("[4, Dataset004_X]", "line 1, datasets: has 4 twice"),
        ("[0]", "line 1, datasets[0]: must be a data set's number, 1 to 999, or its name, such as Dataset004_Hippo"),
        ("[1000]", "line 1, datasets[0]: must be a data set's number"),
        ("[Hippocampus]", "line 1, datasets[0]: must be a data set's number"),
        ("[true]", "line 1, datasets[0]: must be a data set's number"),
    ],
)
def test_a_wrong_data_set_is_named(write: Write, datasets: str, message: str) -> None:
    (found,) = refusal(write(f"datasets: {datasets}\ntrainers: nnUNetTrainerPlain\n"))
    assert found.startswith(message)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(write: Write) -> None:
    rows = "  - nnUNetTrainerX\n  - trainer: nnUNetTrainerGASA\n    a: 1\n"
    text = f"device: gpu\ndatasets: [x]\nfolds: [a]\ntrainers:\n{rows}"
    found = refusal(write(text))
    starts = [
        "line 1, device",
        "line 2, datasets[0]",
        "line 3, folds[0]",
        "line 5, trainers[0]: th",
        "line 7, trainers[1].a",
    ]
    assert [line[: len(start)] for line, start in zip(found, starts, strict=True)] == starts


def test_more_than_ten_mistakes_are_counted(write: Write) -> None:
    file = write(SMALL + "".join(f"field_{index}: 1\n" for index in range(13)))
    found = refusal(file)
    assert len(found) == 11 and found[9].startswith("line 12, field_9") and found[-1] == "and 3 more"
    with pytest.raises(InputError, match=f"{file} has 13 mistakes:"):
        read_study(file)


def test_the_same_mistakes_are_refused_from_python() -> None:
    rows = (Row(trainer="nnUNetTrainerPlain"), Row(trainer="nnUNetTrainerPlain"))
    with pytest.raises(ValidationError, match=r"trainers\.1: trainers\[0\] is called"):
        Study(name="x", datasets=("4",), rows=rows)
    with pytest.raises(ValidationError, match="there is no trainer nnUNetTrainerX"):
        Row(trainer="nnUNetTrainerX")


def test_a_trainer_of_another_folder_is_known(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "nnUNetTrainerOwn.py").write_text("class nnUNetTrainerOwn:\n    pass\n")
    text = "datasets: 4\ntrainers: nnUNetTrainerOwn\n"
    assert "there is no trainer nnUNetTrainerOwn" in refusal(write(text))[0]
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "own"))
    study = read_study(write(text))
    assert study.rows[0].parsed.network is None and study.rows[0].parsed.base == "nnUNetTrainerOwn"


@pytest.mark.slow
def test_reading_needs_no_torch(write: Write) -> None:
    code = (
        "import sys; from pathlib import Path; from nnunet_attn.study.model import read_study; "
        f"read_study(Path({str(write(SMALL))!r})); assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
