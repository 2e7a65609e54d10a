"""The weights that a pre-training hands on, and the refusal of those that cannot be meant.

nnU-Net's `-pretrained_weights` compares names and shapes. Heads, strides, positions and more change a network without
a trace in shapes. So every network of this package keeps in memory what it was built from, the file says what it was
made from, and both are compared before nnU-Net loads anything. State dicts stay as they are.

This is the only place of the package that changes a function of nnU-Net for good: `load_pretrained_weights` as the
training command calls it; for files and networks that say nothing it is what it was. Changed is the name in the module
`nnunetv2.run.run_training`. Started as `python -m nnunetv2.run.run_training`, that module runs as another one of the
name `__main__`, and nothing is compared: use `nnUNetv2_train`.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run import run_training
from torch import nn

from nnunet_attn import __version__
from nnunet_attn.architectures.build import PlannedUNet, locate, network_arguments, option_names
from nnunet_attn.architectures.registry import Network
from nnunet_attn.training.checkpoints import load_trusted
from nnunet_attn.training.predictor import plain_network

PRETRAINED_FILE = "pretrained_weights.pth"
ENTRY = "nnunet_attn"
"""Key of a weights file beside nnU-Net's own; in a checkpoint, of what nnU-Net calls `IN_CHECKPOINTS`."""
IN_CHECKPOINTS = "init_args"

FREE = frozenset(
    {
        *("dropout", "dropout_rate", "dropout_op", "dropout_op_kwargs", "drop_path"),  # disturb training alone
        *("chunk_size", "checkpointing"),  # change what it costs alone
        "average_heads",  # is about output layers, which are new
        "patch_size",  # shows in shapes where a network depends on it
    }
)
"""Arguments that may differ between pre-training and fine-tuning."""

_ATTRIBUTE = "nnunet_attn_built_from"
_FUNCTION = "load_pretrained_weights"
_MARK = "nnunet_attn_compares_settings"


def remember_settings(
    built: nn.Module, network: Network, plan: PlannedUNet, input_channels: int, options: Mapping[str, Any]
) -> None:
    """Keep on a network what it was built from; nothing of it enters a state dict."""
    arguments = {**default_arguments(network), **network_arguments(network, plan, options)}
    settings = {name: _plain(value) for name, value in arguments.items() if name not in FREE}
    vars(built)[_ATTRIBUTE] = {
        "network": network.name,
        "settings": {"axes": len(plan.patch_size), "input_channels": input_channels, **settings},
    }


def default_arguments(network: Network) -> dict[str, Any]:
    """Return the options of a network with the values that they have where the plans say nothing."""
    if network.class_path is None:
        return {}
    defaults: dict[str, Any] = {}
    for kind in reversed(locate(network.class_path).__mro__):
        if "__init__" in vars(kind):
            parameters = inspect.signature(kind.__init__).parameters.values()
            defaults.update((p.name, p.default) for p in parameters if p.default is not p.empty)
    return {name: defaults[name] for name in option_names(network) if name in defaults}


def _plain(value: Any) -> Any:
    """Return a value as JSON would give it back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def settings_of(network: Any) -> dict[str, Any] | None:
    """Return what a network was built from, None if it is not one of this package's."""
    return vars(plain_network(network)).get(_ATTRIBUTE)


def entry_of(network: nn.Module, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file says of a network's weights: what they were learned in, and what it was built from."""
    return {"version": __version__, **source, **(settings_of(network) or {})}


def write_pretrained(file: Path, network: nn.Module, source: Mapping[str, Any]) -> None:
    """Write a network's weights for `-pretrained_weights`, under a temporary name first; they load on the CPU.

    Args:
        file: The file, replaced if it is there.
        network: A network of this package.
        source: What the weights were learned in, JSON-able.
    """
    weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    content = {"network_weights": weights, ENTRY: entry_of(network, source)}
    partial = file.with_name(f"{file.name}.partial")
    torch.save(content, partial)
    os.replace(partial, file)


def check_pretrained(network: Any, file: str | os.PathLike[str]) -> None:
    """Refuse weights that were pre-trained with settings which a network does not have.

    Raises:
        ValueError: If they differ; the message names each setting that does, with both values.
    """
    own, given = settings_of(network), read_entry(file)
    if own is None or given is None or "settings" not in given:
        return
    if own["network"] != given["network"]:
        raise ValueError(
            f"{file} was pre-trained as {given['network']}, and this trainer's network is {own['network']}; "
            f"fine-tune it with a trainer of {given['network']}, or pre-train this one"
        )
    there, here = given["settings"], own["settings"]
    differing = [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in {**here, **there}
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise ValueError(
            f"{file} was pre-trained with other settings: {', '.join(differing)}; fine-tune with the plans that it "
            "was pre-trained for, or pre-train again: nnunet-attn pretrain --for DATASET -p PLANS"
        )


def read_entry(file: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what a file of weights, or a checkpoint of a pre-training, says of its network; None if nothing."""
    try:
        # nothing of the tensors is read from the disk, and no code is run
        content = load_trusted(file, mmap=True)
    except Exception:  # nnU-Net itself says what is wrong with a file, or reads what PyTorch does not trust
        return None
    for holder in (content, content.get(IN_CHECKPOINTS)) if isinstance(content, Mapping) else ():
        entry = holder.get(ENTRY) if isinstance(holder, Mapping) else None
        if isinstance(entry, Mapping):
            return dict(entry)
    return None


def install() -> None:
    """Let `nnUNetv2_train -pretrained_weights` compare settings before it loads.

    Done when `nnunet_attn.training` is imported, and once however often it is called.
    """
    original: Callable[..., Any] = getattr(run_training, _FUNCTION)
    if getattr(original, _MARK, False):
        return

    @wraps(original)
    def load(network: Any, fname: Any, *arguments: Any, **keywords: Any) -> Any:
        check_pretrained(network, fname)
        return original(network, fname, *arguments, **keywords)

    setattr(load, _MARK, True)
    setattr(run_training, _FUNCTION, load)
