"""`nnunet-attn attention-maps` on made models: files, geometry, numbers, and one clear error for wrong input."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from skimage.io import imread, imsave
from torch import Tensor

from nnunet_attn.architectures.attention import AttentionMap
from nnunet_attn.cli import main
from nnunet_attn.errors import InputError
from nnunet_attn.inference import attention_maps, attention_stitching
from nnunet_attn.inference.attention_maps import MapOptions, chosen_stages, parsed_stages, parsed_voxel
from nnunet_attn.inference.attention_model import ModelName, find_cases, load_model
from tests.made.attention import MadeModel, write_image, write_model
from tests.made.plans import KINDS

GASA = "nnUNetTrainerGASA_NoMirroring"
STAGES = [f"bottleneck-{name}" for name in ("axis0", "axis1", "axis2", "mean")]
MARGIN = (slice(2, 20), slice(1, 25), slice(3, 20))
SHAPE = (22, 26, 23)


def body() -> np.ndarray:
    """An image (z y x) of two blocks on noise in a margin of zeros."""
    image = np.zeros(SHAPE, dtype=np.float32)
    image[MARGIN] = np.random.default_rng(0).uniform(1, 2, image[MARGIN].shape)
    return image


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeModel]:
    """GASA-UNet on images whose axes nnU-Net turns, with the environment set."""
    with pytest.MonkeyPatch.context() as patch:
        made = write_model(tmp_path_factory.mktemp("made"), GASA, KINDS["3d"], patch, transpose=(2, 0, 1))
        write_image(made.root / "images", "case", body(), (1, 1, 1), (4, -5, 6))
        write_image(made.root / "images", "other", body()[:, :12], (2, 1.5, 0.9))
        yield made


def run(model: MadeModel, output: Path, *more: object, images: Path | None = None) -> int:
    chosen = model.root / "images" / "case_0000.nii.gz" if images is None else images
    return main(["attention-maps", *model.words, "-i", str(chosen), "-o", str(output), *map(str, more)])


def table(output: Path, case: str = "case") -> dict[str, Any]:
    return json.loads((output / f"{case}_attn.json").read_text())


def array(file: Path) -> np.ndarray:
    # SimpleITK would read NaN as 0
    return np.asarray(nibabel.load(file).dataobj).transpose()  # pyright: ignore[reportAttributeAccessIssue, reportPrivateImportUsage]


def says(monkeypatch: pytest.MonkeyPatch, maps: Callable[[Tensor], Tensor]) -> None:
    """Have the network attend as a function of its tile says, in its first stage."""

    def answer(_: object, tile: Tensor, __: Sequence[str]) -> list[AttentionMap]:
        return [AttentionMap(STAGES[0], maps(tile[0]))]

    monkeypatch.setattr(attention_stitching, "attention_maps", answer)


def test_maps_have_the_geometry_of_their_images(model: MadeModel, tmp_path: Path) -> None:
    assert run(model, tmp_path / "out", "--heads", "all", images=model.root / "images") == 0
    names = [f"_attn_{stage}{heads}.nii.gz" for stage in STAGES for heads in ("", "_heads")]
    wanted = [f"{case}{name}" for case in ("case", "other") for name in ("_attn.json", "_attn.png", *names)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(wanted)
    for case in ("case", "other"):
        image = sitk.ReadImage(str(model.root / "images" / f"{case}_0000.nii.gz"))
        seen = sitk.GetArrayFromImage(image) > 0
        rows = {row["stage"]: row for row in table(tmp_path / "out", case)["stages"]}
        assert list(rows) == STAGES
        for stage in STAGES:
            mean = sitk.ReadImage(str(tmp_path / "out" / f"{case}_attn_{stage}.nii.gz"))
            assert mean.GetPixelID() == sitk.sitkFloat32 and mean.GetSize() == image.GetSize()
            for get in ("GetSpacing", "GetOrigin", "GetDirection"):
                np.testing.assert_allclose(getattr(mean, get)(), getattr(image, get)(), atol=1e-6)
            values = sitk.GetArrayFromImage(mean)
            assert np.isfinite(values).all() and np.array_equal(values != 0, seen) and 0.3 < values[seen].mean() < 3
            heads = array(tmp_path / "out" / f"{case}_attn_{stage}_heads.nii.gz")
            assert heads.shape == (rows[stage]["heads"], *values.shape)
            np.testing.assert_allclose(heads.mean(0), values, rtol=1e-5)


@pytest.mark.parametrize(("case", "error"), [("case", 1e-5), ("other", 0.3)])
def test_attention_at_a_place_is_in_the_file_at_that_place(
    case: str, error: float, model: MadeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, lambda tile: torch.cat([tile, 2 * tile]))
    smooth = np.zeros(SHAPE, dtype=np.float32)
    z, y, x = np.meshgrid(*map(np.arange, smooth[MARGIN].shape), indexing="ij")
    smooth[MARGIN] = 1 + z + 0.5 * y + 0.1 * x
    stored = smooth if case == "case" else smooth[:, :12]
    spacing = (1, 1, 1) if case == "case" else (1.3, 0.9, 1.2)
    file = write_image(tmp_path / "images", case, stored, spacing, (1, 2, 3))
    assert run(model, tmp_path / "out", "--stages", STAGES[0], images=file) == 0
    found = array(tmp_path / "out" / f"{case}_attn_{STAGES[0]}.nii.gz")
    assert np.array_equal(found > 0, stored > 0)
    inner = tuple(slice(part.start + 2, part.stop - 2) for part in MARGIN)
    inner = inner if case == "case" else (inner[0], slice(3, 10), inner[2])
    np.testing.assert_allclose(found[inner], 1.5 * stored[inner], rtol=1e-5, atol=error)


def test_uniform_attention_is_one_everywhere(model: MadeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, lambda tile: torch.ones(3, 2, 2, 2))
    assert run(model, tmp_path, "--stages", STAGES[0]) == 0
    assert np.array_equal(array(tmp_path / f"case_attn_{STAGES[0]}.nii.gz"), (body() > 0).astype(np.float32))
    (row,) = table(tmp_path)["stages"]
    assert (row["lowest"], row["highest"], row["mean"], row["heads"]) == (1, 1, 1, 3)


def test_the_json_has_the_means_inside_and_outside_of_the_prediction(model: MadeModel, tmp_path: Path) -> None:
    assert run(model, tmp_path, "--heads", "all", "--stages", STAGES[1]) == 0
    loaded = load_model(ModelName(model.words[1], GASA, "0", "3d_fullres", "nnUNetPlansMade"), "cpu")
    cases = find_cases(model.root / "images" / "case_0000.nii.gz", ".nii.gz")
    labels = attention_maps._Case("case", cases["case"], None, loaded).segmentation()
    assert len(np.unique(labels)) > 1
    heads = array(tmp_path / f"case_attn_{STAGES[1]}_heads.nii.gz")
    written = table(tmp_path)
    (row,) = written["stages"]
    seen = body() > 0
    for name, number in (("left", 1), ("right", 2)):
        given = row["labels"][name]
        assert given["voxels"] == (labels == number).sum()
        for where, mask in (("inside", seen & (labels == number)), ("outside", seen & (labels != number))):
            if not mask.any():
                assert given[where] is None
                continue
            np.testing.assert_allclose(given[f"{where}_heads"], heads[:, mask].mean(1, dtype=float), rtol=1e-5)
            np.testing.assert_allclose(given[where], heads[:, mask].mean(dtype=float), rtol=1e-5)
    assert written["network"] == "GASAUNet" and written["configuration"] == "3d_fullres" and written["voxel"] is None
    assert written["size"] == list(SHAPE[::-1]) and written["tiles"]["step"] == 0.5
    assert row["files"] == [f"case_attn_{STAGES[1]}.nii.gz", f"case_attn_{STAGES[1]}_heads.nii.gz"]


def test_a_voxel_is_answered_by_its_tile(model: MadeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Tensor, tuple[int, ...]]] = []

    def look(_: object, tile: Tensor, voxel: tuple[int, ...], __: Sequence[str]) -> list[AttentionMap]:
        asked.append((tile[0, 0], voxel))
        return [AttentionMap(STAGES[0], tile[0])]

    monkeypatch.setattr(attention_stitching, "voxel_attention", look)
    assert run(model, tmp_path, "--voxel", "5,20,10", "--stages", STAGES[0]) == 0
    found, image = array(tmp_path / f"case_attn_{STAGES[0]}.nii.gz"), body()
    tile, voxel = asked[0]
    assert float(tile[voxel]) == image[10, 20, 5] == found[10, 20, 5]
    seen = np.isfinite(found)
    # tiles of 16: of 17 voxels along x the first, of 18 along z the first, of 24 along y the second of two
    assert [(int(where.min()), int(where.max())) for where in np.nonzero(seen)] == [(2, 17), (9, 24), (3, 18)]
    assert seen.sum() == 16**3 and np.array_equal(found[seen], image[seen])
    assert table(tmp_path)["voxel"] == [5, 20, 10] and table(tmp_path)["maps"] == "of a voxel"


def test_a_voxel_of_the_real_network(model: MadeModel, tmp_path: Path) -> None:
    assert run(model, tmp_path, "--voxel", "10,10,10", "--stages", f"{STAGES[3]},{STAGES[0]}") == 0
    assert [row["stage"] for row in table(tmp_path)["stages"]] == [STAGES[0], STAGES[3]]
    for stage in (STAGES[0], STAGES[3]):
        found = array(tmp_path / f"case_attn_{stage}.nii.gz")
        assert np.isfinite(found).sum() == 16**3 and found[np.isfinite(found)].min() >= 0


def test_a_voxel_whose_surroundings_are_lost_on_the_way_back_has_no_numbers(
    model: MadeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(_: object, tile: Tensor, *__: object) -> list[AttentionMap]:
        return [AttentionMap(STAGES[0], torch.full_like(tile[0], torch.nan))]

    monkeypatch.setattr(attention_stitching, "voxel_attention", look)
    assert run(model, tmp_path, "--voxel", "5,20,10", "--stages", STAGES[0]) == 0
    written = (tmp_path / "case_attn.json").read_text()
    assert "NaN" not in written
    (row,) = json.loads(written)["stages"]
    assert row["lowest"] is row["highest"] is row["mean"] is row["labels"]["left"]["inside"] is None
    assert np.isnan(array(tmp_path / f"case_attn_{STAGES[0]}.nii.gz")).all()


def test_a_case_is_whole_or_not_there(model: MadeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(RuntimeError):
        pass

    def fail(*_: object) -> None:
        raise Broken

    monkeypatch.setattr(attention_maps.Montage, "draw", fail)
    with pytest.raises(Broken):
        run(model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_pictures_of_three_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_model(
        tmp_path / "made", GASA, KINDS["2d"], monkeypatch, reader="NaturalImage2DIO", channels=3, file_ending=".png"
    )
    (tmp_path / "images").mkdir()
    picture = np.random.default_rng(0).integers(1, 255, (20, 30, 3), dtype=np.uint8)
    imsave(tmp_path / "images" / "photo_0000.png", picture, check_contrast=False)
    assert run(made, tmp_path / "out", "--heads", "all", images=tmp_path / "images") == 0
    rows = table(tmp_path / "out", "photo")["stages"]
    names = [row["stage"] for row in rows]
    assert names[-1] == "bottleneck-mean" and table(tmp_path / "out", "photo")["grey_values"]["per_unit"] == 1000
    for row in rows:
        assert len(row["files"]) == 1 + row["heads"]
        mean = imread(tmp_path / "out" / f"photo_attn_{row['stage']}.png")
        assert mean.shape == (20, 30) and mean.dtype == np.uint16
        assert abs(mean.mean() / 1000 - row["mean"]) < 1e-3
        heads = [imread(tmp_path / "out" / f"photo_attn_{row['stage']}_head{h + 1}.png") for h in range(row["heads"])]
        np.testing.assert_allclose(np.mean(heads, 0), mean, atol=1)
    assert run(made, tmp_path / "voxel", "--voxel", "29,3", images=tmp_path / "images") == 0
    seen = imread(tmp_path / "voxel" / f"photo_attn_{names[0]}.png") != 65535
    # tiles of 16 x 24: the first of rows 0 to 15, the last of columns 6 to 29
    assert seen[:16, 6:].all() and seen.sum() == 16 * 24


def test_regions_are_rows_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_model(tmp_path / "made", GASA, KINDS["regions"], monkeypatch)
    file = write_image(tmp_path, "case", body())
    assert run(made, tmp_path / "out", "--stages", STAGES[0], images=file) == 0
    labels = table(tmp_path / "out")["stages"][0]["labels"]
    assert set(labels) == {"whole", "right"} and labels["whole"]["voxels"] >= labels["right"]["voxels"]


WRONG = {
    "trainer": (
        ["-tr", "nnUNetTrainerMedT"],
        ["nnUNetTrainerMedT__nnUNetPlansMade", "nnUNetv2_train", "does not exist"],
    ),
    "fold": (["-f", "3"], ["fold_3 does not exist", "nnUNetv2_train Dataset901_Made 3d_fullres 3 -p nnUNetPlansMade"]),
    "dataset": (["-d", "777"], ["-d 777:"]),
    "checkpoint": (
        ["-chk", "checkpoint_best.pth"],
        ["checkpoint_best.pth does not exist", "-chk: checkpoint_final.pth"],
    ),
    "stage": (["--stages", "mean,first"], ["no stage 'mean'", *STAGES]),
    "no stage": (["--stages", ","], ["no stage", *STAGES]),
    "outside": (["--voxel", "23,0,0"], ["23 x 26 x 22 voxels", "case case", "the last one is 22,25,21"]),
    "margin": (["--voxel", "0,0,0"], ["margin of zeros"]),
    "no voxel": (["--voxel", "1,x"], ["'1,x'", "i,j,k"]),
    "query": (["--query", "centre"], ["--query centre", "GASAUNet"]),
    "self": (["--no-self"], ["--no-self", "GASAUNet"]),
    "images": (["-i", "nowhere"], ["nowhere does not exist"]),
    "previous": (["-prev_stage_predictions", "there"], ["has no previous stage"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_is_one_line(
    wrong: str, model: MadeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = WRONG[wrong]
    assert run(model, tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("nnunet-attn: error: ") and error.count("\n") == 1
    assert not [part for part in said if part not in error], error
    assert not list(tmp_path.rglob("*attn*"))


def test_an_image_without_numbers(
    model: MadeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # SimpleITK reads NaN of NIfTI files as 0, other readers do not
    broken = np.where(body() > 1.9, np.nan, body())[None]
    monkeypatch.setattr(SimpleITKIO, "read_images", lambda *_: (broken, {"spacing": [1.0, 1.0, 1.0]}))
    assert run(model, tmp_path / "out") == 2
    assert "NaN" in capsys.readouterr().err


def test_wrong_images_are_one_line(model: MadeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(images: Path) -> str:
        assert run(model, tmp_path / "out", images=images) == 2
        assert not list((tmp_path / "out").glob("*"))
        return capsys.readouterr().err

    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "case.nii.gz").touch()
    assert "CASE_0000.nii.gz" in error(tmp_path / "empty")
    two = tmp_path / "two"
    write_image(two, "case", body())
    shutil.copy(two / "case_0000.nii.gz", two / "case_0001.nii.gz")
    assert "2 channels, but the model was trained with 1" in error(two)
    assert "every voxel of the image is 0" in error(write_image(tmp_path / "zero", "case", 0 * body()))
    (tmp_path / "text_0000.nii.gz").write_text("no image")
    assert "cannot be read as an image" in error(tmp_path / "text_0000.nii.gz")
    (tmp_path / "picture.png").touch()
    assert "does not end with .nii.gz" in error(tmp_path / "picture.png")


def test_a_file_in_the_way_of_the_output(model: MadeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").touch()
    assert run(model, tmp_path / "out") == 2
    assert "cannot make the folder" in capsys.readouterr().err


def test_checkpoints_that_do_not_belong_here(
    model: MadeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.pth"
    with monkeypatch.context() as patch:
        other = write_model(tmp_path / "other", "nnUNetTrainerMAT", KINDS["3d"], patch)
    shutil.copy(model.checkpoint, kept)

    def error(change: Callable[[dict[str, Any]], None] | None) -> str:
        if change is None:
            model.checkpoint.write_bytes(kept.read_bytes()[:1000])
        else:
            checkpoint = torch.load(kept, weights_only=False)
            change(checkpoint)
            torch.save(checkpoint, model.checkpoint)
        assert run(model, tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    try:
        assert "is damaged" in error(None)
        of_mat = torch.load(other.checkpoint, weights_only=False)
        assert "is a checkpoint of nnUNetTrainerMAT, not of" in error(lambda checkpoint: checkpoint.update(of_mat))
        assert "not of the network" in error(lambda checkpoint: checkpoint["network_weights"].popitem())
        assert "does not find" in error(lambda checkpoint: checkpoint.update(trainer_name="nnUNetTrainerNone"))
    finally:
        shutil.copy(kept, model.checkpoint)


@pytest.mark.parametrize("trainer", ["nnUNetTrainerPlain", "nnUNetTrainerUNetPlusPlus"])
def test_networks_without_attention_say_so(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_model(tmp_path / "made", trainer, KINDS["3d"], monkeypatch)
    file = write_image(tmp_path, "case", body())
    assert run(made, tmp_path / "out", images=file) == 2
    assert "has no attention" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_cascade_needs_its_previous_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_model(tmp_path / "made", GASA, KINDS["cascade"], monkeypatch)
    file = write_image(tmp_path, "case", body())
    assert run(made, tmp_path / "out", images=file) == 2
    assert "needs predictions of 3d_lowres" in capsys.readouterr().err
    (tmp_path / "before").mkdir()
    words = ("-prev_stage_predictions", tmp_path / "before", "--stages", STAGES[0])
    assert run(made, tmp_path / "out", *words, images=file) == 2
    assert "case.nii.gz does not exist" in capsys.readouterr().err
    labels = sitk.Cast(sitk.ReadImage(str(file)), sitk.sitkUInt8)
    sitk.WriteImage(labels, str(tmp_path / "before" / "case.nii.gz"))
    assert run(made, tmp_path / "out", *words, images=file) == 0
    assert np.isfinite(array(tmp_path / "out" / f"case_attn_{STAGES[0]}.nii.gz")).all()


def test_the_only_configuration_is_found(model: MadeModel) -> None:
    name = ModelName("901", GASA, plans="nnUNetPlansMade")
    assert name.folder() == model.folder
    other = model.folder.with_name(model.folder.name.replace("3d_fullres", "2d"))
    (other / "fold_0").mkdir(parents=True)
    try:
        with pytest.raises(InputError, match="2d, 3d_fullres; choose one with -c"):
            name.folder()
    finally:
        shutil.rmtree(other)


def test_a_device_that_is_not_here(model: MadeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no cuda; add: -device cpu"):
        load_model(ModelName("901", GASA, plans="nnUNetPlansMade"), "cuda")


def test_words_of_the_command_line() -> None:
    assert parsed_stages(None) is None and parsed_stages(["1,4", "s7"]) == ("1", "4", "s7")
    assert parsed_voxel(None) is None and parsed_voxel("1,2,3") == (1, 2, 3) and parsed_voxel("4,5") == (4, 5)
    for text in ("1", "1,2,3,4", "1.5,2,3", ""):
        with pytest.raises(InputError, match="i,j,k"):
            parsed_voxel(text)


def test_stages_of_a_network_on_a_grid_have_numbers() -> None:
    class Grid:
        attention_grid = None

    loaded: Any = type("Loaded", (), {"network": Grid(), "stages": ("s1", "s2", "s3")})()
    assert chosen_stages(loaded, MapOptions(stages=("3", "s1"), query="centre")) == ("s1", "s3")
    with pytest.raises(InputError, match=r"s4.*s1, s2, s3"):
        chosen_stages(loaded, MapOptions(stages=("4",)))
    with pytest.raises(InputError, match="--no-self and --voxel"):
        chosen_stages(loaded, MapOptions(voxel=(1, 2, 3), include_self=False))
