"""The contract of a task metric: answers in, scores out.

A metric is registered under the entry point group `finesweep.metrics`, and every implementation
passes `backends.testing.MetricContract`. Each method raises BackendError for a failure that is not
a bug of the metric, and no other exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import BaseModel

from backends.waiting import Waiting


@dataclass(frozen=True)
class Answers:
    """Generated texts, and for each the acceptable texts (at least one) and the example's columns.

    Predictions and references have neither white space around them nor the stop sequence at their
    end. `prompts` are what the model was asked, as texts; see `references.prompt_text`.
    """

    predictions: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    rows: tuple[Mapping[str, Any], ...]
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scores:
    """The value of a metric over all answers, and its value for each one.

    `per_example` is None for a metric that has no value for a single answer, such as a corpus
    score. `further` holds more numbers of the same measurement, such as the F1 of each field. A key
    is the ending of the number's name, after the name of the metric. `note` is recorded once per
    sweep, such as the signature of an implementation. `usd` and `tokens` are what the measurement
    cost; `usd` is None if that is unknown.
    """

    value: float
    per_example: tuple[float, ...] | None = None
    further: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    usd: float | None = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class MetricDeclaration:
    """What a metric says about itself, as data.

    `low` and `high` are the ends of its range; None means unbounded. `is_mean`: if the metric
    returns a value for each example, its value is their mean, so that resampling the examples gives
    an interval. `is_free`: measuring costs no money, so that `sweep check` may try it.
    """

    direction: Literal["maximize", "minimize"]
    low: float | None = 0.0
    high: float | None = 1.0
    is_mean: bool = True
    is_free: bool = True


@runtime_checkable
class Metric(Protocol):
    """A task metric."""

    options_model: ClassVar[type[BaseModel]]
    """The pydantic model of its options in YAML. It forbids unknown keys."""

    @classmethod
    def prepare(cls, options: BaseModel, folder: Path) -> BaseModel:
        """Return the options complete in themselves: contents of files instead of their names.

        Relative names count from `folder`. Called before the sweep. Complete options stay as they
        are.
        """
        ...

    @classmethod
    def describe(cls, options: BaseModel) -> MetricDeclaration:
        """Return the declaration of the metric under these options. No side effect, no import."""
        ...

    @classmethod
    def open(cls, options: BaseModel, workspace: Path) -> Metric:
        """Return the metric, ready to score. It writes only below `workspace`, if at all."""
        ...

    def problems(self, answers: Answers) -> Sequence[str]:
        """Return why these references or lines cannot be scored, each as one sentence.

        The predictions do not matter. `sweep check` calls this with the validation examples.
        """
        ...

    def score(self, answers: Answers) -> Scores:
        """Score at least one answer. The same answers get the same scores; the cost may differ."""
        ...

    def close(self) -> None:
        """Release processes and connections. Idempotent."""
        ...


@dataclass(frozen=True)
class CostBound:
    """The most that a measurement can cost; None: unknown. `basis` explains the bound in words."""

    usd: float | None
    tokens: int | None
    basis: str


@runtime_checkable
class SupportsCostBound(Protocol):
    """A metric whose measurements cost money."""

    @classmethod
    def cost_bound(cls, options: BaseModel, answers: Answers, max_tokens: int) -> CostBound:
        """Return the most that one measurement of these examples can cost.

        The predictions do not matter: assume that each has `max_tokens` tokens, as the model that
        writes it counts them.
        No side effect, no network. Raises BackendError for an example that cannot be measured.
        """
        ...


@runtime_checkable
class SupportsMetricWaiting(Protocol):
    """A metric whose measurements may have to wait, as for a service that is down."""

    @classmethod
    def waiting(cls, options: BaseModel, workspace: Path) -> Waiting | None:
        """Return why a measurement of any process in this workspace waits now, or None.

        Sends no request and writes nothing.
        """
        ...
