"""Places that `nnunet-attn register` cannot write to or read from: a full disk, a folder of somebody else."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from nnunet_attn.paths import nnunet_environment
from tests.made.loose import label, write
from tests.made.wrong import Ran, Wrong, after, tree
from tests.made.wrong_files import FOLDERS, scans

ROOT = Path(__file__).parents[2]
NOBODY = 65534

# Run by a shell in which mounts are seen by nobody else and end with it; root in a namespace of its own may mount.
_ON_A_SMALL_DISK = """
mkdir disk && mount -t tmpfs -o size=1m none disk || exit 77
"$@"
code=$?
left=$(find disk -mindepth 1)
umount disk && rmdir disk
test -z "$left" || echo "left: $left" >&2
exit $code
"""

# All modules are loaded while root may read them; then the command runs as somebody who may not write.
_AS_NOBODY = """
import contextlib, io, os, sys
from nnunet_attn.cli import main
words = sys.argv[2:]
with contextlib.redirect_stdout(io.StringIO()):
    assert main([*words, "--dry-run"]) == 0
{change}
if sys.argv[1]:
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
sys.exit(main(words))
"""


def on_a_small_disk(_: Path, words: Sequence[object]) -> Ran:
    """Run the command where `disk` is a disk of 1 MB; whatever is left on it is told."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs unshare of Linux, to make a small disk")
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _ON_A_SMALL_DISK, "sh"]
    python = [sys.executable, "-m", "nnunet_attn.cli", *map(str, words)]
    done = subprocess.run([*shell, *python], capture_output=True, text=True)
    if done.returncode == 77 or done.stderr.startswith("unshare: "):
        pytest.skip(f"a small disk cannot be made here: {done.stderr.strip()}")
    return done.returncode, done.stderr


def as_nobody(change: str) -> Callable[[Path, Sequence[object]], Ran]:
    """Run the command as a user who may not write, after a line of Python that takes something away from them.

    All of it is done on a copy, since nobody else may look into pytest's own folders.
    """

    def run(folder: Path, words: Sequence[object]) -> Ran:
        if os.name != "posix":
            pytest.skip("needs POSIX users")
        user = str(NOBODY) if os.geteuid() == 0 else ""
        with tempfile.TemporaryDirectory() as made:
            place = Path(made) / "copy"
            shutil.copytree(folder, place)
            for path in (Path(made), place):
                path.chmod(0o755)
            (place / "raw").chmod(0o777)
            environment = {**nnunet_environment(place), "PYTHONPATH": str(ROOT)}
            before = tree(place)
            command = [sys.executable, "-c", _AS_NOBODY.format(change=change), user, *map(str, words)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=place)
            for path in (place / "raw", place / "images", place / "images" / "case_1.nii.gz"):
                path.chmod(0o755)
            assert tree(place) == before
        return done.returncode, done.stderr

    return run


def _noise(count: int) -> Sequence[object]:
    """Write images of a quarter of a megabyte, of noise that hardly gets smaller when it is packed."""
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 1 << 15, (32, 64, 64)).astype(np.int16)
        write(Path(f"images/case_{number}.mha"), noise)
        write(Path(f"labels/case_{number}.mha"), label(shape=(32, 64, 64)))
    return [*FOLDERS, "--raw", "disk", "--file-ending", ".nii.gz", "-np", "1"]


PLACES = (
    Wrong(
        "a disk with too little room",
        "disk has 1.0 MiB free, and the data set needs about 1.2 MiB",
        "make room, choose another disk, or link the files",
        lambda _: _noise(8),
        on_a_small_disk,
    ),
    Wrong(
        "a disk that gets full on the way",
        "the disk is full: imagesTr/... could not be written",
        "make room, and run again",
        lambda _: _noise(5),
        on_a_small_disk,
    ),
    Wrong(
        "a raw folder that may not be written to",
        "cannot write to the folder .../raw (Permission denied)",
        "choose another one",
        after(lambda _: scans(), *FOLDERS),
        as_nobody("os.chmod('raw', 0o555)"),
    ),
    Wrong(
        "an image that may not be read",
        "case_1: images/case_1.nii.gz cannot be read (Permission denied)",
        "replace it or leave out the case",
        after(lambda _: scans(), *FOLDERS),
        as_nobody("os.chmod('images/case_1.nii.gz', 0)"),
    ),
    Wrong(
        "a folder that may not be looked into",
        "images cannot be read (Permission denied)",
        "allow it, or leave it out",
        after(lambda _: scans(), *FOLDERS),
        as_nobody("os.chmod('images', 0)"),
    ),
)
