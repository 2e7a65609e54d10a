"""What the measuring commands share: common options, their checks, and the frame from arguments to JSON and table."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from nnunet_attn.benchmark.provenance import check_output, command_line, cuda_ceilings, provenance, write_json
from nnunet_attn.benchmark.variants import PRECISIONS
from nnunet_attn.errors import InputError
from nnunet_attn.paths import make_folder
from nnunet_attn.stock import StockCommandError


def add_common(parser: argparse.ArgumentParser, rounds: int, least: int) -> None:
    """Add the options that every measurement has.

    Args:
        parser: Gets them.
        rounds: Default of `--rounds`.
        least: What `--rounds` has to be at least.
    """
    parser.add_argument(
        "--rounds", type=int, default=rounds, metavar="N", help=f"{rounds} by default, at least {least}"
    )
    parser.add_argument("-device", "--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile of everything")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0)


def check_common(args: argparse.Namespace, least: int) -> None:
    """Refuse, before anything is measured, what would fail later.

    Raises:
        InputError: If there are too few rounds, there is no GPU, or the result cannot be written.
    """
    if args.rounds < least:
        raise InputError(f"--rounds {args.rounds}; at least {least} are needed")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda, but PyTorch sees no GPU; use --device cpu")
    if args.out is not None:
        check_output(args.out)


def note(text: str) -> None:
    """Tell something on stderr that is no error."""
    sys.stderr.write(f"note: {text}\n")


def run(
    module: str,
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    table: Callable[[dict[str, Any]], Table],
    argv: Sequence[str] | None,
) -> int:
    """Run a measuring command; return its exit code: 0, or 2 for wrong input.

    Args:
        module: Its dotted path.
        parser: Of its arguments.
        measure: Makes the result, JSON-able.
        table: Makes of the result what is printed.
        argv: Arguments; None for those of the process.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(argv)
    try:
        result = measure(args)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    result["provenance"] = {**provenance(args.seed), "command": command_line(module, argv)}
    if args.device == "cuda":
        result["provenance"]["hardware"]["measured_ceilings"] = cuda_ceilings()
    if args.out is not None:
        write_json(args.out, result)
    Console().print(table(result))
    return 0


def run_study(
    module: str,
    parser: argparse.ArgumentParser,
    check: Callable[[argparse.Namespace], None],
    study: Callable[[argparse.Namespace, Path, Console], dict[str, Any]],
    table: Callable[[dict[str, Any]], Table],
    argv: Sequence[str] | None,
) -> int:
    """Run a command that trains; return its exit code: 0, or 2 for wrong input or a failed command.

    Args:
        module: Its dotted path.
        parser: Of its arguments, with `--work`, `--out` and `--seeds`.
        check: Refuses wrong arguments, before anything is written.
        study: Makes the result, JSON-able, in a folder: `--work`, or a temporary one.
        table: Makes of the result what is printed.
        argv: Arguments; None for those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(words)
    console = Console(highlight=False, soft_wrap=True)
    try:
        check(args)
        with tempfile.TemporaryDirectory(prefix=f"nnunet-attn-{module.rpartition('.')[2]}-") as temporary:
            root = Path(temporary) if args.work is None else args.work
            make_folder(root)
            result = study(args, root, console)
    except (InputError, StockCommandError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        return 2
    command = command_line(module, words)
    write_json(args.out, {**result, "provenance": {**provenance(args.seeds[0]), "command": command}})
    console.print(table(result))
    return 0
