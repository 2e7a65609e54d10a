"""Plans of rows with options: other names, the same preprocessed data, never written over others."""

import json
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_attn.errors import InputError
from nnunet_attn.study import options
from nnunet_attn.study.matrix import runs
from nnunet_attn.study.model import Row, Study
from nnunet_attn.study.options import derived_plans, derived_plans_name, scaled_features, write_derived_plans
from nnunet_attn.training.extent import PLANS_KEY
from tests.study.conftest import made_plans

WIDE = Row(trainer="nnUNetTrainerGASA", name="wide", options={"embed_dim": 50, "num_heads": 10})
PLAIN = Row(trainer="nnUNetTrainerPlain")


def study(*rows: Row, **more: Any) -> Study:
    return Study(name="x", datasets=("4",), rows=rows or (PLAIN, WIDE), **more)


def test_names_tell_options_apart() -> None:
    made = study()
    name = derived_plans_name(made, WIDE)
    assert name.startswith("nnUNetPlans_GASAUNet_") and len(name) == len("nnUNetPlans_GASAUNet_") + 8
    assert derived_plans_name(made, PLAIN) == "nnUNetPlans"
    renamed = Row(trainer="nnUNetTrainerGASA_bf16", name="other", options={"num_heads": 10, "embed_dim": 50})
    assert derived_plans_name(made, renamed) == name
    others = [
        Row(trainer="nnUNetTrainerGASA", options={"embed_dim": 50}),
        Row(trainer="nnUNetTrainerGASA", options=WIDE.options, plans="otherPlans"),
        Row(trainer="nnUNetTrainerGASA", options=WIDE.options, pretrain={"task": "both"}),  # pyright: ignore[reportArgumentType]
        Row(trainer="nnUNetTrainerMAT", options={"num_heads": 10, "embed_dim": 50}),
        Row(trainer="nnUNetTrainerPlain", pretrain={"task": "both"}),  # pyright: ignore[reportArgumentType]
        Row(trainer="nnUNetTrainerPlain", pretrain={"task": "denoise"}),  # pyright: ignore[reportArgumentType]
    ]
    names = [derived_plans_name(made, row) for row in others]
    assert len({name, "nnUNetPlans", *names}) == len(others) + 2
    assert not [each for each in names if "__" in each]


def test_every_configuration_gets_the_options_and_keeps_its_data(preprocessed: Path) -> None:
    before = (preprocessed / "nnUNetPlans.json").read_bytes()
    made = study()
    file = write_derived_plans(made, WIDE, "4")
    assert file == preprocessed / f"{derived_plans_name(made, WIDE)}.json"
    assert {run.plans for run in runs(made) if run.row == "wide"} == {file.stem}
    plans = json.loads(file.read_text())
    assert plans == derived_plans(made, WIDE, "Dataset004_Made")
    assert plans["plans_name"] == file.stem
    manager = PlansManager(plans)
    for name, entry in made_plans()["configurations"].items():
        options = manager.get_configuration(name).configuration["nnunet_attn"]
        assert options["GASAUNet"] == {**({} if name == "2d" else {"norm": True}), **WIDE.options}
        assert plans["configurations"][name].get("data_identifier") == entry.get("data_identifier")
    assert plans["configurations"]["3d_fullres"]["nnunet_attn"]["MAT"] == {"num_heads": 2}
    assert (preprocessed / "nnUNetPlans.json").read_bytes() == before


def test_a_row_without_options_has_the_plans_as_they_are(preprocessed: Path) -> None:
    made = study()
    assert derived_plans(made, PLAIN, "4") == made_plans()
    assert write_derived_plans(made, PLAIN, "4") == preprocessed / "nnUNetPlans.json"
    assert len(list(preprocessed.iterdir())) == 1


def test_pretraining_has_plans_of_its_own(preprocessed: Path) -> None:
    row = Row(trainer="nnUNetTrainerPlain", name="pretrained", pretrain={"task": "both"})  # pyright: ignore[reportArgumentType]
    plans = json.loads(write_derived_plans(study(PLAIN, row), row, "4").read_text())
    assert plans["configurations"] == made_plans()["configurations"]
    assert plans["plans_name"].startswith("nnUNetPlans_PlainUNetPretrained_")


def test_a_budget_of_sizes_gives_every_row_plans_of_its_own(preprocessed: Path) -> None:
    made = study(PLAIN, WIDE, budget={"width": 0.25, "batch_size": 7})
    names = {derived_plans_name(made, row) for row in made.rows}
    assert len(names) == 2 and "nnUNetPlans" not in names
    assert derived_plans_name(made, PLAIN).startswith("nnUNetPlans_PlainUNet_")
    assert derived_plans_name(study(PLAIN, budget={"width": 0.25}), PLAIN) not in names
    assert derived_plans_name(study(budget={"epochs": 3, "save": 1}), WIDE) == derived_plans_name(study(), WIDE)
    before = made_plans()["configurations"]
    planned = before["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"]
    for row in made.rows:
        plans = json.loads(write_derived_plans(made, row, "4").read_text())
        assert plans["configurations"].keys() == before.keys()
        entry = PlansManager(plans).get_configuration("3d_cascade_fullres")
        assert entry.batch_size == 7 and entry.data_identifier == before["3d_fullres"]["data_identifier"]
        assert entry.network_arch_init_kwargs["features_per_stage"] == [scaled_features(n, 0.25) for n in planned]
        assert ("nnunet_attn" in plans["configurations"]["2d"]) == (row is WIDE)
        assert "batch_size" not in plans["configurations"]["3d_cascade_fullres"]  # inherited


def test_features_are_multiples_of_eight() -> None:
    assert [scaled_features(n, 0.25) for n in (32, 64, 128, 256, 320)] == [8, 16, 32, 64, 80]
    assert [scaled_features(n, 0.1) for n in (32, 64, 128, 256, 320)] == [8, 8, 16, 24, 32]
    assert scaled_features(32, 1) == 32 and scaled_features(30, 1.5) == 48


def test_plans_without_features_have_no_width_to_change(preprocessed: Path) -> None:
    plans = made_plans()
    del plans["configurations"]["2d"]["architecture"]
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    assert derived_plans(study(budget={"width": 0.5}), PLAIN, "4")["configurations"].keys()
    with pytest.raises(InputError, match=r"do not say the features of 2d, so that budget\.width cannot change them"):
        derived_plans(study(budget={"width": 0.5}, configurations=("2d",)), PLAIN, "4")
    made = study(budget={"batch_size": 2}, configurations=("2d",))
    assert derived_plans(made, PLAIN, "4")["configurations"]["2d"]["batch_size"] == 2


def test_plans_of_another_content_are_never_overwritten(preprocessed: Path) -> None:
    made = study()
    file = write_derived_plans(made, WIDE, "4")
    time = file.stat().st_mtime_ns
    assert write_derived_plans(made, WIDE, "4") == file
    assert file.stat().st_mtime_ns == time
    changed = made_plans()
    changed["configurations"]["3d_fullres"]["batch_size"] = 3
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(changed))
    content = file.read_bytes()
    with pytest.raises(
        InputError, match="is there with another content than nnUNetPlans and the options of 'wide' give"
    ):
        write_derived_plans(made, WIDE, "4")
    assert file.read_bytes() == content


def test_what_cannot_be_derived_is_refused(preprocessed: Path) -> None:
    with pytest.raises(
        InputError, match="nnUNetPlans of Dataset004_Made has no configuration 3d_low; there are 2d, 3d_"
    ):
        derived_plans(study(WIDE, configurations=("3d_low",)), WIDE, "4")
    with pytest.raises(
        InputError, match=r"Dataset004_Made has no plans nnUNetX .*; run: nnUNetv2_plan_and_preprocess -d 4$"
    ):
        derived_plans(study(WIDE, plans="nnUNetX"), WIDE, "4")
    for text, message in (("{", "cannot be read as JSON"), ("[]", "is not nnU-Net's plans")):
        (preprocessed / "nnUNetPlans.json").write_text(text)
        with pytest.raises(InputError, match=message):
            derived_plans(study(), WIDE, "4")


def test_the_key_is_the_one_that_trainers_read() -> None:
    assert options.PLANS_KEY == PLANS_KEY
