"""The pages of results say what the JSON files beside them say."""

import json
from pathlib import Path

import pytest

from nnunet_attn.benchmark.pages import learning_page, main, pages

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.mark.parametrize("name", pages(RESULTS))
def test_the_kept_pages_are_those_that_the_script_makes(name: str) -> None:
    assert (RESULTS / name).read_text() == pages(RESULTS)[name], (
        "run: python -m nnunet_attn.benchmark.pages docs/results"
    )


def test_there_is_a_page_for_each_kind_that_was_measured_and_no_other() -> None:
    assert {file.name for file in RESULTS.glob("*.md")} == set(pages(RESULTS))
    measured = {"speed", "growth", "layer", "window", "fine-tokens", "learning", "position", "patches"}
    assert {f"{kind}.md" for kind in measured} <= set(pages(RESULTS))


def test_every_result_is_shown_and_names_no_place() -> None:
    shown = "".join(pages(RESULTS).values())
    files = list(RESULTS.glob("*.json"))
    assert files
    for file in files:
        assert f"({file.name})" in shown
        assert '"/' not in file.read_text(), "no absolute path"


def made_result() -> dict:
    runs = [
        {"network": name, "seed": seed, "trained": trained, "dice": dice, "validation_cases": 4}
        for name, dices in (("A", (0.0, 0.5, 0.0, 0.7)), ("B", (0.1, 0.6, 0.1, 0.4)))
        for (seed, trained), dice in zip([(0, False), (0, True), (1, False), (1, True)], dices, strict=True)
    ]
    return {
        "dataset": "Dataset001_Made",
        "cases": 20,
        "configuration": "2d",
        "patch_size": [8, 8],
        "batch_size": 2,
        "features_per_stage": [4, 8],
        "epochs": 3,
        "iterations_per_epoch": 5,
        "mirroring": False,
        "device": "cpu",
        "reference": "A",
        "mean_dice": {"A": {"untrained": 0.0, "trained": 0.6}, "B": {"untrained": 0.1, "trained": 0.5}},
        "difference_to_reference": {"A": 0.0, "B": -0.1},
        "runs": runs,
        "provenance": {
            "date_utc": "2026-01-02T03:04:05+00:00",
            "versions": {"torch": "2", "nnunetv2": "2.8", "nnunet_attn": "0"},
            "hardware": {"cpu": "Abacus", "cpu_cores": 1, "gpu": None},
            "command": "python -m made",
        },
    }


def test_iou_is_shown_where_it_was_kept() -> None:
    result = made_result()
    assert "IoU, mean" not in learning_page({"learning-made.json": result})
    result["mean_iou"] = {"A": {"untrained": 0.0, "trained": 0.45}, "B": {"untrained": 0.1, "trained": 0.375}}
    page = learning_page({"learning-made.json": result})
    assert "| minus A | IoU, mean |" in page
    assert "| A | 0.000 | 0.500 | 0.700 | 0.600 | +0.000 | 0.450 |" in page


def test_a_study_of_positions_becomes_a_table(tmp_path: Path) -> None:
    dices = {"A": (0.5, 0.7), "B": (0.2, 0.3)}
    result = {key: value for key, value in made_result().items() if key not in ("mean_dice", "runs")}
    result |= {
        "seeds": [3, 4],
        "reference": "B",
        "median_size": [16, 127.5, 131],
        "test_cases": 5,
        "options": {"FINE": {"embed_dim": 24}},
        "mean": {name: {"dice": sum(pair) / 2, "dice_of_the_union": 0.875} for name, pair in dices.items()},
        "difference_to_reference": {"A": 0.35, "B": 0.0},
        "runs": [
            {"network": name, "seed": seed, "dice": dice}
            for name, pair in dices.items()
            for seed, dice in zip((3, 4), pair, strict=True)
        ],
    }
    (tmp_path / "position-made.json").write_text(json.dumps(result))
    page = pages(tmp_path)["position.md"]
    assert "## 3 epochs of 5 iterations, 2 seeds" in page and "16x128x131 in the median, patch 8x8, batch 2" in page
    assert "| trainer | seed 3 | seed 4 | mean Dice | minus B | Dice of the union |" in page
    assert "| A | 0.500 | 0.700 | 0.600 | +0.350 | 0.875 |" in page


def timed(seconds: float, mebibytes: float) -> dict:
    kinds = ("forward", "step")
    return {
        "parameters": 1000,
        "forward_flops": 2_000_000_000,
        "seconds": {kind: {"median": seconds} for kind in kinds},
        "peak_memory_bytes": {kind: mebibytes * 2**20 for kind in kinds},
    }


def over(seconds: float, memory: float) -> dict:
    kinds = ("forward", "step")
    return {
        "seconds": {kind: {"median": seconds, "q25": seconds / 2, "q75": seconds * 2} for kind in kinds},
        "peak_memory_bytes": dict.fromkeys(kinds, memory),
        "parameters": 0.5,
        "forward_flops": 2.0,
    }


def made_measurement(**content: object) -> dict:
    settings = {
        "topology": "made",
        "input_shape": [1, 3, 8, 8],
        "network": "B",
        "reference_network": "A",
        "batch_size": 1,
        "axis": 1,
        "num_heads": 8,
        "rounds": 5,
        "device": "cpu",
        "precision": "fp32",
        "compile": False,
    }
    pair = {"networks": {"A": timed(2, 8), "B": timed(1, 2)}, "ratios": {"B": over(0.5, 0.25)}}
    return {"settings": settings, "provenance": made_result()["provenance"], **pair, **content}


def test_a_speed_result_becomes_a_table_with_both_peaks_and_the_difference(tmp_path: Path) -> None:
    equality = {"weights_of": "A", "largest_output": 2.0, "tolerance": 1e-5, "max_abs_difference": {"B": 3e-7}}
    for name, told in (("speed-a.json", equality), ("speed-b.json", {})):
        (tmp_path / name).write_text(json.dumps(made_measurement(equality=told)))
    page = pages(tmp_path)["speed.md"]
    times = "1.000 (0.5000 [0.2500, 1.0000])"
    assert f"| B | {times} | {times} | 2.0 (0.2500) | 2.0 (0.2500) | 1,000 (0.5000) | 2.000 (2.0000) |" in page
    assert page.count("With the weights of A, outputs in eval mode differ: B by 3.0e-07; the largest output is 2.") == 1


def test_a_growth_result_becomes_a_table(tmp_path: Path) -> None:
    found = made_measurement()
    small = {"side": 64, "pixels": 4096, "rounds": 5, "networks": found.pop("networks"), "ratios": found.pop("ratios")}
    large = {"side": 128, "pixels": 16384, "rounds": 2, "networks": {"B": timed(7, 9)}, "ratios": {}}
    alphas = {"forward": 1.25, "step": 1.5, "of_the_largest": {"forward": 1.375, "step": 1.75}}
    exponents = {"B": {"sides": [64, 128], "seconds": alphas, "peak_memory_bytes": alphas}}
    (tmp_path / "growth-made.json").write_text(json.dumps({**found, "sizes": [small, large], "exponents": exponents}))
    page = pages(tmp_path)["growth.md"]
    times = "1.000 (0.5000 [0.2500, 1.0000])"
    assert "| A | 64 x 64 | 5 | 2.000 | 2.000 | 8.0 | 8.0 |" in page
    assert f"| B | 64 x 64 | 5 | {times} | {times} | 2.0 | 2.0 |" in page
    assert "| B | 128 x 128 | 2 | 7.000 | 7.000 | 9.0 | 9.0 |" in page
    assert "| B | alpha, 64 to 128 |  | 1.25 (1.38) | 1.50 (1.75) | 1.25 (1.38) | 1.50 (1.75) |" in page


def test_a_layer_result_becomes_a_table(tmp_path: Path) -> None:
    found = made_measurement()
    layer = {"variant": "gated", "channels": 16, "length": 64, "lines": 256, "equality": {"eval": 2e-6}}
    layer = {**layer, "networks": found.pop("networks"), "ratios": found.pop("ratios")}
    (tmp_path / "layer-made.json").write_text(json.dumps({**found, "layers": [layer]}))
    page = pages(tmp_path)["layer.md"]
    times, memory = "1000.00 (0.5000 [0.2500, 1.0000])", "2.0 (0.2500)"
    assert "## Along the width, cpu, fp32, 8 heads, 5 rounds" in page
    assert f"| gated | 16 | 64 | 256 | {times} | {times} | {memory} | {memory} | 2.0e-06 |" in page


def test_a_window_result_becomes_a_table_with_both_bounds(tmp_path: Path) -> None:
    found = made_measurement()
    found["settings"]["head_width"] = 32
    del found["networks"], found["ratios"]
    kinds = ("forward", "step")
    own = {**timed(1, 2), "beyond_weights_bytes": dict.fromkeys(kinds, 2**19), "saved_bytes": 3 * 2**20}
    ratios = {
        "B": {**over(0.5, 0.25), "beyond_weights_bytes": dict.fromkeys(kinds, 0.125), "saved_bytes": 0.75},
        "C": over(0.375, 0.2),
        "D": over(0.4375, 0.22),
    }
    layer = {"size": 8, "channels": 64, "window": 4, "shifted": True, "equality": {"eval": 2e-6}}
    layer = {**layer, "networks": {"A": timed(2, 8), "B": own}, "ratios": ratios}
    (tmp_path / "window-made.json").write_text(json.dumps({**found, "layers": [layer]}))
    page = pages(tmp_path)["window.md"]
    times, memory = "1000.00 (0.5000 [0.2500, 1.0000]; 0.375, 0.438)", "2.0 (0.2500; 0.200, 0.220)"
    row = f"| 8^3, 64, 4^3, shifted | {times} | {times} | {memory} | {memory} | 0.5 (0.1250) | 3.0 (0.7500) | 2.0e-06 |"
    assert row in page


def test_a_result_of_tokens_becomes_two_tables(tmp_path: Path) -> None:
    found = made_measurement()
    found["settings"]["input_shape"] = [1, 3, 8, 16, 16]
    size = {"width": 48, "rounds": 5, "networks": found.pop("networks"), "ratios": found.pop("ratios")}
    counts = {
        "width": 192,
        "networks": {
            name: {"saved_bytes": number * 2**20, "parameters": 2**19} for name, number in (("A", 8), ("B", 9))
        },
        "ratios": {"B": {"saved_bytes": 1.125, "parameters": 1.0}},
    }
    (tmp_path / "fine-tokens-made.json").write_text(json.dumps({**found, "sizes": [size], "activations": [counts]}))
    page = pages(tmp_path)["fine-tokens.md"]
    times, memory = "1.000 (0.5000 [0.2500, 1.0000])", "2.0 (0.2500)"
    assert "## Patch 8x16x16, cpu, fp32, at most 5 rounds" in page
    assert f"| B | 48 | 5 | {times} | {times} | {memory} | {memory} |" in page
    assert "| A | 192 | 8.0 | 524,288 | 2.0 |" in page
    assert "| B | 192 | 9.0 (1.1250) | 524,288 (1.0000) | 2.0 (1.0000) |" in page


def test_a_learning_result_becomes_a_table(tmp_path: Path) -> None:
    (tmp_path / "learning-made.json").write_text(json.dumps(made_result()))
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "learning.md").read_text()
    assert "| A | 0.000 | 0.500 | 0.700 | 0.600 | +0.000 |" in page
    assert "| B | 0.100 | 0.600 | 0.400 | 0.500 | -0.100 |" in page
    assert "Measured 2026-01-02 on Abacus, 1 cores" in page
    assert main([str(tmp_path / "missing")]) == 2


def test_a_gpu_is_told_where_the_result_was_measured_on_it(tmp_path: Path) -> None:
    on_cpu, on_cuda = made_result(), made_result()
    for result in (on_cpu, on_cuda):
        result["provenance"]["hardware"]["gpu"] = {"name": "Loom 9"}
    on_cuda["device"] = "cuda"
    (tmp_path / "learning-cpu.json").write_text(json.dumps(on_cpu))
    assert "Nothing here was measured on CUDA." in pages(tmp_path)["README.md"]
    assert "on Abacus, 1 cores" in pages(tmp_path)["learning.md"]
    (tmp_path / "learning-cuda.json").write_text(json.dumps(on_cuda))
    assert "CUDA" not in pages(tmp_path)["README.md"]
    assert "on Loom 9;" in pages(tmp_path)["learning.md"]


@pytest.mark.parametrize("content", ["{", "[]", '{"device": "cpu"}'])
def test_a_broken_result_is_refused_and_no_page_written(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "learning-made.json").write_text(content)
    assert main([str(tmp_path)]) == 2
    assert "is no result of this package" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["learning-made.json"]
