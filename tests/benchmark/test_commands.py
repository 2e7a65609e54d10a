"""The page on measuring has every option of the commands that it describes, and its commands can be run."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from nnunet_attn.benchmark import growth, layer, patches, pretraining, speed, window, window_tokens
from nnunet_attn.datasets import binary

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "measure-speed.md").read_text(encoding="utf-8")
COMMANDS = {
    "speed": (speed, "## Speed and memory"),
    "growth": (growth, "## Growth with the image"),
    "layer": (layer, "## Single layers"),
    "window": (window, "## Window attention"),
    "window_tokens": (window_tokens, "## FINE's tokens"),
    "patches": (patches, "## The patch transformer's grid"),
    "pretraining": (pretraining, "## Pre-training"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_section_of_its_command(name: str) -> None:
    module, heading = COMMANDS[name]
    section = PAGE.split(f"{heading}\n")[1].split("\n## ")[0]
    actions = [action for action in module._parser()._actions if action.dest != "help"]
    spellings = [spelling for action in actions for spelling in action.option_strings if spelling.startswith("--")]
    assert not [spelling for spelling in spellings if not re.search(rf"`{spelling}[` ]", section)]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_parse_and_name_what_exists(name: str) -> None:
    module, _ = COMMANDS[name]
    beginning = f"python -m nnunet_attn.benchmark.{name} "
    lines = [line for line in PAGE.replace("\\\n", " ").splitlines() if line.startswith(beginning)]
    assert lines
    for line in lines:
        args: argparse.Namespace = module._parser().parse_args(shlex.split(line.removeprefix(beginning)))
        given = getattr(args, "reference", None)
        given = given if isinstance(given, list) else [given]
        assert all(path is None or path.is_file() for path in given)


def test_the_commands_that_make_data_parse() -> None:
    beginning = "python -m nnunet_attn.datasets.binary "
    lines = [line for line in PAGE.replace("\\\n", " ").splitlines() if line.startswith(beginning)]
    assert lines
    for line in lines:
        assert binary._parser().parse_args(shlex.split(line.removeprefix(beginning))).name
