"""Measures how time and memory of a network grow with the image: `python -m nnunet_attn.benchmark.growth --help`."""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from nnunet_attn.benchmark.command import add_common, check_common, note, run
from nnunet_attn.benchmark.comparison import MEANING, compare
from nnunet_attn.benchmark.topologies import topology_named, with_patch
from nnunet_attn.benchmark.transcriptions import transcription
from nnunet_attn.benchmark.variants import file_build, registry_build, registry_name
from nnunet_attn.errors import InputError

KINDS = ("forward", "step")
QUANTITIES = ("seconds", "peak_memory_bytes")
_MODULE = "nnunet_attn.benchmark.growth"
_TOPOLOGY = "axial-2d"
_MEANING = {
    "exponents": "alpha of quantity ~ pixels^alpha by least squares between logarithms: of the median times, and of "
    "the peak memory; `of_the_largest` from the two largest sizes alone, where what does not grow weighs least",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--network", default="GatedAxialUNet", metavar="NAME", help="name in the registry")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[64, 128, 256, 512], metavar="N", help="sides of the square images"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="Python file with build(plan, input_channels, num_classes, deep_supervision), measured beside; default: "
        "the network's transcription, where the current folder has it in tests/reference",
    )
    parser.add_argument(
        "--reference-up-to",
        type=int,
        default=256,
        metavar="N",
        help="largest side for the reference, which may need much memory; 0 leaves it out",
    )
    parser.add_argument(
        "--seconds", type=float, default=150.0, metavar="S", help="fewer rounds at a size that would take longer"
    )
    add_common(parser, rounds=5, least=1)
    return parser


def exponent(pixels: Sequence[int], values: Sequence[float]) -> float:
    """Return alpha of values ~ pixels^alpha, by least squares between their logarithms."""
    return float(np.polyfit(np.log(pixels), np.log(values), 1)[0])


def exponents(sizes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the exponents of every network that was measured at two sizes or more."""
    names = dict.fromkeys(name for size in sizes for name in size["networks"])
    found: dict[str, Any] = {}
    for name in names:
        own = [size for size in sizes if name in size["networks"]]
        if len(own) < 2:
            continue
        pixels = [size["pixels"] for size in own]
        found[name] = {"sides": [size["side"] for size in own]}
        for quantity in QUANTITIES:
            values = {kind: [_value(size["networks"][name], quantity, kind) for size in own] for kind in KINDS}
            found[name][quantity] = {kind: exponent(pixels, values[kind]) for kind in KINDS}
            found[name][quantity]["of_the_largest"] = {kind: exponent(pixels[-2:], values[kind][-2:]) for kind in KINDS}
    return found


def _value(network: Mapping[str, Any], quantity: str, kind: str) -> float:
    value = network[quantity][kind]
    return value["median"] if quantity == "seconds" else value


def _check(args: argparse.Namespace) -> None:
    check_common(args, 1)
    if len(set(args.sizes)) < 2:
        raise InputError(f"--sizes {' '.join(map(str, args.sizes))}; two different ones at least make a growth")
    if not args.seconds > 0:
        raise InputError(f"--seconds {args.seconds:g}; it has to be more than 0")
    args.network = registry_name(args.network)
    args.sizes = sorted(set(args.sizes))


def _reference(args: argparse.Namespace) -> Path | None:
    if args.reference is not None or not args.reference_up_to:
        return args.reference if args.reference_up_to else None
    path, reason = transcription(args.network, topology_named(_TOPOLOGY))
    if reason:
        note(f"{reason}; {args.network} is measured alone")
    return path


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    _check(args)
    reference, device = _reference(args), torch.device(args.device)
    topologies = {side: with_patch(topology_named(_TOPOLOGY), [side, side]) for side in args.sizes}
    measured = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(topologies) * (args.rounds + 1))
        for number, (side, topology) in enumerate(topologies.items(), 1):
            builds = {args.network: registry_build(args.network, topology, {})}
            if reference is not None and side <= args.reference_up_to:
                builds = {reference.stem: file_build(reference, topology), **builds}
            found = compare(
                builds,
                topology,
                args.rounds,
                device,
                args.precision,
                args.compile,
                args.seed,
                wall_rounds=0,
                on_round=lambda: progress.advance(task),
                seconds=args.seconds,
            )
            progress.update(task, completed=number * (args.rounds + 1))
            rounds = len(found["networks"][args.network]["seconds"]["forward"]["rounds"])
            measured.append({"side": side, "pixels": math.prod(topology.plan.patch_size), "rounds": rounds, **found})
    settings = {
        "network": args.network,
        "reference_network": None if reference is None else reference.stem,
        "reference_up_to": args.reference_up_to,
        "batch_size": topology_named(_TOPOLOGY).batch_size,
        "input_channels": topology_named(_TOPOLOGY).input_channels,
        "num_classes": topology_named(_TOPOLOGY).num_classes,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "device": args.device,
        "precision": args.precision,
        "compile": args.compile,
        "threads": 1 if device.type == "cpu" else None,
    }
    meaning = {key: value for key, value in MEANING.items() if key != "wall_seconds"} | _MEANING
    return {"meaning": meaning, "settings": settings, "sizes": measured, "exponents": exponents(measured)}


def table(result: dict[str, Any]) -> Table:
    """Return what is printed: a row for each size and network, and one for the exponents of each network."""
    settings = result["settings"]
    shown = Table(title=f"{settings['device']}, {settings['precision']}, batch {settings['batch_size']}")
    for heading in ("side", "network", "forward, s", "step, s", "forward, MiB", "step, MiB"):
        shown.add_column(heading, justify="left" if heading == "network" else "right")
    for size in result["sizes"]:
        for name, network in size["networks"].items():
            shown.add_row(
                str(size["side"]),
                name,
                *(f"{_value(network, 'seconds', kind):.4g}" for kind in KINDS),
                *(f"{_value(network, 'peak_memory_bytes', kind) / 2**20:.1f}" for kind in KINDS),
            )
    for name, own in result["exponents"].items():
        shown.add_row("alpha", name, *(f"{own[quantity][kind]:.2f}" for quantity in QUANTITIES for kind in KINDS))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(_MODULE, _parser(), _measure, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
