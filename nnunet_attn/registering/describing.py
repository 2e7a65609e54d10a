"""The new data set's dataset.json, and what the user should look at before it is made."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from nnunet_attn.datasets.pseudo_labels import ENTRY
from nnunet_attn.registering.checks import mixed, named
from nnunet_attn.registering.forms import STACK_READER, Form
from nnunet_attn.registering.inspecting import CaseFacts
from nnunet_attn.registering.labels import LabelScheme
from nnunet_attn.registering.model import Registration
from nnunet_attn.registering.naming import counted

CASES_FILE = "nnunet_attn_cases.json"
"""Beside dataset.json: of each case its patient, site, split and what it was made from."""

# Air is -1000 in Hounsfield units; other modalities seldom go so far below zero.
_LIKE_CT = -500


def described(
    request: Registration, facts: Sequence[CaseFacts], form: Form, scheme: LabelScheme | None
) -> dict[str, Any]:
    """Return the content of dataset.json, with how the data set was made under this package's own key."""
    names = request.channel_names or _proposed_names(facts)
    content: dict[str, Any] = {
        "name": request.name,
        "channel_names": {str(number): name for number, name in enumerate(names)},
    }
    if scheme is not None:
        content["labels"] = scheme.labels
        if scheme.regions_class_order is not None:
            content["regions_class_order"] = scheme.regions_class_order
    content["numTraining"] = sum(not case.test for case in request.cases)
    content["file_ending"] = form.ending
    if form.told:
        content["overwrite_image_reader_writer"] = form.reader
    for key, value in (("reference", request.reference), ("licence", request.licence)):
        if value is not None:
            content[key] = value
    content[ENTRY] = {
        "registered_by": {name: version(name) for name in ("nnunet-attn", "nnunetv2")},
        "options": {
            "link": request.link,
            "repair": request.repair,
            "unlabeled": request.unlabeled,
            "ignore": request.ignore,
        },
        "value_map": {} if scheme is None else {str(old): new for old, new in scheme.value_map.items()},
        "repaired": {case.case: parts for case in facts if (parts := _repaired(case))},
        "sources": CASES_FILE,
    }
    return content


def remarks(request: Registration, facts: Sequence[CaseFacts], form: Form) -> tuple[str, ...]:
    """Return what the user should look at, as far as it takes all cases to see it."""
    told: list[str] = []
    orientations: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    for case in facts:
        grid = case.images[0].grid
        if grid is not None and grid.orientation:
            orientations.setdefault(grid.orientation, []).append(case.case)
        for note in dict.fromkeys(note for image in case.images for note in image.notes):
            notes.setdefault(note, []).append(case.case)
    told += mixed(
        "orientations of the voxel axes",
        orientations,
        "nnU-Net does not turn images, so the network sees both; turn them to one where that matters",
    )
    told += [f"{counted(len(cases), 'case')} ({named(cases)}): {note}" for note, cases in notes.items()]
    if form.reader == STACK_READER and (bare := [case.case for case in facts if case.images[0].grid is None]):
        told.append(
            f"{counted(len(bare), 'case')} without a JSON file of the spacing ({named(bare)}): 1 x 1 x 1 is taken; "
            'write {"spacing": [z, y, x]} in mm beside the image'
        )
    empty = [case.case for case in facts if case.label is not None and set(case.label.values) <= {0}]
    if empty:
        told.append(f"{counted(len(empty), 'label')} without foreground: {named(empty)}")
    if request.channel_names is not None and len(request.channel_names) == 1:
        name = request.channel_names[0]
        like_ct = all(image.minimum <= _LIKE_CT for case in facts for image in case.images)
        if like_ct and name.casefold() != "ct":
            told.append(f"all images go below {_LIKE_CT}, as CT does; if they are CT, name the channel CT, not {name}")
    return tuple(told)


def _proposed_names(facts: Sequence[CaseFacts]) -> tuple[str, ...]:
    """Propose names of channels: colours, a DICOM modality that all share, or numbers."""
    images = facts[0].images
    if all(len(case.images) == 1 and case.images[0].colour for case in facts):
        return ("R", "G", "B")
    count = sum(image.channels for image in images)
    if count > 1:
        return tuple(f"channel_{number}" for number in range(count))
    modalities = {case.images[0].modality for case in facts}
    modality = modalities.pop() if len(modalities) == 1 else None
    return ({"MR": "MRI"}.get(modality, modality) if modality else "image",)


def _repaired(case: CaseFacts) -> list[str]:
    parts = [f"{part} of image {number}" for number, image in enumerate(case.images) for part in image.repaired]
    return parts + [f"{part} of label" for part in (case.label.repaired if case.label else ())]
