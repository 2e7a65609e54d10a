"""Positions for networks that read them, in every prediction that nnU-Net's predictor makes.

This is the only place of the package that changes a class of nnU-Net for good: one public method, which stays what it
was for every network without `position_axes`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_METHOD = "predict_sliding_window_return_logits"
_MARK = "nnunet_attn_gives_positions"


def plain_network(network: Any) -> Any:
    """Return a network without what DistributedDataParallel, DataParallel and torch.compile put around it."""
    while True:
        if isinstance(network, DistributedDataParallel | DataParallel):
            network = network.module
        elif isinstance(compiled := getattr(network, "_orig_mod", None), nn.Module):
            network = compiled
        else:
            return network


def centred_coordinates(length: int) -> NDArray[np.float32]:
    """Return the coordinates of the voxels along an axis, relative to the volume's centre (length - 1) / 2.

    Multiples of 1/2 are exact.
    """
    return (np.arange(length) - (length - 1) / 2).astype(np.float32)


def with_positions(network: Any, image: Any) -> Any:
    """Return a whole image with the channels of coordinates that a network reads, or the image itself.

    (c *shape) -> (c + axes *shape) if the network has `position_axes` and the image exactly its `input_channels`.
    Memory: the image once more and 4 bytes a voxel and axis.
    """
    network = plain_network(network)
    axes = tuple(getattr(network, "position_axes", ()))
    if not axes or not isinstance(image, Tensor) or image.ndim != 4 or image.shape[0] != network.input_channels:
        return image
    channels, *shape = image.shape
    placed = torch.empty((channels + len(axes), *shape), dtype=torch.float32, device=image.device)
    placed[:channels] = image
    for channel, axis in zip(placed[channels:], axes, strict=True):
        # an axis of its own for the voxels, to which the others are broadcast
        along = torch.from_numpy(centred_coordinates(shape[axis])).to(image.device)
        channel.copy_(along.view([-1 if other == axis else 1 for other in range(len(shape))]))
    return placed


def install() -> None:
    """Let `nnUNetPredictor.predict_sliding_window_return_logits` give positions to the networks that read them.

    Done when `nnunet_attn.training` is imported, and once however often it is called. Subclasses of the predictor
    have it too, unless they replace the method without calling it.
    """
    original: Callable[..., Any] = getattr(nnUNetPredictor, _METHOD)
    if getattr(original, _MARK, False):
        return

    @wraps(original)
    def predict(self: Any, input_image: Any, *arguments: Any, **keywords: Any) -> Any:
        return original(self, with_positions(self.network, input_image), *arguments, **keywords)

    setattr(predict, _MARK, True)
    setattr(nnUNetPredictor, _METHOD, predict)
