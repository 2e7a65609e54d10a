"""`nnunet-attn import-weights` with weights of published code: what arrives in the network, and what is refused."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_attn.architectures.published import translate
from nnunet_attn.architectures.published_keys import SOURCES
from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.cli import main
from nnunet_attn.doctor import Finding
from nnunet_attn.paths import nnunet_environment, trainers_dir
from nnunet_attn.training import weights as weights_module
from nnunet_attn.training.weights import build_target, read_state_dict
from tests.made.plans import LABELS, Kind, configuration
from tests.made.published import published_state_dict

SIDE = 64
STRIDES = [[1, 1], [2, 2], [2, 2]]


def write_plans(root: Path, side: int = SIDE, channels: int = 1, **options: Any) -> None:
    kind = Kind("2d", configuration([side, side], STRIDES, nnunet_attn=options), LABELS)
    folder = root / "preprocessed" / "Dataset901_Made"
    folder.mkdir(parents=True, exist_ok=True)
    names = {str(channel): "MRI" for channel in range(channels)}
    plans = deepcopy(kind.plans)
    plans["configurations"]["2d"]["normalization_schemes"] = ["ZScoreNormalization"] * channels
    (folder / "nnUNetPlansMade.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps({**kind.dataset_json, "channel_names": names}))


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key, value in nnunet_environment(tmp_path, base={}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    write_plans(tmp_path)
    return tmp_path


def run(root: Path, content: Any, source: str = "medt", trainer: str = "nnUNetTrainerMedT") -> int:
    file = root / "given.pth"
    if content is not None:
        torch.save(content, file)
    words = ["import-weights", source, file, "-d", "901", "-c", "2d", "-p", "nnUNetPlansMade", "-tr", trainer]
    return main([str(word) for word in (*words, "-o", root / "out.pth")])


def written(root: Path) -> dict[str, torch.Tensor]:
    return torch.load(root / "out.pth", weights_only=True)["network_weights"]


FITTING = [
    ("axialunet", "nnUNetTrainerAxialUNet"),
    ("gatedaxialunet", "nnUNetTrainerGatedAxial"),
    ("logo", "nnUNetTrainerLoGo"),
    ("medt", "nnUNetTrainerMedT"),
    ("medt", "nnUNetTrainerMedT_10epochs_fp32"),
    ("medt", "nnUNetTrainerMedTPaper"),
    ("medt", "nnUNetTrainerMedTPostNorm_bf16"),
]


@pytest.mark.parametrize(("source", "trainer"), FITTING)
def test_every_tensor_arrives(planned: Path, capsys: pytest.CaptureFixture[str], source: str, trainer: str) -> None:
    options: dict[str, Any] = {"LoGo": {"grid": [4, 4]}} if source == "logo" else {}
    write_plans(planned, channels=3, **options)
    given = published_state_dict(source, classes=3, image=SIDE)
    assert run(planned, given, source, trainer) == 0
    printed = capsys.readouterr().out
    expected, made = translate(given, source), written(planned)
    heads = {key for key in made if ".seg_layers." in key and key not in expected}
    assert made.keys() == expected.keys() | heads
    assert all(torch.equal(made[key], value) for key, value in expected.items())
    assert f"kept: {len(expected)} tensors\nresampled or taken over in part: 0\n" in printed
    assert f"freshly initialised: {len(heads)}" in printed and "not used: 0\n" in printed
    assert f"-tr {trainer} -pretrained_weights" in printed
    assert sorted(path.name for path in planned.glob("out.pth*")) == ["out.pth"]


def test_what_differs_is_resampled_fresh_or_unused(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = published_state_dict("medt", image=128)
    layer = "layer2.2.bn1"
    given |= {f"{layer}.{part}": torch.ones(32) for part in ("weight", "bias", "running_mean", "running_var")}
    assert run(planned, given) == 0
    lists = capsys.readouterr().out.split("\n")
    made, state = written(planned), build_target("901", "2d", "nnUNetPlansMade", "nnUNetTrainerMedT").state_dict()
    assert made.keys() == state.keys()
    resampled = {key for key in made if key.endswith(".relative")}
    table, theirs = made["global_branch.stages.0.0.layers.0.relative"], given["layer1.0.hight_block.relative"]
    assert table.shape == (4, 63) and theirs.shape == (4, 127)
    assert torch.allclose(table[:, [0, 31, 62]], theirs[:, [0, 63, 126]])
    fresh = {"global_branch.stem.conv1.weight", "local_branch.stem.conv1.weight"}
    fresh |= {key for key in made if ".seg_layers." in key}
    unused = {f"global_branch.stages.1.2.bn1.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    starts = [next(i for i, line in enumerate(lists) if line.startswith(t)) for t in ("resampled", "freshly", "not")]
    got = [{line.strip() for line in lists[start + 1 :][: int(lists[start].rpartition(" ")[2])]} for start in starts]
    assert got == [resampled, fresh, unused]


@pytest.mark.parametrize("entry", [None, "state_dict", "model", "network_weights"])
@pytest.mark.parametrize("legacy", [False, True])
def test_reads_every_usual_file(tmp_path: Path, entry: str | None, legacy: bool) -> None:
    given = {"module._orig_mod.conv1.weight": torch.ones(2), "module.bn1.bias": torch.zeros(3)}
    content = given if entry is None else {"epoch": 3, "optimizer": {"lr": 0.1}, entry: given}
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=not legacy)
    assert {key: tuple(value.shape) for key, value in read_state_dict(tmp_path / "file.pth").items()} == {
        "conv1.weight": (2,),
        "bn1.bias": (3,),
    }


def refused(root: Path, capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("nnunet-attn: error: ") and "Traceback" not in error and error.count("\n") == 1
    assert not [part for part in parts if part not in error], error
    assert not list(root.glob("out.pth*"))


@pytest.mark.parametrize(
    ("source", "trainer", "parts"),
    [
        ("medt", "nnUNetTrainerGatedAxial", ["MedT", "nnUNetTrainerMedT,", "got GatedAxialUNet"]),
        ("medt", "nnUNetTrainerLoGo", ["belong into MedT", "got LoGo"]),
        ("logo", "nnUNetTrainerMedT_5epochs", ["belong into LoGo", "nnUNetTrainerLoGo", "got MedT"]),
        ("medt", "nnUNetTrainerMedTGlobal", ["belong into MedT", "got MedTGlobal"]),
        ("axialunet", "nnUNetTrainerPlain", ["belong into AxialUNet", "got PlainConvUNet"]),
        ("axialunet", "nnUNetTrainerGASA_bf16", ["belong into AxialUNet", "got GASAUNet"]),
    ],
)
def test_a_trainer_of_another_network_is_refused(
    planned: Path, capsys: pytest.CaptureFixture[str], source: str, trainer: str, parts: list[str]
) -> None:
    assert run(planned, published_state_dict(source, image=SIDE), source, trainer) == 2
    refused(planned, capsys, trainer, *parts)


NOT_MEDT: dict[str, tuple[Any, list[str]]] = {
    "another source": (published_state_dict("logo"), ["not those of medt", "run import-weights logo"]),
    "another network": (
        {"encoder.weight": torch.ones(1)},
        ["'encoder.weight'", "those of medt have 'layer1.0.hight_block.f_qr'"],
    ),
    "a name too many": (
        {**published_state_dict("medt"), "head.weight": torch.ones(1)},
        ["unknown key 'head.weight'", "alone"],
    ),
    "a whole object": (
        {"state_dict": published_state_dict("medt"), "args": Finding("what", "ok", "text")},
        ["an object of nnunet_attn.doctor.Finding", "save its state dict"],
    ),
    "no state dict": ({"epoch": 1, "model": [1, 2]}, ["holds no state dict", "'state_dict', 'model'"]),
    "nothing": ({}, ["holds no state dict"]),
    "a number": (3, ["holds no state dict"]),
    "another width": (
        published_state_dict("medt", width=0.25),
        ["no weight of", "global_branch.stem.conv1.weight is (16, 3, 7, 7) there and (8, 1, 7, 7) here", "options"],
    ),
}


@pytest.mark.parametrize("case", NOT_MEDT)
def test_a_file_of_something_else_is_refused(planned: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    content, parts = NOT_MEDT[case]
    assert run(planned, content) == 2
    refused(planned, capsys, *parts)


@pytest.mark.parametrize("kept_bytes", [0, 2, 1000, 100_000])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file_is_refused(
    planned: Path, capsys: pytest.CaptureFixture[str], kept_bytes: int, legacy: bool
) -> None:
    file = planned / "given.pth"
    torch.save(published_state_dict("medt"), file, _use_new_zipfile_serialization=not legacy)
    file.write_bytes(file.read_bytes()[:kept_bytes])
    assert run(planned, None) == 2
    refused(planned, capsys, str(file), "damaged")


def test_a_failed_write_leaves_nothing(
    planned: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    given = published_state_dict("medt")
    torch.save(given, planned / "given.pth")
    monkeypatch.setattr(weights_module.torch, "save", fail)
    assert run(planned, None) == 2
    refused(planned, capsys, "disk full")


def test_every_source_has_its_network_and_is_in_the_documentation() -> None:
    assert {row.network for row in SOURCES.values()} <= {network.name for network in NETWORKS}
    docs = Path(__file__).resolve().parents[2] / "docs"
    for page in ("how-to/import-weights.md", "reference/cli.md"):
        text = (docs / page).read_text(encoding="utf-8")
        assert not [source for source in SOURCES if f"`{source}`" not in text], page


def test_unknown_sources_are_refused_with_the_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, {}, source="unet")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert all(source in error for source in ("nnunet", *SOURCES))
