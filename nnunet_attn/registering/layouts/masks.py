"""A binary label that is made from a 2D mask."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_attn.errors import InputError

_MOST_CHANNELS = 4
_WHITE = 255


@dataclass(frozen=True)
class ThresholdedMask:
    """A label that is 1 where a 2D mask is above a threshold, and 0 elsewhere.

    A mask in colour counts by its brightest channel; an alpha channel does not count.

    Args:
        file: PNG, BMP or TIFF.
        threshold: Largest value that is background: 0 for masks with a number for each object, 127 for grey ones.
    """

    file: Path
    threshold: int

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.file,)

    def read(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the label (y x), 0 and 1.

        Raises:
            InputError: If the file is damaged, not of this shape, or has objects but none above the threshold.
        """
        import imageio.v3 as imageio  # only where a mask is read: finding the files needs none of it

        try:
            mask = np.asarray(imageio.imread(self.file))
        except Exception as error:  # a damaged file makes a reader raise anything
            raise InputError(f"{self.file} cannot be read ({error}); replace it, or take out this case") from error
        if mask.dtype == bool:
            mask = mask.astype(np.uint8) * _WHITE
        if mask.ndim == 3 and mask.shape[-1] <= _MOST_CHANNELS:
            # grey with alpha, or red, green and blue with alpha
            colours = mask[..., :-1] if mask.shape[-1] in (2, 4) else mask
            mask = colours.max(axis=-1)
        if mask.shape != tuple(shape):
            raise InputError(
                f"{self.file} is {_size(mask.shape)}, its image {_size(shape)}: an image and its mask are of the same "
                "size; replace one of them, or take out this case"
            )
        brightest = int(mask.max(initial=0))
        if 0 < brightest <= self.threshold:
            raise InputError(
                f"{self.file}: its brightest pixel is {brightest}, and nothing is above the threshold of "
                f"{self.threshold}; masks are from 0 to {_WHITE} here: scale it, or register by --images and --labels"
            )
        return (mask > self.threshold).astype(np.uint8)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, reversed(shape))) + " pixels"
