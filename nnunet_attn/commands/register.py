"""`nnunet-attn register`: loose files become a data set in nnU-Net's raw format."""

import argparse
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from nnunet_attn.errors import InputError
from nnunet_attn.paths import NNUNET_FOLDERS, check_possible

if TYPE_CHECKING:
    from nnunet_attn.registering.model import Registration
    from nnunet_attn.registering.naming import Found

# which flag stands beside which source: of what else it is, it has no meaning
_BELONGS = {
    "labels": ("images", "layout"),
    "test_images": ("images",),
    "test_labels": ("images",),
    "label_pattern": ("pattern",),
    "case_name": ("pattern",),
    "source": ("layout",),
    "modality": ("layout",),
}
_FIXED_BY_LAYOUT = ("label", "map", "regions_order", "ignore", "unlabeled", "channels_in_file")
# --label-pattern may stand beside --unlabeled: what fits it is no image
_OF_LABELS = ("labels", "test_labels", "label", "map", "regions_order", "ignore")
_MAP = "value in the source to new value; a negative one by a flag of its own, --map=-1=2"
_REPAIR = (
    "give labels the geometry of their images where it differs a little; between channels only what moves no "
    "voxel by more than half a voxel is mended"
)
_STAGES = {"read": "reading files", "write": "writing", "verify": "nnU-Net's check"}
_SOURCES = ("images", "pattern", "csv", "layout")


def add_parser(commands: Any) -> None:
    """Add the command to the sub-parsers of `nnunet-attn`."""
    parser = commands.add_parser("register", help="loose files, or a public data set as downloaded, to nnUNet_raw")
    add = parser.add_argument
    add("-d", required=True, type=int, metavar="ID", help="number of the new data set, 1 to 999")
    add("-n", metavar="NAME", help="its name, without DatasetNNN_. Default: the layout's")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--images", type=Path, nargs="+", metavar="DIR", help="folder of images; several: one a channel")
    given.add_argument("--pattern", metavar="PATTERN", help="of the images, such as 'data/{case}/{channel}.nii.gz'")
    given.add_argument("--csv", type=Path, metavar="FILE", help="columns image, label, case, patient, site, split")
    given.add_argument("--layout", metavar="LAYOUT", help="of a public data set, such as btcv; needs --source")
    add("--labels", metavar="DIR", help="folder of labels; with --layout: which labels, such as 13 or fine")
    add("--test-images", type=Path, nargs="+", metavar="DIR", help="like --images, held out")
    add("--test-labels", type=Path, metavar="DIR", help="like --labels, held out. Default: in --labels too")
    add("--label-pattern", metavar="PATTERN", help="of the labels, such as 'data/{case}/seg.nii.gz'")
    add("--case-name", metavar="TEXT", help="from the pattern's groups, such as {patient}_{case}. Default: {case}")
    add("--source", type=Path, metavar="DIR", help="unpacked download in the layout")
    add("--modality", metavar="NAME", help="which images of a layout that has several kinds, such as CT")
    add("--leave-out", nargs="+", metavar="CASE", help="cases that are not registered")
    add("--test-list", type=Path, metavar="FILE", help="cases to hold out, one a line")
    add("--train-list", type=Path, metavar="FILE", help="cases to train on; those in neither list are left out")
    add("--test", type=int, metavar="N", help="hold out N cases, drawn; all of a patient or none")
    add("--seed", type=int, metavar="S", help="of the draw. Default: 0")
    add("--channels", nargs="+", metavar="NAME", help="names of the channels; VALUE=NAME says whose it is")
    add("--channels-in-file", action="store_true", help="the last axis of 4D images are channels, not time")
    add("--label", nargs="+", action="extend", metavar="NAME=V", help="label of the new value V, region of V,V")
    add("--map", nargs="+", action="extend", metavar="OLD=NEW", help=_MAP)
    add("--regions-order", nargs="+", type=int, metavar="V", help="nnU-Net's regions_class_order")
    add("--ignore", type=int, metavar="V", help="value in the source that marks what is not annotated")
    add("--link", choices=("hard", "symbolic"), help="link files that need no conversion. Default: copy")
    add("--repair", action="store_true", help=_REPAIR)
    add("--unlabeled", action="store_true", help="images without labels, for pre-training")
    add("--file-ending", metavar="ENDING", help="of the new files, such as .nii.gz. Default: chosen by the images")
    add("--raw", type=Path, metavar="DIR", help="raw folder to write to. Default: nnUNet_raw")
    add("--dry-run", action="store_true", help="check everything and show what would be done; write nothing")
    add("--all", action="store_true", help="show all cases, not the first 20")
    add("-np", type=int, default=4, metavar="N", help="processes. Default: 4")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    a = arguments
    if a.np < 1:
        raise InputError(f"-np {a.np}: 1 process or more")
    if not 1 <= a.d <= 999:
        raise InputError(f"-d {a.d}: nnU-Net's numbers go from 1 to 999")
    if a.n is not None and not re.fullmatch(r"\w+", a.n):
        raise InputError(f"-n {a.n!r}: a data set's name is made of letters, digits and underscores")
    raw = a.raw or os.environ.get(NNUNET_FOLDERS[0])
    if not raw:
        raise InputError("nnUNet_raw is not set; set it, or name a folder by --raw")
    check_possible(Path(raw))
    registration = registration_of(a)

    from nnunet_attn.registering.plan import plan_registration
    from nnunet_attn.registering.show import done_text, plan_text, summary_text
    from nnunet_attn.registering.writing import check_target, write_registration

    check_target(Path(raw), registration.dataset_id, registration.name)
    console = Console(highlight=False, soft_wrap=True)
    with _progress() as progress:
        plan = plan_registration(registration, a.np, progress)
    _print(console, plan_text(plan, Path(raw), a.all) if a.dry_run or a.all else summary_text(plan, Path(raw)))
    if a.dry_run:
        _print(console, ["", "Nothing was written; the same command without --dry-run does it"])
        return 0
    with _progress() as progress:
        folder = write_registration(plan, Path(raw), a.np, progress)
    _print(console, done_text(plan, folder))
    return 0


def registration_of(arguments: argparse.Namespace) -> "Registration":
    """Return what the flags ask for; files are found, but not read.

    Raises:
        InputError: If flags contradict each other, or the source does not hold what they say.
    """
    a = arguments
    kind = next(name for name in _SOURCES if getattr(a, name) is not None)
    for flag, kinds in _BELONGS.items():
        if getattr(a, flag) is not None and kind not in kinds:
            raise InputError(f"{_flag(flag)} goes with {' or '.join(map(_flag, kinds))}, not with {_flag(kind)}")
    for flag in _OF_LABELS if a.unlabeled else ():
        if getattr(a, flag) is not None:
            raise InputError(
                f"{_flag(flag)} does not go with --unlabeled, which takes images alone: leave one of the two out"
            )
    if a.test is not None and (a.test_list or a.train_list):
        raise InputError("--test draws cases, --test-list and --train-list name them: give one kind")
    if a.seed is not None and a.test is None:
        raise InputError("--seed is of the draw of held-out cases: give their number by --test")
    if kind == "layout":
        made = _from_layout(a)
    elif a.n is None:
        raise InputError("-n is missing: give the data set's name, such as -n Liver for DatasetNNN_Liver")
    else:
        made = _from_files(a, kind)
    return replace(made, link=a.link, repair=a.repair, file_ending=a.file_ending)


def _from_files(a: argparse.Namespace, kind: str) -> "Registration":
    from nnunet_attn.registering.held_out import hold_out_drawn, hold_out_listed, read_names
    from nnunet_attn.registering.model import Registration

    found = _found(a, kind)
    cases = found.cases
    by_list = a.test_list is not None or a.train_list is not None
    if found.splits and (by_list or a.test is not None):
        flag = "--test" if a.test is not None else "--test-list"
        raise InputError(
            f"the source says itself which cases are held out: leave {flag} out, or the split in the source"
        )
    if by_list:
        test = None if a.test_list is None else read_names(a.test_list)
        train = None if a.train_list is None else read_names(a.train_list, "--train-list")
        cases = hold_out_listed(cases, test, train)
    if a.test is not None:
        cases = hold_out_drawn(cases, a.test, a.seed or 0)
    return Registration(
        a.d,
        a.n,
        tuple(replace(case, channels_in_file=a.channels_in_file) for case in cases),
        found.channel_names or (tuple(a.channels) if a.channels else None),
        _labels(a.label),
        _value_map(a.map, a.ignore),
        None if a.regions_order is None else tuple(a.regions_order),
        a.ignore,
        unlabeled=a.unlabeled,
        notes=found.notes,
    )


def _found(a: argparse.Namespace, kind: str) -> "Found":
    from nnunet_attn.registering.request import check_plain_names
    from nnunet_attn.registering.sources import from_csv, from_folders, from_pattern

    leave_out = a.leave_out or ()
    # the channels of 4D files are counted when these are read
    channels = None if a.channels_in_file else a.channels
    if a.channels_in_file:
        check_plain_names(a.channels, "--channels-in-file, where channels have nothing but their order")
    if kind == "pattern":
        return from_pattern(a.pattern, a.label_pattern, channels, a.case_name or "{case}", leave_out)
    if kind == "csv":
        return from_csv(a.csv, channels, not (a.unlabeled or a.test_list), leave_out)
    labels = None if a.labels is None else Path(a.labels)
    return from_folders(a.images, labels, channels, a.test_images, a.test_labels, leave_out)


def _from_layout(a: argparse.Namespace) -> "Registration":
    from nnunet_attn.registering.held_out import read_names
    from nnunet_attn.registering.layouts.contract import LayoutOptions
    from nnunet_attn.registering.request import from_layout

    for flag in _FIXED_BY_LAYOUT:
        if getattr(a, flag) not in (None, False):
            raise InputError(f"{_flag(flag)} does not go with --layout, which knows the data set: leave it out")
    if a.source is None:
        raise InputError("--source is missing: name the folder that the download was unpacked to")
    options = LayoutOptions(
        None if a.test_list is None else frozenset(read_names(a.test_list)),
        a.labels,
        a.modality,
        None if a.train_list is None else frozenset(read_names(a.train_list, "--train-list")),
    )
    drawn = None if a.test is None else (a.test, a.seed or 0)
    return from_layout(a.layout, a.source, options, a.d, a.n, a.channels, drawn, a.leave_out or ())


def _labels(given: Sequence[str] | None) -> dict[str, int | tuple[int, ...]] | None:
    """Read `NAME=V` and `NAME=V,V`; the background is 0 unless it is given."""
    if given is None:
        return None
    labels: dict[str, int | tuple[int, ...]] = {}
    for word in given:
        name, _, text = word.rpartition("=")
        try:
            values = tuple(int(value) for value in text.split(","))
        except ValueError:
            values = ()
        if not name or not values or min(values) < 0:
            raise InputError(
                f"--label {word!r}: write NAME=VALUE, or NAME=VALUE,VALUE for a region; values are 0 or more"
            )
        if name in labels:
            raise InputError(f"--label {word!r}: {name!r} is there twice; a region is NAME=VALUE,VALUE")
        if name == "ignore":
            raise InputError(
                f"--label {word!r}: what is not annotated is named by --ignore VALUE, its value in the source"
            )
        labels[name] = values[0] if len(values) == 1 else values
    return labels if "background" in labels else {"background": 0, **labels}


def _value_map(given: Sequence[str] | None, ignore: int | None) -> dict[int, int] | None:
    """Read `OLD=NEW`; 0 stays 0 unless it is given or ignored."""
    if given is None:
        return None
    values: dict[int, int] = {}
    for word in given:
        try:
            old, new = map(int, word.split("="))
        except ValueError:
            raise InputError(f"--map {word!r}: write OLD=NEW with two integers, such as 255=1") from None
        if new < 0:
            raise InputError(f"--map {word!r}: nnU-Net's labels are 0 or more")
        if values.setdefault(old, new) != new:
            raise InputError(f"--map {word!r}: {old} becomes {values[old]} already; give it once")
    return values if ignore == 0 else {0: 0, **values}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _print(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        style = "yellow" if line.startswith("warning: ") else ""
        console.print(Text(line, style))


@contextmanager
def _progress() -> Iterator[Any]:
    """Show a bar on the standard error output, where that is a terminal; gone at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    # elsewhere rich would end with an empty line
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(_STAGES.get(stage, stage), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show
