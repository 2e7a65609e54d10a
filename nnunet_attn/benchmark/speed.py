"""Compares the speed and memory of networks in one process: `python -m nnunet_attn.benchmark.speed --help`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from nnunet_attn.benchmark.comparison import MEANING, WALL_ROUNDS, compare, wall_threads
from nnunet_attn.benchmark.provenance import check_output, command_line, cuda_ceilings, provenance, write_json
from nnunet_attn.benchmark.topologies import TOPOLOGIES, Topology, scaled_down, topology_named, with_patch
from nnunet_attn.benchmark.variants import PRECISIONS, Build, file_build, registry_build
from nnunet_attn.errors import InputError

MIN_ROUNDS = 5  # fewer give no quartiles worth the name
_MODULE = "nnunet_attn.benchmark.speed"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["GASAUNet"], metavar="NAME", help="names in the registry")
    parser.add_argument("--reference-network", default="PlainUNet", metavar="NAME", help="what ratios are against")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="Python file with build(plan, input_channels, num_classes, deep_supervision), measured too; repeatable",
    )
    parser.add_argument("--topology", default="gasa-paper", metavar="NAME", help=", ".join(TOPOLOGIES))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--patch", nargs="+", type=int, metavar="N", help="another patch, multiples of the strides")
    size.add_argument("--scale", nargs="+", type=int, metavar="N", help="divide the patch, one factor or one an axis")
    parser.add_argument("--batch-size", type=int, metavar="N", help="default: the topology's")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help=f"at least {MIN_ROUNDS}")
    parser.add_argument("-device", "--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile of every network")
    parser.add_argument(
        "--options", default="{}", metavar="JSON", help='arguments by network: {"GASAUNet": {"num_heads": 5}}'
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _check(args: argparse.Namespace) -> None:
    if args.rounds < MIN_ROUNDS:
        raise InputError(f"--rounds {args.rounds}; at least {MIN_ROUNDS} are needed")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda, but PyTorch sees no GPU; use --device cpu")
    if args.out is not None:
        check_output(args.out)


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
    """Everything that is to be measured, by name, the reference network first."""
    names = list(dict.fromkeys([args.reference_network, *args.networks]))
    options = _options(args, names)
    builds = {name: registry_build(name, topology, options.get(name, {})) for name in names}
    for path in args.reference:
        if path.stem in builds:
            raise InputError(f"--reference {str(path)!r}: there is a {path.stem!r} already; rename the file")
        builds[path.stem] = file_build(path, topology)
    return builds


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    _check(args)
    topology = _topology(args)
    builds = _builds(args, topology)
    device = torch.device(args.device)
    on_cpu = device.type == "cpu"
    settings = {
        "topology": args.topology,
        "input_shape": list(topology.input_shape),
        "num_classes": topology.num_classes,
        "architecture": dict(topology.plan.arch_kwargs),
        "options": json.loads(args.options),
        "reference_network": args.reference_network,
        "rounds": args.rounds,
        "device": args.device,
        "precision": args.precision,
        "compile": args.compile,
        "threads": {"seconds": 1, "wall_seconds": wall_threads()} if on_cpu else None,
        "wall_rounds": WALL_ROUNDS if on_cpu else 0,
    }
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=args.rounds + 1 + (WALL_ROUNDS + 1 if on_cpu else 0))
        found = compare(
            builds,
            topology,
            args.rounds,
            device,
            args.precision,
            args.compile,
            args.seed,
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
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    try:
        result = _measure(args)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    result["provenance"] = {**provenance(args.seed), "command": command_line(_MODULE, argv)}
    if args.device == "cuda":
        result["provenance"]["hardware"]["measured_ceilings"] = cuda_ceilings()
    if args.out is not None:
        write_json(args.out, result)
    Console().print(table(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
