"""Small public data sets, in the exact trees that their downloads unpack to."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import SimpleITK as sitk

SHAPE = (5, 9, 11)
"""Of the made images, (z y x)."""

TASK_LABELS = {"Hippocampus": ("Anterior", "Posterior"), "Pancreas": ("pancreas", "cancer")}


def volume(file: Path, values: Sequence[int] = (), channels: int = 0, seed: int = 0) -> Path:
    """Write a 3D image, or a label with a block for each value, or a 4D image with some channels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if values:
        array = np.zeros(SHAPE, np.uint8)
        for index, value in enumerate(values):
            array[1 + index % 3, 1 + index // 3, 2:5] = value
    else:
        array = np.random.default_rng(seed).normal(size=(*([channels] if channels else []), *SHAPE)).astype(np.float32)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing((0.8, 0.8, 3.0, 1.0)[: image.GetDimension()])
    image.SetOrigin((-10.0, 5.0, 20.0, 0.0)[: image.GetDimension()])
    sitk.WriteImage(image, str(file), useCompression=True)
    return file


def picture(file: Path, seed: int, size: tuple[int, int] = (24, 30)) -> Path:
    """Write an image in colour, (y x)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(file, np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))
    return file


def mask(file: Path, array: np.ndarray) -> Path:
    """Write a 2D mask."""
    file.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(file, array)
    return file


def numbers(first: int, count: int) -> range:
    return range(first, first + count)


def btcv(root: Path, train: int = 6, test: int = 2) -> Path:
    """`RawData` with all 13 organs in each label."""
    for number in numbers(1, train):
        volume(root / f"RawData/Training/img/img{number:04d}.nii.gz", seed=number)
        volume(root / f"RawData/Training/label/label{number:04d}.nii.gz", range(1, 14))
    for number in numbers(61, test):
        volume(root / f"RawData/Testing/img/img{number:04d}.nii.gz", seed=number)
    return root


def amos(root: Path, parts: Mapping[str, Sequence[int]]) -> Path:
    """`amos22`: numbers of the cases of `Tr`, `Va` and `Ts`; the last have no labels."""
    organs = (*(f"organ {value}" for value in range(1, 15)), "prostate/uterus")
    labels = {"0": "background", **{str(value): organ for value, organ in enumerate(organs, 1)}}
    for part, cases in parts.items():
        for number in cases:
            volume(root / f"amos22/images{part}/amos_{number:04d}.nii.gz", seed=number)
            if part != "Ts":
                volume(root / f"amos22/labels{part}/amos_{number:04d}.nii.gz", range(1, 16 if number <= 500 else 14))
    (root / "amos22/dataset.json").write_text(json.dumps({"name": "AMOS", "labels": labels}))
    return root


def kits(root: Path, cases: Sequence[int] = range(6)) -> Path:
    """The challenge's repository, with images."""
    for number in cases:
        case = root / f"kits23/dataset/case_{number:05d}"
        volume(case / "imaging.nii.gz", seed=number)
        volume(case / "segmentation.nii.gz", (1, 2, 3))
        volume(case / "instances/kidney_instance-1_annotation-1.nii.gz", (1,))
    (root / "kits23/kits23").mkdir()
    return root


def task(
    root: Path,
    folder: str = "Task04_Hippocampus",
    labels: Sequence[str] = TASK_LABELS["Hippocampus"],
    modality: Sequence[str] = ("MRI",),
    train: int = 6,
    test: int = 2,
) -> Path:
    """A task of the Decathlon, with the files that macOS left in its archives."""
    prefix = folder.partition("_")[2].lower()
    listed = []
    for number in numbers(1, train):
        name = f"{prefix}_{number:03d}.nii.gz"
        channels = len(modality) if len(modality) > 1 else 0
        volume(root / folder / "imagesTr" / name, channels=channels, seed=number)
        volume(root / folder / "labelsTr" / name, range(1, len(labels) + 1))
        for part in ("imagesTr", "labelsTr"):
            (root / folder / part / f"._{name}").write_bytes(b"Mac OS X")
        listed.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    for number in numbers(101, test):
        channels = len(modality) if len(modality) > 1 else 0
        volume(root / folder / f"imagesTs/{prefix}_{number:03d}.nii.gz", channels=channels, seed=number)
    content = {
        "name": folder.partition("_")[2],
        "reference": "its makers",
        "licence": "CC-BY-SA 4.0",
        "modality": {str(index): name for index, name in enumerate(modality)},
        "labels": {str(value): name for value, name in enumerate(("background", *labels))},
        "training": listed,
        "test": [],
    }
    (root / folder / "dataset.json").write_text(json.dumps(content))
    return root


def glas(root: Path, patients: Mapping[str, int]) -> Path:
    """The Warwick-QU folder: the images of these names, with two glands each, and their patients."""
    folder = root / "Warwick QU Dataset (Released 2016_07_08)"
    rows = ["name, patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]
    for seed, (name, patient) in enumerate(patients.items()):
        picture(folder / f"{name}.bmp", seed)
        array = np.zeros((24, 30), np.uint8)
        array[2:6, 3:9], array[10:20, 12:14] = 1, 2
        mask(folder / f"{name}_anno.bmp", array)
        rows.append(f"{name}, {patient}, benign, healthy")
    (folder / "Grade.csv").write_text("\r\n".join(rows) + "\r\n")
    return root


def outlines(file: Path, polygons: Sequence[Sequence[tuple[float, float]]]) -> Path:
    """Write outlines, each of (column, row) points, as Aperio ImageScope does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    regions = "".join(
        f'<Region Id="{index}" Type="0" NegativeROA="0"><Attributes/><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in polygon)
        + "</Vertices></Region>"
        for index, polygon in enumerate(polygons, 1)
    )
    file.write_text(
        '<?xml version="1.0"?><Annotations MicronsPerPixel="0.252"><Annotation Id="1"><Attributes/><Regions>'
        f"<RegionAttributeHeaders/>{regions}</Regions><Plots/></Annotation></Annotations>"
    )
    return file


SQUARE = ((4.0, 2.0), (9.0, 2.0), (9.0, 6.0), (4.0, 6.0))
"""Columns 4 to 9, rows 2 to 6."""


def monuseg(root: Path, train: Sequence[str], test: Sequence[str] = ()) -> Path:
    """Both archives of the challenge, each in a folder of its own name."""
    first, second = (f"{name}/{name}" for name in ("MoNuSeg 2018 Training Data", "MoNuSegTestData"))
    for seed, name in enumerate([*train, *test]):
        inside = root / (first if seed < len(train) else second)
        picture(inside / ("Tissue Images" if seed < len(train) else "") / f"{name}.tif", seed)
        annotation = inside / ("Annotations" if seed < len(train) else "") / f"{name}.xml"
        outlines(annotation, [SQUARE, ((20.0, 20.0), (21.0, 20.0))])
    return root


def brain_us(root: Path, parts: Mapping[str, int], masks: str = "labels") -> Path:
    """Images and grey masks; parts such as {"train": 6, "test": 2}, or {"": 6} without folders for them."""
    for part, count in parts.items():
        for number in range(count):
            picture(root / part / f"images/{number}.png", 100 * len(part) + number, (16, 16))
            array = np.zeros((16, 16), np.uint8)
            array[3:8, 4:12], array[8, 4:12], array[9, 4:12] = 255, 128, 127
            mask(root / part / masks / f"{number}.png", array)
    return root


def left_atrium(root: Path, train: int = 6, test: int = 2, test_labels: bool = False) -> Path:
    """The challenge's folders with NRRD files, masks 0 and 255."""
    for part, count in {"Training Set": train, "Testing Set": test}.items():
        for number in range(count):
            case = root / f"2018_UTAH_MICCAI/{part}/{part[:2].upper()}{number}KJJ0E6FE1MYDW9RJX"
            volume(case / "lgemri.nrrd", seed=number + len(part) * 10)
            if part == "Training Set" or test_labels:
                volume(case / "laendo.nrrd", (255,))
    return root


Tree = Callable[[Path], Path]

TREES: dict[str, Tree] = {
    "btcv": btcv,
    "amos22": lambda root: amos(root, {"Tr": (1, 4, 5, 9, 507, 508), "Va": (13, 540), "Ts": (2, 600)}),
    "kits23": kits,
    "msd": lambda root: task(root, "Task05_Prostate", ("PZ", "TZ"), ("T2", "ADC")),
    "glas": lambda root: glas(root, {**{f"train_{n}": n for n in range(1, 7)}, "testA_1": 20, "testB_1": 21}),
    "monuseg": lambda root: monuseg(root, [f"TCGA-18-{n}-01Z-00-DX1" for n in range(5592, 5598)], ["TCGA-2Z-A9J9-01A"]),
    "brain-us": lambda root: brain_us(root, {"train": 6, "test": 2}),
    "left-atrium": left_atrium,
    "binary-hippocampus": task,
    "binary-pancreas": lambda root: task(root, "Task07_Pancreas", TASK_LABELS["Pancreas"], ("CT",)),
}
"""A small tree of each layout, with at least 6 cases for training."""
