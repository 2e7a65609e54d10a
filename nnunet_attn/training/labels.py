"""Refuses labels in which there is nothing to segment."""

from collections.abc import Mapping
from typing import Any

from nnunet_attn.datasets.pseudo_labels import pseudo_labels_of


def refuse_body_masks(dataset_json: Mapping[str, Any]) -> None:
    """Refuse labels that are body masks, made for a data set without labels.

    Raises:
        ValueError: If they are.
    """
    if (source := pseudo_labels_of(dataset_json)) is not None:
        raise ValueError(
            f"the labels of this data set are body masks that were made for {source}, which has none: there is "
            "nothing to segment; learn from its images by nnunet-attn pretrain, and fine-tune on labelled ones"
        )


def refuse_without_foreground(name: str, dataset: Any, label_manager: Any) -> None:
    """Refuse training cases whose labels hold no foreground in any case.

    What nnU-Net wrote down of each case is read until one has some, most often the first.

    Args:
        name: Name of the data set.
        dataset: nnU-Net's data set of the training cases.
        label_manager: nnU-Net's label manager.
    Raises:
        ValueError: If none has any.
    """
    # of sparse labels, nnU-Net keeps where they are, background included, under all labels
    annotated = tuple([-1, *label_manager.all_labels])
    for case in dataset.identifiers:
        locations = dataset.load_case(case)[-1]["class_locations"]
        if any(len(places) > 0 for label, places in locations.items() if label != annotated):
            return
    raise ValueError(
        f"{name}: none of the {len(dataset.identifiers)} training cases has a labelled voxel of any class: there is "
        "nothing to segment; label some, or learn from the images alone by nnunet-attn pretrain and fine-tune on "
        "labelled ones"
    )
