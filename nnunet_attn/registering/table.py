"""Cases from a CSV: a row a case."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.registering.folders import series_folder
from nnunet_attn.registering.model import SourceCase
from nnunet_attn.registering.naming import Found, LeftOut, counted, finished, held_out, ordered_channels, refuse, stem

IMAGE = "image"
OTHERS = ("label", "case", "patient", "site", "split")
"""Columns beside those of the images, `image` or `image_0000`, `image_0001` or `image_NAME`."""


def from_csv(
    file: Path, channels: Sequence[str] | None = None, labels_needed: bool = True, leave_out: Sequence[str] = ()
) -> Found:
    """Read the cases of a table with a line of column names.

    Columns: `image`, or one for each channel, `image_0000`, `image_0001`, ... or `image_<name of the channel>`; and
    where they are known `label`, `case`, `patient`, `site`, `split` (train or test). Without `case` a case is called as
    its first image. Relative paths start at the folder of the table. The label of a test case may be empty, no other
    cell.

    Args:
        file: Table in UTF-8, with commas, semicolons or tabs between its columns.
        channels: Names of the channels in their order, or `VALUE=NAME` for each column `image_VALUE`.
        labels_needed: Whether a label may be empty only where the column split says test.
        leave_out: Cases that are not wanted; their lines may have empty cells and name files that are not there.
    Raises:
        InputError: If the table cannot be read, or lines of it are wrong; it names them by number.
    """
    columns, rows = _rows(file)
    values = [column.removeprefix(IMAGE).removeprefix("_") for column in columns if _is_image(column)]
    if not values:
        raise InputError(
            f"{file}: it has no column image; columns are {', '.join(columns)}: name the one of the images"
        )
    if "" in values and len(values) > 1:
        raise InputError(f"{file}: it has the column image and {_column(values[-1])}: one of the two says enough")
    order, names = ordered_channels(values, channels, f"the columns image_... of {file}")
    problems: list[str] = []
    cases: list[SourceCase] = []
    seen: dict[object, int] = {}
    left_out = LeftOut(leave_out)
    image_columns = [_column(value) for value in order]
    for line, cells in rows:
        wrong: list[str] = []
        row = dict(zip(columns, cells, strict=True))
        if left_out.drops(_name(row, image_columns)):
            continue
        try:
            case = _case(file.parent, row, image_columns)
            if "label" in columns and case.label is None and labels_needed and not case.test:
                raise ValueError("the column label is empty; fill it in, or take the line out")
        except ValueError as error:
            wrong.append(str(error))
        else:
            for key, what in [(case.case, f"the case {case.case!r}")] + [(image, f"{image}") for image in case.images]:
                if seen.setdefault(key, line) != line:
                    wrong.append(f"{what} is in line {seen[key]} too; keep one of them")
                    break
            cases.append(case)
        problems += [f"{file}, line {line}: {text}" for text in wrong]
    refuse("lines", problems)
    return finished(cases, names, splits="split" in columns, left_out=left_out)


def _case(folder: Path, row: dict[str, str], image_columns: Sequence[str]) -> SourceCase:
    """Return the case of a row.

    Raises:
        ValueError: If a cell is empty or wrong, or a file is missing; without the line's number.
    """
    empty = [column for column, cell in row.items() if not cell and column != "label"]
    if empty:
        raise ValueError(f"the column {empty[0]} is empty; fill it in, or take the line out")
    images = tuple(_path(folder, row[column], column) for column in image_columns)
    label = _path(folder, row["label"], "label") if row.get("label") else None
    name = _name(row, image_columns)
    test = "split" in row and held_out(row["split"], "column split")
    return SourceCase(name, images, label, row.get("patient"), row.get("site"), test)


def _name(row: dict[str, str], image_columns: Sequence[str]) -> str:
    return row["case"] if "case" in row else stem(Path(row[image_columns[0]]).name).removesuffix("_0000")


def _path(folder: Path, cell: str, column: str) -> Path:
    path = folder / Path(cell).expanduser()
    if not os.path.exists(path):
        raise ValueError(f"{column} {path} does not exist; relative paths start at the folder of the table")
    return series_folder(path) if path.is_dir() else path


def _is_image(column: str) -> bool:
    return column == IMAGE or column.startswith(f"{IMAGE}_")


def _column(value: str) -> str:
    return f"{IMAGE}_{value}" if value else IMAGE


def _rows(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and each line's number and cells."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): name a CSV file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 ({error.reason}): save it as CSV in UTF-8") from error
    lines = text.splitlines(keepends=True)
    first = next((line for line in lines if line.strip()), "")
    reader = csv.reader(lines, delimiter=max(",;\t", key=first.count), strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}; look at its quotation marks") from error
    if len(rows) < 2:
        raise InputError(f"{file} has no cases: it needs a line of column names, then a line for each case")
    columns = _columns(file, rows.pop(0)[1])
    refuse(
        "lines",
        [
            f"{file}, line {line}: it has {counted(len(cells), 'cell')}, the line of column names {len(columns)}; look "
            "for separators in names, which need quotation marks"
            for line, cells in rows
            if len(cells) != len(columns)
        ],
    )
    return columns, rows


def _columns(file: Path, given: Sequence[str]) -> list[str]:
    columns: list[str] = []
    for column in given:
        folded = column.casefold()
        # the part behind image_ may be the name of a channel, with capital letters
        name = IMAGE + column[len(IMAGE) :] if _is_image(folded) else folded
        if not (_is_image(name) or name in OTHERS) or name == f"{IMAGE}_":
            known = ", ".join((IMAGE, "image_0000", "image_NAME", *OTHERS))
            raise InputError(f"{file}, line 1: the column {column!r} is not known; columns are {known}")
        if name in columns:
            raise InputError(f"{file}, line 1: the column {column!r} is there twice; keep one of them")
        columns.append(name)
    return columns
