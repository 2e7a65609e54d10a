"""What the patch transformer's grid saves: what is compared is equal, blocks are counted right, the command runs."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_attn.benchmark.measure import paired_ratios
from nnunet_attn.benchmark.pages import pages
from nnunet_attn.benchmark.patch_blocks import (
    BATCHED,
    DIRECT,
    ONE,
    SHARED,
    Shared,
    Transcription,
    WholeBlocks,
    cut_blocks,
    differences,
    made_network,
)
from nnunet_attn.benchmark.patch_image import GRID, TILES, agreement_of, counted_blocks, made_image, made_predictor
from nnunet_attn.benchmark.patches import goals, main
from nnunet_attn.errors import InputError
from nnunet_attn.inference.grid_predictor import GridPredictor
from tests.reference.patch_transformer import SlowPatchTransformer

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
KEPT = sorted(RESULTS.glob("patches-*cpu*.json"))
TINY = ["--width", "16", "--depth", "2", "--patch-embed-size", "2", "--cells", "2", "--rounds", "5"]
TINY += ["--image", "16", "--tile", "8", "--counted", "12", "--image-width", "8", "--image-rounds", "1"]


@pytest.mark.parametrize("neighbourhood", [3, 5])
def test_all_ways_to_label_blocks_agree_in_double_precision(neighbourhood: int) -> None:
    network = made_network(16, 2, 2, neighbourhood, seed=1, device=torch.device("cpu")).double()
    crop = torch.randn(1, 1, *(2 * (cells + neighbourhood - 1) for cells in (2, 1, 3)), dtype=torch.float64)
    ways = [Transcription(network, SlowPatchTransformer), WholeBlocks(network, 1), WholeBlocks(network, 4)]
    with torch.no_grad():
        wanted = Shared(network)(crop)
        assert wanted.shape == (1, 2, 4, 2, 6)
        for way in ways:
            assert torch.allclose(way(crop), wanted, rtol=0, atol=1e-12)


def test_blocks_are_cut_row_by_row() -> None:
    network = made_network(4, 1, 2, 3, seed=0, device=torch.device("cpu"))
    crop = torch.arange(6 * 6 * 8.0).view(1, 1, 6, 6, 8)
    first, second = cut_blocks(crop, network)
    assert torch.equal(first, crop[..., :6]) and torch.equal(second, crop[..., 2:])


def test_other_logits_are_refused() -> None:
    wanted = torch.tensor([1.0, -2.0])
    assert differences({"a": wanted, "b": wanted + 2e-6})["b"] == pytest.approx(1e-6, rel=0.1)
    for wrong in (wanted + 1e-3, wanted * math.nan):
        with pytest.raises(InputError, match="b gives other logits with the same weights"):
            differences({"a": wanted, "b": wrong})


def test_blocks_of_tiles_and_of_the_grid_are_counted() -> None:
    # 160 - 96 = 64 voxels in steps of at most 48: 3 tiles along each axis, of 12^3 blocks; the grid has 20^3
    found = counted_blocks([160] * 3, [96] * 3, [8] * 3)
    assert (found["tiles"], found["blocks"], found["grid_blocks"]) == (27, 27 * 12**3, 20**3)
    assert found["ratio"] == 8000 / 46656 < 0.2
    # a tile as large as the image, and one that is larger: the image is padded to it
    assert counted_blocks([16] * 3, [16] * 3, [4] * 3)["ratio"] == 1
    assert counted_blocks([16] * 3, [32] * 3, [4] * 3)["ratio"] == 1 / 8
    # a patch that does not divide the image: the grid has a part of one more along each axis
    assert counted_blocks([10, 8], [8, 8], [4, 4])["grid_blocks"] == 6


def test_the_grid_predictor_gives_the_logits_of_the_whole_image() -> None:
    network = made_network(8, 2, 2, 3, seed=0, device=torch.device("cpu"))
    image = made_image([12, 14, 16], seed=3)
    assert image.shape == (1, 12, 14, 16)
    assert float(image.mean()) == pytest.approx(0, abs=1e-5) and float(image.std()) == pytest.approx(1, abs=1e-5)
    whole = made_predictor(GridPredictor, network, [8] * 3).predict_sliding_window_return_logits(image)
    with torch.no_grad():
        wanted = network(image[None])[0]
    # nnU-Net keeps logits in half precision
    assert torch.allclose(torch.as_tensor(whole).float(), wanted, atol=2e-3 * float(wanted.abs().max()))


def test_agreement_is_the_share_of_equal_labels() -> None:
    one = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]).view(2, 2, 2)
    other = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]).view(2, 2, 2)
    assert agreement_of(one, other) == {"share_of_equal_voxels": 0.75, "share_of_the_most_frequent_label": 0.75}


def check(result: dict[str, Any]) -> None:
    """Check that ratios and goals of a result follow from its rounds."""
    for part, own in (("blocks", SHARED), ("image", GRID)):
        networks = result[part]["networks"]
        for name, ratio in result[part]["ratios"].items():
            rounds = [networks[each]["seconds"]["rounds"] for each in (own, name)]
            assert ratio["seconds"] == pytest.approx(paired_ratios(*rounds))
            for key in ("allocated_bytes", "peak_memory_bytes"):
                assert ratio[key] == pytest.approx(networks[own][key] / networks[name][key])
    assert set(result["blocks"]["equality"]) == {ONE, BATCHED, SHARED}
    assert max(result["blocks"]["equality"].values()) <= result["settings"]["tolerance"]
    assert result["goals"] == goals(result)


def test_the_command_measures_both_parts_and_their_page_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "patches-made.json"
    assert main([*TINY, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert DIRECT in printed and TILES in printed
    result = json.loads(out.read_text())
    check(result)
    blocks, image = result["blocks"], result["image"]
    assert blocks["cells"] == 8 and blocks["crop"] == [8, 8, 8]
    # the transcription and the network's layers on whole blocks compute the same products, the network fewer
    operations = {name: network["forward_flops"] for name, network in blocks["networks"].items()}
    assert operations[DIRECT] == operations[ONE] == operations[BATCHED] > operations[SHARED] > 0
    assert [counted["tile"][0] for counted in image["blocks"]] == [8, 12]
    assert 0 < image["agreement"]["share_of_equal_voxels"] <= 1
    assert set(result["provenance"]) >= {"versions", "hardware", "seed", "date_utc", "command"}
    page = pages(tmp_path)["patches.md"]
    assert "## Patches of 2^3, blocks of 3^3, cpu" in page and "8 blocks, a crop of 8x8x8, width 16" in page
    for name in (DIRECT, ONE, BATCHED, SHARED, TILES, GRID):
        assert f"\n| {name} | " in page
    assert f"\n| 8x8x8 | {image['blocks'][0]['tiles']} | " in page
    assert page.count(" | 0.55 | ") == 2 and page.count(" | 0.2 | ") == 1


def test_one_part_alone(tmp_path: Path) -> None:
    out = tmp_path / "patches.json"
    assert main([*TINY, "--parts", "blocks", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert "image" not in result and len(result["goals"]) == 2 and result["settings"]["image_width"] is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--rounds", "4"], "--rounds 4; at least 5"),
        (["--width", "6"], "a width of 6 cannot be shared by 4 heads"),
        (["--neighbourhood", "2"], "neighbourhood must be odd"),
        (["--image", "8"], "--image 8; it has to be at least 12"),
        (["--counted", "0"], "--counted 0"),
        (["--image-rounds", "0"], "--image-rounds 0"),
        (["--reference", "missing.py"], "missing.py"),
        (["--out", "missing/out.json"], "create it first"),
    ],
)
def test_wrong_arguments_end_with_code_2_and_write_nothing(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, "--out", str(tmp_path / "patches.json"), *wrong]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_the_command_measures_on_cuda(tmp_path: Path) -> None:
    out = tmp_path / "patches-cuda.json"
    assert main([*TINY, "--device", "cuda", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    check(result)
    assert result["settings"]["threads"] is None
    assert set(result["provenance"]["hardware"]["measured_ceilings"])


def test_a_result_is_kept() -> None:
    assert KEPT


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.name)
def test_the_kept_results_meet_their_goals_at_full_size(file: Path) -> None:
    result = json.loads(file.read_text())
    check(result)
    settings, blocks, image = result["settings"], result["blocks"], result["image"]
    assert (settings["patch_embed_size"], settings["neighbourhood"], settings["depth"]) == (8, 3, 7)
    assert settings["width"] == 1024 and blocks["parameters"] == 45_686_784 and blocks["cells"] >= 27
    assert image["image"] == [160] * 3 and image["tile"] == [96] * 3
    assert len(result["goals"]) == 3 and all(goal["met"] for goal in result["goals"])
    assert image["blocks"][0]["ratio"] == 8000 / 46656 and len(image["blocks"]) >= 4
