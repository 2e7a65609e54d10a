from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from nnunet_attn.errors import InputError
from nnunet_attn.registering.model import Registration, SourceCase
from nnunet_attn.registering.plan import plan_registration
from tests.made.loose import SHAPE, cases, cut, dicom_series, label, volume, write
from tests.made.registration import changed, plan_of, refused


def test_files_that_nnunet_reads_are_taken_as_they_are(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    request = Registration(7, "Made", cases(tmp_path, test=[2]), link="hard")
    plan = plan_registration(request, progress=lambda *stage: seen.append(stage))
    assert [case.actions for case in plan.cases] == [("link",)] * 3
    assert [case.images[0].targets for case in plan.cases] == [
        ("imagesTr/case_0_0000.nii.gz",),
        ("imagesTr/case_1_0000.nii.gz",),
        ("imagesTs/case_2_0000.nii.gz",),
    ]
    assert [case.label.target for case in plan.cases if case.label] == [
        "labelsTr/case_0.nii.gz",
        "labelsTr/case_1.nii.gz",
        "labelsTs/case_2.nii.gz",
    ]
    assert (plan.spatial_dims, plan.reader, plan.total_bytes, plan.warnings) == (3, "SimpleITKIO", 0, ())
    assert plan.folder_name == "Dataset007_Made"
    assert seen == [("read", done, 3) for done in range(4)]
    assert {key: value for key, value in plan.dataset_json.items() if key != "nnunet_attn"} == {
        "name": "Made",
        "channel_names": {"0": "image"},
        "labels": {"background": 0, "foreground": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }


def test_dataset_json_keeps_how_it_was_made(tmp_path: Path) -> None:
    plan = plan_of(cases(tmp_path, values=(255,)), reference="a paper", licence="CC0", channel_names=("CT",))
    own = plan.dataset_json["nnunet_attn"]
    assert own["value_map"] == {"0": 0, "255": 1}
    assert own["options"] == {"link": None, "repair": False, "unlabeled": False, "ignore": None}
    assert own["registered_by"].keys() == {"nnunet-attn", "nnunetv2"}
    assert own["repaired"] == {}
    assert (plan.dataset_json["reference"], plan.dataset_json["licence"]) == ("a paper", "CC0")
    assert plan.dataset_json["channel_names"] == {"0": "CT"}


def test_only_labels_that_need_it_are_remapped(tmp_path: Path) -> None:
    given = list(cases(tmp_path, 2))
    write(tmp_path / "label_1.nii.gz", label((255,)))
    plan = plan_of(given, labels={"background": 0, "organ": 1}, value_map={1: 1, 255: 1})
    assert [case.actions for case in plan.cases] == [("copy",), ("copy", "remap labels")]
    assert plan.value_map == {0: 0, 1: 1, 255: 1}
    size = [sum(path.stat().st_size for path in (*case.images, case.label) if isinstance(path, Path)) for case in given]
    assert size[0] < plan.total_bytes < sum(size) + volume().nbytes


def test_a_label_of_floats_becomes_integers(tmp_path: Path) -> None:
    given = cases(tmp_path)
    write(tmp_path / "label_1.nii.gz", label().astype(np.float32))
    assert plan_of(given).cases[1].actions == ("copy", "label to integers")


def test_formats_of_one_data_set_become_one(tmp_path: Path) -> None:
    given = [
        SourceCase("a", (dicom_series(tmp_path / "a", volume()),), write(tmp_path / "a.nrrd", label())),
        SourceCase("b", (write(tmp_path / "b.mha", volume(1)),), write(tmp_path / "b.nii.gz", label())),
    ]
    plan = plan_of(given)
    assert plan.dataset_json["file_ending"] == ".nii.gz"
    assert plan.cases[0].actions == ("convert DICOM to .nii.gz", "convert label NRRD to .nii.gz")
    assert plan.cases[1].actions == ("convert MetaImage to .nii.gz", "copy")


@pytest.mark.parametrize(
    ("ending", "reader", "overwritten"),
    [(".nrrd", "SimpleITKIO", None), (".mha", "SimpleITKIO", None), (".nii", "SimpleITKIO", "SimpleITKIO")],
)
def test_the_images_own_ending_is_kept_where_nnunet_reads_it(
    tmp_path: Path, ending: str, reader: str, overwritten: str | None
) -> None:
    plan = plan_of(cases(tmp_path, ending=ending))
    assert plan.dataset_json["file_ending"] == ending
    assert plan.reader == reader
    assert plan.dataset_json.get("overwrite_image_reader_writer") == overwritten


def test_an_ending_that_nnunet_does_not_read_is_converted(tmp_path: Path) -> None:
    plan = plan_of(cases(tmp_path, ending=".mhd"))
    assert plan.dataset_json["file_ending"] == ".nii.gz"
    assert plan.cases[0].actions == ("convert MetaImage to .nii.gz", "convert label MetaImage to .nii.gz")


def test_the_ending_asked_for(tmp_path: Path) -> None:
    given = cases(tmp_path)
    assert plan_of(given, file_ending=".nrrd").dataset_json["file_ending"] == ".nrrd"
    refused(given, "file ending '.png': for 3D images nnU-Net reads .nii.gz", file_ending=".png")
    flat = cases(tmp_path / "flat", ending=".nrrd", shape=(6, 7))
    refused(flat, "case_0: values of the type int16 cannot be held by .png", file_ending=".png")


def _pictures(folder: Path, ending: str = ".png", colour: bool = True, count: int = 2) -> list[SourceCase]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        array = np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(array if colour else array[..., 0]).save(folder / f"image_{number}{ending}")
        Image.fromarray(label((255,), (8, 9)).astype(np.uint8)).save(folder / f"mask_{number}.png")
        made.append(SourceCase(f"case_{number}", (folder / f"image_{number}{ending}",), folder / f"mask_{number}.png"))
    return made


def test_natural_images(tmp_path: Path) -> None:
    plan = plan_of(_pictures(tmp_path))
    assert plan.dataset_json["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert (plan.dataset_json["file_ending"], plan.reader, plan.spatial_dims) == (".png", "NaturalImage2DIO", 2)
    assert "overwrite_image_reader_writer" not in plan.dataset_json
    assert plan.cases[0].actions == ("copy", "remap labels")
    assert plan.cases[0].images[0].targets == ("imagesTr/case_0_0000.png",)
    assert plan_of(_pictures(tmp_path / "grey", colour=False)).dataset_json["channel_names"] == {"0": "image"}
    plan = plan_of(_pictures(tmp_path / "bmp", ".bmp"))
    assert plan.dataset_json["file_ending"] == ".bmp"
    assert plan.cases[0].actions == ("copy", "convert label PNG to .bmp", "remap labels")
    assert plan_of(_pictures(tmp_path / "jpg", ".jpg")).dataset_json["file_ending"] == ".png"


def test_colour_and_grey_files_of_a_case_are_taken_apart(tmp_path: Path) -> None:
    given = _pictures(tmp_path)
    grey = _pictures(tmp_path / "grey", colour=False)
    given = [replace(case, images=(*case.images, *other.images)) for case, other in zip(given, grey, strict=True)]
    plan = plan_of(given)
    assert plan.cases[0].images[0].targets == tuple(f"imagesTr/case_0_000{k}.png" for k in range(3))
    assert plan.cases[0].images[1].targets == ("imagesTr/case_0_0003.png",)
    assert plan.cases[0].actions == ("split channels", "copy", "remap labels")
    assert len(plan.dataset_json["channel_names"]) == 4


def test_2d_tiff_keeps_its_ending_without_its_second_f(tmp_path: Path) -> None:
    given = _pictures(tmp_path, ".tiff")
    plan = plan_of(given, link="hard")
    assert (plan.dataset_json["file_ending"], plan.reader) == (".tif", "NaturalImage2DIO")
    assert plan.cases[0].images[0].as_is
    for number in range(2):  # what PNG cannot hold
        tifffile.imwrite(tmp_path / f"image_{number}.tiff", np.full((8, 9), 0.5 + number, np.float32))
    given = changed(given, 0, images=(tmp_path / "image_0.tif",))
    (tmp_path / "image_0.tiff").rename(tmp_path / "image_0.tif")
    assert plan_of(given).dataset_json["file_ending"] == ".tif"


def test_stacks_of_tiff(tmp_path: Path) -> None:
    given = []
    for number in range(2):
        tifffile.imwrite(tmp_path / f"image_{number}.tif", volume(number))
        tifffile.imwrite(tmp_path / f"label_{number}.tif", label(number=number).astype(np.uint8))
        given.append(
            SourceCase(f"case_{number}", (tmp_path / f"image_{number}.tif",), tmp_path / f"label_{number}.tif")
        )
    (tmp_path / "image_0.json").write_text('{"spacing": [3, 1, 1]}')
    plan = plan_of(given)
    assert (plan.reader, plan.dataset_json["overwrite_image_reader_writer"]) == ("Tiff3DIO", "Tiff3DIO")
    assert plan.cases[0].actions == ("copy",)
    (warning,) = plan.warnings
    assert "1 case without a JSON file of the spacing (case_1): 1 x 1 x 1 is taken" in warning


def test_channels_of_several_files_and_of_one(tmp_path: Path) -> None:
    images = tuple(write(tmp_path / f"{name}.nii.gz", volume(k)) for k, name in enumerate(("t1", "t2")))
    given = [SourceCase("a", images, write(tmp_path / "a.nii.gz", label()))]
    plan = plan_of(given, channel_names=("T1", "T2"))
    assert [image.targets for image in plan.cases[0].images] == [
        ("imagesTr/a_0000.nii.gz",),
        ("imagesTr/a_0001.nii.gz",),
    ]
    both = write(tmp_path / "both.nii.gz", np.stack([volume(0), volume(1)], axis=-1), vector=True)
    (planned,) = plan_of(changed(given, 0, images=(both,))).cases
    assert planned.images[0].targets == ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz")
    assert planned.actions == ("split channels", "copy")
    four = write(tmp_path / "4d.nii.gz", np.stack([volume(0), volume(1)]))
    (planned,) = plan_of(changed(given, 0, images=(four,), channels_in_file=True)).cases
    assert planned.images[0].targets == ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz")
    refused(changed(given, 0, images=(four,)), "a:", "has 4 axes", "split it")
    refused(changed(given, 0, channels_in_file=True), "a: 2 files, but all channels are said to be in one")


def test_cases_must_have_the_same_channels(tmp_path: Path) -> None:
    given = cases(tmp_path)
    more = changed(given, 1, images=(*given[1].images, write(tmp_path / "more.nii.gz", volume(9))))
    refused(more, "case_1 has 2 channels, most have 1; add or remove files")
    refused(more, "case_1 has 2 channels, names are given for 1", channel_names=("CT",))
    refused(given, "2 channel names (CT, PET), but every case has 1 channel;", channel_names=("CT", "PET"))
    refused(given, "two channels are called 'CT'", channel_names=("CT", "CT"))
    refused(given, "give each channel a name", channel_names=("",))


def test_cases_must_have_the_same_axes(tmp_path: Path) -> None:
    flat = cases(tmp_path / "flat", 1, shape=(6, 7))[0]
    refused([*cases(tmp_path), replace(flat, case="flat")], "flat: its image is 2D, most are 3D; register these apart")


def test_channels_of_a_case_must_have_one_grid(tmp_path: Path) -> None:
    given = cases(tmp_path, 1)
    small = write(tmp_path / "small.nii.gz", volume(shape=(5, 6, 6)))
    refused(changed(given, 0, images=(*given[0].images, small)), "is 6 x 6 x 5 voxels and the first channel 7 x 6 x 5")
    shifted = write(tmp_path / "shifted.nii.gz", volume(3), origin=(0.4, 0, 0))
    two = changed(given, 0, images=(*given[0].images, shifted))
    refused(two, "differs a little from that of the first channel (origin 0.4 voxels away)", "add --repair")
    (planned,) = plan_of(two, repair=True).cases
    assert planned.actions == ("copy", "repair origin of channel")
    assert planned.images[1].grid == planned.images[0].grid and not planned.images[1].as_is
    write(shifted, volume(3), origin=(2, 0, 0))
    refused(two, "does not lie where the first channel does: origin 2 voxels away", "too much to mend", repair=True)
    angle = 0.01
    turned = (np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1)
    write(shifted, volume(3), direction=turned)
    refused(two, "does not lie where the first channel does: direction cosines 0.01 apart", repair=True)


def test_a_label_that_lies_a_little_elsewhere_is_repaired_on_request(tmp_path: Path) -> None:
    given = cases(tmp_path)
    write(tmp_path / "label_1.nii.gz", label(), origin=(0, 3, 0), spacing=(1.0, 1.505, 3.0))
    refused(given, "case_1:", "label_1.nii.gz has a place that differs a little from that of the image", "--repair")
    plan = plan_of(given, repair=True)
    assert plan.cases[1].actions == ("copy", "repair spacing of label", "repair origin of label")
    assert plan.dataset_json["nnunet_attn"]["repaired"] == {"case_1": ["spacing of label", "origin of label"]}
    assert plan.dataset_json["nnunet_attn"]["options"]["repair"]


def test_a_label_of_another_grid_is_refused_even_with_repair(tmp_path: Path) -> None:
    given = cases(tmp_path)
    write(tmp_path / "label_1.nii.gz", label(), origin=(0, 30, 0))
    refused(given, "case_1:", "does not lie where the image does: origin 20 voxels away", "too much", repair=True)
    write(tmp_path / "label_1.nii.gz", label(shape=(5, 6, 8)))
    refused(given, "label_1.nii.gz is 8 x 6 x 5 voxels and the image 7 x 6 x 5; give files of one grid", repair=True)


def test_all_refused_cases_are_listed(tmp_path: Path) -> None:
    given = cases(tmp_path, 12, shape=(20, 30, 40))
    for case in given:
        cut(case.images[0])
    with pytest.raises(InputError) as error:
        plan_of(given)
    lines = str(error.value).splitlines()
    assert lines[0] == "12 cases or label values are refused:"
    assert [line.split(":")[0].strip() for line in lines[1:11]] == [case.case for case in given[:10]]
    assert lines[11].strip() == "... and 2 more"


def test_damaged_files_and_wrong_labels_are_told_at_once(tmp_path: Path) -> None:
    given = cases(tmp_path, 4)
    cut(given[0].images[0], 0.5)
    write(tmp_path / "label_1.nii.gz", label((5, 6, 7)))
    images = (*given[2].images, write(tmp_path / "more.nii.gz", volume(9)))
    with pytest.raises(InputError) as error:
        plan_of(changed(given, 2, images=images), labels={"background": 0, "organ": 1})
    lines = str(error.value).splitlines()
    assert lines[0] == "3 cases or label values are refused:"
    assert [line.split()[0] for line in lines[1:]] == ["case_0:", "case_2", "label"]
    assert "5 in case_1; 6 in case_1; 7 in case_1" in lines[3]


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    given = cases(tmp_path, ending=".mha")
    array = volume(1).astype(np.float32)
    array[0, 0, :2] = np.nan, np.inf
    write(tmp_path / "image_1.mha", array)
    refused(given, "case_1:", "has 2 values that are not finite (NaN or infinite)", "replace them by the background")
    given = cases(tmp_path)
    write(tmp_path / "image_1.nii.gz", array)
    (warning,) = plan_of(given).warnings
    assert warning.startswith("1 case (case_1): values that are not finite (NaN or infinite) are read as 0")


def test_labels_are_refused_by_case(tmp_path: Path) -> None:
    given = cases(tmp_path)
    write(tmp_path / "label_1.nii.gz", label((5,)))
    organ = {"background": 0, "organ": 1, "vessel": 2, "bone": 3}
    refused(given, "label values that no label has: 5 in case_1", labels=organ)
    array = label().astype(np.float32)
    array[0, 0, 0] = 0.5
    write(tmp_path / "label_2.nii.gz", array)
    refused(given, "case_2:", "values that are no integers, such as 0.5")


def test_labels_without_foreground_and_labels_that_no_case_has(tmp_path: Path) -> None:
    given = cases(tmp_path)
    write(tmp_path / "label_1.nii.gz", label(()))
    assert plan_of(given, labels={"background": 0, "organ": 1, "vessel": 2}).warnings == (
        "label 'vessel' (2) is in no case",
        "1 label without foreground: case_1",
    )


def test_regions_and_ignore(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": (1, 2), "core": 2}
    plan = plan_of(cases(tmp_path, values=(1, 2, 255)), labels=labels, regions_class_order=(1, 2), ignore=255)
    assert plan.dataset_json["labels"] == {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    assert plan.dataset_json["regions_class_order"] == [1, 2]
    assert plan.value_map == {0: 0, 1: 1, 2: 2, 255: 3}


@dataclass(frozen=True)
class _HalfOf:
    """A label made of a file: its first half is 3."""

    file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def read(self, shape: tuple[int, ...]) -> np.ndarray:
        made = np.zeros(shape if "bad" not in self.file.name else (1, 2, 3), np.uint8)
        made[..., : shape[-1] // 2] = 3
        return made


def test_a_label_that_is_made(tmp_path: Path) -> None:
    (tmp_path / "half.xml").write_text("")
    given = changed(cases(tmp_path), 1, label=_HalfOf(tmp_path / "half.xml"))
    plan = plan_of(given, value_map={1: 1, 3: 1})
    assert plan.cases[1].actions == ("copy", "make label", "remap labels")
    label_1 = plan.cases[1].label
    assert label_1 is not None and label_1.shape == SHAPE and label_1.grid == plan.cases[1].images[0].grid
    refused(changed(given, 1, label=_HalfOf(tmp_path / "none.xml")), "case_1: ", "none.xml does not exist")
    (tmp_path / "bad.xml").write_text("")
    bad = changed(given, 1, label=_HalfOf(tmp_path / "bad.xml"))
    refused(bad, "case_1: the label made for case_1 is of shape (1, 2, 3), its image of (5, 6, 7)")


def test_a_dicom_modality_names_the_channel(tmp_path: Path) -> None:
    given = [SourceCase("a", (dicom_series(tmp_path / "a", volume(), modality="MR"),), None, test=False)]
    given = changed(given, 0, label=write(tmp_path / "a.nii.gz", label()))
    assert plan_of(given).dataset_json["channel_names"] == {"0": "MRI"}


def test_names_that_no_file_system_takes_are_refused(tmp_path: Path) -> None:
    given = cases(tmp_path)
    assert plan_of(changed(given, 1, case="a" * 240)).cases[1].source.case == "a" * 240
    refused(changed(given, 1, case="ä" * 121), "ä...: the case's name has 242 bytes; rename it to have 240 at most")
    with pytest.raises(InputError, match=r"the data set's name has 121 bytes \(b{40}\.\.\.\); give one of 120 at most"):
        plan_registration(Registration(7, "b" * 121, given))


def test_images_alone_for_pretraining(tmp_path: Path) -> None:
    given = [replace(case, label=None) for case in cases(tmp_path)]
    plan = plan_of(given, unlabeled=True)
    assert "labels" not in plan.dataset_json
    assert plan.dataset_json["numTraining"] == 3
    assert all(case.label is None for case in plan.cases)
    refused(given, "case_0: its image has no label; add one, leave out the case, or register with --unlabeled")


def test_a_held_out_case_needs_no_label(tmp_path: Path) -> None:
    plan = plan_of(changed(cases(tmp_path), 2, label=None, test=True))
    assert plan.cases[2].label is None
