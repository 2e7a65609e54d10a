"""UNet++: a U-Net whose encoder and decoder are joined by nested, densely connected nodes."""

from collections.abc import Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim, get_matching_convtransp
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nnunet_attn.architectures.backbone import bottleneck_size, initialize_backbone
from nnunet_attn.architectures.build import PlannedUNet, resolve_classes
from nnunet_attn.architectures.feature_maps import feature_map_values
from nnunet_attn.architectures.shapes import AnyMap, Image, Logits

_CONVOLUTIONS_PER_NODE = 2
_CLASS_ARGUMENTS = ("conv_op", "norm_op", "dropout_op", "nonlin")
_NEEDED = ("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides")
# What both of nnU-Net's U-Nets have and UNet++ takes over; their numbers and kinds of blocks are their own.
_SHARED = (
    *_NEEDED,
    "conv_bias",
    "norm_op",
    "norm_op_kwargs",
    "dropout_op",
    "dropout_op_kwargs",
    "nonlin",
    "nonlin_kwargs",
    "nonlin_first",
)


class NestedDecoder(nn.Module):
    """The nodes X^{i,j} with j >= 1, and an output layer on each of those at full resolution.

    List of the encoder's maps X^{i,0}, full resolution first, each (b F_i *space_i) -> (b classes *space), logits; with
    deep supervision a list of L - 1 of them, that of X^{0,L-1} first.

    Args:
        encoder: The encoder, with L >= 2 stages; its sizes, norms and activations are taken over.
        num_classes: Channels of the logits.
        deep_supervision: Return the logits of all output layers.
        average_heads: Without deep supervision return the mean of all logits, not those of X^{0,L-1} alone.
        checkpointing: Compute a node anew in the backward pass instead of keeping what is inside it.
        nonlin_first: Activation before norm.
    Source: see `UNetPlusPlus`.
    """

    def __init__(
        self,
        encoder: PlainConvEncoder,
        num_classes: int,
        deep_supervision: bool,
        average_heads: bool,
        checkpointing: bool,
        nonlin_first: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.average_heads = average_heads
        self.checkpointing = checkpointing
        self.n_stages = len(encoder.output_channels)
        features: Any = encoder.output_channels
        transposed: Any = get_matching_convtransp(encoder.conv_op)
        conv: Any = encoder.conv_op
        self.ups = nn.ModuleDict()
        self.nodes = nn.ModuleDict()
        for j in range(1, self.n_stages):
            for i in range(self.n_stages - j):
                stride = encoder.strides[i + 1]
                self.ups[_key(i, j)] = transposed(features[i + 1], features[i], stride, stride, bias=False)
                self.nodes[_key(i, j)] = StackedConvBlocks(
                    _CONVOLUTIONS_PER_NODE,
                    encoder.conv_op,
                    (j + 1) * features[i],
                    features[i],
                    encoder.kernel_sizes[i],  # pyright: ignore[reportIndexIssue] - a list by now
                    1,
                    encoder.conv_bias,
                    encoder.norm_op,
                    encoder.norm_op_kwargs,
                    encoder.dropout_op,
                    encoder.dropout_op_kwargs,
                    encoder.nonlin,
                    encoder.nonlin_kwargs,
                    nonlin_first,
                )
        # X^{0,L-1} first; all exist whatever is supervised, so that every checkpoint fits
        self.seg_layers = nn.ModuleList(
            conv(features[0], num_classes, 1, 1, 0, bias=True) for _ in range(self.n_stages - 1)
        )

    def forward(self, encoded: list[AnyMap]) -> Logits | list[Logits]:
        """Return the logits."""
        rows: list[list[Tensor]] = [[each] for each in encoded]
        for j in range(1, self.n_stages):
            for i in range(self.n_stages - j):
                rows[i].append(self._checked(_key(i, j), rows[i + 1][j - 1], *rows[i]))
        finest = rows[0][:0:-1]  # X^{0,L-1}, ..., X^{0,1}
        if not (self.deep_supervision or self.average_heads):
            return self.seg_layers[0](finest[0])
        logits = [layer(node) for layer, node in zip(self.seg_layers, finest, strict=True)]
        return logits if self.deep_supervision else torch.stack(logits).mean(0)

    def _checked(self, key: str, below: Tensor, *beside: Tensor) -> Tensor:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            computed: Any = checkpoint(self._node, key, below, *beside, use_reentrant=False)
            return computed
        return self._node(key, below, *beside)

    def _node(self, key: str, below: Tensor, *beside: Tensor) -> Tensor:
        """Return H([X^{i,0}, ..., X^{i,j-1}, Up(X^{i+1,j-1})])."""
        return self.nodes[key](torch.cat((*beside, self.ups[key](below)), 1))


class UNetPlusPlus(nn.Module):
    """UNet++ with the stages, widths, kernels and strides of the planned U-Net.

    (b channels *space) -> (b classes *space), logits; with deep supervision a list of L - 1 of them for L stages, all
    at full resolution, the deepest node's first. The encoder's parameters have the names of the plain U-Net's.

        X^{i,0} = the encoder's stage i
        X^{i,j} = H([X^{i,0}, ..., X^{i,j-1}, Up(X^{i+1,j-1})])     for j >= 1 and i + j <= L - 1

    H is twice a convolution to F_i channels with norm and activation, Up a transposed convolution without bias whose
    kernel is its stride. Each X^{0,j}, j >= 1, has a 1x1 convolution as its output layer; all count alike in the loss.

    Args:
        input_channels: Channels of the input.
        num_classes: Channels of the logits.
        n_stages: Stages L of the encoder, at least 2.
        features_per_stage: Channels F_i of each stage.
        conv_op: `nn.Conv2d` or `nn.Conv3d`; this and the other classes may be given as dotted paths.
        kernel_sizes: Of each stage's convolutions, odd.
        strides: With which each stage begins; that of the first is 1.
        conv_bias: Whether convolutions have a bias.
        norm_op: Norm, None for none.
        norm_op_kwargs: Its arguments.
        dropout_op: Dropout behind each convolution, None for none.
        dropout_op_kwargs: Its arguments.
        nonlin: Activation.
        nonlin_kwargs: Its arguments.
        nonlin_first: Activation before norm.
        patch_size: Voxels along each axis of the crops it is meant for; if given, checked against the strides.
        average_heads: Without deep supervision return the mean of all output layers' logits, as the paper's accurate
            mode, not those of the deepest node alone, as its authors' nnU-Net.
        checkpointing: Compute the nodes anew in the backward pass instead of keeping what is inside them: less memory,
            more time, the same gradients.
        deep_supervision: Return the logits of all output layers; the parameters are the same with and without.
    Raises:
        ValueError: If an argument is illegal, or an input has other channels or does not divide by the strides.
    Source: Zhou et al. 2018, arXiv:1807.10165, and 2020, arXiv:1912.05074, on nnU-Net's encoder, as Karimi et al. 2021,
        arXiv:2102.13645, compare with. The mean of heads is one of logits, which regions need; the paper's is one of
        probabilities.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        conv_op: str | type[nn.Module],
        kernel_sizes: int | Sequence[Any],
        strides: int | Sequence[Any],
        conv_bias: bool = False,
        norm_op: str | type[nn.Module] | None = None,
        norm_op_kwargs: dict[str, Any] | None = None,
        dropout_op: str | type[nn.Module] | None = None,
        dropout_op_kwargs: dict[str, Any] | None = None,
        nonlin: str | type[nn.Module] | None = None,
        nonlin_kwargs: dict[str, Any] | None = None,
        nonlin_first: bool = False,
        patch_size: Sequence[int] | None = None,
        average_heads: bool = False,
        checkpointing: bool = False,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if n_stages < 2:
            raise ValueError(f"n_stages must be at least 2, got {n_stages}: UNet++ is made of what joins stages")
        lists = {
            "features_per_stage": _per_stage(features_per_stage, n_stages),
            "kernel_sizes": _per_stage(kernel_sizes, n_stages),
            "strides": _per_stage(strides, n_stages),
        }
        for name, given in lists.items():
            if len(given) != n_stages:
                raise ValueError(f"{name} must have an entry for each of {n_stages} stages, got {given}")
        classes = {"conv_op": conv_op, "norm_op": norm_op, "dropout_op": dropout_op, "nonlin": nonlin}
        self.encoder = PlainConvEncoder(
            input_channels,
            n_stages,
            n_conv_per_stage=_CONVOLUTIONS_PER_NODE,
            conv_bias=conv_bias,
            norm_op_kwargs=norm_op_kwargs or {},
            dropout_op_kwargs=dropout_op_kwargs or {},
            nonlin_kwargs=nonlin_kwargs or {},
            return_skips=True,
            nonlin_first=nonlin_first,
            **lists,
            **resolve_classes(classes, _CLASS_ARGUMENTS),
        )
        dims = convert_conv_op_to_dim(self.encoder.conv_op)
        if any(step != 1 for step in self.encoder.strides[0]):
            raise ValueError(f"strides must begin with 1, for logits at full resolution, got {lists['strides']}")
        if patch_size is not None:
            if len(patch_size) != dims:
                raise ValueError(f"conv_op works on {dims} axes, got patch_size {tuple(patch_size)}")
            bottleneck_size(patch_size, self.encoder.strides)
        if checkpointing and any(getattr(module, "track_running_stats", False) for module in self.encoder.modules()):
            raise ValueError(
                "checkpointing needs a norm without running statistics, which it would update twice, "
                f"got norm_op {norm_op}; use another norm or no checkpointing"
            )
        self.input_channels = input_channels
        self.decoder = NestedDecoder(
            self.encoder, num_classes, deep_supervision, average_heads, checkpointing, nonlin_first
        )
        self.deep_supervision_scales = [[1.0] * dims for _ in range(n_stages - 1)]
        self.deep_supervision_weights = (1 / (n_stages - 1),) * (n_stages - 1)

    def forward(self, x: Image) -> Logits | list[Logits]:
        """Return the logits."""
        if x.shape[1] != self.input_channels:
            raise ValueError(f"expected an input of {self.input_channels} channels, got {tuple(x.shape)}")
        bottleneck_size(x.shape[2:], self.encoder.strides)
        return self.decoder(self.encoder(x))

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Return the number of feature map values per image, by which nnU-Net's planner estimates memory.

        Those of all convolutions, transposed convolutions and, with deep supervision, all output layers.
        """
        return feature_map_values(self, self.input_channels, input_size)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialise one module as nnU-Net does."""
        initialize_backbone(module)

    @staticmethod
    def plan_arguments(plan: PlannedUNet) -> dict[str, Any]:
        """Return the JSON-able arguments that a plan decides.

        Of the plans of a ResidualEncoderUNet too only what both U-Nets have is used: stages, widths, kernels, strides,
        norm, dropout and activation; not the numbers and kinds of their blocks.

        Raises:
            ValueError: If the plan's network has no such arguments.
        """
        if missing := [name for name in _NEEDED if name not in plan.arch_kwargs]:
            raise ValueError(
                f"UNetPlusPlus takes its sizes from the planned U-Net, but {plan.network_class_name} has no "
                f"{', '.join(missing)}; plan with one of nnU-Net's U-Nets"
            )
        shared = {name: plan.arch_kwargs[name] for name in _SHARED if name in plan.arch_kwargs}
        return {**shared, "patch_size": list(plan.patch_size)}


def _key(i: int, j: int) -> str:
    return f"{i}_{j}"


def _per_stage(value: Any, n_stages: int) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value] * n_stages
