"""Before a network is timed against a transcription it has the same weights and gives the same outputs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention
from nnunet_attn.architectures.published import load_published_weights, translate
from nnunet_attn.benchmark import equality
from nnunet_attn.benchmark.topologies import topology_named, with_patch
from nnunet_attn.benchmark.transcriptions import TRANSCRIPTIONS
from nnunet_attn.benchmark.variants import Variant, file_build, make_variant, registry_build
from nnunet_attn.errors import InputError

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TOPOLOGY = with_patch(topology_named("axial-2d"), [32, 64])
PLANAR = [network for network, row in TRANSCRIPTIONS.items() if row.dims == 2]


def direct(network: str, name: str = "") -> Variant:
    path = ROOT / "tests" / "reference" / (name or TRANSCRIPTIONS[network].file)
    return make_variant(path.stem, file_build(path, TOPOLOGY), CPU, 0)


def ours(network: str) -> Variant:
    return make_variant(network, registry_build(network, TOPOLOGY, {}), CPU, 1)


def image() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(TOPOLOGY.input_shape)


@pytest.mark.parametrize("network", PLANAR)
def test_all_forms_get_the_same_weights_and_give_the_same_output(network: str) -> None:
    slow, fast = direct(network), ours(network)
    found = equality.equalise([slow, fast], image(), 0)
    assert found["weights_of"] == slow.name
    assert 0 < found["max_abs_difference"][network] <= 2e-6 * found["largest_output"]
    state = translate(slow.inference.state_dict(), getattr(slow.inference, "published_source"))  # noqa: B009
    for module in (fast.inference, fast.training):
        assert not [key for key, value in module.state_dict().items() if not torch.equal(value, state[key])]
    for key, value in slow.training.state_dict().items():
        torch.testing.assert_close(value, slow.inference.state_dict()[key], rtol=0, atol=0)


def test_a_second_transcription_takes_the_weights_too() -> None:
    variants = [direct("MedT"), ours("MedT"), direct("MedT", "slow_medt_folded.py"), ours("PlainUNet")]
    plain = {key: value.clone() for key, value in variants[3].inference.state_dict().items()}
    found = equality.equalise(variants, image(), 0)
    assert set(found["max_abs_difference"]) == {"MedT", "slow_medt_folded"}
    for key, value in variants[3].inference.state_dict().items():
        assert torch.equal(value, plain[key])


def test_nothing_is_compared_without_a_transcription_or_without_its_network() -> None:
    assert equality.equalise([ours("PlainUNet"), ours("AxialUNet")], image(), 0) == {}
    assert equality.equalise([direct("MedT"), ours("AxialUNet")], image(), 0) == {}


@pytest.mark.parametrize("layer", [0, -1])
@pytest.mark.parametrize("network", PLANAR)
def test_two_exchanged_channels_of_one_norm_are_noticed(
    network: str, layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange(module: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
        load_published_weights(module, state, source)
        norm = [part for part in module.modules() if isinstance(part, GatedAxialAttention)][layer].bn_output
        with torch.no_grad():
            norm.weight[:2] = norm.weight[:2].flip(0)

    monkeypatch.setattr(equality, "load_published_weights", exchange)
    with pytest.raises(InputError, match=f"{network} differs from slow_.* with the same weights"):
        equality.equalise([direct(network), ours(network)], image(), 0)


def test_no_number_is_no_equality() -> None:
    slow, fast = direct("AxialUNet"), ours("AxialUNet")

    def no_number(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output * float("nan")

    fast.inference.register_forward_hook(no_number)
    with pytest.raises(InputError, match="differs from slow_axial_unet"):
        equality.equalise([slow, fast], image(), 0)


def test_weights_that_do_not_fit_are_told() -> None:
    narrow = registry_build("AxialUNet", TOPOLOGY, {"features": [16, 16, 32, 32]})
    with pytest.raises(InputError, match=r"AxialUNet cannot take the weights of slow_axial_unet.*PlainUNet"):
        equality.equalise([direct("AxialUNet"), make_variant("AxialUNet", narrow, CPU, 0)], image(), 0)


def test_moved_weights_differ_and_variances_stay_positive() -> None:
    state = {"running_var": torch.full((1000,), 1e-3), "weight": torch.ones(1000), "number": torch.tensor(3)}
    found = equality.moved(state, 0)
    assert found["running_var"].min() > 0 and found["running_var"].unique().numel() > 900
    assert found["weight"].unique().numel() > 900 and found["weight"].std() > 0.1
    assert found["number"] == 3 and state["weight"].eq(1).all()
    assert not torch.equal(equality.moved(state, 1)["weight"], found["weight"])


def test_batches_are_compared_whole() -> None:
    slow, fast = direct("AxialUNet"), ours("AxialUNet")

    def second_image_differs(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output + torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)

    fast.inference.register_forward_hook(second_image_differs)
    with pytest.raises(InputError, match="by 1 "):
        equality.equalise([slow, fast], torch.randn(replace(TOPOLOGY, batch_size=2).input_shape), 0)
