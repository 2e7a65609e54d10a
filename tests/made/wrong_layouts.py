"""Wrong downloads and flags for the known layouts of `nnunet-attn register`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.made import layout_trees
from tests.made.loose import volume, write
from tests.made.wrong import Make, Wrong

LAYOUT = ("register", "-d", "7", "--source", "download", "--layout")


def _download(write_tree: Callable[[Path], object], *words: object) -> Make:
    """Write a public data set as downloaded, and register it by its layout."""

    def make(_: Path) -> Sequence[object]:
        Path("download").mkdir()
        write_tree(Path("download"))
        return [*LAYOUT, *words]

    return make


def _without(name: str) -> Callable[[Path], object]:
    def write_tree(root: Path) -> None:
        layout_trees.btcv(root, train=3, test=0)
        (root / "RawData" / "Training" / name).unlink()

    return write_tree


def _btcv(root: Path) -> object:
    return layout_trees.btcv(root, train=3, test=0)


def _broken_task(root: Path) -> None:
    layout_trees.task(root, train=2, test=0)
    (root / "Task04_Hippocampus" / "dataset.json").write_text("{")


def _odd_task(root: Path) -> None:
    layout_trees.task(root, train=2, test=0)
    file = root / "Task04_Hippocampus" / "dataset.json"
    file.write_text(file.read_text().replace('"training": ', '"training": 5, "more": '))


def _listed_download(_: Path) -> Sequence[object]:
    _btcv(Path("download"))
    Path("list.txt").write_text("img0099\n")
    return [*LAYOUT, "btcv", "--test-list", "list.txt"]


LAYOUTS = (
    Wrong(
        "a layout that is not known",
        "--layout 'btvc' is not known",
        "layouts are btcv, amos22, kits23, msd, glas, monuseg, brain-us, left-atrium, binary-hippocampus, "
        "binary-pancreas",
        _download(lambda _: None, "btvc"),
    ),
    Wrong(
        "a layout without its folder",
        "--source is missing",
        "name the folder that the download was unpacked to",
        lambda _: ["register", "-d", "7", "--layout", "btcv"],
    ),
    Wrong(
        "another tree than the layout's",
        "download: layout btcv looks for Training/img and Training/label in it, or up to 3 folders below, and found "
        "images/",
        "give the folder that the download was unpacked to (see docs/reference/layouts.md)",
        _download(lambda root: write(root / "images" / "a.nii.gz", volume()), "btcv"),
    ),
    Wrong(
        "a download without one of its labels",
        "1 of 3 cases have no label (0002): download/.../label0002.nii.gz is missing",
        "unpack all of the download, or take the files of these cases out of it",
        _download(_without("label/label0002.nii.gz"), "btcv"),
    ),
    Wrong(
        "labels that a layout does not have",
        "--labels 'coarse': layout btcv has 13, fine",
        "choose one of them",
        _download(_btcv, "btcv", "--labels", "coarse"),
    ),
    Wrong(
        "a modality of a layout that has one",
        "--modality 'ct': layout btcv has one kind only",
        "leave --modality out",
        _download(_btcv, "btcv", "--modality", "ct"),
    ),
    Wrong(
        "a list with a case that the layout does not have",
        "the list of test cases names img0099, which is not among the 3 labelled cases (img0001, ...)",
        "correct the list",
        _listed_download,
    ),
    Wrong(
        "a layout with a flag that it answers itself",
        "--label does not go with --layout, which knows the data set",
        "leave it out",
        _download(_btcv, "btcv", "--label", "liver=1"),
    ),
    Wrong(
        "a layout with channels called VALUE=NAME",
        "--channels 'CT=X' does not go with --layout, which knows which channel is which",
        "give the name alone, 'X'",
        _download(_btcv, "btcv", "--channels", "CT=X"),
    ),
    Wrong(
        "a task whose list of images is none",
        "download/Task04_Hippocampus/dataset.json: 'training' is no list of images and labels",
        "give the folder of a task as it was unpacked",
        _download(_odd_task, "msd"),
    ),
    Wrong(
        "a task of another organ",
        "download: layout binary-hippocampus has the labels anterior, posterior, this task a, b, c",
        "give the folder of the right task, or use layout msd",
        _download(lambda root: layout_trees.task(root, labels=("a", "b", "c")), "binary-hippocampus"),
    ),
    Wrong(
        "a `dataset.json` that cannot be read",
        "download/Task04_Hippocampus/dataset.json cannot be read as JSON (...)",
        "unpack it again",
        _download(_broken_task, "msd"),
    ),
)
