"""Makes the page of the measurements of the metrics; see `nnunet_attn.benchmark.pages`."""

from collections.abc import Mapping
from typing import Any

from nnunet_attn.benchmark.markdown import Results, measured_with, table
from nnunet_attn.evaluation.results import METRICS

_EVALUATION = """# Speed and agreement of the metrics

**Speed** is that of `case_metrics`, with all metrics of all labels, on made label maps: organ-like blobs and
predictions that nearly meet them. Reading files is not in it. It is CPU time of one process, the median over cases
with the quartiles in brackets; what is compared runs on the same case, one after the other. The baselines are what
scripts do: for each label, both masks of the whole volume to the library surface-distance, or erosion and distance
transform of both masks on the whole volume, and overlap by counting. Where a baseline would take too long it was
measured on fewer cases, and erosion on some labels only: on whole volumes each takes the same time. Memory is the peak
of what is allocated beyond the two label maps; each process of an evaluation holds as much.

Goals: at least 5 times faster than erosion and distance transform on whole volumes, and not slower than the library for
each label.

Missed on the CPU: the first goal where the volumes are as small as those of the Hippocampus data set, at three times:
there a whole volume is only some eight times the box of a label, and more than a third of our time is the search for
the nearest elements, which no crop makes less. Both goals are met with CT.

**Agreement** is with SimpleITK, which knows nothing of this package, on random blobs with voxels of other lengths along
each axis. Overlap, volumes and the erosion reading have to be the same but for rounding (SimpleITK's distance maps have
single precision), and so has the area reading to the library it comes from. The area reading puts the surface on the
corners of voxels and SimpleITK's erosion in their middle, so there distances may differ by a voxel's diagonal. See
[metrics](../reference/metrics.md).
"""


def evaluation_page(results: Results) -> str:
    """Return the page of all `evaluation-*.json`, as Markdown."""
    parts = [_EVALUATION]
    for file, result in results.items():
        parts += ["## Speed\n", *(_speed(size) for size in result["sizes"]), measured_with(result, file)]
        parts += [_agreement(result)]
    return "\n".join(parts)


def _speed(size: Mapping[str, Any]) -> str:
    shape, spacing = ("x".join(f"{value:g}" for value in size[key]) for key in ("shape", "spacing_mm"))
    rows = []
    baselines = list(size["baseline_cases"])
    for name, seconds in size["seconds"].items():
        faster = size["times_faster"].get(name, {})
        cases = f"{size['baseline_cases'].get(name, size['cases'])}"
        labels = size["baseline_labels"].get(name, size["labels"])
        rows.append(
            [
                name,
                cases if labels == size["labels"] else f"{cases} ({labels} labels of each)",
                f"{_ms(seconds['median'])} [{_ms(seconds['q25'])}, {_ms(seconds['q75'])}]",
                *(_times(faster[baseline]) if baseline in faster else "" for baseline in baselines),
                f"{size['peak_memory_bytes'][name] / 2**20:.1f}",
            ]
        )
    heading = ("way", "cases", "ms for a case", *(f"times faster than {name}" for name in baselines), "peak, MiB")
    labels = "label" if size["labels"] == 1 else "labels"
    return (
        f"{size['cases']} cases of {shape} voxels of {spacing} mm, {size['labels']} {labels}, {size['processes']} "
        f"process:\n\n{table(heading, rows)}"
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}" if seconds < 1 else f"{1000 * seconds:,.0f}"


def _times(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} [{ratio['q25']:.2f}, {ratio['q75']:.2f}]"


def _agreement(result: Mapping[str, Any]) -> str:
    found, blobs = result["agreement"], result["blobs"]
    exact = [
        [
            metric,
            *(
                f"{found['exact'][other][metric]:.1e}" if metric in found["exact"][other] else ""
                for other in found["exact"]
            ),
        ]
        for metric in METRICS
    ]
    rows = [
        [
            str(blob["seed"]),
            "x".join(f"{step:g}" for step in blob["spacing_mm"]),
            f"{blob['voxel_diagonal_mm']:.2f}",
            f"{blob['area']['dice']:.3f}",
            *(f"{blob['area'][metric]:.2f} / {blob['simpleitk'][metric]:.2f}" for metric in ("hd95_mm", "assd_mm")),
            f"{blob['area']['nsd']:.3f} / {blob['simpleitk']['nsd']:.3f}",
        ]
        for blob in blobs
    ]
    largest = ", ".join(f"{metric} by {value:.2f}" for metric, value in found["in_voxel_diagonals"].items())
    tolerance = f"{result['settings']['tolerance_mm']:g} mm"
    libraries = ", ".join(f"{name} {number}" for name, number in result["settings"]["libraries"].items())
    heading = ("metric", "overlap, volumes and erosion: SimpleITK", "area: surface-distance")
    return (
        f"## Agreement\n\n{len(blobs)} blobs; {libraries}. Largest differences where only rounding may differ, "
        f"relative to 1 or to the value, if that is larger:\n\n{table(heading, exact)}\n"
        f"Largest differences of the area reading to SimpleITK's erosion, in voxel diagonals: {largest}; of the NSD at "
        f"{tolerance} {found['nsd']:.3f}. Blob by blob, area reading / SimpleITK's erosion:\n\n"
        + table(("blob", "voxel, mm", "diagonal, mm", "dice", "hd95, mm", "assd, mm", f"nsd at {tolerance}"), rows)
    )
