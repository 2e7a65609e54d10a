"""A registration from a folder in a known layout."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.registering.held_out import hold_out_drawn
from nnunet_attn.registering.layouts.contract import LayoutOptions
from nnunet_attn.registering.layouts.registry import LAYOUTS
from nnunet_attn.registering.model import Registration
from nnunet_attn.registering.naming import LeftOut, finished


def from_layout(
    layout_name: str,
    source: Path,
    options: LayoutOptions,
    dataset_id: int,
    name: str | None = None,
    channel_names: Sequence[str] | None = None,
    drawn: tuple[int, int] | None = None,
    leave_out: Sequence[str] = (),
) -> Registration:
    """Read a folder in a known layout.

    Args:
        layout_name: Key of `LAYOUTS`.
        source: The unpacked download.
        options: What is chosen of the layout.
        dataset_id: Number of the new data set.
        name: Name of the new data set. None: the layout's.
        channel_names: Other names of channels than the layout's.
        drawn: Number of labelled cases to hold out in place of the data set's own, and the seed of their draw.
        leave_out: Cases that are not wanted; none of them is drawn.
    Raises:
        InputError: If there is no such layout, the folder is not in it, or it has no such options.
    """
    if layout_name not in LAYOUTS:
        raise InputError(f"--layout {layout_name!r} is not known; layouts are {', '.join(LAYOUTS)}")
    layout = LAYOUTS[layout_name]
    check_plain_names(channel_names, "--layout, which knows which channel is which")
    left_out = LeftOut(leave_out)
    if drawn is not None:
        # none held out: all labelled cases, with their patients, which the data set's own split may divide
        pool = layout.read(source, replace(options, test_cases=frozenset())).cases
        pool = tuple(case for case in pool if not left_out.drops(case.case))
        chosen = frozenset(case.case for case in hold_out_drawn(pool, *drawn) if case.test)
        options = replace(options, test_cases=chosen)
    data = layout.read(source, options)
    names = data.channel_names if channel_names is None else tuple(channel_names)
    found = finished(data.cases, names, notes=data.notes, left_out=left_out)
    return Registration(
        dataset_id,
        name or data.name or layout.default_name,
        found.cases,
        names,
        data.labels,
        data.value_map,
        data.regions_class_order,
        data.ignore,
        reference=data.reference or layout.source_url,
        licence=data.licence,
        notes=found.notes,
    )


def check_plain_names(channel_names: Sequence[str] | None, where: str) -> None:
    """Refuse `VALUE=NAME` where nothing but a name can be meant.

    Args:
        channel_names: As they were given.
        where: What they were given with, for the message.
    Raises:
        InputError: If one holds `=`.
    """
    for name in channel_names or ():
        if "=" in name:
            raise InputError(
                f"--channels {name!r} does not go with {where}: give the name alone, {name.split('=')[-1]!r}"
            )
