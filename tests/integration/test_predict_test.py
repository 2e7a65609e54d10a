"""`nnunet-attn predict-test` with the stock commands: the same files, and the mean of the probabilities."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.evaluation.results import read_evaluation
from nnunet_attn.inference.predict_test import PredictedTest, predict_test
from nnunet_attn.inference.predict_test_request import PredictTestRequest
from tests.integration.conftest import DATASET, PLANS, TRAINER, Workspace

pytestmark = pytest.mark.slow

FOLDS = (0, 1)


def predicted(five_folds: Workspace, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> PredictedTest:
    for key, value in five_folds.environment().items():
        monkeypatch.setenv(key, value)
    wanted = {"plans": PLANS, "folds": FOLDS, "device": "cpu", "preprocessing_processes": 1, "export_processes": 1}
    (result,) = predict_test(PredictTestRequest(str(DATASET), (TRAINER,), "2d", **{**wanted, **changed}))
    return result


def test_the_mean_of_logits_is_what_the_stock_command_writes(
    five_folds: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = predicted(five_folds, monkeypatch, output=tmp_path / "ours")
    words = ("-i", five_folds.images, "-o", tmp_path / "stock", "-d", DATASET, "-c", "2d", "-p", PLANS, "-tr", TRAINER)
    five_folds.run("nnUNetv2_predict", *words, "-f", *FOLDS, "-device", "cpu", "-npp", 1, "-nps", 1)
    stock = sorted((tmp_path / "stock").glob("*.nii.gz"))
    assert [path.name.removesuffix(".nii.gz") for path in stock] == list(result.cases) and len(stock) == 2
    for path in stock:
        assert (result.folder / path.name).read_bytes() == path.read_bytes()
    evaluation = read_evaluation(result.folder)
    assert [case.case for case in evaluation.cases] == list(result.cases)
    assert (evaluation.origin.trainer, evaluation.origin.folds, evaluation.origin.ensemble) == (
        TRAINER,
        FOLDS,
        "logits",
    )


def test_softmax_is_the_mean_of_the_folds_probabilities(
    five_folds: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = predicted(
        five_folds, monkeypatch, output=tmp_path / "ours", ensemble="softmax", keep_probabilities=True, evaluate=False
    )
    for case in result.cases:
        parts = [np.load(result.folder / f"fold_{fold}" / f"{case}.npz")["probabilities"] for fold in FOLDS]
        assert not np.array_equal(*parts)
        wanted = np.mean(parts, axis=0).argmax(0)
        found = sitk.GetArrayFromImage(sitk.ReadImage(result.folder / f"{case}.nii.gz"))
        assert np.array_equal(found, wanted)
