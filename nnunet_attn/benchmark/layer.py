"""Measures single layers of axial attention against a direct one: `python -m nnunet_attn.benchmark.layer --help`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention
from nnunet_attn.architectures.published import translate
from nnunet_attn.benchmark.command import add_common, check_common, run
from nnunet_attn.benchmark.comparison import MEANING, measured
from nnunet_attn.benchmark.equality import exact_convolutions, moved
from nnunet_attn.benchmark.transcriptions import FOLDER
from nnunet_attn.benchmark.variants import Variant, from_file
from nnunet_attn.errors import InputError

MIN_ROUNDS = 5
OURS, DIRECT = "GatedAxialAttention", "direct"
VARIANTS = ("gated", "no_position")
# Channels, length and number of lines; one each for the layers of the published networks at 128 x 128 and 256 x 256
CASES = ((16, 64, 256), (16, 128, 128), (32, 64, 64), (64, 32, 128), (128, 16, 64))
_HEADS = 8
# Over the largest value. The gradient has gone through norms that divide by small variances, in float32.
TOLERANCES = {"eval": 2e-5, "train": 2e-5, "grad_input": 1e-3}
_MODULE = "nnunet_attn.benchmark.layer"
_MEANING = {
    "forward": "eval mode, no gradients",
    "step": "train mode: forward, mean(output^2), backward to the parameters and the input",
    "equality": "layers with the same weights, float32: largest difference of the outputs in eval and in train mode "
    "and of the gradient of the input, each over the largest value",
    "ratios": MEANING["ratios"].replace("the reference network", "the direct layer"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["x".join(map(str, case)) for case in CASES],
        metavar="CxLxN",
        help="channels, length and number of lines",
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--axis", type=int, choices=(0, 1), default=0, help="attend along the height (0) or width (1)")
    parser.add_argument(
        "--reference",
        type=Path,
        default=FOLDER / "axial_attention.py",
        metavar="FILE",
        help="Python file with DirectAxialAttention(channels, axis, length, num_heads, variant) of published names",
    )
    add_common(parser, rounds=15, least=MIN_ROUNDS)
    return parser


def parsed_case(text: str) -> tuple[int, int, int]:
    """Return channels, length and lines of "16x64x256".

    Raises:
        InputError: If it is not three numbers that make layers.
    """
    words = text.split("x")
    if len(words) != 3 or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise InputError(f"--cases {text!r}; it has to be channels x length x lines, like 16x64x256")
    channels, length, lines = map(int, words)
    if channels % (2 * _HEADS):
        raise InputError(f"--cases {text!r}: the channels have to be a multiple of {2 * _HEADS}")
    return channels, length, lines


def made_layers(
    direct: Callable[..., nn.Module], variant: str, channels: int, axis: int, length: int, seed: int, device: str
) -> list[Variant]:
    """Return the direct layer and ours, with the same weights."""
    torch.manual_seed(seed)
    reference = [direct(channels, axis, length, _HEADS, variant) for _ in range(2)]
    ours = [GatedAxialAttention(channels, axis, length, _HEADS, variant) for _ in range(2)]  # pyright: ignore[reportArgumentType]
    state = moved(reference[0].state_dict(), seed)
    # the layer's place in a published network, and here
    there, here = "layer1.0.hight_block.", "branch.stages.0.0.layers.0."
    published = translate({there + key: value for key, value in state.items()}, "gatedaxialunet")
    for layer in reference:
        layer.load_state_dict(state)
    for layer in ours:
        layer.load_state_dict({key.removeprefix(here): value for key, value in published.items()})
    return [
        Variant(name, pair[0].to(device).eval(), pair[1].to(device).train())
        for name, pair in ((DIRECT, reference), (OURS, ours))
    ]


def differences(variants: Sequence[Variant], image: Tensor) -> dict[str, float]:
    """Return the largest difference of the second layer from the first, over the first's largest value.

    Raises:
        InputError: If one is more than `TOLERANCES` allow.
    """
    found: list[dict[str, Tensor]] = []
    with exact_convolutions():
        for variant in variants:
            with torch.no_grad():
                evaluated = variant.inference(image)
            trained = variant.training(image)
            # of different signs and sizes, and the same for both
            cotangent = torch.linspace(-1, 1, trained.numel(), device=image.device).view(trained.shape)
            gradient = torch.autograd.grad((trained * cotangent.cos() * cotangent).sum(), image)[0]
            found.append({"eval": evaluated, "train": trained.detach(), "grad_input": gradient})
    wanted, ours = found
    relative = {key: float((ours[key] - wanted[key]).abs().max() / wanted[key].abs().max()) for key in wanted}
    for key, value in relative.items():
        if not value <= TOLERANCES[key]:  # not a number is refused too
            told = f"{value:.3g}, more than {TOLERANCES[key]:g} of the largest value"
            raise InputError(f"the layers differ with the same weights: {key} by {told}")
    return relative


def _input(case: tuple[int, int, int], axis: int, seed: int, device: str) -> Tensor:
    """Square images where the number of lines allows, else one image."""
    channels, length, lines = case
    batch = lines // length if lines % length == 0 else 1
    space = (length, lines // batch) if axis == 0 else (lines // batch, length)
    torch.manual_seed(seed)
    return torch.randn(batch, channels, *space).to(device).requires_grad_()


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    check_common(args, MIN_ROUNDS)
    cases = [parsed_case(text) for text in args.cases]
    direct = from_file(args.reference, "DirectAxialAttention", "(channels, axis, length, num_heads, variant)")
    layers = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(cases) * len(args.variants) * (args.rounds + 1))
        for variant in args.variants:
            for case in cases:
                image = _input(case, args.axis, args.seed, args.device)
                pair = made_layers(direct, variant, case[0], args.axis, case[1], args.seed, args.device)
                equality = differences(pair, image)
                found = measured(
                    pair,
                    image,
                    args.rounds,
                    args.precision,
                    args.compile,
                    on_round=lambda: progress.advance(task),
                )
                sizes = dict(zip(("channels", "length", "lines"), case, strict=True))
                shape = list(image.shape)
                layers.append({"variant": variant, **sizes, "input_shape": shape, "equality": equality, **found})
    settings = {
        "axis": args.axis,
        "num_heads": _HEADS,
        "reference_network": DIRECT,
        "rounds": args.rounds,
        "device": args.device,
        "precision": args.precision,
        "compile": args.compile,
        "threads": 1 if args.device == "cpu" else None,
        "tolerances": TOLERANCES,
    }
    meaning = {key: value for key, value in MEANING.items() if key != "wall_seconds"} | _MEANING
    return {"meaning": meaning, "settings": settings, "layers": layers}


def table(result: dict[str, Any]) -> Table:
    """Return what is printed: a row for each layer, times and memory of ours with their ratios over the direct one."""
    settings = result["settings"]
    shown = Table(
        title=f"{settings['device']}, {settings['precision']}, axis {settings['axis']}",
        caption=f"x: over {DIRECT} (quartiles)",
    )
    for heading in ("layer", "eval, ms", "eval, x", "train, ms", "train, x", "eval, MiB x", "train, MiB x"):
        shown.add_column(heading, justify="left" if heading == "layer" else "right")
    for layer in result["layers"]:
        own, ratio = layer["networks"][OURS], layer["ratios"][OURS]
        cells = []
        for kind in ("forward", "step"):
            times = ratio["seconds"][kind]
            cells.append(f"{1000 * own['seconds'][kind]['median']:.4g}")
            cells.append(f"{times['median']:.3f} ({times['q25']:.3f}-{times['q75']:.3f})")
        memory = [f"{ratio['peak_memory_bytes'][kind]:.3f}" for kind in ("forward", "step")]
        shown.add_row(layer_name(layer), *cells, *memory)
    return shown


def layer_name(layer: dict[str, Any]) -> str:
    """Return what a layer is called in tables."""
    return f"{layer['variant']}, {layer['channels']} channels, {layer['lines']} lines of {layer['length']}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(_MODULE, _parser(), _measure, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
