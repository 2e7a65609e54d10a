"""The documentation names what the code has, its links lead somewhere, and its commands and snippets are legal."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_attn.architectures.build import locate, option_names
from nnunet_attn.architectures.registry import NETWORKS, Network
from nnunet_attn.benchmark import learning, position, speed
from nnunet_attn.cli import _parser
from nnunet_attn.doctor import trainer_names
from nnunet_attn.paths import nnunet_environment
from nnunet_attn.stock import run_stock
from nnunet_attn.training.variants import SUFFIXES, parse_trainer_name

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PARSERS = {
    "nnunet-attn": _parser(),
    "python -m nnunet_attn.benchmark.speed": speed._parser(),
    "python -m nnunet_attn.benchmark.learning": learning._parser(),
    "python -m nnunet_attn.benchmark.position": position._parser(),
}


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    fenced = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [re.sub(rf"^{indent}", "", content, flags=re.MULTILINE) for indent, content in fenced]


def sub_commands() -> dict[str, argparse.ArgumentParser]:
    actions = _parser()._actions
    return dict(next(a for a in actions if isinstance(a, argparse._SubParsersAction)).choices)


def options(parser: argparse.ArgumentParser) -> list[str]:
    return [action.option_strings[-1] for action in parser._actions if action.option_strings and action.dest != "help"]


@pytest.mark.parametrize("page", ["README.md", "docs/reference/networks.md"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_every_network_is_in_the_tables(network: Network, page: str) -> None:
    dims = ", ".join(f"{d}D" for d in network.dims)
    wanted = [f"| {network.name} |", dims, network.source, *(f"`{trainer}`" for trainer in network.trainers)]
    assert not [part for part in wanted if part not in text(page)]
    rows = [line for line in text(page).splitlines() if line.startswith(f"| {network.name} |")]
    assert len(rows) == 1 and dims in rows[0] and network.source in rows[0]
    assert ("cascade" in rows[0] or "| yes |" in rows[0]) is network.cascade


def test_every_trainer_is_explained() -> None:
    pages = (text("docs/reference/trainers.md"), text("docs/reference/recipes.md"))
    assert not [name for name in trainer_names() for page in pages if f"`{name}`" not in page]


@pytest.mark.parametrize("network", [n for n in NETWORKS if n.class_path], ids=lambda network: network.name)
def test_every_option_is_on_the_networks_page(network: Network) -> None:
    class_path = network.class_path or ""
    page = text(f"docs/reference/networks/{class_path.split('.')[-2].replace('_', '-')}.md")
    assert not [option for option in option_names(network) if f"| `{option}` |" not in page]
    assert class_path in text("docs/reference/networks.md")


@pytest.mark.parametrize("page", ["README.md", "docs/reference/trainers.md"])
def test_every_suffix_is_documented(page: str) -> None:
    assert not [suffix.written for suffix in SUFFIXES if f"| `{suffix.written}` |" not in text(page)]


def test_every_command_and_option_is_documented() -> None:
    cli, speeds = text("docs/reference/cli.md"), text("docs/how-to/measure-speed.md")
    for name, parser in sub_commands().items():
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", cli, re.MULTILINE | re.DOTALL)
        assert section is not None, f"{name} has no section"
        assert not [option for option in options(parser) if f"`{option}`" not in section[1]], name
    for module in (speed, learning, position):
        for option in options(module._parser()):
            assert re.search(rf"`{option}[` ]", speeds), f"{module.__name__}: {option}"


def targets(page: Path) -> Iterator[str]:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for target in targets(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    reached = {(index.parent / target.partition("#")[0]).resolve() for target in targets(index)}
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs") and page.parent.name != "results"}
    assert pages - reached == {index}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse_and_trainer_names_exist(page: Path) -> None:
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for beginning, parser in PARSERS.items():
                if line.startswith(f"{beginning} "):
                    parser.parse_args(shlex.split(line.removeprefix(beginning).replace('"$DEVICE"', "cpu")))
        for name in re.findall(r"nnUNetTrainer\w+(?:[.-]\d+)?", block):
            assert parse_trainer_name(name.split("__")[0], trainer_names()).is_valid, name


def stock_commands(page: Path) -> Iterator[list[str]]:
    """The words of each nnU-Net command in a page's bash blocks, from the command's name on."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            first = next((index for index, word in enumerate(words) if word.startswith("nnUNetv2_")), None)
            if first is not None:
                yield words[first:]


@pytest.mark.slow
def test_flags_of_stock_commands_exist(tmp_path: Path) -> None:
    used: dict[str, set[str]] = {}
    for page in PAGES:
        for command, *words in stock_commands(page):
            used.setdefault(command, set()).update(word for word in words if re.match(r"--?[a-zA-Z]", word))
    assert {"nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_plan_and_preprocess"} <= used.keys()
    for command, flags in sorted(used.items()):
        shown = run_stock(command, ["--help"], nnunet_environment(tmp_path))
        known = set(re.findall(r"(?<![\w-])--?[a-zA-Z]\w*", shown))
        assert flags <= known, f"{command} has no {sorted(flags - known)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_snippets_compile_and_import_what_exists(page: Path) -> None:
    embedded = [code for block in blocks(page, "bash") for code in re.findall(r"<<'PY'\n(.*?)^PY$", block, re.M | re.S)]
    for code in [*blocks(page, "python"), *embedded]:
        compile(code, str(page), "exec")
        for module, names in re.findall(r"^from (nnunet_attn\S*) import (.+)$", code, re.MULTILINE):
            for name in names.split(", "):
                locate(f"{module}.{name}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_is_left_to_be_written(page: Path) -> None:
    assert not re.search(r"TO BE FILLED|TODO|TBD|FIXME|XXX", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short(page: Path) -> None:
    if page.parent.name != "results":
        lines = page.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]
