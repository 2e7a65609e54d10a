"""Global axial self-attention (GASA): one token per slice of each axis, attention among all of them, copied back."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.axial_function import compute_type, without_autocast
from nnunet_attn.architectures.shapes import FeatureMap, Tokens, WidenedMap

POSITIONS = ("after", "before", "none")


class SliceProjection(nn.Module):
    """Project every slice along one axis to a token, by a kernel as large as the slice.

    (b c d h w) -> (b n embed), n = length of `axis`; in 2D (b c h w) -> (b n embed).

    Args:
        channels: Feature channels c.
        feature_size: Voxels along each spatial axis.
        axis: Spatial axis whose slices become tokens; 0, 1, 2 for d, h, w.
        embed_dim: Width of a token.
    Source: arXiv:2409.13146, the three slice projections of the GASA block.
    """

    def __init__(self, channels: int, feature_size: Sequence[int], axis: int, embed_dim: int) -> None:
        super().__init__()
        plane = [size for other, size in enumerate(feature_size) if other != axis]
        self.axis = axis
        self.weight = nn.Parameter(torch.empty(embed_dim, channels, *plane))
        self.bias = nn.Parameter(torch.empty(embed_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as nnU-Net draws a convolution's: He-normal for a leaky ReLU of slope 0.01, bias 0."""
        nn.init.kaiming_normal_(self.weight, a=1e-2)
        nn.init.zeros_(self.bias)

    def forward(self, x: FeatureMap) -> Tokens:
        """Return one token per slice.

        A kernel that fills its slice has a single position, so the convolution is one matrix product for all slices.
        """
        return F.linear(x.movedim(2 + self.axis, 1).flatten(2), self.weight.flatten(1), self.bias)


class GASABlock(nn.Module):
    """Global axial self-attention: appends to a feature map what its slices tell each other.

    (b c *space) -> (b c+k*embed_dim *space), k = number of spatial axes; the first c channels are the input itself.
    There are n = d + h + w tokens (h + w in 2D); attention memory is b * num_heads * n^2.

    Args:
        channels: Feature channels c.
        feature_size: Voxels along each of the 2 or 3 spatial axes; the weights are tied to it.
        embed_dim: Width of a token over all heads, and channels added per axis; a multiple of `num_heads`.
        num_heads: Attention heads.
        position: Where the learnt position enters: "after" adds one number per voxel to the new channels (APE),
            "before" adds one vector per token ahead of the attention (BPE), "none" has no position.
        norm: LayerNorm on the query-key-value and output layers; the paper has it on backbones other than nnU-Net.
        dropout_rate: Rate of the element-wise dropout on the new channels, and with "before" also on the tokens.
    Raises:
        ValueError: If an argument is out of its range, `num_heads` does not divide `embed_dim`, or the input has other
            sizes than `channels` and `feature_size`.
    Source: Sun et al., arXiv:2409.13146, section "GASA block" and appendix; 25 dims, 5 heads and APE are its defaults.
    """

    def __init__(
        self,
        channels: int,
        feature_size: Sequence[int],
        embed_dim: int = 25,
        num_heads: int = 5,
        position: str = "after",
        norm: bool = False,
        dropout_rate: float = 0.5,
    ) -> None:
        super().__init__()
        if len(feature_size) not in (2, 3):
            raise ValueError(f"feature_size must have 2 or 3 numbers, got {tuple(feature_size)}")
        named = {"channels": channels, "embed_dim": embed_dim, "num_heads": num_heads}
        named |= {f"feature_size[{axis}]": size for axis, size in enumerate(feature_size)}
        for name, value in named.items():
            if type(value) is not int or value < 1:  # True is an int to isinstance
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if embed_dim % num_heads:
            raise ValueError(f"num_heads must divide embed_dim, got {num_heads} heads for {embed_dim} dims")
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, got {position!r}")
        if type(norm) is not bool:
            raise ValueError(f"norm must be true or false, got {norm!r}")
        if type(dropout_rate) not in (int, float) or not 0 <= dropout_rate < 1:
            raise ValueError(f"dropout_rate must be a number of at least 0 and less than 1, got {dropout_rate!r}")
        self.channels = channels
        self.feature_size = tuple(feature_size)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.added_channels = len(self.feature_size) * embed_dim
        # Departs from the paper: 2D maps too, with rows and columns as slices, because nnU-Net also plans 2D networks.
        self.projections = nn.ModuleList(
            SliceProjection(channels, self.feature_size, axis, embed_dim) for axis in range(len(self.feature_size))
        )
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.qkv_norm = nn.LayerNorm(3 * embed_dim) if norm else nn.Identity()
        self.proj_norm = nn.LayerNorm(embed_dim) if norm else nn.Identity()
        token_shape = (1, sum(self.feature_size), embed_dim)
        voxel_shape = (1, 1, *self.feature_size)
        self.token_position = nn.Parameter(torch.zeros(token_shape)) if position == "before" else None
        self.voxel_position = nn.Parameter(torch.zeros(voxel_shape)) if position == "after" else None
        # Departs from the paper: dropout acts on the new channels with their position, not on the attention's output,
        # because the authors' nnU-Net runs did so. Whether it stays without APE is not said; it does here.
        self.dropout = nn.Dropout(dropout_rate)

    def compute_conv_feature_map_size(self) -> int:
        """Return the number of values per image that its layers and the new channels hold, for nnU-Net's planner."""
        n_tokens = sum(self.feature_size)
        return self.embed_dim * 5 * n_tokens + self.added_channels * math.prod(self.feature_size)

    def forward(self, x: FeatureMap) -> WidenedMap:
        """Return the input with the new channels behind its own, those of the first axis first."""
        expected = (self.channels, *self.feature_size)
        if tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"GASA was built for (channels, *space) = {expected}, got {tuple(x.shape[1:])}; "
                "its kernels and position are tied to that size"
            )
        tokens = torch.cat([project(x) for project in self.projections], dim=1)
        if self.token_position is not None:
            tokens = self.dropout(tokens + self.token_position.to(tokens.dtype))
        # LayerNorm returns float32 under AMP, and so would everything concatenated with it.
        new = self._to_voxels(self._attend(tokens).to(x.dtype))
        if self.voxel_position is not None:
            new = new + self.voxel_position.to(new.dtype)
        return torch.cat([x, self.dropout(new)], dim=1)

    def _attend(self, tokens: Tokens) -> Tokens:
        """Joint multi-head self-attention over the tokens of all axes, scaled by head width ** -0.5."""
        packed = self.qkv_norm(self.qkv(tokens)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(query, key, value)
        return self.proj_norm(self.proj(heads.transpose(1, 2).flatten(2)))

    def attention_weights(self, tokens: Tokens) -> Tensor:
        """Return what `_attend` weighs the tokens' values with, (b heads query key); each row adds up to 1."""
        with without_autocast(tokens):
            packed = self.qkv_norm(self.qkv(tokens.to(self.qkv.weight.dtype))).unflatten(-1, (3, self.num_heads, -1))
            query, key, _ = packed.to(compute_type(packed)).permute(2, 0, 3, 1, 4)
            return torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, -1)

    def _to_voxels(self, tokens: Tokens) -> Tensor:
        """Copy each token to all voxels of its slice, (b n embed) -> (b k*embed *space)."""
        maps = []
        for axis, slices in enumerate(tokens.transpose(1, 2).split(self.feature_size, dim=2)):
            shape = [size if other == axis else 1 for other, size in enumerate(self.feature_size)]
            maps.append(slices.unflatten(2, shape).expand(-1, -1, *self.feature_size))
        return torch.cat(maps, dim=1)
