"""Validation messages in plain words."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

_RULES = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "dict_type": "must be a table of names and values",
    "model_type": "must be a table of names and values",
    "model_attributes_type": "must be a table of names and values",
    "tuple_type": "must be a list",
    "too_short": "must have at least one entry",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)` if one of the known names is like this one, else nothing."""
    lower = {each.lower(): each for each in known}
    found = get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return f" (did you mean {lower[found[0]]}?)" if found else ""


def plain_message(error: Mapping[str, Any], models: Sequence[Any]) -> str:
    """Return what is wrong, from one of pydantic's errors.

    Args:
        error: Entry of `ValidationError.errors()`.
        models: Models whose fields an unknown one may have meant, the outermost first.
    """
    kind, got = error["type"], error["input"]
    if kind == "extra_forbidden":
        known = _fields(error["loc"], models)
        name = str(error["loc"][-1])
        return f"no such field{nearest(name, known)}; there are {', '.join(known)}"
    if kind == "missing":
        return _RULES[kind]
    if kind in _RULES:
        return _RULES[kind] if kind == "too_short" else f"{_RULES[kind]}, got {_short(got)}"
    context: dict[str, Any] = error.get("ctx") or {}
    if kind == "literal_error":
        return f"must be {context['expected'].replace(chr(39), '')}, got {_short(got)}"
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}, got {_short(got)}"
    return str(error["msg"])


def _fields(place: Sequence[Any], models: Sequence[Any]) -> list[str]:
    """The fields of the model in which the unknown one stands."""
    study, row, pretrain, budget, missing = models
    names = [each for each in place if isinstance(each, str)]
    inner = {("trainers", "pretrain"): pretrain, ("trainers",): row, ("budget",): budget, ("missing",): missing}
    model = inner.get(tuple(names[:-1]), study)
    return [field.alias or name for name, field in model.model_fields.items()]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
