"""Wrong input for `nnunet-attn evaluate`."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.made.results import DATASET, TRAINER, model_folder, rewrite
from tests.made.wrong import Make, Wrong, after

FINE = "nnUNetTrainerFINE"
FOLDS = ("evaluate", "-d", "910", "-tr", TRAINER, "-f", "0", "1", "-np", "1")
RAW = Path("raw") / DATASET
VALIDATION = model_folder(Path()) / "fold_0" / "validation"


def _folds(*words: object) -> Make:
    return lambda _: [*FOLDS, *words]


def _changed(change: Callable[[Path], object], *words: object) -> Make:
    """Change the first prediction of fold 0, and evaluate the folds."""

    def make(_: Path) -> Sequence[object]:
        change(next(iter(sorted(VALIDATION.glob("*.nii.gz")))))
        return [*FOLDS, *words]

    return make


def _folder(change: Callable[[Path], object] = lambda _: None, *words: object) -> Make:
    """Change a folder of predictions, named `pred`, and evaluate it."""

    def make(_: Path) -> Sequence[object]:
        shutil.copytree(VALIDATION, "pred")
        shutil.copy(RAW / "dataset.json", "pred")
        for case in sorted(file.name for file in Path("pred").glob("*.nii.gz")):
            Path("ref").mkdir(exist_ok=True)
            shutil.copy(RAW / "labelsTr" / case, "ref")
        change(Path("pred"))
        return ["evaluate", "-i", "pred", "-r", "ref", "-np", "1", *words]

    return make


def _first(folder: str) -> Path:
    return sorted(Path(folder).glob("*.nii.gz"))[0]


def _stranger(_: Path) -> Sequence[object]:
    """As if the splits had been changed after the training."""
    other = sorted((VALIDATION.parents[1] / "fold_1" / "validation").glob("*.nii.gz"))[0]
    shutil.copy(other, VALIDATION)
    return FOLDS


def _unset(name: str) -> Make:
    return after(lambda _: os.environ.pop(name), *FOLDS)  # each test sets it anew


EVALUATE = (
    Wrong(
        "predictions that are not there",
        "-i none is no folder",
        "give the folder with the predictions",
        lambda _: ["evaluate", "-i", "none", "-r", RAW / "labelsTr"],
    ),
    Wrong(
        "references that are not there",
        "-r ref is no folder",
        "give the folder with the label files",
        _folder(lambda _: shutil.rmtree("ref")),
    ),
    Wrong(
        "a reference without prediction",
        "pred has no prediction for case_003",
        "predict it, or leave it out: add --chill",
        _folder(lambda _: _first("pred").unlink()),
    ),
    Wrong(
        "a prediction without reference",
        "ref has no reference for case_003",
        "add it, or take the prediction away",
        _folder(lambda _: _first("ref").unlink()),
    ),
    Wrong(
        "predictions without `dataset.json`",
        "pred has no dataset.json",
        "give the data set's: -djfile FILE",
        _folder(lambda folder: (folder / "dataset.json").unlink()),
    ),
    Wrong(
        "a broken `dataset.json`",
        "pred/dataset.json cannot be read as JSON (...)",
        "give nnU-Net's dataset.json: -djfile FILE",
        _folder(lambda folder: (folder / "dataset.json").write_text("{")),
    ),
    Wrong("no references named", "-i needs -r", "the references", lambda _: ["evaluate", "-i", VALIDATION]),
    Wrong(
        "flags of another source", "-tr does not go with -i", "leave it out", _folder(lambda _: None, "-tr", TRAINER)
    ),
    Wrong(
        "a corrupt prediction",
        "case case_003: ... cannot be read by nnU-Net's SimpleITKIO (Compressed file ended before the end-of-stream "
        "marker was reached)",
        "make or copy it anew",
        _changed(lambda file: file.write_bytes(file.read_bytes()[:200])),
    ),
    Wrong(
        "a prediction of another shape",
        "case case_003: ... has the shape 11 x 24 x 32 and its reference ... 12 x 24 x 32",
        "predict the image that belongs to the reference",
        _changed(lambda file: rewrite(file, lambda array: array[1:])),
    ),
    Wrong(
        "a prediction of another spacing",
        "case case_003: ... has the spacing 9 x 1 x 1 mm, and the reference's is ...; the arrays are compared voxel by "
        "voxel",
        "give the prediction the reference's geometry, or predict anew",
        _changed(lambda file: rewrite(file, spacing=(1.0, 1.0, 9.0))),
    ),
    Wrong(
        "a prediction of turned axes",
        "case case_003: ... has other axes (direction) than its reference ...; the arrays are compared voxel by voxel",
        "give the prediction the reference's geometry, or predict anew",
        _changed(lambda file: rewrite(file, direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))),
    ),
    Wrong(
        "a value in a prediction that no label has",
        "case case_003: ... holds the value 7, and dataset.json has 0, 1, 2, 3, 4",
        "give the dataset.json that belongs to it (-djfile FILE), or mend the file",
        _changed(lambda file: rewrite(file, lambda array: np.where(array == 1, 7, array))),
    ),
    Wrong(
        "probabilities in place of labels",
        "case case_003: ... holds values that are no integers; labels are integers",
        "give the file with the labels",
        _changed(lambda file: rewrite(file, lambda array: array.astype(np.float32) + 0.25)),
    ),
    Wrong(
        "a metric that there is not",
        "--metrics: 'dsc' is no metric",
        "choose from dice, iou, precision, recall, nsd, hd95_mm, assd_mm, volume_difference_mm3, "
        "relative_volume_difference",
        _folds("--metrics", "dsc"),
    ),
    Wrong(
        "a tolerance of an unknown class",
        "--tolerance spleen=2: the classes are liver, lesion, left kidney, right kidney",
        "name each at most once, or give one number for all",
        _folds("--tolerance", "spleen=2"),
    ),
    Wrong(
        "a tolerance that is no number",
        "--tolerance 1mm",
        "give a number of mm, CLASS=MM for single classes, or kits23",
        _folds("--tolerance", "1mm"),
    ),
    Wrong(
        "a preset that is not known",
        "--preset nature",
        "it is one of karimi, medt, fine, gasa",
        _folds("--preset", "nature"),
    ),
    Wrong(
        "a preset for another data set",
        "--preset fine: its table has spleen, ..., and the data set has no class for spleen, ...",
        "leave out --preset, or name the classes so (a left and a right kidney will do)",
        _folds("--preset", "fine"),
    ),
    Wrong(
        "a data set that is not known",
        "-d 911: nnU-Net's folders have no data set of this number or name, or several",
        "correct it",
        lambda _: ["evaluate", "-d", "911", "-tr", TRAINER],
    ),
    Wrong(
        "a trainer that has not been trained",
        "there is no model folder .../nnUNetTrainerMedT__nnUNetPlans__3d_fullres",
        "correct -d, -tr, -p or -c, or train it; ... has nnUNetTrainerFINE__nnUNetPlans__3d_fullres, ...",
        lambda _: ["evaluate", "-d", "910", "-tr", "nnUNetTrainerMedT"],
    ),
    Wrong(
        "a fold that is not finished",
        ".../fold_0/validation lacks case_003 of the 3 cases that splits_final.json gives fold 0",
        "validate it: nnUNetv2_train Dataset910_Results 3d_fullres 0 -p nnUNetPlans -tr nnUNetTrainer --val",
        _changed(lambda file: file.unlink()),
    ),
    Wrong(
        "a fold that has not been validated",
        ".../fold_0/validation does not exist",
        "validate it: nnUNetv2_train Dataset910_Results 3d_fullres 0 -p nnUNetPlans -tr nnUNetTrainer --val, or give "
        "the folds that are there with -f",
        _changed(lambda file: shutil.rmtree(file.parent)),
    ),
    Wrong(
        "a fold that has not been trained",
        ".../fold_0/validation does not exist",
        "train it: nnUNetv2_train Dataset910_Results 3d_fullres 0 -p nnUNetPlans -tr nnUNetTrainer, or give the folds "
        "that are there with -f",
        _changed(lambda file: shutil.rmtree(file.parents[1])),
    ),
    Wrong(
        "fewer folds than the five of the default",
        "-f 4: ...splits_final.json has the folds 0 to 1",
        "give those that are there: -f 0 1",
        lambda _: ["evaluate", "-d", "910", "-tr", TRAINER],
    ),
    Wrong(
        "the fold `all`",
        "-f all: this fold validates on the cases it was trained on",
        "give other folds, or test cases",
        lambda _: [*FOLDS[:5], "-f", "all"],
    ),
    Wrong(
        "splits that changed after training",
        ".../fold_0/validation has case_000, which splits_final.json does not give fold 0: the splits are others than "
        "those trained with",
        "give the splits back, or train again",
        _stranger,
    ),
    Wrong(
        "splits that are gone",
        "...splits_final.json does not exist; it tells which cases belong to a fold",
        "put it back, or evaluate folders with -i and -r",
        after(lambda folder: (folder / "preprocessed" / DATASET / "splits_final.json").unlink(), *FOLDS),
    ),
    Wrong(
        "`nnUNet_results` is not set",
        "nnUNet_results is not set",
        "set nnU-Net's three folders (see: nnunet-attn doctor)",
        _unset("nnUNet_results"),
    ),
    Wrong("no process", "-np 0", "at least 1 process is needed", lambda _: [*FOLDS[:-1], "0"]),
)
