"""What the pages of `docs/results` share: tables, ratios, and where a result was measured."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

KINDS = ("forward", "step")
Results = Mapping[str, Mapping[str, Any]]

# What the pages of all measurements of speed say alike
HOW = """
On the CPU time is process CPU time at one thread; memory is what is held (parameters, buffers, input) plus the exact
peak of the allocator's events. Ratios are medians over rounds of each round's ratio, with the quartiles in brackets;
what is compared runs interleaved in one process. See [how to measure](../how-to/measure-speed.md).
"""


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def device(result: Mapping[str, Any]) -> str:
    """Return the device of a result of any kind; a machine with a GPU may have measured on its CPU."""
    return result.get("settings", result)["device"]


def measured_with(result: Mapping[str, Any], file: str) -> str:
    """Return when, on what and by which command a result was measured, and where its data are."""
    provenance = result["provenance"]
    hardware, versions = provenance["hardware"], provenance["versions"]
    on_cpu = f"{hardware['cpu']}, {hardware['cpu_cores']} cores"
    machine = hardware["gpu"]["name"] if device(result) == "cuda" else on_cpu
    return (
        f"Measured {provenance['date_utc'][:10]} on {machine}; torch {versions['torch']}, "
        f"nnunetv2 {versions['nnunetv2']}, nnunet_attn {versions['nnunet_attn']}. Data: [{file}]({file})\n\n"
        f"```\n{provenance['command']}\n```\n"
    )


def spread(ratio: Mapping[str, float]) -> str:
    """Return median and quartiles."""
    return f"{ratio['median']:.4f} [{ratio['q25']:.4f}, {ratio['q75']:.4f}]"
