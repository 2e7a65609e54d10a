"""The short form of the speed command: a published network against its transcription, where there is one."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch

from nnunet_attn.architectures.fine import NO_POSITION
from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.benchmark import speed
from nnunet_attn.benchmark.equality import equalise
from nnunet_attn.benchmark.speed import main
from nnunet_attn.benchmark.topologies import default_topology, topology_named
from nnunet_attn.benchmark.transcriptions import TRANSCRIPTIONS, transcription, transcription_options
from nnunet_attn.benchmark.variants import file_build, make_variant, registry_build, registry_name
from nnunet_attn.errors import InputError

ROOT = Path(__file__).parents[2]
TINY_3D = topology_named("tiny")
TINY = ["--patch", "32", "64", "--rounds", "5", "--wall-rounds", "0"]


@pytest.fixture(autouse=True)
def in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_networks_are_found_in_any_spelling(network) -> None:
    for spelling in (network.name, network.name.lower(), network.name.upper(), network.name.replace("UNet", "_u-net")):
        assert registry_name(spelling) == network.name


def test_no_two_networks_share_a_spelling() -> None:
    assert registry_name("gated_axial_unet") == "GatedAxialUNet"
    assert len({network.name.lower() for network in NETWORKS}) == len(NETWORKS)
    with pytest.raises(InputError, match="no network 'gated_unet'; there are PlainUNet, "):
        registry_name("gated_unet")


def test_every_transcription_is_in_the_checkout_and_of_a_network() -> None:
    for network, row in TRANSCRIPTIONS.items():
        assert registry_name(network) == network
        path, reason = transcription(network, topology_named(default_topology([network])))
        assert path is not None and path.is_file() and not reason
        path, reason = transcription(network, topology_named("3d" if row.dims == 2 else "axial-2d"))
        assert path is None and reason.endswith(f"{row.file} is for {row.dims}D")


@pytest.mark.parametrize(
    ("networks", "topology"),
    [
        (["MedT"], "axial-2d"),
        (["MedT", "AxialUNet"], "axial-2d"),
        (["MedT", "GASAUNet"], "gasa-paper"),
        (["FINE", "NNFormer2021"], "3d"),
        (["NNFormer", "MedT"], "gasa-paper"),
    ],
)
def test_topology_by_network(networks: list[str], topology: str) -> None:
    assert default_topology(networks) == topology


def test_short_form_measures_against_the_transcription(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    assert main(["--network", "gated_axial_unet", *TINY, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert list(result["networks"]) == ["slow_gated_axial_unet", "GatedAxialUNet"]
    assert result["settings"]["reference_network"] == "slow_gated_axial_unet"
    assert result["settings"]["topology"] == "axial-2d" and result["settings"]["input_shape"] == [1, 3, 32, 64]
    slow, fast = result["networks"].values()
    # 8 blocks of 2 layers, whose norm of 3 x 8 similarities has a shift there, which the softmax takes out
    assert slow["parameters"] - fast["parameters"] == 8 * 2 * 3 * 8
    assert "wall_seconds" not in fast
    difference = result["equality"]["max_abs_difference"]["GatedAxialUNet"]
    assert difference <= result["equality"]["tolerance"] * result["equality"]["largest_output"]
    assert result["ratios"]["GatedAxialUNet"]["peak_memory_bytes"]["step"] < 1


def test_outside_of_a_checkout_the_plain_unet_is_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--network", "med_t", *TINY, "--out", "speed.json"]) == 0
    assert "note: there is no tests/reference/slow_medt.py here" in capsys.readouterr().err.replace("\\", "/")
    result = json.loads((tmp_path / "speed.json").read_text())
    assert list(result["networks"]) == ["PlainUNet", "MedT"]
    assert result["equality"] == {}


@pytest.mark.parametrize(
    ("words", "measured"),
    [
        (["--network", "medt", "--against", "plain_unet"], ["PlainUNet", "MedT"]),
        (["--network", "MedT", "AxialUNet"], ["PlainUNet", "MedT", "AxialUNet"]),
        (["--network", "medt", "--reference", "tests/reference/slow_medt.py"], ["PlainUNet", "MedT", "slow_medt"]),
        (
            [
                "--network",
                "medt",
                "--reference",
                "tests/reference/slow_medt_folded.py",
                "--against",
                "slow_medt_folded",
            ],
            ["slow_medt_folded", "MedT"],
        ),
    ],
)
def test_what_is_asked_for_is_the_reference(words: list[str], measured: list[str], tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    assert main([*words, *TINY, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert list(result["networks"]) == measured
    assert list(result["ratios"]) == measured[1:]
    assert result["settings"]["reference_network"] == measured[0]


@pytest.mark.parametrize("network", ["NNFormer", "NNFormer2021", "FINE"])
def test_networks_of_windows_are_their_transcriptions(network: str) -> None:
    path, _ = transcription(network, TINY_3D)
    assert path is not None
    options = transcription_options(network, TINY_3D)
    pair = [
        make_variant(path.stem, file_build(path, TINY_3D), torch.device("cpu"), 0),
        make_variant(network, registry_build(network, TINY_3D, options), torch.device("cpu"), 0),
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", re.escape(NO_POSITION))
        found = equalise(pair, torch.randn(1, *TINY_3D.input_shape[1:]), 0)
    assert found["weights_of"] == path.stem
    assert found["max_abs_difference"][network] <= 1e-5 * found["largest_output"]


def test_options_make_a_network_the_published_function() -> None:
    assert transcription_options("MedT", topology_named("axial-2d")) == {}
    assert transcription_options("NNFormer", TINY_3D) == {"quirk": True}
    assert transcription_options("FINE", TINY_3D) == {
        "quirk": True,
        "carry": False,
        "volume_tokens": True,
        "grid_axes": [1, 2],
        "volume_extent": [80, 160, 160],
    }


def test_short_form_in_three_dimensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MIN_ROUNDS", 1)
    out = tmp_path / "speed.json"
    words = ["--network", "nn_former", "--topology", "tiny", "--patch", "8", "16", "16", "--batch-size", "1"]
    own = ["--options", '{"NNFormer": {"drop_path": 0.0}}', "--rounds", "1", "--wall-rounds", "0"]
    assert main([*words, *own, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert list(result["networks"]) == ["slow_nnformer", "NNFormer"]
    assert result["settings"]["options"] == {"NNFormer": {"quirk": True, "drop_path": 0.0}}
    assert result["equality"]["weights_of"] == "slow_nnformer"


def test_three_dimensions_have_no_transcription_of_networks_for_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--network", "medt", "--topology", "3d", "--patch", "8", "17", "16"]) == 2
    path, reason = transcription("MedT", topology_named("3d"))
    assert path is None and "2D" in reason


def test_a_transcription_of_something_else_is_refused_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from tests.reference.medt import direct_network\n"
        "def build(plan, channels, classes, deep_supervision):\n"
        "    network = direct_network('gatedaxialunet', plan, channels, classes)\n"
        "    network.register_forward_hook(lambda module, inputs, output: 1.001 * output)\n"
        "    return network\n"
    )
    words = ["--network", "gated_axial_unet", "--reference", str(wrong), "--against", "wrong"]
    assert main([*words, *TINY, "--out", str(tmp_path / "speed.json")]) == 2
    assert "GatedAxialUNet differs from wrong with the same weights" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {wrong.name}
