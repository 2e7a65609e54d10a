"""Cases from folders, patterns and tables; files are only named here, not read."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering.held_out import hold_out_drawn, hold_out_listed, read_names
from nnunet_attn.registering.model import SourceCase
from nnunet_attn.registering.naming import Found, counted, legal_name, stem
from nnunet_attn.registering.sources import from_csv, from_folders, from_pattern
from tests.made.loose import dicom_series, volume


def touch(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def told(found: Found, root: Path) -> dict[str, tuple[str, ...]]:
    """Case -> its files, the label last, relative to a folder."""
    return {
        case.case: tuple(
            file.relative_to(root).as_posix()
            for file in (*case.images, *([case.label] if isinstance(case.label, Path) else []))
        )
        for case in found.cases
    }


@pytest.mark.parametrize(
    ("name", "without"), [("a.nii.gz", "a"), ("a.1.NII.GZ", "a.1"), ("b.png", "b"), ("notes.txt", "notes.txt")]
)
def test_endings_are_taken_off_names(name: str, without: str) -> None:
    assert stem(name) == without


@pytest.mark.parametrize(
    ("images", "labels", "wanted"),
    [
        ("a.mha b.mha", "a.mha b.mha", {"a": "a.mha a.mha", "b": "b.mha b.mha"}),
        ("a.png b.png", "a_seg.png b-Label.png", {"a": "a.png a_seg.png", "b": "b.png b-Label.png"}),
        # an exact name goes before one without suffix
        ("a.png a_seg.png", "a.png a_seg.png", {"a": "a.png a.png", "a_seg": "a_seg.png a_seg.png"}),
        # what all images end with is no part of the name where labels do not have it
        ("a_ct.nii b_ct.nii", "a_mask.nii b_mask.nii", {"a": "a_ct.nii a_mask.nii", "b": "b_ct.nii b_mask.nii"}),
        ("a_0000.nii a_0001.nii", "a.nii", {"a": "a_0000.nii a_0001.nii a.nii"}),
        # numbers that labels have too are part of the name, though they look like channels
        ("p_0000.nii p_0001.nii", "p_0000.nii p_0001.nii", {f"p_000{n}": f"p_000{n}.nii p_000{n}.nii" for n in (0, 1)}),
        ("p_0001.nii q_0002.nii", "", {"p_0001": "p_0001.nii", "q_0002": "q_0002.nii"}),
    ],
)
def test_folders_pair_images_and_labels(tmp_path: Path, images: str, labels: str, wanted: dict[str, str]) -> None:
    touch(tmp_path / "i", images.split())
    touch(tmp_path / "l", labels.split())
    found = from_folders([tmp_path / "i"], tmp_path / "l" if labels else None)
    assert {
        case: " ".join(Path(file).name for file in files) for case, files in told(found, tmp_path).items()
    } == wanted
    assert all(
        file.startswith("i/") for files in told(found, tmp_path).values() for file in files[: -1 if labels else None]
    )


@pytest.mark.parametrize(
    "names",
    [("{}.nii", "{}.nii"), ("{}_0000.nii", "{}_0001.nii"), ("{}_t1.nii", "{}_flair.nii")],
)
def test_several_folders_are_channels(tmp_path: Path, names: tuple[str, str]) -> None:
    for channel, name in enumerate(names):
        touch(tmp_path / str(channel), [name.format(case) for case in ("a", "b")])
    found = from_folders([tmp_path / "0", tmp_path / "1"], channels=["T1", "FLAIR"])
    wanted = {case: tuple(f"{channel}/{name.format(case)}" for channel, name in enumerate(names)) for case in "ab"}
    assert told(found, tmp_path) == wanted
    assert found.channel_names == ("T1", "FLAIR")


def test_a_sub_folder_is_a_dicom_series(tmp_path: Path) -> None:
    touch(tmp_path / "dicom", ["p1/study/series/IM0", "p1/study/series/IM1", "p2/IM0"])
    assert told(from_folders([tmp_path / "dicom"]), tmp_path) == {"p1": ("dicom/p1/study/series",), "p2": ("dicom/p2",)}
    series = dicom_series(tmp_path / "one" / "series", volume())
    assert told(from_folders([tmp_path / "one"]), tmp_path) == {"series": ("one/series",)}
    with pytest.raises(InputError, match=r"slices of one DICOM series .* name the folder above"):
        from_folders([series])


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ([], ["i does not exist"]),
        (["i/"], ["is empty"]),
        (["i/notes.txt"], ["no image of a known ending", "notes.txt", "sub-folder"]),
        (["i/a.nii", "i/a.mha"], ["a.mha", "a.nii", "same case"]),
        (["i/a.nii", "i/b/IM0"], ["files (a.nii)", "folders (b)", "--pattern"]),
        (["i/a/ct/IM0", "i/a/pet/IM0"], ["a: ", "holds the folders ct, pet", "/{case}/ct'"]),
        (["i/a.nii", "i/b.nii", "l/a.nii", "l/c.nii"], ["c.nii", "label without image", "leave the label out"]),
        (["i/a.nii", "i/b.nii", "l/x1.nii", "l/x2.nii"], ["no label", "x1", "--label-pattern", "--csv"]),
        (["i/a.nii", "l/a.nii", "l/a_seg.nii"], ["a.nii", "a_seg.nii", "could both be its label"]),
        (["i/a b.nii", "i/a_b.nii", "l/a b.nii", "l/a_b.nii"], ["'a_b'", "2 cases", "'a b'"]),
        (["i/a_0000.nii", "i/a_0001.nii", "i/b_0000.nii", "l/a.nii", "l/b.nii"], ["b: it has the channels 0000,"]),
        (["i/a_0000.nii", "i/a_0001.nii"], ["channels of one case or a case each", "{case}.nii"]),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, files: list[str], parts: list[str]) -> None:
    touch(tmp_path, [file for file in files if not file.endswith("/")])
    if "i/" in files:
        (tmp_path / "i").mkdir()
    labels = tmp_path / "l"
    with pytest.raises(InputError) as error:
        from_folders([tmp_path / "i"], labels if labels.exists() else None)
    assert all(part in str(error.value) for part in parts), error.value


def test_channels_of_several_folders_must_agree(tmp_path: Path) -> None:
    touch(tmp_path, ["x/a.nii", "x/b.nii", "y/a.nii"])
    with pytest.raises(InputError, match=r"^b: it has no image in .*y; add it"):
        from_folders([tmp_path / "x", tmp_path / "y"])
    with pytest.raises(InputError, match="twice"):
        from_folders([tmp_path / "x", tmp_path / "x"])
    with pytest.raises(InputError, match=r"--channels CT does not fit the source"):
        from_folders([tmp_path / "y", touch(tmp_path / "z", ["a.nii"])], channels=["CT"])
    with pytest.raises(InputError, match="folder of the images and of the labels"):
        from_folders([tmp_path / "x"], tmp_path / "x")


def test_names_become_legal_and_other_files_are_told(tmp_path: Path) -> None:
    touch(tmp_path / "i", ["Patient 1 (a).png", "b+c.png", "notes.txt", ".hidden.png"])
    found = from_folders([tmp_path / "i"])
    assert [case.case for case in found.cases] == ["Patient_1_a_", "b_c"]
    assert any("'b+c' -> 'b_c'" in note for note in found.notes) and any("notes.txt" in note for note in found.notes)
    assert legal_name(legal_name("Ä b")) == legal_name("Ä b") == "Ä_b"


def test_pattern_with_every_group(tmp_path: Path) -> None:
    touch(
        tmp_path,
        [
            f"{split}/{site}/p{patient}/x{visit}_{file}.nii.gz"
            for split, site, patient in (("train", "ulm", 1), ("test", "bonn", 2))
            for visit in (1, 2)
            for file in ("t1", "flair", "seg")
        ],
    )
    found = from_pattern(
        f"{tmp_path}/{{split}}/{{site}}/{{patient}}/x{{case}}_{{channel}}.nii.gz",
        f"{tmp_path}/*/*/{{patient}}/x{{case}}_seg.nii.gz",
        channels=["T1", "FLAIR"],
        case_name="{patient}_{case}",
    )
    assert [(case.case, case.patient, case.site, case.test) for case in found.cases] == [
        ("p1_1", "p1", "ulm", False),
        ("p1_2", "p1", "ulm", False),
        ("p2_1", "p2", "bonn", True),
        ("p2_2", "p2", "bonn", True),
    ]
    assert found.splits and found.channel_names == ("T1", "FLAIR")
    folder = "train/ulm/p1/x1"
    assert told(found, tmp_path)["p1_1"] == (f"{folder}_t1.nii.gz", f"{folder}_flair.nii.gz", f"{folder}_seg.nii.gz")


def test_patterns_reach_into_folders_and_take_series(tmp_path: Path) -> None:
    touch(tmp_path, ["a[1]/deep/er/1.png", "a[1]/2.png", "s/p1/dicom/IM0", "s/p2/dicom/IM0"])
    found = from_pattern(f"{tmp_path}/a[1]/**/{{case}}.png")
    assert told(found, tmp_path) == {"1": ("a[1]/deep/er/1.png",), "2": ("a[1]/2.png",)}
    assert told(from_pattern(f"{tmp_path}/s/{{case}}/dicom/"), tmp_path) == {
        "p1": ("s/p1/dicom",),
        "p2": ("s/p2/dicom",),
    }
    assert told(from_pattern(f"{tmp_path}/a[1]/{{case}}"), tmp_path)["2"] == ("a[1]/2.png",)


def test_channels_are_sorted_as_numbers_or_named_by_their_values(tmp_path: Path) -> None:
    touch(tmp_path, [f"a-{n}.nii" for n in (2, 10, 1)] + [f"b/c_{name}.nii" for name in ("t2", "t1")])
    found = from_pattern(f"{tmp_path}/{{case}}-{{channel}}.nii")
    assert told(found, tmp_path) == {"a": ("a-1.nii", "a-2.nii", "a-10.nii")} and found.channel_names is None
    assert from_pattern(f"{tmp_path}/b/{{case}}_{{channel}}.nii").channel_names == ("t1", "t2")
    found = from_pattern(f"{tmp_path}/b/{{case}}_{{channel}}.nii", channels=["t2=T2w", "t1=T1w"])
    assert told(found, tmp_path) == {"c": ("b/c_t2.nii", "b/c_t1.nii")} and found.channel_names == ("T2w", "T1w")


@pytest.mark.parametrize("case_name", ["x", "{channel}", "{case}_{age}", "{}"])
def test_names_of_cases_are_made_of_groups(tmp_path: Path, case_name: str) -> None:
    with pytest.raises(InputError, match=r"--case-name .* made of groups"):
        from_pattern(f"{touch(tmp_path, ['a.png'])}/{{case}}.png", case_name=case_name)
    assert [case.case for case in from_pattern(f"{tmp_path}/{{case}}.png", case_name="{case}{").cases] == ["a_"]


@pytest.mark.parametrize(
    ("pattern", "labels", "parts"),
    [
        ("{{case}}.mha", None, ["no file fits", "quote it"]),
        ("{{case}}.txt", None, ["notes.txt", "no known ending"]),
        ("{{name}}.png", None, ["{name} is not known", "{case}, {channel}"]),
        ("a.png", None, ["has no {case}"]),
        ("**.png", None, ["write **/"]),
        ("d*/{{case}}.png", None, ["d1/x.png", "d2/x.png", "both its image", "--case-name"]),
        ("{{case}}.png", "d*/{{case}}.png", ["both fit --label-pattern"]),
        ("{{case}}.png", "d1/{{case}}.png", ["x.png is a label without image"]),
        ("{{case}}.png", "{{case}}.png", ["are labels"]),
        ("{{case}}.png", "{{channel}}/{{case}}.png", ["a label has no {channel}"]),
        ("d1/{{case}}_{{channel}}.png", None, ["q: it has no image t2"]),
        ("{{split}}/{{case}}_t1.png", None, ["'d1' is neither train nor test"]),
    ],
)
def test_patterns_that_are_refused(tmp_path: Path, pattern: str, labels: str | None, parts: list[str]) -> None:
    touch(
        tmp_path, ["a.png", "b.png", "notes.txt", "d1/x.png", "d2/x.png", "d1/p_t1.png", "d1/p_t2.png", "d1/q_t1.png"]
    )
    with pytest.raises(InputError) as error:
        from_pattern(f"{tmp_path}/{pattern.format()}", None if labels is None else f"{tmp_path}/{labels.format()}")
    assert all(part in str(error.value) for part in parts), error.value


def write_csv(folder: Path, text: str) -> Path:
    touch(folder, ["a.nii", "b.nii", "a1.nii", "b1.nii", "s/a.nii", "s/b.nii"])
    (folder / "t.csv").write_text(text, encoding="utf-8")
    return folder / "t.csv"


def test_csv_with_every_column(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path,
        "\ufeffcase;Image_FLAIR;image_T1;Label;patient;site;split\n"
        "\none;a.nii;a1.nii;s/a.nii;p;ulm;train\ntwo;b.nii;b1.nii;;q;bonn;Test\n",
    )
    found = from_csv(file)
    assert told(found, tmp_path) == {"one": ("a.nii", "a1.nii", "s/a.nii"), "two": ("b.nii", "b1.nii")}
    assert [(case.patient, case.site, case.test) for case in found.cases] == [("p", "ulm", False), ("q", "bonn", True)]
    assert found.channel_names == ("FLAIR", "T1") and found.splits


def test_csv_names_cases_by_their_images(tmp_path: Path) -> None:
    file = write_csv(tmp_path, f"image_0001,image_0000\nb1.nii,b.nii\na1.nii,{tmp_path}/a.nii\n")
    found = from_csv(file, channels=["CT", "PET"])
    assert told(found, tmp_path) == {"a": ("a.nii", "a1.nii"), "b": ("b.nii", "b1.nii")}
    assert found.channel_names == ("CT", "PET") and not found.splits


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["no cases"]),
        ("image,label\n", ["no cases"]),
        ("case,label\na,a.nii\n", ["no column image"]),
        ("image,age\na.nii,5\n", ["line 1", "'age' is not known"]),
        ("image,image\na.nii,b.nii\n", ["line 1", "there twice"]),
        ("image,image_0001\na.nii,b.nii\n", ["image and image_0001"]),
        ("image,label\na.nii,s/a.nii\nb.nii\n", ["line 3", "1 cell,"]),
        ("image,label\na.nii,s/a.nii\nb.nii,\n", ["line 3", "label is empty"]),
        ("image,patient\na.nii,p\nb.nii, \n", ["line 3", "patient is empty"]),
        ("image\na.nii\nc.nii\n", ["line 3", "c.nii does not exist"]),
        ("image,case\na.nii,x\nb.nii,x\n", ["line 3", "the case 'x' is in line 2 too"]),
        ("image,case\na.nii,x\na.nii,y\n", ["line 3", "a.nii is in line 2 too"]),
        ("image,split\na.nii,valid\n", ["line 2", "'valid'", "write train"]),
        ("image,split\na.nii,later\n", ["line 2", "'later' is neither train nor test"]),
        ('image\na.nii\n"b.nii\n', ["line 3", "quotation marks"]),
        ("image\n" + "none.nii\n" * 12, ["12 lines are refused", "line 11", "and 2 more"]),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, parts: list[str]) -> None:
    file = write_csv(tmp_path, text)
    with pytest.raises(InputError) as error:
        from_csv(file)
    assert all(part in str(error.value) for part in parts), error.value


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        from_csv(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"image\n\xe4.nii\n")
    with pytest.raises(InputError, match="not UTF-8"):
        from_csv(tmp_path / "latin.csv")


def cases(patients: str) -> tuple[SourceCase, ...]:
    """A case for each letter, its patient; `-` has none."""
    return tuple(
        SourceCase(f"c{number:02d}", (Path(f"{number}.nii"),), patient=None if patient == "-" else patient)
        for number, patient in enumerate(patients)
    )


def test_drawn_cases_are_whole_patients() -> None:
    for seed in range(20):
        drawn = hold_out_drawn(cases("aabbbbc--cdd"), 4, seed)
        assert sum(case.test for case in drawn) == 4
        tested = {case.patient for case in drawn if case.test and case.patient}
        assert not tested & {case.patient for case in drawn if not case.test}
    assert hold_out_drawn(cases("-" * 10), 3, 1) == hold_out_drawn(cases("-" * 10)[::-1], 3, 1)[::-1]
    draws = {tuple(case.test for case in hold_out_drawn(cases("-" * 10), 3, seed)) for seed in range(10)}
    assert len(draws) > 5


@pytest.mark.parametrize(
    ("patients", "number", "part"),
    [
        ("aabb", 1, "do not make 1; ask for --test 2"),
        ("aaabbb", 2, "ask for --test 3"),
        ("aaa", 1, "one patient only"),
        ("--", 2, "no case would be left"),
        ("--", 0, "1 case or more"),
    ],
)
def test_draws_that_are_refused(patients: str, number: int, part: str) -> None:
    with pytest.raises(InputError, match=part):
        hold_out_drawn(cases(patients), number, 0)


def test_lists_name_cases_as_the_source_or_the_data_set_does(tmp_path: Path) -> None:
    file = tmp_path / "test.txt"
    file.write_text("# held out\nc 01.nii.gz\n\nc02\n")
    given = tuple(SourceCase(name, ()) for name in ("c_01", "c02", "c03", "c04"))
    names = read_names(file)
    assert [case.test for case in hold_out_listed(given, names)] == [True, True, False, False]
    assert [case.case for case in hold_out_listed(given, names, ["c04"])] == ["c_01", "c02", "c04"]
    for test, train, part in (
        (["x"], None, "'x' of --test-list is no case; cases are called as 'c02'"),
        (["c02"], ["c02"], "in --test-list and in --train-list"),
        (["c_01", "c02", "c03", "c04"], None, "no case would be left"),
    ):
        with pytest.raises(InputError, match=part):
            hold_out_listed(given, test, train)
    for content, part in (("a\nb\na\n", "line 3: 'a' is in line 1 too"), ("# none\n", "names no case")):
        file.write_text(content)
        with pytest.raises(InputError, match=part):
            read_names(file)


def test_one_is_not_many(tmp_path: Path) -> None:
    assert [counted(number, "case") for number in (0, 1, 2)] == ["0 cases", "1 case", "2 cases"]
    touch(tmp_path / "i", ["a b.png", "notes.txt"])
    assert [note.partition(" in ")[0] for note in from_folders([tmp_path / "i"]).notes] == [
        "left out as no images: 1 file",
        "made legal for nnU-Net: 1 name of cases, 'a b' -> 'a_b'",
    ]


def test_seeds_are_those_that_numpy_takes() -> None:
    for seed in (-1, 2**32):
        with pytest.raises(InputError, match=rf"--seed {seed}: give a number from 0 to 4294967295"):
            hold_out_drawn(cases("----"), 1, seed)
    assert sum(case.test for case in hold_out_drawn(cases("----"), 1, 2**32 - 1)) == 1


@pytest.mark.parametrize("test_labels", ["l", "tl"])
def test_training_and_test_folders_together(tmp_path: Path, test_labels: str) -> None:
    touch(tmp_path, ["tr/a.nii", "tr/b.nii", "ts/c.nii", "ts/d.nii", "l/a.nii", "l/b_seg.nii", f"{test_labels}/c.nii"])
    given = [tmp_path / "tr"], tmp_path / "l", None, [tmp_path / "ts"], tmp_path / "tl" if test_labels == "tl" else None
    found = from_folders(*given)
    assert told(found, tmp_path) == {
        "a": ("tr/a.nii", "l/a.nii"),
        "b": ("tr/b.nii", "l/b_seg.nii"),
        "c": ("ts/c.nii", f"{test_labels}/c.nii"),
        "d": ("ts/d.nii",),
    }
    assert [case.case for case in found.cases if case.test] == ["c", "d"] and found.splits
    touch(tmp_path, [f"{test_labels}/e.nii"])
    with pytest.raises(InputError, match=r"e\.nii is a label without image"):
        from_folders(*given)
    (tmp_path / test_labels / "e.nii").unlink()
    touch(tmp_path, ["ts/a.nii"])
    with pytest.raises(InputError, match="'a' would be the name of 2 cases"):
        from_folders(*given)
