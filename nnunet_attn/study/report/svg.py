"""matplotlib's figures as SVG within a page: its font and colours, light or dark, and ids of their own."""

import io
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation

from nnunet_attn.evaluation.compare_plots import COLOURS, drawing_style

SERIES = tuple(f"#c0100{at}" for at in range(8))
"""Stand-ins for the page's eight colours of methods, `--c0` to `--c7`; matplotlib knows no variables of CSS."""
INK, MUTED, RULE, PAPER = "#000000", "#4c4c4c", "#999999", "#ffffff"
GRID = "#e5e5e5"

_VARIABLES = {
    **{colour: f"var(--c{at})" for at, colour in enumerate(COLOURS[:-1])},
    **{colour: f"var(--c{at})" for at, colour in enumerate(SERIES)},
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_POINTS_TO_PIXELS = 1.6  # 8 points become 13 pixels, a little less than the page's text
_LINE_SPACING = 1.2
_DPI = 72  # of coordinates in SVG


def inline_svg(
    figure: Figure,
    name: str,
    label: str,
    titles: Mapping[str, str | Sequence[str]] | None = None,
    is_picture: bool = False,
    dpi: int = 100,
) -> Markup:
    """Return a figure as an `<svg>` element that can stand in a page beside others.

    Args:
        figure: Drawn with the colours of `evaluation.compare_plots` or those above; others stay as they are.
        name: Of its own in the page: all ids begin with it.
        label: What it shows, for those who cannot see it.
        titles: Group id (`artist.set_gid`) -> what appears when the pointer rests on it, one text or one for each
            marker of a scatter.
        is_picture: Whether its colours are those of a picture: text alone gets the page's.
        dpi: Of pictures in it.
    """
    _split_lines(figure)
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    text = io.StringIO()
    with matplotlib.rc_context({**drawing_style(), "svg.hashsalt": name}):
        figure.savefig(
            text, format="svg", dpi=dpi, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    # matplotlib writes a document type, which no page may hold within
    root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", text.getvalue()))
    _without(root, {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"})
    for group, told in (titles or {}).items():
        _add_titles(root, group, told)
    _rename(root, name)
    for element in root.iter():
        for key in ("style", "fill", "stroke"):
            if key in element.attrib:
                is_themed = not is_picture or element.tag == f"{{{_SVG}}}text"
                element.set(key, _themed(element.attrib[key], is_themed))
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        if f"{{{_XLINK}}}href" in element.attrib:
            element.set("href", element.attrib.pop(f"{{{_XLINK}}}href"))
    width, height = (_POINTS_TO_PIXELS * float(root.attrib[side].removesuffix("pt")) for side in ("width", "height"))
    root.attrib = {
        "class": "plot picture" if is_picture else "plot",
        "viewBox": root.attrib["viewBox"],
        "width": f"{width:.0f}",
        "height": f"{height:.0f}",
        "role": "img",
        "aria-label": label,
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree escapes texts


def _split_lines(figure: Figure) -> None:
    """Make each line a text of its own: matplotlib places lines by the width of its own font, which the page has not.

    A line of its own is placed by its middle or end, whatever the font.
    """
    if not any("\n" in text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)):
        return
    with matplotlib.rc_context(drawing_style()):
        figure.set_dpi(_DPI)
        FigureCanvasAgg(figure).draw()  # ticks and labels get their places
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            lines = text.get_text().split("\n")
            if len(lines) == 1 or not text.get_visible() or text.get_rotation():
                continue
            height = _LINE_SPACING * float(text.get_fontsize()) / 72
            place, count = str(text.get_verticalalignment()), len(lines)
            for at, line in enumerate(lines):
                middle = (count - 1) / 2 - at
                up = {"top": -at, "center": middle, "center_baseline": middle}.get(place, count - 1 - at)
                figure.text(
                    *text.get_position(),
                    line,
                    transform=text.get_transform() + ScaledTranslation(0, up * height, figure.dpi_scale_trans),
                    fontsize=text.get_fontsize(),
                    fontweight=text.get_fontweight(),
                    color=text.get_color(),
                    ha=text.get_horizontalalignment(),
                    va=place,
                )
            text.set_visible(False)


def _without(root: ElementTree.Element, tags: set[str]) -> None:
    """matplotlib's style sheet would be that of the whole page."""
    for parent in list(root.iter()):
        for child in [each for each in parent if each.tag in tags]:
            parent.remove(child)


def _rename(root: ElementTree.Element, name: str) -> None:
    """Keep the ids that something in the picture refers to, under names of its own."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{name}-{own}")
        for key, value in element.attrib.items():
            if key.endswith("href") and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))


def _themed(style: str, has_colours: bool = True) -> str:
    if has_colours:
        style = re.sub(r"#[0-9a-fA-F]{6}", lambda found: _VARIABLES.get(found[0].lower(), found[0]), style)
    # the page's own font; "font: 8px 'DejaVu Sans', ..., sans-serif" names size and family at once
    style = re.sub(r"font: ([^;']*?)([\d.]+px) [^;]*", r"font-size: \2", style)
    return re.sub(r"font-family: [^;]*;? ?", "", style)


def _add_titles(root: ElementTree.Element, group: str, told: str | Sequence[str]) -> None:
    found = next((each for each in root.iter() if each.attrib.get("id") == group), None)
    if found is None:
        return
    marks = [found] if isinstance(told, str) else list(found.iter(f"{{{_SVG}}}use"))
    for mark, text in zip(marks, [told] if isinstance(told, str) else told, strict=True):
        title = ElementTree.Element(f"{{{_SVG}}}title")
        title.text = text
        mark.insert(0, title)
