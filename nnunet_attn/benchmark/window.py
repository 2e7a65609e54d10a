"""Measures single layers of window attention against a direct one: `python -m nnunet_attn.benchmark.window --help`."""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.window_attention import WindowAttention, shift_mask
from nnunet_attn.architectures.published import translate
from nnunet_attn.benchmark.command import add_common, check_common, run
from nnunet_attn.benchmark.comparison import MEANING, measured
from nnunet_attn.benchmark.equality import moved
from nnunet_attn.benchmark.layer import TOLERANCES, differences
from nnunet_attn.benchmark.transcriptions import FOLDER
from nnunet_attn.benchmark.variants import Variant, from_file
from nnunet_attn.benchmark.window_tokens import saved_bytes
from nnunet_attn.errors import InputError

MIN_ROUNDS = 5
DIRECT, OURS, LINEAR, UNBIASED = "direct", "WindowAttention", "linear layers alone", "fused, without biases"
BOUNDS = (LINEAR, UNBIASED)
HEAD_WIDTH = 32
# Voxels along each axis of a cubic map, channels, and window: the stages of nnFormer at a patch of 64 x 128 x 128, the
# third with the windows of today and of its first publication
CASES = ((32, 192, 4), (16, 384, 4), (8, 768, 8), (8, 768, 4), (4, 1536, 4))
SHIFTS = ("plain", "shifted")
_MODULE = "nnunet_attn.benchmark.window"
_MEANING = {
    "forward": "eval mode, no gradients",
    "step": "train mode: forward, mean(output^2), backward to the parameters and the input",
    "equality": "layers with the same weights, float32: largest difference of the outputs in eval and in train mode "
    "and of the gradient of the input, each over the largest value",
    "ratios": MEANING["ratios"].replace("the reference network", "the direct layer"),
    LINEAR: "the layer's two matrix products with its weights, its queries, keys and values only added between them: "
    "no attention takes less time",
    UNBIASED: "PyTorch's fused kernel between the two products, without relative biases and without a mask: what is "
    "to be had where nothing is added to the similarities",
    "cached_bytes": "what evaluation keeps from one call to the next, the sum of biases and mask; it counts as held, "
    "so in peak_memory_bytes of the forward pass",
    "beyond_weights_bytes": "allocated_bytes and cached_bytes, in a step less the gradients of the parameters",
    "saved_bytes": "what a training forward pass keeps for the backward pass, each storage once, without parameters "
    "and buffers",
}


class _Linear(nn.Module):
    """The linear layers of window attention; what is between them reads and writes no more than attention has to."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.proj(self.qkv(x).unflatten(-1, (3, -1)).sum(-2))


class _Unbiased(_Linear):
    """Attention to which nothing is added."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class _Masked(nn.Module):
    """A layer with the mask that a map of its own has; None where windows are not shifted."""

    def __init__(self, layer: nn.Module, mask: Tensor | None) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.mask)


@dataclass(frozen=True)
class Case:
    """One layer: voxels along each axis of its cubic map, channels, voxels along each axis of a window, shifted or not.

    Raises:
        InputError: If they make no layer.
    """

    size: int
    channels: int
    window: int
    shifted: bool

    def __post_init__(self) -> None:
        if self.channels % HEAD_WIDTH or self.size % self.window:
            raise InputError(
                f"--cases {self.size}x{self.channels}x{self.window}: channels have to be a multiple of {HEAD_WIDTH}, "
                "and the map's voxels one of the window's"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Windows, voxels of a window, channels."""
        return ((self.size // self.window) ** 3, self.window**3, self.channels)

    def mask(self) -> Tensor | None:
        """Return what keeps voxels apart that the shift brings together."""
        if not self.shifted:
            return None
        return shift_mask((self.size,) * 3, (self.window,) * 3, (self.window // 2,) * 3)


def parsed_cases(texts: Sequence[str], shifts: Sequence[str]) -> list[Case]:
    """Return the layers of words like "32x192x4"; a map of a single window is not shifted.

    Raises:
        InputError: If one is not three numbers that make layers, or nothing is left.
    """
    cases = []
    for text in texts:
        words = text.split("x")
        if len(words) != 3 or not all(word.isdecimal() and int(word) > 0 for word in words):
            raise InputError(f"--cases {text!r}; it has to be voxels x channels x window, like 32x192x4")
        size, channels, window = map(int, words)
        both = [Case(size, channels, window, name == "shifted") for name in shifts]
        cases += [case for case in both if not case.shifted or 1 < window < size]
    if not cases:
        raise InputError("--shifts shifted: windows as large as their map are not shifted; give plain too")
    return cases


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["x".join(map(str, case)) for case in CASES],
        metavar="SxCxW",
        help="voxels along each axis of the map, channels, voxels along each axis of a window",
    )
    parser.add_argument("--shifts", nargs="+", choices=SHIFTS, default=SHIFTS)
    parser.add_argument(
        "--reference",
        type=Path,
        default=FOLDER / "window_attention.py",
        metavar="FILE",
        help="Python file with DirectWindowAttention(channels, num_heads, window) of published names",
    )
    add_common(parser, rounds=15, least=MIN_ROUNDS)
    return parser


def made_layers(direct: Callable[..., nn.Module], case: Case, seed: int, device: str) -> list[Variant]:
    """Return the direct layer, ours and the two bounds, with the same weights."""
    torch.manual_seed(seed)
    heads, window = case.channels // HEAD_WIDTH, (case.window,) * 3
    reference = [direct(case.channels, heads, window) for _ in range(2)]
    ours = [WindowAttention(case.channels, heads, window, quirk=True) for _ in range(2)]
    linear = [_Linear(case.channels) for _ in range(2)]
    unbiased = [_Unbiased(case.channels) for _ in range(2)]
    state = moved(reference[0].state_dict(), seed)
    there = "model_down.layers.0.blocks.0.attn."  # the layer's place in a published network
    published = translate({there + key: value for key, value in state.items()}, "nnformer")
    own = {key.split(".attn.")[1]: value for key, value in published.items()}
    common = {key: value for key, value in own.items() if key.startswith(("qkv.", "proj."))}
    for layers, weights in ((reference, state), (ours, own), (linear, common), (unbiased, common)):
        for layer in layers:
            layer.load_state_dict(weights)
    found = []
    for name, layers in ((DIRECT, reference), (OURS, ours), (LINEAR, linear), (UNBIASED, unbiased)):
        first, second = (_Masked(layer, case.mask()).to(device) for layer in layers)
        found.append(Variant(name, first.eval(), second.train()))
    return found


def add_memory(found: dict[str, Any], variants: Sequence[Variant], shape: Sequence[int]) -> None:
    """Add to what was measured what is kept between calls and for the backward pass, and the peak beyond the weights.

    Args:
        found: What `measured` gave; changed in place.
        variants: What was measured.
        shape: Of the input.
    """
    for variant in variants:
        network = found["networks"][variant.name]
        kept = getattr(variant.inference.get_submodule("layer"), "_cached", None)
        cached = sum(part.numel() * part.element_size() for part in (kept or ())[1:] if part is not None)
        allocated = network["allocated_bytes"]
        network["peak_memory_bytes"]["forward"] += cached
        network["beyond_weights_bytes"] = {
            "forward": allocated["forward"] + cached,
            "step": allocated["step"] - 4 * network["parameters"],
        }
        network["cached_bytes"], network["saved_bytes"] = cached, saved_bytes(variant.training, shape)
    first = found["networks"][DIRECT]
    for name, ratio in found["ratios"].items():
        own = found["networks"][name]
        for key in ("peak_memory_bytes", "beyond_weights_bytes"):
            ratio[key] = {kind: own[key][kind] / first[key][kind] for kind in own[key]}
        ratio["saved_bytes"] = own["saved_bytes"] / first["saved_bytes"]


def _measured_layer(args: argparse.Namespace, case: Case) -> dict[str, Any]:
    direct = from_file(args.reference, "DirectWindowAttention", "(channels, num_heads, window)")
    variants = made_layers(direct, case, args.seed, args.device)
    torch.manual_seed(args.seed)
    windows = torch.randn(case.input_shape).to(args.device).requires_grad_()
    found = measured(variants, windows, args.rounds, args.precision, args.compile, apart=True)
    # behind the times, for it trains: the forward pass is that of a process that has only predicted
    equality = differences(variants[:2], windows)
    add_memory(found, variants, case.input_shape)
    return {**vars(case), "input_shape": list(case.input_shape), "equality": equality, **found}


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    check_common(args, MIN_ROUNDS)
    cases = parsed_cases(args.cases, args.shifts)
    from_file(args.reference, "DirectWindowAttention", "(channels, num_heads, window)")  # or say what is wrong with it
    layers = []
    # A process for each: what large tensors cost depends on what the process has allocated before.
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(cases))
        for case in cases:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                layers.append(process.submit(_measured_layer, args, case).result())
            progress.advance(task)
    settings = {
        "head_width": HEAD_WIDTH,
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
        title=f"{settings['device']}, {settings['precision']}",
        caption=f"x: over {DIRECT} (quartiles; {LINEAR}; {UNBIASED})",
    )
    for heading in ("layer", "eval, ms", "eval, x", "train, ms", "train, x", "eval, MiB x", "train, MiB x"):
        shown.add_column(heading, justify="left" if heading == "layer" else "right")
    for layer in result["layers"]:
        own, ratio = layer["networks"][OURS], layer["ratios"][OURS]
        cells = []
        for kind in ("forward", "step"):
            times = ratio["seconds"][kind]
            bounds = "; ".join(f"{layer['ratios'][name]['seconds'][kind]['median']:.3f}" for name in BOUNDS)
            cells.append(f"{1000 * own['seconds'][kind]['median']:.4g}")
            cells.append(f"{times['median']:.3f} ({times['q25']:.3f}-{times['q75']:.3f}; {bounds})")
        memory = [f"{ratio['peak_memory_bytes'][kind]:.3f}" for kind in ("forward", "step")]
        shown.add_row(layer_name(layer), *cells, *memory)
    return shown


def layer_name(layer: dict[str, Any]) -> str:
    """Return what a layer is called in tables."""
    kind = "shifted" if layer["shifted"] else "plain"
    return f"{layer['size']}^3, {layer['channels']} channels, windows of {layer['window']}, {kind}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(_MODULE, _parser(), _measure, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
