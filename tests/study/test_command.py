"""`nnunet-attn study`: what its commands print, their exit codes, and the pages that explain them."""

import argparse
import importlib
import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from nnunet_attn.cli import _parser, main
from nnunet_attn.datasets.phantom import write_phantom
from nnunet_attn.errors import InputError
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.study.document import parsed_document
from nnunet_attn.study.model import Budget, Pretrain, Row, Study, study_of
from tests.made.pages import ROOT, run_page

PAGE = "docs/reference/study.md"
HOW_TO = "docs/how-to/describe-a-study.md"


def study_parsers() -> dict[str, argparse.ArgumentParser]:
    found = _parser()
    for name in ("study", None):
        choices = next(a for a in found._actions if isinstance(a, argparse._SubParsersAction)).choices
        if name is None:
            return dict(choices)
        found = choices[name]
    raise AssertionError("not reached")


def test_init_says_what_it_wrote_and_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", "init", "-d", "4", "-tr", "nnUNetTrainerMAT"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "written: study.yaml: nnUNetTrainerPlain, nnUNetTrainerMAT; data set 4",
        "reference: nnUNetTrainerPlain",
        "Change it as you like, then: nnunet-attn study check study.yaml",
    ]
    before = (tmp_path / "study.yaml").read_bytes()
    assert main(["study", "init", "-d", "5"]) == 2
    assert "study.yaml exists and is never overwritten" in capsys.readouterr().err
    assert (tmp_path / "study.yaml").read_bytes() == before
    assert main(["study", "init", "my study.yaml", "-d", "5"]) == 0
    assert "nnunet-attn study check 'my study.yaml'" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["check", "status"])
def test_what_is_wrong_in_a_study_is_one_message(
    tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("datasets: 4\ntrainers: nnUNetTrainerPlain\nseed: 1\ndevice: gpu\n")
    assert main(["study", action, str(file)]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert lines[0] == f"nnunet-attn: error: {file} has 2 mistakes:" and not captured.out
    assert [line[: line.index(":")].strip() for line in lines[1:]] == ["line 3, seed", "line 4, device"]


def test_a_study_or_a_data_set_can_be_watched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "status", "study.yaml", "-d", "4"]) == 2
    assert "look at a study or at a data set, not at both" in capsys.readouterr().err


@pytest.mark.parametrize(("missing", "module"), [("pydantic", "model"), ("yaml", "document")])
def test_without_the_extra_there_is_one_line(
    tmp_path: Path, missing: str, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("nnunet_attn.study.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["study", "init", str(tmp_path / "study.yaml"), "-d", "4"]) == 2
    message = 'nnunet-attn: error: studies need pydantic and PyYAML: pip install "nnunet-attn[benchmark]"\n'
    assert capsys.readouterr().err == message
    with pytest.raises(InputError, match="studies need"):
        importlib.import_module(f"nnunet_attn.study.{module}")


@pytest.mark.usefixtures("preprocessed")
def test_watching_a_data_set_needs_no_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("nnunet_attn.study.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("pydantic", "yaml"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["study", "status", "-d", "4"]) == 2
    assert "has no training of this data set" in capsys.readouterr().err
    assert main(["study", "status"]) == 2
    assert "studies need" in capsys.readouterr().err


def test_every_field_and_option_is_documented() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    for model in (Study, Row):
        assert not [f.alias or name for name, f in model.model_fields.items() if f"| `{f.alias or name}` |" not in page]
    assert not [name for model in (Pretrain, Budget) for name in model.model_fields if f"`{name}`" not in page]
    cli = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    section = re.search(r"^## study\n(.*?)(?=^## )", cli, re.MULTILINE | re.DOTALL)
    assert section is not None
    for name, parser in study_parsers().items():
        assert f"`study {name} " in section[1], name
        options = [action.option_strings[-1] for action in parser._actions if action.option_strings]
        assert not [each for each in options if each != "--help" and f"| `{each}` |" not in section[1]], name


TWO = "datasets: 4\ntrainers:\n  - nnUNetTrainerPlain\n  - "
ONE = "datasets: 4\ntrainers: nnUNetTrainerPlain\n"
MISTAKES = {
    "not YAML": "a: 1\n b: 2\n",
    "a tab": "a: 1\n\tb: 2\n",
    "a field twice": f"{ONE}name: one\nname: two\n",
    "a field that there is not": f"{ONE}seed: 1\n",
    "a field is missing": "datasets: 4\n",
    "another type": f"{ONE}folds: [0, all]\n",
    "out of range": f"{ONE}budget: {{epochs: 0}}\n",
    "twice in a list": f"{ONE}folds: [1, 1]\n",
    "a wrong data set": "datasets: [0]\ntrainers: nnUNetTrainerPlain\n",
    "no such trainer": f"{TWO}nnUNetTrainerGaza\n",
    "a trainer that is listed as missing": (
        f"{TWO}nnUNetTrainerSoon\nmissing: {{what: nnUNetTrainerSoon, why: not yet}}\n"
    ),
    "no such suffix": f"{TWO}nnUNetTrainerGASA_5epoch\n",
    "a pre-training as trainer": f"{TWO}nnUNetTrainerGASA_PretrainBoth\n",
    "two rows of one name": f"{TWO}nnUNetTrainerPlain\n",
    "two rows that train the same": f"{TWO}{{trainer: nnUNetTrainerPlain, name: x}}\n",
    "the reference is no row": f"{ONE}reference: nnUNetTrainerPlane\n",
    "seeds for another package's trainer": "datasets: 4\ntrainers: nnUNetTrainer\nseeds: 1\n",
    "a seed twice": "datasets: 4\ntrainers: nnUNetTrainerGASA_seed3\nseeds: 1\n",
    "options of no network": f"{TWO}{{trainer: nnUNetTrainerPlain_bf16, options: {{a: 1}}}}\n",
    "`ensemble` without `test_set`": f"{TWO}{{trainer: nnUNetTrainerGASA, ensemble: softmax}}\n",
}


def test_the_messages_on_the_page_are_those_that_are_given(tmp_path: Path) -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| ([^|]+) \| ((?:line|study\.yaml) [^|]+) \|$", page, re.MULTILINE))
    assert shown.pop("no file").startswith("study.yaml does not exist; write one with: nnunet-attn study init")
    assert shown.keys() == MISTAKES.keys()
    for what, text in MISTAKES.items():
        with pytest.raises(InputError) as caught:
            study_of(parsed_document(text, Path("study.yaml")))
        wanted = re.sub(r"(, and the others| and all of them)$", "", shown[what])
        given = str(caught.value).removeprefix("study.yaml, ")
        assert given == wanted or (wanted != shown[what] and given.startswith(wanted)), what


@pytest.mark.slow
def test_the_how_to_runs_as_written(tmp_path: Path) -> None:
    chosen = {"nnUNet_n_proc_DA": "2", "nnUNet_def_n_proc": "2", "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    environment = {**nnunet_environment(tmp_path / "nnunet", {**os.environ, **chosen}), "PYTHONPATH": str(ROOT)}
    dataset = write_phantom(Path(environment["nnUNet_raw"]), 4, dim=3, n_train=12, n_test=0).name
    # what somebody else has trained, copied here without its checkpoints
    foreign = Path(environment["nnUNet_results"]) / dataset / "nnUNetTrainerOther__nnUNetPlans__3d_fullres" / "fold_0"
    foreign.mkdir(parents=True)
    log = "2026-01-01 00:00:01.000000: Epoch 0\n2026-01-01 00:00:09.000000: Epoch time: 8.0 s\n"
    (foreign / "training_log_2026_1_1_00_00_00.txt").write_text(f"\n{log}")
    folder = tmp_path / "work"
    folder.mkdir()
    printed = run_page(HOW_TO, folder, environment)
    assert "no problems, no warnings" in printed and "16 trainings: 16 waiting" in printed
    assert "nnUNetTrainerOther" in printed and "stopped" in printed
    assert "written: study.yaml: nnUNetTrainerPlain, nnUNetTrainerGASA, nnUNetTrainerMedT; data set 4" in printed
    lines = [shlex.split(line) for line in (folder / "train.sh").read_text().splitlines()]
    # 2 folds and 2 seeds of three rows, and the folds with 5 and 10 labels
    assert len(lines) == len({tuple(line) for line in lines}) == 16
    assert {(line[1], line[2]) for line in lines} == {(dataset, "3d_fullres")}
    assert sorted({line[3] for line in lines}) == ["0", "1", "5", "6"]
    plans = {line[line.index("-p") + 1] for line in lines}
    preprocessed = Path(environment["nnUNet_preprocessed"]) / dataset
    assert len(plans) == 2 and all((preprocessed / f"{each}.json").is_file() for each in plans)
    told = re.search(r"^\+ nnunet-attn study status methods.yaml --json\n(.*?)^\+ ", printed, re.MULTILINE | re.DOTALL)
    assert told is not None and "GASA few labels" in json.dumps(json.loads(told[1]))
