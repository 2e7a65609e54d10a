"""Prediction on a grid: what it must equal, and that other networks are predicted as nnU-Net does."""

import itertools
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_attn.architectures.patch_transformer import PatchTransformer
from nnunet_attn.errors import InputError
from nnunet_attn.inference.grid_predictor import GridPredictor
from tests.made.patch import small_network
from tests.made.plans import KINDS

CPU = torch.device("cpu")


def predictor_of(network: nn.Module, kind: type[nnUNetPredictor] = GridPredictor, **options: Any) -> Any:
    made = kind(device=CPU, allow_tqdm=False, **options)
    dims = len(getattr(network, "patch_embed_size", (0, 0, 0)))
    made_kind = KINDS[f"{dims}d"]
    manager = PlansManager(made_kind.plans)
    made.manual_initialization(
        network, manager, made_kind.manager, None, made_kind.dataset_json, "any", tuple(range(dims))
    )
    return made


def image_of(*shape: int, channels: int = 1) -> Tensor:
    return torch.randn(channels, *shape, generator=torch.Generator().manual_seed(1))


def sharp(dims: int = 3, **options: Any) -> PatchTransformer:
    """Return a network whose logits differ by much, so that agreement means something."""
    torch.manual_seed(0)
    network: Any = small_network(dims, **options)
    with torch.no_grad():
        network.head.seg_layers[0].weight.mul_(10)
    return network.eval()


def is_half_of(found: Tensor, expected: Tensor) -> bool:
    """Return whether logits are others rounded to half precision, which has 11 bits."""
    return found.dtype == torch.float16 and torch.allclose(found.float(), expected, rtol=2**-11, atol=1e-4)


@torch.no_grad()
def slowly(network: PatchTransformer, image: Tensor, begin: tuple[int, ...] = (0, 0, 0)) -> Tensor:
    """Return the logits of an image, each block by itself: (c *space) -> (classes *space)."""
    size, halo = network.patch_embed_size, network.halo
    space = image.shape[1:]
    sides: list[int] = []
    grid = []
    for voxels, ahead, own, context in reversed(list(zip(space, begin, size, halo, strict=True))):
        count = -(-(voxels + ahead) // own)
        grid.insert(0, count)
        sides += [ahead + context, count * own - voxels - ahead + context]
    padded = F.pad(image, sides)
    logits = torch.zeros(network.num_classes, *(count * own for count, own in zip(grid, size, strict=True)))
    for cell in itertools.product(*map(range, grid)):
        low = [index * own for index, own in zip(cell, size, strict=True)]
        block = tuple(
            slice(at, at + own * count) for at, own, count in zip(low, size, network.neighbourhood, strict=True)
        )
        target = tuple(slice(at, at + own) for at, own in zip(low, size, strict=True))
        logits[(slice(None), *target)] = network(padded[(slice(None), *block)][None], valid=True)[0]
    crop = tuple(slice(ahead, ahead + voxels) for ahead, voxels in zip(begin, space, strict=True))
    return logits[(slice(None), *crop)]


def test_one_pass_is_the_networks_own_and_that_of_single_blocks() -> None:
    network, image = sharp(), image_of(17, 12, 22)
    found = predictor_of(network, use_mirroring=False).predict_sliding_window_return_logits(image)
    assert (found.shape, found.dtype, found.device) == ((3, 17, 12, 22), torch.float16, CPU)
    assert torch.equal(found, network.grid_forward(image).half())
    assert is_half_of(found, slowly(network, image))


@pytest.mark.parametrize("options", [{}, {"patch_embed_size": (2, 4, 5), "neighbourhood": (3, 1, 5)}])
def test_phases_are_the_mean_of_shifted_grids(options: dict[str, Any]) -> None:
    network, image = sharp(**options), image_of(9, 12, 10)
    found = predictor_of(network, use_mirroring=False, phases=8).predict_sliding_window_return_logits(image)
    shifts = itertools.product(*((0, size // 2) for size in network.patch_embed_size))
    each = [slowly(network, image, shift) for shift in shifts]
    assert len(each) == 8 and not torch.allclose(each[0], each[7], atol=0.1)
    assert is_half_of(found, torch.stack(each).mean(0))


def test_mirrored_predictions_are_averaged() -> None:
    network, image = sharp(), image_of(9, 12, 10)
    found = predictor_of(network).predict_sliding_window_return_logits(image)
    each = []
    for axes in ((), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)):
        each.append(slowly(network, image.flip(axes)).flip(axes))
    assert is_half_of(found, torch.stack(each).mean(0))


@pytest.mark.parametrize("phases", [1, 4])
def test_2d_networks_predict_every_slice(phases: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # two slices of 3 x 4 cells at a time
    monkeypatch.setattr("nnunet_attn.inference.grid_predictor._CELLS_AT_A_TIME", 30)
    network, volume = sharp(2, input_channels=2), image_of(5, 11, 14, channels=2)
    found = predictor_of(network, use_mirroring=False, phases=phases).predict_sliding_window_return_logits(volume)
    assert found.shape == (3, 5, 11, 14)
    shifts = itertools.product((0, 2), (0, 2)) if phases == 4 else [(0, 0)]
    each = torch.stack([torch.stack([slowly(network, volume[:, z], s) for z in range(5)], 1) for s in shifts])
    assert is_half_of(found, each.mean(0))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 2), (3, 30, 2)])
def test_images_smaller_than_a_patch(shape: tuple[int, ...]) -> None:
    network, image = sharp(), image_of(*shape)
    found = predictor_of(network, phases=8).predict_sliding_window_return_logits(image)
    assert found.shape == (3, *shape) and torch.isfinite(found).all()


@torch.no_grad()
def blurring() -> PatchTransformer:
    """Return a network whose logits are an image, with the mean of the block added: the same for every grid."""
    network: Any = small_network(embed_dim=64, depth=1, num_heads=1, head_dim=64, norm="none", position="none")
    for parameter in network.parameters():
        parameter.zero_()
    (stage,), unit = network.stages, torch.eye(64)
    network.embed.weight.copy_(unit)
    stage.qkv.weight[128:] = unit  # all scores are 0, and values are the patches
    stage.proj.weight.copy_(unit / 2)
    network.head.seg_layers[0].weight[64:] = torch.cat([unit, -unit])
    return network.eval()


def test_stock_tiles_agree_with_it() -> None:
    network, image = blurring(), F.avg_pool3d(image_of(34, 40, 27)[None], 5, 1, 2)[0] * 5
    grid = predictor_of(network).predict_sliding_window_return_logits(image).float()
    tiles = predictor_of(network, nnUNetPredictor).predict_sliding_window_return_logits(image).float()
    # tiles of 16 voxels begin at any voxel: other grids, and zeros for context at the tiles' borders
    assert torch.corrcoef(torch.stack([grid.flatten(), tiles.flatten()]))[0, 1] > 0.99
    assert (grid.argmax(0) == tiles.argmax(0)).float().mean() > 0.97
    assert not torch.allclose(grid, tiles, atol=1e-2)


@pytest.mark.parametrize("mirror", [True, False])
def test_other_networks_are_predicted_as_nnunet_does(mirror: bool) -> None:
    torch.manual_seed(0)
    network, image = nn.Conv3d(1, 3, 3, padding=1), image_of(20, 17, 24)
    ours, theirs = (
        predictor_of(network, kind, use_mirroring=mirror).predict_sliding_window_return_logits(image)
        for kind in (GridPredictor, nnUNetPredictor)
    )
    assert torch.equal(ours, theirs)


def test_impossible_phases_are_refused() -> None:
    with pytest.raises(InputError, match=r"--phases must be 1 or 8 for PatchTransformer in 3D, got 4"):
        predictor_of(small_network(), phases=4)
    with pytest.raises(InputError, match=r"--phases must be 1 or 4 for PatchTransformer in 2D, got 8"):
        predictor_of(small_network(2), phases=8)
    with pytest.raises(InputError, match=r"--phases is 8, but Conv3d is not predicted on a grid; leave it out"):
        predictor_of(nn.Conv3d(1, 3, 1), phases=8)


def test_what_cannot_be_predicted_is_refused() -> None:
    made = predictor_of(small_network())
    with pytest.raises(ValueError, match=r"a tensor of 4 axes \(c, x, y, z\), got .*\[16, 16, 16\]"):
        made.predict_sliding_window_return_logits(torch.zeros(16, 16, 16))
    made.allowed_mirroring_axes = (0, 3)
    with pytest.raises(ValueError, match=r"mirroring axes \(0, 3\) do not fit an image of 3 axes"):
        made.predict_sliding_window_return_logits(torch.zeros(1, 16, 16, 16))


@pytest.mark.parametrize("on_device", [True, False])
def test_logits_that_are_too_large_are_refused_once(
    on_device: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    large: Any = sharp()
    with torch.no_grad():
        large.head.seg_layers[0].bias.fill_(1e5)
    made, passes = predictor_of(large, use_mirroring=False), []
    whole: Any = GridPredictor._whole
    made.perform_everything_on_device = on_device
    monkeypatch.setattr(GridPredictor, "_whole", staticmethod(lambda *given: passes.append(1) or whole(*given)))
    with pytest.raises(RuntimeError, match="too large for half precision"):
        made.predict_sliding_window_return_logits(torch.zeros(1, 4, 4, 4))
    assert len(passes) == 1 and "memory" not in capsys.readouterr().out


def test_a_compiled_network_is_predicted_on_the_grid() -> None:
    network, image = sharp(), image_of(9, 9, 9)
    compiled: Any = torch.compile(network, backend="eager")
    ours, plain = (predictor_of(one).predict_sliding_window_return_logits(image) for one in (compiled, network))
    assert torch.equal(ours, plain)


@pytest.mark.parametrize(
    "lack", [torch.cuda.OutOfMemoryError("tried to allocate 1 GiB"), RuntimeError("MPS backend Out of memory")], ids=str
)
def test_without_memory_on_the_device_results_are_put_together_on_the_cpu(
    lack: RuntimeError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network, image = sharp(), image_of(9, 9, 9)
    expected = predictor_of(network).predict_sliding_window_return_logits(image)
    made = predictor_of(network)
    made.perform_everything_on_device = True
    whole, failures = GridPredictor._whole, iter([lack])

    def scarce(*arguments: Any) -> Tensor:
        for failure in failures:
            raise failure
        return whole(*arguments)

    monkeypatch.setattr(GridPredictor, "_whole", staticmethod(scarce))
    assert torch.equal(made.predict_sliding_window_return_logits(image), expected)
    assert "Prediction on device was unsuccessful" in capsys.readouterr().out


def test_other_errors_on_the_device_are_not_taken_for_a_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, calls = predictor_of(sharp()), []
    made.perform_everything_on_device = True

    def broken(*_: Any) -> Tensor:
        calls.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(GridPredictor, "_whole", staticmethod(broken))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        made.predict_sliding_window_return_logits(image_of(9, 9, 9))
    assert len(calls) == 1 and "unsuccessful" not in capsys.readouterr().out
