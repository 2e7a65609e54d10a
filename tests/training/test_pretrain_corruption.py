"""Noise of the power that is asked for, and hidden cells."""

import pytest
import torch

from nnunet_attn.training.pretrain_corruption import HIDDEN_SHARE, hidden_cells, with_noise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_has_a_tenth_of_the_variance_of_each_sample_and_channel() -> None:
    scales = torch.tensor([[1.0, 5.0], [0.2, 30.0]])[..., None, None, None]
    # an offset, as of CT without normalisation, has no power
    image = torch.randn(2, 2, 24, 24, 24, generator=generator(1)) * scales + 1000.0
    noise = with_noise(image, generator(2)) - image
    ratio = image.var(dim=(2, 3, 4), correction=0) / noise.var(dim=(2, 3, 4))
    # 13824 draws: the estimate of a variance has a relative deviation of sqrt(2 / 13824) = 0.012
    assert torch.allclose(ratio, torch.full((2, 2), 10.0), rtol=0.06)
    assert noise.mean(dim=(2, 3, 4)).abs().max() < 0.05 * scales.max()
    assert torch.equal(with_noise(torch.full((1, 1, 4, 4), 7.0), generator()), torch.full((1, 1, 4, 4), 7.0))


def test_noise_follows_from_the_generator() -> None:
    image = torch.randn(1, 1, 8, 8)
    assert torch.equal(with_noise(image, generator(3)), with_noise(image, generator(3)))
    assert not torch.equal(with_noise(image, generator(3)), with_noise(image, generator(4)))


@pytest.mark.parametrize(
    ("space", "edges", "cells"),
    [((16, 24), (4, 8), 12), ((8, 12, 16), (4, 4, 8), 12), ((10, 9), (4, 4), 9), ((4, 4), (4, 4), 1)],
)
def test_a_quarter_of_the_cells_is_hidden_whole(space: tuple[int, ...], edges: tuple[int, ...], cells: int) -> None:
    hidden = hidden_cells(space, edges, 5, generator())
    assert hidden.shape == (5, 1, *space)
    assert set(hidden.unique().tolist()) <= {0.0, 1.0}
    # one voxel of each cell tells of the whole cell
    corner = (slice(None), 0, *(slice(None, None, edge) for edge in edges))
    corners = hidden[corner]
    assert corners[0].numel() == cells
    assert corners.flatten(1).sum(1).tolist() == [max(1, round(HIDDEN_SHARE * cells))] * 5
    for axis, (full, edge) in enumerate(zip(space, edges, strict=True), start=1):
        corners = corners.repeat_interleave(edge, dim=axis).narrow(axis, 0, full)
    assert torch.equal(hidden[:, 0], corners)
    if cells > 4:
        assert any(not torch.equal(hidden[0], other) for other in hidden[1:]), "each sample has its own"
