"""Task metrics of a run: texts generated for some validation examples, and their scores."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from backends import codec
from backends.contract import (
    GENERATED_SAMPLE,
    BackendError,
    Charged,
    Decoding,
    Event,
    Generated,
    GeneratedText,
    Measured,
    TrainingRequest,
)
from backends.local import encoding, generation, metric_checks
from backends.local.example_template import ExampleTemplate
from backends.local.model import LoadedModel
from backends.metrics.measurement import MetricSet
from backends.metrics.references import reference_texts
from backends.metrics.requested_metric import resolve
from backends.metrics.sample import sampled_examples
from backends.model_packages.text_generation import GeneratedAnswer

GENERATED_FILE = "generated.jsonl"
"""The file beside a kept model with all texts that it generated, one `GeneratedText` a line."""

_MAX_SHOWN_CHARACTERS = 2000
"""Longer prompts, references and texts are cut in events, but not in `GENERATED_FILE`."""

_SEED = 0
"""Of a sampled text. It is the same at all evaluations of all trials, as the examples are."""


@dataclass(frozen=True)
class TaskMeasurement:
    """The task metrics of one state of the model, with the texts on which they were measured.

    `values` are by the names of evaluations (`valid_...`). `usd` is what measuring has cost: None
    if the price is unknown.
    """

    values: Mapping[str, float]
    texts: tuple[GeneratedText, ...]
    usd: float | None = 0.0

    def events(self, measured: Measured, *, is_paid: bool) -> list[Event]:
        """Return the events of an evaluation that found these values besides `measured`.

        The cost is among them if there is a metric that `is_paid`.
        """
        charged = [Charged(self.usd, 0)] if is_paid else []
        shown = Generated(
            measured.step,
            measured.epoch,
            tuple(_cut(text) for text in self.texts[:GENERATED_SAMPLE]),
            examples=len(self.texts),
            truncated=sum(text.truncated for text in self.texts),
        )
        return [*charged, shown, self.added_to(measured)]

    def added_to(self, measured: Measured) -> Measured:
        """Return the evaluation with the task metrics among its values."""
        return replace(measured, values={**measured.values, **self.values})

    def files(self) -> dict[str, str]:
        """Return the content of the files to keep beside the model, by name."""
        lines = (json.dumps(codec.to_json(text), ensure_ascii=False) for text in self.texts)
        return {GENERATED_FILE: "".join(f"{line}\n" for line in lines)}

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON values."""
        return {"values": dict(self.values), "texts": [codec.to_json(text) for text in self.texts]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the measurement that `to_json` wrote. It costs nothing to read it."""
        return cls(value["values"], tuple(codec.from_json(GeneratedText, text) for text in value["texts"]))


class TaskEvaluation:
    """Generates for the sample of examples, and measures the texts. Close it after use.

    The metrics open when they are first needed.
    """

    def __init__(self, request: TrainingRequest, model: LoadedModel, max_length: int, workspace: Path) -> None:
        """Read the examples. The metrics write only below `workspace`. Raises BackendError."""
        self.settings = metric_checks.generation_settings(request.evaluation)
        self._request, self._requests = request, request.evaluation.metrics
        self._model, self._max_length, self._workspace = model, max_length, workspace
        self._stop = request.dataset.stop
        lines = encoding.read_lines(request.dataset.valid.path)
        self._examples = sampled_examples(len(lines), self.settings.examples, request.dataset.valid.sha256)
        self._lines = [lines[n] for n in self._examples]
        self._template = ExampleTemplate(model.tokenizer, request.dataset.layout, request.dataset.stop)
        self._metrics: MetricSet | None = None
        self.is_paid = any(not resolve(metric).declaration.is_free for metric in self._requests)

    @property
    def examples(self) -> int:
        """For how many examples each evaluation generates."""
        return len(self._lines)

    def measure(self) -> TaskMeasurement:
        """Generate and measure with the current state of the model.

        Raises BackendError, also if the values lack the one by which to keep a state.
        """
        if self._metrics is None:
            self._metrics = MetricSet.open(self._requests, self._workspace)
        answers = self.generate(self.settings.decoding)
        measurement = self._metrics.measure([answer.text for answer in answers], self._lines, self._stop)
        values = {f"valid_{name}": value for name, value in measurement.values.items()}
        metric_checks.check_kept_metric(self._request, values)
        texts = tuple(
            GeneratedText(
                example,
                self._template.prompt(line),
                reference_texts(line, self._stop, self._requests[0].reference)[0],
                answer.text,
                answer.truncated,
                measurement.scores_of(n),
            )
            for n, (example, line, answer) in enumerate(zip(self._examples, self._lines, answers, strict=True))
        )
        return TaskMeasurement(values, texts, measurement.usd)

    def generate(self, decoding: Decoding, examples: int | None = None) -> list[GeneratedAnswer]:
        """Generate for the first `examples` of the sample, for all if it is None."""
        return generation.generate(
            self._model, self._template, self._lines[:examples], decoding, self._max_length, _SEED
        )

    def identity(self) -> dict[str, Any]:
        """Return everything on which a measurement depends besides the model and the data."""
        settings = asdict(self.settings)
        return {"generation": settings, "metrics": [codec.to_json(metric) for metric in self._requests]}

    def close(self) -> None:
        """Close the metrics. Idempotent. An error is ignored, because everything is measured."""
        if self._metrics is not None:
            with contextlib.suppress(BackendError):
                self._metrics.close()
            self._metrics = None


def _cut(text: GeneratedText) -> GeneratedText:
    parts: Sequence[str] = (text.prompt, text.reference, text.text)
    prompt, reference, generated = (
        part if len(part) <= _MAX_SHOWN_CHARACTERS else part[: _MAX_SHOWN_CHARACTERS - 1] + "…" for part in parts
    )
    return replace(text, prompt=prompt, reference=reference, text=generated)
