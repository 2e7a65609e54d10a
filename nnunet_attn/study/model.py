"""What a study.yaml says: data sets, trainers, folds, seeds. Each mistake is named with file, line and field."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from nnunet_attn.errors import InputError
from nnunet_attn.evaluation.results import METRICS
from nnunet_attn.evaluation.settings import KITS23_TOLERANCE_MM
from nnunet_attn.study.document import Document, Mistake, listed, read_document
from nnunet_attn.study.messages import nearest, plain_message
from nnunet_attn.study.trainers import Trainer, named_trainer

try:
    from pydantic import (
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Field,
        ValidationError,
        field_validator,
        model_validator,
    )
    from pydantic_core import PydanticCustomError
except ModuleNotFoundError as error:
    raise InputError('studies need pydantic and PyYAML: pip install "nnunet-attn[benchmark]"') from error

_NAME = re.compile(r"[^\W_][\w .+-]*")  # of a study or a row; it becomes part of file names
_PLANS_OR_CONFIGURATION = re.compile(r"(?!.*__)[A-Za-z0-9][A-Za-z0-9_.-]*")  # "__" parts the names of results folders


def _several(value: Any) -> Any:
    """One value stands for a list of one; a list becomes the tuple that is asked for."""
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple) else (value,)


def _fitting(pattern: re.Pattern[str], rule: str) -> Any:
    def check(value: Any) -> Any:
        if isinstance(value, str) and not pattern.fullmatch(value):
            raise PydanticCustomError("rule", "{rule}, got {value}", {"rule": rule, "value": repr(value)})
        return value

    return BeforeValidator(check)


def _dataset(value: Any) -> Any:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and re.fullmatch(r"Dataset\d{3}_.+|0*[1-9]\d{0,2}", text):
        return text
    rule = "must be a data set's number, 1 to 999, or its name, such as Dataset004_Hippocampus"
    raise PydanticCustomError("rule", "{rule}, got {value}", {"rule": rule, "value": repr(value)})


_WholeNumber = Annotated[int, Field(strict=True, ge=0)]
_Positive = Annotated[int, Field(strict=True, ge=1)]
_Yes = Annotated[bool, Field(strict=True)]
_Dataset = Annotated[str, BeforeValidator(_dataset)]
_Name = Annotated[
    str, _fitting(_NAME, "must begin with a letter or digit and have letters, digits, spaces, _ . + - only")
]
_PlansName = Annotated[
    str, _fitting(_PLANS_OR_CONFIGURATION, "must be a name of nnU-Net's, without spaces and without two _ in a row")
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Pretrain(_Frozen):
    """Learning from images without labels before the training, as `nnunet-attn pretrain` does.

    Args:
        task: "denoise", "inpaint" or "both".
        dataset: Number or name of the data set whose images are learned from; None: the one that is trained on.
        epochs: Epochs of the pre-training; None: as many as the trainer's name says, else 250.
    """

    task: Literal["denoise", "inpaint", "both"]
    dataset: _Dataset | None = None
    epochs: _Positive | None = None


class Budget(_Frozen):
    """How long every row is trained, unless its trainer's name says so itself.

    Args:
        epochs: Added to trainer names as `_<N>epochs`; None: nnU-Net's 1000.
        iterations: Iterations of an epoch, added as `_<N>its`; None: nnU-Net's 250.
    """

    epochs: _Positive | None = None
    iterations: _Positive | None = None


class Row(_Frozen):
    """One method of a study: a trainer with what is particular to it.

    Args:
        trainer: Its name, with suffixes such as `_bf16`.
        name: What it is called in tables; None: as the trainer.
        plans: Other plans than the study's.
        configuration: Another configuration than the study's.
        options: Arguments of the network, as in plans below `nnunet_attn.<network>`.
        pretrain: What it learns before; None: nothing.
        labels: Numbers of labelled cases; the folds that `nnunet-attn splits --labels` made take the place of the
            study's.
        ensemble: How folds predict the test set together: mean of "logits" or of "softmax" probabilities.
    """

    trainer: str
    name: _Name | None = None
    plans: _PlansName | None = None
    configuration: _PlansName | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    pretrain: Pretrain | None = None
    labels: Annotated[tuple[Annotated[int, Field(strict=True, ge=2)], ...], BeforeValidator(_several)] = ()
    ensemble: Literal["logits", "softmax"] = "logits"

    @property
    def title(self) -> str:
        """The name in tables, and of the reference."""
        return self.name or self.trainer

    @property
    def parsed(self) -> Trainer:
        """The trainer's name taken apart."""
        return named_trainer(self.trainer)

    @field_validator("pretrain", mode="before")
    @classmethod
    def _task_alone(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value

    @field_validator("trainer")
    @classmethod
    def _exists(cls, value: str) -> str:
        try:
            named_trainer(value)
        except InputError as error:
            raise PydanticCustomError("rule", "{text}", {"text": str(error)}) from error
        return value

    @field_validator("options")
    @classmethod
    def _as_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            rule = "must be what JSON can hold: text, finite numbers, true, false, null, lists and tables of them"
            raise PydanticCustomError("rule", "{rule}", {"rule": rule}) from error
        return value

    @field_validator("labels")
    @classmethod
    def _once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return _each_once(value)


class Study(_Frozen):
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
    Raises:
        pydantic.ValidationError: If a field is not what it may be, or fields contradict each other.
    """

    name: _Name
    datasets: Annotated[tuple[_Dataset, ...], BeforeValidator(_several), Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], BeforeValidator(_several), Field(alias="trainers", min_length=1)]
    plans: _PlansName = "nnUNetPlans"
    configurations: Annotated[tuple[_PlansName, ...], BeforeValidator(_several), Field(min_length=1)] = ("3d_fullres",)
    folds: Annotated[tuple[_WholeNumber, ...], BeforeValidator(_several), Field(min_length=1)] = (0, 1, 2, 3, 4)
    seeds: Annotated[tuple[_WholeNumber, ...], BeforeValidator(_several)] = ()
    test_set: _Yes = False
    metrics: Annotated[tuple[str, ...] | None, BeforeValidator(lambda v: v if v is None else _several(v))] = None
    tolerance: float | dict[str, float] = 1.0
    surface: Literal["area", "erosion"] = "area"
    reference: str = ""
    budget: Budget | None = None
    device: Literal["cpu", "cuda", "mps"] | None = None
    cases: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()

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
        return _each_once(value)

    @field_validator("datasets")
    @classmethod
    def _one_number_each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _each_once(tuple(int(text[7:10] if text.startswith("Dataset") else text) for text in value))
        return value

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            if name not in METRICS:
                rule = f"has no metric {name!r}{nearest(name, METRICS)}; there are {', '.join(METRICS)}"
                raise PydanticCustomError("rule", "{rule}", {"rule": rule})
        return value if value is None else _each_once(value)

    @field_validator("tolerance", mode="before")
    @classmethod
    def _millimetres(cls, value: Any) -> Any:
        if isinstance(value, str) and value.lower() == "kits23":
            return dict(KITS23_TOLERANCE_MM)
        numbers = list(value.values()) if isinstance(value, dict) else [value]
        if numbers and all(_is_length(each) for each in numbers):
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
                found = [Mistake(tuple(each["loc"]), plain_message(each, (Study, Row, Pretrain, Budget)))]
            if each["type"] != "missing":
                # a value that stands for a list or a table of one has no place below its own
                found = [Mistake(document.nearest_place(mistake.place), mistake.text) for mistake in found]
            mistakes += found
    if mistakes or study is None:
        raise InputError(listed(document, mistakes))
    return study


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise PydanticCustomError("rule", "has {value} twice; give it once", {"value": value})
    return values


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


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
