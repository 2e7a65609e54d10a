"""The gates of axial attention during a training: frozen at first, then written down and drawn after every epoch."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_attn.architectures.blocks.axial_attention import GATES

HISTORY_FILE = "gates.json"
DRAWING_FILE = "gates.png"


@dataclass(frozen=True)
class GatedLayer:
    """The gates of one layer, and the switch that is 1 where they learn and 0 where they are frozen."""

    gates: nn.Parameter
    switch: Tensor


def gated_layers(network: nn.Module) -> dict[str, GatedLayer]:
    """Return every layer with a parameter `gates` and a buffer `gates_open` by its name, in the network's order."""
    layers = {}
    for name, module in network.named_modules():
        gates, switch = getattr(module, "gates", None), getattr(module, "gates_open", None)
        if isinstance(gates, nn.Parameter) and isinstance(switch, Tensor):
            layers[name] = GatedLayer(gates, switch)
    return layers


def set_gates_open(network: nn.Module, is_open: bool) -> None:
    """Let the gates learn, or freeze them; layers without gates are left alone.

    The switch is a buffer: `requires_grad` stays as it is, whose change compiled and distributed networks would not
    notice.
    """
    for layer in gated_layers(network).values():
        layer.switch.fill_(float(is_open))


def schedule_gates(network: nn.Module, optimizer: Optimizer, epoch: int, frozen_epochs: int) -> None:
    """Freeze the gates in the first `frozen_epochs` and open them after that; to be called when an epoch starts.

    When they open, the optimiser forgets them: Adam's averages of the zero gradients so far would make the first steps
    several times as long as its learning rate.
    """
    set_gates_open(network, epoch >= frozen_epochs)
    if epoch == frozen_epochs:
        for layer in gated_layers(network).values():
            optimizer.state.pop(layer.gates, None)


def describe_schedule(network: nn.Module, frozen_epochs: int, epochs: int) -> str:
    """Return the line of a log that says when the gates learn, empty for a network without gates."""
    count = len(gated_layers(network))
    if not count:
        return ""
    if frozen_epochs >= epochs:
        return f"Gates of {count} layers stay frozen: they would learn from epoch {frozen_epochs} on, which is too late"
    return f"Gates of {count} layers learn from epoch {frozen_epochs} on"


def gate_values(network: nn.Module) -> dict[str, list[float]]:
    """Return the gates (query, key, content, position) of every gated layer by its name, in the network's order."""
    layers = gated_layers(network)
    if not layers:
        return {}
    # one tensor, so that the device is waited for once
    values = torch.stack([layer.gates.detach().float() for layer in layers.values()]).tolist()
    # float32 has 7 digits
    return {name: [float(f"{value:.7g}") for value in gates] for name, gates in zip(layers, values, strict=True)}


def describe_gates(values: Mapping[str, list[float]], frozen: bool) -> str:
    """Return the line of a log: mean and range over the layers of each gate."""
    told = []
    for name, column in zip(GATES, zip(*values.values(), strict=True), strict=True):
        told.append(f"{name} {sum(column) / len(column):.4f} ({min(column):.4f} to {max(column):.4f})")
    state = "frozen" if frozen else "learning"
    return f"Gates, mean (range) of {len(values)} layers, {state}: {', '.join(told)}"


class GateHistory:
    """The gates at the end of each epoch, kept in a training's folder as a table and a drawing.

    Args:
        folder: The fold's folder.
        frozen_epochs: Epochs in which the gates do not learn.
        first_epoch: Epoch that the training is in; what the folder holds of it and later ones, from a training that
            was broken off after its last checkpoint, is dropped.
        layers: Names of the gated layers.
        log: Takes lines for the training log.
    """

    def __init__(
        self, folder: Path, frozen_epochs: int, first_epoch: int, layers: list[str], log: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.frozen_epochs = frozen_epochs
        self.log = log
        self.epochs: list[int] = []
        self.layers: dict[str, list[list[float]]] = {layer: [] for layer in layers}
        if first_epoch > 0:
            self._read(first_epoch)

    def _read(self, first_epoch: int) -> None:
        file = self.folder / HISTORY_FILE
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            epochs = [int(epoch) for epoch in kept["epochs"]]
            layers = {layer: [[float(gate) for gate in row] for row in rows] for layer, rows in kept["layers"].items()}
            if layers.keys() != self.layers.keys():
                raise ValueError("it has other layers")
            if any(len(rows) != len(epochs) or any(len(row) != len(GATES) for row in rows) for rows in layers.values()):
                raise ValueError("it is incomplete")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            self.log(f"{file} cannot be continued ({error!r}); the gates' history starts anew in epoch {first_epoch}")
            return
        before = [epoch < first_epoch for epoch in epochs]
        self.epochs = [epoch for epoch, keep in zip(epochs, before, strict=True) if keep]
        self.layers = {
            layer: [row for row, keep in zip(layers[layer], before, strict=True) if keep] for layer in self.layers
        }

    def add(self, epoch: int, values: Mapping[str, list[float]]) -> None:
        """Log the gates at the end of an epoch, and write table and drawing; a failure to write is logged only."""
        self.epochs.append(epoch)
        for layer, gates in values.items():
            self.layers[layer].append(gates)
        self.log(describe_gates(values, epoch < self.frozen_epochs))
        try:
            self._write()
            self._draw()
        except Exception as error:  # a drawing can fail with anything, and a training must not die of it
            self.log(f"the gates of epoch {epoch} could not be written to {self.folder} ({error!r})")

    def _write(self) -> None:
        table = {
            "gates": GATES,
            "frozen_epochs": self.frozen_epochs,
            "epochs": self.epochs,
            "layers": self.layers,
        }
        partial = self.folder / f"{HISTORY_FILE}.partial"
        partial.write_text(json.dumps(table), encoding="utf-8")
        os.replace(partial, self.folder / HISTORY_FILE)

    def _draw(self) -> None:
        partial = self.folder / f"{DRAWING_FILE}.partial"
        # nnU-Net's own drawing changes the defaults for the whole process
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            self._figure().savefig(partial, format="png", dpi=100)
        os.replace(partial, self.folder / DRAWING_FILE)

    def _figure(self) -> Figure:
        figure = Figure(figsize=(11, 8), layout="constrained")
        figure.suptitle("Gates at the end of each epoch, one line a layer: dark the first, bright the last")
        colours = matplotlib.colormaps["viridis"]
        # a single epoch has no line yet
        marker = "." if len(self.epochs) == 1 else ""
        for gate, axes in enumerate(figure.subplots(2, 2, sharex=True).flat):
            columns = [[row[gate] for row in rows] for rows in self.layers.values()]
            for index, column in enumerate(columns):
                colour = colours(0.9 * index / max(1, len(columns) - 1))
                axes.plot(self.epochs, column, color=colour, linewidth=0.8, alpha=0.7, marker=marker)
            mean = [sum(values) / len(values) for values in zip(*columns, strict=True)]
            axes.plot(self.epochs, mean, color="black", linewidth=2.5, marker=marker, label="mean")
            if self.frozen_epochs:
                axes.axvline(self.frozen_epochs - 0.5, color="grey", linestyle="--", label="the gates begin to learn")
            axes.set_title(GATES[gate])
        for axes in figure.axes[2:]:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.axes[0].legend(loc="best")
        return figure
