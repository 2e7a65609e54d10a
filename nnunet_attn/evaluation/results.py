"""An evaluation: every metric of every class of every case, and the file that keeps it."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError

SUMMARY_FILE = "summary_attn.json"
CHECKPOINT_FILE = "checkpoint_attn.json"
"""In a validation folder: which checkpoint predicted, {"checkpoint": "checkpoint_final.pth"}; written by trainers."""
FORMAT = 1

OVERLAP_METRICS = ("dice", "iou", "precision", "recall")
SURFACE_METRICS = ("nsd", "hd95_mm", "assd_mm")
VOLUME_METRICS = ("volume_difference_mm3", "relative_volume_difference")
METRICS = (*OVERLAP_METRICS, *SURFACE_METRICS, *VOLUME_METRICS)
"""All metrics; in 2D the volume difference is an area in mm^2, under the same name."""

LARGER_IS_BETTER = {
    **dict.fromkeys((*OVERLAP_METRICS, "nsd"), True),
    **dict.fromkeys((*SURFACE_METRICS[1:], *VOLUME_METRICS), False),
}
"""Of volume differences the size counts, not the sign."""


@dataclass(frozen=True)
class CaseResult:
    """The metrics of one case.

    Args:
        case: Name of the case.
        fold: Fold whose network predicted it; None outside a cross-validation.
        metrics: Class -> metric -> value; NaN is not counted (both masks empty), an infinite distance means that one
            of the masks is empty.
        prediction_file: Where the prediction lies, relative to the summary file if it can be.
        reference_file: Where the reference lies.
        stamp: Sizes and modification times of both files: an evaluation with the same stamp is up to date.
    """

    case: str
    fold: int | None
    metrics: Mapping[str, Mapping[str, float]]
    prediction_file: str
    reference_file: str
    stamp: tuple[int, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What was measured, and how.

    Args:
        metrics: Names, of `METRICS`.
        tolerance_mm: Class -> tolerance of the normalised surface distance.
        surface: "area" (area-weighted, by the library surface-distance) or "erosion" (voxels that an erosion takes).
        preset: Name of a paper's reading, if one was asked for.
    """

    metrics: tuple[str, ...]
    tolerance_mm: Mapping[str, float]
    surface: str = "area"
    preset: str | None = None


@dataclass(frozen=True)
class Origin:
    """What made the predictions, as far as it is known.

    Args:
        kind: "folder" (of predictions) or "cross_validation".
        dataset: `DatasetNNN_Name`.
        trainer: Name of the trainer, suffixes included.
        plans: Name of the plans.
        configuration: For example `3d_fullres`.
        folds: Folds that were evaluated, or whose networks predicted together.
        checkpoint: For example `checkpoint_final.pth`; None where nothing tells.
        ensemble: "logits" or "softmax" where several folds predicted together.
        plans_digest: SHA-256 of the plans' configuration that was trained, to tell other plans of the same name.
        drawn_folds: Those of `folds` that `nnunet-attn splits` drew at random, each for itself (`--repeated`,
            `--labels`): no parts of one cross-validation.
    """

    kind: str
    dataset: str | None = None
    trainer: str | None = None
    plans: str | None = None
    configuration: str | None = None
    folds: tuple[int | str, ...] = ()
    checkpoint: str | None = None
    ensemble: str | None = None
    plans_digest: str | None = None
    drawn_folds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """All metrics of a set of predictions.

    Args:
        origin: What made the predictions.
        settings: What was measured.
        classes: Class -> its label values; several for a region.
        ignore: Value that is ignored.
        cases: One entry a prediction; a case may be in several folds (repeated splits).
        provenance: Date and versions.
    """

    origin: Origin
    settings: Settings
    classes: Mapping[str, tuple[int, ...]]
    ignore: int | None
    cases: tuple[CaseResult, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def write_evaluation(evaluation: Evaluation, file: Path, summary: Mapping[str, Any]) -> None:
    """Write an evaluation under a temporary name, then rename it.

    Args:
        evaluation: What to write.
        file: `summary_attn.json` of a folder that exists.
        summary: Means, for readers of the file; see `nnunet_attn.evaluation.aggregate`.
    Raises:
        InputError: If it cannot be written.
    """
    content = {"format": FORMAT, **dict(summary), **asdict(evaluation)}
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        text = json.dumps(json_ready(content), indent=2, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, file)
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror}): free or allow it, or choose another -o") from error
    finally:
        partial.unlink(missing_ok=True)


def read_evaluation(file: Path) -> Evaluation:
    """Read what `write_evaluation` wrote; a folder stands for the `summary_attn.json` in it.

    Raises:
        InputError: If it is missing or is not such a file.
    """
    try:
        file = file / SUMMARY_FILE if file.is_dir() else file
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; evaluate first: nnunet-attn evaluate") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); allow it, or evaluate elsewhere: -o") from error
    except ValueError as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); evaluate again with --overwrite") from error
    try:
        if content["format"] != FORMAT:
            raise InputError(
                f"{file} has the format {content['format']}, this version reads {FORMAT}; "
                "evaluate again with --overwrite"
            )
        cases = tuple(
            CaseResult(
                entry["case"],
                entry["fold"],
                {
                    name: {metric: _number(value) for metric, value in values.items()}
                    for name, values in entry["metrics"].items()
                },
                entry["prediction_file"],
                entry["reference_file"],
                tuple(entry["stamp"]),
            )
            for entry in content["cases"]
        )
        settings, origin = content["settings"], content["origin"]
        return Evaluation(
            Origin(**{**origin, "folds": tuple(origin["folds"]), "drawn_folds": tuple(origin.get("drawn_folds", ()))}),
            Settings(**{**settings, "metrics": tuple(settings["metrics"])}),
            {name: tuple(values) for name, values in content["classes"].items()},
            content["ignore"],
            cases,
            content["provenance"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{file} is not what nnunet-attn evaluate writes ({error!r}); evaluate again with --overwrite"
        ) from error


def json_ready(value: Any) -> Any:
    """Return a content with what JSON has not replaced: NaN by null, an infinite number by "inf" or "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def _number(value: Any) -> float:
    if isinstance(value, str) and value not in ("inf", "-inf"):
        raise ValueError(f"{value!r} is no number")
    return math.nan if value is None else float(value)
