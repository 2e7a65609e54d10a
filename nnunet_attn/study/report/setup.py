"""What a report says of a study's setup: machines, data sets and their folds, rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Machine:
    """The machine that makes the report; it need not be one of those that trained.

    Args:
        cpu: Model name.
        cores: Number of its cores.
        ram_bytes: Memory.
        gpu: Model name of the first one; None: none that PyTorch can use.
    """

    cpu: str
    cores: int | None
    ram_bytes: int | None
    gpu: str | None


@dataclass(frozen=True)
class TrainedOn:
    """What some of the trainings ran on, as nnU-Net noted it in their debug.json.

    Args:
        device: Model name of the GPU, else "cpu" or "mps".
        torch: Version of PyTorch.
        cudnn: Version of cuDNN; None on a CPU.
        nnunet_attn: Version of this package, as the log tells; None for a trainer that is not of this package.
        trainings: How many they are.
    """

    device: str
    torch: str | None
    cudnn: str | None
    nnunet_attn: str | None
    trainings: int


@dataclass(frozen=True)
class FoldSplit:
    """One fold of a data set.

    Args:
        fold: Its number.
        kind: "cross-validation", "repeated" or "reduced" as `nnunet-attn splits` recorded it; else None.
        training: Number of cases.
        validation: Names of its cases.
        training_patients: Number of patients; None if they are not registered.
        validation_patients: Likewise.
        shared_patients: Patients with cases on both sides, whose validation is not independent.
        labels: Labelled cases, of a fold made by `nnunet-attn splits --labels`.
        used: Whether the study trains it.
    """

    fold: int
    kind: str | None
    training: int
    validation: tuple[str, ...]
    training_patients: int | None = None
    validation_patients: int | None = None
    shared_patients: tuple[str, ...] = ()
    labels: int | None = None
    used: bool = True


@dataclass(frozen=True)
class DatasetInfo:
    """A data set.

    Args:
        name: `DatasetNNN_Name`.
        description: As its dataset.json says; empty if it does not.
        channels: Names, in order.
        classes: Name -> its label values, without the background.
        ignore: Value that is ignored.
        training_cases: Number of labelled cases.
        test_cases: Number of cases in `imagesTs`.
        test_labels: Whether they have labels.
        median_shape: Of the images before resampling, in voxels, axes as nnU-Net reads them; None if not planned.
        median_spacing_mm: Likewise, in mm.
        patients: Number of registered patients.
        splits: The folds of splits_final.json; empty as long as there is none.
    """

    name: str
    description: str = ""
    channels: tuple[str, ...] = ()
    classes: Mapping[str, tuple[int, ...]] | None = None
    ignore: int | None = None
    training_cases: int | None = None
    test_cases: int | None = None
    test_labels: bool = False
    median_shape: tuple[float, ...] | None = None
    median_spacing_mm: tuple[float, ...] | None = None
    patients: int | None = None
    splits: tuple[FoldSplit, ...] = ()


@dataclass(frozen=True)
class RowInfo:
    """One method, as the study describes it.

    Args:
        title: In all tables.
        trainer: As given, without budget and seed.
        network: Name of the network in this package's registry; None for a trainer that is not of this package.
        network_title: One line about it.
        source: Paper that it is from.
        plans: Name of the plans that it trains with; of derived ones, if it has options or is pre-trained.
        base_plans: Name of the plans that those are derived from.
        configurations: Its configurations.
        options: Arguments of the network.
        pretrain: Pre-training in words; None: none.
        labels: Numbers of labelled cases.
        ensemble: How folds predict the test set together; None without one.
        recipe: Optimiser and learning rate in words, as the logs tell; None until something was trained.
        epochs: Of a training; None if nothing tells.
        iterations: Of an epoch.
        is_reference: Whether the others are compared with it.
    """

    title: str
    trainer: str
    network: str | None
    network_title: str | None
    source: str | None
    plans: str
    base_plans: str
    configurations: tuple[str, ...]
    options: Mapping[str, Any]
    pretrain: str | None
    labels: tuple[int, ...]
    ensemble: str | None
    recipe: str | None
    epochs: int | None
    iterations: int | None
    is_reference: bool
