"""Where a crop lies: volumes with coordinates, what augmentation leaves of a position, the extent of the volumes."""

import json
import pickle
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_attn.training import PositionTrainer
from nnunet_attn.training.extent import (
    FINGERPRINT_FILE,
    estimated_extent,
    extent_of,
    measured_extent,
    plans_with_extent,
    recorded_extent,
)
from nnunet_attn.training.network import planned_unet
from nnunet_attn.training.position import PlacedTransforms, PlacedVolume, centre_of_crop, placed_dataset
from tests.made.data import CASES, CPU, make_trainer, train_some, write_preprocessed
from tests.made.plans import KINDS, LABELS, Kind, configuration
from tests.made.position import (
    LOG_VARIABLE,
    OFFSET,
    PositionProbe,
    decoded_centre,
    nnUNetTrainerPositionProbe,
    read_position,
    registered,
)

PATCH = [8, 16, 16]
KIND = Kind("3d_fullres", configuration(PATCH, [[1, 1, 1], [2, 2, 2]]), LABELS)
# cases of the made data set are two voxels larger than the patch; the fingerprint may say otherwise
SIZES = {"shapes_after_crop": [[10, 18, 18], [9, 33, 40]], "spacings": [[1.0, 1.0, 1.0]] * 2}


@pytest.fixture(autouse=True)
def _row() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make a trainer of the probe on a made data set with a fingerprint."""

    def make(kind: Kind = KIND, fingerprint: Any = SIZES, trainer: Any = nnUNetTrainerPositionProbe) -> Any:
        root = tmp_path / "root"
        if not (root / "preprocessed").exists():
            write_preprocessed(root, kind)
        file = root / "preprocessed" / kind.plans["dataset_name"] / FINGERPRINT_FILE
        file.write_text(json.dumps(fingerprint))
        return make_trainer(trainer, kind, root, monkeypatch)

    return make


def eager(image: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return an image with its channels of coordinates, all at once."""
    grid = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in image.shape[1:]], indexing="ij")
    return np.concatenate([image, *(grid[axis][None] for axis in axes)]).astype(np.float32)


@pytest.mark.parametrize("kind", ["numpy", "blosc2", "memory-mapped", "half"])
@pytest.mark.parametrize("axes", [(1, 2), (0,), (0, 1, 2)])
def test_a_lazy_volume_equals_an_eager_one(kind: str, axes: tuple[int, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image: Any = rng.normal(size=(2, 7, 10, 13)).astype(np.float16 if kind == "half" else np.float32)
    expected = eager(image, axes)
    if kind == "blosc2":
        image = blosc2.asarray(image)
    elif kind == "memory-mapped":
        np.save(tmp_path / "image.npy", image)
        image = np.load(tmp_path / "image.npy", mmap_mode="r")
    lazy = PlacedVolume(image, axes)
    assert (lazy.shape, lazy.ndim, len(lazy), lazy.dtype) == (expected.shape, 4, len(expected), np.float32)
    assert np.array_equal(lazy[:], expected)
    assert lazy[:].dtype == np.float32
    assert np.array_equal(np.asarray(lazy), expected)
    for _ in range(40):
        key = tuple(slice(*sorted(rng.integers(0, n + 1, 2).tolist())) for n in expected.shape)
        key = key[: int(rng.integers(1, 5))]
        assert np.array_equal(lazy[key], expected[key])
    for _ in range(40):
        # as crops of nnU-Net, which overlap the volume
        low = [int(rng.integers(-4, n)) for n in expected.shape[1:]]
        box = [[at, max(at + int(rng.integers(1, 20)), 1)] for at in low]
        assert np.array_equal(crop_and_pad_nd(lazy, box, 0), crop_and_pad_nd(expected, box, 0))


def test_a_lazy_volume_takes_slices_only() -> None:
    volume = PlacedVolume(np.zeros((1, 4, 4, 4), np.float32), (1, 2))
    for key in (0, (slice(None), 1), [1, 2], (slice(None),) * 5):
        with pytest.raises(TypeError, match="at most 4 slices"):
            volume[key]  # pyright: ignore[reportArgumentType]
    volume[:][0] = 1
    assert not volume[:][0].any(), "what is read is a copy"


@pytest.mark.parametrize("stock", [nnUNetDatasetBlosc2, nnUNetDatasetNumpy])
def test_a_data_set_with_positions_can_be_pickled(stock: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 6, 8, 10)).astype(np.float32)
    shape: Any = {"chunks": image.shape, "blocks": image.shape} if stock is nnUNetDatasetBlosc2 else {}
    stock.save_case(image, np.zeros_like(image, np.int8), {"class_locations": {}}, str(tmp_path / "a"), **shape)
    made = placed_dataset(stock, (1, 2))
    assert made is placed_dataset(stock, (1, 2)) and made is not placed_dataset(stock, (2,))
    assert made.get_identifiers(str(tmp_path)) == ["a"]
    dataset = made(str(tmp_path), ["a"])
    for case in (dataset, pickle.loads(pickle.dumps(dataset))):
        assert isinstance(case, stock)
        data, segmentation, previous, properties = case["a"]  # pyright: ignore[reportGeneralTypeIssues]
        assert np.array_equal(data[:], eager(image, (1, 2)))
        assert segmentation.shape == image.shape and previous is None and properties == {"class_locations": {}}


def test_the_position_of_a_crop_that_reaches_out_of_its_volume() -> None:
    volume = PlacedVolume(np.zeros((1, 1, 5, 30), np.float32), (1, 2))
    for low in (-4, -3):  # one voxel in a crop of eight, behind or before the middle
        crop = crop_and_pad_nd(volume, [[low, low + 8], [-5, 11], [10, 26]], 0)
        # along axis 1: -5 + 7.5 - 2; along axis 2: 10 + 7.5 - 14.5
        assert centre_of_crop(torch.from_numpy(crop)[1:], (1, 2)).tolist() == [0.5, 3.0]
    with pytest.raises(ValueError, match="1 channels of coordinates for 2 axes"):
        centre_of_crop(torch.zeros(1, 4, 4, 4), (1, 2))


def coordinates(shape: tuple[int, ...]) -> np.ndarray:
    """Return an image whose three channels hold the coordinates of its voxels."""
    return eager(np.zeros((0, *shape), np.float32), (0, 1, 2)) + np.float32(OFFSET)


@pytest.mark.parametrize("patch", [PATCH, [16, 20, 15], [4, 16, 24]])
def test_augmentation_keeps_the_centre(patch: list[int], make: Callable[..., Any]) -> None:
    entry = {**KIND.entry, "patch_size": patch}
    axes = (0, 1, 2)

    sizes = {"shapes_after_crop": [[40, 60, 60]], "spacings": [[1.0, 1.0, 1.0]]}
    trainer = make(replace(KIND, entry=entry), fingerprint=sizes)
    assert trainer._position_axes == axes
    trainer.initialize()
    rotation, dummy_2d, size, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert dummy_2d == (patch[0] == 4) and mirror_axes == (0, 1, 2)
    pipeline = trainer.get_training_transforms(patch, rotation, None, mirror_axes, dummy_2d)
    volume = PlacedVolume(coordinates((60, 70, 80)), axes)
    rng = np.random.default_rng(0)
    np.random.seed(0)
    torch.manual_seed(0)
    changed = 0
    for _ in range(40):
        low = [int(rng.integers(0, n - s + 1)) for n, s in zip((60, 70, 80), size, strict=True)]
        crop = torch.from_numpy(crop_and_pad_nd(volume, [[a, a + s] for a, s in zip(low, size, strict=True)], 0))
        truth = torch.tensor([a + (s - 1) / 2 - (n - 1) / 2 for a, s, n in zip(low, size, (60, 70, 80), strict=True)])
        done = pipeline(image=crop.clone(), segmentation=torch.zeros(1, *size, dtype=torch.int16))
        image = done["image"]
        assert image.shape == (6, *patch) and image.dtype == torch.float32
        assert torch.allclose(read_position(image[3:], axes), truth, atol=1e-6)
        assert torch.allclose(decoded_centre(image[:3]), truth, atol=1e-3)
        for flipped in ((2,), (1, 2, 3), (1, 3)):
            assert torch.equal(read_position(image.flip(flipped)[3:], axes), read_position(image[3:], axes))
        inner = tuple(slice((s - p) // 2, (s - p) // 2 + p) for s, p in zip(size, patch, strict=True))
        changed += not torch.equal(image[:3], crop[(slice(3), *inner)])
    assert changed > 10, "the augmentation was at work"


def test_the_image_is_augmented_as_without_positions(make: Callable[..., Any]) -> None:
    trainer = make(trainer=type("nnUNetTrainerStockDA", (PositionTrainer,), {"network_name": "PositionProbe"}))
    arguments = (PATCH, (-0.5, 0.5), [[1, 1, 1], [0.5, 0.5, 0.5]], (0, 1, 2), False)
    ours = trainer.get_training_transforms(*arguments)
    stock: Any = nnUNetTrainer.get_training_transforms(*arguments)  # pyright: ignore[reportArgumentType]
    assert isinstance(ours, PlacedTransforms) and isinstance(ours.pipeline, ComposeTransforms)
    crop = torch.randn(3, 12, 20, 20)
    labels = torch.randint(0, 3, (1, 12, 20, 20), dtype=torch.int16)
    results = []
    for pipeline, image in ((ours, crop), (stock, crop[:1])):
        np.random.seed(1)
        torch.manual_seed(1)
        results.append([pipeline(image=image.clone(), segmentation=labels.clone()) for _ in range(10)])
    for given, expected in zip(*results, strict=True):
        assert torch.equal(given["image"][:1], expected["image"])
        assert all(torch.equal(a, b) for a, b in zip(given["segmentation"], expected["segmentation"], strict=True))


def test_batches_and_steps(make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    assert trainer._position_axes == (1, 2)
    monkeypatch.setenv(LOG_VARIABLE, str(tmp_path / "log.txt"))
    # images of one channel: the position is compared by hand below
    monkeypatch.setattr("tests.made.position.decoded_centre", lambda image: torch.zeros(3))
    train_some(trainer)
    lines = (tmp_path / "log.txt").read_text().split("\n")[:-1]
    assert {line.split()[0] for line in lines} == {"train", "eval"}
    # nnU-Net's own attempt to draw the network, where its package is installed, comes without position
    assert {line.split()[1] for line in lines if line.startswith("eval")} == {"2"}
    assert max(float(line.split()[2]) for line in lines if line.split()[1] == "2") <= 8.5
    batch = next(trainer.dataloader_train)["data"]
    assert batch.shape == (2, 3, *PATCH)
    assert torch.equal(batch[:, 1:], batch[:, 1:, :1, :1, :1].expand_as(batch[:, 1:]))
    # as for a worker process that is spawned
    loader = pickle.loads(pickle.dumps(trainer.dataloader_train.data_loader))
    assert next(loader)["data"].shape == (2, 3, *PATCH)
    folder = tmp_path / "root" / "results" / KIND.plans["dataset_name"]
    (plans,) = folder.glob("*/plans.json")
    assert json.loads(plans.read_text())["nnunet_attn"] == {"fine_extent": {"3d_fullres": [10, 33, 40]}}
    log = next(folder.glob("*/fold_0/training_log*")).read_text()
    assert "10 x 33 x 40, the largest of each axis in the fingerprint; axes along which" in log and ": 1, 2 \n" in log


def test_the_validation_reads_whole_volumes_with_ramps(make: Callable[..., Any]) -> None:
    trainer = make()
    trainer.initialize()
    _, dataset = trainer.get_tr_and_val_datasets()
    data = torch.from_numpy(dataset.load_case(CASES[3])[0][:])
    assert data.shape == (3, 10, 18, 18)
    assert torch.equal(data[1, 0, :, 0], torch.arange(18) - 8.5) and torch.equal(data[2, 3, 5], torch.arange(18) - 8.5)


def test_without_position_axes_all_is_as_in_other_trainers(make: Callable[..., Any], tmp_path: Path) -> None:
    trainer = make(fingerprint={**SIZES, "shapes_after_crop": [[10, 18, 18], [9, 31, 31]]})
    assert trainer._position_axes == ()
    trainer.initialize()
    assert trainer.dataset_class is nnUNetDatasetBlosc2
    assert isinstance(trainer.get_validation_transforms(None), ComposeTransforms)
    assert "get_training_transforms" not in vars(trainer)
    train, _ = trainer.get_dataloaders()
    assert next(train)["data"].shape == (2, 1, *PATCH)
    assert trainer.plans_manager.plans["nnunet_attn"]["fine_extent"] == {"3d_fullres": [10, 31, 31]}


def test_2d_and_cascades_are_refused_before_anything_is_written(make: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="works on 3D configurations, got the 2D patch"):
        make(KINDS["2d"])
    results = tmp_path / "root" / "results"
    assert not list(results.iterdir())
    with pytest.raises(ValueError, match="cannot be the second stage of a cascade"):
        nnUNetTrainerPositionProbe(KINDS["cascade"].plans, "3d_cascade_fullres", 0, KINDS["cascade"].dataset_json, CPU)
    assert not list(results.iterdir())


# --- the extent of the volumes


def anisotropic(**more: Any) -> dict[str, Any]:
    """Return plans whose volumes are transposed, with a target spacing of 3, 1, 0.5 after it."""
    entry = {**KIND.entry, "spacing": [3.0, 1.0, 0.5], "median_image_size_in_voxels": [10.0, 33.0, 40.5]}
    plans = replace(KIND, entry=entry).plans
    return {**plans, "transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0], **more}


def write_fingerprint(folder: Path, content: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_preprocessed", str(folder / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(folder / "results"))
    file = folder / "preprocessed" / KIND.plans["dataset_name"] / FINGERPRINT_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


# on axes 2, 0, 1: case 0 has 11 * 3.2 / 3 = 11.73, 30 * 1.1 / 1 = 33, 20 * 0.4 / 0.5 = 16 voxels;
# case 1 has 10 * 3 / 3 = 10, 31 * 1 / 1 = 31, 40 * 0.52 / 0.5 = 41.6
TRANSPOSED = {"shapes_after_crop": [[30, 20, 11], [31, 40, 10]], "spacings": [[1.1, 0.4, 3.2], [1.0, 0.52, 3.0]]}


def test_the_extent_is_the_largest_preprocessed_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_fingerprint(tmp_path, TRANSPOSED, monkeypatch)
    plans = anisotropic()
    manager = PlansManager(plans)
    assert measured_extent(file, manager, manager.get_configuration("3d_fullres")) == (12, 33, 42)
    before = deepcopy(plans)
    placed, line = plans_with_extent(plans, "3d_fullres", "nnUNetTrainerX")
    assert plans == before, "the plans given stay as they are"
    assert placed == {**before, "nnunet_attn": {"fine_extent": {"3d_fullres": [12, 33, 42]}}}
    assert line is not None and "12 x 33 x 42" in line
    again, line = plans_with_extent(placed, "3d_fullres", "nnUNetTrainerX")
    assert again == placed and line is not None and "as in the plans" in line
    flat = deepcopy(KINDS["2d"].plans)
    assert plans_with_extent(flat, "2d", "nnUNetTrainerX") == (flat, None)


@pytest.mark.parametrize("content", [None, {}, {"spacings": [[1, 1, 1]]}])
def test_without_sizes_the_extent_is_estimated(content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_fingerprint(tmp_path, content or {}, monkeypatch)
    if content is None:
        file.unlink()
    plans, line = plans_with_extent(anisotropic(), "3d_fullres", "nnUNetTrainerX")
    # 1.25 * (10, 33, 40.5) = 12.5, 41.25, 50.625
    assert recorded_extent(plans, "3d_fullres") == (13, 42, 51)
    assert line is not None and "estimated" in line
    monkeypatch.delenv("nnUNet_preprocessed")
    monkeypatch.delenv("nnUNet_results")
    assert plans_with_extent(anisotropic(), "3d_fullres", "nnUNetTrainerX")[0] == plans
    bare = anisotropic()
    del bare["configurations"]["3d_fullres"]["median_image_size_in_voxels"]
    with pytest.raises(ValueError, match="plan the data set again"):
        plans_with_extent(bare, "3d_fullres", "nnUNetTrainerX")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        {"shapes_after_crop": [], "spacings": []},
        {"shapes_after_crop": [[1, 2, 3]], "spacings": []},
        {"shapes_after_crop": [[1, 2]], "spacings": [[1, 1]]},
        {"shapes_after_crop": [["a", 2, 3]], "spacings": [[1, 1, 1]]},
        {"shapes_after_crop": [[3, 2, 3]], "spacings": [[0, 0, 0]]},
        {"shapes_after_crop": None, "spacings": None},
    ],
)
def test_a_damaged_fingerprint_is_an_error(content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_fingerprint(tmp_path, content, monkeypatch)
    with pytest.raises(ValueError, match="nnUNetv2_extract_fingerprint") as caught:
        plans_with_extent(anisotropic(), "3d_fullres", "nnUNetTrainerX")
    assert str(file) in str(caught.value)


def test_a_results_folder_keeps_its_extent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fingerprint(tmp_path, TRANSPOSED, monkeypatch)
    folder = tmp_path / "results" / KIND.plans["dataset_name"] / "nnUNetTrainerX__nnUNetPlansMade__3d_fullres"
    folder.mkdir(parents=True)
    earlier = anisotropic(nnunet_attn={"fine_extent": {"3d_fullres": [12, 35, 44]}})
    (folder / "plans.json").write_text(json.dumps(earlier))
    line = plans_with_extent(anisotropic(), "3d_fullres", "nnUNetTrainerX")[1]
    assert line is not None and "fingerprint" in line, "nothing has been trained for it yet"
    (folder / "fold_0").mkdir()
    (folder / "fold_0" / "checkpoint_latest.pth").touch()
    plans, line = plans_with_extent(anisotropic(), "3d_fullres", "nnUNetTrainerX")
    assert recorded_extent(plans, "3d_fullres") == (12, 35, 44) and line is not None and "earlier results" in line
    assert plans_with_extent(earlier, "3d_fullres", "nnUNetTrainerX")[0] == earlier
    assert recorded_extent(plans_with_extent(anisotropic(), "3d_fullres", "nnUNetTrainerY")[0], "3d_fullres") == (
        12,
        33,
        42,
    )
    other = anisotropic(nnunet_attn={"fine_extent": {"3d_fullres": [12, 33, 42]}})
    with pytest.raises(ValueError, match=r"\(12, 33, 42\), but the networks .* built for \(12, 35, 44\)"):
        plans_with_extent(other, "3d_fullres", "nnUNetTrainerX")
    (folder / "plans.json").write_text("{")
    assert recorded_extent(plans_with_extent(anisotropic(), "3d_fullres", "nnUNetTrainerX")[0], "3d_fullres")


@pytest.mark.parametrize("extent", [[1, 2, 0], [1, 2.5, 3], "12", {"a": 1}, [True, 2, 3]])
def test_a_wrong_entry_in_the_plans_is_an_error(extent: Any) -> None:
    with pytest.raises(ValueError, match="must be a list of voxels along each axis"):
        recorded_extent({"nnunet_attn": {"fine_extent": {"3d_fullres": extent}}}, "3d_fullres")


def test_the_network_gets_the_extent_of_its_configuration() -> None:
    plans = anisotropic(nnunet_attn={"fine_extent": {"3d_half": [5, 6, 7], "3d_fullres": [12, 33, 42], "gone": [1]}})
    plans["configurations"]["3d_half"] = {"inherits_from": "3d_fullres", "spacing": [6.0, 2.0, 1.0]}
    plans["configurations"]["3d_other"] = {"inherits_from": "3d_fullres", "batch_size": 1}
    manager = PlansManager(plans)
    full, half, other = (manager.get_configuration(name) for name in ("3d_fullres", "3d_half", "3d_other"))
    assert (extent_of(manager, full), extent_of(manager, half)) == ((12, 33, 42), (5, 6, 7))
    # a manager of equal plans
    again = PlansManager(json.loads(json.dumps(plans)))
    assert extent_of(manager, again.get_configuration("3d_half")) == (5, 6, 7)
    assert extent_of(manager, other) is None
    # changed in place, it is still the same configuration
    full.configuration["patch_size"] = [4, 4, 4]
    assert extent_of(manager, full) == (12, 33, 42)
    assert planned_unet(half, extent_of(manager, half)).volume_extent == (5, 6, 7)
    assert planned_unet(other, extent_of(manager, other)).volume_extent == estimated_extent(other) == (13, 42, 51)
    network: Any = nnUNetTrainerPositionProbe.build_network_architecture(manager, half, 3, 2)
    assert isinstance(network, PositionProbe) and network.extent == (5, 6, 7)
    del full.configuration["median_image_size_in_voxels"]
    assert planned_unet(full).volume_extent is None
    assert extent_of(PlansManager(KIND.plans), KIND.manager) is None
