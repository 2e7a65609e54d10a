"""The tensor shapes that signatures name: b batch, c channels, n tokens; `space` is `h w` in 2D and `d h w` in 3D."""

from jaxtyping import Float
from torch import Tensor

FeatureMap = Float[Tensor, "b c *space"]
Image = Float[Tensor, "b channels *space"]
VoxelMap = Float[Tensor, "b d h w c"]
Tokens = Float[Tensor, "b n embed"]
Logits = Float[Tensor, "b classes *space"]
WidenedMap = Float[Tensor, "b widened *space"]
ReducedMap = Float[Tensor, "b reduced_channels *reduced"]
AnyMap = Float[Tensor, "b ..."]
SideLogits = Float[Tensor, "b classes ..."]
