"""What a trainer's name says: its base and its suffixes, such as `nnUNetTrainerGASA_100epochs_bf16_seed3`.

Read without torch and nnU-Net; `nnunet_attn.training.variants` makes the classes.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_attn.architectures.registry import NETWORKS


def trainer_names() -> list[str]:
    """Return the names of all trainers of this package, without suffixes."""
    return [trainer for network in NETWORKS for trainer in network.trainers]


@dataclass(frozen=True)
class Suffix:
    """One kind of suffix.

    Args:
        pattern: What the text after the underscore must match as a whole.
        written: How it is written in help texts.
        meaning: One line for help texts.
        attributes: From the match to the class attributes that it sets.
    """

    pattern: re.Pattern[str]
    written: str
    meaning: str
    attributes: Callable[[re.Match[str]], dict[str, Any]]


PRETRAINING = "pretraining"
"""The attribute that puts `PretrainMixin` in front of a trainer."""

SUFFIXES: tuple[Suffix, ...] = (
    Suffix(
        re.compile(r"([1-9]\d*)epochs"), "_<N>epochs", "train N epochs (nnU-Net: 1000)", lambda m: {"epochs": int(m[1])}
    ),
    Suffix(
        re.compile(r"([1-9]\d*)its"),
        "_<N>its",
        "N iterations an epoch (nnU-Net: 250), a fifth as many for validation",
        lambda m: {"iterations_per_epoch": int(m[1])},
    ),
    Suffix(
        re.compile(r"save([1-9]\d*)"),
        "_save<N>",
        "checkpoint_latest.pth every N epochs (nnU-Net: 50, here at most a twentieth of the training)",
        lambda m: {"epochs_between_saves": int(m[1])},
    ),
    Suffix(
        re.compile(r"NoMirroring"),
        "_NoMirroring",
        "no mirroring, neither in training nor at inference",
        lambda _: {"mirroring": False},
    ),
    Suffix(
        re.compile(r"NoDA"),
        "_NoDA",
        "no data augmentation; no mirroring at inference either",
        lambda _: {"augmentation": False},
    ),
    Suffix(
        re.compile(r"bf16"),
        "_bf16",
        "mixed precision in bfloat16, without loss scaling",
        lambda _: {"precision": "bf16"},
    ),
    Suffix(re.compile(r"fp32"), "_fp32", "no mixed precision", lambda _: {"precision": "fp32"}),
    Suffix(
        re.compile(r"SGD"),
        "_SGD",
        "nnU-Net's own optimiser and schedule, in place of the trainer's",
        lambda _: {"optimizer_name": "sgd"},
    ),
    Suffix(
        re.compile(r"AdamW"),
        "_AdamW",
        "AdamW with a warm-up, as the axial networks are trained, in place of the trainer's",
        lambda _: {"optimizer_name": "adamw"},
    ),
    Suffix(
        # a digit other than 0 before the exponent, which has two digits at most: neither 0 nor infinity
        re.compile(r"lr(?=[\d.]*[1-9])(\d{1,6}(?:\.\d+)?(?:e-?\d{1,2})?)"),
        "_lr<X>",
        "highest learning rate X, such as 3e-4",
        lambda m: {"learning_rate": float(m[1])},
    ),
    Suffix(
        re.compile(r"seed(0|[1-9]\d*)"),
        "_seed<N>",
        "seed of the initial weights and of the workers' random streams",
        lambda m: {"seed": int(m[1])},
    ),
    Suffix(
        re.compile(r"PretrainDenoise"),
        "_PretrainDenoise",
        "pre-training without labels: take noise away; 250 epochs unless _<N>epochs says otherwise",
        lambda _: {PRETRAINING: "denoise"},
    ),
    Suffix(
        re.compile(r"PretrainInpaint"),
        "_PretrainInpaint",
        "pre-training without labels: fill in what is hidden",
        lambda _: {PRETRAINING: "inpaint"},
    ),
    Suffix(
        re.compile(r"PretrainBoth"),
        "_PretrainBoth",
        "pre-training without labels: one of the two for each step, at random",
        lambda _: {PRETRAINING: "both"},
    ),
)


@dataclass(frozen=True)
class ParsedName:
    """A trainer name taken apart.

    Args:
        base: The known trainer that it begins with; None if there is none.
        attributes: What its known suffixes set.
        unknown: Parts that are no known suffix.
        twice: Parts that set what an earlier part has set.
    """

    base: str | None
    attributes: Mapping[str, Any]
    unknown: tuple[str, ...]
    twice: tuple[str, ...]

    @property
    def is_valid(self) -> bool:
        """Whether the name stands for a class."""
        return self.base is not None and not self.unknown and not self.twice


def parse_trainer_name(name: str, bases: Iterable[str]) -> ParsedName:
    """Take a trainer name apart, with the longest of `bases` that it begins with."""
    fitting = [base for base in bases if name == base or name.startswith(f"{base}_")]
    if not fitting:
        return ParsedName(None, {}, (), ())
    base = max(fitting, key=len)
    attributes: dict[str, Any] = {}
    unknown: list[str] = []
    twice: list[str] = []
    for part in name[len(base) :].split("_")[1:]:
        found = next(
            (suffix.attributes(match) for suffix in SUFFIXES if (match := suffix.pattern.fullmatch(part))), None
        )
        if found is None:
            unknown.append(part)
        elif found.keys() & attributes.keys():
            twice.append(part)
        else:
            attributes.update(found)
    return ParsedName(base, attributes, tuple(unknown), tuple(twice))
