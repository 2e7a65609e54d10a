"""Attention maps of every network, and of one that the stock commands have trained."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from matplotlib.image import imread

from nnunet_attn.architectures.registry import NETWORKS, Network
from nnunet_attn.cli import main
from nnunet_attn.inference.attention_montage import MOST_STAGES
from tests.integration.conftest import DATASET, PLANS, TRAINER, Workspace
from tests.made.attention import MadeModel, write_image, write_model
from tests.made.plans import KINDS

pytestmark = pytest.mark.slow

ATTENTIVE = [row for row in NETWORKS if row.name not in ("PlainUNet", "UNetPlusPlus")]
CASES = [(row, dim) for row in ATTENTIVE for dim in row.dims]
WITHOUT = [row for row in NETWORKS if row not in ATTENTIVE]
# turned about two axes, and away from the axes of the room
DIRECTION = (0.0, -0.6, -0.8, 1.0, 0.0, 0.0, 0.0, -0.8, 0.6)


def read(file: Path) -> Any:
    """Return a NIfTI file; SimpleITK would read NaN as 0."""
    return nibabel.load(file)  # pyright: ignore[reportPrivateImportUsage]


def check(output: Path, image: Path, voxel: bool = False) -> dict[str, Any]:
    """Open every file of the one case in a folder, and return what its JSON says."""
    case = image.name.removesuffix("_0000.nii.gz")
    table = json.loads((output / f"{case}_attn.json").read_text())
    assert len(table["stages"]) > 0
    own, sitk_own = read(image), sitk.ReadImage(str(image))
    files = {f"{case}_attn.json", f"{case}_attn.png"}
    for row in table["stages"]:
        mean_file, heads_file = (output / name for name in row["files"])
        files |= set(row["files"])
        written = sitk.ReadImage(str(mean_file))
        assert written.GetSize() == sitk_own.GetSize() and written.GetPixelID() == sitk.sitkFloat32
        for get in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(written, get)(), getattr(sitk_own, get)(), atol=1e-4)
        mean, heads = (np.asarray(read(file).dataobj) for file in (mean_file, heads_file))
        assert heads.shape == (*own.shape, row["heads"]) and mean.shape == own.shape
        assert np.isfinite(mean).any() if voxel else np.isfinite(mean).all()
        assert np.nanmin(heads) >= 0 and np.nanmax(heads) > 0
        np.testing.assert_allclose(heads.mean(-1), mean, rtol=1e-4, atol=1e-6)
        assert row["lowest"] >= 0 and set(row["labels"]) == set(table_labels(table))
    assert {path.name for path in output.iterdir()} == files
    assert imread(output / f"{case}_attn.png").shape[0] > 100
    return table


def table_labels(table: dict[str, Any]) -> list[str]:
    return list(table["stages"][0]["labels"])


def made_model(row: Network, dim: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> MadeModel:
    """Write a small model whose images are transposed, cropped and resampled; FINE's read where their tile lies."""
    kind = KINDS["2d"] if dim == 2 else KINDS["3d"]
    more: dict[str, Any] = {"extent": (16, 56, 16)} if dim == 3 else {"spacing": [1.0, 1.0]}
    trainer = f"{row.trainers[0]}_NoMirroring"
    model = write_model(root, trainer, kind, monkeypatch, transpose=(1, 0, 2) if dim == 3 else (0, 1, 2), **more)
    if row.name == "FINE":  # a training would have been in every sub-volume; what it has not seen gets no attention
        checkpoint = torch.load(model.checkpoint, weights_only=False)
        checkpoint["network_weights"]["seen"].fill_(True)
        torch.save(checkpoint, model.checkpoint)
    return model


def volume(folder: Path) -> Path:
    """Write a volume (z y x) = (28, 12, 20) with margins of zeros; 0.9, 1.5 and 1.1 mm along x, y and z."""
    array = np.zeros((28, 12, 20), dtype=np.float32)
    array[2:26, 1:12, 1:18] = np.random.default_rng(0).uniform(1, 2, (24, 11, 17))
    return write_image(folder, "case", array, (0.9, 1.5, 1.1), (10, -20, 30), DIRECTION)


@pytest.mark.parametrize(("row", "dim"), CASES, ids=lambda each: getattr(each, "name", each))
def test_maps_of_every_network(row: Network, dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made_model(row, dim, tmp_path / "made", monkeypatch)
    image = volume(tmp_path / "images")
    words = ["attention-maps", *model.words, "-i", str(image), "--heads", "all", "-o"]
    assert main([*words, str(tmp_path / "all")]) == 0
    table = check(tmp_path / "all", image)
    assert table["network"] == row.name and table["maps"] == "received"
    stages = [each["stage"] for each in table["stages"]]
    seen = sitk.GetArrayFromImage(sitk.ReadImage(str(image))).transpose() > 0
    for stage in stages:
        mean = np.asarray(read(tmp_path / "all" / f"case_attn_{stage}.nii.gz").dataobj)
        assert not mean[~seen].any() and mean[seen].any()

    # the middle of the body, in the file's own axes
    assert main([*words, str(tmp_path / "voxel"), "--voxel", "9,6,14", "--stages", stages[-1], stages[0]]) == 0
    table = check(tmp_path / "voxel", image, voxel=True)
    assert [each["stage"] for each in table["stages"]] == [stages[0], stages[-1]] if len(stages) > 1 else stages
    assert table["voxel"] == [9, 6, 14]
    for stage in {stages[0], stages[-1]}:
        mean = np.asarray(read(tmp_path / "voxel" / f"case_attn_{stage}.nii.gz").dataobj)
        assert np.isnan(mean[~seen]).all() and np.isfinite(mean[9, 6, 14])


@pytest.mark.parametrize("row", WITHOUT, ids=lambda row: row.name)
def test_networks_without_attention_have_none(
    row: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made_model(row, 3, tmp_path / "made", monkeypatch)
    words = ["attention-maps", *model.words, "-i", str(volume(tmp_path / "images")), "-o", str(tmp_path / "out")]
    assert main(words) == 2
    assert "has no attention" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_fine_shows_the_whole_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in NETWORKS if row.name == "FINE")
    model = made_model(row, 3, tmp_path / "made", monkeypatch)
    image = volume(tmp_path / "images")
    words = ["attention-maps", *model.words, "-i", str(image), "--voxel", "9,6,3", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    table = json.loads((tmp_path / "out" / "case_attn.json").read_text())
    volumes = [each["stage"] for each in table["stages"] if each["stage"].endswith("-volume")]
    seen = sitk.GetArrayFromImage(sitk.ReadImage(str(image))).transpose() > 0
    assert volumes and len(table["stages"]) > MOST_STAGES
    for stage in volumes:
        mean = np.asarray(read(tmp_path / "out" / f"case_attn_{stage}.nii.gz").dataobj)
        assert np.array_equal(np.isfinite(mean), seen)
        # sub-volumes lie along one axis of the file alone, the last
        assert np.ptp(mean[1:18, 1:12, 10]) < 1e-5 < np.ptp(mean[9, 6, 2:26])


@pytest.mark.parametrize(
    ("flags", "query", "include_self"), [(["--query", "centre"], "centre", True), (["--no-self"], "all", False)]
)
def test_queries_of_the_patch_transformer(
    flags: list[str], query: str, include_self: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = next(row for row in NETWORKS if row.name == "PatchTransformer")
    model = made_model(row, 3, tmp_path / "made", monkeypatch)
    image = volume(tmp_path / "images")
    words = ["attention-maps", *model.words, "-i", str(image), "--stages", "1", "-o"]
    assert main([*words, str(tmp_path / "plain")]) == 0
    assert main([*words, str(tmp_path / "other"), *flags]) == 0
    table = json.loads((tmp_path / "other" / "case_attn.json").read_text())
    assert (table["query"], table["include_self"]) == (query, include_self)
    plain, other = (np.asarray(read(tmp_path / name / "case_attn_s1.nii.gz").dataobj) for name in ("plain", "other"))
    assert np.isfinite(other).all() and not np.allclose(plain, other)


def test_maps_of_a_network_that_stock_commands_have_trained(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.train("3d_fullres", 0)
    for key, value in workspace.environment().items():
        monkeypatch.setenv(key, value)
    words = ["attention-maps", "-d", str(DATASET), "-tr", TRAINER, "-f", "0", "-p", PLANS, "-c", "3d_fullres"]
    words += ["-device", "cpu", "-i", str(workspace.images), "--heads", "all", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    images = sorted(workspace.images.glob("*_0000.nii.gz"))
    assert len(images) == 2
    for image in images:
        case = image.name.removesuffix("_0000.nii.gz")
        (tmp_path / case).mkdir()
        for path in (tmp_path / "out").glob(f"{case}_attn*"):
            path.rename(tmp_path / case / path.name)
        table = check(tmp_path / case, image)
        assert table["network"] == "GASAUNet" and table["trainer"] == TRAINER
    assert not list((tmp_path / "out").iterdir())
