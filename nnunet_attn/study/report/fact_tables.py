"""The tables of a report that are not results: methods, cost, trainings, splits, versions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_attn.evaluation.compare_tables import DECIMALS, NONE, number
from nnunet_attn.study.report.model import CostInfo, LabelCurve, ReportData, RunInfo
from nnunet_attn.study.report.setup import DatasetInfo
from nnunet_attn.study.report.tables import Cell, Column, Table

_GIB = 2**30


def methods_table(data: ReportData) -> Table:
    """Return what each method is: trainer, network, plans, options, recipe."""
    columns = [
        Column("method", is_text=True),
        Column("trainer", is_text=True, is_wide=True),
        Column("network", is_text=True, is_wide=True),
        Column("plans", is_text=True, is_wide=True),
        Column("configuration", is_text=True),
        Column("options", is_text=True, is_wide=True),
        Column("pre-training", is_text=True),
        Column("labels", is_text=True),
        Column("optimiser", is_text=True, is_wide=True),
        Column("epochs x iterations", is_text=True),
    ]
    rows = [
        (
            Cell(row.title, tag="reference" if row.is_reference else ""),
            Cell(row.trainer),
            Cell(": ".join(part for part in (row.network, row.network_title) if part) or "of another package"),
            Cell(row.plans if row.plans == row.base_plans else f"{row.plans}, from {row.base_plans}"),
            Cell(", ".join(row.configurations)),
            Cell(options_text(row.options)),
            Cell(row.pretrain or ""),
            Cell(", ".join(map(str, row.labels))),
            Cell(row.recipe or ""),
            Cell(f"{_or_unknown(row.epochs)} x {_or_unknown(row.iterations)}" if row.epochs or row.iterations else ""),
        )
        for row in data.rows
    ]
    reference = frozenset(at for at, row in enumerate(data.rows) if row.is_reference)
    return _without_empty(Table("The methods", tuple(columns), tuple(rows), reference=reference))


def costs_table(costs: Sequence[CostInfo]) -> Table:
    """Return what each method costs on one data set in each configuration."""
    several = len({each.configuration for each in costs}) > 1
    columns = [Column("method", is_text=True), *([Column("configuration", is_text=True)] if several else [])]
    columns += [
        Column("parameters"),
        Column("operations of a forward pass"),
        Column("input: batch x channels x voxels", is_text=True),
        Column("batch size"),
        Column("seconds an epoch"),
        Column("iterations an epoch"),
        Column("peak memory"),
        Column("device hours"),
        Column("trainings"),
        Column("device", is_text=True, is_wide=True),
    ]
    rows = []
    for each in costs:
        memory = Cell(NONE)
        if each.peak_bytes is not None:
            text = f"{each.peak_bytes / _GIB:.2f} GiB"
            memory = Cell(text, each.peak_bytes, tag="" if each.peak_is_measured else "estimate")
        hours = Cell(NONE)
        if each.device_hours is not None:
            least = "" if each.hours_are_complete else "at least "
            hours = Cell(f"{least}{_hours(each.device_hours)}", each.device_hours)
        rows.append(
            (
                Cell(each.row),
                *([Cell(each.configuration)] if several else []),
                Cell(scaled(each.parameters), _value(each.parameters)),
                Cell(scaled(each.flops), _value(each.flops)),
                Cell(" x ".join(map(str, each.input_shape)) if each.input_shape else NONE),
                _count(each.batch_size),
                Cell(NONE if each.epoch_seconds is None else f"{each.epoch_seconds:.3g}", _value(each.epoch_seconds)),
                _count(each.iterations),
                memory,
                hours,
                _count(each.trainings),
                Cell(", ".join(each.devices) or NONE),
            )
        )
    note = (
        "Operations: a multiplication and an addition count as two, for an input of the size beside them. Peak memory: "
        "of one training step. Device hours: epochs and validation of all trainings, each on one device; of trainings "
        "that several share it is at least this. What was done again after a kill does not count."
    )
    if any(each.peak_bytes is not None and not each.peak_is_measured for each in costs):
        note += " Estimates of memory are from saved activations and were not measured."
    unknown = dict.fromkeys(f"{each.row}: {each.unknown.rstrip('.')}." for each in costs if each.unknown)
    return Table("Cost", tuple(columns), tuple(rows), " ".join([note, *unknown]).strip(), is_sortable=True)


def runs_table(runs: Sequence[RunInfo]) -> Table:
    """Return the state of each training."""
    columns = [
        Column("method", is_text=True),
        Column("data set", is_text=True),
        Column("configuration", is_text=True),
        Column("labels"),
        Column("seed"),
        Column("fold"),
        Column("state", is_text=True),
        Column("epochs"),
        Column("seconds from epoch to epoch"),
        Column("mean Dice"),
        Column("remark", is_text=True, is_wide=True),
    ]
    rows = []
    for each in runs:
        run, state = each.run, each.state
        is_result = state.kind == "done" and state.dice is not None
        rows.append(
            (
                Cell(run.row),
                Cell(run.dataset),
                Cell(run.configuration),
                _count(run.labels, ""),
                _count(run.seed, ""),
                _count(run.fold),
                Cell(state.kind),
                Cell(f"{_or_unknown(state.epoch)} of {_or_unknown(state.epochs)}", _value(state.epoch)),
                Cell(
                    "" if state.seconds_per_epoch is None else f"{state.seconds_per_epoch:.3g}",
                    _value(state.seconds_per_epoch),
                ),
                Cell(f"{state.dice:.4f}", state.dice) if is_result and state.dice is not None else Cell(""),
                Cell(state.message or ""),
            )
        )
    note = "Mean Dice: of the fold's validation cases, by nnU-Net's own summary; empty until a training is validated."
    return _without_empty(Table("All trainings", tuple(columns), tuple(rows), note, is_sortable=True))


def splits_table(dataset: DatasetInfo) -> Table:
    """Return the folds of a data set."""
    columns = [Column("fold", is_text=True), Column("kind", is_text=True), Column("labelled cases")]
    columns += [Column("training cases"), Column("validation cases")]
    columns += [Column("training patients"), Column("validation patients"), Column("patients on both sides")]
    columns += [Column("trained here", is_text=True)]
    rows = [
        (
            Cell(str(each.fold)),
            Cell(each.kind or ""),
            _count(each.labels, ""),
            _count(each.training),
            _count(len(each.validation)),
            _count(each.training_patients, ""),
            _count(each.validation_patients, ""),
            Cell("" if each.training_patients is None else str(len(each.shared_patients))),
            Cell("yes" if each.used else "no"),
        )
        for each in dataset.splits
    ]
    return _without_empty(Table(f"Splits of {dataset.name}", tuple(columns), tuple(rows)))


def labels_table(curves: Sequence[LabelCurve]) -> Table:
    """Return Dice against the number of labelled cases."""
    columns = (Column("method", is_text=True), *map(Column, ("labelled cases", "values", "mean Dice", "sd")))
    rows = [
        (
            Cell(curve.row),
            Cell(str(point.labels), point.labels, tag="all" if point.all_cases else ""),
            Cell(str(len(point.values)), len(point.values)),
            Cell(number(point.mean, DECIMALS), point.mean),
            Cell(number(point.sd, DECIMALS), point.sd),
        )
        for curve in curves
        for point in curve.points
    ]
    note = "Mean and standard deviation over folds and seeds, of nnU-Net's mean Dice of the validation cases."
    if any(curve.test for curve in curves):
        note = "Mean and standard deviation over seeds, of the mean Dice of the test cases."
    return Table("Dice against labelled cases", columns, tuple(rows), note, is_sortable=True)


def trained_on_table(data: ReportData) -> Table:
    """Return what the trainings ran on."""
    columns = [Column("device", is_text=True), Column("PyTorch", is_text=True), Column("cuDNN", is_text=True)]
    columns += [Column("nnunet_attn", is_text=True), Column("trainings")]
    rows = [
        (
            Cell(each.device),
            Cell(each.torch or NONE),
            Cell(each.cudnn or ""),
            Cell(each.nnunet_attn or ""),
            _count(each.trainings),
        )
        for each in data.trained_on
    ]
    return _without_empty(Table("What the trainings ran on", tuple(columns), tuple(rows)))


def versions_table(data: ReportData) -> Table:
    """Return the packages of the machine that made the report."""
    rows = tuple((Cell(name), Cell(text or "not installed")) for name, text in data.versions.items())
    return Table("Versions", (Column("package", is_text=True), Column("version", is_text=True)), rows)


def machine_text(data: ReportData) -> str:
    """Return the machine that made the report, in a sentence."""
    machine = data.machine
    parts = [machine.cpu, "" if machine.cores is None else f"{machine.cores} cores"]
    parts += ["" if machine.ram_bytes is None else f"{machine.ram_bytes / _GIB:.0f} GiB of memory"]
    parts += [machine.gpu or "no GPU that PyTorch can use"]
    return f"This report was made on: {', '.join(part for part in parts if part)}."


def scaled(value: float | None) -> str:
    """Return a large number with three digits and its factor: 31.2 M."""
    if value is None or math.isnan(value):
        return NONE
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            digits = max(0, 2 - math.floor(math.log10(abs(value) / factor * 1.0005)))
            return f"{value / factor:.{digits}f} {letter}"
    return f"{value:g}"


def options_text(options: Mapping[str, Any]) -> str:
    """Return arguments of a network as text."""
    return ", ".join(f"{key}: {value}" for key, value in options.items())


def _hours(hours: float) -> str:
    return f"{hours:.1f}" if hours >= 10 else f"{hours:.2g}"


def _or_unknown(value: int | None) -> str:
    return "?" if value is None else str(value)


def _count(value: int | None, missing: str = NONE) -> Cell:
    return Cell(missing) if value is None else Cell(str(value), value)


def _value(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _without_empty(table: Table) -> Table:
    """Leave out columns that nothing stands in."""
    kept = [at for at in range(len(table.columns)) if any(row[at].text for row in table.rows)]
    return Table(
        table.title,
        tuple(table.columns[at] for at in kept),
        tuple(tuple(row[at] for at in kept) for row in table.rows),
        table.note,
        table.reference,
        table.is_sortable,
    )
