"""nnU-Net's folders in the environment, and a preprocessed data set in them."""

from pathlib import Path

import pytest

from nnunet_attn.paths import nnunet_environment
from tests.made.splits import write_preprocessed


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder above nnU-Net's three, which are empty."""
    for key, value in nnunet_environment(tmp_path, base={}).items():
        monkeypatch.setenv(key, value)
    return tmp_path


@pytest.fixture
def folder(folders: Path) -> Path:
    """A preprocessed data set of 23 cases in two configurations, by its file names."""
    return write_preprocessed(folders)
