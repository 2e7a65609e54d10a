"""Wrong input for `nnunet-attn splits` and `nnunet-attn predict-test`."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.made import predict_test, splits
from tests.made.predict_test import TRAINERS, model_of
from tests.made.splits import CASES
from tests.made.wrong import Make, Wrong, after

SPLITS = ("splits", "-d", "7")
PREDICT = ("predict-test", "-d", "7", "-tr", TRAINERS[0], "-c", "3d_fullres", "-device", "cpu")


def _splits(*words: object) -> Make:
    return lambda _: [*SPLITS, *words]


def _table(text: str, *words: object) -> Make:
    def make(_: Path) -> Sequence[object]:
        Path("table.csv").write_text(text)
        return [*SPLITS, *words]

    return make


def _patients(cases: Sequence[str]) -> str:
    return "case,patient\n" + "".join(f"{case},{case[:6]}\n" for case in cases)


def _splits_file(text: str, *words: object) -> Make:
    def make(folder: Path) -> Sequence[object]:
        (folder / "preprocessed" / splits.DATASET / "splits_final.json").write_text(text)
        return [*SPLITS, *words]

    return make


def _trained(folder: Path) -> Sequence[object]:
    """A fold of nnU-Net's own five has results."""
    fold = folder / "results" / splits.DATASET / "nnUNetTrainer__nnUNetPlans__2d" / "fold_1"
    fold.mkdir(parents=True)
    (fold / "checkpoint_final.pth").touch()
    return [*SPLITS, "--seed", "1", "--replace"]


def _unset(name: str, words: Sequence[object]) -> Make:
    return after(lambda _: os.environ.pop(name), *words)  # each test sets it anew


def _not_preprocessed(folder: Path) -> Sequence[object]:
    (folder / "preprocessed" / "Dataset008_Empty").mkdir()
    return ["splits", "-d", "8"]


SPLIT = (
    Wrong(
        "a data set that nobody has",
        "-d 9: nnU-Net's folders have no data set of this number or name, or several",
        "correct it, or put the data set into nnUNet_raw and run nnUNetv2_plan_and_preprocess",
        lambda _: ["splits", "-d", "9"],
    ),
    Wrong(
        "a data set without cases",
        ".../preprocessed/Dataset008_Empty has no preprocessed cases",
        "run: nnUNetv2_plan_and_preprocess -d 8",
        _not_preprocessed,
    ),
    Wrong(
        "`nnUNet_preprocessed` is not set",
        "nnUNet_preprocessed is not set",
        "set nnU-Net's three folders (see: nnunet-attn doctor)",
        _unset("nnUNet_preprocessed", SPLITS),
    ),
    Wrong(
        "results that cannot be looked for",
        "nnUNet_results is not set, so that nobody can tell which folds were trained on",
        "set nnU-Net's three folders (see: nnunet-attn doctor)",
        _unset("nnUNet_results", SPLITS),
    ),
    Wrong(
        "a list of patients with a case missing",
        "--groups table.csv does not name 1 of the 23 cases, the first is case_22",
        "add them",
        _table(_patients(CASES[:-1]), "--groups", "table.csv"),
    ),
    Wrong(
        "a list of patients with other columns",
        "--groups table.csv: its first line must name the columns case and patient",
        "got name, id",
        _table("name,id\n", "--groups", "table.csv"),
    ),
    Wrong(
        "a case with two patients",
        "--groups table.csv, line 25: 'case_00' has case_0 and other",
        "give it one",
        _table(_patients(CASES) + "case_00,other\n", "--groups", "table.csv"),
    ),
    Wrong(
        "a list of patients that is not there",
        "--groups: there is no file none.csv",
        "give a text file with the columns case and patient",
        _splits("--groups", "none.csv"),
    ),
    Wrong(
        "strata that there are not",
        "--stratify sex",
        "choose from site, size, or give a FILE.csv with the columns case and stratum",
        _splits("--stratify", "sex"),
    ),
    Wrong(
        "patients that nobody told `register`",
        "--groups: none of the 23 cases has a patient in nnunet_attn_cases.json",
        "give a file: --groups FILE.csv with the columns case and patient",
        after(lambda folder: splits.write_raw(folder, sites={}), *SPLITS, "--groups"),
    ),
    Wrong(
        "patients of a data set that another tool made",
        "...nnunet_attn_cases.json does not exist: it tells patients and sites of a data set that nnunet-attn register "
        "made",
        "give them as --groups FILE.csv with the columns case and patient",
        _splits("--groups"),
    ),
    Wrong(
        "sites of a data set that another tool made",
        "...nnunet_attn_cases.json does not exist: it tells patients and sites of a data set that nnunet-attn register "
        "made",
        "give them as --stratify FILE.csv with the columns case and site",
        _splits("--stratify", "site"),
    ),
    Wrong(
        "sizes without labels",
        "--stratify size: ... is missing, so that the size of the labels is not known",
        "put the labels there, or give a file: --stratify FILE.csv",
        after(
            lambda folder: shutil.rmtree(folder / "preprocessed" / splits.DATASET / "gt_segmentations"),
            *(*SPLITS, "--stratify", "size"),
        ),
    ),
    Wrong(
        "a fold that has results",
        "fold 1 would hold other cases than those it was trained on: there are results in "
        ".../nnUNetTrainer__nnUNetPlans__2d/fold_1",
        "move them away first, or leave out --replace to add folds behind those that are there",
        _trained,
    ),
    Wrong(
        "more folds than cases",
        "--folds 24: there are 23 cases",
        "give a number from 2 to 23",
        _splits("--folds", "24"),
    ),
    Wrong(
        "fewer patients than folds",
        "--folds 5: there are 3 patients",
        "give a number from 2 to 3",
        _table(_patients(CASES), "--groups", "table.csv"),
    ),
    Wrong("a negative seed", "--seed -1", "a seed is from 0 to 4294967295", _splits("--seed", "-1")),
    Wrong(
        "two kinds of splits",
        "--folds and --labels are different kinds of splits",
        "give one of them, then the other",
        _splits("--folds", "5", "--labels", "10"),
    ),
    Wrong(
        "repeated splits without numbers",
        "--repeated, --train and --test go together",
        "for example --repeated 5 --train 18 --test 12",
        _splits("--repeated", "5"),
    ),
    Wrong(
        "repeated splits of too many cases",
        "--train 18 --test 12 are 30, but there are 23 to choose from",
        "give smaller numbers",
        _splits("--repeated", "5", "--train", "18", "--test", "12"),
    ),
    Wrong(
        "no labelled case",
        "--labels 1: there are 23 cases to choose from, and a split needs one to train on and one to validate on",
        "give numbers from 2 to 23",
        _splits("--labels", "1"),
    ),
    Wrong(
        "a `splits_final.json` that is no JSON",
        ".../splits_final.json cannot be read as JSON (...)",
        "mend it, or remove it to have nnU-Net's own splits made anew",
        _splits_file("[", "--labels", "5"),
    ),
    Wrong(
        "a `splits_final.json` of something else",
        ".../splits_final.json is not a list of splits with the case names of 'train' and 'val'",
        "mend it, or remove it to have nnU-Net's own splits made anew",
        _splits_file("{}", "--labels", "5"),
    ),
)


def _predict(change: Callable[[Path], object] = lambda _: None, *words: object) -> Make:
    """Change the raw data set, and predict its test cases."""

    def make(folder: Path) -> Sequence[object]:
        change(folder / "raw" / predict_test.DATASET)
        return [*PREDICT, *words]

    return make


def _foreign_output(_: Path) -> Sequence[object]:
    Path("out").mkdir()
    Path("out/notes.txt").touch()
    return [*PREDICT, "-o", "out"]


TEST = (
    Wrong(
        "no test images",
        ".../imagesTs has no images to predict",
        "put the test images there, CASE_0000 and so on",
        _predict(lambda raw: shutil.rmtree(raw / "imagesTs")),
    ),
    Wrong(
        "a test image without label",
        "1 of the cases in .../imagesTs and labelsTs have no label, the first is b",
        "add it, or leave out the evaluation: --no-evaluation",
        _predict(lambda raw: (raw / "labelsTs" / "b.nii.gz").unlink()),
    ),
    Wrong(
        "a test label without image",
        "1 of the cases in .../imagesTs and labelsTs have no image, the first is b",
        "add it, or leave out the evaluation: --no-evaluation",
        _predict(lambda raw: (raw / "imagesTs" / "b_0000.nii.gz").unlink()),
    ),
    Wrong(
        "a test case of too many channels",
        ".../imagesTs: the case b has b_0000.nii.gz, b_0001.nii.gz, but the network was trained on 1 channels: "
        "b_0000.nii.gz",
        "add or rename them",
        _predict(lambda raw: shutil.copy(raw / "imagesTs/b_0000.nii.gz", raw / "imagesTs/b_0001.nii.gz")),
    ),
    Wrong(
        "a fold that was not trained",
        ".../nnUNetTrainer__nnUNetPlans__3d_fullres has no checkpoint_final.pth of fold 3",
        "give those that are there: -f 0 1 2 4",
        after(lambda folder: shutil.rmtree(model_of(folder) / "fold_3"), *PREDICT),
    ),
    Wrong(
        "a fold that is still training",
        ".../nnUNetTrainer__nnUNetPlans__3d_fullres has no checkpoint_final.pth of fold 3",
        "give those that are there: -f 0 1 2 4",
        after(lambda folder: (model_of(folder) / "fold_3/checkpoint_final.pth").unlink(), *PREDICT),
    ),
    Wrong(
        "a trainer that there is not",
        "nnU-Net does not find the trainer 'nnUNetTrainerNowhere' (...)",
        "see: nnunet-attn doctor nnUNetTrainerNowhere",
        lambda _: [*PREDICT[:4], "nnUNetTrainerNowhere", *PREDICT[5:]],
    ),
    Wrong(
        "a trainer without results",
        "there is no model folder .../nnUNetTrainer_1epoch__nnUNetPlans__3d_fullres",
        "correct -d, -tr, -p or -c, or train it: nnUNetv2_train Dataset007_Made 3d_fullres FOLD -p nnUNetPlans -tr "
        "nnUNetTrainer_1epoch",
        lambda _: [*PREDICT[:4], "nnUNetTrainer_1epoch", *PREDICT[5:]],
    ),
    Wrong(
        "a data set that nobody has",
        "-d 9: nnU-Net's folders have no data set of this number or name, or several",
        "correct it",
        lambda _: [*PREDICT[:2], "9", *PREDICT[3:]],
    ),
    Wrong("a fold that is no number", "-f x", "a fold is a number from 0, or all", _predict(lambda _: None, "-f", "x")),
    Wrong(
        "a trainer named twice",
        "-tr nnUNetTrainer nnUNetTrainer",
        "give each trainer once, and at least one",
        lambda _: [*PREDICT[:4], TRAINERS[0], *PREDICT[4:]],
    ),
    Wrong(
        "probabilities that nobody averages",
        "--keep-probabilities keeps what --ensemble softmax averages",
        "give both, or neither",
        _predict(lambda _: None, "--keep-probabilities"),
    ),
    Wrong(
        "a cascade whose first stage has not predicted",
        "3d_cascade_fullres reads what 3d_lowres has predicted, but .../test_attn_folds_0_1_2_3_4 has no prediction of "
        "3 of the 3 cases, the first is a",
        "first run: nnunet-attn predict-test -d 7 -tr nnUNetTrainer -c 3d_lowres ...",
        after(
            lambda folder: predict_test.write_model(folder, TRAINERS[0], "3d_cascade_fullres"),
            *(*PREDICT[:6], "3d_cascade_fullres", *PREDICT[7:]),
        ),
    ),
    Wrong(
        "a damaged `plans.json`",
        ".../nnUNetTrainer__nnUNetPlans__3d_fullres: dataset.json or plans.json is damaged (...)",
        "copy the folder again",
        after(lambda folder: (model_of(folder) / "plans.json").write_text("{}"), *PREDICT),
    ),
    Wrong(
        "a folder of something else to predict into",
        "-o .../out holds files that this command did not make",
        "choose a new or an empty folder",
        _foreign_output,
    ),
)
