"""The command `nnunet-attn`: parses, calls, prints."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnunet_attn import __version__
from nnunet_attn.architectures.published_keys import SOURCES
from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0; 1 where `doctor` found a problem; 2 for wrong input or a failed stock command; 130 after Ctrl-C.
    """
    from nnunet_attn.stock import StockCommandError

    parsed = _parser().parse_args(arguments)
    try:
        return parsed.run(parsed)
    except (InputError, StockCommandError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(f"nnunet-attn: error: {error}"))
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet-attn", description="Published attention networks, trained by stock nnU-Net v2 commands."
    )
    parser.add_argument("--version", action="version", version=f"nnunet-attn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train and compare two networks on made data, in minutes, also on a CPU")
    demo.add_argument("--dim", type=int, choices=(2, 3), default=3, help="2D or 3D images. Default: 3")
    demo.add_argument("--keep", type=Path, metavar="DIR", help="keep everything in this folder (new or empty)")
    demo.add_argument("--epochs", type=int, help="epochs of each training. Default: enough to learn all organs")
    demo.add_argument("--its", type=int, help="iterations of an epoch. Default: enough to learn all organs")
    demo.set_defaults(run=_demo)

    listing = commands.add_parser("list", help="networks, their trainers, dimensions and sources")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=_list)

    doctor = commands.add_parser("doctor", help="check folders, versions, look-ups; exit code 1 with the remedy if not")
    doctor.add_argument("trainer", nargs="?", metavar="NAME", help="explain this trainer name instead")
    doctor.set_defaults(run=_doctor)

    trainers = commands.add_parser("trainers-dir", help="the folder that the variable nnUNet_extTrainer has to name")
    trainers.set_defaults(run=_trainers_dir)

    weights = commands.add_parser("import-weights", help="fit weights of another network into a trainer's network")
    weights.add_argument(
        "source",
        choices=("nnunet", *SOURCES),
        help="what wrote the file: nnU-Net v2, or a published code",
    )
    weights.add_argument("file", type=Path, metavar="FILE", help="the checkpoint")
    weights.add_argument("-d", required=True, metavar="ID", help="data set name or ID to train on")
    weights.add_argument("-c", required=True, metavar="CONFIGURATION", help="for example 3d_fullres")
    weights.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans. Default: nnUNetPlans")
    weights.add_argument("-tr", required=True, metavar="TRAINER", help="for example nnUNetTrainerGASA")
    weights.add_argument("-o", required=True, type=Path, metavar="OUT", help="file to write, for -pretrained_weights")
    weights.set_defaults(run=_import_weights)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    from nnunet_attn.demo import run_demo

    for flag, value in (("--epochs", arguments.epochs), ("--its", arguments.its)):
        if value is not None and value < 1:
            raise InputError(f"{flag} must be at least 1, got {value}")
    chosen = {"epochs": arguments.epochs, "iterations": arguments.its}
    given = {key: value for key, value in chosen.items() if value is not None}
    run_demo(dim=arguments.dim, keep=arguments.keep, console=Console(highlight=False), **given)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    if arguments.json:
        rows = [asdict(network) for network in NETWORKS]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    table = Table(show_lines=True)
    for heading in ("network", "trainers", "dimensions", "what it is", "source"):
        table.add_column(heading, no_wrap=heading in ("network", "trainers"), overflow="fold")
    for network in NETWORKS:
        dims = ", ".join(f"{d}D" for d in network.dims) + (", cascade" if network.cascade else "")
        table.add_row(network.name, "\n".join(network.trainers), dims, network.title, network.source)
    Console().print(table)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from nnunet_attn.doctor import examine, explain_trainer

    findings = [explain_trainer(arguments.trainer)] if arguments.trainer else examine()
    console = Console(highlight=False, soft_wrap=True)
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    for finding in findings:
        console.print(Text.assemble((f"{finding.state:8}", colours[finding.state]), f"{finding.what}: {finding.text}"))
        if finding.remedy:
            console.print(Text(f"{'':8}-> {finding.remedy}"))
    return int(any(finding.state == "problem" for finding in findings))


def _trainers_dir(_: argparse.Namespace) -> int:
    from nnunet_attn.paths import trainers_dir

    sys.stdout.write(f"{trainers_dir()}\n")
    return 0


def _import_weights(arguments: argparse.Namespace) -> int:
    from nnunet_attn.training.weights import SEGMENTATION_HEADS, import_weights

    a = arguments
    report = import_weights(a.source, a.file, a.d, a.c, a.p, a.tr, a.o)
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"kept: {len(report.kept)} tensors"))
    for title, keys in (
        ("resampled or taken over in part", report.resampled),
        ("freshly initialised", report.fresh),
        ("not used", report.unused),
    ):
        console.print(Text(f"{title}: {len(keys)}" + "".join(f"\n  {key}" for key in keys)))
    console.print(Text(f"nnU-Net itself initialises the output layers ({SEGMENTATION_HEADS}) anew."))
    console.print(Text(f"Train with: nnUNetv2_train {a.d} {a.c} 0 -p {a.p} -tr {a.tr} -pretrained_weights {a.o}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
