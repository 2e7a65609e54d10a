"""What a pre-training learned from: kept beside its weights, and compared before they are used again."""

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_attn.errors import InputError
from nnunet_attn.training.extent import EXTENT_KEY, PLANS_KEY

FILE = "learned_from.json"
_NAMED = 3  # cases that a message names of each kind
# where images lie, and which configuration reads the result, changes nothing
_IRRELEVANT = ("data_identifier", "next_stage")


def learned_from(plans: Mapping[str, Any], configuration: str, images: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that a pre-training depends on, but for its trainer and task, which its folder is named after.

    Args:
        plans: Plans of the data set to fine-tune on.
        configuration: Name of the configuration.
        images: Stamps of each case's images (`nnunet_attn.pretraining.unlabelled.stamps_of`).
    """
    entry = PlansManager(deepcopy(dict(plans))).get_configuration(configuration).configuration
    about = {
        **{name: value for name, value in entry.items() if name not in _IRRELEVANT},
        "transpose_forward": plans["transpose_forward"],
        "foreground_intensity_properties_per_channel": plans["foreground_intensity_properties_per_channel"],
        EXTENT_KEY: plans.get(PLANS_KEY, {}).get(EXTENT_KEY, {}).get(configuration),
    }
    # as JSON gives it back
    return json.loads(json.dumps({"plans": about, "images": images}, default=str))


def write_learned_from(fold: Path, content: Mapping[str, Any]) -> None:
    """Write down in the folder of a training what it is about to learn from."""
    fold.mkdir(parents=True, exist_ok=True)
    partial = fold / f"{FILE}.partial"
    partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
    os.replace(partial, fold / FILE)


def check_learned_from(fold: Path, now: Mapping[str, Any], plans_name: str) -> None:
    """Refuse the weights or checkpoints in a folder if they come of something else than `now`.

    Raises:
        InputError: If anything has changed since, or nothing says what they come of.
    """
    if not any(fold.glob("*.pth")):
        return
    try:
        then = json.loads((fold / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{fold} holds a training that nnunet-attn pretrain has not started, so that nothing says what it learned "
            "from; use its weights by nnUNetv2_train ... -pretrained_weights, or remove that folder"
        ) from error
    changed = [
        *_changed_images(then["images"], now["images"]),
        *_changed_plans(then["plans"], now["plans"], plans_name),
    ]
    if changed:
        raise InputError(
            f"{'; '.join(changed)}: these have changed since the pre-training in {fold}; remove that folder to "
            "pre-train again, or put back what was there"
        )


def _changed_images(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    kinds = {
        "new": [case for case in now if case not in then],
        "removed": [case for case in then if case not in now],
        "written anew": [case for case in now if case in then and then[case] != now[case]],
    }
    return [f"images {kind}: {_named(cases)}" for kind, cases in kinds.items() if cases]


def _named(cases: list[str]) -> str:
    more = len(cases) - _NAMED
    return ", ".join(sorted(cases)[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _changed_plans(then: Mapping[str, Any], now: Mapping[str, Any], plans_name: str) -> list[str]:
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return [f"plans {plans_name}: {', '.join(names)}"] if names else []
