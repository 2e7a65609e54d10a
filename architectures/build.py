"""From the sizes in nnU-Net's plans to a network, without nnU-Net."""

import inspect
import pydoc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nnunet_attn.architectures.registry import Network

# What nnU-Net or the plans' own architecture entry decides; never an option of a network.
_DECIDED = ("self", "input_channels", "num_classes", "deep_supervision", "patch_size", "backbone")


@dataclass(frozen=True)
class PlannedUNet:
    """What a configuration of the plans says about its network.

    Args:
        patch_size: Voxels of a training crop along each axis, 2 or 3 numbers.
        network_class_name: Dotted path of the class that the plans name.
        arch_kwargs: Its arguments, JSON-able.
        requires_import: Those arguments whose text is a dotted path to a class.
        volume_extent: Voxels along each axis of the largest volume to expect, for networks that know where their crop
            lies in it; None if the plans do not say.
        spacing: Distance of voxels along each axis in mm, after resampling; None if it is not known.
    """

    patch_size: tuple[int, ...]
    network_class_name: str
    arch_kwargs: Mapping[str, Any]
    requires_import: Sequence[str] = field(default=("conv_op", "norm_op", "dropout_op", "nonlin"))
    volume_extent: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None


def locate(dotted_path: str) -> Any:
    """Return the object at a dotted path.

    Raises:
        ValueError: If there is none.
    """
    found = pydoc.locate(dotted_path)
    if found is None:
        raise ValueError(f"nothing can be imported as {dotted_path!r}; correct the class name in the plans")
    return found


def resolve_classes(arguments: Mapping[str, Any], requires_import: Sequence[str]) -> dict[str, Any]:
    """Return `arguments` with the dotted paths named in `requires_import` replaced by the classes themselves."""
    return {
        key: locate(value) if key in requires_import and isinstance(value, str) else value
        for key, value in arguments.items()
    }


def build_planned_unet(
    plan: PlannedUNet, input_channels: int, num_classes: int, deep_supervision: bool = False
) -> nn.Module:
    """Build the U-Net that the plans name, with freshly drawn weights that have not been initialised by nnU-Net."""
    return locate(plan.network_class_name)(
        input_channels=input_channels,
        num_classes=num_classes,
        deep_supervision=deep_supervision,
        **resolve_classes(plan.arch_kwargs, plan.requires_import),
    )


def option_names(network: Network) -> tuple[str, ...]:
    """Return the names of the arguments of a network that the plans may set."""
    if network.class_path is None:
        return ()
    names: dict[str, None] = {}  # in order
    for kind in locate(network.class_path).__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(kind.__init__).parameters.values()
        names.update((p.name, None) for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # it hands nothing on to the class it derives from
    return tuple(name for name in names if name not in _DECIDED)


def network_arguments(network: Network, plan: PlannedUNet, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON-able arguments of a network for a plan: what the plan decides, then `options`.

    Raises:
        ValueError: If an option is not an argument of the network, with its name and those that exist.
    """
    allowed = option_names(network)
    for key, value in options.items():
        if key not in allowed:
            rule = f"it may be one of {', '.join(allowed)}" if allowed else "this network has no options"
            raise ValueError(f"{network.name} has no option {key!r} (value {value!r}); {rule}")
    decided = dict(plan.arch_kwargs) if network.class_path is None else locate(network.class_path).plan_arguments(plan)
    return {**decided, **options}


def build_network(
    network: Network,
    plan: PlannedUNet,
    input_channels: int,
    num_classes: int,
    deep_supervision: bool = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build and initialise the network of a registry row for a plan.

    Raises:
        ValueError: If the network cannot work on this number of axes, or an option or size is illegal.
    """
    dims = len(plan.patch_size)
    if dims not in network.dims:
        able = " and ".join(f"{d}D" for d in network.dims)
        raise ValueError(f"{network.name} works on {able} configurations, got the {dims}D patch {plan.patch_size}")
    arguments = network_arguments(network, plan, options or {})
    if network.class_path is None:
        built = build_planned_unet(plan, input_channels, num_classes, deep_supervision)
    else:
        built = locate(network.class_path)(
            input_channels=input_channels, num_classes=num_classes, deep_supervision=deep_supervision, **arguments
        )
    initialize: Any = getattr(built, "initialize", None)
    if initialize is not None:
        built.apply(initialize)
    return built
