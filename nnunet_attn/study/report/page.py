"""The report as one HTML file: nothing is loaded from elsewhere, and it can be read without JavaScript."""

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare_tables import TITLES, p_value, what_is_compared
from nnunet_attn.study.matrix import nnunet_folder
from nnunet_attn.study.report import fact_tables, tables, words
from nnunet_attn.study.report.model import CasePick, GroupReport, LabelCurve, ReportData
from nnunet_attn.study.report.pictures import case_svg, pick_text, pick_title
from nnunet_attn.study.report.plots import Look, curves_svg, differences_svg, labels_svg
from nnunet_attn.study.report.setup import DatasetInfo
from nnunet_attn.study.report.trouble import Trouble, troubles

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
except ModuleNotFoundError as error:
    raise InputError('reports need Jinja2: pip install "nnunet-attn[benchmark]"') from error

MOST_PICTURE_BYTES = 6_000_000
"""Of all pictures of cases together; a page should open on any machine."""


@dataclass(frozen=True)
class Section:
    """A group as the template shows it: texts, tables and plots."""

    title: str
    anchor: str
    comparison: Any
    why_none: str
    what: str
    missing: Sequence[str]
    level: str
    serious: str
    verdict: Sequence[tuple[str, str]]
    overview: tables.Table | None
    verdicts: Sequence[tuple[str, str, tables.Table]]
    classes: Sequence[tuple[str, str, tables.Table]]
    cases: Sequence[tuple[str, str, tables.Table]]
    differences: Sequence[tuple[str, str, Markup]]


@dataclass(frozen=True)
class Shown:
    """A case as the template shows it."""

    title: str
    text: str
    svg: Markup | None


def page(data: ReportData, logs: Path | None = None, pictures: bool = True) -> str:
    """Return the whole page.

    Args:
        data: What to show.
        logs: The study's folder, whose logs tell why a job failed; None: nnU-Net's own logs alone.
        pictures: Whether cases are shown, or named alone: images may not be everybody's to pass on.
    """
    environment = Environment(
        loader=PackageLoader("nnunet_attn.study.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["cell_attributes"] = _cell_attributes
    environment.filters["breakable"] = _breakable
    return environment.get_template("report.html.j2").render(_context(data, troubles(data, logs), pictures))


def _context(data: ReportData, troubled: Sequence[Trouble], pictures: bool) -> dict[str, Any]:
    looks = {row.title: Look(at) for at, row in enumerate(data.rows)}
    groups = [_section(data, each, looks) for each in data.groups]
    here = Path(__file__).parent
    context: dict[str, Any] = {
        "data": data,
        "date": data.date_utc.replace("T", " ").replace("+00:00", "").removesuffix("Z") + " UTC",
        "css": _raw(here / "report.css"),
        "javascript": _raw(here / "sort.js"),
        "is_finished": words.is_finished(data),
        "progress": words.progress(data.runs),
        "question": words.question(data),
        "setup": words.setup(data),
        "methods": fact_tables.methods_table(data),
        "looks": looks,
        "groups": groups,
        "compared": [each for each in groups if each.comparison is not None],
        "unfair": data.unfair,
        "serious": [each for each in data.unfair if each.is_serious],
        "minor": [each for each in data.unfair if not each.is_serious],
        "problems": data.problems,
        "curves": list(_curves(data, looks)),
        "labels": list(_labels(data, looks)),
        "costs": [(title, fact_tables.costs_table(own)) for title, own in costs_by_dataset(data)],
        "pictures": list(_pictures(data, pictures)),
        "troubled": troubled,
        "runs": fact_tables.runs_table(data.runs),
        "datasets": [(each, dataset_facts(each), fact_tables.splits_table(each)) for each in data.datasets],
        "trained_on": fact_tables.trained_on_table(data),
        "machine": fact_tables.machine_text(data),
        "versions": fact_tables.versions_table(data),
        "commands": commands(data),
        "footer": "The same figures are in report.md, tables.tex and the CSV files beside this page.",
    }
    context["sections"] = list(_sections(context))
    return context


def _sections(context: dict[str, Any]) -> Iterable[tuple[str, str]]:
    compared = bool(context["compared"])
    wanted = [
        ("question", "Question", True),
        ("verdict", "Result", True),
        ("unfair", "Unfair?", True),
        ("classes", "Classes", compared),
        ("cases", "Cases", compared),
        ("differences", "Differences", compared),
        ("curves", "Training curves", context["curves"]),
        ("labels", "Labels", context["labels"]),
        ("cost", "Cost", context["costs"]),
        ("pictures", "Pictures", context["pictures"]),
        ("trainings", "Trainings", True),
        ("data", "Data", True),
        ("versions", "Versions", True),
        ("reproduce", "Reproduce", True),
    ]
    return ((name, title) for name, title, is_there in wanted if is_there)


def _section(data: ReportData, report: GroupReport, looks: dict[str, Look]) -> Section:
    group, comparison = report.group, report.comparison
    anchor = re.sub(r"[^A-Za-z0-9]+", "-", group.name)
    why = " ".join(part for part in (report.why_none or "", *report.missing) if part)
    if comparison is None:
        return Section(group.title, anchor, None, why, "", (), "", "", (), None, (), (), (), ())
    metrics = comparison.metrics
    own = [each for each in data.unfair if each.is_serious and each.where in ("", group.title, group.dataset)]
    serious = f"{len(own)} thing{'s' if len(own) > 1 else ''}" if own else ""
    return Section(
        title=group.title,
        anchor=anchor,
        comparison=comparison,
        why_none="",
        what=what_is_compared(comparison),
        missing=report.missing,
        level=p_value(1 - comparison.confidence),
        serious=serious,
        verdict=words.verdict(report, metrics[0]),
        overview=tables.overview_table(comparison),
        verdicts=[(each, TITLES[each], tables.verdict_table(comparison, each)) for each in metrics],
        classes=[(each, TITLES[each], tables.classes_table(comparison, each)) for each in metrics],
        cases=[(each, TITLES[each], tables.cases_table(comparison, each)) for each in tables.case_metrics(comparison)],
        differences=[
            (each, TITLES[each], differences_svg(comparison, each, looks, f"difference-{anchor}-{each}"))
            for each in metrics
        ],
    )


def _curves(data: ReportData, looks: dict[str, Look]) -> Iterable[tuple[str, Markup]]:
    several = dict.fromkeys((each.run.dataset, each.run.configuration) for each in data.runs)
    for at, (dataset, configuration) in enumerate(several):
        own = [each for each in data.runs if (each.run.dataset, each.run.configuration) == (dataset, configuration)]
        plot = curves_svg(own, looks, f"curves-{at}")
        if plot is not None:
            yield f"{dataset}, {configuration}", plot


def _labels(data: ReportData, looks: dict[str, Look]) -> Iterable[tuple[str, Markup, tables.Table]]:
    for at, (title, own) in enumerate(labels_by_dataset(data)):
        plot = labels_svg(own, looks, f"labels-{at}")
        if plot is not None:
            yield title, plot, fact_tables.labels_table(own)


def labels_by_dataset(data: ReportData) -> list[tuple[str, list[LabelCurve]]]:
    """Return the curves that stand in one plot, with its title."""
    found: dict[str, list[LabelCurve]] = {}
    for each in data.label_curves:
        found.setdefault(f"{each.dataset}, {each.configuration}", []).append(each)
    return list(found.items())


def costs_by_dataset(data: ReportData) -> list[tuple[str, list[Any]]]:
    """Return what stands in one table of costs, with its data set."""
    found: dict[str, list[Any]] = {}
    for each in data.costs:
        found.setdefault(each.dataset, []).append(each)
    return list(found.items())


def _pictures(data: ReportData, wanted: bool) -> Iterable[tuple[str, list[Shown]]]:
    left = MOST_PICTURE_BYTES
    for at, report in enumerate(data.groups):
        shown = []
        for number, pick in enumerate(report.picks):
            svg, why = (None, "Not shown, to keep this page small." if wanted else "Pictures were left out.")
            if wanted and left > 0:
                svg, why = case_svg(pick, f"case-{at}-{number}", _dataset_json(report.group.dataset, pick))
                left -= len(svg or "")
            text = " ".join(part for part in (pick_text(pick), why) if part)
            shown.append(Shown(pick_title(pick), text, svg))
        if shown:
            yield report.group.title, shown


def _dataset_json(dataset: str, pick: CasePick) -> Path | None:
    """The names of the classes; without the file the values stand in their place."""
    for variable in ("nnUNet_preprocessed", "nnUNet_raw"):
        try:
            file = nnunet_folder(variable) / dataset / "dataset.json"
        except InputError:
            continue
        if file.is_file():
            return file
    return None


def dataset_facts(dataset: DatasetInfo) -> list[str]:
    """Return what is known of a data set, a sentence each."""
    facts = []
    if dataset.training_cases is not None:
        facts.append(f"{dataset.training_cases} labelled cases" + _of_patients(dataset.patients))
    if dataset.test_cases:
        facts.append(f"{dataset.test_cases} test cases, {'with' if dataset.test_labels else 'without'} labels")
    if dataset.channels:
        facts.append(f"channels: {', '.join(dataset.channels)}")
    if dataset.classes:
        facts.append(f"classes: {', '.join(f'{name} ({_numbers(own)})' for name, own in dataset.classes.items())}")
    if dataset.ignore is not None:
        facts.append(f"ignored label: {dataset.ignore}")
    shape, spacing = dataset.median_shape, dataset.median_spacing_mm
    if shape is not None and spacing is not None:
        first = 1 if len(shape) == 3 and shape[0] == 1 else 0  # nnU-Net gives an image of two axes a third
        unit = "pixels" if first else "voxels"
        facts.append(f"median size {_by(shape[first:])} {unit}, spacing {_by(spacing[first:])} mm")
    return facts


def commands(data: ReportData) -> str:
    """Return what to type to do it again."""
    version, file = data.versions.get("nnunet_attn"), data.study_file
    package = f"nnunet-attn[benchmark]=={version}" if version else "nnunet-attn[benchmark]"
    lines = [
        ["pip", "install", package],
        *(["nnunet-attn", "study", what, file] for what in ("check", "run", "report")),
    ]
    return "\n".join(map(shlex.join, lines))


def _of_patients(patients: int | None) -> str:
    return "" if patients is None else f" of {patients} patients"


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values)


def _raw(file: Path) -> Markup:
    return Markup(file.read_text(encoding="utf-8"))


def _breakable(text: str) -> Markup:
    """Let long names break behind their parts, and keep a slash with what is before it."""
    kept = re.sub(r"(?<=\w) /(?= )", "\N{NO-BREAK SPACE}/", text)
    return Markup("_<wbr>").join(escape(part) for part in kept.split("_"))


def _cell_attributes(cell: tables.Cell, column: tables.Column, is_sortable: bool) -> Markup:
    names = ["text"] * column.is_text + ["wide"] * column.is_wide + ["best"] * cell.is_best
    told = f' class="{" ".join(names)}"' if names else ""
    if is_sortable and not column.is_text:
        told += f' data-value="{"" if math.isnan(cell.value) else escape(repr(float(cell.value)))}"'
    return Markup(told)
