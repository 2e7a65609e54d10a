"""What is registered: cases with their files, and what is to become of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class MadeLabel(Protocol):
    """A label that is made from something else than one label map: polygons, or a mask for each structure.

    It must be picklable, and equal to another one of the same files.
    """

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it is made from; each must exist."""
        ...

    def read(self, shape: tuple[int, ...]) -> NDArray[np.integer]:
        """Return the label map on the image's grid, axes as in the array of the image that is read (z y x, or y x).

        Raises:
            InputError: If a file is damaged or does not fit the shape; the message names it.
        """
        ...


@dataclass(frozen=True)
class SourceCase:
    """One case to register.

    Args:
        case: Its name in the new data set, without channel number or file ending.
        images: One file for each channel; a folder is one DICOM series; an RGB file holds three channels at once.
        label: Label map, something that a label is made from, or None without a label.
        patient: All cases of a patient must be in one split. None: a patient of its own.
        site: Where it comes from, kept for stratified folds.
        test: Held out: goes to `imagesTs` and `labelsTs`.
        channels_in_file: The one image is 4D, and its last axis (the first of its array) is not time but the channels,
            as in the Medical Segmentation Decathlon; each becomes a file. A 4D image is refused otherwise.
    """

    case: str
    images: tuple[Path, ...]
    label: Path | MadeLabel | None = None
    patient: str | None = None
    site: str | None = None
    test: bool = False
    channels_in_file: bool = False


@dataclass(frozen=True)
class Registration:
    """What a new data set is made from, and how.

    Args:
        dataset_id: Number of the new data set, 1 to 999.
        name: Its name after `DatasetNNN_`.
        cases: All cases, with names of their own.
        channel_names: One name a channel, for example ("CT",) or ("R", "G", "B"). None: proposed from the files.
        labels: Name -> value, or values of a region, in the NEW data set, "background": 0 among them. None: proposed
            from the values that are found.
        value_map: Value in the source -> value in the new data set. None: 0 stays, the values found become 1, 2, 3...
            in order (255 of a mask with 0 and 255 becomes 1).
        regions_class_order: As nnU-Net has it; needed where `labels` has regions.
        ignore: Value in the source that marks what is not annotated; becomes nnU-Net's ignore label.
        link: "hard" or "symbolic" where a file needs no conversion; None copies.
        repair: Mend small differences of geometry between image and label, by taking over the image's.
        unlabeled: Images only, for pre-training; labels are neither needed nor written.
        file_ending: Of the new files. None: `.png` for 2D natural images, `.nii.gz` for all else, or the source's own
            ending where all share one that nnU-Net reads.
        reference: Where the data come from, for dataset.json.
        licence: Their licence.
        notes: Said to the user when the plan is shown.
    """

    dataset_id: int
    name: str
    cases: tuple[SourceCase, ...]
    channel_names: tuple[str, ...] | None = None
    labels: Mapping[str, int | tuple[int, ...]] | None = None
    value_map: Mapping[int, int] | None = None
    regions_class_order: tuple[int, ...] | None = None
    ignore: int | None = None
    link: str | None = None
    repair: bool = False
    unlabeled: bool = False
    file_ending: str | None = None
    reference: str | None = None
    licence: str | None = None
    notes: tuple[str, ...] = field(default=())
