"""UNet++ written down from its equations: a table of nodes, each computed when another asks for it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


class Equations:
    """X^{i,j} for given weights, under the names of `UNetPlusPlus`.

    Convolutions with bias, instance norm with weight and bias, leaky ReLU of slope 0.01.

    Args:
        weights: The network's state dict.
        strides: Of each of the L stages.
        image: The input, (b channels *space).
    """

    def __init__(self, weights: Mapping[str, Tensor], strides: Sequence[Sequence[int]], image: Tensor) -> None:
        self.weights = weights
        self.strides = strides
        self.stages = len(strides)
        self.nodes: dict[tuple[int, int], Tensor] = {(-1, 0): image}
        three = image.ndim == 5
        self._convolve = F.conv3d if three else F.conv2d
        self._transpose = F.conv_transpose3d if three else F.conv_transpose2d

    def node(self, i: int, j: int) -> Tensor:
        """X^{i,j}."""
        if (i, j) not in self.nodes:
            if j == 0:
                self.nodes[i, j] = self.H(f"encoder.stages.{i}.0", self.node(i - 1, 0), self.strides[i])
            else:
                beside = [self.node(i, k) for k in range(j)]
                up = self._transpose(
                    self.node(i + 1, j - 1),
                    self.weights[f"decoder.ups.{i}_{j}.weight"],
                    stride=tuple(self.strides[i + 1]),
                )
                self.nodes[i, j] = self.H(f"decoder.nodes.{i}_{j}", torch.cat([*beside, up], 1), None)
        return self.nodes[i, j]

    def H(self, name: str, x: Tensor, stride: Sequence[int] | None) -> Tensor:
        """Twice convolution, norm, activation; the first one has the stride."""
        for number in range(2):
            conv, norm = f"{name}.convs.{number}.conv", f"{name}.convs.{number}.norm"
            kernel = self.weights[f"{conv}.weight"]
            padding = tuple(size // 2 for size in kernel.shape[2:])
            step = tuple(stride) if stride is not None and number == 0 else 1
            x = self._convolve(x, kernel, self.weights[f"{conv}.bias"], stride=step, padding=padding)
            axes = tuple(range(2, x.ndim))
            x = (x - x.mean(axes, keepdim=True)) / (x.var(axes, keepdim=True, correction=0) + 1e-5).sqrt()
            shape = (1, -1, *(1 for _ in axes))
            x = x * self.weights[f"{norm}.weight"].reshape(shape) + self.weights[f"{norm}.bias"].reshape(shape)
            x = torch.where(x < 0, 0.01 * x, x)
        return x

    def logits(self) -> list[Tensor]:
        """Those of X^{0,L-1}, ..., X^{0,1}."""
        found = []
        for number, j in enumerate(range(self.stages - 1, 0, -1)):
            kernel = self.weights[f"decoder.seg_layers.{number}.weight"].flatten(1)
            bias = self.weights[f"decoder.seg_layers.{number}.bias"]
            found.append(
                torch.einsum("of,bf...->bo...", kernel, self.node(0, j)) + bias.reshape(-1, *[1] * len(self.axes))
            )
        return found

    @property
    def axes(self) -> range:
        """The spatial axes."""
        return range(2, self.nodes[-1, 0].ndim)
