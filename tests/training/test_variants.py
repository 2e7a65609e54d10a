"""Trainer names taken apart."""

from nnunet_attn.training.variants import SUFFIXES, parse_trainer_name

BASES = ("nnUNetTrainerGASA", "nnUNetTrainerGASANoPE")


def test_the_longest_base_wins() -> None:
    assert parse_trainer_name("nnUNetTrainerGASANoPE_2its", BASES).base == "nnUNetTrainerGASANoPE"
    assert parse_trainer_name("nnUNetTrainerGASA_2its", BASES).base == "nnUNetTrainerGASA"
    assert parse_trainer_name("nnUNetTrainerGASAN_2its", BASES).base is None


def test_each_suffix_sets_its_attribute() -> None:
    parsed = parse_trainer_name(
        "nnUNetTrainerGASA_100epochs_20its_save7_NoMirroring_NoDA_fp32_AdamW_lr3e-4_seed0_PretrainBoth", BASES
    )
    assert parsed.is_valid
    assert parsed.attributes == {
        "epochs": 100,
        "iterations_per_epoch": 20,
        "epochs_between_saves": 7,
        "mirroring": False,
        "augmentation": False,
        "precision": "fp32",
        "optimizer_name": "adamw",
        "learning_rate": 3e-4,
        "seed": 0,
        "pretraining": "both",
    }
    assert len(SUFFIXES) == len(parsed.attributes) + 4, (
        "two set the precision, two the optimiser, three what is learned"
    )


def test_learning_rates() -> None:
    written = {"lr3e-4": 3e-4, "lr0.01": 0.01, "lr1": 1.0, "lr2.5e-5": 2.5e-5}
    for part, value in written.items():
        assert parse_trainer_name(f"nnUNetTrainerGASA_{part}", BASES).attributes == {"learning_rate": value}
    for part in ("lr0", "lr0.0", "lr-1", "lr", "lr1e", "lr.1", "lr0e-3", "lr0e5", "lr1e-400", "lr1e999"):
        assert parse_trainer_name(f"nnUNetTrainerGASA_{part}", BASES).unknown == (part,)


def test_unknown_and_repeated_parts_are_named() -> None:
    parsed = parse_trainer_name("nnUNetTrainerGASA_fast_3epochs_4epochs_seed-1", BASES)
    assert not parsed.is_valid
    assert parsed.unknown == ("fast", "seed-1")
    assert parsed.twice == ("4epochs",)


def test_each_task_of_pre_training_has_a_suffix() -> None:
    for part, task in {"PretrainDenoise": "denoise", "PretrainInpaint": "inpaint", "PretrainBoth": "both"}.items():
        assert parse_trainer_name(f"nnUNetTrainerGASA_{part}", BASES).attributes == {"pretraining": task}
    assert parse_trainer_name("nnUNetTrainerGASA_PretrainBoth_PretrainDenoise", BASES).twice == ("PretrainDenoise",)
