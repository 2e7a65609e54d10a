"""What the speed measurement compares: networks of the registry and reference implementations from a file."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_attn.architectures.build import build_network
from nnunet_attn.architectures.registry import NETWORKS, network_named
from nnunet_attn.benchmark.measure import Work, forward_flops, held_bytes, peak_allocated_bytes
from nnunet_attn.benchmark.topologies import Topology
from nnunet_attn.errors import InputError

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
Build = Callable[[bool], nn.Module]


@dataclass(frozen=True)
class Variant:
    """One network twice: as it predicts (no deep supervision) and as it is trained (with it).

    Two objects, so that no switch has to be known that foreign implementations might not have.
    """

    name: str
    inference: nn.Module
    training: nn.Module


def registry_name(name: str) -> str:
    """Return the registry's spelling of a network's name, given in any case, with or without underscores.

    Raises:
        InputError: If there is no such network.
    """
    spellings = {_bare(network.name): network.name for network in NETWORKS}
    if _bare(name) not in spellings:
        raise InputError(f"no network {name!r}; there are {', '.join(spellings.values())}")
    return spellings[_bare(name)]


def _bare(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def registry_build(name: str, topology: Topology, options: Mapping[str, Any]) -> Build:
    """Return what builds a network of the registry with or without deep supervision.

    Raises:
        InputError: If there is no such network.
    """
    row = network_named(registry_name(name))
    channels, classes = topology.input_channels, topology.num_classes
    return lambda deep_supervision: build_network(row, topology.plan, channels, classes, deep_supervision, options)


def from_file(path: Path, name: str, signature: str) -> Callable[..., Any]:
    """Return a function or class that a Python file defines.

    Args:
        path: The file; it is run.
        name: What it has to define.
        signature: Of that, for the message.
    Raises:
        InputError: If the file does not exist, fails when it is imported, or does not define it.
    """
    spec = importlib.util.spec_from_file_location(f"_speed_reference_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InputError(f"reference {str(path)!r} is not a Python file; give a file ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise InputError(f"reference {str(path)!r} cannot be imported: {_told(error)}; mend the file") from error
    defined = getattr(module, name, None)
    if not callable(defined):
        raise InputError(f"reference {str(path)!r} does not define {name}{signature}")
    return defined


def file_build(path: Path, topology: Topology) -> Build:
    """Return what builds a file's network, by its `build(plan, input_channels, num_classes, deep_supervision)`.

    Raises:
        InputError: If the file does not exist, fails when it is imported, or does not define `build`; what is
            returned raises it where `build` fails.
    """
    build = from_file(path, "build", "(plan, input_channels, num_classes, deep_supervision)")

    def built(deep_supervision: bool) -> nn.Module:
        try:
            network = build(topology.plan, topology.input_channels, topology.num_classes, deep_supervision)
        except Exception as error:
            raise InputError(f"build of reference {str(path)!r} failed: {_told(error)}; mend the file") from error
        if not isinstance(network, nn.Module):
            raise InputError(f"build of reference {str(path)!r} returned {type(network).__name__}, not a torch module")
        return network

    return built


def _told(error: BaseException) -> str:
    """An error in one line, with the place where it was raised: what a user needs to mend a file of their own."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} (line {frames[-1].lineno} of {Path(frames[-1].filename).name})"


def make_variant(name: str, build: Build, device: torch.device, seed: int) -> Variant:
    """Build both forms of a network from the same seed.

    Raises:
        InputError: If the network refuses the topology or its options.
    """
    built = []
    for deep_supervision in (False, True):
        torch.manual_seed(seed)
        try:
            built.append(build(deep_supervision).to(device))
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} cannot be built: {error}; change its options or the topology") from error
    return Variant(name, built[0].eval(), built[1].train())


def works(variant: Variant, image: Tensor, precision: str, compiled: bool) -> dict[str, Work]:
    """Return the two pieces of work that are measured: a forward pass as in prediction, and a training step.

    The step is forward, a loss that costs next to nothing on every output, backward, and letting the gradients go; an
    image that requires a gradient gets one.
    """
    dtype = PRECISIONS[precision]
    inference: Any = torch.compile(variant.inference, dynamic=False) if compiled else variant.inference
    training: Any = torch.compile(variant.training, dynamic=False) if compiled else variant.training

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast(image.device.type, dtype=dtype) if dtype is not None else nullcontext()

    def forward() -> None:
        with torch.no_grad(), autocast():
            inference(image)

    def step() -> None:
        with autocast():
            outputs = training(image)
            outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
            loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
        loss.backward()
        variant.training.zero_grad(set_to_none=True)
        image.grad = None

    return {"forward": forward, "step": step}


def sizes(variant: Variant, work: Mapping[str, Work], image: Tensor) -> dict[str, Any]:
    """Return parameters, FLOPs and memory of a variant, whose work has been run before."""
    held = held_bytes(variant.training, image)
    allocated = {kind: peak_allocated_bytes(run, image.device) for kind, run in work.items()}
    return {
        "parameters": sum(parameter.numel() for parameter in variant.training.parameters()),
        "forward_flops": forward_flops(variant.inference, image),
        "held_bytes": held,
        "allocated_bytes": allocated,
        "peak_memory_bytes": {kind: held + value for kind, value in allocated.items()},
    }
