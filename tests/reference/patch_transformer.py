"""The patch transformer as its equations have it: one block after the other, cut from the image's voxels."""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]


class SlowPatchTransformer:
    """The network of Karimi et al., arXiv:2102.13645, evaluated block by block, without any saving.

    Args:
        state: Weights under the names of `PatchTransformer`.
        size: Voxels of a patch along each axis.
        neighbourhood: Patches of a block along each axis.
        num_heads: Attention heads.
        norm: "pre", "post" or "none".
        scale: "inside" or "outside".
        position: Position of each patch of a block, (patches embed); None: none.
        flatten: Whether the logits come from all tokens of the block.
    """

    def __init__(
        self,
        state: State,
        size: Sequence[int],
        neighbourhood: Sequence[int],
        num_heads: int,
        norm: str = "pre",
        scale: str = "inside",
        position: Tensor | None = None,
        flatten: bool = False,
    ) -> None:
        self.state, self.size, self.neighbourhood = state, tuple(size), tuple(neighbourhood)
        self.num_heads, self.norm, self.scale = num_heads, norm, scale
        self.position, self.flatten = position, flatten
        self.depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("stages."))

    def blocks(self, image: Tensor) -> list[tuple[tuple[int, ...], Tensor]]:
        """Return each cell's number along each axis with the block around it, (c *block), zero outside the image."""
        counts = [math.ceil(full / own) for full, own in zip(image.shape[1:], self.size, strict=True)]
        halo = [own * (count - 1) // 2 for own, count in zip(self.size, self.neighbourhood, strict=True)]
        larger = [count * own + 2 * edge for count, own, edge in zip(counts, self.size, halo, strict=True)]
        padded = torch.zeros(image.shape[0], *larger, dtype=image.dtype)
        inner = tuple(slice(edge, edge + full) for edge, full in zip(halo, image.shape[1:], strict=True))
        padded[(slice(None), *inner)] = image
        found = []
        for cell in itertools.product(*map(range, counts)):
            block = tuple(
                slice(place * own, place * own + own * count)
                for place, own, count in zip(cell, self.size, self.neighbourhood, strict=True)
            )
            found.append((cell, padded[(slice(None), *block)]))
        return found

    def patches(self) -> list[tuple[slice, ...]]:
        """Return where each patch of a block lies in it, row-major."""
        return [
            tuple(slice(place * own, (place + 1) * own) for place, own in zip(number, self.size, strict=True))
            for number in itertools.product(*map(range, self.neighbourhood))
        ]

    def block(self, block: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits of the centre patch of a block, (classes *size), and each stage's (heads query key)."""
        patches = [block[(slice(None), *where)].flatten() for where in self.patches()]
        tokens = torch.stack(patches) @ self.state["embed.weight"].T
        if self.position is not None:
            tokens = tokens + self.position
        attention = []
        for stage in range(self.depth):
            tokens, weights = self._stage(tokens, f"stages.{stage}.")
            attention.append(weights)
        if self.norm == "pre":
            tokens = self._layer_norm(tokens, "norm_out.")
        features = tokens.flatten() if self.flatten else tokens[(len(tokens) - 1) // 2]
        values = features[None] @ self.state["head.seg_layers.0.weight"].T + self.state["head.seg_layers.0.bias"]
        return values.view(-1, *self.size), attention

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of images, (b c *space) -> (b classes *space)."""
        logits = []
        for image in images:
            counts = [math.ceil(full / own) for full, own in zip(image.shape[1:], self.size, strict=True)]
            larger = [count * own for count, own in zip(counts, self.size, strict=True)]
            classes = len(self.state["head.seg_layers.0.bias"]) // math.prod(self.size)
            labelled = torch.zeros(classes, *larger, dtype=image.dtype)
            for cell, block in self.blocks(image):
                own = tuple(slice(p * size, (p + 1) * size) for p, size in zip(cell, self.size, strict=True))
                labelled[(slice(None), *own)] = self.block(block)[0]
            logits.append(labelled[(slice(None), *(slice(full) for full in image.shape[1:]))])
        return torch.stack(logits)

    def received(self, image: Tensor, centre: bool = False, own: bool = True) -> list[Tensor]:
        """Return what each voxel receives, (heads *space) for each stage, accumulated voxel by voxel from all blocks.

        Args:
            image: One image, (c *space), a multiple of the patch long.
            centre: Only the centre patch asks.
            own: Whether patches pay to themselves.
        """
        halo = [size * (count - 1) // 2 for size, count in zip(self.size, self.neighbourhood, strict=True)]
        larger = [full + 2 * edge for full, edge in zip(image.shape[1:], halo, strict=True)]
        sums = [torch.zeros(self.num_heads, *larger, dtype=image.dtype) for _ in range(self.depth)]
        counts = torch.zeros(larger, dtype=image.dtype)
        for cell, block in self.blocks(image):
            _, attention = self.block(block)
            corner = [place * size for place, size in zip(cell, self.size, strict=True)]
            for key, where in enumerate(self.patches()):
                voxels = tuple(slice(at.start + low, at.stop + low) for at, low in zip(where, corner, strict=True))
                counts[voxels] += 1
                for total, weights in zip(sums, attention, strict=True):
                    tokens = weights.shape[-1]
                    queries = [(tokens - 1) // 2] if centre else range(tokens)
                    for head in range(self.num_heads):
                        paid = sum(weights[head, query, key] for query in queries if own or query != key)
                        paid = paid * (tokens if centre else 1) * (1 if own else tokens / (tokens - 1))
                        total[(head, *voxels)] += paid
        inner = tuple(slice(edge, edge + full) for edge, full in zip(halo, image.shape[1:], strict=True))
        return [(total / counts)[(slice(None), *inner)] for total in sums]

    def _stage(self, x: Tensor, prefix: str) -> tuple[Tensor, Tensor]:
        """Return the tokens behind a stage, (patches embed), and its attention, (heads query key)."""
        y = self._layer_norm(x, prefix + "norm1.") if self.norm == "pre" else x
        rows = self.state[prefix + "qkv.weight"]
        width = len(rows) // (3 * self.num_heads)
        # queries of all heads, then keys, then values
        to_query, to_key, to_value = rows.chunk(3)
        heads, attention = [], []
        for head in range(self.num_heads):
            own = slice(head * width, (head + 1) * width)
            query, key, value = y @ to_query[own].T, y @ to_key[own].T, y @ to_value[own].T
            similarity = query @ key.T
            weights = torch.softmax(similarity / math.sqrt(width) if self.scale == "inside" else similarity, 1)
            attention.append(weights)
            heads.append(weights @ value if self.scale == "inside" else weights @ value / math.sqrt(width))
        x = x + torch.cat(heads, 1) @ self.state[prefix + "proj.weight"].T
        if self.norm == "post":
            x = self._layer_norm(x, prefix + "norm1.")
        y = self._layer_norm(x, prefix + "norm2.") if self.norm == "pre" else x
        hidden = torch.relu(y @ self.state[prefix + "fc1.weight"].T + self.state[prefix + "fc1.bias"])
        x = x + hidden @ self.state[prefix + "fc2.weight"].T + self.state[prefix + "fc2.bias"]
        if self.norm == "post":
            x = self._layer_norm(x, prefix + "norm2.")
        return x, torch.stack(attention)

    def _layer_norm(self, x: Tensor, prefix: str) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        scaled = (x - mean) / torch.sqrt(variance + 1e-5)
        return scaled * self.state[prefix + "weight"] + self.state[prefix + "bias"]
