"""Runs a page of the documentation as it is written."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def bash_blocks(page: str) -> list[str]:
    """Return the bash blocks of a page, in order.

    A block is left out where the line above it is the comment `<!-- not run: REASON -->`.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^(<!-- not run: [^\n]+ -->\n)?( *)```bash\n(.*?)^\2```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", content, flags=re.MULTILINE) for skipped, indent, content in found if not skipped]


def run_page(page: str, folder: Path, environment: Mapping[str, str], timeout: float = 900) -> str:
    """Run a page's bash blocks one after the other in one shell, in `folder`; returns all they printed.

    The commands of this Python's environment come first on the path. A line that fails ends the page and the test.
    """
    script = folder / ".page.sh"
    script.write_text("set -euxo pipefail\n" + "\n".join(bash_blocks(page)), encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    done = subprocess.run(
        ["bash", str(script)],
        cwd=folder,
        env={**environment, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    script.unlink()
    assert done.returncode == 0, f"{page} as written ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout
