"""Fixtures for all tests; `gpu` tests are skipped where there is no CUDA."""

import importlib.util
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Read as PyTorch and Matplotlib are imported, here and in what tests start: two processes of tests share the cores,
# nnU-Net asks for a thread a core, and threads that wait for a busy core take it from those that compute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MATPLOTLIBRC", str(Path(__file__).parent / "made" / "matplotlibrc"))

import torch

from nnunet_attn.paths import trainers_dir

INTEGRATION = "tests/integration/"
SHARING = {
    "five folds": (f"{INTEGRATION}test_stock_commands.py", f"{INTEGRATION}test_predict_test.py"),
    "slurm": (f"{INTEGRATION}slurm/",),
}
"""Files, by their names' beginnings, that share what takes long to make."""
ALONE = ("trainers/test_contract.py",)
"""Long files whose tests share nothing: each test is a group of its own."""


def pytest_configure() -> None:
    """Compute on one core: tests are small, and threads that wait for a busy core cost more than they bring."""
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # a shell that starts pytest in the background lets Ctrl-C be ignored, also by what tests start and interrupt
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip `gpu` tests where there is no CUDA; in pytest-xdist's processes, begin with what takes long."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs CUDA, none is available"))
    if hasattr(config, "workerinput"):
        slow = Counter(group_of(item.nodeid) for item in items if item.get_closest_marker("slow"))
        # what is left for the end is short, so that the processes end at the same time
        items.sort(key=lambda item: (not item.nodeid.startswith(INTEGRATION), -slow[group_of(item.nodeid)]))
        first = {group: index for index, group in enumerate(dict.fromkeys(group_of(item.nodeid) for item in items))}
        items.sort(key=lambda item: first[group_of(item.nodeid)])


def group_of(test: str) -> str:
    """Return the group of a test whose tests one of pytest-xdist's processes runs: its file, or files that share."""
    file = test.split("::")[0]
    if file.endswith(ALONE):
        return test
    return next((group for group, files in SHARING.items() if file.startswith(files)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole groups, in the order of collection; marks of groups have no effect with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


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
