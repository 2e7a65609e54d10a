"""What nnU-Net's dataset.json and plans.json say about label files: classes, ignore label, ending, reader."""

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError


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
        named = content.get("overwrite_image_reader_writer")
        reader = plans.get("image_reader_writer") or (None if named in (None, "None") else named)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{dataset_json} is not nnU-Net's dataset.json: it needs 'file_ending' and 'labels' with background 0 "
            f"({error!r}); mend it, or give another: -djfile FILE"
        ) from error
    if not classes:
        raise InputError(f"{dataset_json} has no label beside the background; give another: -djfile FILE")
    return Description(classes, ignore, ending, reader, plans.get("dataset_name"), plans.get("plans_name"))


def _classes(labels: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], int | None]:
    if int(labels["background"]) != 0:
        raise ValueError(f"background is {labels['background']}")
    classes = {}
    for name, value in labels.items():
        values = tuple(int(each) for each in (value if isinstance(value, list | tuple) else [value]))
        if name not in ("background", "ignore") and set(values) != {0}:
            classes[name] = values
    return classes, int(labels["ignore"]) if "ignore" in labels else None


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


def find_reader(description: Description, example: Path) -> str:
    """Return the name of nnU-Net's reader class: the one that is named, else the first that reads `example`.

    Raises:
        InputError: If nnU-Net has none of this name, or none that reads the file.
    """
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    if description.reader is not None:
        reader_class(description.reader)
        return description.reader
    fitting = [each for each in LIST_OF_IO_CLASSES if description.file_ending.lower() in each.supported_file_endings]
    for each in fitting[:-1]:
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            each().read_seg(str(example))
            return each.__name__
    if not fitting:
        raise InputError(f"nnU-Net has no reader for {description.file_ending!r}; correct file_ending in dataset.json")
    return fitting[-1].__name__  # what is wrong with the file is said when it is read


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


def read_json(file: Path, remedy: str) -> Any:
    """Read a JSON object.

    Raises:
        InputError: If that is impossible, with the remedy.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; {remedy}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); {remedy}") from error
    return content
