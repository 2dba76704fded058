"""Baselines as values: cheap ways to answer, and what each scores on validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BaselineKind = Literal["most-frequent", "tfidf", "tfidf-field", "nearest", "copy"]
"""Stored in plans and printed as JSON: an existing name must not change."""

LABEL_METRICS = ("accuracy", "macro_f1")
"""What the baselines of a classification measure, by the names of the sweep's own metrics."""


@dataclass(frozen=True)
class MetricRange:
    """The ends of a metric's range; None where an end is unknown."""

    worst: float | None = 0.0
    best: float | None = 1.0

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value is the better one."""
        return self.worst is not None and self.best is not None and self.best < self.worst

    def share(self, value: float) -> float | None:
        """Return where a value lies between the worst, 0, and the best, 1; None if unknown."""
        if self.worst is None or self.best is None or self.worst == self.best:
            return None
        return (value - self.worst) / (self.best - self.worst)


@dataclass(frozen=True)
class Baseline:
    """One cheap way to answer, and its values: by part (`valid`, `test`), then by metric.

    `field` is the column that it sees; None means the whole prompt. `answer` is the one answer of
    `most-frequent`.
    """

    kind: BaselineKind
    values: Mapping[str, Mapping[str, float]]
    field: str | None = None
    answer: str | None = None

    @property
    def name(self) -> str:
        """The name of the baseline in words."""
        match self.kind:
            case "most-frequent":
                return "most frequent answer"
            case "tfidf":
                return "TF-IDF + logistic regression"
            case "tfidf-field":
                return f"TF-IDF on {{{self.field}}} alone"
            case "nearest":
                return "nearest training example"
            case "copy":
                return "copy of the prompt"

    @property
    def key(self) -> str:
        """A short name for metrics and JSON, such as `tfidf` or `tfidf.hypothesis`."""
        return f"tfidf.{self.field}" if self.kind == "tfidf-field" else self.kind.replace("-", "_")

    def value(self, part: str, metric: str) -> float | None:
        """Return the value of a metric on a part; None if it was not measured."""
        return self.values.get(part, {}).get(metric)


@dataclass(frozen=True)
class Baselines:
    """All baselines of a data set.

    `examples` has the number of examples by part: of `train` those learned from, of the others
    measured. `of` has the sizes of the parts, from which larger ones were sampled. `ranges`
    holds the range of each metric. `balanced` has, by part, the size of a set with equally frequent
    labels whose macro-F1 has the same standard error.
    """

    models: tuple[Baseline, ...]
    examples: Mapping[str, int]
    of: Mapping[str, int]
    ranges: Mapping[str, MetricRange] = field(default_factory=dict)
    balanced: Mapping[str, int] = field(default_factory=dict)

    def model(self, kind: BaselineKind) -> Baseline | None:
        """Return the baseline of a kind; None if there is none."""
        return next((model for model in self.models if model.kind == kind), None)

    def strongest(self, part: str, metric: str) -> Baseline | None:
        """Return the baseline with the best value, the simpler one on a tie; None without any."""
        measured = [model for model in self.models if model.value(part, metric) is not None]
        sign = -1 if self.ranges.get(metric, MetricRange()).lower_is_better else 1
        return max(measured, key=lambda model: sign * (model.value(part, metric) or 0.0), default=None)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics, in their order."""
        return tuple(dict.fromkeys(name for model in self.models for part in model.values.values() for name in part))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that were measured, in their order."""
        return tuple(dict.fromkeys(part for model in self.models for part in model.values))

    @property
    def sample_note(self) -> str:
        """Say which parts were sampled; empty if none was."""
        sampled = [part for part, count in self.examples.items() if count < self.of.get(part, count)]
        texts = [f"{self.examples[part]:,} of {self.of[part]:,} {_WORDS[part]}" for part in sampled]
        return f"measured on a sample: {', '.join(texts)} examples" if texts else ""


_WORDS = {"train": "training", "valid": "validation", "test": "test"}
