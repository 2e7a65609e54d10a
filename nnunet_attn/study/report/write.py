"""The folder of a report: HTML, Markdown, LaTeX, CSV; complete or not there at all."""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare_files import comparison_rows, value_rows, write_csv
from nnunet_attn.paths import make_folder
from nnunet_attn.study.report.model import ReportData
from nnunet_attn.study.report.page import page
from nnunet_attn.study.report.text import latex_text, markdown_text
from nnunet_attn.study.report.trouble import troubles

PAGE = "report.html"
FILES = (PAGE, "report.md", "tables.tex", "results.csv", "cases.csv", "costs.csv", "curves.csv", "trainings.csv")


def write_report(data: ReportData, folder: Path, pictures: bool = True) -> list[Path]:
    """Write a report; files of an earlier one in the same folder are replaced.

    Args:
        data: What to show.
        folder: The folder `report` of a study's; logs of jobs are looked for beside it.
        pictures: Whether the page shows cases, or names them alone.
    Returns:
        The files, `report.html` first. A CSV file of which there is nothing is left out.
    Raises:
        InputError: If it cannot be written.
    """
    check_output(folder)
    study_folder = folder.resolve().parent
    texts = {
        PAGE: page(data, study_folder, pictures),
        "report.md": markdown_text(data, troubles(data, study_folder)),
        "tables.tex": latex_text(data),
    }
    rows = {
        "results.csv": _with_groups(data, comparison_rows),
        "cases.csv": _with_groups(data, value_rows),
        "costs.csv": [_flat(asdict(each)) for each in data.costs],
        "curves.csv": list(_curve_rows(data)),
        "trainings.csv": list(_training_rows(data)),
    }
    make_folder(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".report.") as temporary:
            partial = Path(temporary)
            for name, text in texts.items():
                (partial / name).write_text(text, encoding="utf-8")
            for name, listed in rows.items():
                if listed:
                    write_csv(partial / name, listed)
            # the page last: where it is new, all else is
            for name in reversed(FILES):
                if (partial / name).exists():
                    os.replace(partial / name, folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror}): free or allow it, or choose another -o") from error
    return [folder / name for name in FILES if (folder / name).exists()]


def check_output(folder: Path) -> None:
    """Check, before anything is collected, that a report can be written to a folder.

    Raises:
        InputError: If it, or what is to hold it, is a file.
    """
    for each in (folder, folder.parent):
        if each.exists() and not each.is_dir():
            raise InputError(f"{each} is a file; name a folder: -o")


def _with_groups(data: ReportData, rows_of: Any) -> list[dict[str, Any]]:
    """The rows of all comparisons; columns are those of all, as methods may differ."""
    found = [
        {"group": each.group.name, **row}
        for each in data.groups
        if each.comparison is not None
        for row in rows_of(each.comparison)
    ]
    columns = dict.fromkeys(key for row in found for key in row)
    return [{key: row.get(key, "") for key in columns} for row in found]


def _curve_rows(data: ReportData) -> Iterable[dict[str, Any]]:
    for each in data.runs:
        for epoch in each.epochs:
            yield {
                **_what(asdict(each.run)),
                "epoch": epoch.number,
                "train_loss": _known(epoch.train_loss),
                "val_loss": _known(epoch.val_loss),
                "pseudo_dice": epoch.dice,
                "seconds": _known(epoch.seconds),
            }


def _training_rows(data: ReportData) -> Iterable[dict[str, Any]]:
    for each in data.runs:
        state = asdict(each.state)
        del state["log"]
        yield {
            **_what(asdict(each.run)),
            **_flat(state),
            **_flat({f"used_{k}": v for k, v in asdict(each.facts).items()}),
        }


def _what(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: "" if value is None else value for key, value in run.items()}


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a table holds: no number is empty, several are joined."""
    flat = {}
    for key, value in row.items():
        if isinstance(value, tuple):
            flat[key] = " ".join(map(str, value))
        elif isinstance(value, Mapping):
            flat[key] = json.dumps(value)
        else:
            flat[key] = "" if value is None else value
    return flat
