"""What nnU-Net's dataset.json and plans.json say about label files: classes, ignore label, ending, reader."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError
from nnunet_attn.json_files import read_json

LARGEST_LABEL = 65535
"""nnU-Net writes label files with 16 bits."""


@dataclass(frozen=True)
class Description:
    """How label files of a data set are to be read.

    Args:
        classes: Name -> its label values, without background and ignore; several for a region.
        ignore: Value that is ignored.
        file_ending: For example `.nii.gz`.
        reader: Name of nnU-Net's reader class, if plans or dataset.json name one.
        dataset: `DatasetNNN_Name`, if there are plans.
        plans: Name of the plans, if there are any.
    """

    classes: Mapping[str, tuple[int, ...]]
    ignore: int | None
    file_ending: str
    reader: str | None = None
    dataset: str | None = None
    plans: str | None = None

    @property
    def known_values(self) -> frozenset[int]:
        """All values that a label file may have."""
        values = {0, *(value for each in self.classes.values() for value in each)}
        return frozenset(values if self.ignore is None else {*values, self.ignore})


def read_description(dataset_json: Path, plans_json: Path | None = None) -> Description:
    """Read dataset.json and, where there is one, plans.json, as nnU-Net's label manager does.

    Raises:
        InputError: If a file is missing or is not what nnU-Net writes.
    """
    content = read_json(dataset_json, "give nnU-Net's dataset.json: -djfile FILE")
    plans = {} if plans_json is None else read_json(plans_json, "give nnU-Net's plans.json: -pfile FILE")
    try:
        classes, ignore = _classes(content["labels"])
        ending = content["file_ending"]
        if not (isinstance(ending, str) and ending.startswith(".")):
            raise ValueError(f"file_ending is {ending!r}")
        named = content.get("overwrite_image_reader_writer")
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{dataset_json} is not nnU-Net's dataset.json: it needs 'file_ending' and 'labels' with background 0 "
            f"({error!r}); mend it, or give another: -djfile FILE"
        ) from error
    if not isinstance(plans, dict):
        raise InputError(f"{plans_json} is no JSON object; give nnU-Net's plans.json: -pfile FILE")
    for file, name in ((dataset_json, named), (plans_json, plans.get("image_reader_writer"))):
        if not isinstance(name, str | None):
            raise InputError(f"{file} has the reader {name!r}, which is no name; name one of nnU-Net's, or none")
    reader = plans.get("image_reader_writer") or (None if named in (None, "None") else named)
    if not classes:
        raise InputError(f"{dataset_json} has no label beside the background; give another: -djfile FILE")
    return Description(classes, ignore, ending, reader, plans.get("dataset_name"), plans.get("plans_name"))


def _classes(labels: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], int | None]:
    if _label(labels["background"]) != 0:
        raise ValueError(f"background is {labels['background']}")
    classes = {}
    for name, value in labels.items():
        values = tuple(_label(each) for each in (value if isinstance(value, list | tuple) else [value]))
        if name not in ("background", "ignore") and set(values) != {0}:
            classes[name] = values
    return classes, _label(labels["ignore"]) if "ignore" in labels else None


def _label(value: Any) -> int:
    """A label as a number, also where it is written as text."""
    number = int(value)
    if number != float(value) or not 0 <= number <= LARGEST_LABEL:
        raise ValueError(f"a label is {value}, and labels are whole numbers from 0 to {LARGEST_LABEL}")
    return number


def plans_digest(plans_json: Path, configuration: str) -> str | None:
    """Return the SHA-256 of a configuration of the plans, as canonical JSON, with what it inherits.

    None if the file or the configuration is not there.
    """
    try:
        configurations = json.loads(plans_json.read_text(encoding="utf-8"))["configurations"]
        entry: dict[str, Any] = {}
        names: list[str] = []
        name: str | None = configuration
        while name is not None and name not in names:
            names.append(name)
            entry = {**configurations[name], **entry}
            name = configurations[name].get("inherits_from")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    entry.pop("inherits_from", None)
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def find_reader(description: Description, examples: Iterable[Path]) -> str:
    """Return the name of nnU-Net's reader class: the one that is named, else the first that reads an example.

    That is the first example which any of them reads: one broken file does not decide for all others.

    Raises:
        InputError: If nnU-Net has none of this name, or none for this ending.
    """
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    if description.reader is not None:
        reader_class(description.reader)
        return description.reader
    fitting = [each for each in LIST_OF_IO_CLASSES if description.file_ending.lower() in each.supported_file_endings]
    if not fitting:
        raise InputError(f"nnU-Net has no reader for {description.file_ending!r}; correct file_ending in dataset.json")
    for example in examples if len(fitting) > 1 else ():
        for each in fitting:
            with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
                each().read_seg(str(example))
                return each.__name__
    return fitting[0].__name__  # what is wrong with the files is said when they are read


def reader_class(name: str) -> type[Any]:
    """Return nnU-Net's reader class of this name.

    Raises:
        InputError: If there is none.
    """
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    try:
        return recursive_find_reader_writer_by_name(name)
    except RuntimeError as error:
        raise InputError(f"nnU-Net has no reader {name!r}; correct it in plans.json or dataset.json") from error


@contextlib.contextmanager
def unreadable_told() -> Iterator[None]:
    """Tell of a file or folder that the system does not let us read; a context, or a decorator.

    Raises:
        InputError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        what = error.filename or "a file or folder"
        raise InputError(f"{what} cannot be read ({error.strerror}); allow it, or give another") from error
