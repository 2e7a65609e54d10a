"""Makes the pages of `docs/results` from the JSON files beside them: `python -m nnunet_attn.benchmark.pages FOLDER`."""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from nnunet_attn.benchmark.evaluation_page import evaluation_page
from nnunet_attn.benchmark.markdown import HOW, KINDS, Results, device, measured_with, spread, table
from nnunet_attn.benchmark.null_rates_page import null_rates_page
from nnunet_attn.benchmark.patches_page import patches_page
from nnunet_attn.benchmark.position_page import position_page
from nnunet_attn.benchmark.pretraining_page import pretraining_page
from nnunet_attn.benchmark.studies_page import studies_page
from nnunet_attn.benchmark.window_page import tokens_page, window_page
from nnunet_attn.errors import InputError

_INDEX = """# Measured results

Every figure here was measured by a script of this repository; the JSON files hold versions, hardware, seeds and date.
`python -m nnunet_attn.benchmark.pages docs/results` makes these pages from them.

"""

_TITLES = {
    "speed": "Speed and memory",
    "growth": "Growth with the image",
    "layer": "Single layers",
    "window": "Window attention",
    "fine-tokens": "The cost of FINE's tokens",
    "learning": "Learning under a small budget",
    "position": "Organs that differ by position alone",
    "patches": "The patch transformer's grid",
    "pretraining": "Pre-training where few labels are",
    "evaluation": "Speed and agreement of the metrics",
    "null-rates": "Paired tests where no method is better",
    "studies": "Studies",
}

_NO_CUDA = """
Nothing here was measured on CUDA.
"""

_SPEED = f"""# Speed and memory

Ratios are over the first network of each table: the plain U-Net of the same plans, or a direct transcription of the
published network (`slow_*`, in `tests/reference`), which has the same weights. `slow_medt` runs the cells of the grid
one after another, as published; `slow_medt_folded` has them in the batch. A step is forward and backward with deep
supervision, without the optimiser. FLOPs are of one forward pass, a multiplication and an addition counted as two;
not counted are the transcription's products over a single channel, which PyTorch makes elementwise ones.
{HOW}"""

_GROWTH = f"""# Growth with the image

Time and memory of a forward pass in eval mode and of a training step (forward and backward), on square images. `alpha`
is the exponent of time or memory ~ pixels^alpha by least squares; in brackets, that between the two largest sizes
alone, where what does not grow weighs least. `slow_*` is the direct transcription of the published network, where it
was measured.
{HOW}"""

_LAYER = f"""# Single layers

Gated axial attention against its direct transcription (`DirectAxialAttention` in `tests/reference`), with the same
weights. Eval is a forward pass without gradients, train one with the backward pass to parameters and input.
{HOW}"""

_LEARNING = """# Learning under a small budget

Does a network learn, and does it keep up with the plain U-Net under the same few iterations? Same plans, split,
iterations and seeds for each trainer, small enough for a CPU. Dice (F1) is nnU-Net's own validation of fold 0, mean
over labels and cases; so is the IoU, of the trained networks, where it was kept. These are checks of the
implementation: so short a training says nothing about which network is better on
your data. See [how to measure](../how-to/measure-speed.md).
"""


def index_page(kinds: Iterable[str], results: Iterable[Mapping[str, Any]]) -> str:
    """Return the page that leads to those of some kinds; it says if no result was measured on CUDA."""
    lines = "".join(f"- [{_TITLES[kind]}]({kind}.md)\n" for kind in kinds)
    return _INDEX + lines + ("" if any(device(result) == "cuda" for result in results) else _NO_CUDA)


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
        memory = ("forward peak, MiB", "step peak, MiB")
        heading = ("network", "forward, s", "step, s", *memory, "parameters", "GFLOP forward")
        parts += [table(heading, rows), measured_with(result, file)]
        if equality := result.get("equality"):
            told = ", ".join(f"{name} by {value:.1e}" for name, value in equality["max_abs_difference"].items())
            largest = f"the largest output is {equality['largest_output']:.2g}"
            parts.append(
                f"With the weights of {equality['weights_of']}, outputs in eval mode differ: {told}; {largest}.\n"
            )
    return "\n".join(parts)


def _speed_cells(network: Mapping[str, Any], ratio: Mapping[str, Any] | None) -> list[str]:
    seconds = [f"{network['seconds'][kind]['median']:.3f}" for kind in KINDS]
    cells = [
        *seconds,
        *(f"{network['peak_memory_bytes'][kind] / 2**20:.1f}" for kind in KINDS),
        f"{network['parameters']:,}",
        f"{network['forward_flops'] / 1e9:.3f}",
    ]
    if ratio is None:
        return cells
    ratios = [
        *(spread(ratio["seconds"][kind]) for kind in KINDS),
        *(f"{ratio['peak_memory_bytes'][kind]:.4f}" for kind in KINDS),
        f"{ratio['parameters']:.4f}",
        f"{ratio['forward_flops']:.4f}",
    ]
    return [f"{cell} ({factor})" for cell, factor in zip(cells, ratios, strict=True)]


def growth_page(results: Results) -> str:
    """Return the page of all `growth-*.json`, as Markdown."""
    parts = [_GROWTH]
    for file, result in results.items():
        settings = result["settings"]
        parts.append(
            f"## {settings['network']}, {settings['device']}, {settings['precision']}"
            + (", compiled" if settings["compile"] else "")
            + f", batch {settings['batch_size']}, at most {settings['rounds']} rounds\n"
        )
        rows = []
        for size in result["sizes"]:
            for name, network in size["networks"].items():
                times = [f"{network['seconds'][kind]['median']:.3f}" for kind in KINDS]
                if ratio := size["ratios"].get(name):
                    pairs = zip(times, (spread(ratio["seconds"][kind]) for kind in KINDS), strict=True)
                    times = [f"{time} ({factor})" for time, factor in pairs]
                memory = [f"{network['peak_memory_bytes'][kind] / 2**20:.1f}" for kind in KINDS]
                rows.append([name, f"{size['side']} x {size['side']}", str(size["rounds"]), *times, *memory])
        for name, own in result["exponents"].items():
            alphas = [
                f"{own[quantity][kind]:.2f} ({own[quantity]['of_the_largest'][kind]:.2f})"
                for quantity in ("seconds", "peak_memory_bytes")
                for kind in KINDS
            ]
            rows.append([name, f"alpha, {own['sides'][0]} to {own['sides'][-1]}", "", *alphas])
        heading = ("network", "image", "rounds", "forward, s", "step, s", "forward peak, MiB", "step peak, MiB")
        parts += [table(heading, rows), measured_with(result, file)]
    return "\n".join(parts)


def layer_page(results: Results) -> str:
    """Return the page of all `layer-*.json`, as Markdown."""
    parts = [_LAYER]
    for file, result in results.items():
        settings = result["settings"]
        axis = ("height", "width")[settings["axis"]]
        parts.append(
            f"## Along the {axis}, {settings['device']}, {settings['precision']}"
            + (", compiled" if settings["compile"] else "")
            + f", {settings['num_heads']} heads, {settings['rounds']} rounds\n"
        )
        rows = []
        for layer in result["layers"]:
            (own,) = (name for name in layer["networks"] if name != settings["reference_network"])
            network, ratio = layer["networks"][own], layer["ratios"][own]
            times = [
                f"{1000 * network['seconds'][kind]['median']:.2f} ({spread(ratio['seconds'][kind])})" for kind in KINDS
            ]
            memory = [
                f"{network['peak_memory_bytes'][kind] / 2**20:.1f} ({ratio['peak_memory_bytes'][kind]:.4f})"
                for kind in KINDS
            ]
            sizes = [str(layer[key]) for key in ("channels", "length", "lines")]
            rows.append([layer["variant"], *sizes, *times, *memory, f"{layer['equality']['eval']:.1e}"])
        heading = ("variant", "channels", "length", "lines", "eval, ms", "train, ms", "eval peak, MiB")
        heading = (*heading, "train peak, MiB", "largest relative difference")
        parts += [table(heading, rows), measured_with(result, file)]
    return "\n".join(parts)


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
        heading = ["trainer", "untrained", *(f"seed {seed}" for seed in seeds), "mean", f"minus {result['reference']}"]
        heading += ["IoU, mean"] if "mean_iou" in result else []
        rows = []
        for base, mean in result["mean_dice"].items():
            by_seed = {run["seed"]: run["dice"] for run in runs if run["network"] == base and run["trained"]}
            numbers = [mean["untrained"], *(by_seed[seed] for seed in seeds), mean["trained"]]
            difference = f"{result['difference_to_reference'][base]:+.3f}"
            # results of older versions have no IoU
            iou = [f"{result['mean_iou'][base]['trained']:.3f}"] if "mean_iou" in result else []
            rows.append([base, *(f"{number:.3f}" for number in numbers), difference, *iou])
        parts += [table(heading, rows), measured_with(result, file)]
    return "\n".join(parts)


def pages(folder: Path) -> dict[str, str]:
    """Return the pages that belong to the JSON files in `folder`: file name -> Markdown; none for a kind without any.

    Raises:
        InputError: If a file is no JSON, or no result of this package.
    """

    def read(pattern: str) -> dict[str, Any]:
        return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(pattern))}

    try:
        kinds = {
            "speed": speed_page,
            "growth": growth_page,
            "layer": layer_page,
            "window": window_page,
            "fine-tokens": tokens_page,
            "learning": learning_page,
            "position": position_page,
            "patches": patches_page,
            "pretraining": pretraining_page,
            "evaluation": evaluation_page,
            "null-rates": null_rates_page,
            "studies": studies_page,
        }
        found = {kind: results for kind in kinds if (results := read(f"{kind}-*.json"))}
        everything = [result for results in found.values() for result in results.values()]
        made = {f"{kind}.md": kinds[kind](results) for kind, results in found.items()}
        return {"README.md": index_page(found, everything), **made}
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
