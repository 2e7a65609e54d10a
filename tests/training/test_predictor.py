"""Positions in nnU-Net's predictor: for networks that read them, and nothing else for all others."""

import importlib
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from nnunet_attn.training import predictor
from nnunet_attn.training.predictor import install, plain_network, with_positions
from tests.made.plans import LABELS, Kind, configuration
from tests.made.position import LOG_VARIABLE, OFFSET, PositionProbe

PATCH = [8, 16, 16]
KIND = Kind("3d_fullres", configuration(PATCH, [[1, 1, 1], [2, 2, 2]]), LABELS)


class Recorder(PositionProbe):
    """A probe that keeps the shapes of what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        self.shapes = [*getattr(self, "shapes", []), tuple(x.shape)]
        return super().forward(x)


def predictor_of(network: nn.Module, kind: type[nnUNetPredictor] = nnUNetPredictor, mirror: bool = True) -> Any:
    """Return a predictor on the CPU that mirrors along all axes."""
    made = kind(use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
    manager = PlansManager(KIND.plans)
    made.manual_initialization(
        network, manager, manager.get_configuration("3d_fullres"), None, KIND.dataset_json, "any", (0, 1, 2)
    )
    return made


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[str, int, float]]]:
    """Have the probe write its log; returns what reads it, and empties it."""
    file = tmp_path / "log.txt"
    monkeypatch.setenv(LOG_VARIABLE, str(file))

    def read() -> list[tuple[str, int, float]]:
        lines = [line.split() for line in file.read_text().splitlines()]
        file.unlink()
        return [(mode, int(channels), float(worst)) for mode, channels, worst in lines]

    return read


def coded(*shape: int) -> Tensor:
    """Return an image whose channels hold the coordinates of its voxels."""
    grid = torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    return torch.stack(grid) + OFFSET


@pytest.mark.parametrize("extent", [(8, 40, 40), (20, 40, 20), (20, 40, 40)])
@pytest.mark.parametrize("shape", [(12, 37, 40), (8, 16, 16), (5, 33, 13), (2, 3, 40), (7, 9, 16)])
def test_every_tile_has_its_position(extent: tuple[int, ...], shape: tuple[int, ...], log: Callable[[], Any]) -> None:
    network = PositionProbe(3, 3, patch_size=(8, 16, 16), extent=extent)
    image = coded(*shape)
    logits = predictor_of(network).predict_sliding_window_return_logits(image)
    assert logits.shape == (3, *shape)
    calls = log()
    assert len(calls) % 8 == 0
    assert {(mode, channels) for mode, channels, _ in calls} == {("eval", len(network.position_axes))}
    assert max(worst for *_, worst in calls) < 1e-3


def test_a_volume_that_has_its_coordinates_is_left_alone(log: Callable[[], Any]) -> None:
    network = Recorder(3, 3, extent=(8, 40, 40))
    image = with_positions(network, coded(9, 33, 40))
    assert image.shape == (5, 9, 33, 40) and with_positions(network, image) is image
    predictor_of(network).predict_sliding_window_return_logits(image)
    assert {shape[1] for shape in network.shapes} == {5}
    assert max(worst for *_, worst in log()) < 1e-3


@pytest.mark.parametrize("extent", [(8, 16, 16), None])
def test_networks_without_positions_predict_bit_by_bit_as_before(extent: tuple[int, ...] | None) -> None:
    network: nn.Module = nn.Conv3d(3, 3, 3, padding=1) if extent is None else Recorder(3, 3, extent=extent)
    image = torch.randn(3, 9, 20, 30)
    made = predictor_of(network)
    ours = made.predict_sliding_window_return_logits(image)
    original: Any = inspect.unwrap(nnUNetPredictor.predict_sliding_window_return_logits)
    with torch.inference_mode():
        stock = original(made, image)
    assert torch.equal(ours, stock)
    assert with_positions(network, image) is image
    if isinstance(network, Recorder):
        assert {shape[1] for shape in network.shapes} == {3}


def test_installing_again_changes_nothing() -> None:
    before: Any = nnUNetPredictor.predict_sliding_window_return_logits
    install()
    importlib.reload(predictor)
    predictor.install()
    assert nnUNetPredictor.predict_sliding_window_return_logits is before
    assert list(inspect.signature(before).parameters) == ["self", "input_image"]
    assert before.__name__ == "predict_sliding_window_return_logits"
    # ours, then torch's inference mode, then nnU-Net's own
    assert before.__wrapped__.__wrapped__.__code__.co_filename.endswith("predict_from_raw_data.py")


class _OtherTiles(nnUNetPredictor):
    def _internal_get_sliding_window_slicers(self, image_size: tuple[int, ...]) -> Any:
        return super()._internal_get_sliding_window_slicers(image_size)[::-1]


class _Wrapping(nnUNetPredictor):
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Any:
        return 2 * super().predict_sliding_window_return_logits(input_image=input_image)


@pytest.mark.parametrize("kind", [_OtherTiles, _Wrapping])
def test_subclasses_of_the_predictor(kind: type[nnUNetPredictor], log: Callable[[], Any]) -> None:
    network = PositionProbe(3, 3, extent=(8, 40, 40))
    predictor_of(network, kind).predict_sliding_window_return_logits(coded(8, 40, 33))
    calls = log()
    assert {channels for _, channels, _ in calls} == {2} and max(worst for *_, worst in calls) < 1e-3


@pytest.fixture
def _one_process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_wrapped_networks(log: Callable[[], Any]) -> None:
    network = PositionProbe(3, 3, extent=(8, 40, 40))
    compiled: Any = torch.compile(network, backend="eager")
    for wrapped in (
        DataParallel(network),
        compiled,
        DistributedDataParallel(network),
        DistributedDataParallel(compiled),
    ):
        assert plain_network(wrapped) is network
        predictor_of(wrapped, mirror=False).predict_sliding_window_return_logits(coded(8, 16, 33))
        calls = log()
        assert {channels for _, channels, _ in calls} == {2} and max(worst for *_, worst in calls) < 1e-3
    doubly: Any = torch.compile(DistributedDataParallel(network), backend="eager")
    assert plain_network(doubly) is network
    assert plain_network(nn.Conv3d(1, 1, 1)) and plain_network(None) is None


def test_what_the_channels_cost() -> None:
    network = PositionProbe(1, 2, patch_size=(64, 128, 128), extent=(64, 660, 660))
    image = torch.empty(1, 218, 660, 660, device="meta")
    placed = with_positions(network, image)
    assert placed.shape == (3, 218, 660, 660)
    # 2 * 4 bytes * 94,960,800 voxels
    assert placed.nbytes - image.nbytes == 759_686_400 < 0.75 * 2**30


def test_positions_are_exact_in_half_precision_images_too() -> None:
    network = PositionProbe(1, 2, extent=(8, 40, 40))
    placed = with_positions(network, torch.zeros(1, 2, 3001, 2, dtype=torch.float16))
    assert placed.dtype == torch.float32
    assert torch.equal(placed[1, 0, :, 0], torch.arange(3001) - 1500.0)
    assert torch.equal(placed[2, 1, 7], torch.tensor([-0.5, 0.5]))
    for other in (torch.zeros(4, 2, 3, 4), torch.zeros(1, 2, 3), [1, 2]):
        assert with_positions(network, other) is other


def test_nothing_else_of_nnunet_is_changed() -> None:
    folder = Path(predictor.__file__).parents[1]
    changing = [
        os.path.relpath(file, folder)
        for file in folder.rglob("*.py")
        if "setattr(nnUNet" in file.read_text(encoding="utf-8")
    ]
    assert changing == [os.path.join("training", "predictor.py")]
