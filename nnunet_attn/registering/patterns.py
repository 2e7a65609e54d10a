"""Cases from all files that fit a pattern."""

import glob
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from nnunet_attn.errors import InputError
from nnunet_attn.registering.folders import series_folder
from nnunet_attn.registering.model import SourceCase
from nnunet_attn.registering.naming import (
    WITHOUT_IMAGE,
    Found,
    LeftOut,
    counted,
    finished,
    held_out,
    is_image_name,
    ordered_channels,
    refuse,
    stem,
)

GROUPS = ("case", "channel", "patient", "site", "split")
"""What may stand in braces in a pattern."""

_TELL_APART = "let {case} cover what tells them apart, or join groups, for example --case-name '{patient}_{case}'"


def from_pattern(
    pattern: str,
    labels: str | None = None,
    channels: Sequence[str] | None = None,
    case_name: str = "{case}",
    leave_out: Sequence[str] = (),
) -> Found:
    """Find the cases of all files, or folders of a DICOM series, that fit a pattern: `data/{case}/{channel}.mha`.

    In braces stand `case`, and where there are such, `channel`, `patient`, `site` and `split` (train or test); each
    stands for a part of one name of the path. `*` and `?` stand for anything in a name, `**/` for any folders.

    Args:
        pattern: Of the images.
        labels: Pattern of the labels, with the groups that name a case. What fits it is no image.
        channels: Names of the channels in their order, or `VALUE=NAME` for each value of `{channel}`.
        case_name: Name of a case, from the groups; for example `{patient}_{case}` where numbers start anew.
        leave_out: Cases that are not wanted; they may lack a channel, their label or their image.
    Raises:
        InputError: If a pattern is wrong or nothing fits it, two files are the same image of a case, cases differ in
            channels, or a label fits no image.
    """
    needed = set(re.findall(r"\{(\w*)\}", case_name))
    if not needed or needed - set(GROUPS) or "channel" in needed:
        raise InputError(
            f"--case-name {case_name!r}: it is made of groups of the pattern, such as {{patient}}_{{case}}"
        )
    notes: list[str] = []
    left_out = LeftOut(leave_out)
    marks: dict[str, Path] = {}
    if labels is not None:
        for file, groups in _fitting(labels, needed, "--label-pattern", notes):
            name = _named(case_name, groups)
            if name in marks and not left_out.names(name):
                raise InputError(f"{name}: {marks[name]} and {file} both fit --label-pattern; {_TELL_APART}")
            marks[name] = file
    taken = {os.path.abspath(file) for file in marks.values()}
    images: dict[str, dict[str, Path]] = {}
    known: dict[str, dict[str, str]] = {}
    for file, groups in _fitting(pattern, needed, "--pattern", notes):
        if os.path.abspath(file) in taken:
            continue
        name, channel = _named(case_name, groups), groups.pop("channel", "")
        other = images.setdefault(name, {}).setdefault(channel, file)
        if left_out.names(name):
            continue
        if other != file:
            raise InputError(f"{name}: {other} and {file} are both its image {channel}".rstrip() + f"; {_TELL_APART}")
        if known.setdefault(name, groups) != groups:
            raise InputError(f"{name}: its files differ in patient, site or split, such as {file}; {_TELL_APART}")
    if not images:
        raise InputError(f"all files that fit --pattern {pattern!r} are labels: name the images by another pattern")
    images = {name: files for name, files in images.items() if not left_out.drops(name)}
    values = sorted({channel for files in images.values() for channel in files})
    order, names = ordered_channels(values, channels, "{channel} of --pattern")
    problems = [
        f"{name}: it has no image {channel}; add it, or leave the case out"
        for name, files in images.items()
        for channel in order
        if channel not in files
    ]
    problems += [
        f"{file} is a label without image{WITHOUT_IMAGE}"
        for name, file in marks.items()
        if name not in images and not left_out.drops(name)
    ]
    refuse("cases", problems)
    cases = [
        SourceCase(
            name,
            tuple(files[channel] for channel in order),
            marks.get(name),
            known[name].get("patient"),
            known[name].get("site"),
            "split" in known[name] and held_out(known[name]["split"], name),
        )
        for name, files in images.items()
    ]
    return finished(cases, names, any("split" in groups for groups in known.values()), notes, left_out)


def _named(case_name: str, groups: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: groups[found[1]], case_name)


def _fitting(pattern: str, needed: Collection[str], flag: str, notes: list[str]) -> list[tuple[Path, dict[str, str]]]:
    """Return the files that fit a pattern, each with its groups."""
    wildcard, expression = _compiled(os.path.expanduser(pattern).rstrip("/"), flag)
    missing = sorted(set(needed) - set(expression.groupindex))
    if missing:
        raise InputError(f"{flag} {pattern!r} has no {{{missing[0]}}}: put it where the name of the case stands")
    if flag == "--label-pattern" and "channel" in expression.groupindex:
        raise InputError(f"{flag} {pattern!r}: a label has no {{channel}}; write * if it may be any")
    found, others = [], []
    for name in sorted(glob.glob(wildcard, recursive=True)):
        path = Path(name)
        fits = expression.fullmatch(name.replace(os.sep, "/"))
        if fits is None:
            continue
        if path.is_dir():
            found.append((series_folder(path), fits.groupdict()))
        elif is_image_name(path.name):
            groups = fits.groupdict()
            if expression.pattern.endswith(")"):
                # a pattern without ending: the ending is no part of the name
                groups = {key: stem(value) if path.name.endswith(value) else value for key, value in groups.items()}
            found.append((path, groups))
        else:
            others.append(name)
    if not found:
        but = f", but {others[0]}, which is of no known ending" if others else ""
        raise InputError(f"no file fits {flag} {pattern!r}{but}; quote it, and look at its folders and ending")
    if others:
        notes.append(f"left out as no images: {counted(len(others), 'file')} that fit {flag}, such as {others[0]}")
    return found


def _compiled(pattern: str, flag: str) -> tuple[str, re.Pattern[str]]:
    """Return what to search for with `glob`, and the regular expression that tells the groups."""
    wildcard, expression = "", ""
    for token in re.findall(r"\{[^{}]*\}|\*\*/|\*+|\?|[^{}*?]+|.", pattern.replace(os.sep, "/")):
        if token.startswith("{") and token[1:-1] in GROUPS:
            group = token[1:-1]
            wildcard += "*"
            expression += f"(?P={group})" if f"(?P<{group}>" in expression else f"(?P<{group}>[^/]+)"
        elif token[0] in "{}":
            known = ", ".join(f"{{{group}}}" for group in GROUPS)
            raise InputError(f"{flag} {pattern!r}: {token} is not known; in braces stand {known}")
        elif token == "**/":
            wildcard, expression = wildcard + token, expression + "(?:[^/]+/)*"
        elif token in ("*", "?"):
            wildcard, expression = wildcard + token, expression + ("[^/]*" if token == "*" else "[^/]")
        elif token.startswith("*"):
            raise InputError(f"{flag} {pattern!r}: ** stands for whole folders; write **/")
        else:
            wildcard, expression = wildcard + glob.escape(token), expression + re.escape(token)
    return wildcard, re.compile(expression)
