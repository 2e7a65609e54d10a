"""AttentionTrainer against nnU-Net's own, and what suffixes change."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_attn.architectures.build import network_arguments
from nnunet_attn.architectures.registry import network_named
from nnunet_attn.training.network import build_from_plans
from nnunet_attn.training.nonfinite import NonFiniteLossError, first_nonfinite_module
from nnunet_attn.training.weights import read_network_weights
from tests.made.data import make_trainer, train_some
from tests.made.plans import KINDS, Kind, configuration

KIND = KINDS["3d"]
GASA = "nnUNetTrainerGASA"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]) -> Callable[..., Any]:
    def make(name: str, kind: Kind = KIND, leaf: str | None = None, folder: str = "root") -> Any:
        leaf = leaf or name.split("_")[0]
        return make_trainer(getattr(load_leaf(leaf), name), kind, tmp_path / folder, monkeypatch)

    return make


def batch(seed: int, kind: Kind = KIND) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    patch = kind.entry["patch_size"]
    return {
        "data": torch.randn(2, 1, *patch, generator=generator),
        "target": [
            torch.randint(0, 3, (2, 1, *(size // scale for size in patch)), generator=generator).short()
            for scale in (1, 2)
        ],
        "keys": ["case_0", "case_1"],
    }


def test_plain_equals_stock_trainer_after_some_steps(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    ours: Any = make("nnUNetTrainerPlain")
    stock: Any = make_trainer(nnUNetTrainer, KIND, tmp_path / "root", monkeypatch)
    for trainer in (ours, stock):
        torch.manual_seed(3)
        trainer.initialize()
        start = {key: value.clone() for key, value in trainer.network.state_dict().items()}
        trainer.on_train_epoch_start()
        losses = [float(trainer.train_step(batch(seed))["loss"]) for seed in range(3)]
        state = trainer.network.state_dict()
        assert any(not torch.equal(state[key], start[key]) for key in state)
        weights.append((losses, state))
    (our_losses, ours), (stock_losses, stocks) = weights
    assert our_losses == stock_losses
    assert list(ours) == list(stocks)
    assert all(torch.equal(ours[key], stocks[key]) for key in ours)


def test_a_seed_repeats_a_training_bit_by_bit(make: Callable[..., Any]) -> None:
    first = train_some(make("nnUNetTrainerGASA_2epochs_2its_seed4"))
    again = train_some(make("nnUNetTrainerGASA_2epochs_2its_seed4"))
    other = train_some(make("nnUNetTrainerGASA_2epochs_2its_seed5"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.slow
def test_workers_get_random_streams_of_their_own_from_the_seed(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make("nnUNetTrainerGASA_1epochs_1its_seed4")
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    trainer.initialize()
    loaders = trainer.get_dataloaders()
    try:
        seeds = [seed for loader in loaders for seed in loader.seeds]
        assert len(seeds) == 3 and len(set(seeds)) == 3 and None not in seeds
        assert torch.isfinite(next(loaders[0])["data"]).all()
    finally:
        for loader in loaders:
            loader._finish()


def test_suffixes_set_length_and_checkpoint_interval(make: Callable[..., Any]) -> None:
    trainer = make("nnUNetTrainerGASA_100epochs_20its")
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (100, 20, 4)
    assert trainer.save_every == 5
    plain = make("nnUNetTrainerPlain")
    assert (plain.num_epochs, plain.num_iterations_per_epoch, plain.num_val_iterations_per_epoch) == (1000, 250, 50)
    assert plain.save_every == 50
    assert make("nnUNetTrainerGASA_100epochs_save30").save_every == 30
    assert make("nnUNetTrainerPlain_save1").save_every == 1


@pytest.mark.parametrize(
    ("suffix", "mirrors", "augments"), [("", True, True), ("_NoMirroring", False, True), ("_NoDA", False, False)]
)
def test_mirroring_and_augmentation(make: Callable[..., Any], suffix: str, mirrors: bool, augments: bool) -> None:
    trainer = make(f"nnUNetTrainerGASA{suffix}")
    *_, patch, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert axes == ((0, 1, 2) if mirrors else None)
    assert trainer.inference_allowed_mirroring_axes == axes
    assert (list(patch) == KIND.entry["patch_size"]) is not augments
    transforms = trainer.get_training_transforms(KIND.entry["patch_size"], (-0.5, 0.5), None, axes, False)
    names = [type(transform).__name__ for transform in transforms.transforms]
    assert ("SpatialTransform" in names) is augments
    assert ("MirrorTransform" in names) is mirrors


@pytest.mark.parametrize(
    ("suffix", "dtype"), [("", torch.float32), ("_bf16", torch.bfloat16), ("_fp32", torch.float32)]
)
def test_precision_of_training_and_prediction_agree(make: Callable[..., Any], suffix: str, dtype: torch.dtype) -> None:
    trainer = make(f"nnUNetTrainerGASA_1epochs_1its{suffix}")
    trainer.initialize()
    predicted = type(trainer).build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 3)
    for network in (trainer.network, predicted):
        seen = []
        network.encoder.register_forward_hook(lambda _, __, skips, seen=seen: seen.append(skips[-1].dtype))
        output = network(batch(0)["data"])
        assert seen == [dtype]
        assert output[0].dtype == torch.float32
    assert trainer.grad_scaler is None
    assert np.isfinite(trainer.train_step(batch(0))["loss"])


def test_a_nonfinite_loss_stops_before_the_weights_change(make: Callable[..., Any]) -> None:
    trainer = make("nnUNetTrainerGASA_5epochs_2its")
    train_some(trainer)
    kept = Path(trainer.output_folder, "checkpoint_best.pth").read_bytes()
    trainer.on_train_epoch_start()
    trainer.train_step(batch(0))
    with torch.no_grad():
        trainer.network.gasa.qkv.weight.fill_(torch.nan)
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    with pytest.raises(NonFiniteLossError) as error:
        trainer.train_step(batch(1))
    for part in ("epoch 1", "iteration 1", "case_0, case_1", "gasa.qkv (Linear)", "_bf16 or _fp32"):
        assert part in str(error.value)
    after = trainer.network.state_dict()
    assert all(torch.equal(after[key].nan_to_num(), before[key].nan_to_num()) for key in before)
    assert Path(trainer.output_folder, "checkpoint_best.pth").read_bytes() == kept
    assert str(error.value) in Path(trainer.log_file).read_text()


def test_nonfinite_data_are_named_as_the_cause(make: Callable[..., Any]) -> None:
    trainer = make("nnUNetTrainerPlain_5epochs_2its")
    trainer.initialize()
    wrong = batch(0)
    wrong["data"][0, 0, 0, 0, 0] = torch.inf
    with pytest.raises(NonFiniteLossError, match="the image data itself is not finite"):
        trainer.train_step(wrong)


def test_finite_outputs_name_no_module() -> None:
    assert first_nonfinite_module(torch.nn.Linear(2, 2), torch.ones(1, 2)) is None


def test_checkpoints_are_renamed_into_place(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make("nnUNetTrainerPlain_5epochs_1its")
    train_some(trainer)
    folder = Path(trainer.output_folder)
    assert {path.name for path in folder.glob("*.pth*")} == {"checkpoint_best.pth", "checkpoint_latest.pth"}
    kept = (folder / "checkpoint_latest.pth").read_bytes()

    def killed(_: Any, file: str) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(str(folder / "checkpoint_latest.pth"))
    assert (folder / "checkpoint_latest.pth").read_bytes() == kept


def test_resumes_from_the_latest_checkpoint(make: Callable[..., Any]) -> None:
    first = make("nnUNetTrainerGASA_3epochs_1its_seed1")
    state = train_some(first, epochs=2)
    second = make("nnUNetTrainerGASA_3epochs_1its_seed1")
    second.load_checkpoint(os.path.join(second.output_folder, "checkpoint_latest.pth"))
    assert second.current_epoch == 2
    resumed = second.network.state_dict()
    assert all(torch.equal(resumed[key], state[key]) for key in state)
    assert list(read_network_weights(Path(second.output_folder, "checkpoint_latest.pth"))) == list(state)


def with_options(options: Any) -> Kind:
    entry = configuration([16, 16, 16], [[1, 1, 1], [2, 2, 2], [2, 2, 2]], nnunet_attn=options)
    return Kind("3d_fullres", entry, KIND.labels)


def test_options_come_from_the_plans(make: Callable[..., Any]) -> None:
    trainer = make("nnUNetTrainerGASA", with_options({"GASAUNet": {"embed_dim": 8, "num_heads": 2}}))
    trainer.initialize()
    assert trainer.network.gasa.qkv.weight.shape == (24, 8)


@pytest.mark.parametrize(
    ("options", "trainer", "parts"),
    [
        ({"GASANet": {}}, "nnUNetTrainerGASA", ["GASANet", "GASAUNet"]),
        ({"GASAUNet": {"heads": 3}}, "nnUNetTrainerGASA", ["'heads'", "3", "num_heads"]),
        ({"GASAUNet": {"num_heads": 4}}, "nnUNetTrainerGASA", ["num_heads", "4", "25"]),
        ({"GASAUNet": {"embed_dim": "wide"}}, "nnUNetTrainerGASA", ["embed_dim", "wide"]),
        ({"GASAUNet": {"embed_dim": True, "num_heads": 1}}, "nnUNetTrainerGASA", ["embed_dim", "True"]),
        ({"GASAUNet": {"norm": "false"}}, "nnUNetTrainerGASA", ["norm", "'false'"]),
        ({"GASAUNet": {"dropout_rate": "0.5"}}, "nnUNetTrainerGASA", ["dropout_rate", "0.5"]),
        ({"GASAUNet": {"dropout_rate": None}}, "nnUNetTrainerGASA", ["dropout_rate", "None"]),
        ({"GASAUNet": {"position": "before"}}, "nnUNetTrainerGASANoPE", ["position", "before", "none"]),
        ({"GASAUNet": 5}, "nnUNetTrainerGASA", ["GASAUNet", "5"]),
        (7, "nnUNetTrainerGASA", ["nnunet_attn", "7"]),
        ({"PlainUNet": {"embed_dim": 5}}, "nnUNetTrainerPlain", ["embed_dim", "no options"]),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    make: Callable[..., Any], tmp_path: Path, options: Any, trainer: str, parts: list[str]
) -> None:
    leaf = "nnUNetTrainerPlain" if "Plain" in trainer else "nnUNetTrainerGASA"
    with pytest.raises(ValueError) as error:
        make(trainer, with_options(options), leaf)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert not any((tmp_path / "root" / "results").iterdir())


def test_an_illegal_patch_is_refused_before_anything_is_written(make: Callable[..., Any], tmp_path: Path) -> None:
    kind = Kind("3d_fullres", configuration([16, 18, 16], [[1, 1, 1], [2, 2, 2], [2, 2, 2]]), KIND.labels)
    with pytest.raises(ValueError, match="18"):
        make("nnUNetTrainerGASA", kind)
    assert not any((tmp_path / "root" / "results").iterdir())


def test_plans_can_name_the_class_directly_for_the_stock_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]
) -> None:
    row = network_named("GASAUNet")
    arguments = network_arguments(row, KIND.planned_unet, {"embed_dim": 10})
    entry = {**KIND.entry["architecture"], "network_class_name": row.class_path, "arch_kwargs": arguments}
    kind = Kind("3d_fullres", {**KIND.entry, "architecture": entry}, KIND.labels)
    trainer: Any = make_trainer(nnUNetTrainer, kind, tmp_path / "root", monkeypatch)
    trainer.initialize()
    assert trainer.network.gasa.qkv.weight.shape == (30, 10)
    trainer.on_train_epoch_start()
    assert np.isfinite(trainer.train_step(batch(0))["loss"])
    with pytest.raises(ValueError, match="nnUNetTrainerPlain"):
        make_trainer(load_leaf("nnUNetTrainerGASA").nnUNetTrainerGASA, kind, tmp_path / "root", monkeypatch)


def test_a_nonfinite_gradient_stops_too_where_no_scaler_skips_it(make: Callable[..., Any]) -> None:
    trainer = make("nnUNetTrainerGASA_5epochs_2its_bf16")
    trainer.initialize()
    trainer.network.gasa.proj.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=r"the gradient is not finite.*the gradient itself is not"):
        trainer.train_step(batch(0))
    after = trainer.network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_the_log_names_the_options_of_plans_and_trainer(make: Callable[..., Any]) -> None:
    trainer = make("nnUNetTrainerGASANoPE_1epochs_1its_seed2", with_options({"GASAUNet": {"embed_dim": 15}}), GASA)
    trainer.on_train_start()
    line = next(line for line in Path(trainer.log_file).read_text().splitlines() if "nnunet-attn" in line)
    assert "options: {'embed_dim': 15, 'position': 'none'}; precision: amp; seed: 2" in line


def test_what_a_network_cannot_do_is_refused() -> None:
    row = network_named("GASAUNet")
    with pytest.raises(ValueError, match=r"GASAUNet cannot be the second stage of a cascade.*3d_lowres"):
        build_from_plans(replace(row, cascade=False), KINDS["cascade"].manager, 3, 3, True, {})
    with pytest.raises(ValueError, match=r"GASAUNet works on 3D configurations, got the 2D patch \(16, 24\)"):
        build_from_plans(replace(row, dims=(3,)), KINDS["2d"].manager, 1, 3, True, {})
