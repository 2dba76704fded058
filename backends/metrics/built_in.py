"""What the built-in metrics have in common."""

from __future__ import annotations

import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, model_validator

from backends.metrics.contract import Answers, MetricDeclaration, Scores
from backends.metrics.failures import user_error


class MetricOptions(BaseModel):
    """Options of a built-in metric. Unknown keys are errors.

    In YAML, a value that is not a mapping sets the option named by `short_form`:
    `{regex: "#### (.*)"}` means `{regex: {pattern: "#### (.*)"}}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    short_form: ClassVar[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if cls.short_form is None or isinstance(value, Mapping | BaseModel):
            return value
        return {cls.short_form: value}


Options = TypeVar("Options", bound=MetricOptions)


class BuiltInMetric(ABC, Generic[Options]):
    """A metric that reads no files, uses no network, and accepts every reference.

    Subclasses override what differs. `libraries` maps the import name of each library that the
    metric needs to the command that installs it.
    """

    options_model: ClassVar[type[BaseModel]]
    declaration: ClassVar[MetricDeclaration] = MetricDeclaration("maximize")
    libraries: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: Options) -> None:
        self.options = options

    @classmethod
    def prepare(cls, options: BaseModel, folder: Path) -> BaseModel:
        """Return the options, which are complete already."""
        return options

    @classmethod
    def describe(cls, options: BaseModel) -> MetricDeclaration:
        """Return the declaration of the class."""
        return cls.declaration

    @classmethod
    def open(cls, options: BaseModel, workspace: Path) -> Self:
        """Return the metric. Raises BackendError (user) if a library is missing."""
        require(cls.libraries)
        return cls(cast(Options, options))

    def problems(self, answers: Answers) -> Sequence[str]:
        """Return no problem."""
        return ()

    @abstractmethod
    def score(self, answers: Answers) -> Scores:
        """Score the answers."""

    def close(self) -> None:
        """Release nothing."""


class MeanMetric(BuiltInMetric[Options]):
    """A metric whose value is the mean of the values of the examples.

    If an example has several references, the one with the best value counts.
    """

    @abstractmethod
    def value(self, prediction: str, reference: str) -> float:
        """Return the value of one prediction, compared with one reference."""

    def score(self, answers: Answers) -> Scores:
        """Score the answers."""
        best = max if self.describe(self.options).direction == "maximize" else min
        values = tuple(
            best(self.value(prediction, reference) for reference in references)
            for prediction, references in zip(answers.predictions, answers.references, strict=True)
        )
        return Scores(mean(values), values)


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return math.fsum(values) / len(values)


def require(libraries: Mapping[str, str]) -> None:
    """Raise BackendError (user) if a library is not installed. Imports none."""
    for library, command in libraries.items():
        if importlib.util.find_spec(library) is None:
            raise user_error(f"the library {library} is not installed", f"Run: {command}")
