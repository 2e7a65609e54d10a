"""How a network is optimised: optimiser, learning rate over the epochs, and what weight decay leaves alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import nn
from torch.optim import Optimizer

Optimiser = Literal["sgd", "adam", "adamw"]
Schedule = Literal["poly", "constant", "plateau"]
_POLY_EXPONENT = 0.9  # nnU-Net's
# of "plateau", for validation losses of a few random batches; without smoothing it would halve almost at once
_SMOOTHING = 0.9
_PATIENCE = 20
_LOWEST_RATE = 1e-6
_LARGEST_WARMUP = 0.05  # of all epochs, so that a short training is not mostly warm-up


@dataclass(frozen=True)
class Recipe:
    """An optimiser with its learning rate over the epochs.

    Args:
        optimizer: "sgd" with nnU-Net's Nesterov momentum of 0.99, "adam" (weight decay is an L2 term) or "adamw".
        learning_rate: The highest learning rate.
        weight_decay: Of all parameters but those of the network's `no_weight_decay()`.
        schedule: After the warm-up "poly" falls to 0 as nnU-Net's, "constant" stays, and "plateau" is halved whenever
            the validation loss no longer decreases (`plateau_halvings`), but not below 1e-6.
        warmup_epochs: Epochs in which the learning rate grows linearly; never more than a twentieth of all, rounded up.
    Raises:
        ValueError: If a value is out of its range.
    """

    optimizer: Optimiser
    learning_rate: float
    weight_decay: float
    schedule: Schedule = "poly"
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        for name, allowed in {"optimizer": get_args(Optimiser), "schedule": get_args(Schedule)}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be greater than 0, got {self.learning_rate!r}")
        for name in ("weight_decay", "warmup_epochs"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)!r}")

    def described(self, epochs: int) -> str:
        """Return the recipe of a training of `epochs` in the words of a log."""
        warmup = f" after {self.warmup_of(epochs)} epochs of warm-up" if self.warmup_epochs else ""
        return f"{self.optimizer}, {self.schedule} {self.learning_rate:g}{warmup}, weight decay {self.weight_decay:g}"

    def warmup_of(self, epochs: int) -> int:
        """Return the epochs of warm-up in a training of `epochs`."""
        return min(self.warmup_epochs, math.ceil(_LARGEST_WARMUP * epochs))

    def learning_rate_at(self, epoch: int, epochs: int, val_losses: Sequence[float] = ()) -> float:
        """Return the learning rate of an epoch, counted from 0, of a training of `epochs`.

        Args:
            epoch: The epoch.
            epochs: Epochs of the whole training.
            val_losses: Validation loss of each epoch so far; only those before `epoch` count, and only for "plateau".
        """
        warmup = self.warmup_of(epochs)
        if epoch < warmup:
            return self.learning_rate * (epoch + 1) / (warmup + 1)
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "plateau":
            rate = self.learning_rate * 0.5 ** plateau_halvings(val_losses[:epoch])
            return max(rate, min(_LOWEST_RATE, self.learning_rate))
        return self.learning_rate * (1 - (epoch - warmup) / (epochs - warmup)) ** _POLY_EXPONENT


def plateau_halvings(val_losses: Sequence[float], smoothing: float = _SMOOTHING, patience: int = _PATIENCE) -> int:
    """Return how often a validation loss has stopped decreasing, from its values alone.

    The losses are smoothed (smoothing * before + (1 - smoothing) * loss, from the first loss on); an epoch whose
    smoothed loss is not below the lowest so far is a bad one. After more than `patience` bad epochs in a row one counts
    a plateau, and begins to count bad epochs anew. A loss that is not finite is a bad epoch and is not smoothed in.

    Args:
        val_losses: Validation loss of each epoch so far.
        smoothing: Weight of the past, 0 (none) to below 1.
        patience: Bad epochs in a row that are borne.
    """
    smoothed: float | None = None
    lowest = math.inf
    bad = halvings = 0
    for loss in map(float, val_losses):
        if math.isfinite(loss):
            # written so that a constant loss stays what it is to the last bit
            smoothed = loss if smoothed is None else smoothed + (1 - smoothing) * (loss - smoothed)
        if math.isfinite(loss) and smoothed is not None and smoothed < lowest:
            lowest, bad = smoothed, 0
        else:
            bad += 1
        if bad > patience:
            halvings, bad = halvings + 1, 0
    return halvings


AXIAL_RECIPE = Recipe("adamw", learning_rate=1e-3, weight_decay=1e-2, warmup_epochs=10)
"""Of the networks of gated axial attention; nnU-Net's SGD is made for convolutions."""

WINDOW_RECIPE = Recipe("adamw", learning_rate=1e-3, weight_decay=1e-2, warmup_epochs=10)
"""Of nnFormer and FINE. Departs from their published code, which has nnU-Net's SGD: it learns more slowly by far."""

MEDT_PAPER_RECIPE = Recipe("adam", learning_rate=1e-3, weight_decay=1e-5, schedule="constant")
"""MedT's published one (arXiv:2102.10662; the weight decay is its code's)."""


PATCH_RECIPE = Recipe("adamw", learning_rate=1e-4, weight_decay=1e-2, warmup_epochs=10)
"""Of the patch transformer: its paper's learning rate, with decay, a warm-up and nnU-Net's polynomial."""

PATCH_PAPER_RECIPE = Recipe("adam", learning_rate=1e-4, weight_decay=0.0, schedule="plateau")
"""The patch transformer's published one (arXiv:2102.13645). Departs from it: the validation loss is smoothed, because
nnU-Net's is that of a few random batches."""


def chosen_recipe(
    recipe: Recipe | None, optimizer_name: Literal["sgd", "adamw"] | None, learning_rate: float | None
) -> Recipe | None:
    """Return a trainer's recipe with what the suffixes of its name change; None stands for nnU-Net's own."""
    if optimizer_name is not None:
        recipe = AXIAL_RECIPE if optimizer_name == "adamw" else None
    if recipe is not None and learning_rate is not None:
        recipe = replace(recipe, learning_rate=learning_rate)
    return recipe


class EpochSchedule:
    """Sets the learning rate of every parameter group at the start of an epoch, as nnU-Net calls it.

    It holds nothing that a checkpoint would have to keep: the losses are in nnU-Net's log, which a checkpoint has.
    """

    def __init__(
        self, optimizer: Optimizer, recipe: Recipe, epochs: int, val_losses: Callable[[], Sequence[float]] = tuple
    ) -> None:
        self.optimizer = optimizer
        self.recipe = recipe
        self.epochs = epochs
        self.val_losses = val_losses
        self.step(0)

    def step(self, current_step: int) -> None:
        """Set the learning rate of the epoch `current_step`."""
        learning_rate = self.recipe.learning_rate_at(current_step, self.epochs, self.val_losses())
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate


def build_optimizer(
    network: nn.Module, recipe: Recipe, epochs: int, val_losses: Callable[[], Sequence[float]] = tuple
) -> tuple[Optimizer, EpochSchedule]:
    """Return a recipe's optimiser of all parameters of a network, and its learning rate over `epochs`.

    `val_losses` returns the validation losses logged so far, of which "plateau" works out the rate.
    """
    parameters, rate, decay = list(network.parameters()), recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, rate, momentum=0.99, nesterov=True, weight_decay=decay)
    else:
        kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        optimizer = kind(parameters, rate, weight_decay=decay)
    return optimizer, EpochSchedule(optimizer, recipe, epochs, val_losses)


def spare_from_weight_decay(optimizer: Optimizer, network: nn.Module) -> None:
    """Move the parameters of a network's `no_weight_decay()`, if it has that, to a group of their own without decay.

    Args:
        optimizer: Of the network's parameters, in one group.
        network: The network itself, not a wrapper of it, because wrappers change the names.
    Raises:
        ValueError: If one of the names is not a parameter of the network.
    """
    names = set(getattr(network, "no_weight_decay", set)())
    if not names:
        return
    parameters = dict(network.named_parameters())
    if unknown := names - parameters.keys():
        raise ValueError(
            f"{type(network).__name__}.no_weight_decay() names {', '.join(sorted(unknown))}, which are no parameters"
        )
    spared = [parameter for name, parameter in parameters.items() if name in names]
    (group,) = optimizer.param_groups
    group["params"] = [parameter for name, parameter in parameters.items() if name not in names]
    optimizer.add_param_group({**group, "params": spared, "weight_decay": 0.0})
