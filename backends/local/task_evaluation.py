"""Task metrics of a run: texts generated for some validation examples, and their scores."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backends.contract import BackendError, Decoding, GeneratedText, TrainingRequest
from backends.local import encoding, generation
from backends.local.example_template import ExampleTemplate
from backends.local.model import LoadedModel
from backends.metrics.kept_metric import missing_kept_metric
from backends.metrics.measurement import MetricSet
from backends.metrics.references import reference_texts
from backends.metrics.requested_metric import are_paid, identity
from backends.metrics.sample import sampled_examples
from backends.metrics.task_measurement import TaskMeasurement
from backends.model_packages.text_generation import GeneratedAnswer

_SEED = 0
"""Of a sampled text. It is the same at all evaluations of all trials, as the examples are."""


class TaskEvaluation:
    """Generates for the sample of examples, and measures the texts. Close it after use.

    The metrics open when they are first needed.
    """

    def __init__(self, request: TrainingRequest, model: LoadedModel, max_length: int, workspace: Path) -> None:
        """Read the examples. The metrics write only below `workspace`. Raises BackendError."""
        self.settings = request.evaluation.generation_in_use
        self._request, self._requests = request, request.evaluation.metrics
        self._model, self._max_length, self._workspace = model, max_length, workspace
        self._stop = request.dataset.stop
        lines = encoding.read_lines(request.dataset.valid.path)
        self._examples = sampled_examples(len(lines), self.settings.examples, request.dataset.valid.sha256)
        self._lines = [lines[n] for n in self._examples]
        self._template = ExampleTemplate(model.tokenizer, request.dataset.layout, request.dataset.stop)
        self._metrics: MetricSet | None = None
        self.is_paid = are_paid(self._requests)

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
        values = measurement.evaluation_values
        if (missing := missing_kept_metric(self._request.evaluation, values)) is not None:
            raise BackendError(missing)
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
        return {"generation": settings, "metrics": [identity(metric) for metric in self._requests]}

    def close(self) -> None:
        """Close the metrics. Idempotent. An error is ignored, because everything is measured."""
        if self._metrics is not None:
            with contextlib.suppress(BackendError):
                self._metrics.close()
            self._metrics = None
