"""The report as Markdown, and its tables as LaTeX."""

import re

from nnunet_attn.evaluation.compare_tables import escaped, latex, markdown
from nnunet_attn.study.report import fact_tables, tables, words
from nnunet_attn.study.report.model import GroupReport, ReportData
from nnunet_attn.study.report.page import commands, costs_by_dataset, dataset_facts, labels_by_dataset
from nnunet_attn.study.report.trouble import Trouble


def markdown_text(data: ReportData, troubled: list[Trouble]) -> str:
    """Return everything but pictures, plots and single cases."""
    parts = [f"# {data.study.name}", f"Report of a cross-validation study, made {data.date_utc}."]
    if not words.is_finished(data):
        parts.append(f"> **Not finished.** {words.progress(data.runs)}")
    parts += ["## Question and setup", f"**{words.question(data)}**", *words.setup(data)]
    parts += [fact_tables.methods_table(data).markdown(), "## Result"]
    for report in data.groups:
        parts += [f"### {report.group.title}", *_result(report)]
    parts += ["## What makes the comparison unfair", _unfair(data)]
    labels = labels_by_dataset(data)
    parts += ["## Dice against labelled cases"] if labels else []
    for title, own in labels:
        parts += [f"### {title}", fact_tables.labels_table(own).markdown()]
    parts += ["## Cost"] if data.costs else []
    for title, costs in costs_by_dataset(data):
        parts += [f"### {title}", fact_tables.costs_table(costs).markdown()]
    parts += ["## Trainings", words.progress(data.runs)]
    for each in troubled:
        parts.append(f"**{each.title}: {each.kind}**" + (f" ({each.text})" if each.text else ""))
        parts += [_block(each.lines)] if each.lines else []
    parts += [fact_tables.runs_table(data.runs).markdown(), "## Data and splits"]
    for dataset in data.datasets:
        parts += [f"### {dataset.name}", *([dataset.description] if dataset.description else [])]
        parts.append("\n".join(f"- {fact}" for fact in dataset_facts(dataset)))
        splits = fact_tables.splits_table(dataset)
        parts += [splits.markdown()] if splits.rows else []
    parts.append("## Versions and hardware")
    trained_on = fact_tables.trained_on_table(data)
    parts += [trained_on.markdown()] if trained_on.rows else []
    parts += [fact_tables.machine_text(data), fact_tables.versions_table(data).markdown()]
    parts += ["## How to reproduce it", _block(commands(data))]
    parts += [f"{data.study_file}:", _block(data.study_text)] if data.study_text else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _result(report: GroupReport) -> list[str]:
    comparison = report.comparison
    if comparison is None:
        return [f"Nothing can be compared here yet: {report.why_none or ''}", *report.missing]
    parts = ["\n".join(f"- {sentence}" for _, sentence in words.verdict(report, comparison.metrics[0]))]
    parts += [*report.missing, tables.overview_table(comparison).markdown()]
    parts.append(tables.verdict_table(comparison, comparison.metrics[0]).markdown())
    # what `nnunet-attn compare` writes, two levels below this report's headings
    lines = markdown(comparison).split("\n", 1)[1].strip()
    return [*parts, "#### All of the comparison", re.sub(r"(?m)^#", "####", lines)]


def _unfair(data: ReportData) -> str:
    lines = [
        f"- **{each.kind}**{'' if each.is_serious else ' (to be known)'}: {each.text}"
        + (f" ({each.where})" if each.where else "")
        for each in data.unfair
    ]
    lines += [f"- This report could not find out: {each}" for each in data.problems]
    return "\n".join(lines) or "Nothing was found."


def _block(text: str) -> str:
    """A block that no line of the text ends."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}text\n{text.rstrip()}\n{fence}"


def latex_text(data: ReportData) -> str:
    r"""Return the tables of all groups and of costs, for a document that has `\usepackage{booktabs}`."""
    parts = [r"% needs \usepackage{booktabs}"]
    for report in data.groups:
        if report.comparison is None:
            continue
        name, title = re.sub(r"[^A-Za-z0-9]+", "-", report.group.name), escaped(report.group.title)
        text = latex(report.comparison).split("\n", 1)[1]
        text = text.replace(r"\label{tab:comparison-", rf"\label{{tab:{name}-")
        parts.append(text.replace(r"\caption{", rf"\caption{{{title}: "))
    for at, (_, own) in enumerate(costs_by_dataset(data)):
        parts.append(fact_tables.costs_table(own).latex(f"tab:cost-{at}"))
    return "\n".join(parts)
