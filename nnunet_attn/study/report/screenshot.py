"""A picture of a page as a browser shows it: `python -m nnunet_attn.study.report.screenshot PAGE PICTURE`."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from nnunet_attn.errors import InputError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def screenshot(page: Path, picture: Path, width: int = 1280, height: int = 1600, dark: bool = False) -> None:
    """Write the upper part of a page as PNG, with Chromium, without any network.

    Args:
        page: An HTML file.
        picture: The PNG file to write.
        width: In pixels; Chromium's windows have at least 500.
        height: In pixels.
        dark: As those see it who prefer dark pages.
    Raises:
        InputError: If there is no Chromium or no page, or Chromium fails.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise InputError("there is no Chromium on this machine; install it, for example: apt-get install chromium")
    if not page.is_file():
        raise InputError(f"{page} does not exist; write a report first: nnunet-attn study report")
    with tempfile.TemporaryDirectory(prefix="nnunet_attn_") as profile:
        words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        words += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"]
        words += ["--blink-settings=preferredColorScheme=0"] if dark else []
        words += [f"--window-size={width},{height}", f"--screenshot={picture.resolve()}", page.resolve().as_uri()]
        found = subprocess.run(words, capture_output=True, text=True, check=False)
    if found.returncode or not picture.is_file():
        raise InputError(f"{browser} wrote no {picture}: {found.stderr.strip()[-300:]}")


def main() -> int:
    """Parse the command line and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, help="report.html")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1600)
    parser.add_argument("--dark", action="store_true")
    a = parser.parse_args()
    try:
        screenshot(a.page, a.picture, a.width, a.height, a.dark)
    except InputError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
