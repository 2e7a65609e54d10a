"""The kept results of window attention and of FINE's tokens follow from their rounds and meet their goals."""

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_attn.benchmark.measure import paired_ratios
from nnunet_attn.benchmark.window import BOUNDS, CASES, DIRECT, OURS, parsed_cases
from nnunet_attn.benchmark.window_tokens import ANEW, CARRIED, WITHOUT

RESULTS = Path(__file__).parents[2] / "docs" / "results"
KINDS = ("forward", "step")
# Over the direct layer, of a forward pass and of a step; time at the first stage and at the others
FIRST, OTHERS, MEMORY = (0.67, 0.87), (0.95, 1.05), (0.7, 0.9)
# What a bound leaves must be more than this, or the goal is this above the bound
ROOM = 0.04
# What is missed, as the page says, and what it must not exceed: by size, channels, window, shifted, quantity and kind.
# Where windows are shifted, evaluation keeps the sum of biases and mask of each kind of window; of eight windows each
# is of its own kind. In the deep stage the gradients of the weights are half of the memory.
MISSED = {
    (8, 768, 4, False, "seconds", "forward"): 0.96,
    (4, 1536, 4, False, "seconds", "forward"): 0.97,
    (8, 768, 4, True, "peak_memory_bytes", "forward"): 0.81,
    (8, 768, 4, False, "peak_memory_bytes", "step"): 1.0,
    (8, 768, 4, True, "peak_memory_bytes", "step"): 1.0,
}


def kept(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def layers() -> list[Any]:
    return [
        pytest.param(layer, id=f"{layer['size']}-{layer['channels']}-{layer['window']}-{layer['shifted']}")
        for layer in kept("window-cpu.json")["layers"]
    ]


def check_times(result: dict[str, Any]) -> None:
    reference, *others = result["networks"].values()
    for name, other in zip(list(result["networks"])[1:], others, strict=True):
        for kind in KINDS:
            own, first = (each["seconds"][kind]["rounds"] for each in (other, reference))
            assert result["ratios"][name]["seconds"][kind] == pytest.approx(paired_ratios(own, first))


def test_every_stage_is_kept() -> None:
    result = kept("window-cpu.json")
    assert result["settings"]["rounds"] >= 9 and result["settings"]["precision"] == "fp32"
    wanted = parsed_cases(["x".join(map(str, case)) for case in CASES], ["plain", "shifted"])
    keys = ("size", "channels", "window", "shifted")
    found = [tuple(layer[key] for key in keys) for layer in result["layers"]]
    assert found == [tuple(getattr(case, key) for key in keys) for case in wanted]


def check(layer: dict[str, Any], quantity: str, kind: str, found: float, goal: float) -> None:
    key = (layer["size"], layer["channels"], layer["window"], layer["shifted"], quantity, kind)
    assert found <= MISSED.get(key, goal), key


@pytest.mark.parametrize("layer", layers())
def test_layers_meet_their_goals_as_far_as_their_bounds_let_them(layer: dict[str, Any]) -> None:
    assert list(layer["networks"]) == [DIRECT, OURS, *BOUNDS]
    check_times(layer)
    assert max(layer["equality"][key] for key in ("eval", "train")) <= 1e-5
    ratio, bounds = layer["ratios"][OURS], [layer["ratios"][name] for name in BOUNDS]
    for place, kind in enumerate(KINDS):
        goal = (FIRST if layer["size"] == CASES[0][0] else OTHERS)[place]
        most = max(bound["seconds"][kind]["median"] for bound in bounds)
        check(layer, "seconds", kind, ratio["seconds"][kind]["median"], max(goal, most + ROOM))
        most = max(bound["peak_memory_bytes"][kind] for bound in bounds)
        check(layer, "peak_memory_bytes", kind, ratio["peak_memory_bytes"][kind], max(MEMORY[place], most + ROOM))
    assert ratio["saved_bytes"] <= 0.96


def test_tokens_cost_little() -> None:
    result = kept("fine-tokens-cpu.json")
    assert result["settings"]["input_shape"][2:] == [64, 128, 128]
    for size in result["sizes"]:
        assert list(size["networks"]) == [WITHOUT, ANEW, CARRIED]
        check_times(size)
    assert [size["width"] for size in result["sizes"]] == [48, 192] and result["sizes"][0]["rounds"] >= 15
    for size in result["sizes"]:
        assert size["rounds"] >= 5
        for name in (ANEW, CARRIED):
            for kind in KINDS:
                # missed at a quarter of the published width by FINE as it is by default, as the page says
                goal = 1.08 if (size["width"], name) == (48, CARRIED) else 1.06
                assert size["ratios"][name]["seconds"][kind]["median"] <= goal
    assert 192 in [counted["width"] for counted in result["activations"]]
    for counted in result["activations"]:
        for name in (ANEW, CARRIED):
            assert counted["ratios"][name]["saved_bytes"] <= 1.1
