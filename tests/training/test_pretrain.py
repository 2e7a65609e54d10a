"""Pre-training of every network: corruption, loss, logging, and what the fine-tuning takes over."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run import run_training

from nnunet_attn.architectures.registry import NETWORKS, Network
from nnunet_attn.errors import InputError
from nnunet_attn.training.gates import gated_layers
from nnunet_attn.training.pretrain import freeze_unused
from nnunet_attn.training.pretrain_weights import PRETRAINED_FILE, write_pretrained
from tests.made.data import make_trainer, train_some
from tests.made.plans import KINDS, Kind, configuration

SEG_LAYERS = ".seg_layers."


def able() -> list[Any]:
    return [
        pytest.param(network, kind, id=f"{network.name}-{kind}")
        for network in NETWORKS
        for kind in ("2d", "3d")
        if len(KINDS[kind].entry["patch_size"]) in network.dims
    ]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]) -> Callable[..., Any]:
    def make(name: str, kind: Kind = KINDS["3d"], folder: str = "root") -> Any:
        leaf = name.split("_")[0]
        return make_trainer(getattr(load_leaf(leaf), name), kind, tmp_path / folder, monkeypatch)

    return make


@pytest.mark.parametrize("task", ["Denoise", "Inpaint"])
@pytest.mark.parametrize(("network", "kind"), able())
def test_every_network_learns_and_hands_on_all_but_its_output_layers(
    make: Callable[..., Any], tmp_path: Path, network: Network, kind: str, task: str
) -> None:
    made = KINDS[kind].with_options(network)
    trainer = make(f"{network.trainers[0]}_1epochs_1its_seed0_Pretrain{task}", made)
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.on_train_epoch_start()
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    without = {name for name, value in trainer.network.named_parameters() if value.grad is None}
    assert all(SEG_LAYERS in name for name in without), "only output layers of deep supervision are of no use"
    channels = len(made.dataset_json["channel_names"])
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        step = trainer.validation_step(next(trainer.dataloader_val))
    assert step["totals"].voxels.shape == (channels,)
    trainer.on_validation_epoch_end([step])
    assert trainer.logger.get_value("mean_fg_dice", step=-1) == pytest.approx(np.mean(step["totals"].explained))

    file = tmp_path / PRETRAINED_FILE
    write_pretrained(file, trainer.network, {})
    given = torch.load(file, weights_only=True)["network_weights"]
    tuned = make(f"{network.trainers[0]}_1epochs_1its_seed1", made)
    tuned.initialize()
    before = {key: value.clone() for key, value in tuned.network.state_dict().items()}
    run_training.load_pretrained_weights(tuned.network, str(file))
    after = tuned.network.state_dict()
    assert all(torch.equal(after[key], given[key]) for key in after if SEG_LAYERS not in key)
    new = [key for key in after if SEG_LAYERS in key]
    assert new and all(torch.equal(after[key], before[key]) for key in new)
    # in the first epochs gates are frozen, in both trainings
    gates = {f"{name}.gates" for name in gated_layers(tuned.network)}
    moved = [key for key, value in tuned.network.named_parameters() if not torch.equal(value, before[key])]
    assert moved and not gates & set(moved)


@pytest.mark.parametrize(
    ("trainer", "task"),
    [
        ("nnUNetTrainerMAT_NoDA_bf16", "Inpaint"),
        ("nnUNetTrainerPatchTransformer_NoMirroring", "Both"),
        ("nnUNetTrainerPatchTransformerPaper_fp32", "Inpaint"),
        ("nnUNetTrainerPlain", "Both"),
    ],
)
def test_a_training_logs_r2_draws_and_reports(make: Callable[..., Any], trainer: str, task: str) -> None:
    made = KINDS["2d"].with_options(next(n for n in NETWORKS if n.name == "PatchTransformer"))
    trained = make(f"{trainer}_2epochs_10its_seed3_Pretrain{task}", made)
    train_some(trained, 2)
    trained.on_train_end()
    trained.perform_actual_validation()
    folder = Path(trained.output_folder)
    log = trained.logger
    r2 = log.get_value("mean_fg_dice", step=None)
    assert len(r2) == 2 and all(value <= 1 for value in r2)
    assert log.get_value("dice_per_class_or_region", step=-1) == [r2[-1]]
    assert log.get_value("ema_fg_dice", step=-1) == pytest.approx(0.9 * r2[0] + 0.1 * r2[1])
    best = torch.load(folder / "checkpoint_best.pth", weights_only=False)
    assert best["_best_ema"] == max(log.get_value("ema_fg_dice", step=None))
    assert {path.name for path in (folder / "reconstructions").iterdir()} == {"epoch_0000.png", "epoch_0001.png"}
    tasks = {"denoise", "inpaint"} if task == "Both" else {task.lower()}
    report = json.loads((folder / "validation" / "reconstruction.json").read_text())
    assert set(report["cases"]) == {"case_3"} and set(report["cases"]["case_3"]) == tasks
    assert all(np.isfinite([measures["mse"], measures["r2"]]).all() for measures in report["mean"].values())
    if "denoise" in tasks:
        case = report["cases"]["case_3"]["denoise"]
        # the range is at least twice the deviation, and noise has a tenth of the variance: 10 log10(4 * 10)
        assert case["psnr_db_given"] > 16 and case["psnr_db"] == report["mean"]["denoise"]["psnr_db"]
    assert (folder / "validation" / "case_3.png").is_file()
    assert not (folder / "validation" / "summary.json").exists()
    content = torch.load(folder / PRETRAINED_FILE, weights_only=True)
    source = content["nnunet_attn"]
    assert (source["pretraining"], source["configuration"], source["epochs"]) == (task.lower(), "2d", 2)
    assert source["settings"]["input_channels"] == 1
    text = Path(trained.log_file).read_text()
    assert "labels are not used" in text and "R^2" in text


def test_validation_corrupts_alike_in_every_epoch(make: Callable[..., Any]) -> None:
    trainer = make("nnUNetTrainerPlain_3epochs_10its_PretrainBoth", KINDS["2d"])
    trainer.initialize()
    batches = [{"data": torch.randn(2, 1, 16, 24)} for _ in range(2)]
    losses = []
    for _ in range(2):
        trainer.on_validation_epoch_start()
        with torch.no_grad():
            losses.append([trainer.validation_step(batch) for batch in batches])
    assert [step["loss"] for step in losses[0]] == [step["loss"] for step in losses[1]]
    # tasks take turns: all voxels of the noisy batch count, and a quarter of the other's, whose cells are 16 x 12
    assert [step["totals"].voxels.item() for step in losses[0]] == [2 * 16 * 24, 2 * 16 * 12]


def test_steps_follow_from_the_seed_and_draw_both_tasks(make: Callable[..., Any]) -> None:
    def steps(name: str) -> list[tuple[str, torch.Tensor]]:
        trainer = make(name, KINDS["2d"])
        trainer.initialize()
        trainer.current_epoch = 2
        trainer.on_train_epoch_start()
        seen = []
        trainer.network.register_forward_pre_hook(
            lambda _, inputs: seen.append((trainer._task, inputs[0].clone())) or None
        )
        for _ in range(12):
            trainer.train_step({"data": torch.ones(1, 1, 16, 24).cumsum(2), "target": None, "keys": []})
        return seen

    first, again = (steps("nnUNetTrainerPlain_3epochs_1its_seed4_PretrainBoth") for _ in range(2))
    other = steps("nnUNetTrainerPlain_3epochs_1its_seed5_PretrainBoth")
    assert {task for task, _ in first} == {"denoise", "inpaint"}
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert any(a[0] != b[0] or not torch.equal(a[1], b[1]) for a, b in zip(first, other, strict=True))


def test_channels_that_are_input_only_are_neither_corrupted_nor_predicted(make: Callable[..., Any]) -> None:
    extent = {"nnunet_attn": {"FINE": {"embed_dim": 24, "num_heads": 3, "volume_extent": [16, 48, 48]}}}
    entry = configuration([16, 16, 16], [[1, 1, 1], [2, 2, 2], [2, 2, 2]], **extent)
    trainer = make("nnUNetTrainerFINE_1epochs_1its_PretrainBoth", Kind("3d_fullres", entry, KINDS["3d"].labels))
    trainer.initialize()
    axes = len(trainer._position_axes)
    assert axes == 2
    data = torch.randn(2, 1 + axes, 16, 16, 16)
    for task in ("denoise", "inpaint"):
        trainer._task = task
        given, target = trainer._corrupted(data, torch.Generator().manual_seed(0))
        assert torch.equal(given[:, 1:], data[:, 1:]) and not torch.equal(given[:, :1], data[:, :1])
        assert torch.equal(target[:, :1], data[:, :1]) and target.shape[1] == 2
        hidden = target[:, 1:] == 1
        if task == "inpaint":
            assert not given[:, :1][hidden].any() and torch.equal(given[:, :1][~hidden], data[:, :1][~hidden])
        else:
            assert hidden.all()
    trainer.set_deep_supervision_enabled(True)
    assert trainer.network(data).shape == (2, 1, 16, 16, 16)


def test_the_second_stage_of_a_cascade_predicts_its_image(make: Callable[..., Any]) -> None:
    trainer = make("nnUNetTrainerPlain_1epochs_1its_PretrainInpaint", KINDS["cascade"])
    train_some(trainer)
    trainer.perform_actual_validation()
    assert trainer.network(torch.zeros(1, 3, 16, 16, 16)).shape == (1, 1, 16, 16, 16)


@pytest.mark.parametrize("precision", ["", "_fp32", "_bf16"])
def test_the_patch_transformer_fills_in_each_patch_from_its_neighbours(
    make: Callable[..., Any], precision: str
) -> None:
    network = next(n for n in NETWORKS if n.name == "PatchTransformer")
    kind = KINDS["2d"].with_options(network)
    trainer = make(f"nnUNetTrainerPatchTransformer_1epochs_1its{precision}_PretrainInpaint", kind)
    trainer.initialize()
    data = torch.randn(1, 1, *trainer.train_patch_size)
    with torch.no_grad():
        given, output, target = trainer._reconstruct(data, 0)
        assert torch.equal(given, trainer._target(data)) and torch.equal(target[:, :1], given)
        assert target[:, 1:].all() and output.shape == given.shape
        # what a patch holds does not reach its own reconstruction, but its neighbours'
        other, edge = data.clone(), trainer.network.patch_embed_size
        halo = trainer.network.halo
        other[:, :, halo[0] : halo[0] + edge[0], halo[1] : halo[1] + edge[1]] += 1
        changed = trainer._reconstruct(other, 0)[1]
    assert torch.equal(changed[:, :, : edge[0], : edge[1]], output[:, :, : edge[0], : edge[1]])
    assert not torch.equal(changed[:, :, edge[0] :, : edge[1]], output[:, :, edge[0] :, : edge[1]])


@pytest.mark.parametrize("kind", ["2d", "3d", "anisotropic", "cascade"])
def test_intensities_are_not_augmented(make: Callable[..., Any], kind: str) -> None:
    trainer = make("nnUNetTrainerPlain_PretrainDenoise", KINDS[kind])
    patch = KINDS[kind].entry["patch_size"]
    *_, dummy_2d, size, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    arguments: dict[str, Any] = {"is_cascaded": kind == "cascade", "foreground_labels": [1, 2]}
    transforms = trainer.get_training_transforms(patch, (-0.5, 0.5), None, axes, kind == "anisotropic", **arguments)
    names = [type(transform).__name__ for transform in transforms.transforms]
    assert {"SpatialTransform", "MirrorTransform"} <= set(names)
    drawn = [t.transform for t in transforms.transforms if isinstance(t, RandomTransform)]
    assert len(drawn) == (2 if kind == "cascade" else 0), "those of a cascade's labels stay"
    assert dummy_2d is not None and list(size) != patch


def test_suffixes_combine_and_epochs_have_their_own_default(make: Callable[..., Any]) -> None:
    plain = make("nnUNetTrainerPlain_PretrainDenoise", KINDS["2d"])
    assert (plain.num_epochs, plain.enable_deep_supervision) == (250, False)
    combined = make("nnUNetTrainerGASA_20epochs_PretrainBoth_NoDA_bf16_lr3e-4_AdamW_seed2", KINDS["2d"])
    assert (combined.num_epochs, combined.precision, combined.initial_lr, combined.seed) == (20, "bf16", 3e-4, 2)
    *_, axes = combined.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert axes is None
    names = [type(t).__name__ for t in combined.get_training_transforms((16, 24), None, None, None, False).transforms]
    assert "SpatialTransform" not in names


def test_its_network_is_refused_for_predictions(make: Callable[..., Any]) -> None:
    trainer = make("nnUNetTrainerPlain_1epochs_1its_PretrainDenoise", KINDS["2d"])
    train_some(trainer)
    trainer.on_train_end()
    cls: Any = type(trainer)
    with pytest.raises(InputError, match=r"gives images, not segmentations.*-pretrained_weights"):
        cls.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 3)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr("nnunetv2.inference.predict_from_raw_data.recursive_find_trainer_class_by_name", lambda _: cls)
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        with pytest.raises(InputError, match="gives images, not segmentations"):
            predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))


def test_unused_output_layers_are_frozen_for_distributed_training(make: Callable[..., Any]) -> None:
    trainer = make("nnUNetTrainerPlain_1epochs_1its_PretrainDenoise", KINDS["3d"])
    trainer.initialize()
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    assert freeze_unused(trainer.network, 1, (16, 16, 16)) == [
        "decoder.seg_layers.0.weight",
        "decoder.seg_layers.0.bias",
    ]
    assert trainer.network.training
    trainer.train_step({"data": torch.randn(2, 1, 16, 16, 16), "target": None, "keys": []})
    frozen = [name for name, value in trainer.network.named_parameters() if value.grad is None]
    assert frozen == ["decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"]
    after = trainer.network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in frozen)


def test_a_network_with_one_output_layer_is_not_run_to_find_unused_ones(make: Callable[..., Any]) -> None:
    network = next(n for n in NETWORKS if n.name == "PatchTransformer")
    trainer = make("nnUNetTrainerPatchTransformer_1epochs_1its_PretrainBoth", KINDS["3d"].with_options(network))
    trainer.initialize()

    def run(*_: Any) -> None:
        raise AssertionError("a forward pass over a whole patch keeps gigabytes")

    trainer.network.register_forward_pre_hook(run)
    assert freeze_unused(trainer.network, 1, (16, 16, 16)) == []
    assert all(parameter.requires_grad for parameter in trainer.network.parameters())


@pytest.mark.parametrize("precision", ["_fp32", "_bf16"])
def test_other_networks_hide_cells_in_every_precision(make: Callable[..., Any], precision: str) -> None:
    trainer = make(f"nnUNetTrainerPlain_1epochs_1its{precision}_PretrainInpaint", KINDS["2d"])
    trainer.initialize()
    data = torch.randn(1, 1, 16, 24)
    with torch.no_grad():
        given, output, target = trainer._reconstruct(data, 0)
    hidden = target[:, 1:] == 1
    assert 0 < hidden.sum() < hidden.numel() and not given[hidden].any()
    assert output.shape == data.shape and output.dtype == torch.float32


def test_resumes_with_its_own_network(make: Callable[..., Any]) -> None:
    first = make("nnUNetTrainerGASA_3epochs_1its_PretrainDenoise", KINDS["2d"])
    state = train_some(first, 2)
    second = make("nnUNetTrainerGASA_3epochs_1its_PretrainDenoise", KINDS["2d"])
    second.load_checkpoint(str(Path(second.output_folder, "checkpoint_latest.pth")))
    assert second.current_epoch == 2
    assert all(torch.equal(value, state[key]) for key, value in second.network.state_dict().items())


def test_body_masks_are_not_segmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]
) -> None:
    @dataclass(frozen=True)
    class Masked(Kind):
        @property
        def dataset_json(self) -> dict[str, Any]:
            return {**super().dataset_json, "nnunet_attn": {"pseudo_labels_of": "Dataset010_Images"}}

    kind = Masked("2d", KINDS["2d"].entry, KINDS["2d"].labels)
    leaf = load_leaf("nnUNetTrainerPlain")
    with pytest.raises(ValueError, match=r"body masks that were made for Dataset010_Images.*nnunet-attn pretrain"):
        make_trainer(leaf.nnUNetTrainerPlain, kind, tmp_path, monkeypatch)
    assert not any((tmp_path / "results").iterdir())
    make_trainer(leaf.nnUNetTrainerPlain_PretrainBoth, kind, tmp_path, monkeypatch)
