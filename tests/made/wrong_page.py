"""Makes the page of error messages from the kinds of wrong input: `python -m tests.made.wrong_page`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.made import predict_test, splits
from tests.made.results import TRAINER, write_results
from tests.made.wrong import Wrong
from tests.made.wrong_compare import COMPARE
from tests.made.wrong_dicom import DICOM
from tests.made.wrong_evaluation import EVALUATE, FINE
from tests.made.wrong_files import FILES
from tests.made.wrong_layouts import LAYOUTS
from tests.made.wrong_places import PLACES
from tests.made.wrong_requests import REQUESTS
from tests.made.wrong_splits import SPLIT, TEST
from tests.made.wrong_tables import TABLES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"


@dataclass(frozen=True)
class Group:
    """A table of the page.

    Args:
        title: Of its section.
        kinds: Its rows.
        before: Writes into nnU-Net's folders below a folder what all its tests start from.
    """

    title: str
    kinds: tuple[Wrong, ...]
    before: Callable[[Path], object] = lambda _: None


def _results(root: Path) -> None:
    write_results(root, {TRAINER: 1.0, FINE: 0.5}, folds=2, cases=6)


GROUPS = (
    Group("register: files", FILES),
    Group("register: DICOM", DICOM),
    Group("register: flags and lists", REQUESTS),
    Group("register: tables and patterns", TABLES),
    Group("register: known layouts", LAYOUTS),
    Group("register: disks and rights", PLACES),
    Group("splits", SPLIT, splits.write_preprocessed),
    Group("predict-test", TEST, predict_test.write_test_cases),
    Group("evaluate", EVALUATE, _results),
    Group("compare", COMPARE, _results),
)

_INTRODUCTION = """# Messages about wrong input

`nnunet-attn` checks what it is given before it works. Wrong input ends it with exit code 2 and a line on the standard
error output that begins with `nnunet-attn: error:` and says what is wrong and what to do. There is no traceback, and
nothing is written.

These tables are made from the tests, by `python -m tests.made.wrong_page`: each row is a test that sees this message,
and that no file is new. The files and cases are those of the tests; `...` stands for what differs, such as folders.
Where several cases are wrong, `register` and `evaluate` list the first ten, one a line, and the number of the others.
"""

_KILLED = """
## A run that was killed

`register` writes into a folder `.register-DATASET-...` beside the data sets, which gets its name when all is there and
nnU-Net's check has passed. A run that was killed half-way, by `kill -9` or a power cut, leaves that folder and nothing
under the data set's name. The next run of the same data set on the same machine removes it and starts anew. `splits`,
`evaluate` and `compare` write to temporary names too; `predict-test` goes on where it was.
"""


def page() -> str:
    """Return the page."""
    parts = [_INTRODUCTION]
    for group in GROUPS:
        parts.append(f"\n## {group.title}\n\n| what is wrong | the message | what to do |\n|---|---|---|\n")
        parts += [f"{kind.row}\n" for kind in group.kinds]
    return "".join([*parts, _KILLED])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}: {sum(len(group.kinds) for group in GROUPS)} kinds\n")
