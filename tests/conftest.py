"""Fixtures for all tests; `gpu` tests are skipped where there is no CUDA."""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from nnunet_attn.paths import trainers_dir


def pytest_configure() -> None:
    """Compute on one core: tests are small, and threads that wait for a busy core cost more than they bring."""
    torch.set_num_threads(1)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep a file's tests in one of pytest-xdist's processes where they share a data set that takes long to make."""
    if item.path.parent.name == "integration":
        item.add_marker(pytest.mark.xdist_group(str(item.path)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests where there is no CUDA."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs CUDA, none is available"))


@pytest.fixture(scope="session")
def load_leaf() -> Callable[[str], ModuleType]:
    """Import the leaf of trainers/ that defines a trainer, under a name of its own, as nnU-Net does."""

    def load(name: str) -> ModuleType:
        (file,) = (file for file in trainers_dir().glob("*.py") if f"class {name}(" in file.read_text())
        spec = importlib.util.spec_from_file_location(f"leaf_{name}", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load
