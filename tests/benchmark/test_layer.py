import json
from pathlib import Path

import pytest
import torch
from torch import nn

from nnunet_attn.architectures.blocks.axial_attention import GatedAxialAttention
from nnunet_attn.benchmark import layer
from nnunet_attn.benchmark.layer import CASES, differences, layer_name, made_layers, main, parsed_case
from nnunet_attn.errors import InputError
from tests.reference.axial_attention import DirectAxialAttention

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_cases_are_read() -> None:
    assert parsed_case("16x64x256") == (16, 64, 256)
    assert [parsed_case(text) for text in layer._parser().get_default("cases")] == list(CASES)
    for wrong in ("16x64", "16x64x256x1", "16x0x4", "ax4x4", "-16x4x4", "24x4x4"):
        with pytest.raises(InputError, match=f"'{wrong}'"):
            parsed_case(wrong)


@pytest.mark.parametrize("axis", [0, 1])
def test_command_measures_every_case_and_variant(axis: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "layer.json"
    words = ["--cases", "16x8x16", "32x4x6", "--axis", str(axis), "--rounds", "5", "--out", str(out)]
    assert main(words) == 0
    assert "gated" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert [(one["variant"], one["channels"], one["length"], one["lines"]) for one in result["layers"]] == [
        (variant, *case) for variant in ("gated", "no_position") for case in ((16, 8, 16), (32, 4, 6))
    ]
    # two square images of 8 lines each; one image where the lines are no multiple of the length
    shapes = [one["input_shape"] for one in result["layers"][:2]]
    assert shapes == [[2, 16, 8, 8], [1, 32, 4, 6] if axis == 0 else [1, 32, 6, 4]]
    for one in result["layers"]:
        assert list(one["networks"]) == ["direct", "GatedAxialAttention"] and list(one["ratios"]) == [
            "GatedAxialAttention"
        ]
        direct, ours = one["networks"].values()
        # the norm of the similarities has a shift there, which the softmax takes out
        assert direct["parameters"] - ours["parameters"] == (3 * 8 if one["variant"] == "gated" else 8)
        for kind in ("forward", "step"):
            assert len(ours["seconds"][kind]["rounds"]) == 5
        image = 4 * one["channels"] * one["length"] * one["lines"]
        # the step gives the input a gradient
        assert ours["allocated_bytes"]["step"] > ours["allocated_bytes"]["forward"] >= image
        assert max(one["equality"].values()) < 1e-3


@pytest.mark.parametrize("variant", ["gated", "no_position"])
def test_layers_have_the_same_weights_and_compute_the_same(variant: str) -> None:
    direct, ours = made_layers(DirectAxialAttention, variant, 16, 0, 6, 0, "cpu")
    assert not direct.inference.training and direct.training.training and ours.training.training
    torch.testing.assert_close(ours.training.state_dict(), ours.inference.state_dict())
    if variant == "gated":
        gates = [direct.inference.get_parameter(f"f_{gate}").detach() for gate in ("qr", "kr", "sv", "sve")]
        torch.testing.assert_close(torch.stack(gates), ours.inference.get_parameter("gates"))
        assert len(set(map(float, gates))) == 4, "gates that are alike could be exchanged"
    torch.manual_seed(1)
    found = differences([direct, ours], torch.randn(2, 16, 6, 5, requires_grad=True))
    assert set(found) == {"eval", "train", "grad_input"}
    assert 0 < max(found.values()) < 1e-4


class Wrong(DirectAxialAttention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1.001 if self.training else 1.0)


def test_a_layer_that_trains_otherwise_is_refused() -> None:
    pair = made_layers(Wrong, "gated", 16, 0, 6, 0, "cpu")
    with pytest.raises(InputError, match=r"train by 0\.00"):
        differences(pair, torch.randn(1, 16, 6, 5, requires_grad=True))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--cases", "17x4x4"], "'17x4x4'"),
        (["--rounds", "4"], "--rounds 4; at least 5"),
        (["--reference", "missing.py"], "'missing.py'"),
        (["--reference", "tests/reference/slow_medt.py"], "does not define DirectAxialAttention"),
        (["--variants", "closed"], "closed"),
    ],
)
def test_wrong_arguments_end_with_code_2_and_write_nothing(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["--cases", "16x4x4", "--out", str(tmp_path / "layer.json"), *wrong])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_names_tell_the_sizes() -> None:
    assert (
        layer_name({"variant": "gated", "channels": 16, "length": 4, "lines": 8}) == "gated, 16 channels, 8 lines of 4"
    )


def test_ours_is_a_layer_of_the_package() -> None:
    for variant in made_layers(DirectAxialAttention, "gated", 16, 1, 4, 0, "cpu")[1:]:
        for module in (variant.inference, variant.training):
            assert isinstance(module, GatedAxialAttention) and isinstance(module, nn.Module) and module.axis == 1
