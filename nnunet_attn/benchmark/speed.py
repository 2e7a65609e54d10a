"""Compares the speed and memory of networks in one process: `python -m nnunet_attn.benchmark.speed --help`."""

import argparse
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from nnunet_attn.architectures.fine import NO_POSITION
from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.benchmark.command import add_common, check_common, note, run
from nnunet_attn.benchmark.comparison import MEANING, WALL_ROUNDS, compare, wall_threads
from nnunet_attn.benchmark.topologies import (
    TOPOLOGIES,
    Topology,
    default_topology,
    scaled_down,
    topology_named,
    with_patch,
)
from nnunet_attn.benchmark.transcriptions import transcription, transcription_options
from nnunet_attn.benchmark.variants import Build, file_build, registry_build, registry_name
from nnunet_attn.errors import InputError

MIN_ROUNDS = 5  # fewer give no quartiles worth the name
_MODULE = "nnunet_attn.benchmark.speed"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument(
        "--networks",
        "--network",
        nargs="+",
        default=["GASAUNet"],
        metavar="NAME",
        help="names in the registry, also as gated_axial_unet",
    )
    parser.add_argument(
        "--reference-network",
        "--against",
        dest="against",
        metavar="NAME",
        help="what ratios are against: a network, or a --reference file without .py; default: the transcription of the "
        "one network measured where the current folder has it in tests/reference, else PlainUNet",
    )
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="Python file with build(plan, input_channels, num_classes, deep_supervision), measured too; repeatable",
    )
    parser.add_argument("--topology", metavar="NAME", help=", ".join(TOPOLOGIES))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--patch", nargs="+", type=int, metavar="N", help="another patch, multiples of the strides")
    size.add_argument("--scale", nargs="+", type=int, metavar="N", help="divide the patch, one factor or one an axis")
    parser.add_argument("--batch-size", type=int, metavar="N", help="default: the topology's")
    parser.add_argument(
        "--wall-rounds", type=int, default=WALL_ROUNDS, metavar="N", help="of time on the wall, CPU only; 0: none"
    )
    parser.add_argument(
        "--options", default="{}", metavar="JSON", help='arguments by network: {"GASAUNet": {"num_heads": 5}}'
    )
    add_common(parser, rounds=30, least=MIN_ROUNDS)
    return parser


def _topology(args: argparse.Namespace) -> Topology:
    topology = topology_named(args.topology)
    if args.patch:
        topology = with_patch(topology, args.patch)
    if args.scale:
        topology = scaled_down(topology, args.scale)
    if args.batch_size is not None:
        topology = replace(topology, batch_size=args.batch_size)
    if topology.batch_size < 1:
        raise InputError(f"--batch-size {topology.batch_size}; it has to be at least 1")
    return topology


def _choose_reference(args: argparse.Namespace, topology: Topology) -> None:
    """Fill in what ratios are against, if nothing was said about it, and the options that make both one function."""
    if args.against is not None:
        return
    args.against = "PlainUNet"
    if args.reference or len(args.networks) > 1:
        return
    path, reason = transcription(args.networks[0], topology)
    if path is not None:
        args.reference, args.against = [path], path.stem
        name, given = args.networks[0], _options(args, args.networks)
        options = {**transcription_options(name, topology), **given.get(name, {})}
        args.options = json.dumps({name: options} if options else {})
    elif reason:
        note(f"{reason}; ratios are over PlainUNet")


def _options(args: argparse.Namespace, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    try:
        options = json.loads(args.options)
    except json.JSONDecodeError as error:
        raise InputError(f"--options {args.options!r} is not JSON ({error})") from error
    if not isinstance(options, dict) or not all(isinstance(value, dict) for value in options.values()):
        raise InputError(f'--options {args.options!r}; it has to be like {{"GASAUNet": {{"num_heads": 5}}}}')
    if unknown := sorted(set(options) - set(names)):
        raise InputError(f"--options for {', '.join(unknown)}, not measured here; measured are {', '.join(names)}")
    return options


def _builds(args: argparse.Namespace, topology: Topology) -> dict[str, Build]:
    """Everything that is to be measured, by name, what ratios are against first."""
    files: dict[str, Path] = {}
    for path in args.reference:
        if path.stem in files or path.stem in {network.name for network in NETWORKS}:
            raise InputError(f"--reference {str(path)!r}: there is a {path.stem!r} already; rename the file")
        files[path.stem] = path
    if args.against not in files:
        args.against = registry_name(args.against)
    names = [name for name in dict.fromkeys([args.against, *args.networks]) if name not in files]
    options = _options(args, names)
    builds = {name: registry_build(name, topology, options.get(name, {})) for name in names}
    builds.update({name: file_build(path, topology) for name, path in files.items()})
    return {args.against: builds.pop(args.against), **builds}


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    check_common(args, MIN_ROUNDS)
    args.networks = [registry_name(name) for name in args.networks]
    args.topology = args.topology or default_topology(args.networks)
    topology = _topology(args)
    _choose_reference(args, topology)
    builds = _builds(args, topology)
    device = torch.device(args.device)
    wall_rounds = max(0, args.wall_rounds) if device.type == "cpu" else 0
    settings = {
        "topology": args.topology,
        "input_shape": list(topology.input_shape),
        "num_classes": topology.num_classes,
        "architecture": dict(topology.plan.arch_kwargs),
        "options": json.loads(args.options),
        "reference_network": args.against,
        "rounds": args.rounds,
        "device": args.device,
        "precision": args.precision,
        "compile": args.compile,
        "threads": {"seconds": 1, "wall_seconds": wall_threads()} if device.type == "cpu" else None,
        "wall_rounds": wall_rounds,
    }
    with Progress(console=Console(stderr=True), transient=True) as progress, warnings.catch_warnings():
        # images here belong to no volume, so the middle is as good as any place
        warnings.filterwarnings("ignore", re.escape(NO_POSITION))
        task = progress.add_task("measuring", total=args.rounds + 1 + (wall_rounds + 1 if wall_rounds else 0))
        found = compare(
            builds,
            topology,
            args.rounds,
            device,
            args.precision,
            args.compile,
            args.seed,
            wall_rounds,
            on_round=lambda: progress.advance(task),
        )
    return {"meaning": MEANING, "settings": settings, **found}


def table(result: dict[str, Any]) -> Table:
    """Return what is printed: a column for each network, ratios with their quartiles below each quantity."""
    settings = result["settings"]
    title = (settings["topology"], settings["input_shape"], settings["device"], settings["precision"])
    shown = Table(title=", ".join(map(str, title)), caption=f"x: over {settings['reference_network']} (quartiles)")
    shown.add_column("")
    columns = [_column(network, result["ratios"].get(name)) for name, network in result["networks"].items()]
    for name in result["networks"]:
        shown.add_column(name, justify="right")
    for quantity in columns[0]:
        shown.add_row(quantity, *(column[quantity] for column in columns))
    return shown


def _column(network: dict[str, Any], ratio: dict[str, Any] | None) -> dict[str, str]:
    cells = {"M parameters": f"{network['parameters'] / 1e6:.3f}", "GFLOP": f"{network['forward_flops'] / 1e9:.3f}"}
    for kind in ("forward", "step"):
        cells[f"{kind}, s"] = f"{network['seconds'][kind]['median']:.4g}"
        times = ratio["seconds"][kind] if ratio else None
        cells[f"{kind}, x"] = f"{times['median']:.4f} ({times['q25']:.4f}-{times['q75']:.4f})" if times else ""
        cells[f"{kind}, MiB"] = f"{network['peak_memory_bytes'][kind] / 2**20:.1f}"
        cells[f"{kind}, MiB x"] = f"{ratio['peak_memory_bytes'][kind]:.4f}" if ratio else ""
    return cells


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(_MODULE, _parser(), _measure, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
