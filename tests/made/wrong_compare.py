"""Wrong input for `nnunet-attn compare`."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnunet_attn.evaluation.results import SUMMARY_FILE, write_evaluation
from tests.made.evaluations import made_evaluation
from tests.made.results import TRAINER, model_folder
from tests.made.wrong import Make, Wrong, after
from tests.made.wrong_evaluation import FINE


def _written(name: str, trainer: str, cases: int = 21, **changed: Any) -> str:
    """Write an evaluation of a trainer into a folder; returns its name."""
    Path(name).mkdir()
    origin = {"trainer": trainer, **{k: changed.pop(k) for k in list(changed) if k in ("checkpoint", "dataset")}}
    values = {label: {"dice": [0.8] * cases, "nsd": [0.9] * cases} for label in ("liver", "kidney_left")}
    folds = [index % 5 for index in range(cases)]
    evaluation = made_evaluation(values, folds, origin=origin, **changed)
    write_evaluation(evaluation, Path(name) / SUMMARY_FILE, {})
    return name


def _two(*words: object, other: str = FINE, **changed: Any) -> Make:
    """Compare two evaluations; `changed` is what the second has of its own."""

    def make(_: Path) -> Sequence[object]:
        return ["compare", _written("a", TRAINER), _written("b", other, **changed), *words]

    return make


def _spoiled(change: Callable[[dict[str, object]], str]) -> Make:
    """Compare two evaluations, the file of one of which was changed."""

    def make(folder: Path) -> Sequence[object]:
        words = _two()(folder)
        file = Path("b") / SUMMARY_FILE
        file.write_text(change(json.loads(file.read_text())))
        return words

    return make


def _other_folds(content: dict[str, object]) -> str:
    cases = content["cases"]
    assert isinstance(cases, list)
    cases[0]["fold"] = 4
    return json.dumps(content)


def _model_folder(_: Path) -> Sequence[object]:
    Path("model").mkdir()
    _written("model/evaluation_attn_folds_0_1", FINE)
    return ["compare", _written("a", TRAINER), "model"]


COMPARE = (
    Wrong(
        "nothing to compare",
        "nothing to compare",
        "give trainers (-d ID -tr A B), or folders of evaluations",
        lambda _: ["compare"],
    ),
    Wrong(
        "a single method",
        "one method alone (nnUNetTrainer) cannot be compared",
        "name another one, or, to compare the seeds of one method, give each a name of its own with --names",
        lambda _: ["compare", _written("a", TRAINER)],
    ),
    Wrong(
        "two seeds of one method",
        "one method alone (nnUNetTrainer) cannot be compared",
        "name another one, or, to compare the seeds of one method, give each a name of its own with --names",
        _two(other=f"{TRAINER}_seed1"),
    ),
    Wrong(
        "one evaluation twice",
        "a is given twice",
        "give each evaluation once",
        lambda _: ["compare", _written("a", TRAINER), "a"],
    ),
    Wrong(
        "a folder that was not evaluated",
        "none does not exist",
        "evaluate first: nnunet-attn evaluate",
        lambda _: ["compare", _written("a", TRAINER), "none"],
    ),
    Wrong(
        "a model's folder in place of the evaluation in it",
        "model/summary_attn.json does not exist, but there are evaluations in folders below",
        "give one of them: model/evaluation_attn_folds_0_1",
        _model_folder,
    ),
    Wrong(
        "an evaluation that is damaged",
        "b/summary_attn.json cannot be read as JSON (...)",
        "evaluate again with --overwrite",
        _spoiled(lambda content: json.dumps(content)[:300]),
    ),
    Wrong(
        "an evaluation of another version",
        "b/summary_attn.json has the format 99, this version reads 1",
        "evaluate again with --overwrite",
        _spoiled(lambda content: json.dumps({**content, "format": 99})),
    ),
    Wrong(
        "an evaluation without what is read of it",
        "b/summary_attn.json is not what nnunet-attn evaluate writes (...)",
        "evaluate again with --overwrite",
        _spoiled(lambda content: json.dumps({**content, "cases": [{}]})),
    ),
    Wrong(
        "other cases",
        "not comparable: the cases differ: 1 only in nnUNetTrainer (case_020)",
        "evaluate the same cases, or compare what both have: --common",
        _two(cases=20),
    ),
    Wrong(
        "other splits",
        "not comparable: the splits of nnUNetTrainer and nnUNetTrainerFINE differ: 1 cases are in other folds "
        "(case_000: fold 0 and fold 4)",
        "train both on one splits_final.json, or leave these cases out: --common",
        _spoiled(_other_folds),
    ),
    Wrong(
        "another data set",
        "not comparable: the data set is Dataset910_Made for nnUNetTrainer and Dataset911_Other for nnUNetTrainerFINE",
        "compare results on one data set",
        _two(dataset="Dataset911_Other"),
    ),
    Wrong(
        "final and best checkpoint",
        "not comparable: the checkpoint is checkpoint_final.pth for nnUNetTrainer and checkpoint_best.pth for "
        "nnUNetTrainerFINE",
        "predict both with the same kind of checkpoint (-chk, nnUNetv2_train --val)",
        _two(checkpoint="checkpoint_best.pth"),
    ),
    Wrong(
        "another kind of surface",
        "not comparable: the kind of surface is area for nnUNetTrainer and erosion for nnUNetTrainerFINE",
        "evaluate both alike, with nnunet-attn evaluate",
        _two(surface="erosion"),
    ),
    Wrong(
        "another tolerance",
        "not comparable: the tolerance in mm of liver is 1.0 for nnUNetTrainer and 2.0 for nnUNetTrainerFINE",
        "evaluate both alike, with nnunet-attn evaluate",
        _two(tolerance_mm={"liver": 2.0, "kidney_left": 1.0}),
    ),
    Wrong(
        "another ignored value",
        "not comparable: the ignored value is None for nnUNetTrainer and 3 for nnUNetTrainerFINE",
        "evaluate both with the same dataset.json",
        _two(ignore=3),
    ),
    Wrong(
        "a metric that nobody computes",
        "'dsc' is no metric",
        "choose from dice, iou, precision, recall, nsd, hd95_mm, assd_mm, volume_difference_mm3, "
        "relative_volume_difference",
        _two("--metrics", "dsc"),
    ),
    Wrong(
        "a metric that was not computed",
        "nnUNetTrainer was evaluated without iou",
        "evaluate it again with --metrics",
        _two("--metrics", "iou"),
    ),
    Wrong(
        "too few names",
        "--names has 1 names for 2 evaluations",
        "give one for each, in the same order (the same name for the seeds of one method)",
        _two("--names", "A"),
    ),
    Wrong(
        "means over patients that nobody knows",
        "--patients: nothing tells the patients of these cases",
        "register the data set with them, or leave it out",
        _two("--patients"),
    ),
    Wrong(
        "a reference that is not compared",
        "--reference MedT is none of the compared methods",
        "choose from nnUNetTrainer, nnUNetTrainerFINE",
        _two("--reference", "MedT"),
    ),
    Wrong(
        "a confidence of 95",
        "--confidence is 95.0",
        "it must be between 0 and 1, such as 0.95",
        _two("--confidence", "95"),
    ),
    Wrong(
        "a folder of something else to write to",
        "-o a holds summary_attn.json, which is no comparison's",
        "name a new folder",
        _two("-o", "a"),
    ),
    Wrong(
        "trainers and folders", "a and -tr", "compare trainers or folders, not both", _two("-d", "910", "-tr", TRAINER)
    ),
    Wrong(
        "trainers without data set",
        "-tr needs -d",
        "the data set, name or ID",
        lambda _: ["compare", "-tr", TRAINER, FINE],
    ),
    Wrong(
        "a trainer without one of the folds",
        ".../fold_1/validation does not exist",
        "train it: nnUNetv2_train Dataset910_Results 3d_fullres 1 -p nnUNetPlans -tr nnUNetTrainerFINE, or give the "
        "folds that are there with -f",
        after(
            lambda folder: shutil.rmtree(model_folder(folder, FINE) / "fold_1"),
            *("compare", "-d", "910", "-tr", FINE, TRAINER, "-f", "0", "1", "-np", "1"),
        ),
    ),
)
