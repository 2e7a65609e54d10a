"""Measures what FINE's tokens cost: `python -m nnunet_attn.benchmark.window_tokens --help`."""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from nnunet_attn.architectures.fine import FINE
from nnunet_attn.architectures.nnformer import NNFormer2021
from nnunet_attn.benchmark.command import add_common, check_common, run
from nnunet_attn.benchmark.comparison import MEANING, measured
from nnunet_attn.benchmark.variants import Build, make_variant
from nnunet_attn.errors import InputError

MIN_ROUNDS = 5
CELLS = 5  # of the volume along two axes, as published
WITHOUT, ANEW, CARRIED = "NNFormer2021", "FINE, carry=False", "FINE"
_INPUT_CHANNELS, _NUM_CLASSES, _POSITIONS = 1, 14, 2
_MODULE = "nnunet_attn.benchmark.window_tokens"
_MEANING = {
    "saved_bytes": "one training forward pass with deep supervision: all storages that are kept for the backward "
    "pass, each once, without parameters and buffers; counted on tensors without data, so at any width",
    "ratios": MEANING["ratios"].replace("the reference network", "the same network without tokens"),
    "rounds": "at each width; fewer than asked for where more would have taken longer than --seconds",
}


class _ImageOnly(nn.Module):
    """The network without tokens on the input of one with them: the image's channels are the first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x[:, :_INPUT_CHANNELS])


def builds(patch_size: Sequence[int], width: int) -> dict[str, Build]:
    """Return what builds the networks that are compared, the one without tokens first.

    Args:
        patch_size: Voxels along each axis.
        width: Channels of the first stage.
    """
    extent = [patch_size[0], *(CELLS * size for size in patch_size[1:])]

    def plain(deep_supervision: bool) -> nn.Module:
        options: dict[str, Any] = {"embed_dim": width, "deep_supervision": deep_supervision}
        return _ImageOnly(NNFormer2021(_INPUT_CHANNELS, _NUM_CLASSES, patch_size, **options))

    def tokens(carry: bool) -> Build:
        return lambda deep_supervision: FINE(
            _INPUT_CHANNELS,
            _NUM_CLASSES,
            patch_size,
            extent,
            carry=carry,
            embed_dim=width,
            deep_supervision=deep_supervision,
        )

    return {WITHOUT: plain, ANEW: tokens(False), CARRIED: tokens(True)}


def input_shape(patch_size: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a batch of one: the image and the positions along the two axes with cells."""
    return (1, _INPUT_CHANNELS + _POSITIONS, *patch_size)


def saved_bytes(network: nn.Module, shape: Sequence[int]) -> int:
    """Return the bytes that a training forward pass keeps for the backward pass, computing nothing.

    Args:
        network: In train mode; it may be on the meta device. It is not changed.
        shape: Of the input.
    """
    found: dict[int, Any] = {}
    with FakeTensorMode():
        # on the CPU by name, so that the operations are those of a CPU
        own = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", requires_grad=tensor.requires_grad)
            for name, tensor in (*network.named_parameters(), *network.named_buffers())
        }
        known = {tensor.untyped_storage()._cdata for tensor in own.values()}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                found[storage._cdata] = storage  # held, so that no other gets its place
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            functional_call(network, own, (torch.empty(tuple(shape), device="cpu"),))
        return sum(storage.nbytes() for storage in found.values())


def counted(patch_size: Sequence[int], width: int) -> dict[str, Any]:
    """Return parameters and kept activations of all networks and their ratios over the one without tokens."""
    networks: dict[str, dict[str, int]] = {}
    for name, build in builds(patch_size, width).items():
        with torch.device("meta"):
            network = build(True).train()
        networks[name] = {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "saved_bytes": saved_bytes(network, input_shape(patch_size)),
        }
    (_, first), *others = networks.items()
    ratios = {name: {key: own[key] / first[key] for key in own} for name, own in others}
    return {"width": width, "networks": networks, "ratios": ratios}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--patch", nargs=3, type=int, default=[64, 128, 128], metavar="N", help="64 128 128 by default")
    parser.add_argument(
        "--widths",
        nargs="+",
        type=int,
        default=[48, 192],
        metavar="N",
        help="channels of the first stage at which time is measured; 48 192 by default, 192 is the published one",
    )
    parser.add_argument(
        "--counted",
        nargs="*",
        type=int,
        default=[],
        metavar="N",
        help="further widths, at which activations are counted only; none by default",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=420.0,
        metavar="S",
        help="fewer rounds, one at least, at a width where they would take longer on the wall; 420 by default",
    )
    add_common(parser, rounds=15, least=MIN_ROUNDS)
    return parser


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    check_common(args, MIN_ROUNDS)
    widths = list(dict.fromkeys([*args.widths, *args.counted]))
    try:
        activations = [counted(args.patch, width) for width in widths]
    except ValueError as error:
        raise InputError(f"a network cannot be built: {error}; change --patch, --widths or --counted") from error
    sizes = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(args.widths) * (args.rounds + 1))
        for width in args.widths:
            device = torch.device(args.device)
            variants = [
                make_variant(name, build, device, args.seed) for name, build in builds(args.patch, width).items()
            ]
            torch.manual_seed(args.seed)
            image = torch.randn(input_shape(args.patch), device=device)
            image[:, _INPUT_CHANNELS:] = 0  # in the middle of the volume
            found = measured(
                variants,
                image,
                args.rounds,
                args.precision,
                args.compile,
                on_round=lambda: progress.advance(task),
                seconds=args.seconds,
            )
            rounds = len(found["networks"][WITHOUT]["seconds"]["forward"]["rounds"])
            sizes.append({"width": width, "rounds": rounds, **found})
    settings = {
        "input_shape": list(input_shape(args.patch)),
        "num_classes": _NUM_CLASSES,
        "cells": [1, CELLS, CELLS],
        "reference_network": WITHOUT,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "device": args.device,
        "precision": args.precision,
        "compile": args.compile,
        "threads": 1 if args.device == "cpu" else None,
    }
    meaning = {key: value for key, value in MEANING.items() if key not in ("wall_seconds", "equality")} | _MEANING
    return {"meaning": meaning, "settings": settings, "sizes": sizes, "activations": activations}


def table(result: dict[str, Any]) -> Table:
    """Return what is printed: a row for each network and width, ratios over the network without tokens."""
    settings = result["settings"]
    shown = Table(
        title=f"{settings['input_shape']}, {settings['device']}, {settings['precision']}",
        caption=f"x: over {WITHOUT} (quartiles)",
    )
    for heading in ("network", "width", "forward, s", "step, s", "kept activations, MiB", "M parameters"):
        shown.add_column(heading, justify="left" if heading == "network" else "right")
    times = {size["width"]: size for size in result["sizes"]}
    for counts in result["activations"]:
        for name, own in counts["networks"].items():
            cells = []
            for kind in ("forward", "step"):
                size = times.get(counts["width"])
                if size is None:
                    cells.append("")
                    continue
                cell = f"{size['networks'][name]['seconds'][kind]['median']:.4g}"
                if name in size["ratios"]:
                    ratio = size["ratios"][name]["seconds"][kind]
                    cell += f" ({ratio['median']:.3f}, {ratio['q25']:.3f}-{ratio['q75']:.3f})"
                cells.append(cell)
            for key, unit in (("saved_bytes", 2**20), ("parameters", 1e6)):
                over = f" ({counts['ratios'][name][key]:.4f})" if name in counts["ratios"] else ""
                cells.append(f"{own[key] / unit:.2f}{over}")
            shown.add_row(name, str(counts["width"]), *cells)
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(_MODULE, _parser(), _measure, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
