"""Makes the page of what the patch transformer's grid saves; see `nnunet_attn.benchmark.pages`."""

from collections.abc import Mapping
from typing import Any

from nnunet_attn.benchmark.markdown import HOW, Results, measured_with, spread, table

_PATCHES = f"""# The patch transformer's grid

What is saved where the patch transformer labels a whole grid of patches at once, and changes no result: each patch is
embedded once for all blocks that hold it, and of the last stage only the centre patch is computed. Blocks are compared
with a transcription of the equations that labels one block after the other (`SlowPatchTransformer` in
`tests/reference`), with the network's own layers on one whole block after the other, and on batches of them. Prediction
of an image by `GridPredictor`, one pass over the grid, is compared with nnU-Net's predictor, whose tiles overlap by
half, without mirroring, for the same network.

Goals: at most 0.55 of the time of one block at a time, at full size, on the CPU; at most 0.2 of the time of tiles of
96^3 for an image of 160^3.
{HOW}"""


def patches_page(results: Results) -> str:
    """Return the page of all `patches-*.json`, as Markdown."""
    parts = [_PATCHES]
    for file, result in results.items():
        settings = result["settings"]
        parts.append(
            f"## Patches of {settings['patch_embed_size']}^3, blocks of {settings['neighbourhood']}^3, "
            f"{settings['device']}\n"
        )
        if "blocks" in result:
            parts += _blocks(result["blocks"], settings)
        if "image" in result:
            parts += _image(result["image"], settings)
        rows = [
            [goal["what"], f"{goal['ratio']:.4f}", f"{goal['at_most']}", "yes" if goal["met"] else "no"]
            for goal in result["goals"]
        ]
        parts += [table(("goal", "measured", "at most", "met"), rows), measured_with(result, file)]
    return "\n".join(parts)


def _blocks(found: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    largest = max(found["equality"].values())
    text = (
        f"{found['cells']} blocks, a crop of {_size(found['crop'])}, width {settings['width']}, {settings['depth']} "
        f"stages, {found['parameters']:,} parameters, {settings['rounds']} rounds; the logits differ by at most "
        f"{largest:.1e} of the largest one. The ratio is the network over the row.\n"
    )
    rows = []
    for name, own in found["networks"].items():
        ratio = found["ratios"].get(name)
        cells = [
            f"{own['seconds']['median']:.3f}",
            spread(ratio["seconds"]) if ratio else "",
            f"{own['allocated_bytes'] / 2**20:.1f}",
            f"{ratio['allocated_bytes']:.3f}" if ratio else "",
            f"{own['forward_flops'] / found['cells'] / 1e9:.4f}",
            f"{ratio['forward_flops']:.4f}" if ratio else "",
        ]
        rows.append([name, *cells])
    heading = ("blocks", "s", "ratio", "memory over what is held, MiB", "ratio", "GFLOP a block", "ratio")
    return [text, table(heading, rows)]


def _image(found: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    agreement = found["agreement"]
    text = (
        f"An image of {_size(found['image'])}, tiles of {_size(found['tile'])}, width {settings['image_width']}, "
        f"{found['parameters']:,} parameters, {settings['image_rounds']} rounds. The weights are as drawn; of the "
        f"voxels, {agreement['share_of_equal_voxels']:.2%} get the same of {found['num_classes']} labels (the more "
        f"frequent one has {agreement['share_of_the_most_frequent_label']:.0%}), which says nothing of a trained "
        "network.\n"
    )
    rows = []
    for name, own in found["networks"].items():
        ratio = found["ratios"].get(name)
        cells = [
            f"{own['seconds']['median']:.2f}",
            spread(ratio["seconds"]) if ratio else "",
            f"{own['allocated_bytes'] / 2**20:.1f}",
            f"{ratio['allocated_bytes']:.3f}" if ratio else "",
        ]
        rows.append([name, *cells])
    heading = ("prediction", "s", "ratio", "memory over what is held, MiB", "ratio")
    counts = [
        [
            _size(counted["tile"]),
            str(counted["tiles"]),
            str(counted["blocks"]),
            str(counted["grid_blocks"]),
            f"{counted['ratio']:.4f}",
        ]
        for counted in found["blocks"]
    ]
    counted = table(("tile", "tiles", "blocks in tiles", "blocks of the grid", "ratio"), counts)
    return [text, table(heading, rows), "Blocks, counted:\n", counted]


def _size(voxels: list[int]) -> str:
    return "x".join(map(str, voxels))
