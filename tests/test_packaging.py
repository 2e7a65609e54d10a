"""Packages, links and configuration agree with the folders."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reading pyproject.toml needs Python 3.11 or tomli")


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def dotted(folder: Path, below: Path, prefix: str) -> set[str]:
    inner = {init.parent for init in folder.rglob("__init__.py")}
    return {".".join((prefix, *path.relative_to(below).parts)) for path in inner}


def test_every_package_is_listed_for_the_wheel() -> None:
    found = (
        {name for name in dotted(ROOT / "nnunet_attn", ROOT / "nnunet_attn", "nnunet_attn")}
        | dotted(ROOT / "architectures", ROOT / "architectures", "nnunet_attn.architectures")
        | dotted(ROOT / "studies", ROOT / "studies", "nnunet_attn.studies")
        | dotted(ROOT / "trainers", ROOT / "trainers", "nnunet_attn.trainers")
    )
    assert set(pyproject()["tool"]["setuptools"]["packages"]) == found


def test_the_links_lead_to_the_top_level_folders() -> None:
    for name in ("architectures", "studies", "trainers"):
        assert (ROOT / "nnunet_attn" / name).resolve() == ROOT / name


def test_version_and_licence_are_the_same_everywhere() -> None:
    import nnunet_attn

    project = pyproject()["project"]
    assert nnunet_attn.__version__ == project["version"]
    assert f"version: {project['version']}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_files_stay_within_four_hundred_lines() -> None:
    folders = ("nnunet_attn", "architectures", "trainers", "tests")
    sizes = {path: len(path.read_text().splitlines()) for name in folders for path in (ROOT / name).rglob("*.py")}
    assert not {str(path): lines for path, lines in sizes.items() if lines > 400}


@pytest.mark.slow
def test_listing_networks_needs_no_torch() -> None:
    code = (
        "import sys; from nnunet_attn.cli import main; main(['list', '--json']); main(['trainers-dir']); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
