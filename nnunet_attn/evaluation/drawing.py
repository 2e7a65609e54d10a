"""How our pictures are drawn: settings of matplotlib, and sizes of text."""

from collections.abc import Mapping
from typing import Any

import matplotlib

FONT_SIZE, SMALL = 8.0, 7.0
_SHARED: dict[Any, Any] = {
    "svg.hashsalt": "nnunet-attn",  # the same picture is the same file
    "svg.fonttype": "none",  # names can be searched and edited
    "text.parse_math": False,  # names may have a dollar
    "text.hinting": "none",  # text is as wide as it was measured
    "font.size": FONT_SIZE,
}


def style_with(own: Mapping[str, Any]) -> dict[Any, Any]:
    """Return matplotlib's defaults with what all our pictures change and `own`; the backend stays as it is."""
    defaults = {key: each for key, each in matplotlib.rcParamsDefault.items() if "backend" not in key}
    return {**defaults, **_SHARED, **own}
