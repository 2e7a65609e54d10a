"""Pictures of what a network makes of corrupted images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

# of an image with many channels the first ones tell enough
_MOST_CHANNELS = 3


@dataclass(frozen=True)
class Reconstruction:
    """One channel of one image in its middle slice.

    Args:
        title: Task and channel.
        given: What the network was given.
        output: What it made of it.
        clean: What it should have made.
    """

    title: str
    given: NDArray[np.float32]
    output: NDArray[np.float32]
    clean: NDArray[np.float32]


def middle_slices(title: str, given: Tensor, output: Tensor, clean: Tensor) -> list[Reconstruction]:
    """Return the first channels of one sample, each in the slice halfway along the first of three axes.

    Args:
        title: What was asked of the network.
        given: (c *space), of 2 or 3 axes, like the other two.
        output: The reconstruction.
        clean: The clean image.
    """

    def middle(image: Tensor) -> NDArray[np.float32]:
        flat = image[:, image.shape[1] // 2] if image.ndim == 4 else image
        return flat.detach().float().cpu().numpy()

    planes = zip(*(middle(image) for image in (given, output, clean)), strict=True)
    named = [f"{title}, channel {channel}" if len(clean) > 1 else title for channel in range(len(clean))]
    return [Reconstruction(name, *three) for name, three in zip(named, planes, strict=True)][:_MOST_CHANNELS]


def draw_reconstructions(file: Path, heading: str, rows: Sequence[Reconstruction]) -> None:
    """Draw reconstructions below each other, in the grey values of the clean image, and write the PNG as a whole."""
    partial = file.with_name(f"{file.name}.partial")
    # nnU-Net's own drawing changes the defaults for the whole process
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(9.5, 3.1 * len(rows) + 0.5), layout="constrained")
        figure.suptitle(heading)
        for row, panels in zip(rows, figure.subplots(len(rows), 3, squeeze=False), strict=True):
            low, high = float(row.clean.min()), float(row.clean.max())
            images = {f"{row.title}: given": row.given, "made of it": row.output, "clean": row.clean}
            for axes, (title, image) in zip(panels, images.items(), strict=True):
                axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
                axes.set_title(title)
                axes.set_axis_off()
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(partial, format="png", dpi=100)
    os.replace(partial, file)
