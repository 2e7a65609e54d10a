"""Measures the metrics' speed, memory and agreement: `python -m nnunet_attn.benchmark.evaluation --help`."""

import argparse
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy.ndimage import binary_erosion, distance_transform_edt

from nnunet_attn.benchmark.command import run
from nnunet_attn.benchmark.evaluation_agreement import TOLERANCE_MM, agreement, compared_blob, library_metrics
from nnunet_attn.benchmark.evaluation_cases import SIZES, Size, made_case, scaled_down
from nnunet_attn.benchmark.measure import cpu_seconds
from nnunet_attn.benchmark.provenance import check_output
from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.metrics import case_metrics

OURS, EROSION, LIBRARY, WHOLE = "area", "erosion", "library", "whole volume"
BASELINES = (LIBRARY, WHOLE)
_MODULE = "nnunet_attn.benchmark.evaluation"
_MEANING = {
    OURS: "case_metrics, all metrics, area-weighted surfaces",
    EROSION: "case_metrics, all metrics, surfaces by erosion",
    LIBRARY: "for each label: both masks of the whole volume to the library surface-distance, and overlap by counting",
    WHOLE: "for each label, on the whole volume: erosion and distance transform of both masks, and overlap by counting",
    "seconds": "for each case, CPU time of this one process, label maps in memory; of a baseline that was measured on "
    "some labels only, their time over their part of the labels",
    "times_faster": "a baseline's seconds over ours of the same case",
    "peak_memory_bytes": "of the first case, in a run of its own: the peak of what is allocated through Python and "
    "NumPy beyond the two label maps; of a baseline for one label, which is all it holds at once",
    "processes": "each case is one process's work, so with N processes there are N times the memory",
    "blobs": "metrics of random blobs by this package and by two libraries",
}


def whole_volume_metrics(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Return the surface metrics by erosion and distance transform of masks that are not empty, as scripts do it."""
    surfaces = [mask & ~np.asarray(binary_erosion(mask), bool) for mask in (prediction, reference)]
    maps = [np.asarray(distance_transform_edt(~surface, sampling=spacing_mm)) for surface in surfaces]
    directed = maps[1][surfaces[0]], maps[0][surfaces[1]]
    pooled = np.concatenate(directed)
    return {
        "nsd": float(np.mean(pooled <= TOLERANCE_MM)),
        "hd95_mm": max(float(np.percentile(distances, 95)) for distances in directed),
        "assd_mm": float(pooled.mean()),
    }


def _each_label(
    surfaces: Callable[..., dict[str, float]],
    prediction: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    spacing_mm: Sequence[float],
    labels: Sequence[int],
) -> dict[str, dict[str, float]]:
    """Return a baseline's metrics: overlap and surfaces of the whole masks of one label after the other."""
    found = {}
    for label in labels:
        ours, theirs = prediction == label, reference == label
        both, sizes = int(np.sum(ours & theirs)), (int(ours.sum()), int(theirs.sum()))
        if not all(sizes):
            continue
        overlap = {"dice": 2 * both / sum(sizes), "iou": both / (sum(sizes) - both)}
        found[str(label)] = overlap | surfaces(ours, theirs, spacing_mm)
    return found


def _works(
    size: Size, case: tuple[NDArray[np.uint8], NDArray[np.uint8]], baseline_labels: Mapping[str, Sequence[int]]
) -> dict[str, Callable[[], dict[str, dict[str, float]]]]:
    classes = {str(label): (label,) for label in range(1, len(size.organs) + 1)}
    spacing = size.spacing_mm
    works = {
        OURS: lambda: case_metrics(*case, spacing, classes, tolerance_mm=TOLERANCE_MM),
        EROSION: lambda: case_metrics(*case, spacing, classes, tolerance_mm=TOLERANCE_MM, surface="erosion"),
        LIBRARY: lambda: _each_label(library_metrics, *case, spacing, baseline_labels[LIBRARY]),
        WHOLE: lambda: _each_label(whole_volume_metrics, *case, spacing, baseline_labels[WHOLE]),
    }
    return {name: work for name, work in works.items() if name not in BASELINES or baseline_labels.get(name)}


def measured_size(
    size: Size,
    cases: int,
    baseline_cases: int,
    whole_labels: int,
    seed: int,
    on_case: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure one kind of case; what is compared runs one after the other on the same case.

    Args:
        size: Of the cases.
        cases: How many are measured.
        baseline_cases: How many of them by the baselines too.
        whole_labels: How many labels, from the first to the last, `WHOLE` measures; its time is the same for each.
        seed: Of the first case; the next ones count on.
        on_case: Called after each case.
    """
    labels = range(1, len(size.organs) + 1)
    some = sorted({labels[round(place)] for place in np.linspace(0, len(labels) - 1, min(whole_labels, len(labels)))})
    baseline_labels = {LIBRARY: labels, WHOLE: some}
    seconds: dict[str, list[float]] = {name: [] for name in (OURS, EROSION, *BASELINES)}
    memory: dict[str, int] = {}
    for number in range(cases):
        case = made_case(size, seed + number)
        if number == 0:
            memory = _peaks(_works(size, case, dict.fromkeys(BASELINES, labels[:1])))  # also warms up
        works = _works(size, case, baseline_labels if number < baseline_cases else {})
        for name in list(works)[:: 1 if number % 2 == 0 else -1]:
            part = len(baseline_labels.get(name, labels)) / len(labels)
            seconds[name].append(cpu_seconds(works[name]) / part)
        on_case()
    return {
        "size": size.name,
        "shape": list(size.shape),
        "spacing_mm": list(size.spacing_mm),
        "labels": len(labels),
        "cases": cases,
        "processes": 1,
        "baseline_cases": {LIBRARY: len(seconds[LIBRARY]), WHOLE: len(seconds[WHOLE])},
        "baseline_labels": {name: len(own) for name, own in baseline_labels.items()},
        "seconds": {name: quartiles(own) for name, own in seconds.items() if own},
        "times_faster": {
            name: {
                baseline: quartiles(
                    [theirs / ours for theirs, ours in zip(seconds[baseline], seconds[name], strict=False)]
                )
                for baseline in BASELINES
                if seconds[baseline]
            }
            for name in (OURS, EROSION)
        },
        "peak_memory_bytes": memory,
    }


def _peaks(works: Mapping[str, Callable[[], object]]) -> dict[str, int]:
    peaks = {}
    for name, work in works.items():
        tracemalloc.start()
        try:
            work()
            peaks[name] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    return peaks


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles."""
    q25, median, q75 = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "q25": float(q25), "q75": float(q75)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES))
    parser.add_argument(
        "--cases", nargs="+", type=int, default=[220, 20], metavar="N", help="of each size: 220 and 20 by default"
    )
    parser.add_argument(
        "--baseline-cases",
        nargs="+",
        type=int,
        default=[220, 2],
        metavar="N",
        help="of each size; 220 and 2 by default",
    )
    parser.add_argument(
        "--whole-labels",
        type=int,
        default=2,
        metavar="N",
        help="labels of a case that are eroded on the whole volume, where each takes the same time; 2 by default",
    )
    parser.add_argument("--scale", type=int, default=1, metavar="N", help="voxels N times as large, for a try")
    parser.add_argument("--blobs", type=int, default=30, metavar="N", help="random ones to compare definitions on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    parser.set_defaults(device="cpu")
    return parser


def _check(args: argparse.Namespace) -> None:
    for option in ("cases", "baseline_cases"):
        given, flag = getattr(args, option), f"--{option.replace('_', '-')}"
        least = 1 if option == "cases" else 0
        if len(given) < len(args.sizes) or min(given) < least:
            raise InputError(f"{flag} {' '.join(map(str, given))}; one number, {least} or more, for each of --sizes")
    for flag, value in (("--whole-labels", args.whole_labels), ("--scale", args.scale), ("--blobs", args.blobs)):
        if value < 1:
            raise InputError(f"{flag} {value}; at least 1")
    if args.out is not None:
        check_output(args.out)


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    _check(args)
    measured = []
    counts = list(zip(args.sizes, args.cases, args.baseline_cases, strict=False))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=sum(cases for _, cases, _ in counts) + args.blobs)
        for name, cases, baseline_cases in counts:
            size = scaled_down(SIZES[name], args.scale)
            measured.append(
                measured_size(
                    size, cases, baseline_cases, args.whole_labels, args.seed, on_case=lambda: progress.advance(task)
                )
            )
        blobs = []
        for number in range(args.blobs):
            blobs.append(compared_blob(args.seed + number))
            progress.advance(task)
    settings = {
        "device": "cpu",
        "tolerance_mm": TOLERANCE_MM,
        "scale": args.scale,
        "libraries": {name: version(name) for name in ("numpy", "scipy", "SimpleITK", "surface-distance")},
    }
    return {
        "meaning": _MEANING,
        "settings": settings,
        "sizes": measured,
        "agreement": agreement(blobs),
        "blobs": blobs,
    }


def table(result: dict[str, Any]) -> Table:
    """Return what is printed: a row for each size and way, with how many times faster ours are."""
    shown = Table(title="evaluation of one case, CPU time", caption="x: times faster than the baselines")
    for heading in ("size", "way", "cases", "seconds", *(f"x {name}" for name in BASELINES), "peak, MiB"):
        text = heading in ("size", "way")
        shown.add_column(heading, justify="left" if text else "right", no_wrap=text)
    for size in result["sizes"]:
        for name, seconds in size["seconds"].items():
            faster = size["times_faster"].get(name, {})
            shown.add_row(
                size["size"],
                name,
                str(size["baseline_cases"].get(name, size["cases"])),
                f"{seconds['median']:.4g}",
                *(f"{faster[other]['median']:.2f}" if other in faster else "" for other in BASELINES),
                f"{size['peak_memory_bytes'][name] / 2**20:.1f}",
            )
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(_MODULE, _parser(), _measure, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
