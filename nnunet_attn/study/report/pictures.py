"""Cases for a page: image, reference and predictions side by side, as one SVG with small pictures in it."""

import base64
import io
import re
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.compare_tables import TITLES, metric_decimals, number
from nnunet_attn.study.report.model import CasePick
from nnunet_attn.study.report.svg import inline_svg

DPI = 110
_QUALITY = 88  # of JPEG: nothing to be seen at twice the size


def case_svg(pick: CasePick, name: str, dataset_json: Path | None = None) -> tuple[Markup | None, str]:
    """Return a case as an `<svg>` element, or None and why it cannot be shown.

    Args:
        pick: The case.
        name: Of its own in the page.
        dataset_json: File with the names of the classes.
    """
    # matplotlib's figures of images are wanted by few pages, and need SimpleITK
    from nnunet_attn.figures.figure import case_figure
    from nnunet_attn.figures.request import FigureOptions

    if not pick.images:
        return None, "Its image is not there."
    if not pick.predictions:
        return None, "No method has predicted it yet."
    options = FigureOptions(zoom="auto", dataset_json=dataset_json)
    try:
        figure = case_figure(pick.images[0], pick.reference, pick.predictions, options)
    except InputError as error:
        return None, f"It cannot be shown: {error}."
    label = f"{pick.case}: image, reference and predictions of {', '.join(pick.predictions)}"
    return smaller(inline_svg(figure, name, label, is_picture=True, dpi=DPI)), ""


def smaller(svg: Markup) -> Markup:
    """Return an SVG whose opaque PNG pictures are JPEG, where that is smaller."""

    def replace(found: re.Match[str]) -> str:
        data = base64.b64decode(found[1])
        picture = Image.open(io.BytesIO(data))
        if picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255):
            return found[0]
        target = io.BytesIO()
        grey = picture.convert("RGB")
        bands = grey.split()
        is_grey = bands[0].tobytes() == bands[1].tobytes() == bands[2].tobytes()
        (bands[0] if is_grey else grey).save(target, "JPEG", quality=_QUALITY, optimize=True)
        if target.tell() >= len(data):
            return found[0]
        return f"data:image/jpeg;base64,{base64.b64encode(target.getvalue()).decode()}"

    return Markup(re.sub(r"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)", replace, svg))


def pick_title(pick: CasePick) -> str:
    """Return what a case is called above its picture."""
    fold = "" if pick.fold is None else f", fold {pick.fold}"
    return f"{pick.kind.capitalize()}: {pick.case}{fold}"


def pick_text(pick: CasePick) -> str:
    """Return the values of a case."""
    places = metric_decimals(pick.metric, 4)
    values = ", ".join(f"{row} {number(value, places)}" for row, value in pick.values.items())
    return f"{TITLES[pick.metric]}: {values}." if values else ""
