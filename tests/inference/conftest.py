"""Test images to predict, and a stand-in for the commands that predict them."""

from pathlib import Path

import pytest

from nnunet_attn.inference import predict_test
from nnunet_attn.paths import nnunet_environment
from tests.made.predict_test import Stock, write_test_cases


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder above nnU-Net's, which hold three labelled test cases and the models of two trainers."""
    for key, value in nnunet_environment(tmp_path, base={}).items():
        monkeypatch.setenv(key, value)
    write_test_cases(tmp_path)
    return tmp_path


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Stock:
    """The stand-in, which keeps what it was asked for."""
    made = Stock()
    monkeypatch.setattr(predict_test, "run_stock", made)
    return made
