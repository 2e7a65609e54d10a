"""The picture of many trainings, as a terminal, a pipe and a program see it."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from nnunet_attn import cli
from nnunet_attn.commands import study_status
from nnunet_attn.errors import InputError
from nnunet_attn.study.state import LOCK_FILE, RunState
from nnunet_attn.study.status import FoundTraining, as_json, find_trainings, next_command, read_states
from nnunet_attn.study.status_grid import STYLES, grid
from tests.made.training_logs import MadeTraining, age, seconds_now

DATASET = "Dataset910_Phantom"
ESCAPE = "\x1b"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's results: one training done, one running, one stopped, one with seeds, and folders of other things."""
    folder = tmp_path / "results"
    for variable in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
    now = seconds_now()
    plain = folder / DATASET / "nnUNetTrainerPlain_10epochs__nnUNetPlans__3d_fullres"
    done = MadeTraining(plain / "fold_0").whole()
    age(plain / "fold_0", done.clock - now + 5)
    running = MadeTraining(plain / "fold_1", clock=now - 210).start().train(0, 2)
    running.begin_epoch(2)
    stopped = MadeTraining(plain / "fold_10", clock=now - 7200).start().train(0, 3)
    stopped.begin_epoch(3)
    for seed in (1, 0):
        seeded = folder / DATASET / f"nnUNetTrainerGASA_seed{seed}_10epochs__nnUNetPlansSmall__3d_fullres"
        MadeTraining(seeded / "fold_all", clock=now - 3).start()
    MadeTraining(folder / DATASET / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0").whole()
    for name in ("ensembles/fold_0", "A__B__C/crossval_results_folds_0_1", "A__B__C/fold_x", "A__B/fold_0"):
        (folder / DATASET / name).mkdir(parents=True)
    (folder / DATASET / "A__B__C" / "fold_7").write_text("a file")
    return folder


def _printed(width: int, *, colours: bool = False, folded: bool = False) -> str:
    trainings = find_trainings("910")
    console = Console(file=io.StringIO(), width=width, force_terminal=colours, highlight=False)
    console.print(grid(trainings, read_states(trainings), folded=folded), crop=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_all_results_folders_are_found_in_order(results: Path) -> None:
    found = find_trainings("910")
    assert find_trainings(DATASET) == found
    gasa, plain = "nnUNetTrainerGASA_10epochs, nnUNetPlansSmall", "nnUNetTrainerPlain_10epochs"
    assert [(each.configuration, each.row, each.seed, each.fold) for each in found] == [
        ("2d", "nnUNetTrainer", None, 0),
        ("3d_fullres", gasa, 0, "all"),
        ("3d_fullres", gasa, 1, "all"),
        ("3d_fullres", plain, None, 0),
        ("3d_fullres", plain, None, 1),
        ("3d_fullres", plain, None, 10),
    ]
    assert found[1].trainer == "nnUNetTrainerGASA_seed0_10epochs"
    assert found[1].fold_folder == results / DATASET / f"{found[1].trainer}__nnUNetPlansSmall__3d_fullres" / "fold_all"
    kinds = [state.kind for state in read_states(found)]
    assert kinds == ["done", "running", "running", "done", "running", "stopped"]


@pytest.mark.parametrize(
    ("dataset", "told"),
    [("911", "no training of this data set, it has: Dataset910_Phantom"), ("Dataset910", "no training"), ("", "no")],
)
def test_a_data_set_without_trainings(results: Path, dataset: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        find_trainings(dataset)


def test_two_data_sets_of_one_number(results: Path) -> None:
    (results / "Dataset910_Other").mkdir()
    with pytest.raises(InputError, match=r"Dataset910_Other and Dataset910_Phantom are in .*; give the name"):
        find_trainings("910")


def test_without_nnunets_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_results", raising=False)
    with pytest.raises(InputError, match="nnUNet_results is not set"):
        find_trainings("910")


def test_grid_of_a_wide_terminal(results: Path) -> None:
    text = _printed(150)
    lines = text.splitlines()
    assert lines[0] == "6 trainings: 3 running, 2 done, 1 stopped"
    assert [line for line in lines if line.startswith("Dataset")] == [f"{DATASET}, 2d", f"{DATASET}, 3d_fullres"]
    (heading,) = (line for line in lines if "fold 10" in line and "seed" in line)
    assert re.findall(r"fold \w+", heading) == ["fold 0", "fold 1", "fold 10", "fold all"]
    (plain,) = (line for line in lines if line.startswith("│ nnUNetTrainerPlain"))
    words = [word.strip() for word in plain.split("│")[1:-1]]
    assert words[2] == "done 0.875"
    assert re.fullmatch(r"2/10 \d+m ~0\.60", words[3])
    assert words[4:] == ["stopped 3/10 ~0.60", ""]
    gasa = [line.split("│") for line in lines if "GASA" in line]
    assert [(words[2].strip(), words[6].strip()) for words in gasa] == [("0", "starting"), ("1", "starting")]
    assert text.count(f"\n  nnUNetv2_train {DATASET} 3d_fullres 10 -tr nnUNetTrainerPlain_10epochs --c\n") == 1
    assert "no line for 1h55m" in text


@pytest.mark.parametrize("width", [150, 120, 90, 72, 40, 20])
def test_narrow_terminals_lose_nothing(results: Path, width: int) -> None:
    text = _printed(width, folded=True)
    assert max(map(len, text.splitlines())) <= width
    squeezed = re.sub(r"[\s│]", "", text)
    assert "…" not in text
    assert squeezed.count("0.875") == 2
    assert f"nnUNetv2_train{DATASET}3d_fullres10-trnnUNetTrainerPlain_10epochs--c" in squeezed


def test_where_no_table_fits_each_training_has_a_line(results: Path) -> None:
    _, _, text = _printed(50).partition(f"{DATASET}, 3d_fullres\n")
    assert "│" not in text
    lines = text.splitlines()
    assert "nnUNetTrainerPlain_10epochs, fold 0: done 0.875" in lines
    assert "nnUNetTrainerGASA_10epochs, nnUNetPlansSmall, fold all, seed 1: starting" in lines  # whole, if longer


def test_colours_are_for_terminals_only(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ESCAPE in _printed(150, colours=True)
    assert ESCAPE not in _printed(150)
    assert cli.main(["study", "status", "-d", "910"]) == 0
    printed = capsys.readouterr().out
    assert ESCAPE not in printed
    assert "1 stopped" in printed


def test_as_json(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "status", "-d", "910", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert len(rows) == 6
    last = rows[-1]
    expected = {"dataset": DATASET, "trainer": "nnUNetTrainerPlain_10epochs", "fold": 10, "seed": None, "epoch": 3}
    assert expected.items() <= last.items()
    assert (last["kind"], last["epochs"], last["eta_seconds"], last["dice"]) == (
        "stopped",
        10,
        None,
        pytest.approx(0.6),
    )
    assert last["next"].endswith(" --c")
    assert Path(last["log"]).is_file()
    assert rows[0]["next"] is None


def test_no_number_that_json_does_not_know() -> None:
    run = _run(Path("nowhere"))
    text = json.dumps(as_json([run], [RunState("done", epoch=1, dice=None)]), allow_nan=False)
    assert json.loads(text)[0]["dice"] is None


def _run(folder: Path, plans: str = "nnUNetPlans") -> FoundTraining:
    return FoundTraining(DATASET, "row", "nnUNetTrainer", plans, "2d", 3, None, folder)


def test_what_to_type_next(tmp_path: Path) -> None:
    run = _run(tmp_path, "My Plans")
    command = f"nnUNetv2_train {DATASET} 2d 3 -tr nnUNetTrainer -p 'My Plans'"
    stopped, trained = RunState("stopped", 3, 10), RunState("stopped", 10, 10)
    assert next_command(run, stopped) == command
    (tmp_path / "checkpoint_best.pth").touch()
    assert next_command(run, stopped) == f"{command} --c"
    assert next_command(run, trained) == f"{command} --c"
    (tmp_path / "checkpoint_final.pth").touch()
    assert next_command(run, trained) == f"{command} --val"
    assert next_command(run, RunState("failed", 3, 10)) == f"{command} --c"
    assert {next_command(run, RunState(kind)) for kind in ("waiting", "running", "done", "foreign")} == {None}


def test_every_state_has_a_colour_and_a_cell() -> None:
    from typing import get_args

    from nnunet_attn.study.state import Kind

    assert set(STYLES) == set(get_args(Kind))
    states = [RunState(kind) for kind in get_args(Kind)]
    console = Console(file=io.StringIO(), width=200)
    console.print(grid([_run(Path(kind)) for kind in STYLES], states))


def test_many_notes_are_cut_but_not_the_numbers() -> None:
    runs = [_run(Path(f"fold_{index}")) for index in range(13)]
    console = Console(file=io.StringIO(), width=100)
    console.print(grid(runs, [RunState("failed", 1, 2, message="no memory")] * 13))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert printed.count("failed, no memory") == 10
    assert "and 3 more: --json shows all" in printed
    assert "13 trainings: 13 failed" in printed


def test_watching_ends_when_all_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    folder = tmp_path / DATASET / "nnUNetTrainer_2epochs__nnUNetPlans__2d" / "fold_0"
    made = MadeTraining(folder, epochs=2, clock=seconds_now() - 300).start()
    steps: list[Callable[[], object]] = [lambda: made.train(0, 2), lambda: made.finish().predict(1), made.validate]
    monkeypatch.setattr(study_status.time, "sleep", lambda seconds: (steps.pop(0)(), None)[1])
    assert cli.main(["study", "status", "-d", "910", "--watch", "2.5"]) == 0
    printed = capsys.readouterr().out
    assert not steps
    assert printed.count("every 2.5 s") == 4
    for words in ("│ starting ", "│ 2/2 0s ~0.60 ", "│ validating ~0.60 ", "│ done 0.875 "):
        assert printed.count(words) == 1, words


def test_watching_ends_by_ctrl_c(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        assert seconds == 10
        raise KeyboardInterrupt

    monkeypatch.setattr(study_status.time, "sleep", interrupted)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli.main(["study", "status", "-d", "910", "--watch", "10"]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-d", "910", "--watch", "0"], "--watch 0: give the seconds"),
        (["-d", "910", "--watch", "nan"], "--watch nan: give the seconds"),
        (["-d", "910", "--watch", "5", "--json"], "--json shows the states once"),
        (["study.yaml", "-d", "910"], "not at both"),
        (["-d", "77"], "has no training of this data set"),
    ],
)
def test_wrong_input(results: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "status", *words]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_study_shows_what_has_not_begun(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        f"name: two\ndatasets: [{DATASET}]\nfolds: [0, 1, 2]\nreference: nnUNetTrainerPlain_10epochs\n"
        "trainers:\n  - trainer: nnUNetTrainerPlain_10epochs\n  - trainer: nnUNetTrainerGASA_10epochs\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", "status", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["fold"], row["kind"]) for row in rows] == [
        (0, "done"),
        (1, "running"),
        (2, "waiting"),
        *((fold, "waiting") for fold in range(3)),
    ]
    assert cli.main(["study", "status", str(file)]) == 0
    assert "6 trainings: 4 waiting, 1 running, 1 done" in capsys.readouterr().out


def test_the_lock_of_a_training_is_no_training(results: Path) -> None:
    folder = results / DATASET / "nnUNetTrainer__nnUNetPlans__2d" / "fold_1"
    folder.mkdir()
    (folder / LOCK_FILE).write_text("{")
    states = dict(
        zip((run.fold_folder for run in find_trainings("910")), read_states(find_trainings("910")), strict=True)
    )
    assert states[folder].kind == "waiting"
