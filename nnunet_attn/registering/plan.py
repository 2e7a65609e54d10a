"""What registering will do with each case, after every file was read; nothing is written yet."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError
from nnunet_attn.registering.checks import check_request, same_images, same_labels
from nnunet_attn.registering.describing import described, remarks
from nnunet_attn.registering.forms import (
    NATURAL_READER,
    Form,
    bytes_of_image,
    bytes_of_label,
    choose_form,
    size_of,
)
from nnunet_attn.registering.geometry import Grid
from nnunet_attn.registering.inspecting import CaseFacts, ImageFacts, LabelFacts, inspect_case
from nnunet_attn.registering.labels import LabelScheme, label_scheme
from nnunet_attn.registering.model import MadeLabel, Registration, SourceCase
from nnunet_attn.registering.naming import check_lengths, counted, refuse
from nnunet_attn.registering.workers import processes_for, run_all

Progress = Callable[[str, int, int], None]
"""Called with the stage ("read", "write", "verify"), what is done of it, and its whole."""


@dataclass(frozen=True)
class PlannedImage:
    """One image file of a case and what it becomes.

    Args:
        source: File, or folder of a DICOM series.
        targets: New files below the data set's folder: one, or one for each channel of the source.
        as_is: Whether the file itself is linked or copied; else it is read and written anew.
        grid: Place in space of the case's first image, which it is given where it is written anew; None keeps its own.
    """

    source: Path
    targets: tuple[str, ...]
    as_is: bool
    grid: Grid | None = None


@dataclass(frozen=True)
class PlannedLabel:
    """The label of a case and what it becomes.

    Args:
        source: File, or what the label is made from.
        target: New file below the data set's folder.
        as_is: Whether the file itself is linked or copied; else it is read and written anew on the image's grid.
        shape: Voxels of the image along (z y x), or (y x).
        grid: Place of the image in space, None if its file does not say.
    """

    source: Path | MadeLabel
    target: str
    as_is: bool
    shape: tuple[int, ...]
    grid: Grid | None = None


@dataclass(frozen=True)
class PlannedCase:
    """One case and what becomes of it.

    Args:
        source: The case as it was given.
        actions: What is done, in words: "link", "copy", "convert DICOM", "remap labels", "repair origin"...
        images: Its image files.
        label: Its label, None without one.
    """

    source: SourceCase
    actions: tuple[str, ...]
    images: tuple[PlannedImage, ...] = ()
    label: PlannedLabel | None = None


@dataclass(frozen=True)
class RegistrationPlan:
    """All that writing the data set needs, and all that the user is shown before.

    Args:
        request: What was asked for.
        cases: In the order of the request.
        dataset_json: Content of the new dataset.json.
        value_map: Value found in the source's labels -> value in the new data set.
        warnings: What the user should look at.
        spatial_dims: 2 or 3.
        reader: nnU-Net's class that will read the data set.
        total_bytes: Estimate of what will be written, without links.
    """

    request: Registration
    cases: tuple[PlannedCase, ...]
    dataset_json: dict[str, Any]
    value_map: dict[int, int]
    warnings: tuple[str, ...]
    spatial_dims: int
    reader: str
    total_bytes: int

    @property
    def folder_name(self) -> str:
        """`DatasetNNN_Name`."""
        return f"Dataset{self.request.dataset_id:03d}_{self.request.name}"


def plan_registration(request: Registration, processes: int = 4, progress: Progress | None = None) -> RegistrationPlan:
    """Read every file of the cases once, and return what registering them will do.

    Args:
        request: What is asked for.
        processes: Processes that read, one case at a time each.
        progress: Called with "read", the cases done, and all cases.
    Raises:
        InputError: If the request contradicts itself, or cases must be refused; it lists these by name.
    """
    if processes < 1:
        raise InputError(f"processes={processes}: give 1 or more")
    check_request(request)
    check_lengths(request)
    facts = _read_all(request, processes, progress)
    scheme = _accepted(request, facts)
    warnings = [
        *same_images(facts, {case.case: case.test for case in request.cases}),
        *same_labels(facts),
        *(() if scheme is None else scheme.warnings),
    ]
    form = choose_form(request.file_ending, request.cases, facts)
    cases = tuple(
        _planned(source, case, form, request, scheme) for source, case in zip(request.cases, facts, strict=True)
    )
    warnings += remarks(request, facts, form)
    return RegistrationPlan(
        request=request,
        cases=cases,
        dataset_json=described(request, facts, form, scheme),
        value_map={} if scheme is None else scheme.value_map,
        warnings=tuple(warnings),
        spatial_dims=form.dims,
        reader=form.reader,
        total_bytes=sum(_estimate(case, fact, form, request.link) for case, fact in zip(cases, facts, strict=True)),
    )


def _read_all(request: Registration, processes: int, progress: Progress | None) -> list[CaseFacts]:
    jobs = [(case, request.repair, not request.unlabeled) for case in request.cases]
    size = sum(size_of(path) for case in request.cases for path in case.images)
    report = progress or (lambda *_: None)
    report("read", 0, len(jobs))
    return run_all(
        inspect_case,
        jobs,
        processes_for(len(jobs), size, processes),
        lambda done: report("read", done, len(jobs)),
    )


def _accepted(request: Registration, facts: Sequence[CaseFacts]) -> LabelScheme | None:
    """Return the labels of the new data set, None without; all that is wrong with cases is raised at once."""
    problems = [f"{case.case}: {case.refusal}" for case in facts if case.refusal is not None]
    usable = [case for case in facts if case.refusal is None]
    if usable:
        problems += _odd_ones(usable, request.channel_names)
    scheme = None
    if not request.unlabeled:
        found: dict[int, list[str]] = {}
        for case in usable:
            for value in () if case.label is None else case.label.values:
                found.setdefault(value, []).append(case.case)
        try:
            scheme = label_scheme(found, request.labels, request.value_map, request.regions_class_order, request.ignore)
        except InputError as error:
            # where cases are refused, their labels are not known, so that a foreground may be in these
            if not problems or found.keys() - {0}:
                problems.append(str(error))
    refuse("cases or label values", problems)
    return scheme


def _odd_ones(facts: Sequence[CaseFacts], channel_names: Sequence[str] | None) -> list[str]:
    """Return what is wrong with cases that have other axes or channels than most, or than the names given."""
    usual = Counter(len(case.images[0].shape) for case in facts).most_common(1)[0][0]
    odd = [
        f"{case.case}: its image is {len(case.images[0].shape)}D, most are {usual}D; register these apart"
        for case in facts
        if len(case.images[0].shape) != usual
    ]
    counts = {case.case: sum(image.channels for image in case.images) for case in facts}
    most = Counter(counts.values()).most_common(1)[0][0]
    if channel_names is not None and len(set(counts.values())) == 1 and most != len(channel_names):
        raise InputError(
            f"{counted(len(channel_names), 'channel name')} ({', '.join(channel_names)}), but every case has "
            f"{counted(most, 'channel')}; give one name a channel"
        )
    wanted = most if channel_names is None else len(channel_names)
    told = f"most have {most}" if channel_names is None else f"names are given for {wanted}"
    odd += [
        f"{case} has {counted(count, 'channel')}, {told}; add or remove files"
        for case, count in counts.items()
        if count != wanted
    ]
    return odd


def _planned(
    source: SourceCase, facts: CaseFacts, form: Form, request: Registration, scheme: LabelScheme | None
) -> PlannedCase:
    """Return what becomes of a case."""
    folder = "imagesTs" if source.test else "imagesTr"
    verbatim = "copy" if request.link is None else "link"
    first = facts.images[0]
    together = form.reader == NATURAL_READER and all(_in_one_file(image, form) for image in facts.images)
    images: list[PlannedImage] = []
    actions: list[str] = []
    number = 0
    for path, image in zip(source.images, facts.images, strict=True):
        count = 1 if together else image.channels
        same = not path.is_dir() and form.ending_of(path) == form.ending
        as_is = same and image.plain and count == 1 and not image.repaired
        targets = tuple(f"{folder}/{source.case}_{number + k:04d}{form.ending}" for k in range(count))
        images.append(PlannedImage(path, targets, as_is, first.grid))
        number += count
        own = [] if same else [f"convert {image.format} to {form.ending}"]
        own += ["split channels"] if count > 1 else []
        own += [note for note in image.notes if not as_is]
        own += [f"repair {part} of {'image' if len(images) == 1 else 'channel'}" for part in image.repaired]
        actions += [verbatim] if as_is else own or ["write anew"]
    label = None
    if scheme is not None and source.label is not None and facts.label is not None:
        label, own = _planned_label(source, facts.label, first, form, scheme.value_map)
        actions += own or [verbatim]
    return PlannedCase(source, tuple(dict.fromkeys(actions)), tuple(images), label)


def _in_one_file(image: ImageFacts, form: Form) -> bool:
    """Return whether all channels stay in one file: of colours that its format and nnU-Net's reader hold."""
    return image.colour and (image.dtype == "uint8" or form.ending == ".tif")


def _planned_label(
    source: SourceCase, facts: LabelFacts, image: ImageFacts, form: Form, value_map: Mapping[int, int]
) -> tuple[PlannedLabel, list[str]]:
    assert source.label is not None
    same = isinstance(source.label, Path) and form.ending_of(source.label) == form.ending
    remapped = any(value_map[value] != value for value in facts.values)
    actions = ["make label"] if facts.format == "made" else []
    actions += [] if same or facts.format == "made" else [f"convert label {facts.format} to {form.ending}"]
    actions += ["remap labels"] if remapped else []
    actions += [] if facts.integer else ["label to integers"]
    actions += [f"repair {part} of label" for part in facts.repaired]
    actions += ["label to one channel"] if same and not facts.plain and not facts.repaired else []
    target = f"labels{'Ts' if source.test else 'Tr'}/{source.case}{form.ending}"
    return PlannedLabel(source.label, target, not actions, image.shape, image.grid), actions


def _estimate(case: PlannedCase, facts: CaseFacts, form: Form, link: str | None) -> int:
    """Estimate the bytes that writing a case takes up."""
    total = 0
    for planned, image in zip(case.images, facts.images, strict=True):
        if not planned.as_is:
            total += bytes_of_image(image, form.ending)
        elif link is None:
            total += size_of(planned.source)
    if case.label is not None:
        if not case.label.as_is:
            total += bytes_of_label(facts.images[0], form.ending)
        elif link is None and isinstance(case.label.source, Path):
            total += size_of(case.label.source)
    return total
