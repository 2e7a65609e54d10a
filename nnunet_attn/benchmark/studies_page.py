"""Makes the page of studies that were run; see `nnunet_attn.benchmark.pages`."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from nnunet_attn.benchmark.markdown import Results, measured_with, table

_STUDIES = """# Studies

Shipped studies, run and reported by this package's own commands. Each has the whole report beside it, without pictures
of cases: open it in a browser. Differences are to the reference, paired case by case, with their bootstrap interval; p
is Wilcoxon's, adjusted by Holm. How to read all this: [read a report](../how-to/read-a-report.md).
"""


def studies_page(results: Results) -> str:
    """Return the page of all `studies-*.json`, as Markdown."""
    parts = [_STUDIES]
    for file, result in results.items():
        html = PurePath(file).with_suffix(".html").name
        parts.append(f"## {result['study']}\n\n{result['question']} {' '.join(result['setup'])} {result['progress']}\n")
        parts.append(f"The whole report: [{html}]({html})" + (f". {result['note']}" if result["note"] else "") + "\n")
        for group in result["groups"]:
            parts += _group(group, result["costs"])
        parts.append(_unfair(result["unfair"]))
        parts.append(measured_with(result, file))
    return "\n".join(parts)


def _group(group: Mapping[str, Any], costs: Sequence[Mapping[str, Any]]) -> list[str]:
    metrics = group["metrics"]
    first = next(iter(metrics))
    titles = {"dice": "Dice", "nsd": "NSD", "hd95_mm": "HD95, mm"}
    level = f"{100 * group['confidence']:g} % interval"
    heading = ["method", *(titles[metric] for metric in metrics)]
    heading += [f"{titles[first]}: difference [{level}]", "p", "cases better / worse"]
    heading += ["parameters", "GFLOP forward"]
    # a row on several data sets or in several configurations has several costs
    known = {each["row"]: each for each in costs}
    rows = []
    for index, row in enumerate(metrics[first]):
        means = [f"{own[index]['mean']:.{2 if metric == 'hd95_mm' else 4}f}" for metric, own in metrics.items()]
        cost = known.get(row["row"], {})
        rows.append([row["row"], *means, *_difference(row), *_cost(cost)])
    found = [f"### {group['title']}\n", table(heading, rows)]
    found += [f"- {sentence}" for sentence in group["verdict"]]
    found += [f"- Nothing is finished of {', '.join(group['left_out'])}."] if group["left_out"] else []
    return [*found, ""]


def _difference(row: Mapping[str, Any]) -> list[str]:
    if "mean_difference" not in row:
        return ["reference", "", ""]
    p = row["wilcoxon_p_holm"]
    shown = "" if p is None else "<0.0001" if p < 0.0001 else f"{p:.3g}"
    ends = f"[{row['ci_low']:+.4f}, {row['ci_high']:+.4f}]" if row["ci_low"] is not None else ""
    return [f"{row['mean_difference']:+.4f} {ends}".strip(), shown, f"{row['wins']} / {row['losses']}"]


def _cost(cost: Mapping[str, Any]) -> list[str]:
    parameters, flops = cost.get("parameters"), cost.get("flops")
    return ["" if parameters is None else f"{parameters:,}", "" if flops is None else f"{flops / 1e9:.3g}"]


def _unfair(found: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"- **{each['kind']}**: {each['text']}" for each in found if each["is_serious"]]
    if not lines:
        return "Nothing was found that makes the comparison unfair.\n"
    return "\n".join(["What can change who wins:\n", *lines, ""])
