"""Makes the pages of `docs/results` from the JSON files beside them: `python -m nnunet_attn.benchmark.pages FOLDER`."""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from nnunet_attn.errors import InputError

Results = Mapping[str, Mapping[str, Any]]

_INDEX = """# Measured results

Every figure here was measured by a script of this repository; the JSON files hold versions, hardware, seeds and date.
`python -m nnunet_attn.benchmark.pages docs/results` makes these pages from them.

- [Speed and memory](speed.md)
- [Learning under a small budget](learning.md)
"""

_NO_CUDA = """
Nothing here was measured on CUDA.
"""

_SPEED = """# Speed and memory

Ratios are over the plain U-Net of the same plans, measured in one process with the variants interleaved. On the CPU
time is process CPU time at one thread, the median over rounds of each round's ratio, with the quartiles in brackets;
memory is what is held (parameters, buffers, input) plus the exact peak of the allocator's events. FLOPs are of one
forward pass, a multiplication and an addition counted as two. A step is forward and backward with deep supervision,
without the optimiser. See [how to measure](../how-to/measure-speed.md).
"""

_LEARNING = """# Learning under a small budget

Does a network learn, and does it keep up with the plain U-Net under the same few iterations? Same plans, split,
iterations and seeds for each trainer, small enough for a CPU. Dice is nnU-Net's own validation of fold 0, mean over
labels. These are checks of the implementation: so short a training says nothing about which network is better on
your data. See [how to measure](../how-to/measure-speed.md).
"""


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _device(result: Mapping[str, Any]) -> str:
    """The device of a result of either kind; a machine with a GPU may have measured on its CPU."""
    return result.get("settings", result)["device"]


def index_page(results: Iterable[Mapping[str, Any]]) -> str:
    """Return the page that leads to the others; it says if no result was measured on CUDA."""
    return _INDEX + ("" if any(_device(result) == "cuda" for result in results) else _NO_CUDA)


def _measured_with(result: Mapping[str, Any], file: str) -> str:
    provenance = result["provenance"]
    hardware, versions = provenance["hardware"], provenance["versions"]
    on_cpu = f"{hardware['cpu']}, {hardware['cpu_cores']} cores"
    machine = hardware["gpu"]["name"] if _device(result) == "cuda" else on_cpu
    return (
        f"Measured {provenance['date_utc'][:10]} on {machine}; torch {versions['torch']}, "
        f"nnunetv2 {versions['nnunetv2']}, nnunet_attn {versions['nnunet_attn']}. Data: [{file}]({file})\n\n"
        f"```\n{provenance['command']}\n```\n"
    )


def speed_page(results: Results) -> str:
    """Return the page of all `speed-*.json`, as Markdown."""
    parts = [_SPEED]
    for file, result in results.items():
        settings = result["settings"]
        shape = "x".join(map(str, settings["input_shape"]))
        parts.append(
            f"## {settings['topology']}, input {shape}, {settings['device']}, {settings['precision']}"
            + (", compiled" if settings["compile"] else "")
            + f", {settings['rounds']} rounds\n"
        )
        rows = []
        for name, network in result["networks"].items():
            ratio = result["ratios"].get(name)
            rows.append([name, *_speed_cells(network, ratio)])
        heading = ("network", "forward, s", "step, s", "step peak, MiB", "parameters", "GFLOP forward")
        parts += [_table(heading, rows), _measured_with(result, file)]
    return "\n".join(parts)


def _speed_cells(network: Mapping[str, Any], ratio: Mapping[str, Any] | None) -> list[str]:
    seconds = [f"{network['seconds'][kind]['median']:.3f}" for kind in ("forward", "step")]
    cells = [
        *seconds,
        f"{network['peak_memory_bytes']['step'] / 2**20:.1f}",
        f"{network['parameters']:,}",
        f"{network['forward_flops'] / 1e9:.3f}",
    ]
    if ratio is None:
        return cells
    times = [ratio["seconds"][kind] for kind in ("forward", "step")]
    ratios = [
        *(f"{time['median']:.4f} [{time['q25']:.4f}, {time['q75']:.4f}]" for time in times),
        f"{ratio['peak_memory_bytes']['step']:.4f}",
        f"{ratio['parameters']:.4f}",
        f"{ratio['forward_flops']:.4f}",
    ]
    return [f"{cell} ({factor})" for cell, factor in zip(cells, ratios, strict=True)]


def learning_page(results: Results) -> str:
    """Return the page of all `learning-*.json`, as Markdown."""
    parts = [_LEARNING]
    for file, result in results.items():
        runs = result["runs"]
        seeds = sorted({run["seed"] for run in runs})
        budget = f"{result['epochs']} epochs of {result['iterations_per_epoch']} iterations"
        parts.append(
            f"## {result['dataset']}, {result['cases']} cases, {result['configuration']}\n\n"
            f"{budget}, batch {result['batch_size']}, patch {'x'.join(map(str, result['patch_size']))}, "
            f"features {'-'.join(map(str, result['features_per_stage']))}, "
            f"{'with' if result['mirroring'] else 'without'} mirroring, on {result['device']}; "
            f"{runs[0]['validation_cases']} validation cases.\n"
        )
        heading = ("trainer", "untrained", *(f"seed {seed}" for seed in seeds), "mean", f"minus {result['reference']}")
        rows = []
        for base, mean in result["mean_dice"].items():
            by_seed = {run["seed"]: run["dice"] for run in runs if run["network"] == base and run["trained"]}
            numbers = [mean["untrained"], *(by_seed[seed] for seed in seeds), mean["trained"]]
            difference = f"{result['difference_to_reference'][base]:+.3f}"
            rows.append([base, *(f"{number:.3f}" for number in numbers), difference])
        parts += [_table(heading, rows), _measured_with(result, file)]
    return "\n".join(parts)


def pages(folder: Path) -> dict[str, str]:
    """Return the pages that belong to the JSON files in `folder`: file name -> Markdown.

    Raises:
        InputError: If a file is no JSON, or no result of this package.
    """

    def read(pattern: str) -> dict[str, Any]:
        return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(pattern))}

    try:
        speed, learning = read("speed-*.json"), read("learning-*.json")
        return {
            "README.md": index_page([*speed.values(), *learning.values()]),
            "speed.md": speed_page(speed),
            "learning.md": learning_page(learning),
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        told = f"{type(error).__name__}: {error}"
        raise InputError(f"a JSON file in {folder} is no result of this package ({told}); move it away") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages; returns 0, or 2 if the folder does not exist or holds a broken result."""
    parser = argparse.ArgumentParser(prog="python -m nnunet_attn.benchmark.pages", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    try:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; name the one with the JSON files")
        made = pages(folder)
    except InputError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        return 2
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
