"""Recipes: learning rates worked out by hand, and what weight decay leaves alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn

from nnunet_attn.training import AXIAL_RECIPE, MEDT_PAPER_RECIPE, PATCH_PAPER_RECIPE, Recipe
from nnunet_attn.training.recipes import EpochSchedule, build_optimizer, plateau_halvings, spare_from_weight_decay
from tests.made.data import make_trainer, train_some
from tests.made.plans import KINDS

POLY = Recipe("adamw", learning_rate=2.0, weight_decay=0.1, warmup_epochs=4)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0.4),  # 2 * 1 / 5
        (3, 1.6),  # 2 * 4 / 5
        (4, 2.0),
        (52, 1.0717734625),  # half of the 96 epochs after the warm-up: 2 * 0.5 ** 0.9
        (99, 0.0328840944),  # 2 * (1 / 96) ** 0.9
    ],
)
def test_poly_with_warmup(epoch: int, expected: float) -> None:
    assert POLY.learning_rate_at(epoch, 100) == pytest.approx(expected, rel=1e-7)


def test_a_short_training_has_a_short_warmup() -> None:
    rates = [Recipe("adamw", 2.0, 0.1, warmup_epochs=10).learning_rate_at(epoch, 20) for epoch in range(3)]
    # a twentieth of 20 epochs is 1; then 2 * (1 - 1 / 19) ** 0.9
    assert rates == pytest.approx([1.0, 2.0, 1.9050089], rel=1e-6)


def test_every_length_of_training_has_positive_rates() -> None:
    for epochs in range(1, 50):
        rates = [POLY.learning_rate_at(epoch, epochs) for epoch in range(epochs)]
        assert all(0 < rate <= 2 for rate in rates)
        assert epochs == 1 or max(rates) == 2


def test_constant_stays() -> None:
    recipe = Recipe("adam", 1e-3, 1e-5, "constant", warmup_epochs=1)
    assert [recipe.learning_rate_at(epoch, 1000) for epoch in (0, 1, 500, 999)] == [5e-4, 1e-3, 1e-3, 1e-3]


@pytest.mark.parametrize(
    ("losses", "smoothing", "patience", "expected"),
    [
        ([], 0.9, 20, 0),
        ([3.0, 2.0, 2.0, 1.0, 1.0, 1.5], 0.0, 0, 3),  # epochs 2, 4 and 5 do not go below the lowest
        ([1.0, 2.0, 2.0, 2.0, 2.0], 0.0, 1, 2),  # bad epochs 1 and 2 make one, 3 and 4 another
        ([1.0, 2.0, 0.5, 2.0, 0.6], 0.0, 1, 1),  # a new lowest at 2; then 3 and 4 are bad
        ([4.0, 2.0, 3.0, 6.0, 0.0], 0.5, 0, 2),  # smoothed: 4, 3, 3, 4.5, 2.25; bad: 2 and 3
        ([1.0, float("nan"), 0.5], 0.0, 0, 1),  # a loss that is none is a bad epoch, and is forgotten
        ([0.3] * 21, 0.9, 20, 0),  # the first epoch is the lowest, 20 bad ones are borne
        ([0.3] * 22, 0.9, 20, 1),
        ([0.3] * 42, 0.9, 20, 1),
        ([0.3] * 43, 0.9, 20, 2),
        ([-0.01 * epoch for epoch in range(200)], 0.9, 20, 0),
    ],
)
def test_plateaus(losses: list[float], smoothing: float, patience: int, expected: int) -> None:
    assert plateau_halvings(losses, smoothing, patience) == expected


def test_plateau_halves_down_to_its_floor() -> None:
    constant = [0.3] * 1000
    at = {epoch: PATCH_PAPER_RECIPE.learning_rate_at(epoch, 1000, constant) for epoch in (0, 21, 22, 43, 127, 148, 999)}
    # 1e-4 / 2 ** 6 = 1.5625e-6 behind 6 * 21 + 1 epochs; the seventh halving would be 7.8e-7
    assert at == {0: 1e-4, 21: 1e-4, 22: 5e-5, 43: 2.5e-5, 127: 1.5625e-6, 148: 1e-6, 999: 1e-6}
    assert PATCH_PAPER_RECIPE.learning_rate_at(22, 1000, [0.3] * 5) == 1e-4, "what has not happened does not count"
    assert replace(PATCH_PAPER_RECIPE, learning_rate=1e-7).learning_rate_at(500, 1000, constant) == 1e-7
    assert PATCH_PAPER_RECIPE.described(1000) == "adam, plateau 0.0001, weight decay 0"


def test_the_schedule_of_a_plateau_follows_the_log() -> None:
    losses: list[float] = []
    optimizer, schedule = build_optimizer(nn.Linear(1, 1), PATCH_PAPER_RECIPE, 100, lambda: losses)
    rates = []
    for epoch in range(25):
        schedule.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(1.0)
    assert rates == [1e-4] * 22 + [5e-5] * 3


def test_poly_without_warmup_is_nnunets() -> None:
    parameter = nn.Parameter(torch.ones(1))
    theirs = torch.optim.SGD([parameter], 0.01)
    schedule = PolyLRScheduler(theirs, 0.01, 7)
    recipe = Recipe("sgd", 0.01, 3e-5)
    for epoch in range(7):
        schedule.step(epoch)
        assert recipe.learning_rate_at(epoch, 7) == theirs.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam, adamw, got 'lion'"),
        ({"schedule": "cosine"}, "schedule must be one of poly, constant, plateau, got 'cosine'"),
        ({"learning_rate": 0}, "learning_rate must be greater than 0, got 0"),
        ({"weight_decay": -1e-5}, "weight_decay must be at least 0, got -1e-05"),
        ({"warmup_epochs": -1}, "warmup_epochs must be at least 0, got -1"),
    ],
)
def test_wrong_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**{"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, **change})


class Spared(nn.Module):
    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.kept = nn.Linear(1, 1, bias=False)
        self.table = nn.Parameter(torch.ones(1))
        self.names = names

    def no_weight_decay(self) -> set[str]:
        return self.names


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [
        # every gradient is 0, so that only decay moves a weight, here from 1 with learning rate 0.5 and decay 0.2
        (Recipe("sgd", 0.5, 0.2), 1 - 0.5 * (0.2 + 0.99 * 0.2)),  # Nesterov looks one step of momentum ahead
        (Recipe("adam", 0.5, 0.2), 0.5),  # an L2 term alone makes a step of one learning rate
        (Recipe("adamw", 0.5, 0.2), 0.9),  # 1 - 0.5 * 0.2
    ],
    ids=lambda value: value.optimizer if isinstance(value, Recipe) else "",
)
def test_each_optimiser_decays_all_but_what_is_spared(recipe: Recipe, kept: float) -> None:
    network = Spared({"table"})
    nn.init.ones_(network.kept.weight)
    optimizer, _ = build_optimizer(network, recipe, 10)
    spare_from_weight_decay(optimizer, network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert network.kept.weight.item() == pytest.approx(kept, rel=1e-5)
    assert network.table.item() == 1


def test_all_groups_share_the_learning_rate() -> None:
    network = Spared({"table"})
    optimizer, schedule = build_optimizer(network, POLY, 100)
    spare_from_weight_decay(optimizer, network)
    assert isinstance(schedule, EpochSchedule)
    for epoch in (0, 4, 52, 3):
        schedule.step(epoch)
        assert [group["lr"] for group in optimizer.param_groups] == [POLY.learning_rate_at(epoch, 100)] * 2


def test_a_name_that_is_no_parameter_is_refused() -> None:
    network = Spared({"tabel"})
    optimizer, _ = build_optimizer(network, POLY, 10)
    with pytest.raises(ValueError, match=r"Spared\.no_weight_decay\(\) names tabel, which are no parameters"):
        spare_from_weight_decay(optimizer, network)


def group_names(trainer: Any, network: nn.Module) -> list[tuple[set[str], float]]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = trainer.optimizer.param_groups
    return [({names[id(parameter)] for parameter in group["params"]}, group["weight_decay"]) for group in groups]


@pytest.mark.parametrize(
    ("attributes", "optimizer", "decay"),
    [
        ({}, torch.optim.AdamW, AXIAL_RECIPE.weight_decay),
        ({"recipe": MEDT_PAPER_RECIPE}, torch.optim.Adam, 1e-5),
        ({"recipe": None}, torch.optim.SGD, 3e-5),
    ],
)
def test_gates_and_tables_are_a_group_without_decay(
    make_axial: Callable[..., Any], attributes: dict[str, Any], optimizer: type, decay: float
) -> None:
    trainer = make_axial("nnUNetTrainerGatedAxial", attributes=attributes)
    trainer.initialize()
    assert type(trainer.optimizer) is optimizer
    (rest, rest_decay), (spared, spared_decay) = group_names(trainer, trainer.network)
    names = {name for name, _ in trainer.network.named_parameters()}
    assert (rest_decay, spared_decay) == (decay, 0)
    assert spared == {name for name in names if name.rsplit(".", 1)[-1] in ("gates", "relative")}
    assert len(spared) == 2 * 8, "4 stages of one block of two layers"
    assert rest == names - spared
    assert (trainer.initial_lr, trainer.weight_decay) == (0.01 if optimizer is torch.optim.SGD else 1e-3, decay)


def test_names_are_those_of_the_plain_network_when_it_is_compiled_and_before_it_is_distributed(
    make_axial: Callable[..., Any],
) -> None:
    trainer = make_axial("nnUNetTrainerMedTGlobal")
    trainer.initialize()
    plain = trainer.network
    expected = group_names(trainer, plain)
    trainer.network = torch.compile(plain)
    trainer.is_ddp = True
    trainer.optimizer, _ = trainer.configure_optimizers()
    assert group_names(trainer, plain) == expected
    assert trainer._plain_network() is plain


def test_a_resumed_training_goes_on_with_learning_rate_and_groups(make_axial: Callable[..., Any]) -> None:
    attributes = {"recipe": Recipe("adamw", 1e-2, 0.1, warmup_epochs=2), "epochs": 40, "iterations_per_epoch": 1}
    first = make_axial("nnUNetTrainerMedTGlobal", attributes=attributes)
    train_some(first, epochs=2)
    # warm-up of 2 epochs: 1/3, 2/3, then all of it, then (1 - 1 / 38) ** 0.9 of it
    assert first.logger.get_value("lrs", None) == pytest.approx([1e-2 / 3, 2e-2 / 3])
    second = make_axial("nnUNetTrainerMedTGlobal", attributes=attributes)
    second.load_checkpoint(str(Path(second.output_folder, "checkpoint_latest.pth")))
    assert second.current_epoch == 2
    train_some(second, epochs=2)
    assert second.logger.get_value("lrs", None)[2:] == pytest.approx([1e-2, 1e-2 * (37 / 38) ** 0.9])
    assert [group["lr"] for group in second.optimizer.param_groups] == [1e-2 * (37 / 38) ** 0.9] * 2
    assert [group["weight_decay"] for group in second.optimizer.param_groups] == [0.1, 0]


def test_the_log_names_the_recipe(make_axial: Callable[..., Any]) -> None:
    trainer = make_axial("nnUNetTrainerMedTPaper_1epochs")
    trainer.on_train_start()
    assert (
        "recipe: adam, constant 0.001, weight decay 1e-05; loss: cross_entropy; flips only: True;"
        in Path(trainer.log_file).read_text()
    )


def test_mat_keeps_nnunets_recipe_but_for_the_decay_of_its_gates_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[..., Any]
) -> None:
    leaf = load_leaf("nnUNetTrainerMAT").nnUNetTrainerMAT_5epochs
    trainer: Any = make_trainer(leaf, KINDS["3d"], tmp_path / "root", monkeypatch)
    trainer.initialize()
    assert type(trainer.optimizer) is torch.optim.SGD and type(trainer.lr_scheduler) is PolyLRScheduler
    (rest, rest_decay), (spared, spared_decay) = group_names(trainer, trainer.network)
    assert spared == {f"bottleneck.layers.{axis}.{own}" for axis in range(3) for own in ("gates", "relative")}
    assert rest == {name for name, _ in trainer.network.named_parameters()} - spared
    assert (rest_decay, spared_decay) == (3e-5, 0)
    trainer.current_epoch = 3
    trainer.logger.local_logger.my_fantastic_logging["lrs"] = [0.0] * 3
    trainer.on_train_epoch_start()
    for group in trainer.optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.01 * (2 / 5) ** 0.9)
        assert (group["momentum"], group["nesterov"]) == (0.99, True)
    assert trainer.enable_deep_supervision is True
    assert trainer._get_deep_supervision_scales() == [[1, 1, 1], [0.5, 0.5, 0.5]], "nnU-Net's own"


@pytest.mark.parametrize(
    ("suffixes", "kind", "rate", "decay"),
    [
        ("", torch.optim.AdamW, AXIAL_RECIPE.learning_rate, AXIAL_RECIPE.weight_decay),
        ("_lr3e-4", torch.optim.AdamW, 3e-4, AXIAL_RECIPE.weight_decay),
        ("_SGD", torch.optim.SGD, 0.01, 3e-5),
        ("_SGD_lr0.1", torch.optim.SGD, 0.1, 3e-5),
    ],
)
def test_suffixes_change_the_optimiser(
    make_axial: Callable[..., Any], suffixes: str, kind: type, rate: float, decay: float
) -> None:
    trainer = make_axial(f"nnUNetTrainerMedTGlobal_100epochs{suffixes}")
    trainer.initialize()
    assert type(trainer.optimizer) is kind
    trainer.lr_scheduler.step(99 if kind is torch.optim.SGD else 5)
    highest = rate * (1 - 99 / 100) ** 0.9 if kind is torch.optim.SGD else rate
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([highest] * 2)
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [decay, 0]


def test_adamw_for_a_network_of_convolutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], Any]
) -> None:
    leaf = load_leaf("nnUNetTrainerPlain")
    trainer: Any = make_trainer(getattr(leaf, "nnUNetTrainerPlain_AdamW_lr1e-3"), KINDS["2d"], tmp_path, monkeypatch)
    trainer.initialize()
    assert type(trainer.optimizer) is torch.optim.AdamW and trainer.initial_lr == 1e-3
