"""Makes the pages of the measurements of window attention and of FINE's tokens; see `nnunet_attn.benchmark.pages`."""

from typing import Any

from nnunet_attn.benchmark.markdown import HOW, KINDS, Results, measured_with, spread, table

_WINDOW = f"""# Window attention

Window attention against its direct transcription (`DirectWindowAttention` in `tests/reference`: biases gathered at
each call, softmax of all similarities), with the same weights, at the stages of nnFormer at a patch of 64 x 128 x 128
and a batch of 1. Eval is a forward pass without gradients, train one with the backward pass to parameters and input.

Behind each ratio are two others over the direct layer, which say what there is to win: that of the two matrix products
alone that the layer begins and ends with, and that of attention with PyTorch's fused kernel to which no bias and no
mask is added. The deeper the stage, the more of the time are these products, and of the memory in training the
gradients of their weights. Peak memory in eval has the sums of biases and mask that our layer keeps from one call to
the next, one for each kind of window. The last columns have what is kept for the backward pass, weights aside, which
adds up over a network's layers.

Each layer is measured in a process of its own, and eval before anything is trained there. The direct layer's
similarities are large tensors, 48 MiB each at the first stage; what they cost depends on whether the process has the
memory already, from training, or gets it anew from the system, as a process that only predicts does.

Goals: eval at most 0.67 of the direct time at the first stage and 0.95 at the others, train at most 0.87 and 1.05; peak
memory at most 0.7 in eval and 0.9 in train. Where one of the two bounds leaves less than 0.04 for a goal, the bound +
0.04 is the goal.

Missed on the CPU: in eval, peak memory of the shifted layer of 768 channels, for the sums of biases and mask that are
kept: elsewhere many windows share one, there each of the eight has its own; and time at the two deepest stages in
windows of 4, by a hundredth, which is less than what runs differ by; in train, peak memory of 768 channels in windows
of 4, half of which are the gradients of the weights.
{HOW}"""

_TOKENS = f"""# The cost of FINE's tokens

FINE against the same network without tokens (`NNFormer2021`), with 5 x 5 sub-volumes, as published. `carry=False` is
the published function; by default a stage's sub-volumes start from the stage before, so that more of the attention
among tokens reaches the voxels and is there. Training is with deep supervision and a batch of 1.

Goals: at most 6 % more time and 10 % more activations kept for the backward pass. On the CPU both are met at the
published width, 192. A quarter as wide, where the tokens' many small operations weigh more, FINE as it is by default is
about 1 % above in time.

Activations are counted exactly, without computing anything. Parameters grow more than both: the attention among tokens
is as wide as that of the voxels, but works on few tokens.
{HOW}"""


def window_page(results: Results) -> str:
    """Return the page of all `window-*.json`, as Markdown."""
    parts = [_WINDOW]
    for file, result in results.items():
        settings = result["settings"]
        parts.append(
            f"## Layers, {settings['device']}, {settings['precision']}"
            + (", compiled" if settings["compile"] else "")
            + f", heads {settings['head_width']} wide, {settings['rounds']} rounds\n"
        )
        rows = []
        for layer in result["layers"]:
            own, *bounds = layer["ratios"]
            network, ratio = layer["networks"][own], layer["ratios"][own]
            least = [layer["ratios"][name] for name in bounds]
            times = [
                f"{1000 * network['seconds'][kind]['median']:.2f} ({spread(ratio['seconds'][kind])}; "
                + ", ".join(f"{bound['seconds'][kind]['median']:.3f}" for bound in least)
                + ")"
                for kind in KINDS
            ]
            memory = [
                f"{network['peak_memory_bytes'][kind] / 2**20:.1f} ({ratio['peak_memory_bytes'][kind]:.4f}; "
                + ", ".join(f"{bound['peak_memory_bytes'][kind]:.3f}" for bound in least)
                + ")"
                for kind in KINDS
            ]
            beyond = (
                f"{network['beyond_weights_bytes']['step'] / 2**20:.1f} ({ratio['beyond_weights_bytes']['step']:.4f})"
            )
            saved = f"{network['saved_bytes'] / 2**20:.1f} ({ratio['saved_bytes']:.4f})"
            size = f"{layer['size']}^3, {layer['channels']}, {layer['window']}^3"
            size += ", shifted" if layer["shifted"] else ""
            rows.append([size, *times, *memory, beyond, saved, f"{layer['equality']['eval']:.1e}"])
        heading = ("map, channels, window", "eval, ms", "train, ms", "eval peak, MiB", "train peak, MiB")
        heading = (*heading, "train peak without weights, MiB", "kept for backward, MiB", "largest relative difference")
        parts += [table(heading, rows), measured_with(result, file)]
    return "\n".join(parts)


def tokens_page(results: Results) -> str:
    """Return the page of all `fine-tokens-*.json`, as Markdown."""
    parts = [_TOKENS]
    for file, result in results.items():
        settings = result["settings"]
        shape = "x".join(map(str, settings["input_shape"][2:]))
        parts.append(
            f"## Patch {shape}, {settings['device']}, {settings['precision']}"
            + (", compiled" if settings["compile"] else "")
            + f", at most {settings['rounds']} rounds\n"
        )
        rows = []
        for size in result["sizes"]:
            for name, network in size["networks"].items():
                rows.append([name, str(size["width"]), str(size["rounds"]), *_cells(network, size["ratios"].get(name))])
        heading = ("network", "width", "rounds", "forward, s", "step, s", "forward peak, MiB", "step peak, MiB")
        parts += [table(heading, rows)]
        rows = []
        for counted in result["activations"]:
            for name, own in counted["networks"].items():
                ratio = counted["ratios"].get(name)
                cells = [f"{own['saved_bytes'] / 2**20:.1f}", f"{own['parameters']:,}"]
                cells.append(f"{4 * own['parameters'] / 2**20:.1f}")
                if ratio is not None:
                    over = (ratio["saved_bytes"], ratio["parameters"], ratio["parameters"])
                    cells = [f"{cell} ({factor:.4f})" for cell, factor in zip(cells, over, strict=True)]
                rows.append([name, str(counted["width"]), *cells])
        heading = ("network", "width", "kept activations, MiB", "parameters", "parameters, MiB")
        parts += [table(heading, rows), measured_with(result, file)]
    return "\n".join(parts)


def _cells(network: dict[str, Any], ratio: dict[str, Any] | None) -> list[str]:
    cells = [
        *(f"{network['seconds'][kind]['median']:.3f}" for kind in KINDS),
        *(f"{network['peak_memory_bytes'][kind] / 2**20:.1f}" for kind in KINDS),
    ]
    if ratio is None:
        return cells
    over = [
        *(spread(ratio["seconds"][kind]) for kind in KINDS),
        *(f"{ratio['peak_memory_bytes'][kind]:.4f}" for kind in KINDS),
    ]
    return [f"{cell} ({factor})" for cell, factor in zip(cells, over, strict=True)]
