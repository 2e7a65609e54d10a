"""Gates stay bit-equal while they are frozen and move afterwards; their history survives what befalls a training."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from nnunet_attn.architectures.blocks.axial_attention import GATE_START, GATES
from nnunet_attn.architectures.medt import AxialUNet, GatedAxialUNet, MedTGlobal
from nnunet_attn.training.gates import (
    GateHistory,
    describe_gates,
    gate_values,
    gated_layers,
    schedule_gates,
    set_gates_open,
)
from nnunet_attn.training.recipes import Optimiser, Recipe, build_optimizer, spare_from_weight_decay
from tests.made.axial import SMALL
from tests.made.data import make_trainer, train_some
from tests.made.plans import KINDS

START = [round(gate, 6) for gate in GATE_START]
LAYERS = ["one", "two"]
QUICK = {"gates_frozen_epochs": 1, "epochs": 20, "iterations_per_epoch": 2}


def small(**options: Any) -> GatedAxialUNet:
    torch.manual_seed(0)
    return GatedAxialUNet(1, 3, (16, 16), **SMALL, **options)


def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    labels = torch.randint(0, 3, (2, 16, 16))
    F.cross_entropy(network(torch.randn(2, 1, 16, 16)), labels).backward()
    optimizer.step()


def snapshot(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


@pytest.mark.parametrize("gate_position", ["pre_norm", "post_norm"])
@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_frozen_gates_are_bit_equal_and_open_ones_move(kind: Optimiser, gate_position: str) -> None:
    network = small(gate_position=gate_position)
    optimizer, schedule = build_optimizer(network, Recipe(kind, 0.01, 0.1), 100)
    spare_from_weight_decay(optimizer, network)
    start = snapshot(network)
    gates = {f"{name}.gates" for name in gated_layers(network)}
    assert len(gates) == 8
    for epoch in range(3):
        schedule.step(epoch)
        schedule_gates(network, optimizer, epoch, 3)
        step(network, optimizer)
    frozen = snapshot(network)
    assert {name for name in frozen if torch.equal(frozen[name], start[name])} == gates
    schedule_gates(network, optimizer, 3, 3)
    step(network, optimizer)
    opened = snapshot(network)
    assert not [name for name in gates if torch.equal(opened[name], start[name])]


def test_gates_that_learnt_and_are_frozen_again_stay_where_they_are() -> None:
    network = small(gate_position="post_norm")
    optimizer, _ = build_optimizer(network, Recipe("sgd", 0.01, 0.1), 100)
    spare_from_weight_decay(optimizer, network)
    schedule_gates(network, optimizer, 5, 5)
    step(network, optimizer)
    assert gate_values(network) != {name: START for name in gated_layers(network)}
    set_gates_open(network, False)
    assert [float(layer.switch) for layer in gated_layers(network).values()] == [0] * 8
    assert all(layer.gates.requires_grad for layer in gated_layers(network).values())


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_distributed_or_compiled_network_notices_that_its_gates_open(compiled: bool) -> None:
    network = MedTGlobal(1, 3, (16, 16), gate_position="post_norm", **SMALL)
    wrapped: Any = torch.compile(network, backend="eager") if compiled else DistributedDataParallel(network)
    optimizer, _ = build_optimizer(network, Recipe("adamw", 0.01, 0.1), 100)
    spare_from_weight_decay(optimizer, network)
    start = gate_values(network)
    for epoch in range(3):
        schedule_gates(network, optimizer, epoch, 2)
        step(wrapped, optimizer)
        moved = [name for name, gates in gate_values(network).items() if gates != start[name]]
        assert len(moved) == (4 if epoch == 2 else 0)


def first_gates(network: nn.Module) -> torch.Tensor:
    """Of the finest layers, whose gradients are far above Adam's epsilon."""
    return torch.stack([layer.gates.detach().clone() for layer in list(gated_layers(network).values())[:2]])


def test_the_first_step_of_adam_is_one_learning_rate_long() -> None:
    network = small(gate_position="post_norm")
    optimizer, _ = build_optimizer(network, Recipe("adam", 0.01, 0.0, "constant"), 100)
    for epoch in range(4):
        schedule_gates(network, optimizer, epoch, 4)
        step(network, optimizer)
    before = first_gates(network)
    schedule_gates(network, optimizer, 4, 4)
    step(network, optimizer)
    # with four zero gradients remembered it would be 0.01 * (0.1 / 0.41) / sqrt(0.001 / 0.005) = 0.0055
    assert torch.allclose((first_gates(network) - before).abs(), torch.tensor(0.01), rtol=0.02)


def test_a_network_without_gates_has_none() -> None:
    network = AxialUNet(1, 3, (16, 16), **SMALL)
    set_gates_open(network, False)
    assert gate_values(network) == {} and gated_layers(network) == {}


def test_values_are_named_by_layer() -> None:
    values = gate_values(small())
    assert list(values.values()) == [START] * 8
    assert next(iter(values)) == "branch.stages.0.0.layers.0"


def test_a_line_tells_mean_and_range() -> None:
    values = {"one": [0.1, 0.2, 1.0, -0.1], "two": [0.3, 0.2, 0.0, 0.2]}
    assert describe_gates(values, frozen=False) == (
        "Gates, mean (range) of 2 layers, learning: query 0.2000 (0.1000 to 0.3000), key 0.2000 (0.2000 to 0.2000), "
        "content 0.5000 (0.0000 to 1.0000), position 0.0500 (-0.1000 to 0.2000)"
    )


def history(folder: Path, first_epoch: int, lines: list[str], frozen_epochs: int = 2) -> GateHistory:
    return GateHistory(folder, frozen_epochs, first_epoch, LAYERS, lines.append)


def at(epoch: int) -> dict[str, list[float]]:
    return {"one": [epoch + 0.1] * 4, "two": [epoch + 0.2] * 4}


def table(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "gates.json").read_text())


def test_a_resumed_history_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    lines: list[str] = []
    first = history(tmp_path, 0, lines)
    for epoch in range(4):
        first.add(epoch, at(epoch))
    second = history(tmp_path, 2, lines)
    second.add(2, {"one": [7.0] * 4, "two": [8.0] * 4})
    assert table(tmp_path) == {
        "gates": list(GATES),
        "frozen_epochs": 2,
        "epochs": [0, 1, 2],
        "layers": {"one": [[0.1] * 4, [1.1] * 4, [7.0] * 4], "two": [[0.2] * 4, [1.2] * 4, [8.0] * 4]},
    }
    assert [("frozen" in line, "learning" in line) for line in lines] == [(True, False)] * 2 + [(False, True)] * 3
    assert {path.name for path in tmp_path.iterdir()} == {"gates.json", "gates.png"}


def test_a_new_training_in_an_old_folder_starts_anew(tmp_path: Path) -> None:
    lines: list[str] = []
    history(tmp_path, 0, lines).add(0, at(0))
    again = history(tmp_path, 0, lines)
    again.add(0, at(5))
    assert table(tmp_path)["layers"]["one"] == [[5.1] * 4]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"epochs": [0], "layers": {"one": [[1, 1, 1, 1]]}}',
        '{"epochs": [0], "layers": {"one": [[1, 1, 1, 1]], "two": []}}',
        '{"epochs": [0], "layers": {"one": [[1, 1, 1, 1]], "two": [[1, 1]]}}',
        '{"epochs": [0], "layers": {"one": [[1, 1, 1, 1]], "two": [1]}}',
        b"\xff\xfe\x00",
    ],
    ids=lambda content: repr(content)[:40],
)
def test_a_history_that_cannot_be_read_starts_anew_and_says_so(tmp_path: Path, content: str | bytes | None) -> None:
    file = tmp_path / "gates.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    lines: list[str] = []
    continued = history(tmp_path, 3, lines)
    (line,) = lines
    assert str(file) in line and "starts anew in epoch 3" in line
    continued.add(3, at(3))
    assert table(tmp_path)["epochs"] == [3]


def test_a_failure_to_draw_or_write_is_only_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    kept = history(tmp_path, 0, lines)
    kept.add(0, at(0))
    drawn = (tmp_path / "gates.png").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(GateHistory, "_figure", lambda _: 1 / 0)
        kept.add(1, at(1))
    assert "the gates of epoch 1 could not be written" in lines[-1] and "ZeroDivisionError" in lines[-1]
    assert (tmp_path / "gates.png").read_bytes() == drawn
    assert table(tmp_path)["epochs"] == [0, 1]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        kept.add(2, at(2))
    assert "disk full" in lines[-1]
    kept.add(3, at(3))
    assert table(tmp_path)["epochs"] == [0, 1, 2, 3]


def test_the_drawing_leaves_no_trace_in_matplotlib(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 33, "axes.facecolor": "#123456"}):
        before, figures = dict(matplotlib.rcParams), pyplot.get_fignums()
        kept = history(tmp_path, 0, [])
        for epoch in range(3):
            kept.add(epoch, at(epoch))
        assert dict(matplotlib.rcParams) == before
        assert pyplot.get_fignums() == figures
    image = pyplot.imread(tmp_path / "gates.png")
    assert image.shape[:2] == (800, 1100)
    assert not ((image[..., :3] * 255).round() == torch.tensor([0x12, 0x34, 0x56]).numpy()).all(-1).any()


def test_the_figure_shows_four_panels_of_all_layers_and_the_end_of_the_frozen_phase(tmp_path: Path) -> None:
    kept = history(tmp_path, 0, [])
    for epoch in range(4):
        kept.add(epoch, at(epoch))
    panels = kept._figure().axes
    assert [axes.get_title() for axes in panels] == ["query", "key", "content", "position"]
    for axes in panels:
        one, two, mean, end = axes.get_lines()
        lines = [np.asarray(line.get_xydata()).T.tolist() for line in (one, two, mean)]
        assert lines[0] == [[0, 1, 2, 3], [0.1, 1.1, 2.1, 3.1]]
        assert lines[1] == [[0, 1, 2, 3], [0.2, 1.2, 2.2, 3.2]]
        assert lines[2][1] == pytest.approx([0.15, 1.15, 2.15, 3.15])
        assert mean.get_linewidth() > one.get_linewidth()
        assert np.unique(np.asarray(end.get_xdata())) == [1.5], (
            "between the last frozen epoch and the first that learns"
        )


@pytest.mark.parametrize("epoch", [0, 9, 10, 500])
def test_the_trainer_opens_the_gates_by_the_epoch(make_axial: Callable[..., Any], epoch: int) -> None:
    trainer = make_axial("nnUNetTrainerMedT")
    trainer.initialize()
    trainer.network = torch.compile(trainer.network)
    trainer.current_epoch = epoch
    trainer.logger.local_logger.my_fantastic_logging["lrs"] = [0.0] * epoch
    trainer.on_train_epoch_start()
    assert {float(layer.switch) for layer in gated_layers(trainer._plain_network()).values()} == {float(epoch >= 10)}


def test_a_training_writes_its_gates_and_a_resumed_one_goes_on(make_axial: Callable[..., Any]) -> None:
    first = make_axial("nnUNetTrainerMedTPostNorm", attributes=QUICK)
    train_some(first, epochs=2)
    folder = Path(first.output_folder)
    shutil.copy(folder / "checkpoint_latest.pth", folder / "after_2.pth")
    train_some(first)
    whole = table(folder)
    assert whole["epochs"] == [0, 1, 2] and whole["frozen_epochs"] == 1
    assert len(whole["layers"]) == 4, "two stages of the global branch, one block of two layers each"
    for layer, rows in whole["layers"].items():
        assert layer.startswith("global_branch.")
        assert rows[0] == START
        assert all(gate != start for gate, start in zip(rows[1], START, strict=True))
        assert rows[2] != rows[1]
    assert (folder / "gates.png").read_bytes().startswith(b"\x89PNG")
    log = Path(first.log_file).read_text()
    assert "Gates of 4 layers learn from epoch 1 on" in log
    assert "Gates, mean (range) of 4 layers, frozen: query 0.1000 (0.1000 to 0.1000)" in log
    assert log.count("Gates, mean (range) of 4 layers, learning: ") == 2

    second = make_axial("nnUNetTrainerMedTPostNorm", attributes=QUICK)
    second.load_checkpoint(str(folder / "after_2.pth"))
    train_some(second)
    resumed = table(folder)
    assert resumed["epochs"] == [0, 1, 2]
    for layer, rows in resumed["layers"].items():
        assert rows[:2] == whole["layers"][layer][:2]
        assert rows[2] != rows[1]


def test_gates_are_written_before_the_checkpoint(
    make_axial: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_axial("nnUNetTrainerMedTGlobal_10epochs_1its")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(trainer), "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        train_some(trainer)
    assert table(Path(trainer.output_folder))["epochs"] == [0]
    log = Path(trainer.log_file).read_text()
    assert "Gates of 4 layers stay frozen: they would learn from epoch 10 on, which is too late" in log


def test_only_rank_0_writes(make_axial: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_axial("nnUNetTrainerMedTGlobal_1epochs_1its")
    trainer.local_rank = 1
    train_some(trainer)
    assert not Path(trainer.output_folder, "gates.json").exists()


def test_a_network_without_gates_writes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[..., Any]
) -> None:
    leaf = load_leaf("nnUNetTrainerPlain").nnUNetTrainerPlain_1epochs_1its
    trainer: Any = make_trainer(leaf, KINDS["2d"], tmp_path / "root", monkeypatch)
    train_some(trainer)
    assert not list(Path(trainer.output_folder).glob("gates*"))
    assert "Gates" not in Path(trainer.log_file).read_text()
