"""Measures what the patch transformer's grid saves: `python -m nnunet_attn.benchmark.patches --help`."""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from nnunet_attn.benchmark import measure
from nnunet_attn.benchmark.command import check_common, run
from nnunet_attn.benchmark.comparison import MEANING
from nnunet_attn.benchmark.patch_blocks import (
    AT_A_TIME,
    BATCHED,
    DIRECT,
    NUM_HEADS,
    ONE,
    SHARED,
    TOLERANCE,
    made_network,
    measure_blocks,
)
from nnunet_attn.benchmark.patch_image import GRID, TILES, measure_image
from nnunet_attn.benchmark.transcriptions import FOLDER
from nnunet_attn.errors import InputError

MIN_ROUNDS = 5
PARTS = ("blocks", "image")
MOST_OF_ONE, MOST_OF_TILES = 0.55, 0.2
"""Goals for the time over one block at a time, at full size, and over nnU-Net's tiles of 96 of an image of 160."""
_MODULE = "nnunet_attn.benchmark.patches"
_LEAST_IMAGE = 12  # voxels of the phantom along each axis
_MEANING = {
    "seconds": MEANING["seconds"] + "; prediction only, eval mode, no gradients",
    "held_bytes": MEANING["held_bytes"],
    "allocated_bytes": MEANING["allocated_bytes"]
    + "; cpu: without the few tiles that nnU-Net's predictor has ready in "
    "another thread",
    "peak_memory_bytes": MEANING["peak_memory_bytes"],
    "forward_flops": MEANING["forward_flops"],
    "ratios": "of the last over each other: of times, median and quartiles of the ratio of each round, measured one "
    "right after the other in every round, in the opposite order in every second round",
    "equality": f"of the blocks: largest difference of the logits from those of {DIRECT}, over the largest one; the "
    "same weights, float32",
    DIRECT: "the equations, without any saving: each block is cut from the voxels, one after the other",
    ONE: "the network's own layers on one block after the other, all patches and stages of each computed",
    BATCHED: f"the same, {AT_A_TIME} blocks at a time",
    "agreement": "share of the voxels that both predictors label alike. Nothing has been trained, the weights are as "
    "drawn: it says how far borders and overlap of tiles change the labels of such a network, not of a trained one",
    "blocks": "the tiles of nnU-Net's prediction with the blocks in them, and those of one grid over the image, "
    "counted, for several sizes of tiles; ratio: grid over tiles",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="both by default")
    parser.add_argument("--cells", type=int, default=4, metavar="N", help="cells along each axis. Default: 4")
    parser.add_argument(
        "--width", type=int, default=1024, metavar="N", help="of tokens, of the blocks' network. Default: 1024"
    )
    parser.add_argument("--depth", type=int, default=7, metavar="N", help="stages of both networks. Default: 7")
    parser.add_argument("--patch-embed-size", type=int, default=8, metavar="N", help="voxels of a patch. Default: 8")
    parser.add_argument("--neighbourhood", type=int, default=3, metavar="N", help="patches of a block. Default: 3")
    parser.add_argument("--image", type=int, default=160, metavar="N", help="voxels along each axis. Default: 160")
    parser.add_argument("--tile", type=int, default=96, metavar="N", help="voxels of a tile. Default: 96")
    parser.add_argument(
        "--counted",
        type=int,
        nargs="*",
        default=[64, 80, 128, 160],
        metavar="N",
        help="further tiles, whose blocks are counted only. Default: 64 80 128 160",
    )
    parser.add_argument(
        "--image-width", type=int, default=128, metavar="N", help="of tokens, of the image's network. Default: 128"
    )
    parser.add_argument("--image-rounds", type=int, default=3, metavar="N", help="rounds of the image. Default: 3")
    parser.add_argument(
        "--reference",
        type=Path,
        default=FOLDER / "patch_transformer.py",
        metavar="FILE",
        help="Python file with SlowPatchTransformer; that of a checkout's tests by default",
    )
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="of the blocks, at least 5. Default: 9")
    parser.add_argument("-device", "--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0, help="of weights, crop and image. Default: 0")
    return parser


def _check(args: argparse.Namespace) -> None:
    check_common(args, MIN_ROUNDS)
    least = {"cells": 1, "width": 1, "depth": 1, "image": _LEAST_IMAGE, "tile": 1, "image_rounds": 1, "image_width": 1}
    for name, number in least.items():
        if getattr(args, name) < number:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}; it has to be at least {number}")
    if any(edge < 1 for edge in args.counted):
        raise InputError(f"--counted {' '.join(map(str, args.counted))}; tiles have at least 1 voxel")


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    _check(args)
    device = torch.device(args.device)
    networks = {
        part: made_network(width, args.depth, args.patch_embed_size, args.neighbourhood, args.seed, device)
        for part, width in (("blocks", args.width), ("image", args.image_width))
        if part in args.parts
    }
    on_cuda = device.type == "cuda"
    rounds = {"blocks": args.rounds, "image": args.image_rounds}
    found: dict[str, Any] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=sum(rounds[part] + 1 for part in networks))
        common = (args.seed, measure.cuda_seconds if on_cuda else measure.cpu_seconds, lambda: progress.advance(task))
        with nullcontext() if on_cuda else measure.threads(1):
            if "blocks" in networks:
                found["blocks"] = measure_blocks(networks["blocks"], args.cells, args.reference, args.rounds, *common)
            if "image" in networks:
                size, tile = [args.image] * 3, [args.tile] * 3
                found["image"] = measure_image(networks["image"], size, tile, args.counted, args.image_rounds, *common)
    settings = {
        "patch_embed_size": args.patch_embed_size,
        "neighbourhood": args.neighbourhood,
        "depth": args.depth,
        "num_heads": NUM_HEADS,
        "width": args.width if "blocks" in found else None,
        "image_width": args.image_width if "image" in found else None,
        "rounds": args.rounds,
        "image_rounds": args.image_rounds,
        "device": args.device,
        "precision": "fp32, predictors on CUDA: autocast to fp16" if on_cuda else "fp32",
        "threads": None if on_cuda else 1,
        "tolerance": TOLERANCE,
    }
    return {"meaning": _MEANING, "settings": settings, **found, "goals": goals(found)}


def goals(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is to be reached, and whether it was, of what has been measured.

    Args:
        found: The parts of a result.
    """
    wanted = []
    if "blocks" in found:
        ratios = found["blocks"]["ratios"]
        wanted += [(f"{SHARED} over {name}, time", ratios[name], MOST_OF_ONE) for name in (DIRECT, ONE)]
    if "image" in found:
        edge = found["image"]["tile"][0]
        wanted.append((f"{GRID} over {TILES} of {edge}, time", found["image"]["ratios"][TILES], MOST_OF_TILES))
    return [
        {
            "what": what,
            "ratio": ratio["seconds"]["median"],
            "at_most": most,
            "met": ratio["seconds"]["median"] <= most,
        }
        for what, ratio, most in wanted
    ]


def table(result: dict[str, Any]) -> Table:
    """Return what is printed: time and memory of each way to compute the same, and what the last is over it."""
    settings = result["settings"]
    shown = Table(
        title=f"patches of {settings['patch_embed_size']}^3, blocks of {settings['neighbourhood']}^3, "
        f"{settings['device']}",
        caption="; ".join(
            f"{goal['what']}: {goal['ratio']:.3f}, at most {goal['at_most']} wanted" for goal in result["goals"]
        ),
    )
    for heading in ("", "seconds", "time, x", "MiB", "memory, x"):
        shown.add_column(heading, justify="right" if heading else "left")
    for part in (part for part in PARTS if part in result):
        for name, own in result[part]["networks"].items():
            ratio = result[part]["ratios"].get(name)
            cells = [f"{own['seconds']['median']:.4g}", "", f"{own['peak_memory_bytes'] / 2**20:.1f}", ""]
            if ratio is not None:
                times = ratio["seconds"]
                cells[1] = f"{times['median']:.3f} ({times['q25']:.3f}-{times['q75']:.3f})"
                cells[3] = f"{ratio['peak_memory_bytes']:.3f}"
            shown.add_row(name, *cells)
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(_MODULE, _parser(), _measure, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
