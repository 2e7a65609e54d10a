"""What a report says: data alone, all of it ready to be shown. What is not known is None, or an empty tuple.

Numbers of methods are those of a `Comparison`, which nothing here computes anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nnunet_attn.evaluation.compare_results import Comparison, Difference, MethodResult
from nnunet_attn.study.groups import Group, Model
from nnunet_attn.study.logs import Epoch
from nnunet_attn.study.matrix import Run
from nnunet_attn.study.report.setup import DatasetInfo, Machine, RowInfo, TrainedOn
from nnunet_attn.study.state import RunState

if TYPE_CHECKING:
    from nnunet_attn.study.model import Study

PickKind = Literal["worst", "median", "best", "named"]


@dataclass(frozen=True)
class TrainingFacts:
    """What nnU-Net's files tell of a training; None where they do not.

    Args:
        device: Model name of the GPU, else "cpu" or "mps".
        torch: Version of PyTorch.
        cudnn: Version of cuDNN.
        nnunet_attn: Version of this package.
        epochs: Of the whole training.
        iterations: Of an epoch.
        batch_size: Cases of a batch.
        patch_size: In voxels.
        optimizer: Its class, such as "SGD".
        learning_rate: The initial one.
        recipe: Optimiser, schedule and weight decay in words; of trainers of this package.
        loss: Its terms, such as "dice_and_cross_entropy"; of trainers of this package.
        flips_only: "False": nnU-Net's augmentation, else which mirroring alone; of trainers of this package.
        precision: "amp", "bf16" or "fp32"; of trainers of this package.
        distributed: Whether several GPUs shared it; how many, nothing tells.
        plans_digest: SHA-256 of the plans that lie beside the results, as far as they are about this configuration and
            not about options of a network.
        checkpoint: That predicted the validation cases.
        epoch_seconds: Sum over its epochs.
        validation_seconds: Of the prediction of the validation cases.
    """

    device: str | None = None
    torch: str | None = None
    cudnn: str | None = None
    nnunet_attn: str | None = None
    epochs: int | None = None
    iterations: int | None = None
    batch_size: int | None = None
    patch_size: tuple[int, ...] | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    recipe: str | None = None
    loss: str | None = None
    flips_only: str | None = None
    precision: str | None = None
    distributed: bool = False
    plans_digest: str | None = None
    checkpoint: str | None = None
    epoch_seconds: float | None = None
    validation_seconds: float | None = None


@dataclass(frozen=True)
class RunInfo:
    """One training.

    Args:
        run: What it is. Rows that share a training have one entry each.
        state: Its state; `state.dice` is the mean Dice of its validation cases only where it is `done`.
        epochs: Its curves: losses, pseudo Dice and seconds of each epoch, all of them; `curves.thinned` has fewer.
        facts: What else its files tell.
    """

    run: Run
    state: RunState
    epochs: tuple[Epoch, ...]
    facts: TrainingFacts


@dataclass(frozen=True)
class TableRow:
    """One row of a study in one metric of a group: what its `Comparison` says, nothing else.

    Args:
        row: Title.
        result: Its means, standard deviations and mean rank. `result.table_mean` is the mean of tables, as nnU-Net's.
        difference: Against the reference: mean difference with its interval, p-values and their adjustment by Holm;
            None for the reference.
        is_significant: Whether Wilcoxon's p, adjusted by Holm, is below 1 - the comparison's confidence; None for the
            reference, and where there is no p.
        is_better: Whether the mean difference is to the better, by the direction of the metric; None for the
            reference, and where it is 0 or unknown.
        has_few_pairs: Whether figures rest on fewer than `nnunet_attn.evaluation.statistics.FEW_PAIRS` pairs.
    """

    row: str
    result: MethodResult
    difference: Difference | None
    is_significant: bool | None
    is_better: bool | None
    has_few_pairs: bool


@dataclass(frozen=True)
class MetricTable:
    """All rows of a group in one metric.

    Args:
        metric: Its name, of `nnunet_attn.evaluation.results.METRICS`.
        class_name: The class; None: the mean over the classes.
        larger_is_better: Its direction; of volume differences the size counts.
        friedman_p: That all rank alike; NaN with fewer than three rows.
        rows: The reference first.
    """

    metric: str
    class_name: str | None
    larger_is_better: bool
    friedman_p: float
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class CasePick:
    """A case for a figure.

    Args:
        kind: "worst", "median" or "best" by `metric`, averaged over the rows and the classes so that no row is
            favoured; "named" in the study.
        case: Its name.
        fold: That validates it; None among the test cases.
        metric: Name of the metric of `values`.
        values: Title of a row -> its value in this case, the seeds averaged.
        images: One file a channel; a colour image has one for all. Empty if they are not there.
        channels: Names of the channels, one for each of `images`.
        reference: File of its labels.
        predictions: Title of a row -> file of its first seed; a row without one is left out.
    """

    kind: PickKind
    case: str
    fold: int | None
    metric: str
    values: Mapping[str, float]
    images: tuple[Path, ...]
    channels: tuple[str, ...]
    reference: Path
    predictions: Mapping[str, Path]


@dataclass(frozen=True)
class GroupReport:
    """A group and what came of it.

    Args:
        group: Its rows and models.
        comparison: None where there is none.
        why_none: Why there is none, in a sentence; None where there is one.
        folds: What was compared; empty without anything finished.
        missing: What is not in the comparison, one sentence each.
        left_out: Titles of rows of which nothing is finished.
        tables: The comparison's figures, in its order; empty without one.
        picks: Cases for figures; of a group without comparison those of the rows that are finished.
        dice: Model -> its mean Dice of what was evaluated, as nnU-Net's; empty where Dice is not measured.
    """

    group: Group
    comparison: Comparison | None
    why_none: str | None
    folds: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    tables: tuple[MetricTable, ...] = ()
    picks: tuple[CasePick, ...] = ()
    dice: Mapping[Model, float] = field(default_factory=dict)

    def table(self, metric: str, class_name: str | None = None) -> MetricTable | None:
        """Return one of the tables; None if that was not compared."""
        wanted = (metric, class_name)
        return next((each for each in self.tables if (each.metric, each.class_name) == wanted), None)


@dataclass(frozen=True)
class LabelPoint:
    """A row with one number of labelled cases.

    Args:
        labels: Labelled cases.
        all_cases: Whether they are all that the data set's ordinary folds train on; then `labels` is their mean
            number, rounded.
        values: Mean Dice of the validation cases of each fold and seed that is finished, as nnU-Net has it; of the
            test cases of each seed, where the curve is of these.
        mean: Over `values`; NaN without any.
        sd: Standard deviation over folds and seeds, with n - 1; NaN with fewer than two.
    """

    labels: int
    all_cases: bool
    values: tuple[float, ...]
    mean: float
    sd: float


@dataclass(frozen=True)
class LabelCurve:
    """Dice against the number of labelled cases.

    Args:
        dataset: `DatasetNNN_Name`.
        configuration: Of its models.
        row: Title.
        points: By number of labels; those without a finished training are left out.
        test: Whether of the test cases, which are the same for every number of labels; else of validation cases.
    """

    dataset: str
    configuration: str
    row: str
    points: tuple[LabelPoint, ...]
    test: bool = False


@dataclass(frozen=True)
class CostInfo:
    """What a row costs on a data set, in one configuration; None where it is not known.

    Args:
        dataset: `DatasetNNN_Name`.
        row: Title.
        configuration: For example `3d_fullres`.
        parameters: Trained numbers.
        flops: Operations of one forward pass on `input_shape`, a multiplication and an addition counting as 2;
            convolutions, matrix products and attention, see `nnunet_attn.benchmark.measure.forward_flops`.
        input_shape: Batch (1), channels, and the patch in voxels.
        batch_size: Of a training step.
        epoch_seconds: Median over all epochs of all its trainings; None without any.
        iterations: Of an epoch.
        peak_bytes: The most memory that PyTorch holds in a training step.
        peak_is_measured: Whether it was measured, on this machine's GPU; else it is an estimate.
        device_hours: Epochs and validation of all its trainings, of one device each; what was repeated after a kill
            does not count. At least that, if `hours_are_complete` is False.
        devices: What they ran on, such as "cpu" or a GPU's name.
        trainings: How many trainings `device_hours` is of.
        hours_are_complete: Whether all of them are done and their times are known.
        unknown: Why parameters, operations or memory are not known; None where they are.
    """

    dataset: str
    row: str
    configuration: str
    parameters: int | None = None
    flops: int | None = None
    input_shape: tuple[int, ...] | None = None
    batch_size: int | None = None
    epoch_seconds: float | None = None
    iterations: int | None = None
    peak_bytes: int | None = None
    peak_is_measured: bool = False
    device_hours: float | None = None
    devices: tuple[str, ...] = ()
    trainings: int = 0
    hours_are_complete: bool = False
    unknown: str | None = None


@dataclass(frozen=True)
class Unfair:
    """Something that makes the comparison unfair, or that a reader has to know to judge it.

    Args:
        kind: A word for it, such as "epochs", "unfinished", "plans", "patch", "batch size", "checkpoint", "seeds",
            "reference", "budget", "size", "pre-training", "options", "optimiser", "loss", "augmentation", "labels",
            "ensemble", "hardware", "versions" or "statistics".
        is_serious: Whether it can change who wins; else it is to be known only.
        text: One sentence, with the rows it is about.
        where: Title of the group, name of the data set, or empty: the whole study.
    """

    kind: str
    is_serious: bool
    text: str
    where: str = ""


@dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    Args:
        study: The study.
        study_file: Its file's name, without folder.
        study_text: What is in the file; empty if it cannot be read.
        date_utc: When the report was made, ISO 8601.
        versions: Package -> version on the machine that makes the report: python, nnunet_attn, nnunetv2, torch and
            others; None: not installed.
        machine: That makes the report.
        trained_on: What the trainings ran on, the most frequent first; empty if nothing tells.
        datasets: One entry a data set that could be found.
        rows: The methods, in the order of the study.
        runs: All trainings, in the order of `nnunet_attn.study.matrix.runs`.
        groups: What is compared.
        label_curves: One entry a row with several numbers of labels, or with one beside ordinary folds; else empty.
        costs: One entry a data set, row and configuration.
        unfair: What makes the comparison unfair, the serious first.
        problems: What kept the report from saying more, one sentence each.
    """

    study: "Study"
    study_file: str
    study_text: str
    date_utc: str
    versions: Mapping[str, str | None]
    machine: Machine
    trained_on: tuple[TrainedOn, ...]
    datasets: tuple[DatasetInfo, ...]
    rows: tuple[RowInfo, ...]
    runs: tuple[RunInfo, ...]
    groups: tuple[GroupReport, ...]
    label_curves: tuple[LabelCurve, ...]
    costs: tuple[CostInfo, ...]
    unfair: tuple[Unfair, ...]
    problems: tuple[str, ...] = ()
