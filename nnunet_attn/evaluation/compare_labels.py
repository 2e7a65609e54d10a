"""Names and sentences for a picture: without what all names share, and broken where they fit their room."""

import re
from collections.abc import Sequence
from itertools import takewhile

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

LONG_NAME = 24
"""Names up to this length stand in pictures as they are."""

_MEASURE = TextToPath()
_SPARE = 1.05  # letters on whole pixels, without `text.hinting: none`, are up to so much wider


def text_width(text: str, size: float) -> float:
    """Return the width in inches of one line in matplotlib's own font, at a size in points."""
    return _SPARE * _MEASURE.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0] / 72


def widest(texts: Sequence[str], size: float) -> float:
    """Return the width in inches of the widest line of some texts."""
    return max((text_width(line, size) for text in texts for line in text.splitlines()), default=0.0)


def shared_parts(names: Sequence[str]) -> tuple[str, str]:
    """Return the beginning and the ending that long names share: whole folders, and whole parts between underscores.

    At least one part is left of every name, and names up to `LONG_NAME` characters share nothing.
    """
    if len(names) < 2 or max(map(len, names)) <= LONG_NAME:
        return "", ""
    start = _common_start(names)
    start = start[: start.rfind("/") + 1]
    rests = [name[len(start) :] for name in names]
    end = _common_start([rest[::-1] for rest in rests])[::-1]
    if any(len(rest) == len(end) for rest in rests):  # one name is the ending of all others
        end = end[1:]
    part = re.search(r"(?<!_)[_/]", end)
    return start, end[part.start() :] if part else ""


def _common_start(texts: Sequence[str]) -> str:
    return "".join(each[0] for each in takewhile(lambda each: len(set(each)) == 1, zip(*texts, strict=False)))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return name -> the name without what all share."""
    start, end = shared_parts(names)
    return {name: name[len(start) : len(name) - len(end)] for name in names}


def shared_note(names: Sequence[str]) -> str:
    """Return the sentence that says what `short_names` takes away; empty if nothing."""
    start, end = shared_parts(names)
    parts = [f"begin with {start}" if start else "", f"end with {end}" if end else ""]
    return f"All names {' and '.join(part for part in parts if part)}." if start or end else ""


def wrapped(text: str, width: float, size: float) -> str:
    """Return text with line breaks: no line is wider than `width` inches.

    Lines break after spaces, slashes, underscores and hyphens; inside a word only where it is too wide for a line.
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in re.findall(r"[^\s/_-]*[\s/_-]+|[^\s/_-]+", paragraph):
            if text_width((line + word).rstrip(), size) > width and line:
                lines.append(line.rstrip())
                line = ""
            while text_width(word.rstrip(), size) > width and len(word) > 1:
                fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or text_width(word[:n], size) <= width)
                lines.append(word[:fits])
                word = word[fits:]
            line += word
        lines.append(line.rstrip())
    return "\n".join(lines)
