"""The loss in a region, R^2 and PSNR against values computed by hand, and the picture."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from nnunet_attn.training.pretrain_drawing import draw_reconstructions, middle_slices
from nnunet_attn.training.pretrain_measures import ReconstructionError, Totals, reconstruction_measures, with_region

# one sample, two channels of 2 x 2
CLEAN = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [2.0, 2.0]]]])
OUTPUT = CLEAN + torch.tensor([[[[1.0, 0.0], [9.0, 9.0]], [[0.0, 2.0], [9.0, 9.0]]]])
FIRST_ROW = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])


def test_the_loss_counts_the_region_alone() -> None:
    # errors 1, 0 in the first channel and 0, 2 in the second: (1 + 0 + 0 + 4) / 4
    output = OUTPUT.clone().requires_grad_()
    loss = ReconstructionError()(output, with_region(CLEAN, FIRST_ROW))
    assert loss.item() == 1.25
    loss.backward()
    assert output.grad is not None
    assert not output.grad[:, :, 1].any() and output.grad[:, :, 0].any()
    everywhere = ReconstructionError()(OUTPUT, with_region(CLEAN, torch.ones_like(FIRST_ROW)))
    assert everywhere.item() == (1 + 0 + 81 + 81 + 0 + 4 + 81 + 81) / 8


def test_the_loss_is_summed_in_single_precision() -> None:
    output = torch.full((1, 1, 64, 64), 300.0).half()
    # 300^2 is more than float16 can hold
    assert ReconstructionError()(output, with_region(torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 64, 64))) == 90000


def test_r2_of_each_channel_over_all_batches() -> None:
    everywhere = torch.ones(1, 1, 2, 2)
    halves = [Totals.of(OUTPUT[..., [i]], with_region(CLEAN[..., [i]], everywhere[..., [i]])) for i in (0, 1)]
    whole = Totals.sum(halves)
    # channel 0: 1, 2, 3, 4 has variance 1.25, MSE (1 + 81 + 81) / 4; channel 1: variance 1, MSE (4 + 81 + 81) / 4
    assert whole.explained == pytest.approx([1 - 40.75 / 1.25, 1 - 41.5])
    assert whole.mse == pytest.approx(41.125)
    assert Totals.of(CLEAN, with_region(CLEAN, everywhere)).explained == [1.0, 1.0]
    # as good as the mean is 0, and so is what does not vary at all
    mean = CLEAN.mean(dim=(2, 3), keepdim=True).expand_as(CLEAN)
    assert Totals.of(mean, with_region(CLEAN, everywhere)).explained == [0.0, 0.0]
    constant = torch.full((1, 1, 8, 8), 1000.1)
    assert Totals.of(constant, with_region(constant, torch.ones_like(constant))).explained == [0.0]


def test_psnr_of_a_case() -> None:
    everywhere = torch.ones(1, 1, 2, 2)
    clean = CLEAN[:, :1]
    # a range of 3 and an error of 0.3 everywhere: 10 log10(9 / 0.09) = 20 dB; 0.03: 40 dB
    measures = reconstruction_measures(clean + 0.03, clean + 0.3, with_region(clean, everywhere))
    assert measures["psnr_db"] == pytest.approx(40, abs=1e-3)
    assert measures["psnr_db_given"] == pytest.approx(20, abs=1e-3)
    assert measures["mse"] == pytest.approx(9e-4, rel=1e-3)
    assert measures["r2"] == pytest.approx(1 - 9e-4 / 1.25)
    perfect = reconstruction_measures(clean, clean, with_region(clean, everywhere))
    assert perfect["psnr_db"] is None and perfect["mse"] == 0


def test_an_empty_region_tells_nothing() -> None:
    nowhere = with_region(CLEAN, torch.zeros(1, 1, 2, 2))
    assert Totals.of(OUTPUT, nowhere).explained == [0.0, 0.0]
    assert np.isnan(Totals.of(OUTPUT, nowhere).mse)
    measures = reconstruction_measures(OUTPUT, CLEAN, nowhere)
    assert measures == {"mse": None, "r2": None, "psnr_db": None, "psnr_db_given": None}
    assert ReconstructionError()(OUTPUT, nowhere).item() == 0


@pytest.mark.parametrize("space", [(10, 12), (4, 10, 12)])
def test_drawing_shows_the_middle_slice_of_each_channel(tmp_path: Path, space: tuple[int, ...]) -> None:
    clean = torch.arange(2.0)[(..., *[None] * len(space))] + torch.rand(2, *space)
    rows = middle_slices("denoise", clean + 1, clean - 1, clean)
    assert [row.title for row in rows] == ["denoise, channel 0", "denoise, channel 1"]
    middle = clean[1] if len(space) == 2 else clean[1, 2]
    assert np.array_equal(rows[1].clean, middle.numpy())
    assert np.array_equal(rows[1].output, (middle - 1).numpy())
    file = tmp_path / "new" / "picture.png"
    draw_reconstructions(file, "epoch 3", rows)
    picture = matplotlib.image.imread(file)
    assert picture.shape[0] > 400 and picture.std() > 0.1
    assert [path.name for path in file.parent.iterdir()] == ["picture.png"]
