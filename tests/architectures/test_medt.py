"""What MedT, LoGo and the axial U-Nets are: shapes, equality with the published computation, any size."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_attn.architectures.axial_network import AxialNetwork
from nnunet_attn.architectures.blocks import axial_attention
from nnunet_attn.architectures.blocks.axial_attention import LONGER_LINES, GatedAxialAttention
from nnunet_attn.architectures.blocks.axial_branch import AxialBranch
from nnunet_attn.architectures.medt import AxialUNet, GatedAxialUNet, LoGo, MedT, MedTGlobal, MedTLocal
from nnunet_attn.architectures.published import translate
from tests.made.published import published_state_dict
from tests.reference.medt import DirectNetwork

NETWORKS = (AxialUNet, GatedAxialUNet, LoGo, MedT, MedTGlobal, MedTLocal)
WITH_GRID = (LoGo, MedT, MedTLocal)
SOURCES = {"axialunet": AxialUNet, "gatedaxialunet": GatedAxialUNet, "logo": LoGo, "medt": MedT}
NARROW: dict[str, Any] = {"features": [8, 8, 16, 16], "depths": [1, 2, 1, 1], "num_heads": 4, "stem_channels": [4, 8]}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(kind: type[AxialNetwork], patch_size: tuple[int, ...], channels: int = 2, **options: Any) -> AxialNetwork:
    if issubclass(kind, WITH_GRID):
        options = {"local_stem": 4, **options}
    return kind(channels, 3, patch_size, **{**NARROW, **options})


# ---- the paper's shapes ----

STEM, GLOBAL_STAGES = (8, 64, 64), [(32, 64, 64), (64, 32, 32)]
GLOBAL_DECODER = [(32, 32, 32), (16, 64, 64)]
GLOBAL_TABLES = [[[64, 64]], [[64, 64], [32, 32]]]
WHOLE = (
    STEM,
    [*GLOBAL_STAGES, (128, 16, 16), (256, 8, 8)],
    [(256, 4, 4), (128, 8, 8), (64, 16, 16), *GLOBAL_DECODER],
    [*GLOBAL_TABLES, [[32, 32], *[[16, 16]] * 3], [[16, 16]]],
)
GLOBAL = (STEM, GLOBAL_STAGES, GLOBAL_DECODER, GLOBAL_TABLES)
LOCAL = (
    (64, 16, 16),
    [(32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)],
    [(256, 1, 1), (128, 2, 2), (64, 4, 4), (32, 8, 8), (16, 16, 16)],
    [[[16, 16]], [[16, 16], [8, 8]], [[8, 8], *[[4, 4]] * 3], [[4, 4]]],
)


@pytest.mark.parametrize(
    ("kind", "branches"),
    [
        (AxialUNet, {"branch": WHOLE}),
        (GatedAxialUNet, {"branch": WHOLE}),
        (LoGo, {"global_branch": GLOBAL, "local_branch": LOCAL}),
        (MedT, {"global_branch": GLOBAL, "local_branch": LOCAL}),
        (MedTGlobal, {"global_branch": GLOBAL}),
        (MedTLocal, {"local_branch": LOCAL}),
    ],
)
def test_every_stage_has_the_published_shape(kind: type[AxialNetwork], branches: dict[str, Any]) -> None:
    network = kind(3, 2, (128, 128)).eval()
    assert {name for name, module in network.named_modules() if isinstance(module, AxialBranch)} == branches.keys()
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        return lambda _, __, output: shapes.update({name: tuple(output.shape)})

    for name, module in network.named_modules():
        if ".stem" in name or ".stages." in name or ".decoder." in name:
            module.register_forward_hook(note(name))
    with torch.no_grad():
        assert network(torch.randn(1, 3, 128, 128)).shape == (1, 2, 128, 128)
    for name, (stem, stages, decoder, tables) in branches.items():
        batch = 16 if name == "local_branch" else 1
        branch = network.get_submodule(name)
        assert isinstance(branch, AxialBranch)
        assert shapes[f"{name}.stem"] == (batch, *stem)
        assert shapes[f"{name}.stem.conv2"] == (batch, 128, *stem[1:])
        assert [shapes[f"{name}.stages.{number}"] for number in range(len(branch.stages))] == [
            (batch, *shape) for shape in stages
        ]
        assert [shapes[f"{name}.decoder.{number}"] for number in range(len(branch.decoder))] == [
            (batch, *shape) for shape in decoder
        ]
        lengths = [[[layer.length for layer in block.layers] for block in stage] for stage in branch.stages]  # pyright: ignore
        assert lengths == tables
        for module in branch.modules():
            if isinstance(module, GatedAxialAttention) and module.variant != "no_position":
                assert module.relative.shape == (2 * module.channels // 8, 2 * module.length - 1)


@pytest.mark.parametrize(
    ("kind", "variants"),
    [
        (AxialUNet, {"branch": "plain"}),
        (GatedAxialUNet, {"branch": "gated"}),
        (LoGo, {"global_branch": "plain", "local_branch": "plain"}),
        (MedT, {"global_branch": "gated", "local_branch": "no_position"}),
        (MedTGlobal, {"global_branch": "gated"}),
        (MedTLocal, {"local_branch": "no_position"}),
    ],
)
def test_every_branch_has_its_variant(kind: type[AxialNetwork], variants: dict[str, str]) -> None:
    layers = [
        (name.split(".")[0], module.variant)
        for name, module in small(kind, (32, 32)).named_modules()
        if isinstance(module, GatedAxialAttention)
    ]
    assert set(layers) == set(variants.items())


# ---- equality with the published computation ----


def drawn_pair(source: str, size: tuple[int, int], **options: Any) -> tuple[AxialNetwork, DirectNetwork]:
    """Both in float64 with the same weights; norms, tables and gates drawn."""
    if source in ("logo", "medt"):
        options = {"local_stem": 4, **options}
    direct = DirectNetwork(source, 2, 3, size, **NARROW, **options).double()
    with torch.no_grad():
        for parameter in direct.parameters():
            if parameter.ndim < 3:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    network = SOURCES[source](2, 3, size, **NARROW, **options).double()
    network.load_state_dict(translate(direct.state_dict(), source))
    return network, direct


def gradient(network: nn.Module, image: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    image = image.clone().requires_grad_()
    output = network(image)
    return output.detach(), torch.autograd.grad((output * pull).sum(), image)[0]


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("axialunet", {}),
        ("gatedaxialunet", {}),
        ("gatedaxialunet", {"gate_position": "post_norm"}),
        ("logo", {"grid": [4, 2]}),
        ("medt", {"grid": [2, 4]}),
        ("medt", {"grid": [1, 2], "gate_position": "post_norm"}),
    ],
)
@pytest.mark.parametrize("size", [(32, 24), (25, 38)])
def test_equals_the_published_computation(source: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    network, direct = drawn_pair(source, size, **options)
    image, pull = torch.randn(2, 2, *size).double(), torch.randn(2, 3, *size).double()
    for train in (True, False):  # evaluation with what training left in the running statistics
        (got, own), (expected, other) = (gradient(each.train(train), image, pull) for each in (network, direct))
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6 * float(other.abs().max()))
        state = dict(network.state_dict())
        torch.testing.assert_close(state, translate(direct.state_dict(), source), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("source", ["logo", "medt"])
def test_folded_cells_differ_from_the_published_loop_in_training_only(source: str) -> None:
    published = published_state_dict(source, image=32, channels=1)
    network = SOURCES[source](1, 2, (32, 32), grid=(4, 4)).double()
    network.load_state_dict(translate(published, source))
    direct = DirectNetwork(source, 1, 2, (32, 32), grid=(4, 4), patch_by_patch=True).double()
    direct.load_state_dict({key: value for key, value in published.items() if key in direct.state_dict()})
    # brighter below: each place of the loop has statistics of its own
    image = torch.randn(2, 1, 32, 32).double() + torch.linspace(0, 3, 32)[:, None]
    with torch.no_grad():
        got, expected = network.eval()(image), direct.eval()(image)
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
        got, looped = network.train()(image), direct.train()(image)
        assert (got - looped).norm() > 0.05 * looped.norm(), "the documented departure"
        direct.load_state_dict({key: value for key, value in published.items() if key in direct.state_dict()})
        direct.patch_by_patch = False
        expected = direct(image)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8 * float(expected.abs().max()))


# ---- sizes ----


@pytest.mark.parametrize("size", [(256, 256), (45, 70), (1, 33), (17, 30, 23), (1, 2, 40)], ids=str)
@pytest.mark.parametrize("kind", NETWORKS)
def test_any_size_gives_logits_of_that_size(kind: type[AxialNetwork], size: tuple[int, ...]) -> None:
    network = small(kind, size, depths=[1, 1, 1, 1]).eval()
    with torch.no_grad():
        output = network(torch.randn(1, 2, *size))
    assert output.shape == (1, 3, *size) and output.isfinite().all()
    if max(size) < 100:
        network.train()(torch.randn(2, 2, *size)).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("dims", [2, 3])
def test_other_crops_than_the_patch(kind: type[AxialNetwork], dims: int) -> None:
    patch = (24, 40, 32)[-dims:]
    axial_attention._warn_of_longer_lines.cache_clear()
    network = small(kind, patch, depths=[1, 1, 1, 1]).eval()
    smaller, larger = (19, 33, 32)[-dims:], (24, 57, 70)[-dims:]
    with torch.no_grad():
        assert network(torch.randn(1, 2, *patch)).shape[2:] == patch
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert network(torch.randn(1, 2, *smaller)).shape[2:] == smaller
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            for _ in range(2):
                assert network(torch.randn(1, 2, *larger)).shape[2:] == larger
    positions = any(
        isinstance(each, GatedAxialAttention) and each.variant != "no_position" for each in network.modules()
    )
    assert [str(each.message) for each in raised if "position tables" in str(each.message)] == [
        LONGER_LINES
    ] * positions


# ---- the local branch ----


@pytest.mark.parametrize("kind", [MedT, LoGo])
def test_local_branch_sees_every_cell_of_the_image(kind: type[LoGo]) -> None:
    network: Any = small(kind, (256, 256), channels=1, depths=[1, 1, 1, 1]).eval()
    assert network.grid == (4, 4)
    with torch.no_grad():
        # the global branch silent, and all ReLUs behind the local one open
        network.global_branch.decoder[-1].weight.zero_()
        network.global_branch.decoder[-1].bias.zero_()
        network.local_branch.decoder[-1].bias.fill_(10)
        network.fusion.weight.abs_()
    image = torch.randn(1, 1, 256, 256, requires_grad=True)
    centres = network(image)[0, 0, 32::64, 32::64]
    assert centres.shape == (4, 4)
    for row, column in ((0, 0), (0, 3), (2, 1), (3, 3)):
        (gradient,) = torch.autograd.grad(centres[row, column], image, retain_graph=True)
        touched = gradient[0, 0] != 0
        assert touched[64 * row : 64 * (row + 1), 64 * column : 64 * (column + 1)].float().mean() > 0.9
        touched[64 * row : 64 * (row + 1), 64 * column : 64 * (column + 1)] = False
        assert not touched.any(), "cells do not see one another"
    (gradient,) = torch.autograd.grad(centres.sum(), image)
    assert (gradient.view(4, 64, 4, 64).abs().sum((1, 3)) > 0).all()
