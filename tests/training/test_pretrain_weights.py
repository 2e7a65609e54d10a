"""What a weights file says it was made from, against the network that is to load it."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from nnunetv2.run import run_training

from nnunet_attn.architectures.registry import NETWORKS, network_named
from nnunet_attn.training.network import build_without_weights
from nnunet_attn.training.pretrain_weights import (
    FREE,
    PRETRAINED_FILE,
    check_pretrained,
    default_arguments,
    install,
    read_entry,
    settings_of,
    write_pretrained,
)
from tests.made.data import make_trainer, train_some
from tests.made.plans import KINDS, Kind, configuration

STRIDES = {2: [[1, 1], [2, 2], [2, 2]], 3: [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}


def kind_with(network: str, patch: tuple[int, ...] = (16, 24), **options: Any) -> Kind:
    dims = len(patch)
    chosen = {**network_named(network).small_options, **options}
    entry = configuration(list(patch), STRIDES[dims], nnunet_attn={network: chosen})
    return Kind("2d" if dims == 2 else "3d_fullres", entry, KINDS["2d"].labels)


@pytest.fixture
def build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]
) -> Callable[..., Any]:
    def build(trainer: str, kind: Kind) -> Any:
        made: Any = make_trainer(getattr(load_leaf(trainer.split("_")[0]), trainer), kind, tmp_path / "r", monkeypatch)
        made.initialize()
        return made.network

    return build


@pytest.mark.parametrize(
    ("trainer", "network", "patch", "there", "here", "reason"),
    [
        # shapes hide these
        ("GASA", "GASAUNet", (16, 24), {"num_heads": 5}, {"num_heads": 1}, "num_heads is 5 there and 1 here"),
        ("MAT", "MAT", (16, 24), {}, {"gate_position": "post_norm"}, "gate_position is 'pre_norm' there and 'post_"),
        ("NNFormer", "NNFormer", (16, 16, 16), {}, {"quirk": True}, "quirk is False there and True here"),
        (
            "PatchTransformer",
            "PatchTransformer",
            (16, 24),
            {"num_heads": 4, "head_dim": 8},
            {"num_heads": 8, "head_dim": 4},
            "num_heads is 4 there and 8 here, head_dim is 8 there and 4 here",
        ),
        # and these they show
        ("GASA", "GASAUNet", (16, 24), {"embed_dim": 25}, {"embed_dim": 30}, "embed_dim is 25 there and 30 here"),
        (
            "PatchTransformer",
            "PatchTransformer",
            (16, 24),
            {"patch_embed_size": [8, 8]},
            {"patch_embed_size": [4, 8]},
            r"patch_embed_size is \[8, 8\] there and \[4, 8\] here",
        ),
    ],
)
def test_other_settings_are_refused_with_both_values(
    build: Callable[..., Any],
    tmp_path: Path,
    trainer: str,
    network: str,
    patch: tuple[int, ...],
    there: dict[str, Any],
    here: dict[str, Any],
    reason: str,
) -> None:
    file = tmp_path / PRETRAINED_FILE
    pretrained = build(f"nnUNetTrainer{trainer}_PretrainDenoise", kind_with(network, patch, **there))
    write_pretrained(file, pretrained, {"trainer": "some"})
    target = build(f"nnUNetTrainer{trainer}", kind_with(network, patch, **here))
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=reason):
        run_training.load_pretrained_weights(target, str(file))
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    # the same ones are taken
    same = build(f"nnUNetTrainer{trainer}", kind_with(network, patch, **there))
    run_training.load_pretrained_weights(same, str(file))


@pytest.fixture
def trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]
) -> Callable[..., Any]:
    def trainer(name: str, kind: Kind) -> Any:
        return make_trainer(getattr(load_leaf(name.split("_")[0]), name), kind, tmp_path / "r", monkeypatch)

    return trainer


def test_checkpoints_of_a_pretraining_say_what_it_was_built_from(trained: Callable[..., Any]) -> None:
    name, kind = "nnUNetTrainerGASA_1epochs_1its_PretrainDenoise", kind_with("GASAUNet", num_heads=5)
    first = trained(name, kind)
    train_some(first)
    first.on_train_end()
    folder = Path(first.output_folder)
    files = [folder / "checkpoint_final.pth", folder / "checkpoint_best.pth", folder / PRETRAINED_FILE]
    for file in files:
        with pytest.raises(ValueError, match=r"num_heads is 5 there and 1 here"):
            other = trained("nnUNetTrainerGASA", kind_with("GASAUNet", num_heads=1))
            run_training.maybe_load_checkpoint(other, False, False, str(file))
        with pytest.raises(ValueError, match=r"pre-trained as GASAUNet, and this trainer's network is MAT"):
            run_training.maybe_load_checkpoint(trained("nnUNetTrainerMAT", kind), False, False, str(file))
        same = trained("nnUNetTrainerGASA", kind)
        run_training.maybe_load_checkpoint(same, False, False, str(file))
    assert read_entry(files[0]) == read_entry(files[2])
    # nnU-Net itself goes on with it
    resumed = trained(name, kind)
    run_training.maybe_load_checkpoint(resumed, False, True)
    assert resumed.current_epoch == 1
    resumed.save_checkpoint(str(folder / "again.pth"))
    assert read_entry(folder / "again.pth") == read_entry(files[0])


def test_other_channels_and_strides_are_refused(build: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / PRETRAINED_FILE
    kind = KINDS["2d"]
    network = build("nnUNetTrainerPlain_PretrainDenoise", kind)
    write_pretrained(file, network, {})
    other = build("nnUNetTrainerPlain", Kind("2d", configuration([16, 24], [[1, 1], [2, 2], [1, 2]]), kind.labels))
    with pytest.raises(ValueError, match=r"strides is .*\[2, 2\]\] there and .*\[1, 2\]\] here"):
        run_training.load_pretrained_weights(other, str(file))
    settings: Any = settings_of(network)
    settings["settings"]["input_channels"] = 3
    write_pretrained(file, network, {})
    with pytest.raises(ValueError, match="input_channels is 3 there and 1 here"):
        check_pretrained(build("nnUNetTrainerPlain", kind), file)


def test_what_does_not_change_the_function_may_differ(build: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / PRETRAINED_FILE
    write_pretrained(file, build("nnUNetTrainerGASA_PretrainBoth", kind_with("GASAUNet")), {})
    # a default that is spelt out is the same setting
    named = kind_with("GASAUNet", num_heads=5, dropout_rate=0.5)
    run_training.load_pretrained_weights(build("nnUNetTrainerGASA", named), str(file))
    with pytest.raises(ValueError, match="position is 'after' there and 'before' here"):
        run_training.load_pretrained_weights(build("nnUNetTrainerGASABPE", kind_with("GASAUNet")), str(file))


def test_files_and_networks_that_say_nothing_go_to_nnunet(build: Callable[..., Any], tmp_path: Path) -> None:
    kind = KINDS["2d"]
    plain, other = build("nnUNetTrainerPlain", kind), build("nnUNetTrainerPlain", kind)
    checkpoint = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": plain.state_dict()}, checkpoint)
    run_training.load_pretrained_weights(other, str(checkpoint))
    assert torch.equal(next(other.parameters()), next(plain.parameters()))
    with pytest.raises(AssertionError, match="missing in the pretrained model weights"):
        run_training.load_pretrained_weights(torch.nn.Linear(2, 2), str(checkpoint))
    with pytest.raises(FileNotFoundError):
        run_training.load_pretrained_weights(other, str(tmp_path / "none.pth"))


def test_installed_once() -> None:
    before = run_training.load_pretrained_weights
    install()
    assert run_training.load_pretrained_weights is before


def test_the_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / PRETRAINED_FILE
    write_pretrained(file, torch.nn.Linear(2, 2), {"trainer": "first"})
    kept = file.read_bytes()

    def killed(_: Any, partial: Path) -> None:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        write_pretrained(file, torch.nn.Linear(2, 2), {"trainer": "second"})
    assert file.read_bytes() == kept


@pytest.mark.parametrize("network", [n for n in NETWORKS if n.class_path], ids=lambda network: network.name)
def test_settings_hold_every_option_but_the_free_ones(network: Any) -> None:
    kind = KINDS["2d" if 2 in network.dims else "3d"].with_options(network)
    built = build_without_weights(network, kind.manager, 1, 3, True, {})
    settings: Any = settings_of(built)
    assert settings["network"] == network.name and settings["settings"]["axes"] == len(kind.entry["patch_size"])
    assert set(default_arguments(network)) - FREE <= settings["settings"].keys()
    assert not any("nnunet_attn" in key for key in built.state_dict())
