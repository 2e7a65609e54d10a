"""What a study.yaml says: data sets, trainers, folds, seeds. Each mistake is named with file, line and field."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.results import METRICS
from nnunet_attn.evaluation.settings import KITS23_TOLERANCE_MM
from nnunet_attn.study.document import Document, Mistake, listed, read_document
from nnunet_attn.study.messages import nearest, plain_message
from nnunet_attn.study.rows import (
    Budget,
    DatasetName,
    Frozen,
    Missing,
    Name,
    PlansName,
    Pretrain,
    Row,
    WholeNumber,
    Yes,
    each_once,
    is_length,
    several,
)

# behind the module above, which says what to install where pydantic is missing
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator  # isort: skip
from pydantic_core import PydanticCustomError  # isort: skip

__all__ = ["Budget", "Missing", "Pretrain", "Row", "Study", "read_study", "study_of"]


class Study(Frozen):
    """Which trainers are compared on which data, and how.

    Args:
        name: Of the study.
        datasets: Numbers or names of data sets.
        rows: The methods; `trainers` in the file.
        plans: Of rows that name no others.
        configurations: Of rows that name no other.
        folds: Of rows without `labels`.
        seeds: One training each; empty: one training without a seed.
        test_set: Whether the cases in `imagesTs` are predicted too.
        metrics: As `nnunet-attn evaluate --metrics`; None: all.
        tolerance: Of NSD in mm, for all classes or by class, as `nnunet-attn evaluate --tolerance`.
        surface: As `nnunet-attn evaluate --surface`.
        reference: Title of the row that the others are compared with; the first by default.
        budget: How long each row is trained; None: as its trainer's name says.
        device: What trains and predicts; None: CUDA where there is one, else the CPU.
        cases: Cases that figures show in any case.
        missing: Methods that belong to the comparison, and that this package does not have.
    Raises:
        pydantic.ValidationError: If a field is not what it may be, or fields contradict each other.
    """

    name: Name
    datasets: Annotated[tuple[DatasetName, ...], BeforeValidator(several), Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], BeforeValidator(several), Field(alias="trainers", min_length=1)]
    plans: PlansName = "nnUNetPlans"
    configurations: Annotated[tuple[PlansName, ...], BeforeValidator(several), Field(min_length=1)] = ("3d_fullres",)
    folds: Annotated[tuple[WholeNumber, ...], BeforeValidator(several), Field(min_length=1)] = (0, 1, 2, 3, 4)
    seeds: Annotated[tuple[WholeNumber, ...], BeforeValidator(several)] = ()
    test_set: Yes = False
    metrics: Annotated[tuple[str, ...] | None, BeforeValidator(lambda v: v if v is None else several(v))] = None
    tolerance: float | dict[str, float] = 1.0
    surface: Literal["area", "erosion"] = "area"
    reference: str = ""
    budget: Budget | None = None
    device: Literal["cpu", "cuda", "mps"] | None = None
    cases: Annotated[tuple[str, ...], BeforeValidator(several)] = ()
    missing: Annotated[tuple[Missing, ...], BeforeValidator(several)] = ()

    def plans_of(self, row: Row) -> str:
        """Return the plans that a row starts from."""
        return row.plans or self.plans

    def configurations_of(self, row: Row) -> tuple[str, ...]:
        """Return the configurations of a row."""
        return (row.configuration,) if row.configuration else self.configurations

    def row_named(self, title: str) -> Row:
        """Return the row of this title.

        Raises:
            KeyError: If there is none.
        """
        for row in self.rows:
            if row.title == title:
                return row
        raise KeyError(title)

    @model_validator(mode="before")
    @classmethod
    def _trainers_alone(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        key = "trainers" if "trainers" in content else "rows"
        rows = content.get(key)
        if not isinstance(rows, list | tuple | str):
            return content
        given = [rows] if isinstance(rows, str) else rows
        return {**content, key: tuple({"trainer": row} if isinstance(row, str) else row for row in given)}

    @field_validator("folds", "seeds", "configurations", "cases")
    @classmethod
    def _once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return each_once(value)

    @field_validator("datasets")
    @classmethod
    def _one_number_each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        each_once(tuple(int(text[7:10] if text.startswith("Dataset") else text) for text in value))
        return value

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            if name not in METRICS:
                rule = f"has no metric {name!r}{nearest(name, METRICS)}; there are {', '.join(METRICS)}"
                raise PydanticCustomError("rule", "{rule}", {"rule": rule})
        return value if value is None else each_once(value)

    @field_validator("tolerance", mode="before")
    @classmethod
    def _millimetres(cls, value: Any) -> Any:
        if isinstance(value, str) and value.lower() == "kits23":
            return dict(KITS23_TOLERANCE_MM)
        numbers = list(value.values()) if isinstance(value, dict) else [value]
        if numbers and all(is_length(each) for each in numbers):
            return value
        rule = "must be a number of mm, 0 or larger, such numbers by class, or kits23"
        raise PydanticCustomError("rule", "{rule}, got {value}", {"rule": rule, "value": repr(value)})

    @model_validator(mode="after")
    def _as_a_whole(self) -> "Study":
        if not self.reference:
            object.__setattr__(self, "reference", self.rows[0].title)  # frozen for others
        mistakes = list(_contradictions(self))
        if mistakes:
            text = "; ".join(f"{'.'.join(map(str, each.place))}: {each.text}" for each in mistakes)
            raise PydanticCustomError("study", "{text}", {"text": text, "mistakes": mistakes})
        return self


def read_study(file: Path) -> Study:
    """Read a study.yaml.

    The study's name is the file's, where the file gives none.

    Raises:
        InputError: If it cannot be read, is not YAML, or says what it may not: with file, line and field of each
            mistake, of more than ten the first ten.
    """
    return study_of(read_document(file))


def study_of(document: Document) -> Study:
    """Return the study that a document describes; raises as `read_study`."""
    content, mistakes = dict(document.content), list(document.mistakes)
    if "rows" in content:  # the model's own name for them
        mistakes.append(Mistake(("rows",), "no such field (did you mean trainers?)"))
        del content["rows"]
    if "name" not in content:
        stem = re.sub(r"[^\w .+-]", "-", document.file.stem).lstrip("_ .+-")
        content["name"] = stem or "study"
    study = None
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            context: dict[str, Any] = each.get("ctx") or {}
            found = context.get("mistakes")
            if found is None:
                found = [Mistake(tuple(each["loc"]), plain_message(each, (Study, Row, Pretrain, Budget, Missing)))]
                found = [_known_missing(content, mistake) for mistake in found]
            if each["type"] != "missing":
                # a value that stands for a list or a table of one has no place below its own
                found = [Mistake(document.nearest_place(mistake.place), mistake.text) for mistake in found]
            mistakes += found
    if mistakes or study is None:
        raise InputError(listed(document, mistakes))
    return study


def _known_missing(content: Mapping[str, Any], mistake: Mistake) -> Mistake:
    """A mistake as it is, unless it is about a trainer that the file lists as missing: then with its reason."""
    rows = several(content.get("trainers", ()))
    match mistake.place:
        case ("trainers", int(index), *_) if index < len(rows):
            name = rows[index].get("trainer") if isinstance(rows[index], dict) else rows[index]
        case _:
            return mistake
    for each in several(content.get("missing", ())):
        what = each.get("what") if isinstance(each, dict) else None
        if isinstance(name, str) and isinstance(what, str) and (name == what or name.startswith(f"{what}_")):
            text = f"{name} cannot be trained: the file lists {what} as missing ({each.get('why')})"
            return Mistake(mistake.place, text)
    return mistake


def _contradictions(study: Study) -> Iterator[Mistake]:
    """What single fields cannot tell; places are those of the file."""
    titles = [row.title for row in study.rows]
    if study.reference not in titles:
        text = f"no row is called {study.reference!r}{nearest(study.reference, titles)}; there are {', '.join(titles)}"
        yield Mistake(("reference",), text)
    seen: dict[tuple[Any, ...], int] = {}
    for index, row in enumerate(study.rows):
        place = ("trainers", index)
        if row.title in titles[:index]:
            first = titles.index(row.title)
            yield Mistake(place, f"trainers[{first}] is called {row.title!r} too; give each row a name of its own")
        yield from (Mistake((*place, *part), text) for part, text in _contradictions_of(study, row))
        labels: tuple[int | None, ...] = row.labels or (None,)
        for key in ((*_trained(study, row), c, n) for c in study.configurations_of(row) for n in labels):
            first = seen.setdefault(key, index)
            if first != index and row.title not in titles[:index]:
                yield Mistake(place, f"is the same training as trainers[{first}]; leave one out, or change it")
                break


def _contradictions_of(study: Study, row: Row) -> Iterator[tuple[tuple[str, ...], str]]:
    trainer = row.parsed
    if trainer.network is None:
        package = "a trainer of this package; nnUNetTrainerPlain trains the network of the plans"
        if study.seeds:
            yield ("trainer",), f"{row.trainer} cannot be given seeds: it is not {package}"
        if study.budget is not None:
            yield ("trainer",), f"{row.trainer} cannot be given a budget: it is not {package}"
        for field in ("options", "pretrain"):
            if getattr(row, field):
                yield (field,), f"{row.trainer} takes none: it is not {package}"
        return
    if study.seeds and "seed" in trainer.attributes:
        yield ("trainer",), f"{row.trainer} has a seed already; leave it out there, or leave out seeds"
    if row.options and trainer.network.class_path is None and not trainer.network.trainer_options:
        yield ("options",), f"{row.trainer} trains the network of the plans, which has no options; change the plans"
    if "ensemble" in row.model_fields_set and not study.test_set:
        yield ("ensemble",), "is about the test set, which this study leaves out; add test_set: true, or leave it out"


def _trained(study: Study, row: Row) -> tuple[Any, ...]:
    """What decides a training but configuration and labels; how the test set is predicted is part of it."""
    trainer = row.parsed
    return (
        trainer.base,
        tuple(sorted((key, repr(value)) for key, value in trainer.attributes.items())),
        study.plans_of(row),
        json.dumps(row.options, sort_keys=True, default=repr),
        row.pretrain,
        row.ensemble,
    )
