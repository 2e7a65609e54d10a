"""GASA-UNet with its block as loops, for `nnunet_attn.benchmark.speed --reference`; run from the checkout's root."""

import torch
from torch import Tensor, nn

from nnunet_attn.architectures.blocks.gasa import GASABlock
from nnunet_attn.architectures.build import PlannedUNet, build_network
from nnunet_attn.architectures.registry import network_named
from tests.reference.gasa import gasa


class SlowGASABlock(GASABlock):
    """The block with the loops of `tests/reference/gasa.py` as its forward; position "after" or "none", no norm."""

    def forward(self, x: Tensor) -> Tensor:
        widened = gasa(
            x,
            [getattr(projection, "weight") for projection in self.projections],  # noqa: B009
            [getattr(projection, "bias") for projection in self.projections],  # noqa: B009
            (self.qkv.weight, self.qkv.bias),
            (self.proj.weight, self.proj.bias),
            self.num_heads,
            voxel_position=self.voxel_position,
        )
        return torch.cat([x, self.dropout(widened[:, self.channels :])], dim=1)


def build(plan: PlannedUNet, input_channels: int, num_classes: int, deep_supervision: bool) -> nn.Module:
    """Build the GASAUNet that the registry builds from the same seed, with the same parameters, but slow."""
    network = build_network(network_named("GASAUNet"), plan, input_channels, num_classes, deep_supervision)
    fast = network.get_submodule("gasa")
    assert isinstance(fast, GASABlock)
    slow = SlowGASABlock(fast.channels, fast.feature_size, fast.embed_dim, fast.num_heads)
    slow.load_state_dict(fast.state_dict())
    network.register_module("gasa", slow)
    return network
