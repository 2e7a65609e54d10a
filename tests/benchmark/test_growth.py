import json
import math
from pathlib import Path

import pytest

from nnunet_attn.benchmark.growth import exponent, exponents, main

ROOT = Path(__file__).parents[2]


def test_exponent_of_a_power_is_found() -> None:
    pixels = [10, 100, 1000]
    assert exponent(pixels, [3 * p**1.5 for p in pixels]) == pytest.approx(1.5)
    # by hand: logarithms to base 10 are 1, 2, 3 and 0, 0, 3; slope = (1*0 - 1*0 + 3 - 0) / 2 = 1.5
    assert exponent(pixels, [1, 1, 1000]) == pytest.approx(1.5)


def made_size(side: int, **networks: tuple[float, float]) -> dict:
    return {
        "side": side,
        "pixels": side**2,
        "networks": {
            name: {
                "seconds": {kind: {"median": seconds} for kind in ("forward", "step")},
                "peak_memory_bytes": {"forward": memory, "step": 2 * memory},
            }
            for name, (seconds, memory) in networks.items()
        },
    }


def test_exponents_are_of_the_sizes_that_a_network_was_measured_at() -> None:
    # seconds quadruple, then octuple, while pixels quadruple; memory grows with the pixels
    sizes = [made_size(8, a=(1, 1), b=(1, 1)), made_size(16, a=(4, 4), b=(16, 4)), made_size(32, a=(32, 16))]
    found = exponents(sizes)
    assert found["a"]["sides"] == [8, 16, 32] and found["b"]["sides"] == [8, 16]
    assert found["a"]["seconds"]["forward"] == pytest.approx(math.log2(32) / math.log2(16))
    assert found["a"]["seconds"]["of_the_largest"]["step"] == pytest.approx(1.5)
    assert found["a"]["peak_memory_bytes"]["step"] == pytest.approx(1)
    assert found["b"]["seconds"]["forward"] == pytest.approx(2)
    assert exponents(sizes[:1]) == {}


def test_command_measures_both_and_leaves_the_reference_out_of_large_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    out = tmp_path / "growth.json"
    words = ["--network", "gated_axial_unet", "--sizes", "128", "64", "96", "--reference-up-to", "96", "--rounds", "2"]
    assert main([*words, "--out", str(out)]) == 0
    assert "alpha" in capsys.readouterr().out
    result = json.loads(out.read_text())
    both = ["slow_gated_axial_unet", "GatedAxialUNet"]
    assert [(size["side"], list(size["networks"])) for size in result["sizes"]] == [
        (64, both),
        (96, both),
        (128, ["GatedAxialUNet"]),
    ]
    for size in result["sizes"]:
        assert size["pixels"] == size["side"] ** 2 and size["rounds"] == 2
        assert ("slow_gated_axial_unet" in size["networks"]) is bool(size["equality"]) is bool(size["ratios"])
        for network in size["networks"].values():
            assert len(network["seconds"]["step"]["rounds"]) == 2
    found = result["exponents"]
    assert found["GatedAxialUNet"]["sides"] == [64, 96, 128]
    memory = [size["networks"]["GatedAxialUNet"]["peak_memory_bytes"]["step"] for size in result["sizes"]]
    expected = exponent([64**2, 96**2, 128**2], memory)
    assert found["GatedAxialUNet"]["peak_memory_bytes"]["step"] == pytest.approx(expected)
    # what forms the similarities grows faster
    own, other = (found[name]["peak_memory_bytes"]["step"] for name in ("GatedAxialUNet", "slow_gated_axial_unet"))
    assert own < 1 < other
    assert result["provenance"]["command"].startswith("python -m nnunet_attn.benchmark.growth --network gated")


def test_little_time_makes_few_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--network", "plain_unet", "--sizes", "64", "96", "--rounds", "1000", "--seconds", "0.01"]
    assert main([*words, "--out", "growth.json"]) == 0
    result = json.loads((tmp_path / "growth.json").read_text())
    assert [size["rounds"] for size in result["sizes"]] == [1, 1]
    assert result["settings"]["reference_network"] is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--sizes", "64"], "--sizes 64"),
        (["--sizes", "64", "64"], "--sizes 64 64"),
        (["--sizes", "64", "100"], "[100, 100]"),
        (["--rounds", "0"], "--rounds 0"),
        (["--seconds", "0"], "--seconds 0"),
        (["--network", "no_unet"], "'no_unet'"),
        (["--reference", "missing.py"], "'missing.py'"),
    ],
)
def test_wrong_arguments_end_with_code_2_and_write_nothing(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "growth.json"), *wrong]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_outside_of_a_checkout_the_network_is_measured_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--sizes", "64", "96", "--rounds", "1", "--out", "growth.json"]) == 0
    assert "GatedAxialUNet is measured alone" in capsys.readouterr().err
    result = json.loads((tmp_path / "growth.json").read_text())
    assert [list(size["networks"]) for size in result["sizes"]] == [["GatedAxialUNet"]] * 2
