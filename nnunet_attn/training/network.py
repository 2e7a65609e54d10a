"""From nnU-Net's plans to a network of the registry, with the options that the plans set."""

from collections.abc import Mapping
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from nnunet_attn.architectures.build import PlannedUNet, build_network
from nnunet_attn.architectures.registry import NETWORKS, Network
from nnunet_attn.training.extent import PLANS_KEY, Extent, estimated_extent
from nnunet_attn.training.pretrain_weights import remember_settings


def planned_unet(configuration: ConfigurationManager, volume_extent: Extent | None = None) -> PlannedUNet:
    """Return what a configuration says about its network.

    Args:
        configuration: The configuration of the plans.
        volume_extent: Extent of the data set's volumes where it is known; estimated from their median size if not.
    """
    return PlannedUNet(
        patch_size=tuple(configuration.patch_size),
        network_class_name=configuration.network_arch_class_name,
        arch_kwargs=configuration.network_arch_init_kwargs,
        requires_import=tuple(configuration.network_arch_init_kwargs_req_import),
        volume_extent=volume_extent or estimated_extent(configuration),
        spacing=tuple(float(step) for step in configuration.spacing),
    )


def plans_options(network: Network, configuration: ConfigurationManager) -> dict[str, Any]:
    """Return the options that a configuration sets for a network (`nnunet_attn.<network>`), without its trainers'.

    Raises:
        ValueError: If the entry names an unknown network or is not a table of options.
    """
    options = _entry(network, configuration)
    return {name: value for name, value in options.items() if name not in network.trainer_options}


def trainer_options(network: Network, configuration: ConfigurationManager) -> dict[str, Any]:
    """Return what a configuration sets for the trainers of a network, beside its options in the same entry.

    Raises:
        ValueError: As `plans_options`.
    """
    options = _entry(network, configuration)
    return {name: value for name, value in options.items() if name in network.trainer_options}


def _entry(network: Network, configuration: ConfigurationManager) -> dict[str, Any]:
    entry = configuration.configuration.get(PLANS_KEY, {})
    known = [row.name for row in NETWORKS]
    if not isinstance(entry, Mapping):
        raise ValueError(f"plans: {PLANS_KEY} must map networks to their options, got {entry!r}")
    for name, options in entry.items():
        if name not in known:
            raise ValueError(f"plans: {PLANS_KEY} names the unknown network {name!r}; there are {', '.join(known)}")
        if not isinstance(options, Mapping):
            raise ValueError(f"plans: {PLANS_KEY}.{name} must map option names to values, got {options!r}")
    return dict(entry.get(network.name, {}))


def build_from_plans(
    network: Network,
    configuration: ConfigurationManager,
    input_channels: int,
    num_classes: int,
    deep_supervision: bool,
    fixed_options: Mapping[str, Any],
    volume_extent: Extent | None = None,
) -> nn.Module:
    """Build and initialise the network of a registry row for a configuration of the plans.

    Args:
        network: The registry row.
        configuration: The configuration of the plans.
        input_channels: Image channels, with those of a cascade's previous stage.
        num_classes: Output channels.
        deep_supervision: Whether the network returns a list of logits.
        fixed_options: What the trainer's name stands for; the plans may not say otherwise.
        volume_extent: As in `planned_unet`.
    Raises:
        ValueError: If the network cannot be built for this configuration; the message names key, value and rule.
    """
    if configuration.previous_stage_name is not None and not network.cascade:
        raise ValueError(
            f"{network.name} cannot be the second stage of a cascade, and this configuration has the previous stage "
            f"{configuration.previous_stage_name}; train it with one that has none"
        )
    options = plans_options(network, configuration)
    for key, value in fixed_options.items():
        if key in options and options[key] != value:
            raise ValueError(
                f"plans: {PLANS_KEY}.{network.name}.{key} is {options[key]!r}, but this trainer stands for {value!r}; "
                "remove the entry or use another trainer"
            )
    plan, chosen = planned_unet(configuration, volume_extent), {**options, **fixed_options}
    try:
        built = build_network(network, plan, input_channels, num_classes, deep_supervision, chosen)
    except (TypeError, ValueError) as error:
        if options:
            raise ValueError(f"{error} (options in the plans: {PLANS_KEY}.{network.name} = {options})") from error
        raise
    remember_settings(built, network, plan, input_channels, chosen)
    return built


def build_without_weights(*arguments: Any) -> nn.Module:
    """Return, or raise, what `build_from_plans` would, at no cost in memory or time: the network has no weights."""
    with torch.device("meta"):
        return build_from_plans(*arguments)
