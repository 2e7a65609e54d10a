"""A YAML file as Python values that know their lines, and mistakes as lines of text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError

try:
    import yaml
except ModuleNotFoundError as error:
    raise InputError('studies need pydantic and PyYAML: pip install "nnunet-attn[benchmark]"') from error

_SHOWN = 10
_MOST_VALUES = 10_000  # aliases of aliases could ask for any number
_REMEDY = "write one with: nnunet-attn study init"

Place = tuple[str | int, ...]
"""Keys and indices that lead to a value."""


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong.

    Args:
        place: Of the field.
        text: The value got, the rule and the remedy.
        line: From 1; None: that of the place.
    """

    place: Place
    text: str
    line: int | None = None


@dataclass(frozen=True)
class Document:
    """What a YAML file says.

    Args:
        file: Where it was read from.
        content: Its values.
        lines: Place -> line, from 1.
        mistakes: Keys that are there twice, or are no text.
    """

    file: Path
    content: Mapping[str, Any]
    lines: Mapping[Place, int]
    mistakes: tuple[Mistake, ...] = field(default=())

    def nearest_place(self, place: Place) -> Place:
        """Return the longest beginning of a place that the file has."""
        return next(
            place[:length] for length in range(len(place), -1, -1) if not length or place[:length] in self.lines
        )


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: `no` is text, `1e-4` a number, `010` text; `2024-01-01` is no date."""

    yaml_implicit_resolvers: Any = {}  # noqa: RUF012  (PyYAML's own name and kind)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+0123456789.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
# PyYAML's own reads 1e-4 as text
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


def read_document(file: Path) -> Document:
    """Read a YAML file.

    Raises:
        InputError: If it is missing, is not YAML or has no table of names and values; with the line.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; {_REMEDY} {file}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is not text in UTF-8 ({error.reason}, byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); {_REMEDY}") from error
    return parsed_document(text, file)


def parsed_document(text: str, file: Path) -> Document:
    """Return what a text in YAML says; raises as `read_document`.

    Args:
        text: The file's text.
        file: Its name, for messages.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise InputError(_syntax(error, text, file)) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1 if isinstance(error.position, int) else 1
        raise InputError(f"{file}, line {line}: a character that YAML does not allow; remove it") from error
    except RecursionError as error:
        raise InputError(f"{file} has values in values too deep to be a study; {_REMEDY}") from error
    if root is None:
        raise InputError(f"{file} is empty; fill it, or remove it and {_REMEDY} {file}")
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        raise InputError(f"{file}, line {line}: must be fields and values, such as 'datasets: [4]'; {_REMEDY}")
    walk = _Walk(file)
    content = walk.value(root, ())
    return Document(file, content, walk.lines, tuple(walk.mistakes))


def listed(document: Document, mistakes: Sequence[Mistake]) -> str:
    """Return mistakes in the order of the file, one a line, of more than ten the first ten."""
    found = sorted({(_line(document, each), _written(each.place), each.text) for each in mistakes})
    lines = [f"line {line}, {name}: {text}" if name else f"line {line}: {text}" for line, name, text in found]
    if len(lines) == 1:
        return f"{document.file}, {lines[0]}"
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n  ".join([f"{document.file} has {len(lines)} mistakes:", *lines[:_SHOWN], *more])


def _line(document: Document, mistake: Mistake) -> int:
    if mistake.line is not None:
        return mistake.line
    # what is missing has the line of what it is missing in
    return document.lines.get(document.nearest_place(mistake.place), 1)


def _written(place: Place) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def _syntax(error: yaml.MarkedYAMLError, text: str, file: Path) -> str:
    mark = error.problem_mark or error.context_mark
    line = 1 if mark is None else mark.line + 1
    lines = text.splitlines()
    shown = lines[line - 1] if line <= len(lines) else ""
    if "\t" in shown[: len(shown) - len(shown.lstrip())] or "'\\t'" in str(error.problem):
        return f"{file}, line {line}: a tab; YAML is indented by spaces"
    if "single document" in str(error.context):
        return f"{file}, line {line}: a second document begins; a study is one: remove the line ---"
    where = "" if error.context is None else f" {error.context}"
    return f"{file}, line {line}: not YAML: {error.problem}{where}; correct the line, or the one before it"


class _Walk:
    """From nodes to values."""

    def __init__(self, file: Path) -> None:
        self.lines: dict[Place, int] = {}
        self.mistakes: list[Mistake] = []
        self._file = file
        self._above: list[Any] = []
        self._count = 0
        self._loader = _Loader("")

    def value(self, node: Any, place: Place) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        self._count += 1
        if node in self._above:
            raise InputError(f"{self._file}, line {line}: an alias of what it stands in; write the values out")
        if self._count > _MOST_VALUES:
            raise InputError(f"{self._file}, line {line}: more than {_MOST_VALUES} values; a study has far fewer")
        self._above.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, place)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(each, (*place, index)) for index, each in enumerate(node.value)]
            return self._scalar(node, place)
        finally:
            self._above.pop()

    def _mapping(self, node: Any, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.mistakes.append(Mistake(place, "a field's name must be text", line))
                continue
            key = str(key_node.value)
            inner = (*place, key)
            if key in found:
                self.mistakes.append(Mistake(inner, f"is there twice, first in line {first[key]}; keep one", line))
                continue
            first[key] = line
            self.lines[inner] = line
            found[key] = self.value(value_node, inner)
        return found

    def _scalar(self, node: Any, place: Place) -> Any:
        try:
            return self._loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):  # what `!!int abc` and the like raise
            self.mistakes.append(Mistake(place, f"{node.value[:40]!r} cannot be read as {node.tag}; leave out the tag"))
            return node.value
