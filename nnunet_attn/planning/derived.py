"""Plans derived from nnU-Net's own, for the same preprocessed data."""

import json
import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any


def narrowed_plans(
    plans: Mapping[str, Any],
    plans_name: str,
    configurations: Iterable[str],
    first_stage_features: int,
    batch_size: int | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return plans for networks of a smaller width; patch, strides, kernels and data stay as planned.

    Args:
        plans: nnU-Net's own plans; not changed.
        plans_name: Name of the new plans.
        configurations: Those to keep.
        first_stage_features: Features of the first stage; those of the others are divided by the same factor.
        batch_size: Another batch size; None keeps the planned one.
        options: Network -> its options (`configurations.<name>.nnunet_attn`); None leaves those of the plans.
    """
    kept = {name: deepcopy(plans["configurations"][name]) for name in configurations}
    for entry in kept.values():
        if "architecture" not in entry:  # it inherits that of another configuration
            continue
        arguments = entry["architecture"]["arch_kwargs"]
        features = arguments["features_per_stage"]
        arguments["features_per_stage"] = [max(1, n * first_stage_features // features[0]) for n in features]
        if batch_size is not None:
            entry["batch_size"] = batch_size
        if options is not None:
            entry["nnunet_attn"] = deepcopy(dict(options))
    return {**plans, "plans_name": plans_name, "configurations": kept}


def write_plans(plans: Mapping[str, Any], preprocessed_dataset: Path) -> Path:
    """Write plans beside the data set's others, under their own name; returns the file."""
    file = preprocessed_dataset / f"{plans['plans_name']}.json"
    partial = file.with_suffix(".json.partial")
    partial.write_text(json.dumps(plans, indent=4) + "\n", encoding="utf-8")
    os.replace(partial, file)
    return file
