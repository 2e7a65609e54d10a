"""UNet++: its equations, its counts, its output layers and what they weigh."""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nnunet_attn.architectures.build import PlannedUNet, build_network, build_planned_unet
from nnunet_attn.architectures.registry import network_named
from nnunet_attn.architectures.unet_plus_plus import UNetPlusPlus
from tests.made.data import make_trainer
from tests.made.plans import KINDS, architecture
from tests.reference.unet_plus_plus import Equations

STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 1]]
PATCH = (4, 16, 8)
FEATURES = [4, 6, 8, 10]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def plan(dims: int = 3, residual: bool = False, stages: int = 4) -> PlannedUNet:
    strides = [stride[-dims:] for stride in STRIDES[:stages]]
    entry = architecture(list(PATCH[-dims:]), strides, FEATURES[:stages], residual)
    return PlannedUNet(PATCH[-dims:], entry["network_class_name"], entry["arch_kwargs"])


def small(dims: int = 3, residual: bool = False, stages: int = 4, **options: Any) -> Any:
    arguments = {**UNetPlusPlus.plan_arguments(plan(dims, residual, stages)), **options}
    return UNetPlusPlus(input_channels=2, num_classes=3, **arguments)


def image(dims: int = 3, **more: Any) -> torch.Tensor:
    return torch.randn(2, 2, *PATCH[-dims:], **more)


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("dims", [2, 3])
def test_equals_its_equations_with_gradients(dims: int, stages: int) -> None:
    network = small(dims, stages=stages, deep_supervision=True).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.5)
    x = image(dims, dtype=torch.float64)
    weights = {key: value.detach().clone().requires_grad_() for key, value in network.named_parameters()}
    expected = Equations(weights, [stride[-dims:] for stride in STRIDES[:stages]], x).logits()
    computed = network(x)
    assert len(computed) == stages - 1
    shares = [torch.randn_like(each) for each in expected]
    for ours, theirs in zip(computed, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for levels in (computed, expected):
        torch.stack([(level * share).sum() for level, share in zip(levels, shares, strict=True)]).sum().backward()
    for key, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[key].grad, rtol=1e-8, atol=1e-8, msg=key)


def full_size(dims: int, name: str = "UNetPlusPlus") -> Any:
    stages = 6
    arguments = architecture([64] * dims, [[1] * dims, *[[2] * dims] * (stages - 1)])["arch_kwargs"]
    arguments["features_per_stage"] = [32, 64, 128, 256, 320, 320]
    arguments |= {"n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1)}
    given = PlannedUNet((64,) * dims, "dynamic_network_architectures.architectures.unet.PlainConvUNet", arguments)
    with torch.device("meta"):
        return build_network(network_named(name), given, 1, 2, False)


def test_parameters_follow_from_the_equations() -> None:
    widths, kernel, corner, classes = [32, 64, 128, 256, 320, 320], 27, 8, 2

    def convolution(incoming: int, outgoing: int) -> int:
        return incoming * outgoing * kernel + 3 * outgoing  # its bias, the norm's weight and bias

    encoder = sum(
        convolution(incoming, own) + convolution(own, own)
        for incoming, own in zip([1, *widths[:-1]], widths, strict=True)
    )
    pairs = [(i, j) for i in range(6) for j in range(1, 6 - i)]
    assert len(pairs) == 15
    nodes = sum(convolution((j + 1) * widths[i], widths[i]) + convolution(widths[i], widths[i]) for i, j in pairs)
    ups = sum(widths[i + 1] * widths[i] * corner for i, _ in pairs)
    heads = 5 * (32 * classes + classes)
    expected = encoder + nodes + ups + heads
    network = full_size(3)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected == 45_966_634
    assert sum(parameter.numel() for parameter in network.encoder.parameters()) == encoder


def test_operations_and_feature_maps_at_full_size() -> None:
    network = full_size(3)
    size = [64] * 3
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 1, *size, device="meta"))
    per_voxel = counter.get_total_flops() / 2 / math.prod(size) / 1e3
    assert round(per_voxel, 1) == 1131.7

    # voxels of stage i times its widths: two convolutions in each of 6 - i nodes, and one Up in all but the first
    widths = [32, 64, 128, 256, 320, 320]
    maps = sum((64 >> i) ** 3 * widths[i] * (2 * (6 - i) + (5 - i)) for i in range(6))
    assert network.compute_conv_feature_map_size(size) == maps + 64**3 * 2
    network.decoder.deep_supervision = True
    assert network.compute_conv_feature_map_size(size) == maps + 5 * 64**3 * 2


@pytest.mark.parametrize("dims", [2, 3])
def test_reads_either_of_nnunets_unets(dims: int) -> None:
    plain, residual = small(dims).state_dict(), small(dims, residual=True).state_dict()
    assert {key: value.shape for key, value in plain.items()} == {key: value.shape for key, value in residual.items()}
    # its encoder takes over a plain U-Net's with two convolutions a stage
    given = plan(dims)
    arguments = {**given.arch_kwargs, "n_conv_per_stage": [2] * 4}
    unet = build_planned_unet(PlannedUNet(given.patch_size, given.network_class_name, arguments), 2, 3)
    encoder = {key: value for key, value in unet.state_dict().items() if key.startswith("encoder.")}
    assert {key for key in plain if key.startswith("encoder.")} == encoder.keys()
    assert all(plain[key].shape == value.shape for key, value in encoder.items())


def test_numbers_stand_for_all_stages_and_axes() -> None:
    network = UNetPlusPlus(1, 2, 3, 4, "torch.nn.Conv2d", 3, [1, 2, 2], nonlin="torch.nn.ReLU")
    assert network(torch.randn(1, 1, 8, 12)).shape == (1, 2, 8, 12)
    assert not any("norm" in key for key in network.state_dict())


def test_the_plans_can_make_it_narrower_than_the_planned_unet() -> None:
    network = build_network(network_named("UNetPlusPlus"), plan(), 2, 3, False, {"features_per_stage": [2, 3, 4, 5]})
    assert network.get_parameter("decoder.ups.0_1.weight").shape == (3, 2, 1, 2, 2)
    with torch.no_grad():
        assert network(image()).shape == (2, 3, *PATCH)


def test_output_layers_can_be_averaged() -> None:
    last, mean = small(), small(average_heads=True)
    mean.load_state_dict(last.state_dict())
    x = image()
    with torch.no_grad():
        single, averaged = last(x), mean(x)
        mean.decoder.deep_supervision = True
        levels = mean(x)
    assert len(levels) == 3 and torch.equal(levels[0], single)
    torch.testing.assert_close(averaged, sum(levels) / 3)
    assert not torch.allclose(averaged, single)


def kept_values(network: Any, x: torch.Tensor) -> tuple[Any, int]:
    """Return the output, and the values that autograd keeps for the backward pass, parameters not counted."""
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return network(x), sum(kept.values())


def test_checkpointing_keeps_less_and_changes_no_gradient() -> None:
    usual, thrifty = small(deep_supervision=True), small(deep_supervision=True, checkpointing=True)
    thrifty.load_state_dict(usual.state_dict())
    x = image()
    (ours, less), (expected, more) = kept_values(thrifty, x), kept_values(usual, x)
    assert less < 0.4 * more
    for levels in (ours, expected):
        torch.stack([level.square().mean() for level in levels]).sum().backward()
    for (key, parameter), other in zip(thrifty.named_parameters(), usual.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), key
    assert kept_values(thrifty.eval(), x)[1] > less, "nothing is computed twice but in training"


def test_what_is_kept_for_the_backward_pass_at_full_size() -> None:
    networks = [full_size(3, name) for name in ("PlainUNet", "UNetPlusPlus")]
    x = torch.empty(1, 1, *[128] * 3, device="meta")
    plain, nested = (kept_values(network, x)[1] for network in networks)
    networks[1].decoder.checkpointing = True
    thrifty = kept_values(networks[1], x)[1]
    assert [round(values / plain, 1) for values in (nested, thrifty)] == [4.1, 0.9]


@pytest.mark.parametrize("stages", [2, 4])
def test_all_output_layers_weigh_the_same(stages: int) -> None:
    network = small(stages=stages)
    assert network.deep_supervision_scales == [[1.0] * 3] * (stages - 1)
    assert network.deep_supervision_weights == (1 / (stages - 1),) * (stages - 1)


def test_the_trainers_loss_is_the_mean_of_all_output_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]
) -> None:
    leaf = load_leaf("nnUNetTrainerUNetPlusPlus").nnUNetTrainerUNetPlusPlus
    trainer: Any = make_trainer(leaf, KINDS["anisotropic"], tmp_path, monkeypatch)
    trainer.initialize()
    assert type(trainer.network).__name__ == "UNetPlusPlus" and trainer.enable_deep_supervision
    size = KINDS["anisotropic"].entry["patch_size"]
    assert trainer._get_deep_supervision_scales() == [[1.0] * 3] * 2
    logits = [torch.randn(2, 3, *size) for _ in range(2)]
    target = torch.randint(0, 3, (2, 1, *size)).float()
    single = [trainer.loss.loss(each, target) for each in logits]
    torch.testing.assert_close(trainer.loss(logits, [target, target]), (single[0] + single[1]) / 2)
    assert single[0] != single[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_stages": 1}, r"n_stages must be at least 2, got 1"),
        ({"n_stages": 3}, r"features_per_stage must have an entry for each of 3 stages, got \[4, 6, 8, 10\]"),
        ({"strides": [[2, 2, 2], *STRIDES[1:]]}, r"strides must begin with 1, .* got \[\[2, 2, 2\]"),
        ({"patch_size": [4, 12, 8]}, r"\(4, 12, 8\) must be a multiple of the product of the strides, \(2, 8, 4\)"),
        ({"patch_size": [16, 8]}, r"works on 3 axes, got patch_size \(16, 8\)"),
        ({"norm_op": "torch.nn.BatchNorm3d", "checkpointing": True}, r"without running statistics.*BatchNorm3d"),
    ],
)
def test_illegal_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_illegal_inputs_are_named() -> None:
    network = small()
    with pytest.raises(ValueError, match=r"an input of 2 channels, got \(1, 3, 4, 16, 8\)"):
        network(torch.zeros(1, 3, *PATCH))
    with pytest.raises(ValueError, match=r"\(4, 16, 6\) must be a multiple of the product of the strides, \(2, 8, 4\)"):
        network(torch.zeros(1, 2, 4, 16, 6))
    assert network(torch.zeros(1, 2, 2, 24, 4)).shape == (1, 3, 2, 24, 4)


def test_other_plans_are_refused() -> None:
    given = PlannedUNet((8, 8), "some.Transformer", {"embed_dim": 8, "strides": [1]})
    with pytest.raises(
        ValueError, match=r"some\.Transformer has no n_stages, features_per_stage, conv_op, kernel_size"
    ):
        UNetPlusPlus.plan_arguments(given)
