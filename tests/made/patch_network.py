"""A patch transformer whose every part counts, in float64, beside its evaluation block by block."""

from typing import Any

import torch
from torch import Tensor

from nnunet_attn.architectures.blocks.patch_position import fixed_position
from nnunet_attn.architectures.patch_transformer import PatchTransformer
from tests.reference.patch_transformer import SlowPatchTransformer

SIZE, NEIGHBOURHOOD = (4, 2, 4), (3, 5, 3)
SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "head_dim": 12, "mlp_dim": 24}


def small(**options: Any) -> PatchTransformer:
    torch.manual_seed(0)
    given: dict[str, Any] = {"patch_size": (8, 8, 8), "patch_embed_size": SIZE, "neighbourhood": NEIGHBOURHOOD}
    network = PatchTransformer(2, 3, **{**given, **SMALL, **options})
    for parameter in network.parameters():  # norms that do something, and positions that count
        torch.nn.init.normal_(parameter, parameter.mean().item(), 0.3)
    return network.double().eval()


def slow(network: PatchTransformer) -> SlowPatchTransformer:
    state = network.state_dict()
    position = state.get("position_embedding")
    if network.position == "fixed":
        position = fixed_position(network.neighbourhood, network.embed_dim).double()
    return SlowPatchTransformer(
        state,
        network.patch_embed_size,
        network.neighbourhood,
        network.num_heads,
        network.norm,
        network.scale,
        position,
        network.output == "flatten",
    )


def image(*space: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 2, *space, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_equal(ours: Any, theirs: Tensor) -> None:
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
