"""Whether a trainer of a name exists, and what its name says, without importing torch where that can be."""

import ast
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nnunet_attn.architectures.registry import NETWORKS, Network
from nnunet_attn.errors import InputError
from nnunet_attn.paths import TRAINER_VARIABLE, trainers_dir
from nnunet_attn.study.messages import nearest
from nnunet_attn.trainer_names import PRETRAINING, SUFFIXES, parse_trainer_name, trainer_names


@dataclass(frozen=True)
class Trainer:
    """A trainer that exists.

    Args:
        name: As it was given.
        base: Without suffixes; of a trainer that is not of this package the whole name.
        attributes: What its suffixes set; empty for a trainer that is not of this package.
        network: Its row in the registry; None for a trainer that is not of this package.
    """

    name: str
    base: str
    attributes: Mapping[str, Any]
    network: Network | None


def named_trainer(name: str) -> Trainer:
    """Return what a trainer's name says.

    Raises:
        InputError: If there is no such trainer, with what is wrong in the name.
    """
    parsed = parse_trainer_name(name, trainer_names())
    suffixes = ", ".join(suffix.written for suffix in SUFFIXES)
    if parsed.base is None:
        if not _is_foreign(name, os.environ.get(TRAINER_VARIABLE, "")):
            raise InputError(f"there is no trainer {name}{nearest(name, trainer_names())}; see: nnunet-attn list")
        return Trainer(name, name, {}, None)
    if parsed.unknown:
        parts = ", ".join(f"'_{part}'" for part in parsed.unknown)
        raise InputError(f"{parsed.base} exists, but not its suffix {parts}; suffixes: {suffixes}")
    if parsed.twice:
        parts = ", ".join(f"'_{part}'" for part in parsed.twice)
        raise InputError(f"{name}: {parts} sets again what an earlier suffix has set; give it once")
    if PRETRAINING in parsed.attributes:
        raise InputError(f"{name} is a pre-training, not a training; add pretrain to the row in place of the suffix")
    network = next(each for each in NETWORKS if parsed.base in each.trainers)
    return Trainer(name, parsed.base, parsed.attributes, network)


@lru_cache
def _is_foreign(name: str, variable: str) -> bool:
    """Whether nnU-Net finds a trainer that is not of this package, in its own folder or those that it is told."""
    if not re.fullmatch(r"[A-Za-z]\w*", name) or "__" in name:
        return False
    folders = [
        Path(folder) for folder in variable.split(os.pathsep) if folder and Path(folder).resolve() != trainers_dir()
    ]
    spec = importlib.util.find_spec("nnunetv2")
    stock = Path(spec.origin).parent / "training" / "nnUNetTrainer" if spec is not None and spec.origin else None
    if any(_defines(file, name) for folder in (stock, *folders) if folder for file in _modules(folder)):
        return True
    if not folders:
        return False
    from nnunet_attn.doctor import explain_trainer  # the folders' modules may make classes in other ways

    return explain_trainer(name).state == "ok"


def _modules(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.rglob("*.py"))


def _defines(file: Path, name: str) -> bool:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
        return name in text and any(
            isinstance(node, ast.ClassDef) and node.name == name for node in ast.parse(text).body
        )
    except (OSError, SyntaxError, ValueError):
        return False
