"""Pseudo labels on images whose body is known."""

import numpy as np
import pytest

from nnunet_attn.pretraining.body_mask import body_mask


def body(value: float, shape: tuple[int, ...] = (6, 12, 12)) -> np.ndarray:
    image = np.zeros(shape, dtype=np.float32)
    image[..., 3:9, 3:9] = value
    return image


@pytest.mark.parametrize("offset", [0.0, -1000.0])
def test_finds_the_body(offset: float) -> None:
    noise = np.random.default_rng(0).normal(scale=1.0, size=(6, 12, 12))
    mask = body_mask((body(50) + noise + offset)[None].astype(np.float32))
    assert mask.dtype == np.uint8
    # of several thresholds between noise and body, Otsu's rule takes the lowest, and noise may reach it
    assert np.mean(mask != body(1)) < 0.01


def test_any_channel_counts_and_constant_ones_do_not() -> None:
    left, right = body(5), np.flip(body(7), axis=-1).copy()
    left[..., 6:] = 0
    right[..., :6] = 0
    constant = np.full_like(left, 3)
    assert np.array_equal(body_mask(np.stack([left, right, constant])), body(1))


def test_a_colour_image_is_one_slice() -> None:
    image = np.random.default_rng(0).integers(0, 256, size=(3, 1, 8, 8)).astype(np.float32)
    mask = body_mask(image)
    assert mask.shape == (1, 8, 8) and mask.any()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((1, 4, 4, 4)), r"constant \(0\)"),
        (np.stack([np.zeros((4, 4)), np.full((4, 4), 2.5)]), r"constant \(0, 2.5\)"),
        (np.where(np.eye(4, dtype=bool), np.nan, 1.0)[None], "not finite"),
    ],
)
def test_nothing_to_see_is_an_error(image: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        body_mask(image)
