"""Public data sets in the trees of their downloads: which cases, labels and notes are read from them."""

import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering.layouts.contract import LayoutData
from nnunet_attn.registering.layouts.registry import LAYOUTS, LayoutOptions
from tests.made import layout_trees as trees

NONE = LayoutOptions()


def read(layout: str, folder: Path, options: LayoutOptions = NONE) -> LayoutData:
    return LAYOUTS[layout].read(folder, options)


def names(data: LayoutData, test: bool) -> list[str]:
    return [case.case for case in data.cases if case.test is test]


def test_every_layout_has_a_made_tree_and_is_read_from_it(tmp_path: Path) -> None:
    assert list(trees.TREES) == list(LAYOUTS)
    for name, layout in LAYOUTS.items():
        data = layout.read(trees.TREES[name](tmp_path / name), NONE)
        assert layout.name == name
        assert len(names(data, test=False)) >= 5
        assert data.labels["background"] == 0
        assert pickle.loads(pickle.dumps(data)) == data
        for case in data.cases:
            label = case.label
            files = (label,) if isinstance(label, Path) else label.files if label else ()
            assert all(file.is_file() for file in (*case.images, *files))
            assert case.label is not None or case.test


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_tree_is_one_error_that_says_what_was_looked_for_and_found(layout: str, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(InputError, match=rf"layout {layout} looks for .*found holiday.*; give the folder"):
        read(layout, tmp_path)
    with pytest.raises(InputError, match=rf"does not exist; layout {layout} reads the folder"):
        read(layout, tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file"):
        read(layout, tmp_path / "holiday.jpg")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_choices_that_a_layout_does_not_have_are_refused(layout: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--labels 'some'.*(choose one of them|leave --labels out)"):
        read(layout, tmp_path, LayoutOptions(labels="some"))
    with pytest.raises(InputError, match=r"--modality 'pet'.*(choose one of them|leave --modality out)"):
        read(layout, tmp_path, LayoutOptions(modality="pet"))


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # permissions do not stop the tests where they run as root
    trees.btcv(tmp_path)
    closed = tmp_path / "RawData/Training/label"
    listing = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder == closed:
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(InputError, match=r"label cannot be read \(Permission denied\): allow it"):
        read("btcv", tmp_path)


def test_lists_replace_the_own_split_and_leave_out_what_has_no_label(tmp_path: Path) -> None:
    trees.btcv(tmp_path)
    own = read("btcv", tmp_path)
    assert names(own, test=True) == ["img0061", "img0062"]
    assert own.notes == (
        "6 cases for training and 2 for testing; FINE and GASA-UNet used 18 and 12, and did not print which: "
        "name yours by --test-list",
    )
    listed = read("btcv", tmp_path, LayoutOptions(test_cases=frozenset({"img0002", "img0005"})))
    assert names(listed, test=True) == ["img0002", "img0005"]
    assert names(listed, test=False) == ["img0001", "img0003", "img0004", "img0006"]
    assert listed.notes[0] == "left out: 2 of 8 cases, 2 without a label"
    both = LayoutOptions(test_cases=frozenset({"img0002"}), train_cases=frozenset({"img0001", "img0006"}))
    data = read("btcv", tmp_path, both)
    assert (names(data, test=True), names(data, test=False)) == (["img0002"], ["img0001", "img0006"])
    assert data.notes[0] == "left out: 5 of 8 cases, 2 without a label"


def test_a_list_of_training_cases_alone_keeps_the_own_test_cases(tmp_path: Path) -> None:
    trees.TREES["glas"](tmp_path / "glas")
    glas = read("glas", tmp_path / "glas", LayoutOptions(train_cases=frozenset({"train_1", "train_4", "testA_1"})))
    assert names(glas, test=False) == ["testA_1", "train_1", "train_4"]
    assert names(glas, test=True) == ["testB_1"]
    trees.btcv(tmp_path / "btcv")
    btcv = read("btcv", tmp_path / "btcv", LayoutOptions(train_cases=frozenset({"img0003"})))
    assert (names(btcv, test=False), names(btcv, test=True)) == (["img0003"], ["img0061", "img0062"])


def test_a_papers_own_numbers_need_no_note(tmp_path: Path) -> None:
    trees.btcv(tmp_path, train=30, test=0)
    test = frozenset(f"img{number:04d}" for number in range(1, 13))
    data = read("btcv", tmp_path, LayoutOptions(test_cases=test))
    assert (len(names(data, test=False)), len(names(data, test=True)), data.notes) == (18, 12, ())


ALL = frozenset(f"img{number:04d}" for number in range(1, 7))


@pytest.mark.parametrize(
    ("test", "train", "message"),
    [
        ({"img0061"}, None, r"list of test cases names img0061, which is not among the 6 labelled cases"),
        (None, {"7", "8"}, r"list of training cases names 7, 8, which are not .*\(img0001, "),
        ({"img0001"}, {"img0001"}, "img0001: listed for training and for testing"),
        (ALL, None, "none of the 6 labelled cases to train on"),
    ],
)
def test_wrong_lists_are_refused(test: set[str] | None, train: set[str] | None, message: str, tmp_path: Path) -> None:
    trees.btcv(tmp_path)
    test_cases, train_cases = (None if names is None else frozenset(names) for names in (test, train))
    with pytest.raises(InputError, match=message):
        read("btcv", tmp_path, LayoutOptions(test_cases=test_cases, train_cases=train_cases))


def test_btcv_has_13_organs_or_those_of_fine(tmp_path: Path) -> None:
    trees.btcv(tmp_path)
    all_organs = read("btcv", tmp_path / "RawData")
    assert len(all_organs.labels) == 14
    assert all_organs.labels["pancreas"] == 11
    assert all_organs.value_map == {value: value for value in range(14)}
    fine = read("btcv", tmp_path, LayoutOptions(labels="fine"))
    # by hand: 5 esophagus, 9 vena cava, 10 veins, 12 and 13 adrenal glands become background
    assert fine.value_map == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 0, 6: 5, 7: 6, 8: 7, 9: 0, 10: 0, 11: 8, 12: 0, 13: 0}
    assert list(fine.labels) == [
        *("background", "spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
    ]
    assert list(fine.labels.values()) == list(range(9))
    assert "one column for both kidneys" in fine.notes[-1]


def test_incomplete_cases_are_named(tmp_path: Path) -> None:
    trees.btcv(tmp_path)
    folder = tmp_path / "RawData/Training"
    (folder / "label/label0003.nii.gz").rename(folder / "label/label0009.nii.gz")
    with pytest.raises(InputError, match=r"1 of 6 cases have no label \(0003\): .*label0003\.nii\.gz is missing"):
        read("btcv", tmp_path)
    (folder / "img/img0003.nii.gz").unlink()
    with pytest.raises(InputError, match=r"have no image \(0009\): .*img0009\.nii\.gz is missing"):
        read("btcv", tmp_path)
    (folder / "label/organs.nii.gz").touch()
    with pytest.raises(InputError, match=r"organs\.nii\.gz: layout btcv has label0001"):
        read("btcv", tmp_path)


def test_two_of_the_same_tree_are_not_guessed_at(tmp_path: Path) -> None:
    trees.btcv(tmp_path / "one")
    trees.btcv(tmp_path / "two")
    with pytest.raises(
        InputError, match=r"has 2 folders in the layout btcv \(.*one/RawData, .*two/RawData\); give one"
    ):
        read("btcv", tmp_path)


def test_amos_tells_ct_from_mr_by_the_numbers(tmp_path: Path) -> None:
    trees.TREES["amos22"](tmp_path)
    both = read("amos22", tmp_path)
    assert both.channel_names == ("either_CT_or_MR",)
    assert names(both, test=False) == ["amos_0001", "amos_0004", "amos_0005", "amos_0009", "amos_0507", "amos_0508"]
    assert names(both, test=True) == ["amos_0013", "amos_0540"]
    assert {case.case: case.site for case in both.cases}["amos_0507"] == "MR"
    assert both.notes[0] == "left out: 2 of 10 cases, 2 without a label"
    assert "GASA-UNet used 240 and 80" in both.notes[1]
    assert "MR cases are annotated for 13 of the 15 organs" in both.notes[2]
    ct = read("amos22", tmp_path, LayoutOptions(modality="CT"))
    assert (ct.channel_names, names(ct, test=True), ct.cases[0].site) == (("CT",), ["amos_0013"], None)
    # the paper's numbers are of CT and MR together
    assert ct.notes == ("left out: 1 of 6 cases, 1 without a label",)
    mr = read("amos22", tmp_path, LayoutOptions(modality="mr"))
    assert (mr.channel_names, names(mr, test=False)) == (("MRI",), ["amos_0507", "amos_0508"])
    assert len(mr.labels) == 16
    assert mr.labels["prostate_uterus"] == 15


def test_amos_without_validation_labels_holds_out_the_unlabelled_images(tmp_path: Path) -> None:
    trees.amos(tmp_path, {"Tr": (1, 4), "Ts": (2,)})
    assert names(read("amos22", tmp_path), test=True) == ["amos_0002"]
    with pytest.raises(InputError, match="has no MR images"):
        read("amos22", tmp_path, LayoutOptions(modality="mr"))


def test_another_release_of_amos_is_refused(tmp_path: Path) -> None:
    trees.amos(tmp_path, {"Tr": (1, 4)})
    (tmp_path / "amos22/dataset.json").write_text('{"labels": {"0": "background", "1": "spleen"}}')
    with pytest.raises(InputError, match="AMOS 2022 has the labels 0 to 15"):
        read("amos22", tmp_path)
    (tmp_path / "amos22/dataset.json").write_text("[]")
    with pytest.raises(InputError, match="holds no JSON object"):
        read("amos22", tmp_path)
    (tmp_path / "amos22/dataset.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read("amos22", tmp_path)


def test_kits_has_its_hierarchical_classes_as_regions(tmp_path: Path) -> None:
    trees.kits(tmp_path)
    data = read("kits23", tmp_path)
    assert data.labels == {"background": 0, "kidney_and_masses": (1, 2, 3), "masses": (2, 3), "tumour": 2}
    assert data.regions_class_order == (1, 3, 2)
    assert len(data.cases) == 6
    assert data.cases == read("kits23", tmp_path / "kits23/dataset").cases
    (tmp_path / "kits23/dataset/case_00002/imaging.nii.gz").unlink()
    with pytest.raises(InputError, match=r"no image \(case_00002\): .*case_00002/imaging\.nii\.gz is missing"):
        read("kits23", tmp_path)
    (tmp_path / "kits23/dataset/case_00002/segmentation.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case_00002: layout kits23 looks for imaging\.nii\.gz and segmentation"):
        read("kits23", tmp_path)


def test_kits_before_its_images_were_fetched_says_how_to(tmp_path: Path) -> None:
    trees.kits(tmp_path)
    for image in tmp_path.rglob("imaging.nii.gz"):
        image.unlink()
    with pytest.raises(InputError, match=r"run kits23_download_data"):
        read("kits23", tmp_path)


def test_a_task_of_the_decathlon_describes_itself(tmp_path: Path) -> None:
    trees.task(tmp_path)
    data = read("msd", tmp_path)
    assert data.name == "Hippocampus"
    assert data.channel_names == ("MRI",)
    assert data.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert (data.licence, data.reference) == ("CC-BY-SA 4.0", "its makers")
    assert names(data, test=False) == [f"hippocampus_{number:03d}" for number in range(1, 7)]
    assert names(data, test=True) == ["hippocampus_101", "hippocampus_102"]
    assert not any(case.channels_in_file for case in data.cases)


def test_a_task_of_several_channels_has_them_in_one_file(tmp_path: Path) -> None:
    data = read("msd", trees.TREES["msd"](tmp_path))
    assert data.channel_names == ("T2", "ADC")
    assert all(case.channels_in_file and len(case.images) == 1 for case in data.cases)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"1": "Anterior"', '"3": "Anterior"', "'labels' is .* names 0, 1, 2, ... one by one, background first"),
        ('"modality"', '"mode"', "'modality' is None"),
        ("./imagesTr/hippocampus_002.nii.gz", "./imagesTr/hippocampus_099.nii.gz", "1 of the 6 training images"),
        (
            '"./imagesTr/hippocampus_002.nii.gz"',
            "5",
            "'training' is no list of images and labels; give the folder of a",
        ),
        ('"training": ', '"training": 5, "more": ', "'training' is no list"),
        ('"training": ', '"training": [5], "more": ', "'training' is no list"),
    ],
)
def test_a_damaged_task_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    file = trees.task(tmp_path) / "Task04_Hippocampus/dataset.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        read("msd", tmp_path)


@pytest.mark.parametrize("layout", ["binary-hippocampus", "binary-pancreas"])
def test_binary_layouts_merge_the_labels_of_their_task(layout: str, tmp_path: Path) -> None:
    organ = layout.removeprefix("binary-")
    data = read(layout, trees.TREES[layout](tmp_path / organ))
    assert data.labels == {"background": 0, organ: 1}
    assert data.value_map == {0: 0, 1: 1, 2: 1}
    assert data.name is None
    other = "binary-pancreas" if organ == "hippocampus" else "binary-hippocampus"
    with pytest.raises(InputError, match=rf"layout {other} has the labels .*give the folder of the right task"):
        read(other, tmp_path / organ)


def test_glas_knows_patients_and_numbers_glands_in_one_label(tmp_path: Path) -> None:
    data = read("glas", trees.TREES["glas"](tmp_path))
    assert names(data, test=True) == ["testA_1", "testB_1"]
    assert [case.patient for case in data.cases if not case.test] == ["1", "2", "3", "4", "5", "6"]
    assert [case.patient for case in data.cases if case.test] == ["20", "21"]
    assert len(data.notes) == 1
    label = data.cases[0].label
    assert label is not None and not isinstance(label, Path)
    array = label.read((24, 30))
    assert array.sum() == 4 * 6 + 10 * 2
    assert set(array.ravel().tolist()) == {0, 1}


def test_glas_keeps_the_challenges_split_where_patients_are_on_both_sides(tmp_path: Path) -> None:
    patients = {"train_1": 1, "train_2": 2, "testA_1": 2, "testA_2": 3}
    trees.glas(tmp_path, patients)
    data = read("glas", tmp_path)
    assert {case.case: case.patient for case in data.cases} == {
        **{"train_1": "1", "train_2": "2"},
        **{"testA_1": None, "testA_2": "3"},
    }
    assert "of the patients 2 on both sides: 1 of the test images" in data.notes[-1]
    # with a list of the user's own, patients stay as they are, and registering refuses what is on both sides
    listed = read("glas", tmp_path, LayoutOptions(test_cases=frozenset({"train_2"})))
    assert {case.patient for case in listed.cases if case.case in ("train_2", "testA_1")} == {"2"}


def test_glas_without_or_with_a_damaged_table_of_patients(tmp_path: Path) -> None:
    trees.glas(tmp_path, {"train_1": 1, "train_2": 2, "testA_1": 4})
    table = next(tmp_path.rglob("Grade.csv"))
    table.write_text(table.read_text().replace("train_2, 2", "train_9, 2"))
    assert "names no patient of train_2" in read("glas", tmp_path).notes[-1]
    table.write_text("name,patient ID\ntrain_1,1\ntrain_2\ntestA_1\n")
    short = read("glas", tmp_path)
    assert {case.case: case.patient for case in short.cases} == {"train_1": "1", "train_2": None, "testA_1": None}
    assert "names no patient of testA_1, train_2" in short.notes[-1]
    table.write_text("a;b\n1;2\n")
    with pytest.raises(InputError, match="no columns 'name' and 'patient ID'"):
        read("glas", tmp_path)
    table.unlink()
    data = read("glas", tmp_path)
    assert {case.patient for case in data.cases} == {None}
    assert "patients are not known" in data.notes[-1]
    next(tmp_path.rglob("train_2.bmp")).rename(tmp_path / "gland.bmp")
    with pytest.raises(InputError, match=r"no image \(train_2\)"):
        read("glas", tmp_path)


def test_monuseg_reads_both_archives_and_the_barcodes(tmp_path: Path) -> None:
    train = ["TCGA-18-5592-01Z-00-DX1", "TCGA-HE-7130-01Z-00-DX1"]
    trees.monuseg(tmp_path, train, ["TCGA-2Z-A9J9-01A-01-TS1"])
    data = read("monuseg", tmp_path)
    assert names(data, test=False) == train
    assert names(data, test=True) == ["TCGA-2Z-A9J9-01A-01-TS1"]
    known = {case.case: (case.patient, case.site) for case in data.cases}
    assert [known[name] for name in train] == [("TCGA-18-5592", "18"), ("TCGA-HE-7130", "HE")]
    only_training = read("monuseg", tmp_path / "MoNuSeg 2018 Training Data")
    assert (names(only_training, test=False), names(only_training, test=True)) == (train, [])
    shutil.rmtree(tmp_path / "MoNuSeg 2018 Training Data")
    with pytest.raises(InputError, match="looks for the training images"):
        read("monuseg", tmp_path)
    trees.monuseg(tmp_path, train)
    (tmp_path / "MoNuSeg 2018 Training Data/MoNuSeg 2018 Training Data/Annotations" / f"{train[0]}.xml").unlink()
    with pytest.raises(InputError, match=rf"no label \({train[0]}\)"):
        read("monuseg", tmp_path)


def test_brain_ultrasound_is_read_with_and_without_parts(tmp_path: Path) -> None:
    data = read("brain-us", trees.brain_us(tmp_path / "parts", {"train": 6, "test": 2}))
    assert names(data, test=True) == ["test_0", "test_1"]
    assert "used 1300 and 329" in data.notes[0]
    assert "of 20 infants" in data.notes[1]
    plain = read("brain-us", trees.brain_us(tmp_path / "plain", {"": 6}, masks="Masks"))
    assert names(plain, test=False) == list("012345")
    with pytest.raises(InputError, match="looks for train beside test"):
        read("brain-us", trees.brain_us(tmp_path / "test_only", {"test": 2}))
    (tmp_path / "plain/images/4.png").unlink()
    with pytest.raises(InputError, match=r"no image \(4\)"):
        read("brain-us", tmp_path / "plain")


def test_left_atrium_with_and_without_labels_of_its_test_images(tmp_path: Path) -> None:
    first = read("left-atrium", trees.left_atrium(tmp_path / "first"))
    assert first.value_map == {0: 0, 255: 1}
    assert [case.label for case in first.cases if case.test] == [None, None]
    later = read("left-atrium", trees.left_atrium(tmp_path / "later", test_labels=True))
    assert all(case.label for case in later.cases)
    assert len(names(later, test=True)) == 2
    removed = next((tmp_path / "later").rglob("Training Set/*/laendo.nrrd"))
    removed.unlink()
    with pytest.raises(
        InputError, match=rf"{re.escape(str(removed))} is missing; .*take the case {removed.parent.name}"
    ):
        read("left-atrium", tmp_path / "later")
