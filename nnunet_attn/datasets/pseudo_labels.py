"""The mark of data sets whose labels were made by rule, so that nobody takes them for a reader's."""

from collections.abc import Mapping
from typing import Any

ENTRY = "nnunet_attn"
"""Key of a dataset.json under which this package keeps its own."""

PSEUDO_LABELS_OF = "pseudo_labels_of"


def pseudo_labels_of(dataset_json: Mapping[str, Any]) -> str | None:
    """Return the name of the data set for whose images labels were made by rule; None if they were not."""
    entry = dataset_json.get(ENTRY)
    return entry.get(PSEUDO_LABELS_OF) if isinstance(entry, Mapping) else None
