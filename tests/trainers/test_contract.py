"""Every trainer works on every kind of configuration: real loaders, one step, one validation step, one prediction."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_attn.architectures.registry import NETWORKS, Network
from nnunet_attn.training.gates import gated_layers
from tests.made.data import made_case, make_trainer
from tests.made.plans import KINDS

ROWS = [pytest.param(network, id=network.name) for network in NETWORKS]


def cannot(network: Network, kind: str) -> bool:
    dims = len(KINDS[kind].entry["patch_size"])
    return dims not in network.dims or (kind == "cascade" and not network.cascade)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", ROWS)
def test_trains_validates_and_predicts(
    network: Network,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    load_leaf: Callable[[str], ModuleType],
) -> None:
    leaf = next(path for path in network.trainers)
    trainer_class = getattr(load_leaf(leaf), f"{leaf}_1epochs_1its_seed0")
    made = KINDS[kind].with_options(network)
    if cannot(network, kind):
        with pytest.raises(ValueError, match=network.name):
            make_trainer(trainer_class, made, tmp_path, monkeypatch)
        assert not any((tmp_path / "results").iterdir()), "nothing is written before the refusal"
        return
    trainer: Any = make_trainer(trainer_class, made, tmp_path, monkeypatch)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    step = trainer.train_step(next(trainer.dataloader_train))
    assert np.isfinite(step["loss"])
    unmoved = [key for key, value in trainer.network.named_parameters() if torch.equal(value, before[key])]
    gates = {f"{name}.gates" for name in gated_layers(trainer.network)}
    assert gates <= set(unmoved), "gates are frozen in the first epochs"
    unmoved = [key for key in unmoved if key not in gates]
    # nnU-Net gives the coarsest head no weight in the loss, and weight decay leaves zeros at zero
    zero = {key for key in unmoved if not before[key].any()}
    heads = {key.rsplit(".", 1)[0] for key in set(unmoved) - zero}
    assert len(heads) <= 1 and all(".seg_layers." in key for key in heads)

    trainer.on_train_epoch_end([step])
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
    trainer.on_epoch_end()
    trainer.on_train_end()
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").exists()

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    predicted: Any = predictor.network
    assert type(predicted).__name__ == type(trainer.network).__name__
    image, labels = made_case(made, np.random.default_rng(1))
    channels = [image]
    if trainer.is_cascaded:
        channels.extend((labels == label).astype(np.float32) for label in (1, 2))
    data = torch.from_numpy(np.concatenate(channels))
    logits = predictor.predict_logits_from_preprocessed_data(data)
    assert logits.shape == (trainer.label_manager.num_segmentation_heads, *data.shape[1:])
    assert torch.isfinite(logits).all()

    patch = torch.rand(1, len(data), *trainer.configuration_manager.patch_size)
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    with torch.no_grad():
        assert torch.equal(trainer.network(patch), predicted.eval()(patch)), "one network, twice built"
