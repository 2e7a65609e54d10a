"""A comparison as text: Markdown for reading, LaTeX for a paper."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from nnunet_attn.evaluation.compare_inputs import Key
from nnunet_attn.evaluation.compare_results import Comparison, Difference, MethodResult, MetricResult
from nnunet_attn.evaluation.compare_warnings import has_few_pairs
from nnunet_attn.evaluation.results import LARGER_IS_BETTER, SURFACE_METRICS, VOLUME_METRICS
from nnunet_attn.evaluation.statistics import FEW_PAIRS

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "nsd": "NSD",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "volume_difference_mm3": "Volume difference (mm³)",
    "relative_volume_difference": "Relative volume difference",
}
TESTED_TITLES = {
    **TITLES,
    "volume_difference_mm3": "Absolute volume difference (mm³)",
    "relative_volume_difference": "Absolute relative volume difference",
}
"""Of what is tested and drawn: there the size of a volume difference counts, in table means its sign too."""
DECIMALS = 4
NONE = "–"

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "³": r"\textsuperscript{3}",
    **{each: f"\\{each}" for each in "&%$#_{}"},
}


def metric_decimals(metric: str, decimals: int) -> int:
    """Return the decimals of a metric: all of them for what is a fraction, two fewer for mm and mm³."""
    return max(decimals - 2, 0) if metric.endswith(("_mm", "_mm3")) else decimals


def number(value: float, decimals: int, sign: bool = False) -> str:
    """Return a number for a table; a dash where there is none."""
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    text = f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
    return text.lstrip("+-") if sign and not float(text) else text


def percent(confidence: float) -> str:
    """Return a confidence in percent, with all its digits: 0.999999999 is not 100."""
    return format((Decimal(repr(float(confidence))) * 100).normalize(), "f")


def p_value(p: float) -> str:
    """Return a p-value with three digits."""
    if math.isnan(p):
        return NONE
    return "<0.0001" if p < 1e-4 else f"{p:.3g}"


def _equals(p: float) -> str:
    return p_value(p) if p < 1e-4 else f"= {p_value(p)}"


def markdown(comparison: Comparison, decimals: int = DECIMALS) -> str:
    """Return everything but the single cases."""
    parts = ["# Comparison", what_is_compared(comparison)]
    parts += [f"> **Warning:** {warning}." for warning in comparison.warnings]
    parts += [_glossary(comparison), _methods_list(comparison)]
    for metric in comparison.metrics:
        result = comparison.result(metric)
        direction = "Larger" if LARGER_IS_BETTER[metric] else "Smaller"
        parts += [f"## {TITLES[metric]}", f"{direction} is better{_of_sizes(metric)}."]
        parts += ["### Means", _methods_table(comparison, result, decimals)]
        if not math.isnan(result.friedman_p):
            parts.append(f"Friedman's test that all methods rank alike: p {_equals(result.friedman_p)}.")
        parts += ["### Differences", _differences_table(comparison, result, decimals)]
        parts += ["### Classes", _classes_table(comparison, metric, decimals)]
    if comparison.left_out:
        parts.append("## Left out")
        parts += [f"- {_cell(name)}: {', '.join(map(place, keys))}" for name, keys in comparison.left_out.items()]
    versions = ", ".join(f"{name} {text}" for name, text in comparison.provenance["versions"].items())
    parts.append(f"Made {comparison.provenance['date_utc']} with {versions}.")
    return "\n\n".join(parts) + "\n"


def _of_sizes(metric: str) -> str:
    return "; the table mean keeps the sign, all else is of absolute values" if metric in VOLUME_METRICS else ""


def what_is_compared(comparison: Comparison) -> str:
    """Return how many methods are compared over how many cases or splits."""
    of = f"{len(comparison.keys)} cases"
    if comparison.paired_over == "splits":
        of = f"the means of {len(comparison.splits)} splits ({len(comparison.keys)} values in all)"
        of += ", after the mean over each patient's cases" if comparison.by_patient else ""
    elif comparison.paired_over == "patients":
        pairs = len(comparison.results[0].tested[comparison.reference])
        of = f"the means of {pairs} patients ({len(comparison.keys)} cases in all)"
    return f"{len(comparison.methods)} methods, reference {_cell(comparison.reference)}; paired over {of}."


def _glossary(comparison: Comparison) -> str:
    """What stands in the tables and how it was computed: also the sentence for a paper's methods section."""
    unit = comparison.paired_over.removesuffix("s")
    averaged = [*(["a patient"] if comparison.by_patient else []), *(["a split"] if unit == "split" else [])]
    settings = comparison.settings
    lines = [
        "- **table mean**: over the cases, then over the classes, as nnU-Net's `foreground_mean`, then over the seeds; "
        "infinite values are left out, and counted over cases, classes and seeds.",
        f"- **{unit} mean, sd, median**: of the values that are tested, the mean over the classes present in a case"
        + (f", averaged over the cases of {', then of '.join(averaged)}" if averaged else "")
        + ". Seeds are averaged before; *sd of seeds* is the standard deviation of their table means.",
        f"- **difference**: method - other, per {unit}, in the unit of the metric; {percent(comparison.confidence)} % "
        f"bootstrap interval of its mean ({comparison.n_bootstrap} resamples, seed {comparison.seed}).",
        "- **p**: two-sided paired t-test and Wilcoxon signed-rank test; *Holm*: adjusted for all differences of one "
        "metric (and class).",
        f"- **few**: below {FEW_PAIRS} finite pairs; mean, t-test and interval rest on little.",
        "- **better / equal / worse**: pairs. **d_z**: mean / sd of the differences. **r**: rank-biserial correlation.",
        "- An infinite distance (one mask is empty) is the worst value for Wilcoxon's test, ranks and counts of pairs; "
        "t-test, interval and all of the difference's figures but r use the pairs that are *finite* in both.",
    ]
    if set(comparison.metrics) & set(SURFACE_METRICS):
        tolerances = ", ".join(f"{_cell(name)} {value:g}" for name, value in settings.tolerance_mm.items())
        lines.append(f"- Surfaces: {settings.surface}; tolerance of NSD in mm: {tolerances or NONE}.")
    if set(comparison.metrics) & set(VOLUME_METRICS):
        lines.append("- Volume differences: table means keep the sign, of what is tested the size counts.")
    if settings.preset:
        lines.append(
            f"- Classes, metrics and surface by the preset {settings.preset}; means as above, not as the paper's."
        )
    return "\n".join(lines)


def _methods_list(comparison: Comparison) -> str:
    rows = []
    for method in comparison.methods:
        for origin in method.origins:
            known = (origin.dataset, origin.trainer, origin.plans, origin.configuration, origin.checkpoint)
            folds = " ".join(map(str, origin.folds)) or None
            rows.append([method.name, *(part or NONE for part in known), folds or NONE])
    return table(["method", "data set", "trainer", "plans", "configuration", "checkpoint", "folds"], rows, text=7)


def _methods_table(comparison: Comparison, result: MetricResult, decimals: int) -> str:
    places = metric_decimals(result.metric, decimals)
    columns: dict[str, Callable[[MethodResult], str]] = {
        "table mean": lambda each: number(each.table_mean, places),
        "infinite left out": lambda each: str(each.table_infinite),
        "seeds": lambda each: str(len(each.seed_means)),
        "sd of seeds": lambda each: number(each.seeds_sd, places),
        f"{comparison.paired_over[:-1]} mean": lambda each: number(each.mean, places),
        "sd": lambda each: number(each.sd, places),
        "median": lambda each: number(each.median, places),
        "finite": lambda each: str(each.n_finite),
        "infinite": lambda each: str(each.n_infinite),
        "not counted": lambda each: str(each.n_not_counted),
        "mean rank": lambda each: number(each.mean_rank, 2),
    }
    rows = [[each.method, *(cell(each) for cell in columns.values())] for each in result.methods]
    return table(["method", *columns], rows)


def _differences_table(comparison: Comparison, result: MetricResult, decimals: int) -> str:
    places = metric_decimals(result.metric, decimals)
    columns: dict[str, Callable[[Difference], str]] = {
        "pairs": lambda each: str(each.paired.n_pairs),
        "finite": lambda each: str(each.paired.n_finite),
        "mean": lambda each: number(each.paired.mean_difference, places, sign=True),
        "sd": lambda each: number(each.paired.sd_difference, places),
        "median": lambda each: number(each.paired.median_difference, places, sign=True),
        f"{percent(comparison.confidence)} % interval": lambda each: interval(each, places),
        "p t-test": lambda each: p_value(each.paired.t_p),
        "p t-test, Holm": lambda each: p_value(each.t_p_holm),
        "p Wilcoxon": lambda each: p_value(each.paired.wilcoxon_p),
        "p Wilcoxon, Holm": lambda each: p_value(each.wilcoxon_p_holm),
        "better / equal / worse": lambda each: f"{each.paired.wins} / {each.paired.ties} / {each.paired.losses}",
        "d_z": lambda each: number(each.paired.effect_size, 2, sign=True),
        "r": lambda each: number(each.paired.rank_biserial, 2, sign=True),
    }
    rows = [
        [f"{each.method} - {each.against}", *(cell(each) for cell in columns.values())] for each in result.differences
    ]
    return table(["difference", *columns], rows)


def interval(difference: Difference, places: int) -> str:
    """Return the interval of a mean difference, as text."""
    low, high = difference.paired.ci_low, difference.paired.ci_high
    return NONE if math.isnan(low) else f"{number(low, places, sign=True)} to {number(high, places, sign=True)}"


def _classes_table(comparison: Comparison, metric: str, decimals: int) -> str:
    places = metric_decimals(metric, decimals)
    rows = []
    for name in comparison.classes:
        result = comparison.result(metric, name)
        own = {each.method: each for each in result.methods}
        rows.append([name, comparison.reference, *_class_means(own[comparison.reference], places), *[""] * 6])
        for each in result.differences:
            paired = each.paired
            rows.append(
                [
                    name,
                    each.method if each.against == comparison.reference else f"{each.method} - {each.against}",
                    *_class_means(own[each.method], places),
                    f"{paired.n_pairs} ({paired.n_finite}){', few' if has_few_pairs(paired) else ''}",
                    number(paired.mean_difference, places, sign=True),
                    interval(each, places),
                    p_value(each.t_p_holm),
                    p_value(each.wilcoxon_p_holm),
                    f"{paired.wins} / {paired.ties} / {paired.losses}",
                ]
            )
    heading = ["class", "method", "table mean", "sd of seeds", "infinite left out", "pairs (finite)", "difference"]
    level = f"{percent(comparison.confidence)} % interval"
    more = [level, "p t-test, Holm", "p Wilcoxon, Holm", "better / equal / worse"]
    return table([*heading, *more], rows, text=2)


def _class_means(result: MethodResult, places: int) -> list[str]:
    return [number(result.table_mean, places), number(result.seeds_sd, places), str(result.table_infinite)]


def place(key: Key) -> str:
    """Return a fold and case as text."""
    return key[1] if key[0] is None else f"{key[1]} (fold {key[0]})"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """Return a Markdown table, padded so that it can be read as it is; the first columns are text, others numbers."""
    cells = [[_cell(cell) for cell in row] for row in [heading, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * max(width, 3) if at < text else "-" * (max(width, 3) - 1) + ":" for at, width in enumerate(widths)]
    lines = [rule if at == 1 else row for at, row in enumerate([cells[0], rule, *cells[1:]])]
    padded = (
        [
            cell.ljust(len(mark)) if at < text else cell.rjust(len(mark))
            for at, (cell, mark) in enumerate(zip(line, rule, strict=True))
        ]
        for line in lines
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", r"\|")


def escaped(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(comparison: Comparison, decimals: int = DECIMALS) -> str:
    r"""Return two tables for a document that has `\usepackage{booktabs}`: means, and differences."""
    means = []
    for method in comparison.methods:
        cells = [escaped(method.name)]
        for metric in comparison.metrics:
            (own,) = (each for each in comparison.result(metric).methods if each.method == method.name)
            places = metric_decimals(metric, decimals)
            spread = "" if math.isnan(own.seeds_sd) else rf" $\pm$ {number(own.seeds_sd, places)}"
            cells.append(_latex_number(number(own.table_mean, places)) + spread)
        means.append(cells)
    unit = comparison.paired_over.removesuffix("s")
    seeds = (
        r", $\pm$ standard deviation over seeds" if any(len(each.origins) > 1 for each in comparison.methods) else ""
    )
    heading = ["Method", *(escaped(TITLES[metric]) for metric in comparison.metrics)]
    over = f"{len(comparison.keys)} cases"
    if comparison.splits:
        cases = len({case for _, case in comparison.keys})
        over = f"the {len(comparison.keys)} test results of {cases} cases in {len(comparison.splits)} splits"
    caption = f"Means over {over}, then over classes{seeds}; infinite distances are left out."
    first = _latex_table("means", caption, heading, means, text=1)

    rows = []
    for metric in comparison.metrics:
        places = metric_decimals(metric, decimals)
        for each in comparison.result(metric).differences:
            paired = each.paired
            rows.append(
                [
                    escaped(TESTED_TITLES[metric]),
                    f"{escaped(each.method)} $-$ {escaped(each.against)}",
                    f"{paired.n_pairs} ({paired.n_finite})",
                    _latex_number(number(paired.mean_difference, places, sign=True)),
                    _latex_interval(each, places),
                    _latex_number(p_value(each.t_p_holm)),
                    _latex_number(p_value(each.wilcoxon_p_holm)),
                    f"{paired.wins}/{paired.ties}/{paired.losses}",
                    _latex_number(number(paired.effect_size, 2, sign=True)),
                ]
            )
    level = f"{percent(comparison.confidence)}\\,\\%"
    heading = [
        "Metric",
        "Difference",
        "$n$ (finite)",
        "Mean",
        f"{level} interval",
        "$p_t$",
        "$p_W$",
        "W/T/L",
        "$d_z$",
    ]
    caption = (
        f"Differences of the mean over the classes present, paired by {unit}: mean, {level} bootstrap interval, "
        "Holm-adjusted $p$ of the paired $t$-test and of Wilcoxon's signed-rank test, better/equal/worse, effect size."
    )
    return f"% needs \\usepackage{{booktabs}}\n{first}\n{_latex_table('differences', caption, heading, rows, text=2)}"


def _latex_number(text: str) -> str:
    if text == NONE:
        return "--"
    if text.lstrip("+-") == "inf":
        return text.replace("inf", r"$\infty$")
    return f"${text}$" if text[0] in "+-<" else text


def _latex_interval(difference: Difference, places: int) -> str:
    low, high = difference.paired.ci_low, difference.paired.ci_high
    if math.isnan(low):
        return "--"
    return f"{_latex_number(number(low, places, sign=True))} to {_latex_number(number(high, places, sign=True))}"


def _latex_table(name: str, caption: str, heading: Sequence[str], rows: Sequence[Sequence[str]], text: int) -> str:
    columns = "l" * text + "r" * (len(heading) - text)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:comparison-{name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(heading) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
