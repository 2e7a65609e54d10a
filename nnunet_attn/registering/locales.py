"""The process's locale, which GDCM sets to "C" when it reads DICOM: files opened afterwards would be read as ASCII."""

import locale
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_locale() -> Iterator[None]:
    """Put the locale back to what it was; also a decorator."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)
