import json
from pathlib import Path

from nnunet_attn.planning.derived import narrowed_plans, write_plans

PLANS = {
    "dataset_name": "Dataset900_Phantom",
    "plans_name": "nnUNetPlans",
    "configurations": {
        "2d": {"data_identifier": "nnUNetPlans_2d"},
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "batch_size": 11,
            "patch_size": [16, 32, 48],
            "architecture": {"arch_kwargs": {"n_stages": 3, "features_per_stage": [32, 64, 320]}},
        },
        "3d_cascade_fullres": {"inherits_from": "3d_fullres"},
    },
}


def test_narrowed_plans_keep_all_but_width_and_batch_and_need_no_preprocessing():
    before = json.dumps(PLANS)
    derived = narrowed_plans(PLANS, "nnUNetPlansThin", ["3d_fullres"], 16, batch_size=2)
    assert derived["plans_name"] == "nnUNetPlansThin"
    assert derived["dataset_name"] == "Dataset900_Phantom"
    assert list(derived["configurations"]) == ["3d_fullres"]
    configuration = derived["configurations"]["3d_fullres"]
    assert configuration["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert configuration["batch_size"] == 2
    assert configuration["patch_size"] == [16, 32, 48]
    # 32 / 16 = 2
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [16, 32, 160]
    assert json.dumps(PLANS) == before


def test_batch_size_stays_unless_given_and_what_is_inherited_is_left_out():
    derived = narrowed_plans(PLANS, "nnUNetPlansThin", ["3d_fullres", "3d_cascade_fullres"], 4)
    assert derived["configurations"]["3d_fullres"]["batch_size"] == 11
    assert derived["configurations"]["3d_cascade_fullres"] == {"inherits_from": "3d_fullres"}


def test_plans_are_written_under_their_own_name(tmp_path: Path):
    file = write_plans(PLANS, tmp_path)
    assert list(tmp_path.iterdir()) == [file] == [tmp_path / "nnUNetPlans.json"]
    assert json.loads(file.read_text()) == PLANS


def test_options_of_networks_are_added():
    options = {"GASAUNet": {"embed_dim": 10, "num_heads": 2}}
    derived = narrowed_plans(PLANS, "nnUNetPlansThin", ["3d_fullres"], 16, options=options)
    assert derived["configurations"]["3d_fullres"]["nnunet_attn"] == options
    plain = narrowed_plans(PLANS, "nnUNetPlansThin", ["3d_fullres"], 16)
    assert "nnunet_attn" not in plain["configurations"]["3d_fullres"]
