"""What only CUDA can show: mixed precision, compiled training, one rank of DDP, the predictor on the device."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import distributed

from nnunet_attn.architectures.registry import NETWORKS
from nnunet_attn.training.weights import read_network_weights
from tests.made.data import made_case, make_trainer, train_some
from tests.made.plans import KINDS

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
TRAINERS = [network.trainers[0] for network in NETWORKS]
KIND = KINDS["3d"]


@pytest.fixture
def make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_leaf: Callable[[str], ModuleType]
) -> Callable[[str], Any]:
    monkeypatch.setenv("nnUNet_compile", "f")

    def make(name: str) -> Any:
        trainer_class = getattr(load_leaf(name.split("_")[0]), name)
        return make_trainer(trainer_class, KIND, tmp_path / "root", monkeypatch, CUDA)

    return make


def finest_head(network: Any) -> Any:
    return [module for name, module in network.named_modules() if ".seg_layers." in name][-1]


@pytest.mark.parametrize(
    ("suffix", "dtype"), [("", torch.float16), ("_bf16", torch.bfloat16), ("_fp32", torch.float32)]
)
@pytest.mark.parametrize("trainer_name", TRAINERS)
def test_precision_in_training_and_in_the_predictor(
    make: Callable[[str], Any], trainer_name: str, suffix: str, dtype: torch.dtype
) -> None:
    trainer = make(f"{trainer_name}_1epochs_3its{suffix}")
    assert (trainer.grad_scaler is not None) is (suffix == "")
    seen: list[torch.dtype] = []
    trainer.initialize()
    finest_head(trainer.network).register_forward_hook(lambda _, __, logits: seen.append(logits.dtype))
    train_some(trainer)
    trainer.on_train_end()
    assert set(seen) == {dtype}

    predictor = nnUNetPredictor(device=CUDA, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    seen.clear()
    finest_head(predictor.network).register_forward_hook(lambda _, __, logits: seen.append(logits.dtype))
    image = torch.from_numpy(made_case(KIND, np.random.default_rng(1))[0])
    assert torch.isfinite(predictor.predict_logits_from_preprocessed_data(image)).all()
    assert set(seen) == {dtype}


@pytest.mark.parametrize("trainer_name", TRAINERS)
def test_a_checkpoint_from_cuda_is_read_on_the_cpu(make: Callable[[str], Any], trainer_name: str) -> None:
    trainer = make(f"{trainer_name}_1epochs_1its")
    train_some(trainer)
    trainer.on_train_end()
    weights = read_network_weights(Path(trainer.output_folder) / "checkpoint_final.pth")
    assert {value.device.type for value in weights.values()} == {"cpu"}


@pytest.mark.parametrize("trainer_name", TRAINERS)
def test_compiled_training(make: Callable[[str], Any], trainer_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(f"{trainer_name}_1epochs_2its")
    monkeypatch.setenv("nnUNet_compile", "t")
    train_some(trainer)
    trainer.on_train_end()
    assert type(trainer.network).__name__ == "OptimizedModule"


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("trainer_name", TRAINERS)
@pytest.mark.usefixtures("one_rank")
def test_distributed_training_with_the_trainers_own_wrapping(make: Callable[[str], Any], trainer_name: str) -> None:
    trainer = make(f"{trainer_name}_1epochs_2its")
    train_some(trainer)
    trainer.on_train_end()
    assert type(trainer.network).__name__ == "DistributedDataParallel"
