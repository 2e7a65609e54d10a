"""The convolution-free network: attention among the patches of a block, which labels the block's centre patch."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nnunet_attn.architectures.blocks.patch_code import CodedWeights
from nnunet_attn.architectures.blocks.patch_grid import BlockIndex, join_cells, missing_voxels, pad_axes, split_cells
from nnunet_attn.architectures.blocks.patch_maps import PatchMaps
from nnunet_attn.architectures.blocks.patch_plan import planned_patch_embed_size
from nnunet_attn.architectures.blocks.patch_position import POSITIONS, fixed_position
from nnunet_attn.architectures.blocks.patch_slabs import Slabs
from nnunet_attn.architectures.blocks.patch_stage import NORMS, SCALES, PatchStage
from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.shapes import AnyMap, Image, SideLogits

OUTPUTS = ("centre", "flatten")
POSITION_STD = 0.02
# Blocks at a time: on the CPU 64, from 16 on more are no faster; when compiled a constant, so that the graph depends on
# nothing outside; on CUDA what takes half of the free memory, between bounds. Up to the lower one the memory is not
# looked at; the upper one keeps what is not counted here small, and kernels count the values of a tensor in 31 bits.
_CPU_CHUNK, _COMPILED_CHUNK, _LEAST_CHUNK, _MOST_CHUNK, _MOST_VALUES = 64, 1024, 256, 4096, 2**31


class PatchTransformer(CodedWeights, PatchMaps):
    """A transformer on the patches of a block, slid over the image, without convolutions.

    (b channels *space) -> (b classes *space), logits of any crop. A block is `neighbourhood` patches along each axis
    of `patch_embed_size` voxels each; the network labels the voxels of its centre patch. Blocks stand on a grid of
    patches, so that every voxel is labelled once; what lies outside the image is zero. Each patch is embedded once,
    and of the last stage only the centre patch is computed; both change no result.

    Args:
        input_channels: Channels of the input.
        num_classes: Channels of the logits.
        patch_size: Voxels of nnU-Net's crop along each of the 2 or 3 axes; no parameter depends on it.
        patch_embed_size: Voxels of a patch along each axis, or one number for all.
        neighbourhood: Patches of a block along each axis, odd, or one number for all.
        embed_dim: Width of a token.
        depth: Stages.
        num_heads: Attention heads.
        head_dim: Width of a head.
        mlp_dim: Width of the hidden layer behind attention.
        norm: "pre", "post" or "none": see `PatchStage`; with "pre" there is one more norm in front of the output.
        scale: "inside" or "outside" the softmax: see `PatchStage`.
        position: "learned", "fixed" (sines and cosines) or "none".
        output: "centre": the logits come from the centre patch's token; "flatten": from all tokens of the block.
        dropout: Probability to drop a value in training, in front of each shortcut.
        chunk_size: Blocks computed at a time; None: by device and free memory. It changes no result without dropout.
        checkpointing: Compute stages once more in the backward pass instead of keeping what lies inside of them.
        deep_supervision: Return a list of the logits, as nnU-Net expects of networks with several.
    Raises:
        ValueError: If an argument is out of its range, or an input has other channels, axes or, with `valid`, a size
            that no blocks fill.
    Source: Karimi et al., arXiv:2102.13645; departures: docs/reference/networks/patch-transformer.md.
    """

    blanks_centre: ClassVar[bool] = True
    """`forward` takes `blank_centre`: in-painting hides each patch from its own block alone."""

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        patch_embed_size: int | Sequence[int],
        neighbourhood: int | Sequence[int] = 3,
        embed_dim: int = 1024,
        depth: int = 7,
        num_heads: int = 4,
        head_dim: int = 256,
        mlp_dim: int = 1024,
        norm: str = "pre",
        scale: str = "inside",
        position: str = "learned",
        output: str = "centre",
        dropout: float = 0.0,
        chunk_size: int | None = None,
        checkpointing: bool = False,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        dims = len(patch_size)
        if dims not in (2, 3):
            raise ValueError(f"patch_size must have 2 or 3 numbers, got {tuple(patch_size)}")
        self.patch_size = _per_axis("patch_size", patch_size, dims)
        self.patch_embed_size = _per_axis("patch_embed_size", patch_embed_size, dims)
        self.neighbourhood = _per_axis("neighbourhood", neighbourhood, dims)
        if any(count % 2 == 0 for count in self.neighbourhood):
            raise ValueError(f"neighbourhood must be odd, so that a block has a centre, got {self.neighbourhood}")
        numbers = {
            "input_channels": input_channels,
            "num_classes": num_classes,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "head_dim": head_dim,
            "mlp_dim": mlp_dim,
            **({} if chunk_size is None else {"chunk_size": chunk_size}),
        }
        for name, value in numbers.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        words = {"norm": (norm, NORMS), "scale": (scale, SCALES), "position": (position, POSITIONS)}
        for name, (word, allowed) in {**words, "output": (output, OUTPUTS)}.items():
            if word not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {word!r}")
        if isinstance(dropout, bool) or not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout!r}")
        if not isinstance(checkpointing, bool):
            raise ValueError(f"checkpointing must be true or false, got {checkpointing!r}")
        self.input_channels, self.num_classes = input_channels, num_classes
        self.embed_dim, self.depth, self.num_heads, self.head_dim = embed_dim, depth, num_heads, head_dim
        self.mlp_dim, self.norm, self.scale, self.position, self.output = mlp_dim, norm, scale, position, output
        self.chunk_size, self.checkpointing, self.deep_supervision = chunk_size, checkpointing, deep_supervision
        self.deep_supervision_scales: list[list[float]] = [[1.0] * dims]

        tokens, voxels = math.prod(self.neighbourhood), math.prod(self.patch_embed_size)
        self._tokens, self._centre = tokens, (tokens - 1) // 2
        # no bias: the positions hold it, and so a patch of zeros is exactly a token of zeros
        self.embed = nn.Linear(input_channels * voxels, embed_dim, bias=False)
        if position == "learned":
            self.position_embedding = nn.Parameter(torch.empty(tokens, embed_dim))
            nn.init.normal_(self.position_embedding, std=POSITION_STD)
        elif position == "fixed":
            table = fixed_position(self.neighbourhood, embed_dim).to(self.embed.weight.device)
            self.register_buffer("position_embedding", table, persistent=False)
        self.stages = nn.ModuleList(
            PatchStage(embed_dim, num_heads, head_dim, mlp_dim, norm, scale, dropout) for _ in range(depth)
        )
        if norm == "pre":
            self.norm_out = nn.LayerNorm(embed_dim)
        self.head = PatchHead(embed_dim * (tokens if output == "flatten" else 1), num_classes * voxels)
        self._set_code()
        self._index = BlockIndex(self.neighbourhood)

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels of context at each side of what a block labels, along each axis."""
        return tuple(size * radius for size, radius in zip(self.patch_embed_size, self._radius, strict=True))

    @property
    def _radius(self) -> tuple[int, ...]:
        return tuple(count // 2 for count in self.neighbourhood)

    def forward(self, x: Image, valid: bool = False, blank_centre: bool = False) -> SideLogits | list[SideLogits]:
        """Return the logits, (b classes *space).

        Args:
            x: The image. With `valid`, (m + n - 1) patches along each axis, m of them at least 1.
            valid: Label only the patches whose block lies inside of `x`: (b classes *inner), smaller by `halo` at each
                side. Otherwise all, and what lies outside of `x` is zero.
            blank_centre: Take the voxels of each block's own centre patch as zero (in-painting); neighbouring blocks
                still see them.
        """
        logits = self._logits(x, valid, blank_centre)
        return [logits] if self.deep_supervision else logits

    @torch.no_grad()
    def grid_forward(
        self,
        image: Tensor,
        slab_cells: int | None = None,
        offset: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return the logits of a whole image, computed in slabs along its first axis, as exact as in one piece.

        (channels *space) -> (classes *space), or both with a batch axis in front; the image may lie on any device.

        Args:
            image: The image, of any size.
            slab_cells: Patches of a slab along the first axis; None: as many as have about 32768 patches.
            offset: Voxels by which the grid of patches begins in front of the image, along each axis; from 0 to a patch
                without one. None is 0.
            device: Where the logits are put together.
        """
        batched = image if image.ndim == 2 + len(self.patch_size) else image[None]
        self._check(batched)
        slabs = Slabs(batched.shape[2:], self.patch_embed_size, self.neighbourhood, slab_cells, offset)
        dtype = torch.promote_types(self.embed.weight.dtype, torch.float32)
        logits = torch.empty(len(batched), self.num_classes, *slabs.space, dtype=dtype, device=device)
        for slab in slabs:
            labelled: Any = self(slabs.cut(batched, slab, self.embed.weight.device), valid=True)
            slabs.place(labelled[0] if isinstance(labelled, list) else labelled, slab, logits)
        return logits if image.ndim == batched.ndim else logits[0]

    def _logits(self, x: Tensor, valid: bool, blank_centre: bool) -> Tensor:
        self._check(x)
        space, size = x.shape[2:], self.patch_embed_size
        if valid:
            self._check_valid(space)
            cells = self.embed(split_cells(x, size))
        else:
            x = pad_axes(x, [0] * len(space), missing_voxels(space, size))
            cells = self.embed(split_cells(x, size))
            # a patch of zeros is a token of zeros
            cells = pad_axes(cells, self._radius, self._radius, trailing=1)
        padded = cells.shape[1:-1]
        blocks = [count - own + 1 for count, own in zip(padded, self.neighbourhood, strict=True)]
        first, others = self._index.of(padded, x.device)
        if len(x) > 1:
            samples = torch.arange(len(x), device=x.device) * math.prod(padded)
            first = (samples[:, None] + first).flatten()
        flat = cells.flatten(0, -2)
        chunks = first.split(self._chunk(len(first), x.device))
        labelled = torch.cat([self._labelled(self._tokens_of(flat, own, others, blank_centre)) for own in chunks])
        logits = join_cells(labelled.unflatten(0, (len(x), *blocks)), size)
        for axis, voxels in enumerate(space if not valid else (), start=2):
            logits = logits.narrow(axis, 0, voxels)
        return logits

    def _tokens_of(self, cells: Tensor, first: Tensor, others: Tensor, blank_centre: bool = False) -> Tensor:
        """Return the tokens in front of the first stage, (blocks n embed), of cells (cells embed)."""
        tokens = cells.index_select(0, (first[:, None] + others).flatten()).unflatten(0, (-1, self._tokens))
        if blank_centre:
            own = torch.arange(self._tokens, device=tokens.device) == self._centre
            tokens = tokens.masked_fill(own[:, None], 0.0)
        return tokens if self.position == "none" else tokens + self.position_embedding

    def _labelled(self, tokens: Tensor) -> Tensor:
        """Return the logits of the centre patches, (blocks classes*voxels)."""
        stages: list[Any] = list(self.stages)
        last = stages.pop() if self.output == "centre" else None
        for stage in stages:
            tokens = self._through(stage, tokens)
        if last is not None:
            tokens = self._through(last.one_token, tokens, self._centre)
        if self.norm == "pre":
            tokens = self.norm_out(tokens)
        return self.head(tokens.flatten(1))

    def _through(self, stage: Any, *arguments: Any) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, *arguments, use_reentrant=False)
        return stage(*arguments)

    def _chunk(self, blocks: int, device: torch.device) -> int:
        """Return how many blocks to compute at a time."""
        if self.chunk_size is not None:
            return self.chunk_size
        if torch.compiler.is_compiling():
            return _COMPILED_CHUNK
        if device.type != "cuda":
            return _CPU_CHUNK
        if blocks <= _LEAST_CHUNK:
            return _LEAST_CHUNK
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        # tokens and their norm, queries, keys, values and what is attended, and the hidden layer twice
        heads = self.num_heads * self.head_dim
        block_bytes = self._tokens * (4 * self.embed_dim + 4 * heads + 2 * self.mlp_dim) * 4
        largest = self._tokens * max(3 * heads, self.mlp_dim, self.embed_dim)
        return max(_LEAST_CHUNK // 16, min(_MOST_CHUNK, free // (2 * block_bytes), _MOST_VALUES // largest))

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 + len(self.patch_size) or x.shape[1] != self.input_channels:
            raise ValueError(
                f"expected an input of {self.input_channels} channels and {len(self.patch_size)} axes, "
                f"got (batch, channels, *space) = {tuple(x.shape)}"
            )

    def _check_valid(self, space: Sequence[int]) -> None:
        for axis, (voxels, own, count) in enumerate(zip(space, self.patch_embed_size, self.neighbourhood, strict=True)):
            if voxels % own or voxels < own * count:
                raise ValueError(
                    f"with valid=True axis {axis} must have a multiple of {own} voxels, at least {own * count} (one "
                    f"block of {count} patches), got {tuple(space)}"
                )

    def _apply(self, *arguments: Any, **keywords: Any) -> "PatchTransformer":
        self._index.clear()
        return super()._apply(*arguments, **keywords)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that get no weight decay: positions, norms and biases."""
        named = self.named_parameters()
        return {name for name, value in named if value.ndim == 1 or name == "position_embedding"}

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Return the number of values that the layers give for one image, by which nnU-Net's planner estimates memory.

        There are no convolutions; counted are the linear layers' outputs and what is attended, of all blocks.
        """
        grid = [-(-voxels // own) for voxels, own in zip(input_size, self.patch_embed_size, strict=True)]
        token = 4 * self.num_heads * self.head_dim + 2 * self.embed_dim + self.mlp_dim
        labels = self.num_classes * math.prod(self.patch_embed_size)
        return math.prod(grid) * (self.embed_dim + self._tokens * self.depth * token + labels)

    def adapt_weight(self, key: str, source: Tensor, target: Tensor) -> Tensor | None:
        """Fit a checkpoint's embedding of another number of channels; None for anything else.

        The channels are repeated and scaled, so that one channel given twice embeds as before, or the last ones are
        left out.
        """
        voxels = math.prod(self.patch_embed_size)
        if key != "embed.weight" or len(source) != len(target) or source.shape[1] % voxels:
            return None
        given = source.unflatten(1, (-1, voxels))
        taken = torch.arange(self.input_channels) % given.shape[1]
        scale = min(given.shape[1], self.input_channels) / self.input_channels
        return (given[:, taken] * scale).flatten(1)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Leave a module as its constructor drew it: PyTorch's own start, and positions around 0."""

    @staticmethod
    def plan_arguments(plan: PlannedUNet) -> dict[str, Any]:
        """Return the JSON-able arguments that a plan decides: patches of about the same length in mm along all axes."""
        return {
            "patch_size": list(plan.patch_size),
            "patch_embed_size": planned_patch_embed_size(plan.patch_size, plan.spacing),
        }


class PatchHead(nn.Module):
    """The output layer, named so that nnU-Net's `-pretrained_weights` leaves it out."""

    def __init__(self, features: int, values: int) -> None:
        super().__init__()
        self.seg_layers = nn.ModuleList([nn.Linear(features, values)])

    def forward(self, x: AnyMap) -> AnyMap:
        """Return the logits, (blocks features) -> (blocks classes*voxels)."""
        return self.seg_layers[0](x)


def _per_axis(name: str, value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(numbers) != dims or any(type(number) is not int or number < 1 for number in numbers):
        raise ValueError(f"{name} must be {dims} integers of at least 1, or one for all axes, got {value!r}")
    return numbers
