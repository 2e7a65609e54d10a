"""The papers' own readings of their metrics: classes, metrics, surface and averaging, each with its source."""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.aggregate import mean_of_finite
from nnunet_attn.evaluation.results import Evaluation
from nnunet_attn.evaluation.settings import KITS23_TOLERANCE_MM, classes_called

Classes = Mapping[str, tuple[int, ...]]
PER_CASE = "per case"
CASES_THEN_CLASSES = "cases, then classes"


@dataclass(frozen=True)
class Selection:
    """What a preset makes of a data set's classes.

    Args:
        classes: Class that is measured -> label values.
        columns: Column of the paper's table -> measured classes whose means are averaged in it.
        tolerance_mm: Measured class -> tolerance of the normalised surface distance, where it is not 1 mm.
    """

    classes: Classes
    columns: Mapping[str, tuple[str, ...]]
    tolerance_mm: Mapping[str, float]


@dataclass(frozen=True)
class Preset:
    """One paper's reading.

    Args:
        name: As given to `--preset`.
        metrics: What the paper reports.
        surface: "area" or "erosion".
        averaging: `PER_CASE` (mean and sd over cases) or `CASES_THEN_CLASSES` (mean over cases of each class, then over
            the columns).
        select: From a data set's classes to those measured; applied to its own result it changes nothing.
        source: Paper and place.
        reading: What is averaged over what, and how that is known.
        leaves_open: What the paper does not say, and what is done here.
        no_overlap_scores: What an image without any overlap scores in the authors' own script, if that is not 0.
        over_folds: Whether the paper gives mean and sd over splits, of each column and, as means of these, on average.
    """

    name: str
    metrics: tuple[str, ...]
    surface: str
    averaging: str
    select: Callable[[Classes], Selection]
    source: str
    reading: str
    leaves_open: tuple[str, ...]
    no_overlap_scores: float | None = None
    over_folds: bool = False


@dataclass(frozen=True)
class PresetMean:
    """One number of a preset's table.

    Args:
        mean: Over finite values; NaN if there are none.
        sd: Sample standard deviation over the same cases; NaN below two values, where a column has several classes, and
            where the preset's averaging is not `PER_CASE`.
        n_finite: Values in the mean.
        n_infinite: Infinite values, left out.
        n_not_counted: Cases left out, since both masks are empty.
    """

    mean: float
    sd: float
    n_finite: int
    n_infinite: int
    n_not_counted: int


@dataclass(frozen=True)
class PresetReport:
    """A preset's own means.

    Args:
        preset: Its name.
        averaging: Of the preset.
        columns: Column -> metric -> number.
        average: Metric -> mean over the columns.
        over_folds: Column -> metric -> mean and sample standard deviation over the folds' means of this column; empty
            unless the paper gives that and there are two folds.
        average_over_folds: Metric -> mean over the columns of these means, and of these standard deviations.
        as_the_script: Metric -> mean as the authors' own script scores images without overlap; empty if it is the same.
    """

    preset: str
    averaging: str
    columns: Mapping[str, Mapping[str, PresetMean]]
    average: Mapping[str, float]
    over_folds: Mapping[str, Mapping[str, tuple[float, float]]]
    average_over_folds: Mapping[str, tuple[float, float]]
    as_the_script: Mapping[str, float]


def find_preset(name: str) -> Preset:
    """Return a preset by its name.

    Raises:
        InputError: If there is none of this name.
    """
    if name not in PRESETS:
        raise InputError(f"--preset {name}: it is one of {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_report(evaluation: Evaluation) -> PresetReport | None:
    """Return the means that a paper would print of this evaluation; None if it was made without a preset."""
    if evaluation.settings.preset is None:
        return None
    preset = find_preset(evaluation.settings.preset)
    columns = preset.select(evaluation.classes).columns
    with_sd = preset.averaging == PER_CASE
    over_folds = _over_folds(evaluation, preset.metrics, columns) if preset.over_folds else {}
    average_over_folds = {
        metric: (
            mean_of_finite(means[metric][0] for means in over_folds.values()).mean,
            mean_of_finite(means[metric][1] for means in over_folds.values()).mean,
        )
        for metric in (preset.metrics if over_folds else ())
    }
    as_the_script: dict[str, float] = {}
    if preset.no_overlap_scores is not None:
        for metric in preset.metrics:
            ((only,),) = columns.values()
            values = (case.metrics[only][metric] for case in evaluation.cases)
            as_the_script[metric] = statistics.fmean(
                value if value > 0 else preset.no_overlap_scores for value in values
            )
    return PresetReport(
        preset.name,
        preset.averaging,
        {
            column: {metric: _mean(evaluation, names, metric, with_sd) for metric in preset.metrics}
            for column, names in columns.items()
        },
        {metric: _average(evaluation, columns, metric) for metric in preset.metrics},
        over_folds,
        average_over_folds,
        as_the_script,
    )


def _over_folds(
    evaluation: Evaluation, metrics: Iterable[str], columns: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return column -> metric -> mean and sd over the folds; empty below two folds."""
    folds = sorted({case.fold for case in evaluation.cases if case.fold is not None})
    if len(folds) < 2:
        return {}
    parts = [replace(evaluation, cases=tuple(case for case in evaluation.cases if case.fold == fold)) for fold in folds]
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for column, names in columns.items():
        found[column] = {}
        for metric in metrics:
            means = [_mean(part, names, metric).mean for part in parts]
            finite = [mean for mean in means if math.isfinite(mean)]
            sd = statistics.stdev(finite) if len(finite) > 1 else math.nan
            found[column][metric] = (mean_of_finite(finite).mean, sd)
    return found


def _mean(evaluation: Evaluation, names: Iterable[str], metric: str, with_sd: bool = False) -> PresetMean:
    names = tuple(names)
    values = {name: [case.metrics[name][metric] for case in evaluation.cases] for name in names}
    means = [mean_of_finite(each) for each in values.values()]
    finite = [value for value in values[names[0]] if math.isfinite(value)]
    return PresetMean(
        mean_of_finite(each.mean for each in means).mean,
        statistics.stdev(finite) if with_sd and len(names) == 1 and len(finite) > 1 else math.nan,
        sum(each.n_finite for each in means),
        sum(each.n_infinite for each in means),
        sum(each.n_not_counted for each in means),
    )


def _average(evaluation: Evaluation, columns: Mapping[str, tuple[str, ...]], metric: str) -> float:
    return mean_of_finite(_mean(evaluation, names, metric).mean for names in columns.values()).mean


def _foreground(classes: Classes) -> Selection:
    """All classes merged into one."""
    values = tuple(sorted({value for each in classes.values() for value in each}))
    return Selection({"foreground": values}, {"foreground": ("foreground",)}, {})


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", name.lower().replace("gall bladder", "gallbladder")))


_FINE_COLUMNS = ("spleen", "kidneys", "gallbladder", "liver", "stomach", "aorta", "pancreas")
_ONE_KIDNEY = {side: {frozenset({side, noun}) for noun in ("kidney", "kidneys")} for side in ("left", "right")}


def _fine(classes: Classes) -> Selection:
    """The seven organs of BCV; two kidneys are measured apart and averaged."""
    columns: dict[str, tuple[str, ...]] = {}
    for column in _FINE_COLUMNS:
        accepted = {frozenset({column}), *([frozenset({"kidney"})] if column == "kidneys" else [])}
        columns[column] = tuple(name for name in classes if _words(name) in accepted)
    if not columns["kidneys"]:
        both = [[name for name in classes if _words(name) in _ONE_KIDNEY[side]] for side in ("left", "right")]
        columns["kidneys"] = tuple(name for side in both for name in side) if all(both) else ()
    if missing := [column for column, names in columns.items() if not names]:
        raise InputError(
            f"--preset fine: its table has {', '.join(_FINE_COLUMNS)}, and the data set has no class for "
            f"{', '.join(missing)} among {', '.join(classes)}; leave out --preset, or name the classes so (a left and "
            "a right kidney will do)"
        )
    chosen = {name for names in columns.values() for name in names}
    return Selection({name: values for name, values in classes.items() if name in chosen}, columns, {})


def _gasa(classes: Classes) -> Selection:
    """The classes as they are; kidney, tumour and cyst become KiTS23's hierarchical classes, which keep their names."""
    parts = [classes_called(name, classes) for name in ("kidney", "tumour", "cyst")]
    if len(classes) == 3 and all(len(part) == 1 and len(classes[part[0]]) == 1 for part in parts):
        kidney, tumour, cyst = (classes[part[0]] for part in parts)
        regions = ((*kidney, *tumour, *cyst), (*tumour, *cyst), tumour)
        classes = dict(zip(KITS23_TOLERANCE_MM, regions, strict=True))
    tolerance_mm: dict[str, float] = {}
    found = [classes_called(name, classes) for name in KITS23_TOLERANCE_MM]
    if len(classes) == 3 and all(len(names) == 1 for names in found):
        whole, masses, tumour = (set(classes[names[0]]) for names in found)
        if whole > masses > tumour:
            tolerance_mm = {names[0]: own for names, own in zip(found, KITS23_TOLERANCE_MM.values(), strict=True)}
    return Selection(dict(classes), {name: (name,) for name in classes}, tolerance_mm)


_ALL = (
    Preset(
        "karimi",
        ("dice", "hd95_mm", "assd_mm"),
        "erosion",
        PER_CASE,
        _foreground,
        "Karimi et al., Convolution-free medical image segmentation using transformers, arXiv:2102.13645, section III "
        "and Table II",
        "binary: all classes merged into one; DSC, HD95 in mm and ASSD in mm of each test image, mean and standard "
        "deviation over images",
        (
            "how a surface is found and distances are pooled: voxels that an erosion takes; HD95 is the larger of the "
            "two directed percentiles, ASSD the mean over both surfaces together",
            "empty masks: an infinite distance is left out of the mean and counted",
            "kind of standard deviation: sample (n - 1)",
            "that tumour is merged into pancreas, and the two parts into hippocampus, follows from the paper's numbers "
            "of images and its binary networks; it does not say so",
        ),
    ),
    Preset(
        "medt",
        ("dice", "iou"),
        "area",
        PER_CASE,
        _foreground,
        "Valanarasu et al., Medical Transformer, arXiv:2102.10662, section 3.3 and Table 1",
        "binary: foreground against background; F1 (the Dice) and IoU of each image, mean over images. Scores pooled "
        "over all pixels would obey IoU = F1 / (2 - F1); each IoU of Table 1 is larger, as means over images are",
        (
            "images without foreground: left out if the prediction is empty too, else 0",
            "the authors' own script gives an image without any overlap the full score, also where the object was "
            "missed; that mean is shown beside",
            "the test images were used to choose the epoch; nnU-Net does not do that",
        ),
        no_overlap_scores=1.0,
    ),
    Preset(
        "fine",
        ("dice", "hd95_mm"),
        "erosion",
        CASES_THEN_CLASSES,
        _fine,
        "Themyr et al., Memory transformers for full context and high-resolution 3D medical segmentation (FINE), "
        "arXiv:2210.05313, section 3 and Tables 1 to 3",
        "seven columns of BCV: spleen, kidneys, gallbladder, liver, stomach, aorta, pancreas; mean over images, then "
        "over the seven columns (each row of Table 1 adds up so). Two kidney classes are averaged in one column: the "
        "U-Net row, taken from TransUNet (arXiv:2102.04306), has 73.2, the mean of 77.77 and 68.60 there. Table 2: "
        "mean and sd over five splits of each column, and for the average the mean of the seven sds: those that the "
        "paper prints have the means 3.73, 3.64 and 2.97, and beside the averages it prints 3.7, 3.6 and 3.0. The sd "
        "of the splits' averages would be smaller, unless all organs rose and fell together",
        (
            "whether the authors' own networks had one kidney class or two: a data set with one has its own column",
            "which program computed HD95: erosion surfaces here, and the larger of the two directed percentiles",
            "empty masks: an infinite distance is left out of the mean and counted",
            "kind of standard deviation over the five splits: sample (n - 1); that each is over the splits' means, not "
            "over images, is read from the caption of Table 2",
        ),
        over_folds=True,
    ),
    Preset(
        "gasa",
        ("dice", "nsd"),
        "area",
        CASES_THEN_CLASSES,
        _gasa,
        "Sun et al., GASA-UNet, arXiv:2409.13146, section Experimental Setup and Tables 1 to 3",
        "nnU-Net's Dice (both masks empty: left out) and normalised surface Dice of each class, mean over cases, then "
        "over classes. KiTS23: the challenge's hierarchical classes kidney_and_masses, masses and tumour. AMOS: over "
        "all 15 classes, of which the table prints left and right merged",
        (
            "the tolerance of NSD: the challenge's for KiTS23 (1.0331, 1.1329 and 1.1498 mm), 1 mm for all others; "
            "--tolerance sets another",
            "which cases are test cases: no list is printed",
        ),
    ),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}
