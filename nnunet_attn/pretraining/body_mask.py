"""Pseudo labels: where in an image there is something to see."""

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu


def body_mask(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return 1 where any channel is brighter than its Otsu threshold, 0 elsewhere: (c *space) -> (*space).

    It only says where nnU-Net takes its foreground patches and intensity statistics from. Channels that are constant
    count for nothing.

    Raises:
        ValueError: If a value is not finite, or all channels are constant.
    """
    if not np.isfinite(image).all():
        raise ValueError("it holds values that are not finite")
    varying = [channel for channel in image if channel.min() < channel.max()]
    if not varying:
        values = ", ".join(f"{channel.flat[0]:g}" for channel in image)
        raise ValueError(f"it is constant ({values}): there is nothing to learn from it")
    return np.any([channel > threshold_otsu(channel) for channel in varying], axis=0).astype(np.uint8)
