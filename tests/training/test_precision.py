"""A network that carries its precision computes in it, whatever autocast surrounds it."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_attn.inference.grid_predictor import GridPredictor
from nnunet_attn.training.precision import carry_precision
from tests.made.data import CPU, make_trainer, train_some
from tests.made.patch import patch_kind
from tests.made.plans import KINDS


class Recorder(nn.Module):
    def __init__(self, as_list: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.as_list = as_list
        self.seen: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        y = self.conv(x)
        self.seen.append(y.dtype)
        return [y, y] if self.as_list else y


IMAGE = torch.ones(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("precision", "surrounding", "expected"),
    [
        ("amp", None, torch.float32),
        ("amp", torch.bfloat16, torch.bfloat16),
        ("bf16", None, torch.bfloat16),
        ("bf16", torch.float16, torch.bfloat16),
        ("fp32", None, torch.float32),
        ("fp32", torch.bfloat16, torch.float32),
    ],
)
def test_dtype_inside(precision, surrounding: torch.dtype | None, expected: torch.dtype) -> None:
    network = carry_precision(Recorder(), precision)
    with torch.autocast("cpu", dtype=surrounding, enabled=surrounding is not None):
        output = network(IMAGE)
    assert network.seen == [expected]
    assert precision == "amp" or output.dtype == torch.float32


class Scaled(Recorder):
    def forward(self, x: torch.Tensor, by: float = 1.0) -> torch.Tensor:
        return by * self.conv(x)


def test_options_of_the_network_reach_it() -> None:
    network = carry_precision(Scaled(), "bf16")
    assert torch.equal(network(IMAGE, by=2.0), 2 * network(IMAGE))


def test_state_dict_class_and_lists_stay() -> None:
    network = carry_precision(Recorder(as_list=True), "bf16")
    assert isinstance(network, Recorder)
    assert type(network).__name__ == "Recorder"
    assert list(network.state_dict()) == ["conv.weight", "conv.bias"]
    assert [level.dtype for level in network(IMAGE)] == [torch.float32] * 2


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="'fp64' is not one of"):
        carry_precision(Recorder(), "fp64")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("suffix", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
@pytest.mark.parametrize("name", ["nnUNetTrainerPatchTransformer", "nnUNetTrainerUNetPlusPlus"])
def test_training_validation_and_prediction_by_name(
    name: str,
    suffix: str,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    load_leaf: Callable[[str], ModuleType],
) -> None:
    kind = patch_kind() if "Patch" in name else KINDS["3d"]
    trainer_class = getattr(load_leaf(name), f"{name}_1epochs_1its_NoDA_{suffix}")
    trainer: Any = make_trainer(trainer_class, kind, tmp_path / "root", monkeypatch)
    trainer.num_val_iterations_per_epoch = 1
    trainer.initialize()
    seen: list[tuple[bool, torch.dtype]] = []

    def watch(network: nn.Module) -> None:
        for module in network.modules():
            if isinstance(module, (nn.Linear, nn.Conv3d)):
                module.register_forward_hook(lambda own, _, y: seen.append((own.training, y.dtype)))

    watch(trainer.network)
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    after = train_some(trainer)
    assert any(not torch.equal(value, before[key]) for key, value in after.items())
    assert all(torch.isfinite(value).all() and value.dtype == before[key].dtype for key, value in after.items())
    # a step of training, and one of validation
    assert set(seen) == {(True, dtype), (False, dtype)}
    assert all(len(trainer.logger.get_value(key, step=None)) == 1 for key in ("train_losses", "val_losses"))

    seen.clear()
    network = trainer_class.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 3, enable_deep_supervision=False
    )
    network.load_state_dict(after)
    watch(network)
    predictor = GridPredictor(device=CPU, allow_tqdm=False)
    managers = trainer.plans_manager, trainer.configuration_manager
    predictor.manual_initialization(network, *managers, [after], trainer.dataset_json, name, (0,))
    # nnU-Net enters autocast around predictions on CUDA
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = predictor.predict_logits_from_preprocessed_data(torch.randn(1, 18, 17, 20))
    assert logits.shape == (3, 18, 17, 20) and torch.isfinite(logits).all()
    assert set(seen) == {(False, dtype)}
