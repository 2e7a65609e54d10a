"""Window attention with memory tokens: one of each window, and those of the sub-volumes of a whole volume."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.blocks.axial_function import compute_type, without_autocast
from nnunet_attn.architectures.blocks.swin_block import SwinBlock
from nnunet_attn.architectures.blocks.window_attention import to_windows
from nnunet_attn.architectures.shapes import Tokens, VoxelMap

# Added to the similarities with tokens that no training crop has reached; finite, as published.
UNSEEN = -1000.0
_POSITION_STD = 0.02


class TokenAttention(nn.Module):
    """Multi-head self-attention among tokens, without norm and shortcut: (b n c) -> (b n c).

    Source: Themyr et al., arXiv:2210.05313, Eq. 1.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tokens, unseen: Tensor | None = None) -> Tokens:
        """Attend; `unseen` is True for keys that must not count, (b or 1, n)."""
        batch, count, channels = x.shape
        parts = self.qkv(x).view(batch, count, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        added = None if unseen is None else (unseen.to(parts.dtype) * UNSEEN)[:, None, None].expand(-1, -1, count, -1)
        attended = F.scaled_dot_product_attention(*parts, attn_mask=added)
        return self.proj(attended.transpose(1, 2).reshape(batch, count, channels))

    def attention_weights(self, x: Tokens, unseen: Tensor | None = None) -> Tensor:
        """Return what the values are weighed with, (b heads query key); each row adds up to 1."""
        with without_autocast(x):
            qkv = self.qkv(x.to(self.proj.weight.dtype)).unflatten(-1, (3, self.num_heads, -1))
            query, key, _ = qkv.to(compute_type(qkv)).permute(2, 0, 3, 1, 4)
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            return torch.softmax(scores if unseen is None else scores + (unseen * UNSEEN)[:, None, None], -1)


class MemoryBlock(SwinBlock):
    """A block whose windows have a token each, which learn from each other and from tokens of sub-volumes.

    W-MSA within each window and its token, G-MSA among all windows' tokens and those of the crop's sub-volumes, MSA
    among the tokens of all sub-volumes. What only tokens of later blocks would read is not built.

    Args:
        channels: Feature channels c.
        num_heads: Attention heads.
        size: Voxels of the map along each axis.
        window: Voxels of a window along each axis.
        shifted: Whether windows are shifted by half their size.
        drop_path: See `SwinBlock`; drawn for each window's token by itself.
        quirk: See `WindowAttention`.
        global_attention: Whether there is a G-MSA, with the MLP of the windows' tokens before it.
        volume_attention: Whether there is an MSA.
    Source: Themyr et al., arXiv:2210.05313, Eq. 1, and its published code: the windows' tokens share the norm and the
        MLP of the voxels, and the sub-volumes' tokens learnt by G-MSA are added to what they were.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        size: Sequence[int],
        window: Sequence[int],
        shifted: bool = False,
        drop_path: float = 0.0,
        quirk: bool = False,
        global_attention: bool = True,
        volume_attention: bool = True,
    ) -> None:
        super().__init__(channels, num_heads, size, window, shifted, 1, drop_path, quirk)
        self.global_attn = TokenAttention(channels, num_heads) if global_attention else None
        self.volume_attn = TokenAttention(channels, num_heads) if volume_attention else None

    def forward_tokens(
        self,
        x: VoxelMap,
        window_tokens: Tokens,
        volume_tokens: Tensor | None,
        position: Tensor,
        cells: Tensor | None,
        seen: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the map, the windows' tokens and those of the sub-volumes.

        Args:
            x: The map, (b d h w c).
            window_tokens: (b windows c).
            volume_tokens: (b sub-volumes c), or None to do without them.
            position: Added to the windows' tokens at the entry of G-MSA, (windows c).
            cells: Sub-volumes of each crop, (b cells).
            seen: True for sub-volumes that a training crop has reached, (sub-volumes).
        """
        tokens = window_tokens.reshape(-1, 1, window_tokens.shape[-1])
        windows = to_windows(self.norm1(x), self.window, self.shift, tokens)
        attended = self.attn(windows, self.mask)
        x = self.add(x, attended[:, 1:])
        if self.global_attn is None:
            return x, window_tokens, volume_tokens
        tokens = tokens + self.drop_path(attended[:, :1])
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        tokens = tokens.view(window_tokens.shape) + position
        if volume_tokens is None or cells is None or seen is None:
            return x, self.global_attn(tokens), volume_tokens
        count = cells.shape[1]
        index = cells[..., None].expand(-1, -1, tokens.shape[-1])
        # in training the crop's own are marked as seen before
        unseen = F.pad(~seen[cells], (0, tokens.shape[1]))
        learnt = self.global_attn(torch.cat([volume_tokens.gather(1, index), tokens], 1), unseen)
        volume_tokens = volume_tokens.scatter_add(1, index, learnt[:, :count].to(volume_tokens.dtype))
        if self.volume_attn is not None:
            volume_tokens = self.volume_attn(volume_tokens, ~seen[None])
        return x, learnt[:, count:], volume_tokens


class MemoryStage(nn.Module):
    """Blocks of one map size with their tokens: (b d h w c) -> (b d h w c).

    Args:
        blocks: The blocks.
        channels: Feature channels c.
        sub_volumes: Number of sub-volumes; 0 is to do without their tokens.
        carried: Channels of the sub-volumes' tokens of the stage before, which this one's start from; 0: its own alone.
    Source: Themyr et al., arXiv:2210.05313. Departs from the published code where `carried` is not 0: there every stage
        starts anew, so that far sub-volumes never reach the voxels.
    """

    def __init__(self, blocks: Sequence[MemoryBlock], channels: int, sub_volumes: int, carried: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.window_token = nn.Parameter(torch.randn(1, channels))
        if blocks[0].global_attn is not None:
            self.position = nn.Parameter(torch.empty(blocks[0].num_windows, channels))
            nn.init.trunc_normal_(self.position, std=_POSITION_STD)
        self.has_volume_tokens = sub_volumes > 0 and blocks[0].global_attn is not None
        self.carries = self.has_volume_tokens and carried > 0
        if self.has_volume_tokens:
            self.volume_tokens = nn.Parameter(torch.randn(sub_volumes, channels))
        if self.carries:
            self.carry_norm = nn.LayerNorm(carried)
            self.carry = nn.Linear(carried, channels)
            nn.init.trunc_normal_(self.carry.weight, std=_POSITION_STD)
            nn.init.zeros_(self.carry.bias)

    def forward(
        self, x: VoxelMap, cells: Tensor | None, seen: Tensor | None, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the map and the sub-volumes' tokens (b sub-volumes c).

        Args:
            x: The map.
            cells: See `MemoryBlock.forward_tokens`.
            seen: See there.
            before: The sub-volumes' tokens at the end of the stage before, (b sub-volumes channels).
        """
        blocks: list[Any] = list(self.blocks.children())
        windows = self.window_token.expand(len(x), blocks[0].num_windows, -1)
        volume = self.volume_tokens.expand(len(x), -1, -1) if self.has_volume_tokens else None
        if volume is not None and self.carries and before is not None:
            volume = volume + self.carry(self.carry_norm(before))
        position = self.position if hasattr(self, "position") else self.window_token
        for block in blocks:
            x, windows, volume = block.forward_tokens(x, windows, volume, position, cells, seen)
        return x, volume
