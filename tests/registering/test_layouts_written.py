"""Public layouts, through the engine, to data sets that nnU-Net's own code reads."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.errors import InputError
from nnunet_attn.registering.layouts.contract import LayoutOptions
from nnunet_attn.registering.layouts.registry import LAYOUTS
from nnunet_attn.registering.plan import RegistrationPlan, plan_registration
from nnunet_attn.registering.request import from_layout
from nnunet_attn.registering.writing import write_registration
from tests.made import layout_trees as trees

NONE = LayoutOptions()


def planned(layout: str, tree: Path, options: LayoutOptions | None = None) -> RegistrationPlan:
    return plan_registration(from_layout(layout, tree, options or LayoutOptions(), 17), processes=1)


def written(layout: str, root: Path, options: LayoutOptions | None = None, verify: bool = False) -> Path:
    """Register a made tree; with `verify` nnU-Net's own integrity check runs on it, which takes seconds to start."""
    plan = planned(layout, trees.TREES[layout](root / "source"), options)
    return write_registration(plan, root / "raw", processes=1, verify=verify)


def plan_labels(plan: RegistrationPlan) -> Mapping[str, int | tuple[int, ...]]:
    assert plan.request.labels is not None
    return plan.request.labels


def array_of(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.glob("*s*/*"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_can_be_planned_without_a_warning(layout: str, tmp_path: Path) -> None:
    plan = planned(layout, trees.TREES[layout](tmp_path))
    # the made trees have one and the same label in all their cases
    assert [warning for warning in plan.warnings if "have the same label" not in warning] == []
    assert plan.dataset_json["numTraining"] == 6
    regions = {name: list(value) if isinstance(value, tuple) else value for name, value in plan_labels(plan).items()}
    assert plan.dataset_json["labels"] == regions


# regions in NIfTI, 4D, BMP, TIFF with XML, and NRRD
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["kits23", "msd", "glas", "monuseg", "left-atrium"])
def test_nnunets_own_integrity_check_passes(layout: str, tmp_path: Path) -> None:
    folder = written(layout, tmp_path, verify=True)
    assert (folder / "dataset.json").is_file()


def test_btcv_as_fine_reads_it(tmp_path: Path) -> None:
    options = LayoutOptions(test_cases=frozenset({"img0006"}), labels="fine")
    folder = written("btcv", tmp_path, options)
    assert folder.name == "Dataset017_BTCV"
    assert files(folder)[-3:] == ["labelsTr/img0004.nii.gz", "labelsTr/img0005.nii.gz", "labelsTs/img0006.nii.gz"]
    before = array_of(tmp_path / "source/RawData/Training/label/label0006.nii.gz")
    after = array_of(folder / "labelsTs/img0006.nii.gz")
    new = [0, 1, 2, 3, 4, 0, 5, 6, 7, 0, 0, 8, 0, 0]
    np.testing.assert_array_equal(after, np.array(new)[before])
    assert after.max() == 8
    image = "RawData/Training/img/img0006.nii.gz"
    assert (folder / "imagesTs/img0006_0000.nii.gz").read_bytes() == (tmp_path / "source" / image).read_bytes()


def test_amos_keeps_its_modalities_as_sites(tmp_path: Path) -> None:
    amos = written("amos22", tmp_path / "amos")
    cases = json.loads((amos / "nnunet_attn_cases.json").read_text())["cases"]
    assert (cases["amos_0507"]["site"], cases["amos_0001"]["site"], cases["amos_0540"]["test"]) == ("MR", "CT", True)
    assert len(files(amos)) == 16


def test_nnunet_paints_the_regions_of_kits_back_to_its_labels(tmp_path: Path) -> None:
    import torch
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    folder = written("kits23", tmp_path)
    description = json.loads((folder / "dataset.json").read_text())
    manager = LabelManager(description["labels"], description["regions_class_order"])
    assert manager.foreground_regions == [(1, 2, 3), (2, 3), 2]
    label = array_of(folder / "labelsTr/case_00000.nii.gz")
    regions = np.stack([np.isin(label, region) for region in ((1, 2, 3), (2, 3), (2,))])
    painted = manager.convert_probabilities_to_segmentation(torch.from_numpy(regions.astype(np.float32)))
    np.testing.assert_array_equal(np.asarray(painted), label)
    assert set(np.unique(label).tolist()) == {0, 1, 2, 3}


def test_channels_of_the_decathlon_are_split_as_nnunets_own_converter_does(tmp_path: Path) -> None:
    from nnunetv2.dataset_conversion.convert_MSD_dataset import split_4d_nifti

    folder = written("msd", tmp_path)
    assert folder.name == "Dataset017_Prostate"
    (tmp_path / "theirs").mkdir()
    source = tmp_path / "source/Task05_Prostate/imagesTr/prostate_003.nii.gz"
    split_4d_nifti(str(source), str(tmp_path / "theirs"))
    for channel in (0, 1):
        name = f"prostate_003_{channel:04d}.nii.gz"
        ours, theirs = (sitk.ReadImage(str(each / name)) for each in (folder / "imagesTr", tmp_path / "theirs"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
        np.testing.assert_allclose(ours.GetSpacing(), theirs.GetSpacing(), rtol=1e-6)
        np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), rtol=1e-6)
        np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-6)
    assert len(list((folder / "imagesTs").iterdir())) == 4
    assert not list(folder.glob("labelsTs/*"))


def test_glas_is_read_by_nnunet_as_colour_and_one_label(tmp_path: Path) -> None:
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    folder = written("glas", tmp_path)
    ending = json.loads((folder / "dataset.json").read_text())["file_ending"]
    image, _ = NaturalImage2DIO().read_images([str(folder / f"imagesTr/train_3_0000{ending}")])
    label, _ = NaturalImage2DIO().read_seg(str(folder / f"labelsTr/train_3{ending}"))
    assert image.shape == (3, 1, 24, 30)
    assert label[0, 0].sum() == 4 * 6 + 10 * 2
    assert label.max() == 1
    cases = json.loads((folder / "nnunet_attn_cases.json").read_text())["cases"]
    assert cases["train_3"]["patient"] == "3"


def test_monuseg_becomes_masks_of_its_outlines(tmp_path: Path) -> None:
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    folder = written("monuseg", tmp_path)
    ending = json.loads((folder / "dataset.json").read_text())["file_ending"]
    for part, name in (("Tr", "TCGA-18-5592-01Z-00-DX1"), ("Ts", "TCGA-2Z-A9J9-01A")):
        image, _ = NaturalImage2DIO().read_images([str(folder / f"images{part}/{name}_0000{ending}")])
        label, _ = NaturalImage2DIO().read_seg(str(folder / f"labels{part}/{name}{ending}"))
        assert image.shape == (3, 1, 24, 30)
        # a square of columns 4 to 9 and rows 2 to 6; centres on its edge belong to it or not, those inside do
        assert label[0, 0, 3:6, 5:9].all()
        assert label.sum() == label[0, 0, 2:7, 4:10].sum()


def test_grey_masks_of_brain_ultrasound_become_one_label(tmp_path: Path) -> None:
    folder = written("brain-us", tmp_path)
    label = array_of(folder / "labelsTs/test_1.png")
    assert set(np.unique(label).tolist()) == {0, 1}
    # five white rows and that of 128; that of 127 is background
    assert label.sum() == 6 * 8


def test_nrrd_masks_of_255_become_one_label(tmp_path: Path) -> None:
    folder = written("left-atrium", tmp_path)
    ending = json.loads((folder / "dataset.json").read_text())["file_ending"]
    label = array_of(next((folder / "labelsTr").glob(f"*{ending}")))
    assert (set(np.unique(label).tolist()), int(label.sum())) == ({0, 1}, 3)
    assert len(list((folder / "imagesTs").iterdir())) == 2


def test_binary_tasks_have_one_label_and_the_users_test_cases(tmp_path: Path) -> None:
    options = LayoutOptions(test_cases=frozenset({"pancreas_002"}))
    folder = written("binary-pancreas", tmp_path, options)
    assert [file.name for file in (folder / "labelsTs").iterdir()] == ["pancreas_002.nii.gz"]
    before = array_of(tmp_path / "source/Task07_Pancreas/labelsTr/pancreas_002.nii.gz")
    np.testing.assert_array_equal(array_of(folder / "labelsTs/pancreas_002.nii.gz"), before > 0)


def test_a_patient_on_both_sides_of_the_users_list_is_refused(tmp_path: Path) -> None:
    trees.glas(tmp_path, {**{f"train_{n}": n for n in range(1, 6)}, "train_6": 5, "testA_1": 9})
    with pytest.raises(InputError, match=r"train_6|patient '?5"):
        planned("glas", tmp_path, LayoutOptions(test_cases=frozenset({"train_6"})))


def test_a_draw_keeps_patients_together_that_the_challenge_divides(tmp_path: Path) -> None:
    trees.glas(tmp_path, {f"{part}_{n}": n for part in ("train", "testA") for n in range(1, 7)})
    for seed in range(3):
        request = from_layout("glas", tmp_path, NONE, 17, drawn=(4, seed))
        test = {case.case for case in request.cases if case.test}
        assert len(test) == 4
        assert {name.partition("_")[2] for name in test if name.startswith("train")} == {
            name.partition("_")[2] for name in test if name.startswith("testA")
        }
        plan_registration(request, processes=1)


def test_annotations_of_another_image_are_refused_by_name(tmp_path: Path) -> None:
    trees.TREES["monuseg"](tmp_path)
    file = next(tmp_path.rglob("TCGA-18-5593-01Z-00-DX1.xml"))
    trees.outlines(file, [[(500.0, 700.0), (510.0, 700.0), (510.0, 710.0)]])
    with pytest.raises(InputError, match=r"TCGA-18-5593-01Z-00-DX1.*outside of its image of 30 x 24 pixels"):
        planned("monuseg", tmp_path)
