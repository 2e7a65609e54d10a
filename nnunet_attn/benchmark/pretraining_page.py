"""Makes the page of the study of pre-training; see `nnunet_attn.benchmark.pages`."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_attn.benchmark.markdown import Results, measured_with, table

_PRETRAINING = """# Pre-training where few labels are

Does a network that has first learned from images without labels segment better when few labels are left to learn from?
Each network is trained from scratch, and fine-tuned as a whole from each pre-training (`nnunet-attn pretrain`), with
the same plans, labelled cases, iterations and seeds; pre-training comes on top of that. Its images are those of the
training cases that are in none of the labelled sets; their labels are not read. A labelled set has a fifth of its
cases, at least one, for validation. The plans are nnU-Net's for all training cases. Dice is nnU-Net's own evaluation of
the held-out test cases, mean over labels and cases; surface distances are not part of this study. See
[how to measure](../how-to/measure-speed.md#pre-training).
"""


def pretraining_page(results: Results) -> str:
    """Return the page of all `pretraining-*.json`, as Markdown."""
    parts = [_PRETRAINING]
    for file, result in results.items():
        seeds = result["seeds"]
        parts.append(f"## {result['dataset']}, {result['configuration']}, {len(seeds)} seeds, {result['device']}\n")
        parts.append(_described(result))
        heading = ["network, start", *(f"seed {seed}" for seed in seeds), "mean Dice", "minus scratch", "seeds above"]
        for labels in result["labels"]:
            split = result["splits"][str(labels)]
            parts.append(
                f"{labels} labelled cases, {len(split['train'])} of them for training and {len(split['val'])} for "
                "validation:\n"
            )
            rows = [row for row in result["rows"] if row["labels"] == labels]
            parts += [table(heading, [_cells(row, result) for row in rows]), _told(rows, len(seeds))]
        if result["pretrainings"]:
            parts += [_learned(result["pretrainings"])]
        parts.append(measured_with(result, file))
    return "\n".join(parts)


def _described(result: Mapping[str, Any]) -> str:
    what = "Made images, a narrow network and a small budget: no statement about patients.\n" * result["made_data"]
    tuned, before = result["epochs"], result["pretrain_epochs"]
    pretraining = f", {before} epochs of as many before on {result['unlabelled_cases']} cases"
    return (
        f"{what}{result['test_cases']} test cases. {tuned} epochs of {result['iterations_per_epoch']} iterations with "
        f"labels{pretraining if result['pretrainings'] else ''}, "
        f"{'with' if result['mirroring'] else 'without'} mirroring. Plans: patch "
        f"{'x'.join(map(str, result['patch_size']))}, batch {result['planned_batch_size']}, features "
        f"{'-'.join(map(str, result['features_per_stage']))}; options: {_options(result['options'])}.\n"
    )


def _options(options: Mapping[str, Mapping[str, Any]]) -> str:
    told = [
        f"{network} {', '.join(f'`{name}` {value}' for name, value in own.items())}" for network, own in options.items()
    ]
    return "; ".join(told) or "none"


def _cells(row: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    dice = {
        run["seed"]: run["dice"]
        for run in result["runs"]
        if all(run[key] == row[key] for key in ("labels", "network", "start"))
    }
    numbers = [f"{number:.3f}" for number in (*(dice[seed] for seed in result["seeds"]), row["dice"])]
    gain = row.get("difference_to_scratch")
    more = ["", ""] if gain is None else [f"{gain:+.3f}", f"{row['seeds_above_scratch']} of {len(dice)}"]
    return [f"{row['network']}, {row['start']}", *numbers, *more]


def _told(rows: Sequence[Mapping[str, Any]], seeds: int) -> str:
    """Say in words what the differences are, whichever way they went."""
    told = []
    for row in rows:
        gain = row.get("difference_to_scratch")
        if gain is not None:
            word = "raised" if gain > 0 else "did not raise"
            told.append(
                f"- {row['network']}: pre-training by {row['start']} {word} the mean Dice over training from scratch "
                f"({gain:+.3f}; above in {row['seeds_above_scratch']} of {seeds} seeds)."
            )
    return "\n".join(told) + "\n" if told else ""


def _learned(pretrainings: Sequence[Mapping[str, Any]]) -> str:
    """Return how well images are reconstructed after pre-training."""
    rows = [
        [
            f"{each['network']}, {each['task']}",
            str(each["seed"]),
            ", ".join(f"{task}: {_number(mean['r2'])}" for task, mean in each["mean"].items()),
        ]
        for each in pretrainings
    ]
    return "What pre-training reached on images that it was trained on, R^2 = 1 - MSE / variance:\n\n" + table(
        ("network, task", "seed", "R^2"), rows
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
