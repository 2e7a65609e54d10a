"""`nnunet-attn import-weights` with published weights of nnFormer and FINE: what arrives, and what is refused."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_attn.architectures.published import translate
from nnunet_attn.cli import main
from nnunet_attn.paths import nnunet_environment, trainers_dir
from nnunet_attn.training.weights import build_target
from tests.made.plans import ALL_2, Kind, configuration
from tests.made.published_windows import CROP, EXTENT, direct

OPTIONS: dict[str, Any] = {"embed_dim": 8, "num_heads": 2, "quirk": True, "strides": [ALL_2] * 3}


def write_plans(root: Path, channels: int = 1, **options: Any) -> None:
    """Write plans of a data set whose largest volumes are as `EXTENT`."""
    entry = configuration(list(CROP), [[1, 1, 1], ALL_2, ALL_2], nnunet_attn=options)
    entry["normalization_schemes"] = ["ZScoreNormalization"] * channels
    kind = Kind("3d_fullres", entry, {"background": 0, "organ": 1})
    folder = root / "preprocessed" / "Dataset901_Made"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nnUNetPlansMade.json").write_text(json.dumps(deepcopy(kind.plans)))
    names = {str(channel): "MRI" for channel in range(channels)}
    (folder / "dataset.json").write_text(json.dumps({**kind.dataset_json, "channel_names": names}))
    cases = {"shapes_after_crop": [[20, 100, 40], [30, 50, 100]], "spacings": [[1.0, 1.0, 1.0]] * 2}
    (folder / "dataset_fingerprint.json").write_text(json.dumps(cases))


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key, value in nnunet_environment(tmp_path, base={}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    write_plans(tmp_path, NNFormer=OPTIONS, NNFormer2021=OPTIONS, FINE=OPTIONS)
    return tmp_path


def run(root: Path, source: str, trainer: str, content: Any) -> int:
    torch.save(content, root / "given.pth")
    words = ["import-weights", source, root / "given.pth", "-d", "901", "-c", "3d_fullres", "-p", "nnUNetPlansMade"]
    return main([str(word) for word in (*words, "-tr", trainer, "-o", root / "out.pth")])


def written(root: Path) -> dict[str, torch.Tensor]:
    return torch.load(root / "out.pth", weights_only=True)["network_weights"]


FITTING = [
    ("nnformer", "nnUNetTrainerNNFormer"),
    ("nnformer", "nnUNetTrainerNNFormer_10epochs_fp32"),
    ("nnformer_2021", "nnUNetTrainerFINENoTokens"),
    ("fine", "nnUNetTrainerFINEPublished"),
    ("fine", "nnUNetTrainerFINEPublished_bf16"),
    ("fine", "nnUNetTrainerFINE"),
]


@pytest.mark.parametrize(("source", "trainer"), FITTING)
def test_every_tensor_arrives(planned: Path, capsys: pytest.CaptureFixture[str], source: str, trainer: str) -> None:
    if trainer == "nnUNetTrainerFINE":
        write_plans(planned, FINE={**OPTIONS, "carry": False})
    more: dict[str, Any] = {"pe_rows": (512, 64, 8)} if source == "fine" else {}
    given = direct(source, **more).float().state_dict()
    checkpoint = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in given.items()}}
    assert run(planned, source, trainer, checkpoint) == 0
    printed, made = capsys.readouterr().out, written(planned)
    state = build_target("901", "3d_fullres", "nnUNetPlansMade", trainer).state_dict()
    expected = translate(given, source, state)
    assert made.keys() == state.keys() == expected.keys()
    assert all(torch.equal(made[key], value) for key, value in expected.items())
    assert f"kept: {len(expected)} tensors\nresampled or taken over in part: 0\n" in printed
    assert "freshly initialised: 0" in printed and "not used: 0\n" in printed
    if source == "fine":
        assert made["seen"].dtype == torch.bool and 0 < made["seen"].sum() < len(made["seen"]) == 9


def test_what_differs_is_fresh_or_unused(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**OPTIONS, "carry": False, "depths": [2, 2, 2, 3]}
    write_plans(planned, channels=2, FINE=options)
    given = direct("fine", classes=3, depths=(3, 2, 2, 2)).float().state_dict()
    del given["model_down.norm2.bias"]
    assert run(planned, "fine", "nnUNetTrainerFINE", given) == 0
    lines, made = capsys.readouterr().out.split("\n"), written(planned)
    starts = [next(i for i, line in enumerate(lines) if line.startswith(name)) for name in ("freshly", "not")]
    fresh, unused = (
        {line.strip() for line in lines[start + 1 :][: int(lines[start].rpartition(" ")[2])]} for start in starts
    )
    # what the third block makes live in stage 3 was dead and never trained in the file
    block, dead = "encoder.3.blocks.2.", ("encoder.3.blocks.1.global_attn.", "encoder.3.blocks.0.volume_attn.")
    of_block = {key for key in made if key.startswith((block, *dead))}
    assert fresh == of_block | {"stem.convs.0.conv.weight", "norms.2.bias"} | {
        key for key in made if ".seg_layers." in key
    }
    decoder_block = "decoder.stages.2.blocks."
    of_decoder = {key for key in unused if key.startswith(f"{decoder_block}2.")}
    of_decoder |= {key for key in unused if key.startswith(f"{decoder_block}1.global_attn.")}
    of_decoder |= {key for key in unused if key.startswith(f"{decoder_block}0.volume_attn.")}
    encoder_block = {key.replace("decoder.stages.2.", "encoder.0.") for key in of_decoder}
    assert unused == of_decoder | encoder_block and len(of_decoder) == 13 + 4 + 4


def refused(root: Path, capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("nnunet-attn: error: ") and "Traceback" not in error and error.count("\n") == 1
    assert not [part for part in parts if part not in error], error
    assert not list(root.glob("out.pth*"))


@pytest.mark.parametrize(
    ("source", "trainer", "parts"),
    [
        (
            "nnformer",
            "nnUNetTrainerFINENoTokens",
            ["belong into NNFormer (trainers nnUNetTrainerNNF", "got NNFormer2021"],
        ),
        ("nnformer_2021", "nnUNetTrainerNNFormer", ["belong into NNFormer2021", "NoTokens", "got NNFormer"]),
        ("nnformer_2021", "nnUNetTrainerFINEPublished", ["belong into NNFormer2021", "got FINE"]),
        ("fine", "nnUNetTrainerMedT", ["nnUNetTrainerMedT"]),
        (
            "fine",
            "nnUNetTrainerFINE",
            ["tokens of sub-volumes anew", "nnUNetTrainerFINEPublished, or set", "FINE.carry"],
        ),
        (
            "fine",
            "nnUNetTrainerFINEWindowTokens_bf16",
            ["have tokens", "train with nnUNetTrainerFINEPublished, or set"],
        ),
    ],
)
def test_trainers_of_another_function_are_refused(
    planned: Path, capsys: pytest.CaptureFixture[str], source: str, trainer: str, parts: list[str]
) -> None:
    assert run(planned, source, trainer, direct(source).float().state_dict()) == 2
    refused(planned, capsys, f"-tr {trainer}" if source != "fine" else trainer, *parts)


def test_the_quirk_is_asked_for(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plans(planned, NNFormer={**OPTIONS, "quirk": False})
    assert run(planned, "nnformer", "nnUNetTrainerNNFormer", direct("nnformer").float().state_dict()) == 2
    remedy = "set the option quirk to true in the plans (configurations.<c>.nnunet_attn.NNFormer.quirk)"
    refused(planned, capsys, "weights of nnformer index their relative biases in the published way", remedy)


def test_another_number_of_sub_volumes_is_refused_until_the_extent_is_set(
    planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = direct("fine", extent=(EXTENT[0], 5 * 32, 5 * 32)).float().state_dict()
    assert run(planned, "fine", "nnUNetTrainerFINEPublished", given) == 2
    refused(
        planned, capsys, "'vt_check'", "(25, 1), expected (9, 1)", "volume_extent", "configurations.<c>.nnunet_attn"
    )
    write_plans(planned, FINE={**OPTIONS, "volume_extent": [30, 170, 180]})
    assert run(planned, "fine", "nnUNetTrainerFINEPublished", given) == 0
    assert len(written(planned)["seen"]) == 25


def test_other_published_weights_are_named(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = direct("fine").float().state_dict()
    assert run(planned, "nnformer_2021", "nnUNetTrainerFINENoTokens", given) == 2
    refused(planned, capsys, "not those of nnformer_2021", "run import-weights fine")
    unknown = {**direct("nnformer").float().state_dict(), "head.weight": torch.ones(1)}
    assert run(planned, "nnformer", "nnUNetTrainerNNFormer", unknown) == 2
    refused(planned, capsys, "unknown key 'head.weight'", "alone")


def test_other_indices_are_refused(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = "model_down.layers.0.blocks.0.attn.relative_position_index"
    given = {**direct("nnformer").float().state_dict(), index: torch.zeros(64, 64, dtype=torch.long)}
    assert run(planned, "nnformer", "nnUNetTrainerNNFormer", given) == 2
    refused(planned, capsys, index, "has other numbers")
