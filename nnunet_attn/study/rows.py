"""The parts of a study.yaml: rows, their pre-training, the budget, what is missing; and the types of their fields."""

import json
import math
import re
from typing import Annotated, Any, Literal

from nnunet_attn.errors import InputError
from nnunet_attn.study.trainers import Trainer, named_trainer

try:
    from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
    from pydantic_core import PydanticCustomError
except ModuleNotFoundError as error:
    raise InputError('studies need pydantic and PyYAML: pip install "nnunet-attn[benchmark]"') from error

_NAME = re.compile(r"[^\W_][\w .+-]*")  # of a study or a row; it becomes part of file names
_WIDEST = 4  # times as many features as planned
_PLANS_OR_CONFIGURATION = re.compile(r"(?!.*__)[A-Za-z0-9][A-Za-z0-9_.-]*")  # "__" parts the names of results folders


def several(value: Any) -> Any:
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


def _width(value: Any) -> Any:
    if value is None or (is_length(value) and 0 < value <= _WIDEST):
        return value
    rule = "must be a number above 0 and at most {most}, got {value}"
    raise PydanticCustomError("rule", rule, {"most": _WIDEST, "value": repr(value)})


WholeNumber = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[int, Field(strict=True, ge=1)]
Yes = Annotated[bool, Field(strict=True)]
DatasetName = Annotated[str, BeforeValidator(_dataset)]
Name = Annotated[
    str, _fitting(_NAME, "must begin with a letter or digit and have letters, digits, spaces, _ . + - only")
]
PlansName = Annotated[
    str, _fitting(_PLANS_OR_CONFIGURATION, "must be a name of nnU-Net's, without spaces and without two _ in a row")
]


class Frozen(BaseModel):
    """Cannot be changed, and takes no field that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Pretrain(Frozen):
    """Learning from images without labels before the training, as `nnunet-attn pretrain` does.

    Args:
        task: "denoise", "inpaint" or "both".
        dataset: Number or name of the data set whose images are learned from; None: the one that is trained on.
        epochs: Epochs of the pre-training; None: as many as the trainer's name says, else 250.
    """

    task: Literal["denoise", "inpaint", "both"]
    dataset: DatasetName | None = None
    epochs: Positive | None = None


class Budget(Frozen):
    """How much every row is trained: the same for all, so that a small comparison stays a fair one.

    Trainers whose names say epochs, iterations or saves themselves keep them.

    Args:
        epochs: Added to trainer names as `_<N>epochs`; None: nnU-Net's 1000.
        iterations: Iterations of an epoch, added as `_<N>its`; None: nnU-Net's 250.
        save: Epochs between two checkpoints to resume from, added as `_save<N>`; None: 50, or a twentieth of all.
        width: Factor on the features of the plans' U-Net, to multiples of 8; None: as planned.
        batch_size: In place of the planned one; None: as planned.
    """

    epochs: Positive | None = None
    iterations: Positive | None = None
    save: Positive | None = None
    width: Annotated[float, BeforeValidator(_width)] | None = None
    batch_size: Positive | None = None

    @property
    def changes_plans(self) -> bool:
        """Whether every row trains with plans of its own."""
        return self.width is not None or self.batch_size is not None


class Missing(Frozen):
    """A method that belongs to a comparison, and that this package does not have.

    Args:
        what: Its name, such as that of a trainer that does not exist.
        why: What is missing, and what that means for the comparison.
    """

    what: Annotated[str, Field(min_length=1)]
    why: Annotated[str, Field(min_length=1)]


class Row(Frozen):
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
    name: Name | None = None
    plans: PlansName | None = None
    configuration: PlansName | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    pretrain: Pretrain | None = None
    labels: Annotated[tuple[Annotated[int, Field(strict=True, ge=2)], ...], BeforeValidator(several)] = ()
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
        return each_once(value)


def each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return values as they are.

    Raises:
        PydanticCustomError: If one is there twice.
    """
    for index, value in enumerate(values):
        if value in values[:index]:
            raise PydanticCustomError("rule", "has {value} twice; give it once", {"value": value})
    return values


def is_length(value: Any) -> bool:
    """Whether this is a finite number of 0 or more."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
