"""What every network of the registry promises, on every kind of configuration that nnU-Net plans."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_attn.architectures.build import build_network, network_arguments
from nnunet_attn.architectures.registry import NETWORKS, Network
from tests.made.plans import KINDS, Kind

PAIRS = [
    (network, kind)
    for network, kind in product(NETWORKS, KINDS)
    if len(KINDS[kind].entry["patch_size"]) in network.dims and (network.cascade or kind != "cascade")
]


def cells(pairs: list[tuple[Network, str]]) -> list[Any]:
    return [pytest.param(network, KINDS[kind], id=f"{network.name}-{kind}") for network, kind in pairs]


CELLS = cells(PAIRS)
TIED_TO_THEIR_PATCH = cells([(network, kind) for network, kind in PAIRS if network.fixed_patch])
CHANNELS = 2


def build(network: Network, kind: Kind, deep_supervision: bool = True, num_classes: int = 3) -> Any:
    torch.manual_seed(0)
    return build_network(network, kind.planned_unet, CHANNELS, num_classes, deep_supervision, network.small_options)


def image(kind: Kind, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, CHANNELS, *kind.entry["patch_size"], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("network", "kind"), CELLS)
def test_logits_come_as_a_list_with_full_resolution_first(network: Network, kind: Kind) -> None:
    built = build(network, kind)
    levels = built(image(kind))
    strides = np.cumprod(kind.entry["architecture"]["arch_kwargs"]["strides"], axis=0)[:-1]
    # nnU-Net's data loaders make the targets of a network with scales of its own in this way
    scales = getattr(built, "deep_supervision_scales", 1 / strides)
    assert isinstance(levels, list)
    assert [tuple(level.shape) for level in levels] == [
        (2, 3, *np.round(np.array(kind.entry["patch_size"]) * scale).astype(int)) for scale in scales
    ]
    assert all(level.min() < 0 < level.max() for level in levels), "logits, not probabilities"


@pytest.mark.parametrize(("network", "kind"), CELLS)
def test_deep_supervision_switches_outputs_only(network: Network, kind: Kind) -> None:
    with_it, without = build(network, kind, True).eval(), build(network, kind, False).eval()
    assert list(with_it.state_dict()) == list(without.state_dict())
    without.load_state_dict(with_it.state_dict())
    with torch.no_grad():
        full = without(image(kind))
        assert torch.equal(with_it(image(kind))[0], full)
        getattr(with_it, "decoder", with_it).deep_supervision = False
        assert torch.equal(with_it(image(kind)), full)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_the_width_follows_the_planned_features_where_the_registry_says_so(network: Network) -> None:
    planned = KINDS[f"{max(network.dims)}d"].planned_unet
    features = [2 * width for width in planned.arch_kwargs["features_per_stage"]]
    wide = replace(planned, arch_kwargs={**planned.arch_kwargs, "features_per_stage": features})
    few, many = (
        sum(p.numel() for p in build_network(network, plan, CHANNELS, 3, False, network.small_options).parameters())
        for plan in (planned, wide)
    )
    assert (many > few) == network.planned_width


@pytest.mark.parametrize(("network", "kind"), CELLS)
def test_every_parameter_has_a_finite_gradient(network: Network, kind: Kind) -> None:
    built = build(network, kind)
    torch.stack([level.square().mean() for level in built(image(kind))]).sum().backward()
    without = [name for name, parameter in built.named_parameters() if parameter.grad is None]
    assert not without, "a parameter without gradient breaks DistributedDataParallel"
    assert all(parameter.grad.isfinite().all() for parameter in built.parameters())


@pytest.mark.parametrize(("network", "kind"), CELLS)
def test_only_output_layers_depend_on_the_number_of_classes(network: Network, kind: Kind) -> None:
    three, five = build(network, kind).state_dict(), build(network, kind, num_classes=5).state_dict()
    differing = {key for key in three if three[key].shape != five[key].shape}
    assert differing
    assert all(".seg_layers." in key for key in differing), "nnU-Net's -pretrained_weights skips only .seg_layers."


@pytest.mark.parametrize(("network", "kind"), CELLS)
def test_arguments_are_json(network: Network, kind: Kind) -> None:
    arguments = network_arguments(network, kind.planned_unet, network.small_options)
    assert json.loads(json.dumps(arguments)) == arguments


@pytest.mark.parametrize(("network", "kind"), CELLS)
def test_the_planner_can_ask_for_its_feature_map_size(network: Network, kind: Kind) -> None:
    patch = kind.entry["patch_size"]
    assert build(network, kind).compute_conv_feature_map_size(patch) > np.prod(patch)


@pytest.mark.parametrize(("network", "kind"), TIED_TO_THEIR_PATCH)
def test_another_crop_is_refused_with_the_numbers(network: Network, kind: Kind) -> None:
    built = build(network, kind).eval()
    patch = kind.entry["patch_size"]
    wrong = [patch[0] * 2, *patch[1:]]
    with pytest.raises(ValueError) as error:
        built(torch.zeros(1, CHANNELS, *wrong))
    assert str(wrong[0]) in str(error.value) and str(patch[-1]) in str(error.value)
    with pytest.raises(ValueError, match=str(CHANNELS + 1)):
        built(torch.zeros(1, CHANNELS + 1, *patch))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_unknown_options_are_named(network: Network) -> None:
    kind = next(kind for kind in KINDS.values() if len(kind.entry["patch_size"]) in network.dims)
    with pytest.raises(ValueError, match=r"no option 'no_such'.*17"):
        build_network(network, kind.planned_unet, 1, 2, True, {"no_such": 17})


@pytest.mark.slow
def test_architectures_import_without_nnunet() -> None:
    code = """
import importlib, pkgutil, sys
class Blocked:
    def find_spec(self, name, *_):
        if name.split('.')[0] in ('nnunetv2', 'batchgenerators', 'batchgeneratorsv2'):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import nnunet_attn.architectures as package
names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]
assert len(names) >= 5, names
for name in names:
    importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
