import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nnunet_attn.architectures.fine import FINE
from nnunet_attn.benchmark.window_tokens import ANEW, CARRIED, WITHOUT, builds, counted, input_shape, main, saved_bytes

PATCH = (8, 16, 16)


def really_saved(network: nn.Module, image: Tensor) -> int:
    """The same as `saved_bytes`, of a forward pass that is computed."""
    own = {tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(image)
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.parametrize("name", [WITHOUT, ANEW, CARRIED])
def test_activations_are_counted_as_they_are_kept(name: str) -> None:
    network = builds(PATCH, 8)[name](True).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = saved_bytes(network, input_shape(PATCH))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with torch.device("meta"):
        assert saved_bytes(builds(PATCH, 8)[name](True).train(), input_shape(PATCH)) == found
    assert found == really_saved(network, torch.randn(input_shape(PATCH))) > 0


def test_a_product_keeps_its_input_and_no_weight() -> None:
    assert saved_bytes(nn.Linear(3, 5), (7, 3)) == 4 * 7 * 3
    layers = nn.Sequential(nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2))
    # the input, and the sigmoid's result once though two operations keep it
    assert saved_bytes(layers, (7, 3)) == 4 * 7 * (3 + 5)


def test_the_networks_differ_in_their_tokens_alone() -> None:
    networks = {name: build(False) for name, build in builds(PATCH, 8).items()}
    for name, carry in ((ANEW, False), (CARRIED, True)):
        network = networks[name]
        assert isinstance(network, FINE) and network.carry is carry and network.grid == (1, 5, 5)
        assert network.position_axes == (1, 2)
    plain = {
        key.removeprefix("network.").replace(".blocks.", "."): value.shape
        for key, value in networks[WITHOUT].state_dict().items()
    }
    with_tokens = {key.replace(".blocks.", "."): value.shape for key, value in networks[CARRIED].state_dict().items()}
    assert plain.items() <= with_tokens.items()


def test_ratios_are_over_the_network_without_tokens() -> None:
    found = counted(PATCH, 8)
    assert list(found["networks"]) == [WITHOUT, ANEW, CARRIED] and list(found["ratios"]) == [ANEW, CARRIED]
    first, _, carried = found["networks"].values()
    for key in ("parameters", "saved_bytes"):
        assert found["ratios"][CARRIED][key] == carried[key] / first[key] > 1


def test_command_measures_every_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tokens.json"
    words = ["--patch", *map(str, PATCH), "--widths", "8", "--counted", "8", "16", "--rounds", "5"]
    assert main([*words, "--out", str(out)]) == 0
    assert "carry=False" in capsys.readouterr().out.replace("\n", "")
    result = json.loads(out.read_text())
    assert [(size["width"], size["rounds"]) for size in result["sizes"]] == [(8, 5)]
    assert [counts["width"] for counts in result["activations"]] == [8, 16]
    assert result["settings"]["input_shape"] == [1, 3, *PATCH]
    (size,) = result["sizes"]
    for name, network in size["networks"].items():
        assert network["parameters"] == result["activations"][0]["networks"][name]["parameters"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--rounds", "4"], "--rounds 4; at least 5"),
        (["--widths", "7"], "embed_dim"),
        (["--patch", "8", "16", "0"], "patch"),
    ],
)
def test_wrong_arguments_end_with_code_2_and_write_nothing(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--patch", *map(str, PATCH), "--widths", "8", "--counted", "--out", str(tmp_path / "tokens.json")]
    assert main([*words, *wrong]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
