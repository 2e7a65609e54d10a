"""Makes the page of the study of positions; see `nnunet_attn.benchmark.pages`."""

from nnunet_attn.benchmark.markdown import Results, measured_with, table

_POSITION = """# Organs that differ by position alone

Does a network know where its patch lies? Four equal balls in noise, one in each quarter of axes 1 and 2, whose label is
the quarter; a patch shows at most one of them, and not the border of the image beside it. All networks can find the
balls (Dice of the union: all organs as one), but only one that reads its position can name them: whoever guesses among
four is right in a quarter of the cases. The same plans, cases, iterations and seeds for each trainer, without
mirroring, on held-out cases that nnU-Net predicts. A made task, narrow networks and a small budget: a check that the
tokens of this implementation do what they are for, no more. See [how to measure](../how-to/measure-speed.md#positions).
"""


def position_page(results: Results) -> str:
    """Return the page of all `position-*.json`, as Markdown."""
    parts = [_POSITION]
    for file, result in results.items():
        runs, seeds = result["runs"], result["seeds"]
        median, patch = ("x".join(str(round(n)) for n in result[key]) for key in ("median_size", "patch_size"))
        parts.append(
            f"## {result['epochs']} epochs of {result['iterations_per_epoch']} iterations, {len(seeds)} "
            f"{'seed' if len(seeds) == 1 else 'seeds'}\n\n"
            f"Volumes {median} in the median, patch {patch}, batch {result['batch_size']}, {result['cases']} cases and "
            f"{result['test_cases']} held-out ones, `embed_dim` {result['options']['FINE']['embed_dim']}, on "
            f"{result['device']}.\n"
        )
        heading = ["trainer", *(f"seed {seed}" for seed in seeds), "mean Dice", f"minus {result['reference']}"]
        rows = []
        for base, mean in result["mean"].items():
            by_seed = {run["seed"]: run["dice"] for run in runs if run["network"] == base}
            difference = f"{result['difference_to_reference'][base]:+.3f}"
            numbers = [f"{number:.3f}" for number in (*(by_seed[seed] for seed in seeds), mean["dice"])]
            rows.append([base, *numbers, difference, f"{mean['dice_of_the_union']:.3f}"])
        parts += [table([*heading, "Dice of the union"], rows), measured_with(result, file)]
    return "\n".join(parts)
