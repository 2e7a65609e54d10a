"""Wrong files for `nnunet-attn register`: what is missing, damaged, or does not fit."""

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.made.loose import SHAPE, cut, label, volume, write
from tests.made.wrong import Make, Wrong, after

REGISTER = ("register", "-d", "7", "-n", "Made")
FOLDERS = (*REGISTER, "--images", "images", "--labels", "labels")


def scans(ending: str = ".nii.gz", count: int = 3, values: Sequence[int] = (1,)) -> None:
    """Write images and labels of the same names."""
    for number in range(count):
        write(Path(f"images/case_{number}{ending}"), volume(number))
        write(Path(f"labels/case_{number}{ending}"), label(values, number=number))


def among_scans(change: Callable[[], object], *words: object, ending: str = ".nii.gz") -> Make:
    """Write three cases, make something wrong among them, and register them."""

    def make(_: Path) -> Sequence[object]:
        scans(ending)
        change()
        return [*FOLDERS, *words]

    return make


def _bent(file: str, **geometry: Sequence[float]) -> Callable[[], object]:
    return lambda: write(Path(file), label(), geometry.get("spacing"), geometry.get("origin"))


def _pictures(*channels: int) -> Make:
    """Write pictures of these numbers of channels, with masks."""

    def make(_: Path) -> Sequence[object]:
        for number, count in enumerate(channels):
            array = np.random.default_rng(number).integers(0, 256, (8, 9, count)).astype(np.uint8)
            image = sitk.GetImageFromArray(array if count > 1 else array[..., 0], isVector=count > 1)
            Path("images").mkdir(exist_ok=True)
            sitk.WriteImage(image, f"images/case_{number}.png")
            write(Path(f"labels/case_{number}.png"), label(shape=(8, 9)).astype(np.uint8))
        return FOLDERS

    return make


def _colours() -> None:
    array = np.zeros((*SHAPE, 3), np.uint8)
    array[0, 0] = (255, 0, 0)
    write(Path("labels/case_1.nii.gz"), array, vector=True)


def _not_finite(file: str, array: np.ndarray) -> Callable[[], object]:
    array = array.astype(np.float32)
    array[0, 0, 0] = np.nan
    return lambda: write(Path(file), array)


def _larger() -> Path:
    """Write an image of more than the first bytes, which are looked at to tell the format."""
    return write(Path("images/case_1.nii.gz"), volume(1, (20, 30, 40)))


def _corrupt_gzip() -> None:
    file = _larger()
    content = bytearray(file.read_bytes())
    content[-6] ^= 255  # of its checksum
    file.write_bytes(content)


def _cut_inside() -> None:
    """A gzip file that is whole, of a NIfTI file that is not."""
    file = Path("images/case_1.nii.gz")
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-100]))


def _numbered(*names: str) -> Make:
    """Write images of these names, without labels."""

    def make(_: Path) -> Sequence[object]:
        for seed, name in enumerate(names):
            write(Path("images", name), volume(seed))
        return (*REGISTER, "--images", "images", "--unlabeled")

    return make


def _long_name() -> Sequence[object]:
    Path("cases.csv").write_text(f"image,case\nimages/a.mha,{'case_' + 'x' * 245}\n")
    return (*REGISTER, "--csv", "cases.csv", "--unlabeled")


def _two_and_three_axes(_: Path) -> Sequence[object]:
    scans()
    write(Path("images/case_1.nii.gz"), volume(1, (6, 7)))
    write(Path("labels/case_1.nii.gz"), label(shape=(6, 7)))
    return FOLDERS


def _not_utf8(_: Path) -> Sequence[object]:
    """Name a file as Latin-1 does, which ITK cannot take."""
    scans()
    try:
        Path("images/case_1.nii.gz").rename("images/case_\udcfc.nii.gz")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    return (*REGISTER, "--images", "images", "--unlabeled")


def _listed(*names: str, folder: str = "labels") -> Make:
    """List cases of these names, all with one label."""

    def make(_: Path) -> Sequence[object]:
        scans()
        rows = [f"{name},images/case_{number}.nii.gz,{folder}/case_0.nii.gz" for number, name in enumerate(names)]
        Path("cases.csv").write_text("\n".join(["case,image,label", *rows]) + "\n")
        return (*REGISTER, "--csv", "cases.csv")

    return make


FILES = (
    Wrong(
        "the folder of images is not there",
        "none does not exist",
        "name the folder of the files",
        lambda _: (*REGISTER, "--images", "none"),
    ),
    Wrong(
        "the folder of images is empty",
        "images is empty",
        "name the folder that holds the files",
        after(lambda folder: (folder / "images").mkdir(), *REGISTER, "--images", "images"),
    ),
    Wrong(
        "an image without label",
        "case_1: its image has no label",
        "add one, leave out the case, or register with --unlabeled",
        among_scans(lambda: Path("labels/case_1.nii.gz").unlink()),
    ),
    Wrong(
        "a label without image",
        "labels/case_1.nii.gz is a label without image",
        "add the image, or leave the label out",
        among_scans(lambda: Path("images/case_1.nii.gz").unlink()),
    ),
    Wrong(
        "labels that are called otherwise",
        "no label in labels has the name of an image: labels are called of_case_0, ..., images case_0, ...",
        "say how names belong together by --pattern and --label-pattern, or by --csv",
        among_scans(lambda: [p.rename(p.with_name(f"of_{p.name}")) for p in list(Path("labels").iterdir())]),
    ),
    Wrong(
        "two labels for an image",
        "case_1: labels/case_1.nii.gz and labels/case_1_seg.nii.gz could both be its label",
        "keep one",
        among_scans(lambda: write(Path("labels/case_1_seg.nii.gz"), label())),
    ),
    Wrong(
        "two files of one name",
        "images/case_1.mha and images/case_1.nii.gz would be the same case",
        "keep one of them",
        among_scans(lambda: write(Path("images/case_1.mha"), volume())),
    ),
    Wrong(
        "names that would be the same for nnU-Net",
        "'a_b' would be the name of 2 cases ('a b' of images/a b.nii.gz, ...)",
        "give them names that differ in letters or digits",
        _numbered("a b.nii.gz", "a_b.nii.gz", "c.nii.gz"),
    ),
    Wrong(
        "a case that lacks a channel",
        "b: it has the channels 0000, other cases 0000, 0001",
        "add what is missing, or leave the case out",
        _numbered(
            *(f"{case}_{channel:04d}.nii.gz" for case in "abc" for channel in range(2) if (case, channel) != ("b", 1))
        ),
    ),
    Wrong("other numbers of channels", "case_1 has 1 channel, most have 3", "add or remove files", _pictures(3, 1, 3)),
    Wrong(
        "channels of different grids",
        "b: images/b_0001.nii.gz is 8 x 6 x 5 voxels and the first channel 7 x 6 x 5",
        "give files of one grid",
        lambda folder: (
            (*_numbered("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz")(folder),)
            if write(Path("images/b_0001.nii.gz"), volume(9, (5, 6, 8)))
            else ()
        ),
    ),
    Wrong(
        "a 4D image",
        "case_1: images/case_1.nii.gz has 4 axes (7 x 6 x 5 x 2); nnU-Net wants one 3D image a channel",
        "split it, for example by nibabel.four_to_three, or by fslsplit",
        among_scans(lambda: write(Path("images/case_1.nii.gz"), volume(shape=(2, *SHAPE)))),
    ),
    Wrong(
        "a 3D image said to hold channels",
        "case_0: images/case_0.nii.gz has 3 axes: channels in one file need a 4D image",
        "give one file a channel",
        after(lambda _: scans(count=1), *FOLDERS, "--channels-in-file"),
    ),
    Wrong("2D and 3D images", "case_1: its image is 2D, most are 3D", "register these apart", _two_and_three_axes),
    Wrong(
        "a label of another size",
        "case_1: labels/case_1.nii.gz is 8 x 6 x 5 voxels and the image 7 x 6 x 5",
        "give files of one grid",
        among_scans(lambda: write(Path("labels/case_1.nii.gz"), label(shape=(5, 6, 8)))),
    ),
    Wrong(
        "a label that lies a little beside its image",
        "case_1: labels/case_1.nii.gz has a place that differs a little from that of the image (origin "
        "0.5 voxels away)",
        "if the voxels fit, add --repair",
        among_scans(_bent("labels/case_1.nii.gz", origin=(0.5, 0, 0))),
    ),
    Wrong(
        "a label that lies elsewhere",
        "case_1: labels/case_1.nii.gz does not lie where the image does: origin 40 voxels away; that is too much to "
        "mend",
        "so resample it to the grid or give the right file",
        among_scans(_bent("labels/case_1.nii.gz", origin=(40, 0, 0)), "--repair"),
    ),
    Wrong(
        "a label of other spacing",
        "case_1: labels/case_1.nii.gz does not lie where the image does: spacing 1 x 1.5 x 3.3 mm, not 1 x 1.5 x 3 mm; "
        "that is too much to mend",
        "so resample it to the grid or give the right file",
        among_scans(_bent("labels/case_1.nii.gz", spacing=(1.0, 1.5, 3.3)), "--repair"),
    ),
    Wrong(
        "a label with values between integers",
        "case_1: labels/case_1.nii.gz: the label has values that are no integers, such as 0.5; it may be a probability "
        "map, or was resampled by interpolation",
        "give integers",
        among_scans(lambda: write(Path("labels/case_1.nii.gz"), label().astype(np.float32) * 0.5)),
    ),
    Wrong(
        "a label in colours",
        "case_1: labels/case_1.nii.gz: a label of 3 channels that differ, so its colours stand for values",
        "convert it to a grey image with one value for each label",
        among_scans(_colours),
    ),
    Wrong(
        "a label with NaN",
        "case_1: labels/case_1.nii.gz: the label has values that are not finite (NaN or infinite)",
        "set them to a label",
        among_scans(_not_finite("labels/case_1.nii.gz", label())),
    ),
    Wrong(
        "an image with NaN",
        "case_1: images/case_1.nrrd has 1 values that are not finite (NaN or infinite), which nnU-Net cannot train on",
        "replace them by the background's value",
        among_scans(_not_finite("images/case_1.nrrd", volume()), ending=".nrrd"),
    ),
    Wrong(
        "labels below 0",
        "label values below 0, whose meaning cannot be guessed: -1 in case_1",
        "correct these files, or name every value by --map, such as --map=-1=0, or one by --ignore",
        among_scans(lambda: write(Path("labels/case_1.nii.gz"), label((1, -1)))),
    ),
    Wrong(
        "a value that no label has",
        "label values that no label has: 4 in case_1",
        "correct these files, or name every value by --map, such as --map=4=0, or one by --ignore",
        among_scans(lambda: write(Path("labels/case_1.nii.gz"), label((1, 4))), "--label", "liver=1"),
    ),
    Wrong(
        "a value that no label has, beside one that a label has",
        "label values that no label has: 7 in case_1",
        "correct these files, or name every value by --map, such as --map=7=0, or one by --ignore",
        among_scans(lambda: write(Path("labels/case_1.nii.gz"), label((1, 7))), "--label", "liver=1", "tumour=2"),
    ),
    Wrong(
        "a name that is too long",
        "case_...: the case's name has 250 bytes",
        "rename it to have 240 at most",
        lambda folder: (_numbered("a.mha")(folder), _long_name())[1],
    ),
    Wrong(
        "a value outside of the map",
        "label values that neither the labels nor the value map name: 4 in case_1",
        "correct these files, or name every value by --map, such as --map=4=0, or one by --ignore",
        among_scans(lambda: write(Path("labels/case_1.nii.gz"), label((1, 4))), "--map", "1=1"),
    ),
    Wrong(
        "labels without foreground",
        "the labels have no foreground: all are 0 everywhere",
        "give the right files",
        among_scans(lambda: [write(p, label(())) for p in list(Path("labels").iterdir())]),
    ),
    Wrong(
        "images given as labels",
        "the labels have 999 different values, from 1 to 999; they may be images, or numbered instances",
        "give the label files, or map the values",
        among_scans(
            lambda: [
                write(p, volume(int(f == "images"), (20, 30, 30)))
                for f in ("labels", "images")
                for p in list(Path(f).iterdir())
            ]
        ),
    ),
    Wrong(
        "a corrupt gzip file",
        "case_1: images/case_1.nii.gz is damaged or cut short (gzip: CRC check failed ...)",
        "replace it or leave out the case",
        among_scans(_corrupt_gzip),
    ),
    Wrong(
        "a gzip file that was cut short",
        "case_1: images/case_1.nii.gz is damaged or cut short (gzip: Compressed file ended before the end-of-stream "
        "marker was reached)",
        "replace it or leave out the case",
        among_scans(lambda: cut(_larger())),
    ),
    Wrong(
        "a NIfTI file that was cut short before it was packed",
        "case_1: images/case_1.nii.gz is cut short: 672 bytes of the 772 in its header",
        "replace it or leave out the case",
        among_scans(_cut_inside),
    ),
    Wrong(
        "an NRRD file that was cut short",
        "case_1: images/case_1.nrrd cannot be read (...)",
        "replace it or leave out the case",
        among_scans(lambda: cut(Path("images/case_1.nrrd")), ending=".nrrd"),
    ),
    Wrong(
        "an MHA file that was cut short",
        "case_1: images/case_1.mha is cut short: ... bytes of the ... in its header",
        "replace it or leave out the case",
        among_scans(lambda: cut(Path("images/case_1.mha")), ending=".mha"),
    ),
    Wrong(
        "an empty file",
        "case_1: images/case_1.nii.gz cannot be read (Empty file: ...)",
        "replace it or leave out the case",
        among_scans(lambda: Path("images/case_1.nii.gz").write_bytes(b"")),
    ),
    Wrong(
        "another format than the ending says",
        "case_1: images/case_1.png cannot be read (cannot identify image file ...)",
        "replace it or leave out the case",
        lambda folder: (_pictures(3, 3)(folder), Path("images/case_1.png").write_text("no picture"))[0],
    ),
    Wrong(
        "a name that is not UTF-8",
        "case__: images/case_\\udcfc.nii.gz: this name, or that of a folder above, is not UTF-8",
        "rename it",
        _not_utf8,
    ),
    Wrong(
        "one label for two cases",
        "b: labels/case_0.nii.gz is the label of a too",
        "give each case its own",
        _listed("a", "b"),
    ),
    Wrong(
        "an image in place of its label",
        "a: its label images/case_0.nii.gz is the image of a",
        "give its label",
        _listed("a", folder="images"),
    ),
    Wrong(
        "a copy of an image in place of its label",
        "case_1: labels/case_1.nii.gz is the same image as the case's own",
        "give its label",
        among_scans(lambda: [write(Path(folder, "case_1.nii.gz"), label((1, 2))) for folder in ("images", "labels")]),
    ),
)
