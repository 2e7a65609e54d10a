import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from PIL import Image

from nnunet_attn.errors import InputError
from nnunet_attn.pretraining.unlabelled import image_cases
from nnunet_attn.registering import making, workers
from nnunet_attn.registering.model import SourceCase
from nnunet_attn.registering.plan import plan_registration
from nnunet_attn.registering.writing import write_registration
from tests.made.loose import SPACING, cases, dicom_series, label, volume, write
from tests.made.registration import files_in, plan_of, written


def _read_by_nnunet(folder: Path, case: str, split: str = "Tr") -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return image, label and the image's properties, as nnU-Net reads a case."""
    description = json.loads((folder / "dataset.json").read_text())
    images = sorted(map(str, (folder / f"images{split}").glob(f"{case}_????{description['file_ending']}")))
    reader = determine_reader_writer_from_dataset_json(description, images[0], verbose=False)()
    image, properties = reader.read_images(images)
    seg, of_label = reader.read_seg(str(folder / f"labels{split}" / f"{case}{description['file_ending']}"))
    np.testing.assert_allclose(of_label["spacing"], properties["spacing"])
    return image, seg[0], properties


def test_a_data_set(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    given = [replace(case, patient=f"p_{case.case}", site="A") for case in cases(tmp_path, 3, values=(255,), test=[2])]
    plan = plan_of(given)
    folder = write_registration(plan, tmp_path / "raw", verify=False, progress=lambda *stage: seen.append(stage))
    assert folder == tmp_path / "raw" / "Dataset007_Made"
    assert files_in(tmp_path / "raw") == [
        f"Dataset007_Made/{name}"
        for name in (
            "dataset.json",
            "imagesTr/case_0_0000.nii.gz",
            "imagesTr/case_1_0000.nii.gz",
            "imagesTs/case_2_0000.nii.gz",
            "labelsTr/case_0.nii.gz",
            "labelsTr/case_1.nii.gz",
            "labelsTs/case_2.nii.gz",
            "nnunet_attn_cases.json",
        )
    ]
    assert json.loads((folder / "dataset.json").read_text()) == plan.dataset_json
    recorded = json.loads((folder / "nnunet_attn_cases.json").read_text())["cases"]
    assert recorded["case_2"] == {
        "patient": "p_case_2",
        "site": "A",
        "test": True,
        "images": [str(tmp_path / "image_2.nii.gz")],
        "label": [str(tmp_path / "label_2.nii.gz")],
        "actions": ["copy", "remap labels"],
    }
    assert seen == [("write", done, 3) for done in range(4)]
    image, seg, properties = _read_by_nnunet(folder, "case_1")
    np.testing.assert_array_equal(image[0], volume(1))
    np.testing.assert_array_equal(seg, label((1,), number=1))
    assert properties["spacing"] == list(reversed(SPACING))


def test_links(tmp_path: Path) -> None:
    given = cases(tmp_path, 1)
    hard = written(tmp_path / "hard", given, link="hard") / "imagesTr" / "case_0_0000.nii.gz"
    assert hard.samefile(tmp_path / "image_0.nii.gz") and not hard.is_symlink()
    symbolic = written(tmp_path / "symbolic", given, link="symbolic") / "labelsTr" / "case_0.nii.gz"
    assert symbolic.is_symlink() and symbolic.resolve() == (tmp_path / "label_0.nii.gz").resolve()
    copied = written(tmp_path / "copied", given) / "imagesTr" / "case_0_0000.nii.gz"
    assert not copied.is_symlink() and not copied.samefile(tmp_path / "image_0.nii.gz")
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "image.nii.gz").symlink_to(tmp_path / "image_0.nii.gz")
    led = [replace(given[0], images=(tmp_path / "away" / "image.nii.gz",))]
    hard = written(tmp_path / "led", led, link="hard") / "imagesTr" / "case_0_0000.nii.gz"
    assert not hard.is_symlink() and hard.samefile(tmp_path / "image_0.nii.gz")


def test_a_linked_source_stays_as_it_is(tmp_path: Path) -> None:
    given = cases(tmp_path, 2, values=(255,))
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    folder = written(tmp_path / "raw", given, link="hard")
    assert not (folder / "labelsTr" / "case_0.nii.gz").samefile(tmp_path / "label_0.nii.gz")
    assert {file: file.read_bytes() for file in before} == before


def test_dicom_and_nrrd_are_converted(tmp_path: Path) -> None:
    given = [SourceCase("a", (dicom_series(tmp_path / "a", volume()),), write(tmp_path / "a.nrrd", label((1, 2))))]
    image, seg, properties = _read_by_nnunet(written(tmp_path / "raw", given), "a")
    np.testing.assert_array_equal(image[0], volume())
    np.testing.assert_array_equal(seg, label((1, 2)))
    np.testing.assert_allclose(properties["spacing"], SPACING[::-1])


def test_a_repaired_label_lies_where_the_image_does(tmp_path: Path) -> None:
    given = cases(tmp_path, 1)
    write(tmp_path / "label_0.nii.gz", label(), origin=(0, 3, 0), spacing=(1.0, 1.505, 3.0))
    folder = written(tmp_path / "raw", given, repair=True)
    _, seg, _ = _read_by_nnunet(folder, "case_0")
    np.testing.assert_array_equal(seg, label())
    reader = making.read_picture
    assert reader(folder / "labelsTr/case_0.nii.gz").grid == reader(folder / "imagesTr/case_0_0000.nii.gz").grid


def test_axes_that_are_not_quite_perpendicular_are_repaired_on_request(tmp_path: Path) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[0, 1] = 0.01
    for name, array in (("image", volume()), ("label", label())):
        nibabel.save(nibabel.Nifti1Image(array.T, affine), tmp_path / f"{name}.nii.gz")
    given = [SourceCase("a", (tmp_path / "image.nii.gz",), tmp_path / "label.nii.gz")]
    with pytest.raises(InputError, match=r"a: .*image.nii.gz has axes that are not quite perpendicular; .* --repair"):
        plan_of(given)
    plan = plan_of(given, repair=True)
    assert plan.cases[0].actions == ("repair direction of image", "repair direction of label")
    folder = write_registration(plan, tmp_path / "raw", verify=False)
    image, seg, properties = _read_by_nnunet(folder, "a")
    np.testing.assert_array_equal(image[0], volume())
    np.testing.assert_array_equal(seg, label())
    np.testing.assert_allclose(properties["spacing"], [3, 2, 1], atol=1e-4)


@pytest.mark.slow
def test_several_processes_make_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = cases(tmp_path, 4, ending=".mhd", values=(255,), test=[3])
    plan = plan_of(given)
    one = write_registration(plan, tmp_path / "one", verify=False)
    monkeypatch.setattr(workers, "_BYTES_A_PROCESS", 1)
    assert plan_registration(plan.request, processes=2) == plan
    two = write_registration(plan, tmp_path / "two", processes=2, verify=False)
    assert files_in(two) == files_in(one) and len(files_in(one)) == 10
    for name in files_in(one):
        assert (two / name).read_bytes() == (one / name).read_bytes()


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_endings_of_volumes(tmp_path: Path, ending: str) -> None:
    given = cases(tmp_path, 1, ending=".mhd", values=(3,))
    image, seg, _ = _read_by_nnunet(written(tmp_path / "raw", given, file_ending=ending), "case_0")
    np.testing.assert_array_equal(image[0], volume())
    np.testing.assert_array_equal(seg, label((1,)))
    flat = cases(tmp_path / "flat", 1, ending=".mha", shape=(6, 7))
    image, seg, properties = _read_by_nnunet(written(tmp_path / "flatraw", flat, file_ending=ending), "case_0")
    np.testing.assert_array_equal(image[0, 0], volume(shape=(6, 7)))
    np.testing.assert_allclose(properties["spacing"][1:], [SPACING[1], SPACING[0]])


def test_channels_in_one_file_become_files(tmp_path: Path) -> None:
    four = write(tmp_path / "a.nii.gz", np.stack([volume(0), volume(1)]))
    given = [SourceCase("a", (four,), write(tmp_path / "l.nii.gz", label()), channels_in_file=True)]
    image, _, _ = _read_by_nnunet(written(tmp_path / "raw", given), "a")
    np.testing.assert_array_equal(image, [volume(0), volume(1)])


@pytest.mark.parametrize(
    ("source", "ending"), [(".png", None), (".bmp", None), (".tif", None), (".bmp", ".png"), (".png", ".nii.gz")]
)
def test_natural_images(tmp_path: Path, source: str, ending: str | None) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / f"a{source}")
    Image.fromarray(np.repeat(label((255,), (8, 9))[..., None], 3, -1).astype(np.uint8)).save(tmp_path / "mask.png")
    given = [SourceCase("a", (tmp_path / f"a{source}",), tmp_path / "mask.png")]
    folder = written(tmp_path / "raw", given, file_ending=ending)
    image, seg, _ = _read_by_nnunet(folder, "a")
    np.testing.assert_array_equal(image[:, 0], np.moveaxis(colours, -1, 0))
    np.testing.assert_array_equal(seg, label((1,), (8, 9))[None])
    assert len(list((folder / "imagesTr").iterdir())) == (3 if ending == ".nii.gz" else 1)


def test_16_bit_colours_and_alpha(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 60000, (8, 9, 4), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    Image.fromarray(label((255,), (8, 9)).astype(np.uint8)).save(tmp_path / "mask.png")
    given = [SourceCase("a", (tmp_path / "a.tif",), tmp_path / "mask.png")]
    for ending, files in {".png": 3, ".tif": 1}.items():
        folder = written(tmp_path / f"raw{ending}", given, file_ending=ending)
        image, _, _ = _read_by_nnunet(folder, "a")
        np.testing.assert_array_equal(image[:, 0], np.moveaxis(colours, -1, 0)[:3])
        assert len(list((folder / "imagesTr").iterdir())) == files


@pytest.mark.parametrize("spacing", [None, [3.0, 1.5, 1.0]])
def test_stacks_of_tiff_have_their_spacing_beside_them(tmp_path: Path, spacing: list[float] | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", volume())
    tifffile.imwrite(tmp_path / "mask.tif", label((255,)).astype(np.uint8))
    if spacing:
        (tmp_path / "a.json").write_text(json.dumps({"spacing": spacing}))
    given = [SourceCase("a", (tmp_path / "a.tif",), tmp_path / "mask.tif")]
    image, seg, properties = _read_by_nnunet(written(tmp_path / "raw", given), "a")
    np.testing.assert_array_equal(image[0], volume())
    np.testing.assert_array_equal(seg, label((1,)))
    assert properties["spacing"] == (spacing or [1.0, 1.0, 1.0])


@dataclass(frozen=True)
class _Corner:
    """A label made of a file that is only named."""

    file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def read(self, shape: tuple[int, ...]) -> np.ndarray:
        made = np.zeros(shape, np.uint8)
        made[0, 0, 0] = 9
        return made


def test_a_made_label_is_written_on_the_images_grid(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("")
    given = [replace(cases(tmp_path, 1)[0], label=_Corner(tmp_path / "a.xml"))]
    folder = written(tmp_path / "raw", given)
    _, seg, _ = _read_by_nnunet(folder, "case_0")
    assert seg[0, 0, 0] == 1 and seg.sum() == 1
    recorded = json.loads((folder / "nnunet_attn_cases.json").read_text())["cases"]["case_0"]
    assert recorded["label"] == [str(tmp_path / "a.xml")]


def test_images_alone_for_pretraining(tmp_path: Path) -> None:
    given = [replace(case, label=None) for case in cases(tmp_path)]
    folder = write_registration(plan_of(given, unlabeled=True), tmp_path / "raw")
    assert {file.name for file in folder.iterdir()} == {"dataset.json", "imagesTr", "nnunet_attn_cases.json"}
    found = image_cases(folder, json.loads((folder / "dataset.json").read_text()))
    assert list(found) == ["case_0", "case_1", "case_2"]
