"""Evaluates a folder of predictions or a cross-validation, and keeps the result beside nnU-Net's, never instead."""

import contextlib
import csv
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.aggregate import summary
from nnunet_attn.evaluation.description import (
    Description,
    find_reader,
    plans_digest,
    read_description,
    unreadable_told,
)
from nnunet_attn.evaluation.measuring import Job, measure_all
from nnunet_attn.evaluation.pairs import Pair, checkpoint_used, find_model, fold_pairs, folder_pairs
from nnunet_attn.evaluation.presets import find_preset, preset_report
from nnunet_attn.evaluation.results import (
    SUMMARY_FILE,
    CaseResult,
    Evaluation,
    Origin,
    Settings,
    read_evaluation,
    write_evaluation,
)
from nnunet_attn.evaluation.settings import check_settings, chosen_settings, settings_for
from nnunet_attn.paths import make_folder

CASES_FILE = "metrics_attn.csv"
FOLDS = (0, 1, 2, 3, 4)

Progress = Callable[[int, int], None]
"""Called with the cases that are done and all cases; first with those that were up to date."""

_DECIDING = ("nnunet_attn", "surface-distance", "nnunetv2")  # packages whose versions decide what is up to date
_PACKAGES = (*_DECIDING, "numpy", "scipy", "SimpleITK")


@dataclass(frozen=True)
class _Task:
    """All that decides an evaluation but the files' contents."""

    pairs: tuple[Pair, ...]
    description: Description
    reader: str
    settings: Settings
    classes: Mapping[str, tuple[int, ...]]
    origin: Origin
    left_out: tuple[str, ...]
    output: Path


def evaluate_folder(
    predictions: Path,
    references: Path,
    *,
    dataset_json: Path | None = None,
    plans_json: Path | None = None,
    settings: Settings | None = None,
    output: Path | None = None,
    origin: Origin | None = None,
    chill: bool = False,
    processes: int = 4,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a folder of predictions.

    Writes `summary_attn.json` and `metrics_attn.csv`, with a preset `summary_attn_PRESET.json` and so on. Cases whose
    files, settings and versions are those of an earlier evaluation there are not computed again; if that is true of all
    of them, nothing is written. With `processes` above 1 a script needs `if __name__ == "__main__":`.

    Args:
        predictions: Folder of label files.
        references: Folder with files of the same names.
        dataset_json: Classes, ignore label and ending. Default: `dataset.json` in the folder of predictions, where
            nnUNetv2_predict leaves it.
        plans_json: Names the reader. Default: `plans.json` there, if it is there.
        settings: From `chosen_settings`. Default: all metrics, 1 mm, area-weighted surfaces.
        output: Folder to write to, made if missing. Default: the predictions' own.
        origin: What made the predictions, if that is known.
        chill: Accept references without a prediction; they are named in `provenance["left_out"]`.
        processes: How many read and measure at once.
        overwrite: Compute all cases anew.
        progress: Called as cases are done.
    Raises:
        InputError: If folders, files or settings are not as they must be; all wrong cases are named, and nothing is
            written.
    """
    with unreadable_told():
        if not predictions.is_dir():
            raise InputError(f"-i {predictions} is no folder; give the folder with the predictions")
        if dataset_json is None:
            dataset_json = predictions / "dataset.json"
            if not dataset_json.is_file():
                raise InputError(f"{predictions} has no dataset.json; give the data set's: -djfile FILE")
        if plans_json is None and (predictions / "plans.json").is_file():
            plans_json = predictions / "plans.json"
    description = read_description(dataset_json, plans_json)
    pairs, left_out = folder_pairs(predictions, references, description.file_ending, chill)
    if origin is None:
        origin = Origin("folder", description.dataset, plans=description.plans)
    task = _task(pairs, description, settings, origin, left_out, predictions if output is None else output)
    return _evaluate(task, processes, overwrite, progress)


def evaluate_cross_validation(
    dataset: str,
    trainer: str,
    plans: str = "nnUNetPlans",
    configuration: str = "3d_fullres",
    folds: Sequence[int] = FOLDS,
    *,
    settings: Settings | None = None,
    checkpoint: str | None = None,
    output: Path | None = None,
    processes: int = 4,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate the validation predictions of a model's folds against the references that nnU-Net compares with.

    Args:
        dataset: Name or number.
        trainer: Name of the trainer.
        plans: Name of the plans.
        configuration: For example `3d_fullres`.
        folds: Which; each must hold the cases that splits_final.json gives it, no more and no less.
        settings: As for `evaluate_folder`.
        checkpoint: What made the predictions, for example `checkpoint_best.pth`. Default: what the files tell, see
            `nnunet_attn.evaluation.pairs.checkpoint_used`; where they tell nothing, what an earlier evaluation there
            says, if no prediction and no reference changed since and it is not to be overwritten.
        output: Folder to write to. Default: `evaluation_attn_folds_0_1_2_3_4` in the model folder.
        processes: How many read and measure at once.
        overwrite: Compute all cases anew.
        progress: Called as cases are done.
    Raises:
        InputError: As `evaluate_folder`, and if model, folds or splits are not as they must be.
    """
    model = find_model(dataset, trainer, plans, configuration)
    folds = tuple(sorted(folds))
    plans_json = model.folder / "plans.json"
    description = read_description(model.folder / "dataset.json", plans_json)
    pairs = fold_pairs(model, folds, description.file_ending)
    if output is None:
        output = model.folder / f"evaluation_attn_folds_{'_'.join(map(str, folds))}"
    checkpoint = checkpoint_used(model, folds, checkpoint)
    if checkpoint is None and not overwrite:
        preset = None if settings is None else settings.preset
        checkpoint = _checkpoint_before(result_files(output, preset)[0], pairs)
    origin = Origin(
        "cross_validation",
        model.dataset,
        trainer,
        plans,
        configuration,
        folds,
        checkpoint,
        plans_digest=plans_digest(plans_json, configuration),
        drawn_folds=_drawn_folds(model.dataset, folds),
    )
    return _evaluate(_task(pairs, description, settings, origin, (), output), processes, overwrite, progress)


def _drawn_folds(dataset: str, folds: Sequence[int]) -> tuple[int, ...]:
    from nnunetv2.paths import nnUNet_preprocessed

    from nnunet_attn.datasets.splits_files import drawn_folds

    return drawn_folds(Path(str(nnUNet_preprocessed)) / dataset, folds)


def result_files(output: Path, preset: str | None = None) -> tuple[Path, Path]:
    """Return where summary and table of an evaluation lie in its folder."""
    suffix = "" if preset is None else f"_{preset}"
    summary_file, cases_file = Path(SUMMARY_FILE), Path(CASES_FILE)
    return (
        output / f"{summary_file.stem}{suffix}{summary_file.suffix}",
        output / f"{cases_file.stem}{suffix}{cases_file.suffix}",
    )


def settings_before(output: Path, preset: str | None = None) -> Settings | None:
    """Return the settings of an evaluation that lies in a folder; None where there is none that can be read."""
    try:
        return read_evaluation(result_files(output, preset)[0]).settings
    except InputError:
        return None


def _task(
    pairs: tuple[Pair, ...],
    description: Description,
    settings: Settings | None,
    origin: Origin,
    left_out: tuple[str, ...],
    output: Path,
) -> _Task:
    settings = chosen_settings() if settings is None else settings
    classes: Mapping[str, tuple[int, ...]] = description.classes
    own: Mapping[str, float] = {}
    if settings.preset is not None:
        preset = find_preset(settings.preset)
        selection = preset.select(classes)
        classes = selection.classes
        own = selection.tolerance_mm
        settings = Settings(preset.metrics, settings.tolerance_mm, preset.surface, preset.name)
    check_settings(settings)
    settings = settings_for(settings, classes, own)
    reader = find_reader(description, (pair.reference for pair in pairs))
    return _Task(pairs, description, reader, settings, classes, origin, left_out, output)


def _evaluate(task: _Task, processes: int, overwrite: bool, progress: Progress | None) -> Evaluation:
    if processes < 1:
        raise InputError(f"-np {processes}: at least 1 process is needed")
    with unreadable_told():
        is_new = not task.output.exists()
    make_folder(task.output)
    summary_file, cases_file = result_files(task.output, task.settings.preset)
    before = None if overwrite else _earlier(summary_file)
    stamps = [_stamp(pair) for pair in task.pairs]
    done: list[CaseResult | None] = [
        _reused(before, task, pair, stamp) for pair, stamp in zip(task.pairs, stamps, strict=True)
    ]
    waiting = [index for index, case in enumerate(done) if case is None]
    if progress is not None:
        progress(len(done) - len(waiting), len(done))
    warnings: dict[str, list[str]] = {}
    if before is not None:
        reused = {_place(case.fold, case.case) for case in done if case is not None}
        old = before.provenance.get("warnings", {})
        warnings = {place: list(texts) for place, texts in old.items() if place in reused}
    wrong: list[str] = []
    jobs = [
        Job(pair, task.reader, task.description.known_values, task.classes, task.settings, task.description.ignore)
        for pair in (task.pairs[index] for index in waiting)
    ]
    with contextlib.closing(measure_all(jobs, processes)) as results:  # an interrupt ends the processes at once
        for count, (number, measured) in enumerate(results, len(done) - len(waiting) + 1):
            index = waiting[number]
            pair, place = task.pairs[index], _place(task.pairs[index].fold, task.pairs[index].case)
            if measured.error is not None:
                wrong.append(f"case {pair.case}: {measured.error}")
            else:
                prediction, reference = _files(pair, task.output)
                done[index] = CaseResult(pair.case, pair.fold, measured.metrics, prediction, reference, stamps[index])
            if measured.warnings:
                warnings[place] = list(measured.warnings)
            if progress is not None:
                progress(count, len(done))
    if wrong:
        if is_new:
            with contextlib.suppress(OSError):  # something may have come to be in it
                task.output.rmdir()
        more = f"\n... and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise InputError("\n".join(sorted(wrong)[:10]) + more)

    evaluation = Evaluation(
        task.origin,
        task.settings,
        task.classes,
        task.description.ignore,
        tuple(case for case in done if case is not None),
        {
            "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": _versions(),
            "reader": task.reader,
            "left_out": list(task.left_out),
            "warnings": dict(sorted(warnings.items())),
        },
    )
    if before is not None and not waiting and _same(before, evaluation) and cases_file.is_file():
        return before
    report = preset_report(evaluation)
    means = summary(evaluation) | ({} if report is None else {"preset": asdict(report)})
    _write_cases(evaluation, cases_file)
    write_evaluation(evaluation, summary_file, means)  # last: it says what is up to date
    return evaluation


def _earlier(file: Path) -> Evaluation | None:
    """Return an earlier evaluation by the same versions; a broken one is made anew, not complained about."""
    try:
        before = read_evaluation(file)
        versions = before.provenance["versions"]
        return before if all(versions.get(name) == _version(name) for name in _DECIDING) else None
    except (InputError, KeyError, TypeError, AttributeError):
        return None


def _checkpoint_before(summary_file: Path, pairs: Sequence[Pair]) -> str | None:
    """Return the checkpoint of an earlier evaluation of exactly these files, whatever was measured."""
    try:
        before = read_evaluation(summary_file)
    except InputError:
        return None
    stamps = {(case.case, case.fold): case.stamp for case in before.cases}
    same = all(stamps.get((pair.case, pair.fold)) == _stamp(pair) for pair in pairs)
    return before.origin.checkpoint if same else None


def _reused(before: Evaluation | None, task: _Task, pair: Pair, stamp: tuple[int, ...]) -> CaseResult | None:
    if (
        before is None
        or before.settings != task.settings
        or dict(before.classes) != dict(task.classes)
        or before.ignore != task.description.ignore
        or before.provenance.get("reader") != task.reader
    ):
        return None
    files = _files(pair, task.output)
    for case in before.cases:
        if (case.case, case.fold, case.stamp) == (pair.case, pair.fold, stamp):
            return case if (case.prediction_file, case.reference_file) == files else None
    return None


def _same(one: Evaluation, other: Evaluation) -> bool:
    """Whether two evaluations differ in their date alone; the cases of `other` are those of `one`, but for some."""
    undated = [{**each.provenance, "date_utc": None} for each in (one, other)]
    names = [[(case.fold, case.case) for case in each.cases] for each in (one, other)]
    return one.origin == other.origin and undated[0] == undated[1] and names[0] == names[1]


def _stamp(pair: Pair) -> tuple[int, ...]:
    try:
        stats = [file.stat() for file in (pair.prediction, pair.reference)]
    except OSError as error:
        raise InputError(f"case {pair.case}: {error.filename} cannot be read ({error.strerror}); mend it") from error
    return tuple(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns))


def _place(fold: int | None, case: str) -> str:
    return case if fold is None else f"fold {fold}: {case}"


def _files(pair: Pair, folder: Path) -> tuple[str, str]:
    return _relative(pair.prediction, folder), _relative(pair.reference, folder)


def _relative(file: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(file.absolute(), folder.absolute())).as_posix()
    except ValueError:  # another drive on Windows
        return file.absolute().as_posix()


def _versions() -> dict[str, Any]:
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write_cases(evaluation: Evaluation, file: Path) -> None:
    """Write one row for each class of each case: NaN as an empty cell, infinity as `inf`."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["case", "fold", "class", *evaluation.settings.metrics])
            for case in evaluation.cases:
                for name in evaluation.classes:
                    values = (case.metrics[name][metric] for metric in evaluation.settings.metrics)
                    cells = ["" if math.isnan(value) else repr(float(value)) for value in values]
                    writer.writerow([case.case, "" if case.fold is None else case.fold, name, *cells])
        os.replace(partial, file)
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror}): free or allow it, or choose another -o") from error
    finally:
        partial.unlink(missing_ok=True)
