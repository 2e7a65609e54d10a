"""What a reader of a comparison has to know before its p-values: dependent splits, few pairs, classes left out."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from nnunet_attn.evaluation.compare_inputs import Key, Prepared, listed
from nnunet_attn.evaluation.compare_results import MetricResult
from nnunet_attn.evaluation.statistics import FEW_PAIRS, SPLITS_DEPEND, PairedComparison


def repeated_splits(ready: Prepared) -> tuple[int | None, ...]:
    """Return the folds if they are repeated splits: a case is in several, or some are known to be random draws."""
    folds = tuple(dict.fromkeys(fold for fold, _ in ready.keys))
    drawn = {fold for own in ready.evaluations.values() for each in own for fold in each.origin.drawn_folds}
    is_repeated = _cases_are_repeated(ready.keys) or (len(folds) > 1 and not drawn.isdisjoint(folds))
    return folds if is_repeated else ()


def _cases_are_repeated(keys: Sequence[Key]) -> bool:
    return max(Counter(case for _, case in keys).values()) > 1


def statistical_warnings(ready: Prepared, splits: Sequence[int | None]) -> list[str]:
    """Splits that depend on each other, and methods of not the same number of seeds."""
    found = []
    if splits and _cases_are_repeated(ready.keys):
        found.append(f"cases are in several of the {len(splits)} splits: {SPLITS_DEPEND}")
    elif splits:
        found.append(f"the {len(splits)} folds are random draws, no parts of one cross-validation: {SPLITS_DEPEND}")
    seeds = {name: len(own) for name, own in ready.evaluations.items()}
    if len(set(seeds.values())) > 1:
        counts = ", ".join(f"{name}: {count}" for name, count in seeds.items())
        found.append(
            f"the methods have not the same number of seeds ({counts}), and an average of more seeds varies less"
        )
    return found


def several_cases(keys: Sequence[Key], patients: Mapping[str, str], by_patient: bool = False) -> list[str]:
    """Patients that count several times, although their cases are not independent of each other.

    Args:
        keys: Folds and cases that are compared.
        patients: Case -> patient, as far as known.
        by_patient: Whether the cases of a patient in a fold are averaged.
    """
    counted = {(patients[case], fold if by_patient else case) for fold, case in keys if case in patients}
    several = [patient for patient, count in Counter(patient for patient, _ in counted).items() if count > 1]
    if not several:
        return []
    have = "1 patient has" if len(several) == 1 else f"{len(several)} patients have"
    if by_patient:
        return [
            f"{have} cases in several folds: p-values take the means of each fold as independent; nnunet-attn splits "
            "--groups keeps patients in one fold"
        ]
    return [
        f"{have} several cases: p-values take them as independent; --patients takes the mean over each patient's cases"
    ]


def has_few_pairs(paired: PairedComparison) -> bool:
    """Return whether there are fewer than `FEW_PAIRS` pairs that are finite in both."""
    return paired.n_finite < FEW_PAIRS


def few_pairs(results: Sequence[MetricResult]) -> list[str]:
    """Where metrics or single classes rest on few pairs, or few finite ones; metrics with like numbers share one."""
    means = [result for result in results if result.class_name is None]
    found: dict[str, list[str]] = {}
    for result in means:
        if text := _few_pairs_of(result):
            found.setdefault(text, []).append(result.metric)
    texts = [text if len(metrics) == len(means) else f"{', '.join(metrics)}: {text}" for text, metrics in found.items()]
    warned = {metric for metrics in found.values() for metric in metrics}
    classes = {
        result.class_name: None
        for result in results
        if result.class_name is not None and result.metric not in warned and _few_pairs_of(result)
    }
    if classes:
        texts.append(
            f"of single classes ({listed(list(classes))}) there are fewer than {FEW_PAIRS} pairs, or finite ones; the "
            "tables mark them"
        )
    return texts


def _few_pairs_of(result: MetricResult) -> str:
    pairs, finite = (min(getattr(each.paired, n) for each in result.differences) for n in ("n_pairs", "n_finite"))
    if finite >= FEW_PAIRS:
        return ""
    if pairs >= FEW_PAIRS:
        return f"{finite} finite pairs of {pairs} are fewer than {FEW_PAIRS}: mean, t-test and interval rest on little"
    more = f" ({finite} of them finite)" if finite < pairs else ""
    return (
        f"{pairs} pairs{more} are fewer than {FEW_PAIRS}: only large differences can be seen, and p-values and "
        "intervals rest on little"
    )


def missing_classes(results: Sequence[MetricResult]) -> list[str]:
    """Where the table means of two methods are means over other classes."""
    found = []
    for result in results:
        missing = [own.method for own in result.methods if any(math.isnan(mean) for mean in own.seed_means)]
        if result.class_name is not None and missing and len(missing) < len(result.methods):
            found.append(
                f"{result.metric}: {', '.join(missing)} has no finite value of {result.class_name}, so its table mean "
                "leaves this class out, and those of the others do not"
            )
    return found
