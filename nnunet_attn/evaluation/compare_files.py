"""The folder of a comparison: tables, single values, pictures; complete or not there at all."""

import csv
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare_plots import draw_plots
from nnunet_attn.evaluation.compare_results import Comparison, MetricResult
from nnunet_attn.evaluation.compare_tables import DECIMALS, latex, markdown
from nnunet_attn.evaluation.results import json_ready
from nnunet_attn.paths import make_folder

MEAN_OVER_CLASSES = "(mean over classes)"
"""In the column `class`, for what belongs to no single class."""

SUMMARY_FILE = "comparison.json"
"""Names all files of its comparison: a folder that holds others is not ours to replace."""


def check_output(folder: Path) -> None:
    """Check, before anything is computed, that a comparison can be written to a folder.

    Raises:
        InputError: If it is a file, cannot be read, or holds anything but one comparison.
    """
    try:
        target = folder.resolve()
        if target.exists() and not target.is_dir():
            raise InputError(f"-o {folder} is a file; name a folder")
        if target == Path.cwd():
            raise InputError(f"-o {folder} is the current folder, which cannot be replaced as a whole; name one in it")
        ours = _files_of_comparison(target)
        held = {path.relative_to(target).as_posix(): path for path in sorted(target.rglob("*"))}
        foreign = [name for name, path in held.items() if name not in ours and not (path.is_dir() and name == "plots")]
    except (OSError, RuntimeError) as error:  # in Python 3.12 and before, a loop of links is the latter
        raise InputError(f"-o {folder} cannot be read ({error}); allow it, or name another folder") from error
    if foreign:
        raise InputError(f"-o {folder} holds {foreign[0]}, which is no comparison's; name a new folder")
    make_folder(target.parent)


def _files_of_comparison(folder: Path) -> frozenset[str]:
    """Return the names of the files that an earlier comparison wrote to a folder; none if there is none."""
    try:
        content = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        is_ours = content["reference"] in [method["name"] for method in content["methods"]]
        return frozenset(map(str, content["files"])) if is_ours else frozenset()
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def write_comparison(comparison: Comparison, folder: Path, decimals: int = DECIMALS) -> list[Path]:
    """Write a comparison; an earlier one in the same folder is replaced as a whole.

    Args:
        comparison: What to write.
        folder: New, empty, or with nothing but an earlier comparison in it.
        decimals: Of the Markdown and LaTeX tables; the other files have all digits.
    Returns:
        The files.
    Raises:
        InputError: If the folder holds anything else, or cannot be written.
    """
    check_output(folder)
    shown, folder = folder, folder.resolve()  # the folder that a link leads to, not the link
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            partial = Path(temporary) / "new"
            (partial / "plots").mkdir(parents=True)
            (partial / "comparison.md").write_text(markdown(comparison, decimals), encoding="utf-8")
            (partial / "comparison.tex").write_text(latex(comparison, decimals), encoding="utf-8")
            write_csv(partial / "comparison.csv", comparison_rows(comparison))
            write_csv(partial / "cases.csv", value_rows(comparison))
            if comparison.splits:
                write_csv(partial / "splits.csv", _split_rows(comparison))
            draw_plots(comparison, partial / "plots")
            files = [path.relative_to(partial).as_posix() for path in sorted(partial.rglob("*")) if path.is_file()]
            content = {"files": sorted([*files, SUMMARY_FILE]), **_without_values(comparison)}
            text = json.dumps(json_ready(content), indent=2, allow_nan=False)
            (partial / SUMMARY_FILE).write_text(text + "\n", encoding="utf-8")
            _replace(folder, partial, Path(temporary) / "old")
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror}): free or allow it, or choose another -o") from error
    return sorted(shown / path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _replace(folder: Path, partial: Path, old: Path) -> None:
    """Put a new folder in the place of one that may be there; that one is back if it fails."""
    if folder.exists():
        folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one row for each metric, class and compared pair, and one for the reference, which has no differences."""
    rows = []
    for result in comparison.results:
        own = {each.method: each for each in result.methods}
        compared = [(each.method, each) for each in result.differences]
        for name, difference in [(comparison.reference, None), *compared]:
            method = own[name]
            row: dict[str, Any] = {
                "metric": result.metric,
                "class": result.class_name or MEAN_OVER_CLASSES,
                "method": name,
                "against": difference.against if difference else "",
                "paired_over": comparison.paired_over,
                "table_mean": method.table_mean,
                "table_infinite": method.table_infinite,
                "seeds": len(method.seed_means),
                "seeds_sd": method.seeds_sd,
                "tested_mean": method.mean,
                "tested_sd": method.sd,
                "tested_median": method.median,
                **{key: getattr(method, key) for key in ("n_finite", "n_infinite", "n_not_counted", "mean_rank")},
                "friedman_p": result.friedman_p,
            }
            if difference:
                paired = asdict(difference.paired)
                # the same words as the method's own counts: these are of pairs
                paired["n_finite_pairs"] = paired.pop("n_finite")
                row |= paired
                row |= {"t_p_holm": difference.t_p_holm, "wilcoxon_p_holm": difference.wilcoxon_p_holm}
            rows.append(row)
    return rows


def value_rows(comparison: Comparison) -> Iterable[dict[str, Any]]:
    """Return one row for each metric, class and case, with the value of each method."""
    for result in comparison.results:
        for index, (fold, case) in enumerate(comparison.keys):
            values = {name: own[index] for name, own in result.values.items()}
            yield {**_what(result), "fold": "" if fold is None else fold, "case": case, **values}


def _split_rows(comparison: Comparison) -> Iterable[dict[str, Any]]:
    for result in comparison.results:
        for index, fold in enumerate(comparison.splits):
            yield {**_what(result), "fold": fold, **{name: own[index] for name, own in result.tested.items()}}


def _what(result: MetricResult) -> dict[str, Any]:
    return {"metric": result.metric, "class": result.class_name or MEAN_OVER_CLASSES}


def write_csv(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows; columns are those of the longest row, a missing number is empty, an infinite one `inf`."""
    listed: Sequence[Mapping[str, Any]] = list(rows)
    columns = list(max(listed, key=len))
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in listed:
            writer.writerow({key: "" if _is_missing(value) else value for key, value in row.items()})


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _without_values(comparison: Comparison) -> dict[str, Any]:
    """The single values are in cases.csv and splits.csv."""
    content = asdict(comparison)
    for result in content["results"]:
        del result["values"], result["tested"]
    return content
