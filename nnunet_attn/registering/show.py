"""A plan and its outcome, as text."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnunet_attn.datasets.pseudo_labels import ENTRY
from nnunet_attn.registering.model import MadeLabel
from nnunet_attn.registering.naming import counted
from nnunet_attn.registering.plan import PlannedCase, RegistrationPlan
from nnunet_attn.registering.propose import channel_lines, label_values, proposals

SHOWN = 20
"""That many cases are shown unless all are asked for."""

FEWEST = 5
"""nnU-Net's cross-validation needs as many training cases."""


def plan_text(plan: RegistrationPlan, raw_folder: Path, everything: bool = False) -> Iterator[str]:
    """Say all that registering will do, line by line.

    Args:
        plan: What is planned.
        raw_folder: Where the data set will be.
        everything: Show all cases, not the first 20.
    """
    yield from summary_text(plan, raw_folder)
    yield ""
    yield from _case_table(plan.cases, everything)
    yield ""
    yield "dataset.json:"
    content = {key: value for key, value in plan.dataset_json.items() if key != ENTRY}
    yield json.dumps(content, indent=4, ensure_ascii=False)
    if ENTRY in plan.dataset_json:
        yield f"and in it, under {ENTRY!r}, how the data set was made"


def summary_text(plan: RegistrationPlan, raw_folder: Path) -> Iterator[str]:
    """Say what will be made, how labels are mapped and what one should look at, line by line."""
    channels = len(plan.dataset_json["channel_names"])
    yield (
        f"{raw_folder / plan.folder_name}: {counts(plan)}; {plan.spatial_dims}D, "
        f"{counted(channels, 'channel')}, {_size(plan.total_bytes)} to write, read by {plan.reader}"
    )
    yield from channel_lines(plan)
    yield from _label_text(plan)
    for action, number in Counter(action for case in plan.cases for action in case.actions).most_common():
        named = [case.source.case for case in plan.cases if action in case.actions]
        which = "all cases" if number == len(plan.cases) else f"{counted(number, 'case')}: {_some(named)}"
        yield f"{action}: {which}"
    for note in (*plan.request.notes, *proposals(plan)):
        yield f"note: {note}"
    for warning in plan.warnings:
        yield f"warning: {warning}"
    trained = sum(not case.source.test for case in plan.cases)
    if trained < FEWEST and not plan.request.unlabeled:
        yield f"warning: {counted(trained, 'case')} for training; nnU-Net's five folds need {FEWEST}: train on fold all"


def done_text(plan: RegistrationPlan, folder: Path) -> Iterator[str]:
    """Say what was written and what to type next, line by line."""
    number = plan.request.dataset_id
    if plan.request.unlabeled:
        yield f"{folder}: {counts(plan)}, without labels"
        yield (
            "Pre-train on it: "
            f"nnunet-attn pretrain -d {number} -tr TRAINER -c CONFIGURATION --for LABELLED_ID --task denoise"
        )
        return
    yield f"{folder}: {counts(plan)}; it passed nnU-Net's check of data sets"
    yield f"Plan with: nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity"
    if any(case.source.patient is not None for case in plan.cases if not case.source.test):
        yield f"Patients are known; then make folds that keep them together: nnunet-attn splits -d {number} --groups"
    elif any(case.source.site is not None for case in plan.cases if not case.source.test):
        yield f"Sites are known; then make folds that balance them: nnunet-attn splits -d {number} --stratify site"


def counts(plan: RegistrationPlan) -> str:
    """Say how many cases are for training and held out."""
    tested = sum(case.source.test for case in plan.cases)
    trained = len(plan.cases) - tested
    purpose = "pre-training" if plan.request.unlabeled else "training"
    return f"{counted(trained, 'case')} for {purpose}" + (f", {tested} held out" if tested else "")


def _label_text(plan: RegistrationPlan) -> Iterator[str]:
    if plan.request.unlabeled:
        return
    names = label_values(plan)
    yield "labels: " + ", ".join(f"{name} = {value}" for name, value in names.items())
    changed = {old: new for old, new in plan.value_map.items() if old != new}
    if not changed:
        yield "values of labels stay as they are"
        return
    told = ", ".join(f"{old} -> {new}" for old, new in sorted(plan.value_map.items()))
    yield f"values of labels (source -> new): {told}"


def _case_table(cases: Sequence[PlannedCase], everything: bool) -> Iterator[str]:
    shown = cases if everything else cases[:SHOWN]
    files = [file for case in cases for file in _files(case)]
    root = _shared_folder(files)
    optional = [name for name in ("patient", "site") if any(getattr(case.source, name) for case in cases)]
    rows = [["case", "for", *optional, "images", "label", "what is done"]]
    for case in shown:
        source = case.source
        rows.append(
            [
                source.case,
                "test" if source.test else "training",
                *(getattr(source, name) or "" for name in optional),
                " ".join(_below(file, root) for file in source.images),
                _label(source.label, root),
                ", ".join(case.actions),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    yield "Cases:" if root is None else f"Cases, with files below {root}:"
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if len(shown) < len(cases):
        yield f"... and {len(cases) - len(shown)} more; --all shows them"


def _files(case: PlannedCase) -> list[Path]:
    label = case.source.label
    made_from = [] if label is None else [label] if isinstance(label, Path) else list(label.files)
    return [*case.source.images, *made_from]


def _shared_folder(files: Sequence[Path]) -> Path | None:
    try:
        return Path(os.path.commonpath([file.parent.absolute() for file in files]))
    except ValueError:  # there are no files, or they are on several drives
        return None


def _label(label: Path | MadeLabel | None, root: Path | None) -> str:
    if label is None:
        return "-"
    files = [label] if isinstance(label, Path) else list(label.files)
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return (_below(files[0], root) if files else "made") + more


def _below(file: Path, root: Path | None) -> str:
    return str(file.absolute() if root is None else file.absolute().relative_to(root))


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
