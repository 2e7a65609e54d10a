"""`nnunet-attn study`: describe a study, check it, watch it."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from nnunet_attn.commands import study_report, study_run
from nnunet_attn.errors import InputError

DEFAULT_FILE = Path("study.yaml")


def add_parser(commands: Any) -> None:
    """Add the command to those of `nnunet-attn`."""
    parser = commands.add_parser("study", help="trainers compared on data sets: describe, check, watch")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    init = actions.add_parser("init", help="write a commented study.yaml, never over another file")
    init.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, metavar="FILE", help="Default: study.yaml")
    init.add_argument("-d", nargs="+", metavar="ID", help="data set names or IDs. Default: those that are planned")
    init.add_argument("-tr", nargs="+", metavar="TRAINER", help="Default: nnUNetTrainerPlain nnUNetTrainerGASA")
    init.add_argument(
        "--like", metavar="NAME", help="copy a study that comes with this package; a wrong NAME lists them"
    )
    init.set_defaults(run=_init)

    check = actions.add_parser("check", help="data, trainers, jobs, hours, disk and memory, before anything starts")
    check.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, metavar="FILE", help="Default: study.yaml")
    check.set_defaults(run=_check)

    study_run.add_parser(actions, DEFAULT_FILE)

    status = actions.add_parser("status", help="what is waiting, training, done or failed, from nnU-Net's files alone")
    status.add_argument("file", nargs="?", type=Path, metavar="FILE", help="Default: study.yaml")
    status.add_argument("-d", metavar="ID", help="in place of FILE: all results folders of this data set")
    status.add_argument(
        "--watch", type=float, metavar="SECONDS", help="look again and again, until all is done or Ctrl-C"
    )
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(run=_status)

    study_report.add_parser(actions, DEFAULT_FILE)


def _init(a: argparse.Namespace) -> int:
    from nnunet_attn.study.init import copy_shipped_study, write_study

    if a.like is not None and (a.d or a.tr):
        raise InputError("--like copies a study as it is: leave out -d and -tr, and change the copy")
    study = copy_shipped_study(a.file, a.like) if a.like is not None else write_study(a.file, a.d, a.tr)
    console = Console(highlight=False, soft_wrap=True)
    rows = ", ".join(row.title for row in study.rows)
    console.print(Text(f"written: {a.file}: {rows}; data set {', '.join(study.datasets)}"))
    console.print(Text(f"reference: {study.reference}"))
    console.print(Text(f"Change it as you like, then: {shlex.join(['nnunet-attn', 'study', 'check', str(a.file)])}"))
    return 0


def _check(a: argparse.Namespace) -> int:
    from nnunet_attn.commands.study_check import run

    return run(a)


def _status(a: argparse.Namespace) -> int:
    if a.d is not None and a.file is not None:
        raise InputError(f"{a.file} and -d {a.d}: look at a study or at a data set, not at both")
    from nnunet_attn.commands.study_status import run

    return run(a)
