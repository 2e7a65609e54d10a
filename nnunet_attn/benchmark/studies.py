"""Keeps what a study found: `python -m nnunet_attn.benchmark.studies STUDY.yaml --out docs/results/studies-NAME.json`.

The study has to be run before, by `nnunet-attn study run`; nothing is trained here. All figures are those of its
report, which is written beside the JSON file without pictures of cases.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from nnunet_attn.benchmark.command import run
from nnunet_attn.benchmark.provenance import check_output
from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.results import json_ready

if TYPE_CHECKING:
    from nnunet_attn.study.report.model import GroupReport, MetricTable, ReportData

METRICS = ("dice", "nsd", "hd95_mm")
"""What is kept; the report's own files have the other metrics, classes and cases."""


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Collect a study's figures and write its page.

    Raises:
        InputError: If the file is no study, or nothing of it can be compared.
    """
    from nnunet_attn.study.folder import study_folder
    from nnunet_attn.study.model import read_study
    from nnunet_attn.study.report.collect import collect
    from nnunet_attn.study.report.page import page

    if args.out is not None:
        check_output(args.out)
    study = read_study(args.file)
    folder = study_folder(args.file, args.o)
    data = collect(study, args.file, folder, args.np)
    found = {**found_by(data), "note": args.note}
    if args.out is not None:
        html = args.out.with_suffix(".html")
        partial = html.with_name(f".{html.name}.{os.getpid()}.part")
        partial.write_text(page(data, folder, pictures=False), encoding="utf-8")
        os.replace(partial, html)
    return found


def found_by(data: "ReportData") -> dict[str, Any]:
    """Return what a study found, JSON-able.

    Raises:
        InputError: If nothing of it can be compared.
    """
    from nnunet_attn.study.report.words import is_finished, progress, question, setup

    compared = [report for report in data.groups if report.comparison is not None]
    if not compared:
        raise InputError(f"{data.study_file}: nothing can be compared yet; run it first: nnunet-attn study run")
    devices = sorted({each.device for each in data.trained_on if each.device})
    content = {
        "study": data.study.name,
        "device": "cuda" if any(device not in ("cpu", "mps") for device in devices) else ", ".join(devices) or "cpu",
        "devices": devices,
        "is_finished": is_finished(data),
        "progress": progress(data.runs),
        "question": question(data),
        "setup": setup(data),
        "seeds": list(data.study.seeds),
        "folds": list(data.study.folds),
        "budget": None if data.study.budget is None else data.study.budget.model_dump(),
        "groups": [_group(report) for report in compared],
        "costs": [asdict(each) for each in data.costs],
        "unfair": [asdict(each) for each in data.unfair],
    }
    return json_ready(content)


def _group(report: "GroupReport") -> dict[str, Any]:
    from nnunet_attn.study.report.words import verdict

    comparison = report.comparison
    assert comparison is not None
    metrics = [metric for metric in METRICS if metric in comparison.metrics]
    return {
        "title": report.group.title,
        "reference": comparison.reference,
        "paired_over": comparison.paired_over,
        "pairs": len(comparison.keys),
        "confidence": comparison.confidence,
        "left_out": list(report.left_out),
        "verdict": [sentence for _, sentence in verdict(report, metrics[0])] if metrics else [],
        "metrics": {metric: _rows(table) for metric in metrics if (table := report.table(metric)) is not None},
    }


def _rows(table: "MetricTable") -> list[dict[str, Any]]:
    rows = []
    for row in table.rows:
        own: dict[str, Any] = {"row": row.row, "mean": row.result.table_mean, "case_sd": row.result.sd}
        own |= {"mean_rank": row.result.mean_rank, "seed_means": list(row.result.seed_means)}
        if row.difference is not None:
            paired = row.difference.paired
            own |= {key: getattr(paired, key) for key in ("mean_difference", "ci_low", "ci_high", "wins", "losses")}
            own["wilcoxon_p_holm"] = row.difference.wilcoxon_p_holm
        rows.append(own)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nnunet_attn.benchmark.studies", description=__doc__)
    parser.add_argument("file", type=Path, metavar="STUDY.yaml")
    parser.add_argument("-o", type=Path, metavar="DIR", help="the study's folder, by default beside its file")
    parser.add_argument("-np", type=int, default=2, metavar="N", help="processes that evaluate. Default: 2")
    parser.add_argument("--note", default="", metavar="TEXT", help="what a reader has to know of how it was run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write; the page gets its name")
    # the frame of all measurements asks for them; trainings have the study's own
    parser.set_defaults(seed=None, device="cpu")
    return parser


def _table(result: Mapping[str, Any]) -> Table:
    table = Table("method", *(f"{metric}, mean" for metric in METRICS), title=result["study"])
    for group in result["groups"]:
        for index, row in enumerate(next(iter(group["metrics"].values()))):
            means = [group["metrics"].get(metric, ()) for metric in METRICS]
            table.add_row(row["row"], *(f"{own[index]['mean']:.4f}" if own else "" for own in means))
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run("nnunet_attn.benchmark.studies", _parser(), measure, _table, argv)


if __name__ == "__main__":
    sys.exit(main())
