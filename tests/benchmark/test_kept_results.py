"""The kept results of the axial networks follow from their rounds and meet their goals."""

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.benchmark.growth import exponents
from nnunet_attn.benchmark.measure import paired_ratios

RESULTS = Path(__file__).parents[2] / "docs" / "results"
KINDS = ("forward", "step")
# Over the transcription: time of a forward pass and of a step, then peak memory of both
GOALS = {
    "speed-gated-axial-unet-cpu.json": ("GatedAxialUNet", (0.4, 0.45), (0.1, 0.2)),
    "speed-medt-cpu.json": ("MedT", (0.4, 0.45), (1 / 3, 1 / 3)),
}
# The one layer that holds more than the transcription, by length, channels, variant and axis: a copy of its input
MORE_MEMORY = {(16, 128, "no_position", 0): 1.08}


def kept(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def check_ratios(result: dict[str, Any]) -> None:
    reference, *others = result["networks"]
    for name in others:
        for kind in KINDS:
            own, other = (result["networks"][each]["seconds"][kind]["rounds"] for each in (name, reference))
            assert result["ratios"][name]["seconds"][kind] == pytest.approx(paired_ratios(own, other))
            memory = [result["networks"][each]["peak_memory_bytes"][kind] for each in (name, reference)]
            assert result["ratios"][name]["peak_memory_bytes"][kind] == pytest.approx(memory[0] / memory[1])


@pytest.mark.parametrize("file", GOALS)
def test_networks_meet_their_goals_against_the_transcription(file: str) -> None:
    result = kept(file)
    name, seconds, memory = GOALS[file]
    assert result["settings"]["rounds"] >= 7 and result["settings"]["precision"] == "fp32"
    assert result["settings"]["reference_network"].startswith("slow_")
    check_ratios(result)
    equality = result["equality"]
    assert equality["weights_of"] == result["settings"]["reference_network"]
    assert equality["max_abs_difference"][name] <= 2e-6 * equality["largest_output"]
    ratio = result["ratios"][name]
    for kind, most in zip(KINDS, seconds, strict=True):
        assert ratio["seconds"][kind]["median"] <= most
    for kind, most in zip(KINDS, memory, strict=True):
        assert ratio["peak_memory_bytes"][kind] <= most


@pytest.mark.parametrize("file", ["layer-height-cpu.json", "layer-width-cpu.json"])
def test_long_lines_are_several_times_as_fast_and_no_layer_needs_much_more_memory(file: str) -> None:
    result = kept(file)
    for layer in result["layers"]:
        check_ratios(layer)
        ratio = layer["ratios"]["GatedAxialAttention"]
        most = MORE_MEMORY.get((layer["length"], layer["channels"], layer["variant"], result["settings"]["axis"]), 1.01)
        assert max(ratio["peak_memory_bytes"].values()) <= most
        if layer["length"] == 16 and layer["variant"] == "gated":
            assert ratio["seconds"]["forward"]["median"] <= 1
            assert ratio["seconds"]["step"]["median"] <= 1.15
        if layer["length"] >= 64 and layer["channels"] == 16:
            assert ratio["seconds"]["forward"]["median"] <= 1 / 2
            assert ratio["seconds"]["step"]["median"] <= 1 / 1.8
            assert max(ratio["peak_memory_bytes"].values()) <= 0.2


def test_time_grows_no_faster_than_attention_along_lines_and_memory_like_the_image() -> None:
    result = kept("growth-gated-axial-unet-cpu.json")
    assert [size["side"] for size in result["sizes"]] == [64, 128, 256, 512]
    for size in result["sizes"]:
        check_ratios(size)
    found = exponents(result["sizes"])
    assert found == result["exponents"]
    ours = found["GatedAxialUNet"]
    for kind in KINDS:
        assert ours["seconds"][kind] <= 1.6
        assert ours["peak_memory_bytes"][kind] <= 1.1
        assert ours["peak_memory_bytes"]["of_the_largest"][kind] <= 1.1
