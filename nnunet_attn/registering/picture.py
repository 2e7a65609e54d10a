"""An image in memory, wherever it was read from."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nnunet_attn.registering.geometry import Grid


@dataclass(frozen=True)
class Picture:
    """An image as it was read.

    Args:
        array: (c z y x), or (c y x).
        grid: Where it lies; None where the file does not say.
        plain: Whether nnU-Net reads the same from the file itself.
        colour: Whether the channels are the colours of one natural image.
        mended: Whether its axes had to be made perpendicular.
        notes: What was left out or taken for granted.
        modality: Of DICOM, such as "CT".
    """

    array: NDArray[Any]
    grid: Grid | None
    plain: bool
    colour: bool = False
    mended: bool = False
    notes: tuple[str, ...] = ()
    modality: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along the axes of space, (z y x) or (y x)."""
        return self.array.shape[1:]
