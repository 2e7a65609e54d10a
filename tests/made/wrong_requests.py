"""Wrong requests to `nnunet-attn register`: flags, names, lists and folders."""

import os
from collections.abc import Sequence
from pathlib import Path

from tests.made.loose import volume, write
from tests.made.wrong import Make, Wrong, after
from tests.made.wrong_files import FOLDERS, scans


def _scans(*words: object) -> Make:
    return after(lambda _: scans(), *FOLDERS, *words)


def _renamed(number: str, name: str) -> Make:
    return after(lambda _: scans(), "register", "-d", number, "-n", name, *FOLDERS[5:])


def _listed(flag: str, *names: str) -> Make:
    def make(_: Path) -> Sequence[object]:
        scans()
        Path("list.txt").write_text("\n".join(names))
        return [*FOLDERS, flag, "list.txt"]

    return make


def _existing(folder: Path) -> Sequence[object]:
    scans()
    (folder / "raw" / "Dataset007_Other").mkdir()
    return FOLDERS


def _old_plans(folder: Path) -> Sequence[object]:
    scans()
    (folder / "preprocessed" / "Dataset007_Old").mkdir()
    return FOLDERS


def _same_image_in_test(_: Path) -> Sequence[object]:
    scans()
    write(Path("images/case_2.nii.gz"), volume(0))
    Path("list.txt").write_text("case_2\n")
    return [*FOLDERS, "--test-list", "list.txt"]


def _no_raw(_: Path) -> Sequence[object]:
    scans()
    os.environ.pop("nnUNet_raw")  # which the test sets anew
    return FOLDERS


def _raw_is_a_file(_: Path) -> Sequence[object]:
    scans()
    Path("file").touch()
    return [*FOLDERS, "--raw", "file"]


REQUESTS = (
    Wrong(
        "a number that nnU-Net does not have",
        "-d 1000",
        "nnU-Net's numbers go from 1 to 999",
        _renamed("1000", "Made"),
    ),
    Wrong(
        "a name with a space",
        "-n 'my data'",
        "a data set's name is made of letters, digits and underscores",
        _renamed("7", "my data"),
    ),
    Wrong(
        "no name",
        "-n is missing",
        "give the data set's name, such as -n Liver for DatasetNNN_Liver",
        after(lambda _: scans(), "register", "-d", "7", *FOLDERS[5:]),
    ),
    Wrong(
        "a number that is taken",
        ".../raw/Dataset007_Other exists",
        "choose another number, or remove that folder",
        _existing,
    ),
    Wrong(
        "a number whose data set was removed, but not its preprocessed images",
        ".../preprocessed/Dataset007_Old exists",
        "choose another number, or remove that folder",
        _old_plans,
    ),
    Wrong("`nnUNet_raw` is not set", "nnUNet_raw is not set", "set it, or name a folder by --raw", _no_raw),
    Wrong(
        "the raw folder is a file", "cannot make the folder file (File exists)", "choose another one", _raw_is_a_file
    ),
    Wrong(
        "a raw folder below a file, in a dry run too",
        "cannot make the folder images/case_0.nii.gz/raw (Not a directory)",
        "choose another one",
        _scans("--raw", "images/case_0.nii.gz/raw", "--dry-run"),
    ),
    Wrong(
        "a name of a data set that is too long",
        "the data set's name has 200 bytes (nnn...)",
        "give one of 120 at most",
        _renamed("7", "n" * 200),
    ),
    Wrong(
        "a flag of another source",
        "--source goes with --layout",
        "not with --images",
        _scans("--source", "x"),
    ),
    Wrong(
        "labels with `--unlabeled`",
        "--labels does not go with --unlabeled, which takes images alone",
        "leave one of the two out",
        _scans("--unlabeled"),
    ),
    Wrong(
        "a label without value",
        "--label 'liver'",
        "write NAME=VALUE, or NAME=VALUE,VALUE for a region; values are 0 or more",
        _scans("--label", "liver"),
    ),
    Wrong(
        "label values with gaps",
        "label values 0, 1, 3 have gaps; nnU-Net wants 0, 1, 2, ...",
        "number them so",
        _scans("--label", "liver=1", "tumour=3"),
    ),
    Wrong(
        "a region without order",
        "label 'both' is a region, so nnU-Net needs regions_class_order",
        "one value for each of both, tumour, the value that is written where this region is the last to claim a voxel",
        _scans("--label", "both=1,2", "tumour=2"),
    ),
    Wrong(
        "an order with a value of another region",
        "regions_class_order 2, 1: 1 stands for 'tumour', which has 2",
        "give one value of each of both, tumour, in this order",
        _scans("--label", "both=1,2", "tumour=2", "--regions-order", "2", "1"),
    ),
    Wrong(
        "an order that gives two regions one value",
        "regions_class_order 1, 1",
        "give each region a value of its own",
        _scans("--label", "a=1,2", "b=1,2", "--regions-order", "1", "1"),
    ),
    Wrong(
        "an order by which a small region is painted over",
        "regions_class_order 2, 1: the value 2, which is tumour and both, would be written as 1, which is both",
        "name large regions first, and give each value that lies in several a region of its own",
        _scans("--label", "tumour=2", "both=1,2", "--regions-order", "2", "1"),
    ),
    Wrong(
        "a region with the background in it",
        "label 'all' holds 0, which is the background",
        "leave 0 out of it",
        _scans("--label", "all=0,1", "tumour=2", "--regions-order", "1", "2"),
    ),
    Wrong(
        "a mapping that cannot be read",
        "--map '255:1'",
        "write OLD=NEW with two integers, such as 255=1",
        _scans("--map", "255:1"),
    ),
    Wrong("a value mapped twice", "--map '1=2': 1 becomes 1 already", "give it once", _scans("--map", "1=1", "1=2")),
    Wrong(
        "too many names of channels",
        "2 channel names (CT, PET), but every case has 1 channel",
        "give one name a channel",
        _scans("--channels", "CT", "PET"),
    ),
    Wrong(
        "an ending that nnU-Net does not read",
        "file ending '.txt': for 3D images nnU-Net reads .nii.gz .nii .mha .nrrd .tif .tiff",
        "give one of them",
        _scans("--file-ending", ".txt"),
    ),
    Wrong(
        "more cases held out than there are",
        "no case would be left for training",
        "hold out fewer",
        _scans("--test", "3"),
    ),
    Wrong(
        "a seed that is too large",
        "--seed 99999999999",
        "give a number from 0 to 4294967295",
        _scans("--test", "1", "--seed", "99999999999"),
    ),
    Wrong(
        "a case to leave out that is not there",
        "'case_9' of --leave-out is no case",
        "cases are called as 'case_0'",
        _scans("--leave-out", "case_9"),
    ),
    Wrong(
        "all cases left out",
        "--leave-out names every case",
        "keep some",
        _scans("--leave-out", "case_0", "case_1", "case_2"),
    ),
    Wrong(
        "a list that names no case",
        "'case_9' of --test-list is no case",
        "cases are called as 'case_0'",
        _listed("--test-list", "case_9"),
    ),
    Wrong(
        "a case in both lists",
        "'case_1' is in --test-list and in --train-list",
        "keep one",
        lambda folder: [*_listed("--test-list", "case_1")(folder), "--train-list", "list.txt"],
    ),
    Wrong(
        "a list that is not there",
        "--test-list none.txt cannot be read (No such file or directory)",
        "name a text file",
        _scans("--test-list", "none.txt"),
    ),
    Wrong(
        "one image in training and in test",
        "case_0, case_2: the same image is in training and in test",
        "leave one out, or put both into one split",
        _same_image_in_test,
    ),
)
