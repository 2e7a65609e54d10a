import json
from pathlib import Path

import pytest
import torch

from nnunet_attn.architectures.blocks.window_attention import WindowAttention
from nnunet_attn.benchmark import window
from nnunet_attn.benchmark.layer import differences
from nnunet_attn.benchmark.window import (
    BOUNDS,
    CASES,
    DIRECT,
    OURS,
    Case,
    layer_name,
    made_layers,
    main,
    parsed_cases,
)
from nnunet_attn.errors import InputError
from tests.reference.window_attention import DirectWindowAttention

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_cases_are_read_and_maps_of_one_window_are_not_shifted() -> None:
    assert parsed_cases(["8x64x4", "4x32x4"], window.SHIFTS) == [
        Case(8, 64, 4, False),
        Case(8, 64, 4, True),
        Case(4, 32, 4, False),
    ]
    found = parsed_cases(window._parser().get_default("cases"), ["plain"])
    assert [(case.size, case.channels, case.window) for case in found] == list(CASES)
    for wrong in ("8x64", "8x64x4x1", "8x0x4", "ax4x4", "-8x64x4"):
        with pytest.raises(InputError, match=f"'{wrong}'"):
            parsed_cases([wrong], window.SHIFTS)
    for wrong in ("8x33x4", "6x64x4", "2x64x4"):
        with pytest.raises(InputError, match=wrong):
            parsed_cases([wrong], window.SHIFTS)
    with pytest.raises(InputError, match="give plain too"):
        parsed_cases(["4x32x4"], ["shifted"])


def test_command_measures_every_case_plain_and_shifted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "window.json"
    assert main(["--cases", "4x64x2", "2x32x2", "--rounds", "5", "--out", str(out)]) == 0
    assert "without biases" in capsys.readouterr().out
    result = json.loads(out.read_text())
    sizes = [(one["size"], one["channels"], one["window"], one["shifted"]) for one in result["layers"]]
    assert sizes == [(4, 64, 2, False), (4, 64, 2, True), (2, 32, 2, False)]
    assert [one["input_shape"] for one in result["layers"]] == [[8, 8, 64], [8, 8, 64], [1, 8, 32]]
    for one in result["layers"]:
        assert list(one["networks"]) == [DIRECT, OURS, *BOUNDS] and list(one["ratios"]) == [OURS, *BOUNDS]
        direct, ours, linear, unbiased = one["networks"].values()
        assert direct["parameters"] == ours["parameters"]
        assert direct["forward_flops"] == ours["forward_flops"] == unbiased["forward_flops"]
        channels, voxels = one["channels"], one["size"] ** 3
        assert linear["parameters"] == unbiased["parameters"] == 4 * channels**2 + 4 * channels
        assert linear["forward_flops"] == 8 * voxels * channels**2
        heads, length = channels // 32, one["window"] ** 3
        windows = voxels // length if one["shifted"] else 1
        assert ours["cached_bytes"] == 4 * heads * windows * length**2
        # the input, queries with keys and values, the result, and the biases of all pairs
        assert ours["saved_bytes"] == 4 * (5 * voxels * channels + heads * length**2)
        for network in (direct, ours, linear, unbiased):
            assert network is ours or network["cached_bytes"] == 0
            peak = network["held_bytes"] + network["allocated_bytes"]["forward"] + network["cached_bytes"]
            assert network["peak_memory_bytes"]["forward"] == peak
            for kind, own in network["beyond_weights_bytes"].items():
                assert len(network["seconds"][kind]["rounds"]) == 5
                gradients = 4 * network["parameters"] if kind == "step" else 0
                cached = network["cached_bytes"] if kind == "forward" else 0
                assert own == network["allocated_bytes"][kind] + cached - gradients
        assert one["ratios"][OURS]["beyond_weights_bytes"]["forward"] == pytest.approx(
            ours["beyond_weights_bytes"]["forward"] / direct["beyond_weights_bytes"]["forward"]
        )
        assert max(one["equality"].values()) < 1e-4


@pytest.mark.parametrize("shifted", [False, True])
def test_layers_have_the_same_weights_and_compute_the_same(shifted: bool) -> None:
    case = Case(4, 64, 2, shifted)
    direct, ours, linear, unbiased = made_layers(DirectWindowAttention, case, 0, "cpu")
    assert not direct.inference.training and direct.training.training and ours.training.training
    assert isinstance(ours.inference.get_submodule("layer"), WindowAttention)
    for name in ("layer.qkv.weight", "layer.proj.bias"):
        for other in (linear, unbiased):
            torch.testing.assert_close(ours.training.get_parameter(name), other.training.get_parameter(name))
    assert (ours.inference.get_buffer("mask") is not None) == shifted
    torch.manual_seed(1)
    found = differences([direct, ours], torch.randn(case.input_shape, requires_grad=True))
    assert 0 < max(found.values()) < 1e-4
    with torch.no_grad():
        x = torch.randn(case.input_shape)
        query, key, value = ours.inference.get_submodule("layer.qkv")(x).chunk(3, -1)
        wanted = ours.inference.get_submodule("layer.proj")(query + key + value)
        torch.testing.assert_close(linear.inference(x), wanted)
        ours.inference.get_parameter("layer.relative_bias").zero_()
        torch.testing.assert_close(ours.inference.get_submodule("layer")(x), unbiased.inference(x))


class Unmasked(DirectWindowAttention):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, tokens: int = 0) -> torch.Tensor:
        return super().forward(x, None, tokens)


def test_another_function_is_refused() -> None:
    case = Case(4, 64, 2, True)
    pair = made_layers(Unmasked, case, 0, "cpu")[:2]
    with pytest.raises(InputError, match="the layers differ with the same weights: eval by"):
        differences(pair, torch.randn(case.input_shape, requires_grad=True))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--cases", "17x4"], "'17x4'"),
        (["--rounds", "4"], "--rounds 4; at least 5"),
        (["--reference", "missing.py"], "'missing.py'"),
        (["--reference", "tests/reference/slow_medt.py"], "does not define DirectWindowAttention"),
        (["--shifts", "rolled"], "rolled"),
    ],
)
def test_wrong_arguments_end_with_code_2_and_write_nothing(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["--cases", "4x32x2", "--out", str(tmp_path / "window.json"), *wrong])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_names_tell_the_sizes() -> None:
    layer = {"size": 8, "channels": 64, "window": 4, "shifted": True}
    assert layer_name(layer) == "8^3, 64 channels, windows of 4, shifted"
