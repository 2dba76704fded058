"""A requested metric: its class, its options and what it declares."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from backends import codec
from backends.contract import BackendError, Failure, MetricRequest
from backends.guarded_backend import translated_errors
from backends.metrics import registry
from backends.metrics.contract import Answers, Metric, MetricDeclaration
from backends.metrics.failures import errors_named, user_error
from backends.metrics.references import compared_text, prompt_text, reference_texts


@dataclass(frozen=True)
class RequestedMetric:
    """A request, and the class and options that it names. Each error names the metric."""

    request: MetricRequest
    metric_class: type[Metric]
    options: BaseModel
    declaration: MetricDeclaration

    @contextlib.contextmanager
    def errors_of(self, action: str) -> Iterator[None]:
        """Translate each exception of the metric's method `action` into BackendError."""
        with errors_named(self.request.name), translated_errors(self.metric_class, action, "metric"):
            yield

    def answers(self, predictions: Sequence[str], lines: Sequence[Mapping[str, Any]], stop: str) -> Answers:
        """Return what the metric compares, for lines of a prepared data file.

        Raises BackendError (user) for the first line without a text to compare with.
        """
        if without := self.lines_without_reference(lines, stop):
            number, failure = without[0]
            with errors_named(self.request.name):
                raise user_error(f"example {number} {failure.message}", failure.detail)
        return Answers(
            tuple(compared_text(prediction, stop) for prediction in predictions),
            tuple(reference_texts(line, stop, self.request.reference) for line in lines),
            tuple(line.get("row", {}) for line in lines),
            tuple(prompt_text(line) for line in lines),
        )

    def lines_without_reference(self, lines: Sequence[Mapping[str, Any]], stop: str) -> list[tuple[int, Failure]]:
        """Return the numbers, from 1, of the lines without a text to compare with, and why."""
        without = []
        for number, line in enumerate(lines, start=1):
            try:
                reference_texts(line, stop, self.request.reference)
            except BackendError as error:
                without.append((number, error.failure))
        return without


def resolve(request: MetricRequest) -> RequestedMetric:
    """Find the class, read the options and ask for the declaration.

    Raises BackendError, which names the metric, of the kind USER for an unknown metric or a wrong
    option.
    """
    with errors_named(request.name):
        return _resolved(request)


def failures(requests: Sequence[MetricRequest]) -> list[Failure]:
    """Return why metrics cannot be resolved. Each message names its metric."""
    found = []
    for request in requests:
        try:
            resolve(request)
        except BackendError as error:
            found.append(error.failure)
    return found


def are_paid(requests: Sequence[MetricRequest]) -> bool:
    """Whether measuring costs money with one of the metrics. Raises BackendError."""
    return any(not resolve(request).declaration.is_free for request in requests)


def identity(request: MetricRequest) -> dict[str, Any]:
    """Return what distinguishes the metric of a prepared request from others, as JSON values.

    Options of the type `Path` only say where something was found, so they are absent. The contents
    of the files are options, too, see `Metric.prepare`. Raises BackendError.
    """
    options = resolve(request).options
    places = {name for name, value in options if isinstance(value, Path)}
    written = {name: value for name, value in codec.to_json(options).items() if name not in places}
    return {**codec.to_json(request), "options": written}


def prepared(request: MetricRequest, folder: Path) -> MetricRequest:
    """Return the request with options that are complete in themselves, see `Metric.prepare`.

    Relative names of files count from `folder`. Raises BackendError.
    """
    requested = resolve(request)
    with requested.errors_of("prepare"):
        options = requested.metric_class.prepare(requested.options, folder)
    return dataclasses.replace(request, options=codec.to_json(options))


def _resolved(request: MetricRequest) -> RequestedMetric:
    try:
        metric_class = registry.load(request.type)
    except registry.RegistryError as error:
        raise user_error(error.message, error.hint) from error
    try:
        options = metric_class.options_model.model_validate(request.options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise user_error(f"its option {place or 'value'!r} is wrong: {first['msg']}") from error
    with translated_errors(metric_class, "describe", "metric"):
        declaration = metric_class.describe(options)
    return RequestedMetric(request, metric_class, options, declaration)
