"""The page in a real browser: nothing is cut off, nothing is loaded, nothing goes wrong, and it prints."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from nnunet_attn.study.report.write import write_report
from tests.made.report import made_pick, made_report

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: apt-get install chromium"),
]
LIGHT, DARK = (255, 255, 255), (21, 24, 28)


def browse(folder: Path, page: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Open a page without any network; what its console says is in stderr."""
    own: Sequence[str] = (
        "--headless",
        "--no-sandbox",  # as root, and in containers
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
    )
    found = subprocess.run(
        [CHROMIUM, *own, *words, page.as_uri()], capture_output=True, text=True, timeout=240, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return found


def with_script(page: Path, script: str) -> Path:
    """Write a copy of a page that runs a script and leaves what it returns in the element `told`."""
    copy = page.with_name("with_script.html")
    text = page.read_text(encoding="utf-8")
    own = (
        "<script>window.addEventListener('load', () => { const told = document.createElement('pre'); told.id = 'told';"
        f"told.textContent = JSON.stringify((() => {{ {script} }})()); document.body.append(told); }});</script>"
    )
    copy.write_text(text.replace("</body>", f"{own}</body>"), encoding="utf-8")
    return copy


def told(dom: str):
    found = re.search(r'<pre id="told">(.*?)</pre>', dom, flags=re.S)
    assert found is not None
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    picks = [made_pick(folder / "images")]
    write_report(made_report(folds=2, epochs=20, picks=picks), folder / "report")
    return folder / "report" / "report.html"


def complaints(errors: str) -> list[str]:
    """What the page's console says, and what could not be loaded; what Chromium says of D-Bus is no concern."""
    return re.findall(r".*(?:CONSOLE|net_error|ERR_NAME_NOT_RESOLVED).*", errors)


def test_mistakes_of_a_page_would_be_seen(tmp_path):
    wrong = tmp_path / "wrong.html"
    wrong.write_text("<!DOCTYPE html><p>one</p><script>missing();</script>", encoding="utf-8")
    assert complaints(browse(tmp_path, wrong, "--dump-dom").stderr)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_shown_in_light_and_dark_without_a_word_in_the_console(page, tmp_path, theme):
    picture = tmp_path / "page.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []
    found = browse(tmp_path, page, *dark, "--window-size=1280,2000", f"--screenshot={picture}")
    assert complaints(found.stderr) == []
    image = Image.open(picture).convert("RGB")
    assert image.size == (1280, 2000)
    assert image.getpixel((3, 1000)) == (DARK if theme == "dark" else LIGHT)
    colours = image.getcolors(2**24)
    assert colours is not None and len(colours) > 50  # text and lines are there


def test_no_text_is_too_faint(page, tmp_path):
    # contrast by WCAG 2: 4.5 for text, between each text's colour and the background behind it
    script = """
      const channel = (v) => v <= 10.31 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4;
      const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
      const light = (c) => { const [r, g, b] = numbers(c).map(channel); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if ((numbers(c)[3] ?? 1) === 1) return c; } return "rgb(255, 255, 255)"; };
      const faint = [], texts = "p, li, th, td, h1, h2, h3, a, summary, caption span, pre, figcaption, .tag";
      for (const e of document.querySelectorAll(texts)) {
        const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(e.tagName + " " + e.className + " " + e.textContent.slice(0, 30));
      }
      return faint;"""
    copy = with_script(page, script)
    for theme in ([], ["--blink-settings=preferredColorScheme=0"]):
        assert told(browse(tmp_path, copy, *theme, "--dump-dom").stdout) == []


def test_a_phone_shows_it_without_scrolling_sideways(page, tmp_path):
    # a window is never narrower than 500 pixels: a frame is, and its media queries take its width
    wide = with_script(page, "return [document.documentElement.scrollWidth, innerWidth]")
    frame = tmp_path / "phone.html"
    inner = html.escape(wide.read_text(encoding="utf-8"), quote=True)
    frame.write_text(
        f'<!DOCTYPE html><body><iframe width="360" height="800" srcdoc="{inner}"></iframe><script>'
        "window.addEventListener('load', () => setTimeout(() => { const own = document.createElement('pre');"
        "const page = document.querySelector('iframe').contentDocument; own.id = 'told';"
        "own.textContent = page.getElementById('told').textContent; document.body.replaceChildren(own); }, 500));"
        "</script></body>",
        encoding="utf-8",
    )
    scroll_width, width = told(browse(tmp_path, frame, "--dump-dom").stdout)
    assert width == 360 and scroll_width <= width


def test_tables_are_sorted_by_a_click(page, tmp_path):
    script = """
      const table = document.querySelectorAll("#cases table.sortable")[0];
      table.closest("details").open = true;
      const column = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[2].dataset.value));
      const button = table.tHead.rows[0].cells[2].querySelector("button");
      button.click(); const up = column(); button.click();
      return [up, column(), table.tHead.rows[0].cells[2].getAttribute("aria-sort")];"""
    up, down, sort = told(browse(tmp_path, with_script(page, script), "--dump-dom").stdout)
    assert len(up) == 25 and up == sorted(up) and down == sorted(up, reverse=True)
    assert sort == "descending"


def test_it_prints_on_several_pages_with_all_that_is_folded(page, tmp_path):
    paper = tmp_path / "page.pdf"
    browse(tmp_path, page, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    content = paper.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    folded = tmp_path / "folded.html"
    text = page.read_text(encoding="utf-8")
    folded.write_text(re.sub(r"(?s)<details>.*?</details>", "", text), encoding="utf-8")
    less = tmp_path / "less.pdf"
    browse(tmp_path, folded, "--no-pdf-header-footer", f"--print-to-pdf={less}")
    assert pages >= 4
    assert pages > len(re.findall(rb"/Type\s*/Page\b", less.read_bytes()))


def test_it_can_be_read_without_javascript(page):
    text = re.sub(r"(?s)<script>.*?</script>", "", page.read_text(encoding="utf-8"))
    assert "<button" not in text and "onclick" not in text and "Better than Plain U-Net in Dice" in text
