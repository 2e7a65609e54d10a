"""One stage of the patch transformer: attention among the patches of a block, then two linear layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.shapes import Tokens

NORMS = ("pre", "post", "none")
SCALES = ("inside", "outside")


class PatchStage(nn.Module):
    """Multi-head self-attention and a feed-forward network with ReLU, each with a shortcut.

    (b n embed) -> (b n embed); b blocks of n patches. Compute is n * (4 embed * heads * e + 2 embed * mlp) + 2 n^2 *
    heads * e multiply-adds a block.

    Args:
        embed_dim: Width of a token.
        num_heads: Attention heads.
        head_dim: Width e of a head; num_heads * head_dim need not be `embed_dim`.
        mlp_dim: Width of the hidden layer.
        norm: "pre" (layer norm before attention and before the feed-forward network), "post" (behind each shortcut)
            or "none".
        scale: "inside": softmax(q k / sqrt(e)); "outside": softmax(q k) / sqrt(e), as the paper writes it.
        dropout: Probability to drop a value of what a shortcut is added to.
    Source: Karimi et al., arXiv:2102.13645, section 2.1; which norm and scale, and why: the network's page in the docs.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        mlp_dim: int,
        norm: str = "pre",
        scale: str = "inside",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, head_dim
        self.norm, self.scale = norm, scale
        width = num_heads * head_dim
        self.qkv = nn.Linear(embed_dim, 3 * width, bias=False)
        self.proj = nn.Linear(width, embed_dim, bias=False)
        self.fc1 = nn.Linear(embed_dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, embed_dim)
        if norm != "none":
            self.norm1 = nn.LayerNorm(embed_dim)
            self.norm2 = nn.LayerNorm(embed_dim)
        self.drop = nn.Dropout(dropout)

    @property
    def _inside(self) -> float:
        return self.head_dim**-0.5 if self.scale == "inside" else 1.0

    @property
    def _outside(self) -> float:
        return self.head_dim**-0.5 if self.scale == "outside" else 1.0

    def forward(self, x: Tokens) -> Tokens:
        """Return all tokens behind the stage."""
        query, key, value = self._heads(self.qkv(self._normed(x)))
        attended = F.scaled_dot_product_attention(query, key, value, scale=self._inside)
        return self._finished(x, attended.transpose(1, 2).flatten(2))

    def one_token(self, x: Tokens, place: int) -> Tensor:
        """Return one token behind the stage, (b embed), without keys and values of the others.

        With one query, q . (K y_i) = (K^T q) . y_i, and sum_i a_i (V y_i) = V (sum_i a_i y_i).
        """
        y = self._normed(x)
        to_query, to_key, to_value = self.qkv.weight.view(3, self.num_heads, self.head_dim, self.embed_dim)
        query = F.linear(y[:, place], to_query.flatten(0, 1)).unflatten(1, (self.num_heads, -1)) * self._inside
        similarity = torch.einsum("bhd,bnd->bhn", torch.einsum("bhe,hed->bhd", query, to_key), y)
        mixed = torch.einsum("bhn,bnd->bhd", similarity.softmax(-1), y)
        attended = torch.einsum("bhd,hed->bhe", mixed, to_value)
        return self._finished(x[:, place], attended.flatten(1))

    def attention(self, x: Tokens) -> Tensor:
        """Return the attention of the tokens in front of the stage, (b heads query key), rows adding up to 1."""
        query, key, _ = self._heads(self.qkv(self._normed(x)))
        return (query @ key.transpose(-1, -2) * self._inside).softmax(-1)

    def _normed(self, x: Tensor) -> Tensor:
        return self.norm1(x) if self.norm == "pre" else x

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (b heads n e) each."""
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def _finished(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return tokens, (... embed), from those in front of the stage and what their heads attended, (... heads*e)."""
        if self.scale == "outside":
            attended = attended * self._outside
        x = x + self.drop(self.proj(attended))
        if self.norm == "post":
            x = self.norm1(x)
        y = self.norm2(x) if self.norm == "pre" else x
        x = x + self.drop(self.fc2(F.relu(self.fc1(y))))
        return self.norm2(x) if self.norm == "post" else x
