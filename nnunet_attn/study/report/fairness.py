"""What makes the comparison of a study unfair, or has to be known to judge it."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnunet_attn.evaluation.pairs import BEST
from nnunet_attn.study.check import check_references
from nnunet_attn.study.groups import Group
from nnunet_attn.study.options import derived_plans_name
from nnunet_attn.study.report.costs import Needs
from nnunet_attn.study.report.facts import belongs, differing_keys, trained_configuration
from nnunet_attn.study.report.model import GroupReport, RunInfo, TrainingFacts, Unfair
from nnunet_attn.study.report.setup import DatasetInfo

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study
    from nnunet_attn.study.rows import Row

NNUNET_EPOCHS, NNUNET_ITERATIONS = 1000, 250

# beginnings of a comparison's warnings that are said here in more detail
_TOLD_HERE = ("other plans: ", "other configurations: ", "nothing tells which checkpoint")
_OTHER_CLASSES = "so its table mean leaves this class out"  # means of other classes: not of the same thing
_TOLD_HERE_PARTS = (" were trained with other contents of the plans ",)

MUCH_LARGER = 1.5
"""So many times the parameters or operations of the reference: what is ahead may be so by its size alone."""

_LENGTH_AND_SEED = ("epochs", "iterations_per_epoch", "epochs_between_saves", "seed")
_TOLD_APART = ("patch_size", "batch_size")  # keys of plans that have a sentence of their own


def unfair(
    study: "Study",
    runs: Sequence[RunInfo],
    groups: Sequence[GroupReport],
    datasets: Sequence[DatasetInfo],
    needs: Needs | None = None,
) -> tuple[Unfair, ...]:
    """Return all that makes a study's comparison unfair, the serious first.

    Args:
        study: The study.
        runs: Its trainings.
        groups: What is compared.
        datasets: Those that are known.
        needs: Memory of training steps, which tells whether nnU-Net's larger presets have to be compared with; and
            parameters and operations, which tell what is larger than the reference.
    """
    found = [*_of_study(study, runs, needs), *_of_datasets(datasets, study.test_set)]
    for each in groups:
        found += _of_group(study, each, runs)
    found = list(dict.fromkeys(found))
    return tuple(sorted(found, key=lambda each: not each.is_serious))


def _of_study(study: "Study", runs: Sequence[RunInfo], needs: Needs | None) -> Iterator[Unfair]:
    for finding in check_references(study, {} if needs is None else needs.found):
        yield Unfair("reference", True, f"{finding.text}; {finding.remedy}")
    for missing in study.missing:
        yield Unfair("missing", True, f"{missing.what} belongs to this comparison and is not in it: {missing.why}")
    if len(study.seeds) < 2:
        told = "no seeds are set, so each row is" if not study.seeds else "each row is"
        text = f"{told} trained once: what differs between two trainings of one method cannot be told from methods"
        yield Unfair("seeds", True, text)
    if study.budget is not None and study.budget.width is not None:
        text = f"networks have {study.budget.width:g} times the features that are planned: none is at its best"
        yield Unfair("budget", True, text)
    yield from _rows_differ(study)
    yield from _larger(study, needs)
    yield from _trained_on(runs)
    shared: dict[Any, dict[str, None]] = {}
    for each in runs:
        shared.setdefault(each.run.fold_folder, {})[each.run.row] = None
    for rows in dict.fromkeys(tuple(rows) for rows in shared.values() if len(rows) > 1):
        yield Unfair("shared", False, f"{_listed(rows)} are the same trainings; they differ in how they predict")


def _rows_differ(study: "Study") -> Iterator[Unfair]:
    """What the study itself says about single rows."""
    for kind, of, serious in (("pre-training", _pretrained, True), ("options", _options, False)):
        some = [row.title for row in study.rows if of(row)]
        if some and len(some) < len(study.rows):
            verb = "is pre-trained" if kind == "pre-training" else "has network options of its own"
            verb = verb if len(some) == 1 else verb.replace("is ", "are ").replace("has ", "have ")
            others = [row.title for row in study.rows if row.title not in some]
            yield Unfair(kind, serious, f"{_listed(some)} {verb}, {_listed(others)} not")
    seen = [row.title for row in study.rows if row.pretrain is not None and row.pretrain.dataset is None]
    if seen:
        text = f"{_listed(seen)}: pre-trained on all images of the data set, those of validation cases among them"
        yield Unfair("pre-training", True, f"{text}, without their labels")
    reference = study.row_named(study.reference) if study.reference in _titles(study) else study.rows[0]
    for row in study.rows:
        told = _differing_suffixes(reference, row)
        if told:
            text = f"{row.title} is trained otherwise than {reference.title}: {_listed(told)}"
            yield Unfair("training", not all(each.startswith(_HARMLESS) for each in told), text)


def _larger(study: "Study", needs: Needs | None) -> Iterator[Unfair]:
    """Rows much larger than the reference on the same data set, in the same configuration."""
    for (dataset, row, configuration), need in ({} if needs is None else needs.found).items():
        reference = needs.found.get((dataset, study.reference, configuration)) if needs is not None else None
        if reference is None or row == study.reference:
            continue
        sizes = (("parameters", need.parameters, reference.parameters), ("operations", need.flops, reference.flops))
        ratios = [(what, own / other) for what, own, other in sizes if own and other]
        told = [f"{ratio:.1f} times the {what}" for what, ratio in ratios if ratio >= MUCH_LARGER]
        if told:
            text = f"{row} has {' and '.join(told)} of {study.reference}: a gain may be that of a larger network"
            yield Unfair("size", False, text, f"{dataset}, {configuration}")


def _titles(study: "Study") -> list[str]:
    return [row.title for row in study.rows]


def _pretrained(row: "Row") -> bool:
    return row.pretrain is not None


def _options(row: "Row") -> bool:
    return bool(row.options)


_HARMLESS = ("precision", "optimizer_name", "learning_rate")
"""Suffixes that belong to a method's recipe, or change its speed alone."""


def _differing_suffixes(reference: "Row", row: "Row") -> list[str]:
    one, other = (dict(each.parsed.attributes) for each in (reference, row))
    keys = [key for key in {**one, **other} if key not in _LENGTH_AND_SEED and one.get(key) != other.get(key)]
    return [f"{key} {other.get(key, 'as usual')}, not {one.get(key, 'as usual')}" for key in sorted(keys)]


def _trained_on(runs: Sequence[RunInfo]) -> Iterator[Unfair]:
    told: tuple[tuple[str, str, Callable[[TrainingFacts], Any]], ...] = (
        ("hardware", "device", lambda facts: facts.device),
        ("versions", "PyTorch", lambda facts: facts.torch),
        ("versions", "cuDNN", lambda facts: facts.cudnn),
        ("versions", "nnunet_attn", lambda facts: facts.nnunet_attn),
    )
    for kind, name, of in told:
        values = _rows_by((of(each.facts), each.run.row) for each in runs)
        if len(values) > 1:
            yield Unfair(kind, False, f"other {name} between trainings: {_by_value(values)}")
    several = dict.fromkeys(each.run.row for each in runs if each.facts.distributed)
    if several:
        text = f"{_listed(several)}: several GPUs shared a training; their number is not known, hours are of one"
        yield Unfair("hardware", False, text)
    for text in dict.fromkeys(
        f"{each.run.row}, fold {each.run.fold}: {each.state.message}"
        for each in runs
        if each.state.kind == "done" and each.state.message and "not finite" in each.state.message
    ):
        yield Unfair("training", True, text)


def _of_datasets(datasets: Sequence[DatasetInfo], tested: bool) -> Iterator[Unfair]:
    for info in datasets:
        ordinary = [split for split in info.splits if split.kind in (None, "cross-validation")]
        cases = {case for split in ordinary for case in split.validation}
        seen = {case for split in ordinary if split.used for case in split.validation}
        if 0 < len(seen) < len(cases):
            folds = _listed(split.fold for split in ordinary if split.used)
            text = f"{len(seen)} of {len(cases)} cases are validated, those of fold {folds}"
            yield Unfair("folds", False, text, info.name)
        few: dict[int, set[str]] = {}
        for split in info.splits:
            if split.used and split.labels is not None:
                few.setdefault(split.labels, set()).update(split.validation)
        if not (tested and info.test_labels) and len(set(map(frozenset, few.values()))) > 1:
            counts = "; ".join(f"{labels} labels: {len(few[labels])}" for labels in sorted(few))
            text = f"each number of labels is validated on other cases ({counts}), so that its Dice is of other cases"
            yield Unfair("labels", True, f"{text}; a test set has the same ones for all: test_set: true", info.name)
        for split in info.splits:
            if split.used and split.shared_patients:
                number = len(split.shared_patients)
                text = f"fold {split.fold} trains and validates with cases of the same {number} patients"
                text = text if number > 1 else f"fold {split.fold} trains and validates with cases of one patient"
                yield Unfair("splits", True, text, info.name)


def _of_group(study: "Study", each: GroupReport, runs: Sequence[RunInfo]) -> Iterator[Unfair]:
    group, where = each.group, each.group.title
    for text in each.missing:
        yield Unfair("unfinished", True, text, where)
    if each.why_none is not None:
        yield Unfair("unfinished", True, each.why_none, where)
    own = [run for run in runs if any(belongs(run.run, model) for model in group.models)]
    yield from _lengths(own, where)
    configurations = _rows_by((run.run.configuration, run.run.row) for run in own)
    if len(configurations) > 1:
        yield Unfair("configuration", True, f"other configurations: {_by_value(configurations)}", where)
    yield from _plans(study, group, own, where)
    patches = _rows_by((_patch(run.facts), run.run.row) for run in own)
    if len(patches) > 1 and len(configurations) == 1:
        yield Unfair("patch", True, f"other patches: {_by_value(patches)}", where)
    batches = _rows_by((run.facts.batch_size, run.run.row) for run in own)
    if len(batches) > 1 and len(configurations) == 1:
        yield Unfair("batch size", True, f"other batch sizes: {_by_value(batches)}", where)
    optimisers = _rows_by((run.facts.recipe or _optimiser(run.facts), run.run.row) for run in own)
    if len(optimisers) > 1:
        yield Unfair("optimiser", False, f"each with its own recipe: {_by_value(optimisers)}", where)
    losses = _rows_by((run.facts.loss, run.run.row) for run in own)
    if len(losses) > 1:
        yield Unfair("loss", True, f"other losses: {_by_value(losses)}", where)
    flips = _rows_by((_augmentation(run.facts), run.run.row) for run in own)
    if len(flips) > 1:
        yield Unfair("augmentation", True, f"other augmentation: {_by_value(flips)}", where)
    precisions = _rows_by((run.facts.precision, run.run.row) for run in own)
    if len(precisions) > 1:
        yield Unfair("precision", False, f"other precisions: {_by_value(precisions)}", where)
    yield from _checkpoints(own, where, group.test)
    yield from _of_test(study, group, where)
    if each.comparison is not None:
        for text in each.comparison.warnings:
            is_told = text.startswith(_TOLD_HERE) or any(part in text for part in _TOLD_HERE_PARTS)
            if text not in each.missing and not is_told:
                yield Unfair("statistics", _OTHER_CLASSES in text, text, where)


def _lengths(own: Sequence[RunInfo], where: str) -> Iterator[Unfair]:
    """Epochs and iterations: other ones between rows, and fewer than nnU-Net's."""
    epochs = _rows_by((run.facts.epochs or run.state.epochs, run.run.row) for run in own)
    if len(epochs) > 1:
        yield Unfair("epochs", True, f"other numbers of epochs: {_by_value(epochs)}", where)
    iterations = _rows_by((run.facts.iterations, run.run.row) for run in own)
    if len(iterations) > 1:
        yield Unfair("iterations", True, f"other numbers of iterations an epoch: {_by_value(iterations)}", where)
    lengths = _rows_by((_length(run), run.run.row) for run in own)
    full = NNUNET_EPOCHS * NNUNET_ITERATIONS
    short = {length: rows for length, rows in lengths.items() if length[0] * length[1] < full}
    for (number, steps), rows in short.items():
        share = 100 * number * steps / full
        text = (
            f"{_listed(rows)}: {number} epochs of {steps} iterations are {_percent(share)} of nnU-Net's "
            f"{NNUNET_EPOCHS} x {NNUNET_ITERATIONS}; what is ahead after a short training need not be after a full one"
        )
        yield Unfair("budget", True, text, where)


def _length(run: RunInfo) -> tuple[int, int] | None:
    """Epochs and iterations; nnU-Net's where only the epochs are known."""
    epochs = run.facts.epochs or run.state.epochs
    return None if epochs is None else (epochs, run.facts.iterations or NNUNET_ITERATIONS)


def _plans(study: "Study", group: Group, own: Sequence[RunInfo], where: str) -> Iterator[Unfair]:
    """Other contents of the plans, compared with those of the reference; options of networks do not count."""
    if len({run.run.configuration for run in own}) > 1:
        return
    models = {model.row: model for model in group.models if (model.folder / "plans.json").is_file()}
    trained = {row: trained_configuration(model.folder, model.configuration) for row, model in models.items()}
    trained = {row: entry for row, entry in trained.items() if entry}
    digests = _rows_by((run.facts.plans_digest, run.run.row) for run in own)
    first = group.reference if group.reference in trained else next(iter(trained), None)
    if first is not None:
        for row, entry in trained.items():
            keys = [key for key in differing_keys(trained[first], entry) if key not in _TOLD_APART]
            if keys:
                names = f"{models[row].plans} of {row} and {models[first].plans} of {first}"
                yield Unfair("plans", True, f"{names} differ in {_listed(keys)}", where)
    for row in group.rows:
        if sum(row in rows for rows in digests.values()) > 1:
            yield Unfair("plans", True, f"the trainings of {row} have not all the same plans", where)
    bases = {row.title: study.plans_of(row) for row in study.rows if row.title in group.rows}
    own_plans = {row.title: derived_plans_name(study, row) for row in study.rows}
    derived = [title for title, base in bases.items() if own_plans[title] != base]
    named = _rows_by((bases[title], title) for title in bases)
    if len(named) > 1:
        yield Unfair("plans", False, f"plans of other names: {_by_value(named)}", where)
    if derived and len(derived) < len(bases):
        text = f"{_listed(derived)}: plans derived from the same ones, with options or pre-training of their own"
        yield Unfair("plans", False, text, where)


def _checkpoints(own: Sequence[RunInfo], where: str, test: bool) -> Iterator[Unfair]:
    if test:
        return
    done = [run for run in own if run.state.kind == "done"]
    known = _rows_by((run.facts.checkpoint, run.run.row) for run in done)
    if len(known) > 1:
        yield Unfair("checkpoint", True, f"other checkpoints predicted: {_by_value(known)}", where)
    if BEST in known:
        text = (
            f"{_listed(known[BEST])}: {BEST} predicted, which was chosen by patches of the very cases that are "
            "validated; validate with the final one: nnUNetv2_train ... --val"
        )
        yield Unfair("checkpoint", True, text, where)
    unknown = dict.fromkeys(run.run.row for run in done if run.facts.checkpoint is None)
    if unknown:
        text = f"nothing tells which checkpoint predicted the validation cases of {_listed(unknown)}"
        yield Unfair("checkpoint", False, text, where)


def _of_test(study: "Study", group: Group, where: str) -> Iterator[Unfair]:
    """How folds predict the test cases together."""
    several = [model for model in group.models if len(model.folds) > 1]
    if not group.test or not several:
        return
    joined = _rows_by((study.row_named(model.row).ensemble, model.row) for model in several)
    if len(joined) > 1:
        yield Unfair("ensemble", False, f"the mean of other outputs predicts: {_by_value(joined)}", where)


def _augmentation(facts: TrainingFacts) -> str | None:
    known = {"False": "nnU-Net's", "True": "flips along the last axis alone"}
    return None if facts.flips_only is None else known.get(facts.flips_only, f"flips along {facts.flips_only} alone")


def _patch(facts: TrainingFacts) -> str | None:
    return None if facts.patch_size is None else " x ".join(map(str, facts.patch_size))


def _optimiser(facts: TrainingFacts) -> str | None:
    if facts.optimizer is None:
        return None
    return facts.optimizer if facts.learning_rate is None else f"{facts.optimizer}, {facts.learning_rate:g}"


def _rows_by(pairs: Iterable[tuple[Any, str]]) -> dict[Any, dict[str, None]]:
    """Value -> rows that have it; what is not known is left out."""
    found: dict[Any, dict[str, None]] = {}
    for value, row in pairs:
        if value is not None:
            found.setdefault(value, {})[row] = None
    return found


def _by_value(values: Mapping[Any, Iterable[str]]) -> str:
    return "; ".join(f"{value}: {_listed(rows)}" for value, rows in values.items())


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))


def _percent(share: float) -> str:
    return f"{share:.2g} %" if share < 10 else f"{math.floor(share)} %"
