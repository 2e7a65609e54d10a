"""What a known layout is, what the user may choose of it, and what reading it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_attn.registering.model import SourceCase


@dataclass(frozen=True)
class LayoutOptions:
    """What the user chooses of a layout.

    Args:
        test_cases: Names of the cases to hold out, in place of the data set's own split. None: its own split.
        labels: Which reading of the labels, of those that the layout has. None: its first.
        modality: Which images, of those that the layout has. None: its first.
        train_cases: Names of the cases to train on; those that neither list names are left out. None: all others.
    """

    test_cases: frozenset[str] | None = None
    labels: str | None = None
    modality: str | None = None
    train_cases: frozenset[str] | None = None


@dataclass(frozen=True)
class LayoutData:
    """What a folder in a known layout holds, as `Registration` takes it.

    Args:
        cases: All cases, training and held out.
        channel_names: One name a channel; None: proposed from the files.
        labels: Name -> value, or values of a region, in the new data set.
        value_map: Value in the source -> value in the new data set.
        regions_class_order: As nnU-Net has it; only with regions.
        ignore: Value in the source that marks what is not annotated.
        reference: Where the data come from.
        licence: Their licence, where the data set or its makers state one.
        notes: What the user should know before registering.
        name: The data set's own name, where one layout serves several.
    """

    cases: tuple[SourceCase, ...]
    channel_names: tuple[str, ...] | None
    labels: Mapping[str, int | tuple[int, ...]]
    value_map: Mapping[int, int]
    regions_class_order: tuple[int, ...] | None = None
    ignore: int | None = None
    reference: str | None = None
    licence: str | None = None
    notes: tuple[str, ...] = ()
    name: str | None = None


@dataclass(frozen=True)
class Layout:
    """A data set, or a family of them, as its makers pack it.

    Args:
        name: What the user calls it by.
        title: One line that says what it is.
        default_name: Of the new data set, behind `DatasetNNN_`, unless the data have a name of their own.
        source_url: Where the data are from.
        read: From the unpacked folder to what is in it; raises `InputError` for another tree.
        label_readings: Names of the readings of the labels, the default first; empty: there is one.
        modalities: Names of the choices of images, the default first; empty: there is one.
    """

    name: str
    title: str
    default_name: str
    source_url: str
    read: Callable[[Path, LayoutOptions], LayoutData]
    label_readings: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
