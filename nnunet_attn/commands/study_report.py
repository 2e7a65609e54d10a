"""`nnunet-attn study report`: collects and writes."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text


def add_parser(actions: Any, default_file: Path) -> None:
    """Add the action to those of `nnunet-attn study`."""
    report = actions.add_parser("report", help="one page on what is done so far, from files alone; trains nothing")
    report.add_argument(
        "file", nargs="?", type=Path, default=default_file, metavar="FILE", help=f"Default: {default_file}"
    )
    report.add_argument("-o", type=Path, metavar="DIR", help="the study's folder. Default: FILE's name with _results")
    report.add_argument("-np", type=int, default=2, metavar="N", help="processes that evaluate cases. Default: 2")
    report.add_argument(
        "--no-pictures",
        action="store_true",
        help="name cases and show no image of them, where these are not to be passed on",
    )
    report.set_defaults(run=_run)


def _run(a: argparse.Namespace) -> int:
    from nnunet_attn.errors import InputError
    from nnunet_attn.study.folder import REPORT, study_folder
    from nnunet_attn.study.model import read_study
    from nnunet_attn.study.report.collect import collect
    from nnunet_attn.study.report.write import check_output, write_report

    if a.np < 1:
        raise InputError(f"-np must be at least 1, got {a.np}")
    study = read_study(a.file)
    folder = study_folder(a.file, a.o)
    check_output(folder / REPORT)
    console = Console(highlight=False, soft_wrap=True)
    with console.status("reading results") as status:
        data = collect(
            study,
            a.file,
            folder,
            a.np,
            lambda label, done, total: status.update(f"evaluating {label}: {done} of {total}"),
        )
        if not data.runs:
            raise InputError("; ".join(data.problems) or f"{a.file}: no training of this study is known")
        status.update("drawing")
        files = write_report(data, folder / REPORT, not a.no_pictures)
    counts = Counter(each.state.kind for each in data.runs)
    console.print(Text(f"{len(data.runs)} trainings: {', '.join(f'{n} {kind}' for kind, n in counts.most_common())}"))
    for each in data.groups:
        if each.comparison is None:
            console.print(Text(f"{each.group.title}: not compared: {each.why_none}"))
    if serious := sum(each.is_serious for each in data.unfair):
        console.print(Text(f"{serious} of what makes a comparison unfair; see the report", style="yellow"))
    console.print(Text(f"report: {files[0]}"))
    return 0
